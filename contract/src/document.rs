//! A document in memory and on the wire: one immutable buffer.
//!
//! The buffer contains `{"id":…,"revision":…,"crc":…,"configData":…}`, which is the body of GetById,
//! an item of GetAll and, with a collection in front, a line of a snapshot. It is written once, when
//! the change is applied, and never changed.

use std::fmt::Write;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use triomphe::ThinArc;

use crate::{
    applied::Applied,
    canonical::{CanonicalJson, JsonError, is_canonical},
    ids::{CollectionName, Crc, DocumentId, Revision},
};

/// Media type of a document, and of most other bodies.
pub const JSON: &str = "application/json";
/// Media type of a change of some members of a document (RFC 7396).
pub const MERGE_PATCH: &str = "application/merge-patch+json";

/// One revision of one document. Cloning shares the buffer.
///
/// It is one pointer wide, because the persistent maps of a replica copy some of their entries with
/// each change, and one allocation, because a replica has many.
#[derive(Clone)]
pub struct Document(ThinArc<Header, u8>);

/// What is before the buffer, in its allocation.
struct Header {
    id: DocumentId,
    revision: Revision,
    crc: Crc,
    /// Index of `configData` in the buffer; it ends one byte before the end. What is before it is
    /// short.
    config_at: u16,
}

impl Document {
    /// The document `id` with the value that `revision` gave it. Revision 0 means that its publisher
    /// has no revisions.
    pub fn new(id: DocumentId, revision: Revision, config: &CanonicalJson) -> Self {
        Self::from_canonical(id, revision, config.as_str())
    }

    /// The same from a text that [`CanonicalJson::as_str`] returned earlier, for example from our own
    /// store. The text is not checked.
    pub fn from_canonical(id: DocumentId, revision: Revision, config: &str) -> Self {
        const MEMBERS: usize = r#"{"id":"","revision":,"crc":"","configData":}"#.len();
        let crc = Crc::of(config.as_bytes());
        // Exact, so that the text never moves while it is written.
        let digits = revision.checked_ilog10().unwrap_or(0) as usize + 1;
        let length = MEMBERS + id.as_str().len() + digits + Crc::LEN + config.len();
        let mut json = String::with_capacity(length);
        // Neither an id nor a checksum has a character that JSON escapes.
        write!(
            json,
            r#"{{"id":"{id}","revision":{revision},"crc":"{crc}","configData":"#
        )
        .expect("writing to a String cannot fail");
        let config_at = u16::try_from(json.len()).expect("an id is short");
        json.push_str(config);
        json.push('}');
        debug_assert_eq!(json.len(), length);
        let header = Header {
            id,
            revision,
            crc,
            config_at,
        };
        Self(ThinArc::from_header_and_slice(header, json.as_bytes()))
    }

    /// The same from JSON in any form, which is converted where it is not canonical. The text must be
    /// valid JSON.
    ///
    /// # Errors
    /// As [`CanonicalJson::parse`].
    pub fn from_json(id: DocumentId, revision: Revision, json: &str) -> Result<Self, JsonError> {
        // Fast path: most texts are canonical.
        if is_canonical(json) {
            return Ok(Self::from_canonical(id, revision, json));
        }
        let config = CanonicalJson::parse(json.as_bytes())?;
        Ok(Self::new(id, revision, &config))
    }

    /// Its id.
    pub fn id(&self) -> &DocumentId {
        &self.0.header.header.id
    }

    /// The revision that gave it this value.
    pub fn revision(&self) -> Revision {
        self.0.header.header.revision
    }

    /// CRC-32C over the canonical `configData`.
    pub fn crc(&self) -> Crc {
        self.0.header.header.crc
    }

    /// `{"id":…,"revision":…,"crc":…,"configData":…}`
    pub fn json(&self) -> &[u8] {
        &self.0.slice
    }

    /// The same as the body of an answer, which shares the buffer.
    pub fn body(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// The canonical `configData`.
    pub fn config_data(&self) -> &[u8] {
        let json = self.json();
        &json[usize::from(self.0.header.header.config_at)..json.len() - 1]
    }

    /// Its value.
    ///
    /// # Errors
    /// When the text that it was made of is no JSON.
    pub fn value(&self) -> Result<CanonicalJson, JsonError> {
        let text = String::from_utf8_lossy(self.config_data()).into_owned();
        CanonicalJson::from_canonical(text)
    }

    /// The line of a snapshot, with its line feed: `{"collection":…,"id":…,…}\n`.
    pub fn snapshot_line(&self, collection: &CollectionName, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"collection":""#);
        out.extend_from_slice(collection.as_str().as_bytes());
        out.extend_from_slice(br#"","#);
        out.extend_from_slice(&self.json()[1..]);
        out.push(b'\n');
    }

    /// Entity tag of this revision: `"<revision>-<crc>"`, quotes included (RFC 9110 section 8.8.3).
    pub fn etag(&self) -> String {
        etag(self.revision(), self.crc())
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        // Two maps mostly share their documents, so the pointers are compared first. Revision and
        // checksum are in the buffer as well, but they are shorter to compare.
        std::ptr::eq(self.json(), other.json())
            || (self.revision() == other.revision()
                && self.crc() == other.crc()
                && self.json() == other.json())
    }
}

impl Eq for Document {}

/// Its buffer.
impl AsRef<[u8]> for Document {
    fn as_ref(&self) -> &[u8] {
        self.json()
    }
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.json()))
    }
}

/// Answer to a write of one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct Written {
    /// The document.
    pub id: DocumentId,
    /// Its revision; of a deletion, the revision that deleted it.
    pub revision: Revision,
    /// Checksum of the value; absent after a deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc: Option<Crc>,
    /// Whether the write changed the document; `false` when it had this value already.
    #[serde(default = "changed")]
    pub changed: bool,
    /// Where it has arrived, if the request waited for replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
}

/// A publisher that does not say so changed the document.
fn changed() -> bool {
    true
}

/// Entity tag of a document: `"<revision>-<crc>"`, quotes included.
pub fn etag(revision: Revision, crc: Crc) -> String {
    format!("\"{revision}-{crc}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_buffer_serves_every_form() {
        let config = CanonicalJson::parse(br#"{"b": 1, "a": "x"}"#).expect("json");
        let document = Document::new("app:1".parse().expect("id"), 42, &config);
        let crc = config.crc();
        assert_eq!(
            document.body(),
            format!(
                r#"{{"id":"app:1","revision":42,"crc":"{crc}","configData":{{"a":"x","b":1}}}}"#
            )
        );
        assert_eq!(document.config_data(), br#"{"a":"x","b":1}"#);
        assert_eq!(document.etag(), format!("\"42-{crc}\""));
        let mut line = Vec::new();
        document.snapshot_line(&"Skills".parse().expect("name"), &mut line);
        let item: crate::snapshot::SnapshotItem = serde_json::from_slice(&line).expect("an item");
        assert_eq!((item.document, item.crc), (document, crc));
    }
}
