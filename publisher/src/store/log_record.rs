//! What a record of the change log is read as: a whole change, or as much of it as a reader needs.
//!
//! Nothing here reads a row: both backends check the text of a record before it comes here.

use std::sync::Arc;

use contract::{Change, ChangeSet, CollectionName, DocumentId, Epoch, Revision};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::store::past::ValueRecord;

/// A type that the text of a record is read as.
pub(super) trait LogRecord: Sized {
    /// Reads the text of a record.
    ///
    /// # Errors
    /// When the text is not a record.
    fn read(text: &str) -> serde_json::Result<Self>;

    /// Collection, revision and document, as the text says. A row that was found by another key is
    /// damaged.
    fn key(&self) -> (&CollectionName, Revision, &DocumentId);
}

impl LogRecord for Change {
    fn read(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    fn key(&self) -> (&CollectionName, Revision, &DocumentId) {
        (&self.collection, self.revision, &self.id)
    }
}

impl LogRecord for ValueRecord {
    fn read(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    fn key(&self) -> (&CollectionName, Revision, &DocumentId) {
        (&self.collection, self.revision, &self.id)
    }
}

/// A change as the feed sends it: the text that was committed, and what a page needs to know of it.
///
/// A reader that is behind asks for many records. Their texts were canonical when they were
/// committed, and the store has proven that they are the same; so none is written again.
#[derive(Debug, Clone)]
pub struct FeedRecord {
    collection: CollectionName,
    id: DocumentId,
    revision: Revision,
    epoch: Epoch,
    value_bytes: usize,
    change_set: Option<Arc<ChangeSet>>,
    /// JSON, as [`LogRecord::read`] has checked.
    text: Arc<str>,
}

impl FeedRecord {
    /// The record of a change.
    ///
    /// # Errors
    /// Never for a change that can be committed.
    pub fn of(change: &Change) -> serde_json::Result<Self> {
        Self::read(&serde_json::to_string(change)?)
    }

    /// The change.
    ///
    /// # Errors
    /// When the text has the members of a record and is not a change: its row was edited.
    pub fn change(&self) -> serde_json::Result<Change> {
        serde_json::from_str(&self.text)
    }

    /// The text of the change: JSON.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The collection of the change.
    pub fn collection(&self) -> &CollectionName {
        &self.collection
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The epoch of the revision.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Bytes of the value; 0 when the document was deleted.
    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// The change set of the change.
    pub fn change_set(&self) -> Option<&ChangeSet> {
        self.change_set.as_deref()
    }
}

impl LogRecord for FeedRecord {
    fn read(text: &str) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Members<'a> {
            collection: CollectionName,
            id: DocumentId,
            revision: Revision,
            epoch: Epoch,
            #[serde(borrow)]
            config_data: Option<&'a RawValue>,
            change_set: Option<ChangeSet>,
        }

        let members: Members<'_> = serde_json::from_str(text)?;
        Ok(Self {
            collection: members.collection,
            id: members.id,
            revision: members.revision,
            epoch: members.epoch,
            value_bytes: members.config_data.map_or(0, |value| value.get().len()),
            change_set: members.change_set.map(Arc::new),
            text: text.into(),
        })
    }

    fn key(&self) -> (&CollectionName, Revision, &DocumentId) {
        (&self.collection, self.revision, &self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_record_is_sent_as_it_was_committed() {
        let text = r#"{"collection":"A","op":"Update","id":"a","revision":7,"epoch":"00000001-1","lastSet":0,"configData":{"n":9007199254740993},"crc":"00000000","changeSet":{"id":"s","parts":[]},"time":"2026-11-21T09:00:00.123Z","count":1,"digest":"0000000000000000","aMemberOfALaterVersion":1}"#;
        let record = FeedRecord::read(text).expect("a record");
        assert_eq!(record.text(), text);
        assert_eq!(record.value_bytes(), r#"{"n":9007199254740993}"#.len());
        let change = record.change().expect("a change");
        assert!(record.change_set().is_some());
        assert_eq!(record.change_set(), change.change_set.as_ref());
        assert_eq!(record.key(), change.key());
        assert_eq!(record.epoch(), change.epoch);
        let again = FeedRecord::of(&change).expect("a record");
        assert_eq!(again.change().expect("a change"), change);
    }

    #[test]
    fn a_text_without_the_members_of_a_record_is_refused() {
        for text in ["", "{}", r#"{"collection":"A","id":"a","revision":"7"}"#] {
            assert!(FeedRecord::read(text).is_err(), "{text}");
        }
    }
}
