//! Subscriptions over HTTP: every value is posted to the application, `POST /configuration/{store}/{key}`,
//! one after the other.
//!
//! An application that does not answer, or answers that it cannot take the value now, gets it again; in
//! the meantime the subscription holds back, and later sends the newest value of each key. Every other
//! answer is the end of the value. A subscription whose application is away for too long ends, and a
//! second one for the same keys replaces the first: an application that was started again does not know
//! the id of the one before.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use contract::sidecar::TOKEN_HEADER;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, StatusCode, header::CONTENT_TYPE, uri::Authority};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::Caller,
    api::{Api, Selection, Subscription},
    budget::Budget,
    error::ApiError,
    forward::{http_client, target},
    message::{Item, Items, KeysRequest, Update},
};

/// How long the application may take for one value.
const ANSWER: Duration = Duration::from_secs(30);
/// Time before the next attempt: it doubles up to the longest.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// An application that takes nothing for this long has ended.
const AWAY: Duration = Duration::from_secs(600);

/// How long a subscription may take to end when it is replaced.
const REPLACED: Duration = Duration::from_secs(5);
/// Most bytes of all messages that the application has not taken yet. A message of 4 MiB leaves some for
/// the others.
const BYTES: u32 = 16 << 20;

/// A task of the server.
pub(crate) type Task = BoxFuture<'static, ()>;

/// The application, and the subscriptions that are posted to it. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Callbacks {
    app: Arc<App>,
    tasks: mpsc::Sender<Task>,
    /// By what was subscribed. Locked while one begins, so that each keys have one.
    running: Arc<Mutex<HashMap<Keys, Running>>>,
    budget: Budget,
    api: Api,
}

/// A subscription.
struct Running {
    id: String,
    /// Cancelled when it has ended, and its slot is free.
    ended: CancellationToken,
}

/// Store and keys, in order.
type Keys = (String, Vec<String>);

/// The application.
struct App {
    client: Client<HttpConnector, Body>,
    authority: Authority,
    token: Option<HeaderValue>,
}

impl Callbacks {
    /// Posts to this application, with its token (`APP_API_TOKEN`). The tasks are run by the receiver.
    pub(crate) fn new(
        api: Api,
        authority: Authority,
        token: Option<HeaderValue>,
        tasks: mpsc::Sender<Task>,
    ) -> Self {
        Self {
            app: Arc::new(App {
                client: http_client(),
                authority,
                token,
            }),
            tasks,
            running: Arc::default(),
            budget: Budget::new(BYTES),
            api,
        }
    }

    /// Begins to post, and returns the id of the subscription.
    pub(crate) async fn begin(
        &self,
        request: KeysRequest,
        selection: Selection,
        caller: Caller,
    ) -> Result<String, ApiError> {
        let KeysRequest {
            store_name: store,
            mut keys,
            metadata: _,
        } = request;
        keys.sort_unstable();
        keys.dedup();
        let keys = (store, keys);
        let mut running = self.running.lock().await;
        // First, because the new one may need the slot of the one before.
        if let Some(replaced) = running.remove(&keys) {
            self.api.unsubscribe(&replaced.id);
            let freed = timeout(REPLACED, replaced.ended.cancelled()).await;
            freed.map_err(|_elapsed| {
                let reason = "the subscription before has not ended yet; try again";
                ApiError::Busy(reason.to_owned())
            })?;
        }
        let budget = self.budget.clone();
        let subscription = self.api.subscribe(&caller, selection, budget)?;
        let id = subscription.id.clone();
        let ended = CancellationToken::new();
        let task = {
            let (callbacks, keys, id) = (self.clone(), keys.clone(), id.clone());
            let ended = ended.clone().drop_guard();
            async move {
                callbacks.post_all(&keys.0, subscription, caller).await;
                drop(ended);
                let mut running = callbacks.running.lock().await;
                // It may have been replaced meanwhile.
                if running.get(&keys).is_some_and(|now| now.id == id) {
                    running.remove(&keys);
                }
            }
        };
        let sent = self.tasks.send(Box::pin(task)).await;
        sent.map_err(|_closed| ApiError::Busy("the subscriber stops".to_owned()))?;
        let now = Running {
            id: id.clone(),
            ended,
        };
        running.insert(keys, now);
        Ok(id)
    }

    async fn post_all(&self, store: &str, mut subscription: Subscription, caller: Caller) {
        let cancelled = subscription.cancelled.clone();
        let posting = async {
            while let Some((batch, _memory)) = subscription.messages.next().await {
                for (key, item) in batch {
                    let key = key.to_string();
                    if !self.app.post(store, &subscription.id, key, item).await {
                        return Some("its application took nothing for 10 minutes");
                    }
                }
            }
            None
        };
        let mut posting = pin!(posting);
        let why = tokio::select! {
            () = cancelled.cancelled() => None,
            () = caller.ended() => Some("the credential of its caller ended or has other grants"),
            why = &mut posting => why,
        };
        if let Some(why) = why {
            tracing::warn!(
                store,
                "a subscription of {store} over HTTP has ended: {why}; the application subscribes again \
                 when it starts"
            );
        }
    }
}

impl App {
    /// Posts one value until the application has answered it; `false` when it was away for too long.
    async fn post(&self, store: &str, id: &str, key: String, item: Item) -> bool {
        let path = format!(
            "/configuration/{}/{}",
            utf8_percent_encode(store, NON_ALPHANUMERIC),
            utf8_percent_encode(&key, NON_ALPHANUMERIC)
        );
        let update = Update {
            id: id.to_owned(),
            items: Items::from([(key, item)]),
        };
        // Texts alone, so it cannot fail.
        let body = Bytes::from(serde_json::to_vec(&update).unwrap_or_default());
        let until = Instant::now() + AWAY;
        let mut wait = SHORTEST_WAIT;
        loop {
            let problem = match timeout(ANSWER, self.attempt(&path, body.clone())).await {
                Ok(Ok(status)) if !is_temporary(status) => {
                    if !status.is_success() {
                        tracing::warn!(
                            path,
                            "the application refused a configuration value at {path} with {status}; it \
                             does not get this value again"
                        );
                    }
                    return true;
                }
                Ok(Ok(status)) => status.to_string(),
                Ok(Err(error)) => format!("{:#}", anyhow::Error::from(error)),
                Err(_elapsed) => format!("no answer within {ANSWER:?}"),
            };
            if Instant::now() >= until {
                return false;
            }
            tracing::debug!(path, "a configuration value is posted again: {problem}");
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn attempt(
        &self,
        path: &str,
        body: Bytes,
    ) -> Result<StatusCode, hyper_util::client::legacy::Error> {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target(&self.authority, path.parse().ok());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            headers.insert(TOKEN_HEADER, token.clone());
        }
        Ok(self.client.request(request).await?.status())
    }
}

/// Whether the application may take the value later.
fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// Ends when the process stops, whatever its tasks wait for.
pub(crate) async fn run(mut tasks: mpsc::Receiver<Task>, stop: CancellationToken) {
    let mut running = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(task) = tasks.recv() => {
                running.spawn(task);
            }
            Some(_ended) = running.join_next() => {}
            else => return,
        }
    }
}
