//! A state as `confcast diff` reads it: `[COLLECTION[/ID]][@POINT]`.
//!
//! Neither a name nor an id has the character `@`, so the first one begins the point.

use std::str::FromStr;

use contract::{CollectionName, DocumentId, history::Point};

use crate::commands::point;

/// Before the name of a snapshot: a name alone may look like a revision or a day.
const SNAPSHOT: &str = "snapshot:";

/// Which documents, and of which moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Operand {
    /// None is all collections.
    pub(super) collection: Option<CollectionName>,
    /// None is all documents of the collection.
    pub(super) id: Option<DocumentId>,
    /// None is the present.
    pub(super) point: Option<Point>,
}

impl Operand {
    /// The same state; collection and id are those of the other one when it names none.
    pub(super) fn completed_by(mut self, other: &Self) -> Self {
        if self.collection.is_none() {
            self.collection = other.collection.clone();
            self.id = other.id.clone();
        }
        self
    }
}

impl FromStr for Operand {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (documents, point) = match text.split_once('@') {
            Some((documents, point)) => (documents, Some(point)),
            None => (text, None),
        };
        let (collection, id) = match documents.split_once('/') {
            Some((collection, id)) => (collection, Some(id)),
            None => (documents, None),
        };
        let operand = Self {
            // No collection and an id is no state: the empty name is refused.
            collection: (!collection.is_empty() || id.is_some())
                .then(|| collection.parse())
                .transpose()
                .map_err(|error: contract::ids::FormatError| error.to_string())?,
            id: id
                .map(str::parse)
                .transpose()
                .map_err(|error: contract::ids::FormatError| error.to_string())?,
            point: point.map(read_point).transpose()?.flatten(),
        };
        if operand == Self::default() && point.is_none() {
            return Err("expected [COLLECTION[/ID]][@POINT]; @now is the present".to_owned());
        }
        Ok(operand)
    }
}

/// The point; `None` for the present.
fn read_point(text: &str) -> Result<Option<Point>, String> {
    if text == "now" {
        return Ok(None);
    }
    if let Some(name) = text.strip_prefix(SNAPSHOT) {
        let name = name.parse();
        return name
            .map(|name| Some(Point::Snapshot(name)))
            .map_err(|error: contract::ids::FormatError| error.to_string());
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let revision = text.parse();
        return revision
            .map(|revision| Some(Point::Revision(revision)))
            .map_err(|error| format!("revision {text}: {error}"));
    }
    point::time(text)
        .map(|time| Some(Point::Time(time)))
        .map_err(|forms| format!("{forms}, a revision, {SNAPSHOT}NAME, or now"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Operand {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_state_names_documents_and_a_point() {
        let whole = read("ChannelConfiguration/whatsapp-es@41");
        assert_eq!(whole.point, Some(Point::Revision(41)));
        assert_eq!(
            whole.id.as_ref().map(DocumentId::as_str),
            Some("whatsapp-es")
        );
        assert_eq!(
            read("@44").completed_by(&whole).point,
            Some(Point::Revision(44))
        );
        let named = read("A@snapshot:41");
        assert_eq!(
            named.point,
            Some(Point::Snapshot("41".parse().expect("a name")))
        );
        assert!(matches!(
            read("A@2026-11-28T09:00:00+02:00").point,
            Some(Point::Time(_))
        ));
        assert!(matches!(read("@2h 30m ago").point, Some(Point::Time(_))));
        assert_eq!(read("A/b@now").point, None);
        assert_eq!(read("@now"), Operand::default());
        let completed = read("@snapshot:x").completed_by(&whole);
        assert_eq!(
            (completed.collection, completed.id),
            (whole.collection.clone(), whole.id.clone())
        );
    }

    #[test]
    fn what_is_no_state_is_refused_with_the_form() {
        for (text, error) in [
            ("", "COLLECTION[/ID]"),
            ("/a", "a letter, then"),
            ("A/", "1 to 128"),
            ("A@", "a revision"),
            ("A@yesterday", "snapshot:NAME"),
            ("A@snapshot:a/b", "1 to 64"),
            ("A@99999999999999999999", "revision 9999"),
        ] {
            let refused = text.parse::<Operand>().expect_err(text);
            assert!(refused.contains(error), "{text}: {refused}");
        }
    }
}
