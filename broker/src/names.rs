//! The names of channels and streams (requirement A7, A8). One form is written, two are read.
//!
//! `1__:aura-config:ChannelConfiguration` is the channel of a collection; with `:{id}` after it,
//! the channel of one document. Other publishers write the name without the colon before the
//! collection, so that form is read as well (requirement F17).

use std::{fmt, str::FromStr};

use contract::{CollectionName, DocumentId};

/// The names in one database, under one prefix.
///
/// Channels of Redis are the same in all databases, so the number of the database is a part of each
/// name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Number of the database; in a cluster it is a part of the names only.
    database: u32,
    /// The beginning of all channels: `1__:aura-config`
    base: String,
}

/// `AURA_REDIS_CONFIGURATION_PREFIX`: 1 to 128 visible ASCII characters without braces, which have
/// a meaning in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

/// The text is not a prefix.
#[derive(Debug, thiserror::Error)]
#[error("expected 1 to 128 visible ASCII characters without {{ and }}")]
pub struct PrefixError;

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'{' && byte != b'}';
        let valid = (1..=128).contains(&text.len()) && text.bytes().all(fits);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(PrefixError)
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The parts of the name of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The collection.
    pub collection: CollectionName,
    /// The document, if the channel belongs to one.
    pub id: Option<DocumentId>,
}

impl Names {
    /// The names in a database (`AURA_REDIS_DATABASE`) under a prefix.
    pub fn new(database: u32, prefix: &Prefix) -> Self {
        Self {
            database,
            base: format!("{database}__:{prefix}"),
        }
    }

    /// The database.
    pub fn database(&self) -> u32 {
        self.database
    }

    /// The channel of a collection.
    pub fn channel(&self, collection: &CollectionName) -> String {
        format!("{}:{collection}", self.base)
    }

    /// The channel of a document.
    pub fn document_channel(&self, collection: &CollectionName, id: &DocumentId) -> String {
        format!("{}:{collection}:{id}", self.base)
    }

    /// The same channel in the form without a colon, which is read and never written.
    pub fn bare_channel(&self, collection: &CollectionName) -> String {
        format!("{}{collection}", self.base)
    }

    /// Patterns that match all channels of a collection in both forms. They also match collections
    /// whose name continues after this one; [`Names::read`] tells them apart.
    pub fn patterns(&self, collection: &CollectionName) -> [String; 2] {
        [self.channel(collection), self.bare_channel(collection)]
            .map(|channel| escape(&channel) + "*")
    }

    /// All channels that may carry one document, in both forms: its own channel and that of the
    /// collection.
    pub fn document_channels(&self, collection: &CollectionName, id: &DocumentId) -> [String; 4] {
        let channel = self.channel(collection);
        let bare = self.bare_channel(collection);
        [
            self.document_channel(collection, id),
            format!("{bare}:{id}"),
            channel,
            bare,
        ]
    }

    /// The key of the stream of a collection. The braces are a hash tag: they keep the streams of
    /// all collections on one node of a cluster, so that one command reads them all (Redis cluster
    /// specification).
    pub fn stream(&self, collection: &CollectionName) -> String {
        format!("{{{}}}:{collection}", self.base)
    }

    /// Parses the name of a channel, in either form; `None` when it is not one of these.
    pub fn read(&self, channel: &str) -> Option<Channel> {
        let rest = channel.strip_prefix(&self.base)?;
        // The form of other publishers has no colon here.
        let rest = rest.strip_prefix(':').unwrap_or(rest);
        // A collection has no colon in its name; an id may have one.
        let (collection, id) = match rest.split_once(':') {
            Some((collection, id)) => (collection, Some(id.parse().ok()?)),
            None => (rest, None),
        };
        Some(Channel {
            collection: collection.parse().ok()?,
            id,
        })
    }
}

/// Escapes every character that has a meaning in a pattern (Redis command PSUBSCRIBE), and no
/// other: an ACL compares patterns as text.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(prefix: &str) -> Names {
        Names::new(1, &prefix.parse().expect("a prefix"))
    }

    fn channels() -> CollectionName {
        "ChannelConfiguration".parse().expect("a name")
    }

    #[test]
    fn names_have_the_form_of_the_requirements() {
        let names = names("aura-config");
        let agent = "a:7".parse().expect("an id");
        assert_eq!(
            names.channel(&channels()),
            "1__:aura-config:ChannelConfiguration"
        );
        assert_eq!(
            names.document_channel(&channels(), &agent),
            "1__:aura-config:ChannelConfiguration:a:7"
        );
        assert_eq!(
            names.stream(&channels()),
            "{1__:aura-config}:ChannelConfiguration"
        );
    }

    #[test]
    fn both_forms_are_read_and_no_other() {
        let read = |channel: &str| {
            names("aura-config")
                .read(channel)
                .map(|read| (read.collection, read.id))
        };
        let whole = Some((channels(), None));
        assert_eq!(read("1__:aura-config:ChannelConfiguration"), whole);
        assert_eq!(read("1__:aura-configChannelConfiguration"), whole);
        let one = Some((channels(), Some("a:7".parse().expect("an id"))));
        assert_eq!(read("1__:aura-config:ChannelConfiguration:a:7"), one);
        assert_eq!(read("1__:aura-configChannelConfiguration:a:7"), one);
        assert_eq!(
            read("1__:aura-config:ChannelConfigurationX")
                .map(|(name, _)| name.to_string())
                .as_deref(),
            Some("ChannelConfigurationX")
        );
        for other in [
            "2__:aura-config:ChannelConfiguration",
            "1__:aura:ChannelConfiguration",
            "1__:aura-config",
            "1__:aura-config::C",
            "1__:aura-config:ChannelConfiguration:",
            "1__:aura-config:ChannelConfiguration:a b",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_pattern_escapes_the_characters_of_the_prefix() {
        let patterns = names("a*b[c]?").patterns(&"X".parse().expect("a name"));
        assert_eq!(patterns, [r"1__:a\*b\[c]\?:X*", r"1__:a\*b\[c]\?X*"]);
    }

    #[test]
    fn a_prefix_is_visible_and_has_no_braces() {
        for wrong in ["", "a b", "{a}", "ü", &"x".repeat(129)] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }
}
