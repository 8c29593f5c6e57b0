//! Events through the Dapr sidecar: the only file that names the Dapr SDK.
//!
//! It uses the generated gRPC client of the SDK, because the wrapper hides the status and cannot
//! send `traceparent`. The connection is opened at the first publish and again after it broke: a
//! sidecar may start after its application. Nothing here retries; the relay does.
//!
//! A backlog goes by bulk publish. A sidecar that cannot publish an entry may refuse the whole call
//! without naming the entry (1.14 does): then each event goes alone. After a bulk that was not
//! answered in time each event goes alone for a while: a slow broker may manage one in that time.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use contract::{Change, CollectionName, event, sidecar, text::Escaped};
#[cfg(test)]
use dapr::dapr::proto::runtime::v1::BulkPublishResponseFailedEntry;
use dapr::dapr::proto::runtime::v1::{
    BulkPublishRequest, BulkPublishRequestEntry, BulkPublishResponse, PublishEventRequest,
    dapr_client::DaprClient,
};
use futures_util::future::join_all;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::transport::{CallLimits, cloudevent::EventEncoder, original::OriginalEvent};

/// Few calls at a time, so that a backlog fills them. A sidecar takes 4 MiB.
pub(super) const CALL_LIMITS: CallLimits = CallLimits {
    calls: 4,
    events: 64,
    bytes: 1 << 20,
};
/// How long events go one by one after a bulk that the sidecar does not know or did not answer in time.
const WITHOUT_BULK: Duration = Duration::from_secs(60);

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
    /// Until when the sidecar is not asked for a bulk publish.
    without_bulk: Mutex<Option<Instant>>,
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
            without_bulk: Mutex::default(),
        })
    }

    /// See [`super::Transport::publish_all`].
    pub(super) async fn publish_all(&self, changes: &[&Change]) -> Vec<anyhow::Result<()>> {
        if self.has_bulk()
            && let Some(first) = changes.first()
        {
            match self.publish_bulk(&first.collection, changes).await {
                Ok(results) => return results,
                Err(BulkError::NoBulk) => self.note_no_bulk("has no bulk publish"),
                Err(BulkError::OneByOne) => {}
                Err(BulkError::Late(error)) => {
                    self.note_no_bulk("did not answer a bulk publish in time");
                    return all_failed(changes.len(), &error);
                }
                Err(BulkError::Failed(error)) => return all_failed(changes.len(), &error),
            }
        }
        join_all(changes.iter().map(|change| self.publish(change))).await
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

    /// Publishes all changes with one call. The events carry the traces of their writes themselves;
    /// the call has none, because it belongs to several.
    async fn publish_bulk(
        &self,
        topic: &CollectionName,
        changes: &[&Change],
    ) -> Result<Vec<anyhow::Result<()>>, BulkError> {
        let mut entries = Vec::with_capacity(changes.len());
        for (number, change) in changes.iter().enumerate() {
            // One that cannot be written fails alone.
            let event = self.encoder.for_sidecar(change);
            let event = event.map_err(|_unwritten| BulkError::OneByOne)?;
            entries.push(BulkPublishRequestEntry {
                entry_id: number.to_string(),
                event,
                content_type: event::MEDIA_TYPE.to_owned(),
                // The metadata of a call is not applied to an entry that has none.
                metadata: self.metadata(),
            });
        }
        let request = BulkPublishRequest {
            pubsub_name: self.encoder.pub_sub_name.clone(),
            topic: topic.to_string(),
            entries,
            metadata: HashMap::new(),
        };
        let mut client = self.client.clone();
        #[expect(
            deprecated,
            reason = "sidecars of 1.14 have no other, and newer ones keep it"
        )]
        let call = client.bulk_publish_event_alpha1(request);
        match tokio::time::timeout(PUBLISH_TIMEOUT, call).await {
            Ok(Ok(answer)) => {
                self.note_bulk();
                Ok(results(&answer.into_inner(), changes.len()))
            }
            Ok(Err(status)) => Err(match status.code() {
                Code::Unimplemented => BulkError::NoBulk,
                // Each event alone would get the same answer.
                Code::Unavailable | Code::Unauthenticated | Code::PermissionDenied => {
                    BulkError::Failed(self.failed(status))
                }
                // The time limit of the channel, or that of the sidecar.
                Code::DeadlineExceeded | Code::Cancelled => BulkError::Late(self.failed(status)),
                // One of the events may be the reason, and it is not said which.
                _ => BulkError::OneByOne,
            }),
            Err(_elapsed) => Err(BulkError::Late(self.late())),
        }
    }

    fn has_bulk(&self) -> bool {
        let without = self
            .without_bulk
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        without.is_none_or(|until| Instant::now() >= until)
    }

    /// Notes that a bulk was answered: the next time without one is logged again.
    fn note_bulk(&self) {
        let mut without = self
            .without_bulk
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Another bulk that began at the same time may have been late.
        without.take_if(|until| Instant::now() >= *until);
    }

    fn note_no_bulk(&self, why: &str) {
        let mut without = self
            .without_bulk
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_first = without.is_none();
        *without = Some(Instant::now() + WITHOUT_BULK);
        if is_first {
            tracing::info!(
                "the sidecar at {} {why}: events of a backlog are published one by one; bulk publish is \
                 tried again every {WITHOUT_BULK:?}",
                self.endpoint
            );
        }
    }

    /// Only as metadata does the TTL become `expiration` (requirement F9).
    fn metadata(&self) -> HashMap<String, String> {
        HashMap::from([(event::TTL.to_owned(), self.encoder.ttl_seconds.to_string())])
    }

    fn request(&self, topic: &CollectionName, data: Vec<u8>) -> Request<PublishEventRequest> {
        Request::new(PublishEventRequest {
            pubsub_name: self.encoder.pub_sub_name.clone(),
            topic: topic.to_string(),
            data,
            data_content_type: event::MEDIA_TYPE.to_owned(),
            metadata: self.metadata(),
        })
    }

    async fn send(&self, request: Request<PublishEventRequest>) -> anyhow::Result<()> {
        // The client takes `&mut self`; a clone shares its connection.
        let mut client = self.client.clone();
        // The timeout of the channel does not cover the time to connect.
        let answer = tokio::time::timeout(PUBLISH_TIMEOUT, client.publish_event(request)).await;
        match answer {
            Ok(Ok(_published)) => Ok(()),
            Ok(Err(status)) => Err(self.failed(status)),
            Err(_elapsed) => Err(self.late()),
        }
    }

    fn failed(&self, status: Status) -> anyhow::Error {
        let what = failure(status.code());
        let endpoint = &self.endpoint;
        anyhow::Error::new(status).context(format!("the sidecar at {endpoint} {what}"))
    }

    fn late(&self) -> anyhow::Error {
        let endpoint = &self.endpoint;
        anyhow!("the sidecar at {endpoint} did not answer within {PUBLISH_TIMEOUT:?}")
    }
}

