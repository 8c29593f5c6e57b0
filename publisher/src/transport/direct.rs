//! Events without a broker: the publisher asks each known subscriber for its subscriptions and
//! posts the same envelopes to the routes it names.
//!
//! A subscriber that is not there misses nothing: it loads when it starts, after its port is open.
//! One that is there but says RETRY or fails is tried three times. One that still does not take the
//! event, or does not answer in time, is suspect: until it takes one again it is tried with one
//! event at a time, so that the others never wait for it, and learns of what it missed by comparing
//! heads.
//!
//! Subscribers are known by the settings, or because they checked in: over this loopback, or from a
//! host that is allowed, and with the token where there is one ([`trust`]).

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use contract::{Change, CollectionName, event};
use futures_util::future::join_all;
use reqwest::{
    Client, RequestBuilder, Response, Url,
    header::{HeaderMap, HeaderValue},
    redirect::Policy,
};
use serde::Deserialize;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::{
    store::replicas::CheckInSource,
    transport::{
        cloudevent as envelope,
        cloudevent::Envelopes,
        direct::trust::{Caller, Trust},
    },
};

pub mod trust;

const ATTEMPTS: u32 = 3;
/// One attempt, with all that is asked in it.
const ANSWER: Duration = Duration::from_secs(2);
/// No answer is read further.
const ANSWER_BYTES: usize = 64 * 1024;
/// A subscriber that was restarted may want other collections, and nothing tells.
const ROUTES_LIFE: Duration = Duration::from_secs(10);

/// The header with the token of the subscribers.
pub const TOKEN: &str = "dapr-api-token";

/// Subscribers that may be known by their check-in alone.
const MOST_FOUND: usize = 256;

/// The engine.
#[derive(Debug)]
pub struct Local {
    client: Client,
    envelopes: Envelopes,
    subscribers: Subscribers,
}

/// The known subscribers. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Subscribers {
    /// Those of the settings, which stay, then those that checked in.
    known: Arc<RwLock<Vec<Arc<Subscriber>>>>,
    /// How many of them are of the settings.
    set: usize,
    trust: Arc<Trust>,
}

impl Subscribers {
    /// Those of the settings, the hosts besides loopback from which others may be found, and the
    /// token that all expect.
    pub fn new(set: Vec<Url>, allowed: BTreeSet<String>, token: Option<String>) -> Self {
        let known: Vec<_> = set
            .into_iter()
            .map(|base| Arc::new(Subscriber::new(base)))
            .collect();
        let trust = Arc::new(Trust::new(allowed, token));
        Self {
            set: known.len(),
            known: Arc::new(RwLock::new(known)),
            trust,
        }
    }

    /// What is to be remembered of one that checks in.
    pub fn heard(&self, caller: Caller<'_>) -> CheckInSource {
        self.trust.heard(caller)
    }

    /// One that just checked in.
    pub fn add(&self, base: Url, heard: &CheckInSource) {
        if self.trust.covers(&base, heard) {
            self.put(base);
        }
    }

    fn put(&self, base: Url) {
        if self.all().iter().any(|known| known.base == base) {
            return;
        }
        let mut known = self
            .known
            .write()
            .expect("no holder of this lock can panic");
        if known.len() - self.set < MOST_FOUND && known.iter().all(|one| one.base != base) {
            info!(subscriber = %base, "it checked in and gets events");
            known.push(Arc::new(Subscriber::new(base)));
        }
    }

    /// All that are there by their check-ins; the others are gone.
    pub fn replace<'a>(&self, found: impl Iterator<Item = (Url, &'a CheckInSource)>) {
        let found: BTreeSet<_> = found
            .filter(|(base, heard)| self.trust.covers(base, heard))
            .map(|(base, _heard)| base)
            .collect();
        let mut place = 0..;
        self.known
            .write()
            .expect("no holder of this lock can panic")
            .retain(|known| {
                let stays = place.next().is_some_and(|place| place < self.set)
                    || found.contains(&known.base);
                if !stays {
                    info!(subscriber = ?known, "it is gone and gets no more events");
                }
                stays
            });
        found.into_iter().for_each(|base| self.put(base));
    }

    fn all(&self) -> Vec<Arc<Subscriber>> {
        self.known
            .read()
            .expect("no holder of this lock can panic")
            .clone()
    }
}

struct Subscriber {
    base: Url,
    /// Route by collection, and when it was asked.
    routes: Mutex<Option<(Instant, HashMap<String, Url>)>>,
    /// How often it became suspect or was cleared of it: odd while it is suspect. A delivery that
    /// began in an earlier turn and fails late says nothing of this one.
    turn: AtomicU64,
    /// Held by the one delivery that finds out whether a suspect is back.
    probe: tokio::sync::Mutex<()>,
    /// Events that it did not take since it became suspect.
    missed: AtomicU64,
}

