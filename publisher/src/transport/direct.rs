//! Events without a broker (`LOCAL`): the publisher reads the subscriptions of each known
//! subscriber, as a Dapr sidecar does, and posts the same events to the routes that it names.
//!
//! A subscriber that is not running misses nothing: it loads when it starts, after its port is
//! open. One that answers RETRY or fails gets the event three times. One that still does not take
//! the event, or does not answer in time, gets one event at a time until it takes one again
//! (a circuit breaker). The others do not wait for it, except that beyond 256 deliveries
//! each that hangs delays the next one by 20 ms. It catches up when it compares heads.
//!
//! Subscribers are known by the settings, or because they checked in: over this loopback, or from
//! an allowed host, and with the token where there is one ([`trust`]).

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use contract::{
    Change, CollectionName, DocumentId, Revision, SecretUrl, event,
    sidecar::{EventReplyStatus, Subscription, TOKEN_HEADER},
};
use futures_util::future::join_all;
use reqwest::{
    Client, StatusCode,
    header::{HeaderMap, HeaderValue},
    redirect::Policy,
};
use tls::ClientTls;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

pub use self::registry::SubscriberRegistry;
use self::{
    answer::{is_of_tls, read_body, refusal, reply_status, send},
    registry::{Route, Subscriber},
    report::{report_failure, report_silence, report_success},
};
use crate::transport::{Deliveries, cloudevent::EventEncoder, original::OriginalEvent};

mod answer;
mod breaker;
mod callers;
mod registry;
mod report;
#[cfg(test)]
mod tests;
pub mod trust;

/// How often an event is sent to a subscriber that fails or answers RETRY.
const ATTEMPTS: u32 = 3;
/// Time limit of one attempt, with all its requests.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Deliveries of one event that begin at the same time. Beyond this more at once would only take
/// memory and miss the caches of the processor.
const AT_ONCE: usize = 256;
/// Connections to one subscriber that are kept while no request uses them. More than these are open
/// only after it stalled.
const KEPT_CONNECTIONS: usize = 16;
/// A delivery that takes longer no longer keeps others from beginning.
const PATIENCE: Duration = Duration::from_millis(20);
/// Pause between two attempts, in milliseconds; at random, so that events do not come together.
const RETRY_PAUSE_MS: std::ops::RangeInclusive<u64> = 50..=200;
/// What to do where a subscriber is reached and TLS fails.
const TLS_REMEDY: &str = "TLS with it fails; set AURA_CONFIGURATION_CA_FILE of this publisher to the authority \
                          of its certificate, and its AURA_CONFIGURATION_BASE_URL to the scheme and a name of \
                          that certificate";

/// Posts events to subscribers.
#[derive(Debug)]
pub struct DirectTransport {
    client: Client,
    tls: ClientTls,
    encoder: EventEncoder,
    subscribers: SubscriberRegistry,
}

/// What an event is about.
#[derive(Debug, Clone, Copy)]
struct Subject<'a> {
    collection: &'a CollectionName,
    id: &'a DocumentId,
    /// `None` for an event without a revision.
    revision: Option<Revision>,
}

/// What a subscriber did with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It took the event.
    Taken,
    /// It answered DROP.
    Dropped,
    /// It does not have the route that its subscriptions name.
    NoRoute,
    /// It does not subscribe to the collection, or its caller may not get it.
    NotSubscribed,
    /// It did not take the event.
    Failed,
}

impl DirectTransport {
    /// A transport to these subscribers; `tls` is for those with `https://`. Their token is sent as [`TOKEN_HEADER`] with every request.
    ///
    /// # Errors
    /// When the HTTP client cannot be created, or the token cannot be sent in a header.
    pub fn new(
        subscribers: SubscriberRegistry,
        encoder: EventEncoder,
        tls: ClientTls,
    ) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(token) = subscribers.token() {
            let mut token: HeaderValue = token
                .parse()
                .context("APP_API_TOKEN is not visible ASCII")?;
            token.set_sensitive(true);
            headers.insert(TOKEN_HEADER, token);
        }
        // Every request carries the token, so no redirect and no proxy may get one.
        let client = Client::builder()
            .default_headers(headers)
            .redirect(Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(KEPT_CONNECTIONS)
            .tls_backend_preconfigured(tls.config())
            .build()?;
        Ok(Self {
            client,
            tls,
            encoder,
            subscribers,
        })
    }

