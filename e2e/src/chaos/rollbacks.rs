//! The way back: rollbacks of documents, collections and change sets, and named snapshots.
//!
//! A rollback gives documents values that earlier requests wrote, so its record names them: its own
//! token is never seen.

use contract::{Operation, rollback::Rollback};
use reqwest::Method;
use serde_json::json;
use tokio::time::timeout;

use super::{
    driver::{Driver, TIMEOUT, any, outcome_of},
    random::Random,
    record::{DOCUMENTS, DocumentKey, NamedState, Outcome},
};
use crate::client::{Answer, Api, document_path};

/// How far back a rollback goes at most, in revisions.
const BACK: u64 = 60;
/// Named snapshots that exist at the same time.
const SNAPSHOTS: usize = 6;

/// A rollback that is ready to be sent.
struct Request {
    what: &'static str,
    path: String,
    body: String,
    /// The documents that it may change.
    keys: Vec<DocumentKey>,
}

impl Driver {
    /// Rolls back a document, a collection or a change set.
    pub(super) async fn roll_back(&self, api: &Api, writer: usize, random: &mut Random) {
        let Some(request) = self.rollback(random) else {
            return;
        };
        let keys = request.keys.iter().copied();
        let token = self
            .record()
            .begin_rollback(request.what, writer, self.now(), keys);
        let headers = [("content-type", "application/json")];
        let sent = api.send(Method::POST, &request.path, &headers, request.body);
        let answer = timeout(TIMEOUT, sent).await;
        let (status, mut outcome) = outcome_of(&answer);
        let mut changed = Vec::new();
        if let (Outcome::Acked, Ok(Ok(answer))) = (outcome, &answer) {
            match changes(answer) {
                Some((id, items)) => {
                    changed = items;
                    self.rolled_back(id, &changed);
                }
                // It was done, and the answer does not say what.
                None => outcome = Outcome::Unknown,
            }
        }
        let mut record = self.record();
        record.end(token, self.now(), status, outcome, &[]);
        if outcome == Outcome::Acked {
            record.rolled_back(token, &changed);
        }
    }

    fn rollback(&self, random: &mut Random) -> Option<Request> {
        if random.below(3) == 0 {
            let sets = self.sets();
            let (id, keys) = random.pick(sets.get(..).filter(|sets| !sets.is_empty())?);
            return Some(Request {
                what: "undo set",
                path: format!("/v1/sets/{id}/rollback"),
                body: "{}".to_owned(),
                keys: keys.clone(),
            });
        }
        let key = any(random);
        let newest =
            (0..DOCUMENTS).filter_map(|number| self.known()[DocumentKey { number, ..key }.slot()]);
        let newest = newest.max()?;
        // The documents that are never deleted are the first ones of their collections.
        let back = newest.saturating_sub(random.below(BACK));
        let body = json!({"toRevision": back.max(u64::from(DOCUMENTS))}).to_string();
        if random.below(3) == 0 {
            return Some(Request {
                what: "roll back collection",
                path: format!("/v1/collections/{}/rollback", key.collection()),
                body,
                keys: (0..DOCUMENTS)
                    .map(|number| DocumentKey { number, ..key })
                    .collect(),
            });
        }
        Some(Request {
            what: "roll back",
            path: format!("{}/rollback", document_path(key.collection(), &key.id())),
            body,
            keys: vec![key],
        })
    }

    fn rolled_back(&self, id: Option<String>, changed: &[(DocumentKey, u64, Option<u64>)]) {
        {
            let mut known = self.known();
            for (key, revision, restored) in changed {
                known[key.slot()] = restored.map(|_| *revision);
            }
        }
        if let Some(id) = id {
            let keys = changed.iter().map(|(key, ..)| *key).collect();
            self.remember_set(id, keys);
        }
    }

    /// Names the present state, and deletes the oldest name of many.
    pub(super) async fn name_the_present(&self, api: &Api, writer: usize, counter: u64) {
        let name = format!("s-{writer}-{counter}");
        let started = self.now();
        let created = self.at_snapshot(api, Method::PUT, &name).await;
        let ended = self.now();
        let old = {
            let mut record = self.record();
            if created {
                record.snapshots.push(NamedState {
                    name,
                    started,
                    ended,
                    deleting: None,
                });
            }
            let kept = |state: &&mut NamedState| state.deleting.is_none();
            let mut kept: Vec<_> = record.snapshots.iter_mut().filter(kept).collect();
            (kept.len() > SNAPSHOTS).then(|| {
                kept[0].deleting = Some(ended);
                kept[0].name.clone()
            })
        };
        if let Some(old) = old {
            self.at_snapshot(api, Method::DELETE, &old).await;
        }
    }

    async fn at_snapshot(&self, api: &Api, method: Method, name: &str) -> bool {
        let headers = [("content-type", "application/json")];
        let path = format!("/v1/snapshots/{name}");
        let answer = timeout(TIMEOUT, api.send(method, &path, &headers, "")).await;
        outcome_of(&answer).1 == Outcome::Acked
    }
}

/// What a rollback did: the id of its change set, and each document with its new revision and the one
/// that it has the value of.
type Changes = (Option<String>, Vec<(DocumentKey, u64, Option<u64>)>);

fn changes(answer: &Answer) -> Option<Changes> {
    let Rollback { id, items, .. } = serde_json::from_str(&answer.body).ok()?;
    let items = items.into_iter().map(|item| {
        let key = DocumentKey::parse(item.collection.as_str(), item.id.as_str())?;
        let restored = item.restored.filter(|_| item.op != Operation::Delete);
        Some((key, item.revision?, restored))
    });
    Some((id, items.collect::<Option<_>>()?))
}
