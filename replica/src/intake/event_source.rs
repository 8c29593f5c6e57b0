//! From where the events of each collection came lately: for the log line about one that was wrong.
//!
//! Nothing here judges an event. Memory is bounded: a few sources for each followed collection.

use std::{collections::BTreeMap, fmt};

use contract::CollectionName;

/// Sources that are remembered of one collection between two check-ins.
const MAX_SOURCES: usize = 4;

/// Where an event came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventSource {
    /// A request of this address: of a sidecar or a publisher, or of another client.
    #[cfg(any(test, feature = "actix"))]
    Posted(Option<std::net::IpAddr>),
    /// Redis.
    #[cfg(feature = "redis")]
    Redis,
    /// The live feed of a publisher or subscriber.
    Feed,
    /// The service that embeds the replica.
    Service,
}

impl EventSource {
    /// Whether several events of it may be on their way at the same time, each in a task of its own.
    pub(super) fn has_many_connections(self) -> bool {
        match self {
            #[cfg(any(test, feature = "actix"))]
            Self::Posted(_) => true,
            #[cfg(feature = "redis")]
            Self::Redis => false,
            Self::Feed | Self::Service => false,
        }
    }

    /// The name in spans.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            #[cfg(any(test, feature = "actix"))]
            Self::Posted(_) => "dapr",
            #[cfg(feature = "redis")]
            Self::Redis => "redis",
            Self::Feed => "feed",
            Self::Service => "service",
        }
    }
}

impl fmt::Display for EventSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(any(test, feature = "actix"))]
            Self::Posted(Some(address)) => write!(f, "requests of {address}"),
            #[cfg(any(test, feature = "actix"))]
            Self::Posted(None) => f.write_str("requests of an unknown address"),
            #[cfg(feature = "redis")]
            Self::Redis => f.write_str("Redis"),
            Self::Feed => f.write_str("the live feed"),
            Self::Service => f.write_str("the service itself"),
        }
    }
}

/// The sources of the newest events, by collection.
#[derive(Debug, Default)]
pub(super) struct RecentSources(BTreeMap<CollectionName, Recent>);

/// The sources of one collection.
#[derive(Debug, Default)]
struct Recent {
    /// Since the last check-in.
    now: Sources,
    /// Between the two check-ins before. An event may come while a check-in is answered.
    before: Sources,
}

#[derive(Debug, Default)]
struct Sources {
    named: Vec<EventSource>,
    /// Whether there were others.
    more: bool,
}

impl RecentSources {
    /// Notes an event. Its collection is followed, so the number of entries is bounded.
    pub(super) fn note(&mut self, collection: &CollectionName, source: EventSource) {
        match self.0.get_mut(collection) {
            Some(recent) => recent.now.add(source),
            None => {
                let mut recent = Recent::default();
                recent.now.add(source);
                self.0.insert(collection.clone(), recent);
            }
        }
    }

    /// A check-in was answered.
    pub(super) fn age(&mut self) {
        for recent in self.0.values_mut() {
            recent.before = std::mem::take(&mut recent.now);
        }
    }

    /// The sources of a collection, for a person.
    pub(super) fn of(&self, collection: &CollectionName) -> String {
        let mut all = Sources::default();
        if let Some(Recent { now, before }) = self.0.get(collection) {
            now.named
                .iter()
                .chain(&before.named)
                .for_each(|source| all.add(*source));
            all.more |= now.more || before.more;
        }
        let names: Vec<_> = all.named.iter().map(ToString::to_string).collect();
        match (names.is_empty(), all.more) {
            (true, _) => "no source since the last check-ins".to_owned(),
            (false, false) => names.join(", "),
            (false, true) => format!("{} and others", names.join(", ")),
        }
    }
}

impl Sources {
    fn add(&mut self, source: EventSource) {
        if self.named.contains(&source) {
            return;
        }
        if self.named.len() < MAX_SOURCES {
            self.named.push(source);
        } else {
            self.more = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_of_two_check_ins_are_remembered_and_bounded() {
        let name: CollectionName = "A".parse().expect("a name");
        let posted = |last| EventSource::Posted(Some([10, 0, 0, last].into()));
        let mut sources = RecentSources::default();
        sources.note(&name, posted(1));
        sources.note(&name, posted(1));
        sources.age();
        sources.note(&name, EventSource::Feed);
        assert_eq!(sources.of(&name), "the live feed, requests of 10.0.0.1");
        sources.age();
        assert_eq!(sources.of(&name), "the live feed");
        sources.age();
        assert_eq!(sources.of(&name), "no source since the last check-ins");
        for last in 0..=255 {
            sources.note(&name, posted(last));
        }
        assert!(sources.of(&name).ends_with("10.0.0.3 and others"));
    }
}