    pub(super) fn subscribers(&self) -> SubscriberRegistry {
        self.subscribers.clone()
    }

    /// Sends an event to all subscribers, [`AT_ONCE`] at the same time, and waits for all of them. A
    /// subscriber that fails is no error: it catches up.
    pub(super) async fn publish(&self, change: &Change) -> anyhow::Result<Deliveries> {
        // Encoded once; all deliveries share the bytes.
        let event = Bytes::from(self.encoder.for_subscriber(change)?);
        let subject = Subject {
            collection: &change.collection,
            id: &change.id,
            revision: Some(change.revision),
        };
        Ok(self.deliver_to_all(subject, &event).await)
    }

    /// See [`super::Transport::send_original`]. A subscriber that fails is no error here either.
    pub(super) async fn send_original(
        &self,
        original: &OriginalEvent,
    ) -> anyhow::Result<Deliveries> {
        let expiration = self.encoder.expiration()?;
        let event = original.for_subscriber(&self.encoder.pub_sub_name, expiration)?;
        let subject = Subject {
            collection: &original.collection,
            id: &original.id,
            revision: None,
        };
        Ok(self.deliver_to_all(subject, &Bytes::from(event)).await)
    }

    async fn deliver_to_all(&self, subject: Subject<'_>, event: &Bytes) -> Deliveries {
        self.tls.refresh().await;
        let subscribers = self.subscribers.all();
        let outcomes = in_slots(&subscribers, |subscriber| {
            self.deliver(subscriber, subject, event)
        });
        let mut counted = Deliveries::default();
        for outcome in outcomes.await {
            match outcome {
                Outcome::Taken => counted.taken += 1,
                Outcome::Dropped => counted.dropped += 1,
                Outcome::NoRoute | Outcome::Failed => counted.failed += 1,
                Outcome::NotSubscribed => counted.not_subscribed += 1,
            }
        }
        counted
    }

    async fn deliver(
        &self,
        subscriber: &Subscriber,
        subject: Subject<'_>,
        event: &Bytes,
    ) -> Outcome {
        // Before the permit: it says nothing about the state of the subscriber.
        if !self
            .subscribers
            .may_send(subscriber, subject.collection)
            .await
        {
            return Outcome::NotSubscribed;
        }
        let breaker = &subscriber.breaker;
        let Some(permit) = breaker.acquire() else {
            // The breaker has counted the event as missed; the replica catches up on it later.
            return Outcome::Failed;
        };
        for attempt in 1..=ATTEMPTS {
            let sent = self.attempt(subscriber, subject.collection, event);
            // The time limit covers reading the subscriptions as well.
            let error = match timeout(ATTEMPT_TIMEOUT, sent).await {
                // Nothing was sent, so this says nothing about the state of the subscriber: the
                // permit is dropped without a result.
                Ok(Ok(Outcome::NotSubscribed)) => return Outcome::NotSubscribed,
                Ok(Ok(outcome)) => {
                    report_success(subscriber, subject, permit);
                    return outcome;
                }
                Ok(Err(error)) => error,
                // A retry may take as long again, and all other events of the change wait for it.
                Err(_elapsed) => {
                    let error = anyhow!("no answer in {ATTEMPT_TIMEOUT:?}");
                    report_failure(subscriber, subject, permit, &error);
                    return Outcome::Failed;
                }
            };
            if let Some(error) = error.downcast_ref::<reqwest::Error>() {
                // The subscriber may have been restarted with other subscriptions.
                subscriber.forget_routes();
                // Nothing listens: it is not running, and loads when it starts.
                if error.is_connect() && !is_of_tls(error) {
                    report_silence(subscriber, error);
                    return Outcome::Failed;
                }
            }
            let is_of_tls = error.downcast_ref().is_some_and(is_of_tls);
            let error = if is_of_tls {
                error.context(TLS_REMEDY)
            } else {
                error
            };
            // A trial is one attempt: only a subscriber that works gets the event again.
            if attempt == ATTEMPTS || breaker.is_open() {
                report_failure(subscriber, subject, permit, &error);
                return Outcome::Failed;
            }
            sleep(Duration::from_millis(rand::random_range(RETRY_PAUSE_MS))).await;
            // Another delivery opened the breaker meanwhile.
            if breaker.is_open() {
                breaker.missed();
                return Outcome::Failed;
            }
        }
        Outcome::Failed
    }

