//! Clients that write through every publisher: creations, updates, patches, deletions, conditional
//! writes, change sets, and the way back (`super::rollbacks`). Every request is recorded before it
//! is sent.
//!
//! Its own idea of the stored documents only makes most requests meaningful. The validators never
//! use it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use contract::{
    Problem, ProblemKind,
    set::{ChangeRequest, ChangeSetRequest, ChangeSetWritten, RequestOperation},
};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::RwLock, time::timeout};

use super::{
    cluster::Cluster,
    random::Random,
    record::{DocumentKey, Millis, Outcome, SLOTS, WriteRecord},
};
use crate::client::{Answer, Api, document_path};

/// Concurrent clients.
const CLIENTS: usize = 16;
/// Longer than a publisher tries to commit.
pub(super) const TIMEOUT: Duration = Duration::from_secs(8);
/// Number of change sets that may be undone.
const SETS: usize = 8;
/// Media type of RFC 7396.
const MERGE_PATCH: &str = "application/merge-patch+json";
/// Problems that say for certain that nothing was written.
const NOTHING_WRITTEN: [ProblemKind; 2] = [ProblemKind::NotCommitted, ProblemKind::Busy];

/// State that all clients share.
#[derive(Debug)]
pub struct Driver {
    /// What was written.
    pub record: Mutex<WriteRecord>,
    /// A holder of the write lock pauses all clients between two requests.
    pub gate: RwLock<()>,
    began: Instant,
    known: Mutex<[Option<u64>; SLOTS]>,
    /// Ids of the newest change sets, to be undone.
    sets: Mutex<Vec<(String, Vec<DocumentKey>)>>,
}

/// A request that is ready to be sent.
struct Request {
    what: &'static str,
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    members: Vec<(DocumentKey, bool)>,
    /// Makes the body from the token and the identity of the writer.
    body: Box<dyn Fn(Value) -> String + Send>,
}

impl Driver {
    /// A driver of a campaign that began at `began`.
    pub fn new(began: Instant) -> Self {
        let known = Mutex::new([None; SLOTS]);
        Self {
            record: Mutex::default(),
            gate: RwLock::default(),
            began,
            known,
            sets: Mutex::default(),
        }
    }

    /// Milliseconds since the campaign began.
    pub fn now(&self) -> Millis {
        self.began.elapsed().as_millis() as Millis
    }

    /// Locks the record.
    pub fn record(&self) -> std::sync::MutexGuard<'_, WriteRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn known(&self) -> std::sync::MutexGuard<'_, [Option<u64>; SLOTS]> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates every document once, so that no collection is ever empty afterwards.
    ///
    /// # Errors
    /// When a document cannot be created.
    pub async fn create_all(&self, cluster: &Cluster) -> anyhow::Result<()> {
        for key in DocumentKey::all() {
            self.send(&cluster.publisher(key.slot()), 0, 0, self.create(key))
                .await;
            anyhow::ensure!(
                self.known()[key.slot()].is_some(),
                "{key} was not taken: {:?}",
                self.record().writes.last()
            );
        }
        Ok(())
    }

    /// Writes a document anew, whatever is stored.
    pub async fn replace(&self, api: &Api, key: DocumentKey) {
        let request = Request {
            what: "put",
            method: Method::PUT,
            path: document_path(key.collection(), &key.id()),
            headers: vec![],
            members: vec![(key, false)],
            body: Box::new(|token: Value| token.to_string()),
        };
        self.send(api, CLIENTS, 0, request).await;
    }