/// Why a bulk publish has no results.
enum BulkError {
    /// The sidecar has no such call.
    NoBulk,
    /// It is not known which events were published; one by one says it.
    OneByOne,
    /// It was not answered in time. Some events may be published.
    Late(anyhow::Error),
    /// The sidecar is not there, or refuses all.
    Failed(anyhow::Error),
}

/// The same error for each of `count` changes.
fn all_failed(count: usize, error: &anyhow::Error) -> Vec<anyhow::Result<()>> {
    let error = format!("{error:#}");
    (0..count)
        .map(|_number| Err(anyhow!(error.clone())))
        .collect()
}

/// The result of each of `count` entries, whose ids are their numbers. An id that is not one of them
/// makes all entries fail: it is not known which the sidecar means.
fn results(answer: &BulkPublishResponse, count: usize) -> Vec<anyhow::Result<()>> {
    let mut results: Vec<anyhow::Result<()>> = (0..count).map(|_number| Ok(())).collect();
    for failed in &answer.failed_entries {
        let error = || {
            anyhow!(
                "the sidecar could not publish it: {}",
                Escaped(&failed.error)
            )
        };
        let number = failed.entry_id.parse::<usize>().ok();
        match number.and_then(|number| results.get_mut(number)) {
            Some(result) => *result = Err(error()),
            None => return (0..count).map(|_number| Err(error())).collect(),
        }
    }
    results
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

#[cfg(test)]
mod tests;
