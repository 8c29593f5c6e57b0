//! Folding: what a group of writes makes of the documents it finds. Pure, so every rule of the API is tested without a store.
//!
//! Each write sees what the ones before it in the group did, and gets a verdict of its own: a refused write takes
//! nothing away from its neighbours. No I/O happens here and nothing is decided anywhere else.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use contract::{CanonicalJson, Change, CollectionName, Crc, Document, DocumentId, Epoch, Head, Operation, Revision};
use serde_json::Value;

use crate::{error::ApiError, schemas::Schemas};

/// One write as it waits for its group.
#[derive(Debug, Clone)]
pub struct Write {
    /// The collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// What to do with it.
    pub action: Action,
    /// What must hold of it first.
    pub condition: Condition,
    /// `X-Correlation-Id` of the request.
    pub correlation_id: Option<String>,
    /// `traceparent` of the request.
    pub traceparent: Option<String>,
}

/// What a write does.
#[derive(Debug, Clone)]
pub enum Action {
    /// A new document; 409 when it exists.
    Create(CanonicalJson),
    /// A new value: the stored `metadata` member is merged with the given one, the rest is replaced (seeds.md A18).
    Put(CanonicalJson),
    /// A merge patch (RFC 7396).
    Patch(Value),
    /// The document goes.
    Delete,
}

/// What must hold of a document for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    Any,
    /// `If-None-Match: *`: nothing is there.
    Absent,
    /// `If-Match: *`: something is there.
    Present,
    /// `If-Match: "<revision>"` or `"<revision>-<crc>"`.
    At(Revision, Option<Crc>),
}

/// What a write came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What changed; `None` when the document already had that value.
    pub op: Option<Operation>,
    /// The document.
    pub id: DocumentId,
    /// Its revision; of a deletion, the revision that deleted it.
    pub revision: Revision,
    /// Checksum of its value; absent after a deletion.
    pub crc: Option<Crc>,
}

/// The answer to one write.
pub type Verdict = Result<Done, ApiError>;

/// Where a document is.
pub type Place = (CollectionName, DocumentId);

/// What a transaction finds: heads of all collections that the group names, and its documents that exist.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The history of the store.
    pub epoch: Epoch,
    /// Heads by collection.
    pub heads: BTreeMap<CollectionName, Head>,
    /// Documents by place.
    pub documents: HashMap<Place, Document>,
}

/// What a transaction writes.
#[derive(Debug)]
pub struct Folded {
    /// One verdict per write, in order; none for those at the end that no longer fit.
    pub verdicts: Vec<Verdict>,
    /// The changes, by collection contiguous and in order.
    pub changes: Vec<Change>,
    /// The ground after them.
    pub after: Ground,
}

/// What a group makes, in bytes as they are stored: a small patch of a large document is a large change.
const FOLDED_BYTES: usize = 4 << 20;

/// Largest document as BSON, which a store may have to write: 16 MiB, less what stands around the value.
const STORED_BYTES: usize = 15 << 20;

/// What every document must obey.
#[derive(Debug)]
pub struct Rules {
    /// Schemas by collection.
    pub schemas: Schemas,
    /// Largest document, in bytes of canonical JSON.
    pub document_limit: usize,
}

impl Rules {
    /// Folds a group, in order, until what it makes would be too much for one transaction. The first write always fits.
    pub fn fold(&self, ground: Ground, writes: &[Write], now: DateTime<Utc>) -> Folded {
        let (mut after, mut changes, mut verdicts, mut bytes) = (ground, Vec::new(), Vec::new(), 0);
        for write in writes {
            if bytes >= FOLDED_BYTES {
                break;
            }
            let before = changes.len();
            verdicts.push(self.one(&mut after, write, now, &mut changes));
            let made = changes[before..].iter().filter_map(|change: &Change| change.config_data.as_ref());
            bytes += made.map(stored_size).sum::<usize>();
        }
        Folded { verdicts, changes, after }
    }

    fn one(&self, ground: &mut Ground, write: &Write, now: DateTime<Utc>, changes: &mut Vec<Change>) -> Verdict {
        let place = (write.collection.clone(), write.id.clone());
        let held = ground.documents.get(&place);
        check_condition(write, held)?;
        let config = self.next_value(write, held)?;
        if let (Some(held), Some(config)) = (held, &config)
            && held.config_data() == config.as_str()
        {
            return Ok(Done { op: None, id: write.id.clone(), revision: held.revision(), crc: Some(held.crc()) });
        }
        let op = match (held, &config) {
            (_, None) => Operation::Delete,
            (None, Some(_)) => Operation::Create,
            (Some(_), Some(_)) => Operation::Update,
        };
        let change = ground.advance(write, op, config, now)?;
        let done = Done { op: Some(op), id: change.id.clone(), revision: change.revision, crc: change.crc };
        changes.push(change);
        Ok(done)
    }