    /// Writes without end, `rate` requests per second in all.
    pub async fn run(
        &self,
        cluster: &Cluster,
        rate: u64,
        random: &mut Random,
    ) -> std::convert::Infallible {
        let pause =
            Duration::from_secs(CLIENTS as u64) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX);
        let clients = (0..CLIENTS).map(|writer| {
            let apis = [cluster.publisher(0), cluster.publisher(1)];
            let mut random = random.fork();
            async move {
                for counter in 1.. {
                    let due = tokio::time::Instant::now() + pause;
                    {
                        let _open = self.gate.read().await;
                        let api = random.pick(&apis);
                        match random.below(100) {
                            0..6 => self.roll_back(api, writer, &mut random).await,
                            6 => self.name_the_present(api, writer, counter).await,
                            _ => {
                                let request = self.request(&mut random);
                                self.send(api, writer, counter, request).await;
                            }
                        }
                    }
                    tokio::time::sleep_until(due).await;
                }
            }
        });
        join_all(clients).await;
        unreachable!("clients write without end")
    }

    /// The newest change sets.
    pub(super) fn sets(&self) -> std::sync::MutexGuard<'_, Vec<(String, Vec<DocumentKey>)>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a change set, and forgets the oldest of many.
    pub(super) fn remember_set(&self, id: String, keys: Vec<DocumentKey>) {
        let mut sets = self.sets();
        if sets.len() == SETS {
            sets.remove(0);
        }
        sets.push((id, keys));
    }

    async fn send(&self, api: &Api, writer: usize, counter: u64, request: Request) {
        let token = self.record().begin(
            request.what,
            writer,
            self.now(),
            request.members.iter().copied(),
        );
        let body = (request.body)(json!({"token": token, "writer": writer, "counter": counter}));
        let media_type = if request.method == Method::PATCH {
            MERGE_PATCH
        } else {
            "application/json"
        };
        let mut headers = vec![("content-type", media_type)];
        headers.extend(
            request
                .headers
                .iter()
                .map(|(name, value)| (*name, value.as_str())),
        );
        let answer = timeout(
            TIMEOUT,
            api.send(request.method, &request.path, &headers, body),
        )
        .await;
        let (status, outcome) = outcome_of(&answer);
        let mut revisions = Vec::new();
        if let (Outcome::Acked, Ok(Ok(answer))) = (outcome, &answer) {
            revisions = revisions_of(answer);
            if let Ok(set) = serde_json::from_str::<ChangeSetWritten>(&answer.body) {
                let keys = request.members.iter().map(|(key, _)| *key).collect();
                self.remember_set(set.id, keys);
            }
            let mut known = self.known();
            for ((key, deletes), revision) in request.members.iter().zip(&revisions) {
                known[key.slot()] = (!deletes).then_some(*revision);
            }
        } else if matches!(status, 404 | 409) && request.members.len() == 1 {
            // The idea of this document was wrong: the next request for it assumes the opposite.
            let (key, _) = request.members[0];
            let known = &mut self.known()[key.slot()];
            *known = if known.is_some() { None } else { Some(0) };
        }
        self.record()
            .end(token, self.now(), status, outcome, &revisions);
    }

    fn request(&self, random: &mut Random) -> Request {
        if random.below(8) == 0 {
            return self.set(random);
        }
        let key = any(random);
        let Some(revision) = self.known()[key.slot()] else {
            return self.create(key);
        };
        let path = document_path(key.collection(), &key.id());
        let pad = "x".repeat(random.below(200) as usize);
        let whole = move |mut token: Value| {
            token["pad"] = json!(pad);
            token.to_string()
        };
        let one = |what, method, headers, deletes, body| {
            let path = path.clone();
            Request {
                what,
                method,
                path,
                headers,
                members: vec![(key, deletes)],
                body,
            }
        };
        match random.below(100) {
            0..45 => one("put", Method::PUT, vec![], false, Box::new(whole)),
            45..70 => one(
                "patch",
                Method::PATCH,
                vec![],
                false,
                Box::new(|token: Value| token.to_string()),
            ),
            70..74 => one(
                "put if-none-match",
                Method::PUT,
                vec![("if-none-match", "*".to_owned())],
                false,
                Box::new(whole),
            ),
            74..88 if revision > 0 => one(
                "put if-match",
                Method::PUT,
                vec![("if-match", format!("\"{revision}\""))],
                false,
                Box::new(whole),
            ),
            88.. if !key.is_anchor() => one(
                "delete",
                Method::DELETE,
                vec![],
                true,
                Box::new(|_| String::new()),
            ),
            _ => one("put", Method::PUT, vec![], false, Box::new(whole)),
        }
    }

    fn create(&self, key: DocumentKey) -> Request {
        let with_id = move |mut token: Value| {
            token["id"] = json!(key.id());
            token.to_string()
        };
        let path = format!("/v1/collections/{}/documents", key.collection());
        let what = "create";
        let method = Method::POST;
        Request {
            what,
            method,
            path,
            headers: vec![],
            members: vec![(key, false)],
            body: Box::new(with_id),
        }
    }

    /// A change set of two to five documents, of one collection or of several, all with the same
    /// token.
    fn set(&self, random: &mut Random) -> Request {
        let size = random.between(2, 5) as usize;
        let one_collection = random.below(2) == 0;
        let mut keys = vec![any(random)];
        while keys.len() < size {
            let mut key = any(random);
            if one_collection {
                key.collection = keys[0].collection;
            }
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let known = *self.known();
        let mut operation = |key: &DocumentKey| match (known[key.slot()], random.below(100)) {
            (None, _) => RequestOperation::Create,
            (Some(_), 85..) if !key.is_anchor() => RequestOperation::Delete,
            (Some(_), 60..85) => RequestOperation::Patch,
            (Some(_), _) => RequestOperation::Update,
        };
        let operations: Vec<_> = keys.iter().map(|key| (*key, operation(key))).collect();
        let members = operations
            .iter()
            .map(|(key, op)| (*key, *op == RequestOperation::Delete))
            .collect();
        let body = move |token: Value| {
            let changes = operations.iter().filter_map(|(key, op)| {
                let value = contract::CanonicalJson::parse(token.to_string().as_bytes()).ok();
                Some(ChangeRequest {
                    collection: key.collection().parse().ok()?,
                    op: *op,
                    id: key.id().parse().ok()?,
                    config_data: value.filter(|_| *op != RequestOperation::Delete),
                    expected: contract::Expected::Any,
                })
            });
            serde_json::to_string(&ChangeSetRequest {
                changes: changes.collect(),
            })
            .unwrap_or_default()
        };
        let path = "/v1/changes".to_owned();
        Request {
            what: "set",
            method: Method::POST,
            path,
            headers: vec![],
            members,
            body: Box::new(body),
        }
    }
}

