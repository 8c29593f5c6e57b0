//! Checked names, and the keys in Redis that are made of them. Nothing here connects.
//!
//! All keys of a journal have its name as hash tag, so that one script may touch them: in a cluster
//! a journal lies on one node.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// Longest name, in bytes.
const LONGEST: usize = 128;

/// A text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {LONGEST} characters of A-Z, a-z, 0-9, '.', '_', '~' and '-'")]
pub struct InvalidName;

/// A type for the names of one kind: 1 to 128 unreserved characters of a URL (RFC 3986, section 2.3).
macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of a journal: one kind of aggregate.
    JournalName
}
name! {
    /// The id of an aggregate, unique in its journal (requirement E1).
    AggregateId
}
name! {
    /// The id of one append. A repetition with the same id is answered with the earlier result, so
    /// it must be unique in the aggregate and the same in all attempts of one request.
    AppendId
}
name! {
    /// The name of a consumer group: all processes that feed one projection.
    GroupName
}

impl AggregateId {
    /// A new id at random.
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string())
    }
}

impl AppendId {
    /// A new id at random, for an append that no caller repeats.
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string())
    }
}

fn check(text: &str) -> Result<(), InvalidName> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    if (1..=LONGEST).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(InvalidName)
    }
}

/// The keys of a journal in Redis.
#[derive(Debug, Clone)]
pub(crate) struct Keys(JournalName);

impl Keys {
    pub(crate) fn new(name: JournalName) -> Self {
        Self(name)
    }

    /// The name of the journal, for messages.
    pub(crate) fn journal(&self) -> &JournalName {
        &self.0
    }

    /// The stream of the events of all aggregates: the queue of the consumer groups.
    pub(crate) fn events(&self) -> String {
        format!("journal:{{{}}}:events", self.0)
    }

    /// The stream of the events of one aggregate; the entry of version n is `n-0`.
    pub(crate) fn aggregate(&self, id: &AggregateId) -> String {
        format!("journal:{{{}}}:of:{id}", self.0)
    }

    /// A hash with the version of each aggregate: the list of all ids (requirement E1).
    pub(crate) fn versions(&self) -> String {
        format!("journal:{{{}}}:versions", self.0)
    }

    /// The stream of the entries that a group could not process.
    pub(crate) fn dead(&self, group: &GroupName) -> String {
        format!("journal:{{{}}}:dead:{group}", self.0)
    }

    /// A sorted set: for each letter of that stream a hash of aggregate and reason.
    pub(crate) fn dead_causes(&self, group: &GroupName) -> String {
        format!("journal:{{{}}}:dead:{group}:causes", self.0)
    }

    /// A set of the groups whose projection was caught up with all aggregates once.
    pub(crate) fn caught_up(&self) -> String {
        format!("journal:{{{}}}:caught-up", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_only_characters_that_a_url_and_a_key_can_hold() {
        for wrong in [
            "",
            "a b",
            "a{b}",
            "a:b",
            "a/b",
            "ä",
            "a\n",
            &"a".repeat(129),
        ] {
            assert_eq!(wrong.parse::<AggregateId>(), Err(InvalidName), "{wrong:?}");
        }
        for right in ["a", "A-1._~", &"a".repeat(128)] {
            assert_eq!(right.parse::<AggregateId>().expect(right).as_str(), right);
        }
    }

    #[test]
    fn all_keys_of_a_journal_have_one_hash_tag() {
        let keys = Keys::new("account".parse().expect("a name"));
        let id = AggregateId::random();
        let group = "readers".parse().expect("a name");
        for key in [
            keys.events(),
            keys.aggregate(&id),
            keys.versions(),
            keys.dead(&group),
            keys.dead_causes(&group),
            keys.caught_up(),
        ] {
            assert!(key.starts_with("journal:{account}:"), "{key}");
        }
    }
}