    /// The value that the write asks for; `None` = the document goes.
    fn next_value(&self, write: &Write, held: Option<&Document>) -> Result<Option<CanonicalJson>, ApiError> {
        let missing = || ApiError::no_data(&write.collection, &write.id);
        let config = match &write.action {
            Action::Delete => return held.map(|_gone| None).ok_or_else(missing),
            Action::Create(config) => match held {
                Some(held) => return Err(ApiError::exists(&write.collection, &write.id, held)),
                None => config.clone(),
            },
            Action::Put(config) => match held {
                Some(held) => merge_metadata(held, config)?,
                None if write.condition == Condition::Absent => config.clone(),
                None => return Err(missing()),
            },
            Action::Patch(patch) => {
                let mut value = parse(held.ok_or_else(missing)?)?;
                json_patch::merge(&mut value, patch);
                canonical(&value)?
            }
        };
        self.check(write, &config)?;
        Ok(Some(config))
    }

    fn check(&self, write: &Write, config: &CanonicalJson) -> Result<(), ApiError> {
        if config.as_str().len() > self.document_limit {
            return Err(ApiError::too_large(self.document_limit));
        }
        if stored_size(config) > STORED_BYTES {
            return Err(ApiError::too_large(STORED_BYTES));
        }
        let value: Value = serde_json::from_str(config.as_str()).map_err(|error| unreadable(&error))?;
        if !value.is_object() {
            let detail = "A document is a JSON object";
            return Err(contract::Problem::new(400, "bad-body", "The body is not a document", detail).at("").into());
        }
        if value.get("id").is_some_and(|id| id != write.id.as_str()) {
            let detail = format!("The id in the body must be {:?}, as in the path, or be left out", write.id);
            return Err(contract::Problem::new(400, "bad-body", "The ids disagree", detail).at("/id").into());
        }
        self.schemas.check(&write.collection, &value)
    }
}

impl Ground {
    /// Makes a change: the next revision of its collection, with head and document as they are after it.
    fn advance(
        &mut self,
        write: &Write,
        op: Operation,
        config: Option<CanonicalJson>,
        now: DateTime<Utc>,
    ) -> Result<Change, ApiError> {
        let unknown = || ApiError::unknown_collection(write.collection.as_str());
        let head = self.heads.get_mut(&write.collection).ok_or_else(unknown)?;
        let place = (write.collection.clone(), write.id.clone());
        head.revision += 1;
        let (crc, old) = match &config {
            Some(config) => {
                let document = Document::new(write.id.clone(), head.revision, config);
                let crc = document.crc();
                head.digest = head.digest.with(document.id(), document.revision(), crc);
                head.count += 1;
                (Some(crc), self.documents.insert(place, document))
            }
            None => (None, self.documents.remove(&place)),
        };
        if let Some(old) = old {
            head.digest = head.digest.without(old.id(), old.revision(), old.crc());
            head.count -= 1;
        }
        Ok(Change {
            collection: write.collection.clone(),
            op,
            id: write.id.clone(),
            revision: head.revision,
            epoch: self.epoch,
            last_set: head.last_set,
            crc,
            config_data: config,
            change_set: None,
            time: now,
            count: head.count,
            digest: head.digest,
            correlation_id: write.correlation_id.clone(),
            traceparent: write.traceparent.clone(),
        })
    }
}

fn check_condition(write: &Write, held: Option<&Document>) -> Result<(), ApiError> {
    let holds = match write.condition {
        Condition::Any => true,
        Condition::Absent => held.is_none(),
        Condition::Present => held.is_some(),
        Condition::At(revision, crc) => {
            held.is_some_and(|held| held.revision() == revision && crc.is_none_or(|crc| crc == held.crc()))
        }
    };
    if holds { Ok(()) } else { Err(ApiError::condition_failed(held)) }
}

/// The given value, its `metadata` laid over the stored one. What is not an object cannot be merged: the given one wins.
fn merge_metadata(held: &Document, config: &CanonicalJson) -> Result<CanonicalJson, ApiError> {
    let mut stored = parse(held)?;
    let Some(Value::Object(stored)) = stored.get_mut("metadata").map(Value::take) else { return Ok(config.clone()) };
    let mut given: Value = serde_json::from_str(config.as_str()).map_err(|error| unreadable(&error))?;
    let Some(members) = given.as_object_mut() else { return Ok(config.clone()) };
    match members.get_mut("metadata") {
        None => {
            members.insert("metadata".to_owned(), Value::Object(stored));
        }
        Some(Value::Object(metadata)) => {
            for (key, value) in stored {
                metadata.entry(key).or_insert(value);
            }
        }
        Some(_not_an_object) => return Ok(config.clone()),
    }
    canonical(&given)
}

/// At most so many bytes as BSON, where an element of an array carries its index and eight bytes of number.
fn stored_size(config: &CanonicalJson) -> usize {
    let text = config.as_str();
    text.len() + 17 * text.bytes().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count()
}

fn parse(held: &Document) -> Result<Value, ApiError> {
    serde_json::from_slice(&held.config_data()).map_err(|error| unreadable(&error))
}

fn canonical(value: &Value) -> Result<CanonicalJson, ApiError> {
    CanonicalJson::parse(value.to_string().as_bytes()).map_err(ApiError::bad_body)
}

fn unreadable(error: &serde_json::Error) -> ApiError {
    contract::Problem::new(500, "unreadable", "A stored document cannot be read", error.to_string()).into()
}

#[cfg(test)]
mod tests;