pub(super) fn any(random: &mut Random) -> DocumentKey {
    let keys = SLOTS as u64;
    let slot = random.below(keys);
    DocumentKey::all()
        .nth(slot as usize)
        .unwrap_or(DocumentKey {
            collection: 0,
            number: 0,
        })
}

/// Status and outcome of a request, or of one without an answer.
pub(super) fn outcome_of(
    answer: &Result<anyhow::Result<Answer>, tokio::time::error::Elapsed>,
) -> (u16, Outcome) {
    match answer {
        Ok(Ok(answer)) => (answer.status, outcome(answer)),
        // The connection failed, so the request was not sent.
        Ok(Err(error)) if error.downcast_ref().is_some_and(reqwest::Error::is_connect) => {
            (0, Outcome::Refused)
        }
        _ => (0, Outcome::Unknown),
    }
}

fn outcome(answer: &Answer) -> Outcome {
    let problem = serde_json::from_str::<Problem>(&answer.body);
    match answer.status {
        200..300 => Outcome::Acked,
        400..500 => Outcome::Refused,
        _ if problem.is_ok_and(|problem| NOTHING_WRITTEN.contains(&problem.kind)) => {
            Outcome::Refused
        }
        _ => Outcome::Unknown,
    }
}

/// A write of one document returns a revision, a change set a list of them.
fn revisions_of(answer: &Answer) -> Vec<u64> {
    if let Ok(set) = serde_json::from_str::<ChangeSetWritten>(&answer.body) {
        return set.items.iter().map(|item| item.revision).collect();
    }
    answer
        .json()
        .ok()
        .and_then(|body| body["revision"].as_u64())
        .into_iter()
        .collect()
}
