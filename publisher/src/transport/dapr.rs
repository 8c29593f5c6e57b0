//! Events through the Dapr sidecar: the only file that names the Dapr SDK.
//!
//! It uses the SDK's generated client, because the wrapper hides the status and cannot send
//! `traceparent`. The connection is made when it is first needed and again whenever it broke: a
//! sidecar may start after its application.

use std::{collections::HashMap, time::Duration};

use anyhow::Context;
use contract::{Change, event};
use dapr::dapr::proto::runtime::v1::{PublishEventRequest, dapr_client::DaprClient};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::transport::{cloudevent as envelope, cloudevent::Envelopes};

/// One publish, with everything the sidecar and the broker need for it.
const PUBLISH: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(1);

/// A sidecar.
#[derive(Debug)]
pub struct Dapr {
    client: DaprClient<InterceptedService<Channel, ApiToken>>,
    envelopes: Envelopes,
}

impl Dapr {
    /// The sidecar whose gRPC API listens at `endpoint`, for example `http://127.0.0.1:50001`. It need not be there yet.
    ///
    /// # Errors
    /// When the endpoint or the token cannot be used at all.
    pub fn new(
        endpoint: String,
        api_token: Option<&str>,
        envelopes: Envelopes,
    ) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(endpoint).context("the address of the sidecar")?;
        let channel = endpoint
            .connect_timeout(CONNECT)
            .timeout(PUBLISH)
            .tcp_nodelay(true)
            .connect_lazy();
        let token = api_token
            .map(str::parse)
            .transpose()
            .context("DAPR_API_TOKEN is not visible ASCII")?;
        Ok(Self {
            client: DaprClient::with_interceptor(channel, ApiToken(token)),
            envelopes,
        })
    }

    pub(super) async fn publish(&self, change: &Change) -> anyhow::Result<()> {
        let mut request = Request::new(PublishEventRequest {
            pubsub_name: self.envelopes.pub_sub_name.clone(),
            topic: change.collection.to_string(),
            data: self.envelopes.event(change)?,
            data_content_type: envelope::MEDIA_TYPE.to_owned(),
            // Only as request metadata does the TTL become `expiration` (requirement F9).
            metadata: HashMap::from([(
                event::TTL.to_owned(),
                self.envelopes.ttl_seconds.to_string(),
            )]),
        });
        if let Some(traceparent) = change.context.traceparent() {
            request
                .metadata_mut()
                .insert(event::TRACEPARENT, traceparent.parse()?);
        }
        let answer =
            tokio::time::timeout(PUBLISH, self.client.clone().publish_event(request)).await;
        answer
            .context("the sidecar did not answer in time")?
            .map(drop)
            .context("the sidecar refused")
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
                .insert("dapr-api-token", token.clone());
        }
        Ok(request)
    }
}