/// What a subscriber answers to `/dapr/subscribe` (requirement A24).
#[derive(Debug, Deserialize)]
struct Subscription {
    topic: String,
    routes: Routes,
}

#[derive(Debug, Deserialize)]
struct Routes {
    default: String,
}

/// What a subscriber answers to an event.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    status: String,
}

/// How an attempt ended that did not fail.
enum Delivery {
    /// It was taken, or refused for good.
    Answered,
    /// It does not want this collection.
    Unwanted,
}

impl Local {
    /// These subscribers, which get their token as `dapr-api-token`.
    ///
    /// # Errors
    /// When no HTTP client can be made, or the token cannot be sent.
    pub fn new(subscribers: Subscribers, envelopes: Envelopes) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(token) = subscribers.trust.token() {
            let mut token: HeaderValue = token
                .parse()
                .context("APP_API_TOKEN is not visible ASCII")?;
            token.set_sensitive(true);
            headers.insert(TOKEN, token);
        }
        // Every request has the token, so none may be led elsewhere.
        let client = Client::builder()
            .default_headers(headers)
            .redirect(Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self {
            client,
            envelopes,
            subscribers,
        })
    }

    /// Whom it sends to.
    pub(super) fn subscribers(&self) -> Subscribers {
        self.subscribers.clone()
    }

    pub(super) async fn publish(&self, change: &Change) -> anyhow::Result<()> {
        let event = Bytes::from(self.envelopes.delivered(change)?);
        let subscribers = self.subscribers.all();
        join_all(
            subscribers
                .iter()
                .map(|subscriber| self.deliver(subscriber, &change.collection, &event)),
        )
        .await;
        Ok(())
    }

    async fn deliver(&self, subscriber: &Subscriber, collection: &CollectionName, event: &Bytes) {
        let turn = subscriber.turn.load(Relaxed);
        let probe = is_suspect(turn).then(|| subscriber.probe.try_lock());
        if matches!(probe, Some(Err(_))) {
            return subscriber.missed();
        }
        for attempt in 1..=ATTEMPTS {
            let error = match timeout(ANSWER, self.attempt(subscriber, collection, event)).await {
                Ok(Ok(Delivery::Answered)) => return subscriber.answered(),
                Ok(Ok(Delivery::Unwanted)) => return,
                Ok(Err(error)) => error,
                Err(_elapsed) => {
                    return subscriber.failed(turn, &anyhow!("no answer in {ANSWER:?}"));
                }
            };
            if let Some(error) = error.downcast_ref::<reqwest::Error>() {
                // The connection was refused or broke: who comes back may want other collections.
                subscriber.forget_routes();
                if error.is_connect() {
                    return;
                }
            }
            if attempt == ATTEMPTS || is_suspect(subscriber.turn.load(Relaxed)) {
                return subscriber.failed(turn, &error);
            }
            sleep(Duration::from_millis(rand::random_range(50..=200))).await;
            if is_suspect(subscriber.turn.load(Relaxed)) {
                return subscriber.missed();
            }
        }
    }

    async fn attempt(
        &self,
        subscriber: &Subscriber,
        collection: &CollectionName,
        event: &Bytes,
    ) -> anyhow::Result<Delivery> {
        // Where nothing is found the routes may be old: they are asked once more.
        for _asked in 0..2 {
            let Some(route) = self.route(subscriber, collection).await? else {
                return Ok(Delivery::Unwanted);
            };
            let post = self
                .client
                .post(route)
                .header("content-type", envelope::MEDIA_TYPE)
                .body(event.clone());
            let answer = send(post).await?;
            if answer.status() == 404 {
                subscriber.forget_routes();
                continue;
            }
            ensure!(
                answer.status().is_success(),
                "it answered {}",
                answer.status()
            );
            // As a sidecar reads it: an empty or unreadable body is a success.
            let answer: Answer = serde_json::from_slice(&read(answer).await?).unwrap_or_default();
            ensure!(answer.status != "RETRY", "it answered RETRY");
            break;
        }
        Ok(Delivery::Answered)
    }

    async fn route(
        &self,
        subscriber: &Subscriber,
        collection: &CollectionName,
    ) -> anyhow::Result<Option<Url>> {
        if let Some(route) = subscriber.known_route(collection) {
            return Ok(route);
        }
        let answer = send(
            self.client
                .get(subscriber.base.join(event::SUBSCRIBE_ROUTE)?),
        )
        .await?;
        ensure!(
            answer.status().is_success(),
            "it answered {} to {}",
            answer.status(),
            event::SUBSCRIBE_ROUTE
        );
        let subscriptions: Vec<Subscription> = serde_json::from_slice(&read(answer).await?)
            .context("its answer to /dapr/subscribe")?;
        let routes = subscriptions
            .into_iter()
            .map(|one| Ok((one.topic, subscriber.own(&one.routes.default)?)));
        let routes: HashMap<_, _> = routes.collect::<anyhow::Result<_>>()?;
        let route = routes.get(collection.as_str()).cloned();
        subscriber.remember_routes(routes);
        Ok(route)
    }
}

