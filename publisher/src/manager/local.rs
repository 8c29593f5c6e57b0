//! Events without a broker: the publisher asks each known subscriber for its subscriptions and posts the same envelopes to
//! the routes it names.
//!
//! A subscriber that is not there misses nothing: it loads when it starts, after its port is open. One that is there
//! but says RETRY or does not answer is tried three times, and then heals by comparing heads.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use contract::{Change, CollectionName, event};
use futures_util::future::join_all;
use reqwest::{Client, Url};
use serde::Deserialize;
use tracing::warn;

use crate::envelope::{self, Envelopes};

const ATTEMPTS: u32 = 3;
const ANSWER: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(1);

/// The known subscribers.
#[derive(Debug)]
pub struct Local {
    client: Client,
    envelopes: Envelopes,
    subscribers: Vec<Subscriber>,
    api_token: Option<String>,
}

#[derive(Debug)]
struct Subscriber {
    base: Url,
    /// Route by collection, once it was asked. Forgotten when it does not answer: it may come back with others.
    routes: Mutex<Option<HashMap<String, String>>>,
}

/// What a subscriber answers to `/dapr/subscribe` (seeds.md A24).
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
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    status: String,
}

/// How one delivery ended.
enum Delivery {
    /// Taken, refused for good, or nobody is there.
    Over,
    /// Worth another try.
    Again(anyhow::Error),
}

impl Local {
    /// These subscribers; `api_token` is what they expect as `dapr-api-token`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(subscribers: Vec<Url>, api_token: Option<String>, envelopes: Envelopes) -> anyhow::Result<Self> {
        let client = Client::builder().connect_timeout(CONNECT).timeout(ANSWER).no_proxy().build()?;
        let subscribers = subscribers.into_iter().map(|base| Subscriber { base, routes: Mutex::default() }).collect();
        Ok(Self { client, envelopes, subscribers, api_token })
    }

    pub(super) async fn publish(&self, change: &Change) -> anyhow::Result<()> {
        let event = Bytes::from(self.envelopes.delivered(change)?);
        join_all(self.subscribers.iter().map(|subscriber| self.deliver(subscriber, &change.collection, &event))).await;
        Ok(())
    }

    async fn deliver(&self, subscriber: &Subscriber, collection: &CollectionName, event: &Bytes) {
        for attempt in 1..=ATTEMPTS {
            let Delivery::Again(error) = self.attempt(subscriber, collection, event).await else { return };
            subscriber.forget_routes();
            if attempt == ATTEMPTS {
                warn!(subscriber = %subscriber.base, %collection, "an event was not taken, heads will tell: {error:#}");
            } else {
                tokio::time::sleep(Duration::from_millis(rand::random_range(50..=200))).await;
            }
        }
    }

    async fn attempt(&self, subscriber: &Subscriber, collection: &CollectionName, event: &Bytes) -> Delivery {
        let route = match self.route(subscriber, collection).await {
            Ok(Some(route)) => route,
            Ok(None) => return Delivery::Over,
            Err(error) => return failed(error),
        };
        let post = self.client.post(route).header("content-type", envelope::MEDIA_TYPE).body(event.clone());
        match self.with_token(post).send().await {
            Ok(answer) if answer.status() == 404 => Delivery::Over,
            Ok(answer) if answer.status().is_success() => {
                // As a sidecar reads it: an empty or unreadable body is a success.
                let wants_retry = answer.json::<Answer>().await.is_ok_and(|answer| answer.status == "RETRY");
                if wants_retry { Delivery::Again(anyhow!("it answered RETRY")) } else { Delivery::Over }
            }
            Ok(answer) => Delivery::Again(anyhow!("it answered {}", answer.status())),
            Err(error) => failed(error.into()),
        }
    }

    async fn route(&self, subscriber: &Subscriber, collection: &CollectionName) -> anyhow::Result<Option<Url>> {
        if let Some(route) = subscriber.known_route(collection) {
            return route.map(|path| Ok(subscriber.base.join(&path)?)).transpose();
        }
        let ask = self.client.get(subscriber.base.join(event::SUBSCRIBE_ROUTE)?);
        let answer = self.with_token(ask).send().await?.error_for_status()?;
        let subscriptions: Vec<Subscription> = answer.json().await.context("its answer to /dapr/subscribe")?;
        let routes: HashMap<_, _> = subscriptions.into_iter().map(|one| (one.topic, one.routes.default)).collect();
        let route = routes.get(collection.as_str()).map(|path| subscriber.base.join(path)).transpose()?;
        subscriber.remember_routes(routes);
        Ok(route)
    }

    fn with_token(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.api_token {
            Some(token) => request.header("dapr-api-token", token),
            None => request,
        }
    }
}

impl Subscriber {
    /// `None` = not asked yet; `Some(None)` = it does not want this collection.
    fn known_route(&self, collection: &CollectionName) -> Option<Option<String>> {
        let routes = self.routes.lock().expect("no holder of this lock can panic");
        routes.as_ref().map(|routes| routes.get(collection.as_str()).cloned())
    }

    fn remember_routes(&self, routes: HashMap<String, String>) {
        *self.routes.lock().expect("no holder of this lock can panic") = Some(routes);
    }

    fn forget_routes(&self) {
        *self.routes.lock().expect("no holder of this lock can panic") = None;
    }
}

fn failed(error: anyhow::Error) -> Delivery {
    let nobody_there =
        error.downcast_ref::<reqwest::Error>().is_some_and(|error| error.is_connect() && !error.is_timeout());
    if nobody_there { Delivery::Over } else { Delivery::Again(error) }
}