    async fn attempt(
        &self,
        subscriber: &Subscriber,
        collection: &CollectionName,
        event: &Bytes,
    ) -> anyhow::Result<Outcome> {
        // Where the route does not exist the subscriptions may be old: they are read once more.
        for _read in 0..2 {
            let Some(route) = self.route(subscriber, collection).await? else {
                return Ok(Outcome::NotSubscribed);
            };
            let request = self
                .client
                .post(route.expose().clone())
                .header("content-type", event::MEDIA_TYPE)
                .body(event.clone());
            let answer = send(request).await?;
            let status = answer.status();
            if status == StatusCode::NOT_FOUND {
                // The second read uses the new subscriptions. If the new route does not exist
                // either, no retry helps.
                subscriber.forget_routes();
                continue;
            }
            if !status.is_success() {
                return Err(refusal("an event", answer).await);
            }
            return match reply_status(&read_body(answer).await?) {
                EventReplyStatus::Success => Ok(Outcome::Taken),
                EventReplyStatus::Drop => Ok(Outcome::Dropped),
                EventReplyStatus::Retry => bail!("the subscriber answered RETRY"),
            };
        }
        Ok(Outcome::NoRoute)
    }

    /// The route of a collection, or `None` when the subscriber does not subscribe to it. Reads the
    /// subscriptions when they are not known.
    async fn route(
        &self,
        subscriber: &Subscriber,
        collection: &CollectionName,
    ) -> anyhow::Result<Option<SecretUrl>> {
        match subscriber.route(collection) {
            Route::To(route) => return Ok(Some(route)),
            Route::NotSubscribed => return Ok(None),
            Route::Unknown => {}
        }
        let url = subscriber.base.expose().join(event::SUBSCRIBE_ROUTE)?;
        let answer = send(self.client.get(url)).await?;
        if !answer.status().is_success() {
            return Err(refusal(event::SUBSCRIBE_ROUTE, answer).await);
        }
        let subscriptions: Vec<Subscription> =
            contract::objects::from_slice(&read_body(answer).await?)
                .context("the answer to /dapr/subscribe is no list of subscriptions")?;
        // A subscriber may name routes on itself only: the request carries the token.
        let routes = subscriber.own_routes(subscriptions)?;
        let route = routes.get(collection.as_str()).cloned();
        subscriber.set_routes(routes);
        Ok(route)
    }
}

/// Delivers to each subscriber, and waits for all of them. [`AT_ONCE`] begin at the same time; one that
/// takes longer than [`PATIENCE`] makes place for the next one.
async fn in_slots<'a, S, D: Future>(
    subscribers: &'a [S],
    deliver: impl Fn(&'a S) -> D,
) -> Vec<D::Output> {
    let slots = Semaphore::new(AT_ONCE);
    let deliveries = subscribers.iter().map(async |subscriber| {
        let slot = slots.acquire().await;
        // In a box, so that a delivery that waits for its slot takes no memory.
        let mut delivery = Box::pin(deliver(subscriber));
        if let Ok(outcome) = timeout(PATIENCE, &mut delivery).await {
            return outcome;
        }
        drop(slot);
        delivery.await
    });
    join_all(deliveries).await
}