impl Subscriber {
    fn new(base: Url) -> Self {
        let (routes, probe) = Default::default();
        Self {
            base,
            routes,
            turn: AtomicU64::new(0),
            probe,
            missed: AtomicU64::new(0),
        }
    }

    /// A route of this subscriber; one that leads to another host is none.
    fn own(&self, route: &str) -> anyhow::Result<Url> {
        let url = self.base.join(route).context("a route that it names")?;
        ensure!(
            url.origin() == self.base.origin(),
            "a route that it names leads elsewhere"
        );
        Ok(url)
    }

    /// `None` = not asked lately; `Some(None)` = it does not want this collection.
    fn known_route(&self, collection: &CollectionName) -> Option<Option<Url>> {
        let routes = self
            .routes
            .lock()
            .expect("no holder of this lock can panic");
        let (_asked, routes) = routes
            .as_ref()
            .filter(|(asked, _)| asked.elapsed() < ROUTES_LIFE)?;
        Some(routes.get(collection.as_str()).cloned())
    }

    fn remember_routes(&self, routes: HashMap<String, Url>) {
        *self
            .routes
            .lock()
            .expect("no holder of this lock can panic") = Some((Instant::now(), routes));
    }

    fn forget_routes(&self) {
        *self
            .routes
            .lock()
            .expect("no holder of this lock can panic") = None;
    }

    fn missed(&self) {
        self.missed.fetch_add(1, Relaxed);
    }

    /// It did not take an event. One line when that begins, not one per event.
    fn failed(&self, turn: u64, error: &anyhow::Error) {
        self.missed();
        if !is_suspect(turn) && self.goes_on_from(turn) {
            warn!(subscriber = ?self, "it does not take events, heads will tell it what it misses: {error:#}");
        }
    }

    fn answered(&self) {
        let turn = self.turn.load(Relaxed);
        if is_suspect(turn) && self.goes_on_from(turn) {
            info!(subscriber = ?self, missed = self.missed.swap(0, Relaxed), "it takes events again");
        }
    }

    fn goes_on_from(&self, turn: u64) -> bool {
        self.turn
            .compare_exchange(turn, turn + 1, Relaxed, Relaxed)
            .is_ok()
    }
}

fn is_suspect(turn: u64) -> bool {
    turn % 2 == 1
}

/// Host and port only: the URL may hold a password.
impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.base.port_or_known_default().unwrap_or_default();
        write!(f, "{}:{port}", self.base.host_str().unwrap_or_default())
    }
}

async fn send(request: RequestBuilder) -> reqwest::Result<Response> {
    request.send().await.map_err(reqwest::Error::without_url)
}

/// The beginning of a body, which is all of an honest one.
async fn read(mut answer: Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while body.len() < ANSWER_BYTES
        && let Some(piece) = answer.chunk().await.map_err(reqwest::Error::without_url)?
    {
        body.extend_from_slice(&piece[..piece.len().min(ANSWER_BYTES - body.len())]);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect("a URL")
    }

    #[test]
    fn who_checks_in_is_found_here_and_where_it_is_allowed() {
        let subscribers = Subscribers::new(
            vec![url("http://set:1")],
            BTreeSet::from(["friend".to_owned()]),
            None,
        );
        let from = |peer: [u8; 4]| {
            subscribers.heard(Caller {
                peer: Some(peer.into()),
                token: None,
            })
        };
        let (here, away) = (from([127, 0, 0, 1]), from([10, 0, 0, 1]));
        for (found, heard) in [
            ("http://127.0.0.1:2", &here),
            ("http://localhost:3", &here),
            ("http://friend:5", &away),
        ] {
            subscribers.add(url(found), heard);
            subscribers.add(url(found), heard);
        }
        for (stranger, heard) in [("http://elsewhere:1", &here), ("http://127.0.0.1:7", &away)] {
            subscribers.add(url(stranger), heard);
        }
        assert_eq!(subscribers.all().len(), 4);
        let stays = subscribers.all()[2].clone();
        let rows = [
            (stays.base.clone(), &here),
            (url("http://127.0.0.1:8"), &away),
            (url("http://127.0.0.1:9"), &here),
        ];
        subscribers.replace(rows.into_iter());
        let all = subscribers.all();
        assert_eq!(all.len(), 3);
        assert!(Arc::ptr_eq(&all[1], &stays), "what is known of it is kept");
        (0..2 * MOST_FOUND).for_each(|port| {
            subscribers.add(url(&format!("http://127.0.0.1:{}", 10_000 + port)), &here)
        });
        assert_eq!(subscribers.all().len(), 1 + MOST_FOUND);
        subscribers.replace(std::iter::empty());
        assert_eq!(subscribers.all().len(), 1, "the settings stay");
    }
}
