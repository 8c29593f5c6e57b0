//! Events through the Dapr sidecar: the only file that names the Dapr SDK.
//!
//! It uses the generated gRPC client of the SDK, because the wrapper hides the status and cannot
//! send `traceparent`. The connection is opened at the first publish and again after it broke: a
//! sidecar may start after its application. Nothing here retries; the relay does.

use std::{collections::HashMap, time::Duration};

use anyhow::Context;
use contract::{Change, CollectionName, event, sidecar};
use dapr::dapr::proto::runtime::v1::{PublishEventRequest, dapr_client::DaprClient};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::transport::{cloudevent::EventEncoder, original::OriginalEvent};

/// Time limit of one publish, including what the sidecar and the broker do for it.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Publishes events through a Dapr sidecar.
#[derive(Debug)]
pub struct DaprTransport {
    client: DaprClient<InterceptedService<Channel, ApiToken>>,
    /// Where the sidecar listens, for messages.
    endpoint: String,
    encoder: EventEncoder,
}

impl DaprTransport {
    /// The sidecar whose gRPC API listens at `endpoint`, for example `http://127.0.0.1:50001`. It
    /// may start later. `api_token` is sent as `dapr-api-token` with every call.
    ///
    /// # Errors
    /// When the endpoint is no URL, or the token cannot be sent in a header.
    pub fn new(
        endpoint: String,
        api_token: Option<&str>,
        encoder: EventEncoder,
    ) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(endpoint.clone())
            .context("the gRPC endpoint of the sidecar")?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(PUBLISH_TIMEOUT)
            .tcp_nodelay(true)
            .connect_lazy();
        let token = api_token
            .map(str::parse)
            .transpose()
            .context("DAPR_API_TOKEN is not visible ASCII")?;
        Ok(Self {
            client: DaprClient::with_interceptor(channel, ApiToken(token)),
            endpoint,
            encoder,
        })
    }

    pub(super) async fn publish(&self, change: &Change) -> anyhow::Result<()> {
        let mut request = self.request(&change.collection, self.encoder.for_sidecar(change)?);
        // The sidecar would put the trace into the envelope of an id-only event.
        let traceparent = change
            .context
            .traceparent()
            .filter(|_trace| !self.encoder.is_id_only(&change.collection));
        if let Some(traceparent) = traceparent {
            request
                .metadata_mut()
                .insert(event::TRACEPARENT, traceparent.parse()?);
        }
        self.send(request).await
    }

    /// See [`super::Transport::send_original`].
    pub(super) async fn send_original(&self, original: &OriginalEvent) -> anyhow::Result<()> {
        let request = self.request(&original.collection, original.for_sidecar()?);
        self.send(request).await
    }

    fn request(&self, topic: &CollectionName, data: Vec<u8>) -> Request<PublishEventRequest> {
        Request::new(PublishEventRequest {
            pubsub_name: self.encoder.pub_sub_name.clone(),
            topic: topic.to_string(),
            data,
            data_content_type: event::MEDIA_TYPE.to_owned(),
            // Only as request metadata does the TTL become `expiration` (requirement F9).
            metadata: HashMap::from([(
                event::TTL.to_owned(),
                self.encoder.ttl_seconds.to_string(),
            )]),
        })
    }

    async fn send(&self, request: Request<PublishEventRequest>) -> anyhow::Result<()> {
        // The client takes `&mut self`; a clone shares its connection.
        let mut client = self.client.clone();
        // The timeout of the channel does not cover the time to connect.
        let answer = tokio::time::timeout(PUBLISH_TIMEOUT, client.publish_event(request)).await;
        let endpoint = &self.endpoint;
        answer
            .with_context(|| {
                format!("the sidecar at {endpoint} did not answer within {PUBLISH_TIMEOUT:?}")
            })?
            .map(drop)
            .map_err(|status| {
                let what = failure(status.code());
                anyhow::Error::new(status).context(format!("the sidecar at {endpoint} {what}"))
            })
    }
}

/// What the code of a failed publish says, and what to look at.
fn failure(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated => {
            "refused the token: DAPR_API_TOKEN must be the same for sidecar and publisher"
        }
        Code::Unavailable => "cannot be reached or stops",
        Code::DeadlineExceeded | Code::Cancelled => "did not answer in time",
        Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition => {
            "refused the event: AURA_CONFIGURATION_PUBSUB_NAME must name a pub/sub component of it"
        }
        _ => "could not publish the event",
    }
}

/// Adds `dapr-api-token` to every call.
#[derive(Clone)]
struct ApiToken(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "ApiToken(secret)"
        } else {
            "ApiToken(none)"
        })
    }
}

impl Interceptor for ApiToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert(sidecar::TOKEN_HEADER, token.clone());
        }
        Ok(request)
    }
}
