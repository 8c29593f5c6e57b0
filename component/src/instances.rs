//! The components that sidecars made of this program, and whether they can work.
//!
//! A sidecar initialises a component once, when it starts. After a restart of this program a sidecar
//! that runs would not subscribe again, and says so nowhere: so the program is not ready until a sidecar
//! has initialised it. It is not ready either while a topic that had a subscriber has none.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use contract::CollectionName;
use subscriber::app::Readiness;

/// What sidecars did since the start of the program.
#[derive(Debug, Default)]
pub(crate) struct Instances(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Components by name, with the default collection of a state store.
    components: BTreeMap<String, Option<CollectionName>>,
    /// Subscribers by topic. One that ended stays with 0.
    topics: BTreeMap<CollectionName, usize>,
}

/// A subscriber, until it is dropped.
#[derive(Debug)]
pub(crate) struct Subscribed {
    instances: Arc<Instances>,
    topic: CollectionName,
}

impl Instances {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a sidecar initialised a component.
    pub(crate) fn initialised(&self, name: &str, collection: Option<CollectionName>) {
        let mut seen = self.seen();
        seen.components.insert(name.to_owned(), collection);
        // A sidecar that starts says anew to which topics it subscribes.
        seen.topics.retain(|_topic, subscribers| *subscribers > 0);
    }

    /// The default collection of a component; `None` when no sidecar initialised it.
    pub(crate) fn collection_of(&self, name: &str) -> Option<Option<CollectionName>> {
        self.seen().components.get(name).cloned()
    }

    /// Notes a subscriber.
    pub(crate) fn subscribed(self: &Arc<Self>, topic: &CollectionName) -> Subscribed {
        *self.seen().topics.entry(topic.clone()).or_default() += 1;
        Subscribed {
            instances: Arc::clone(self),
            topic: topic.clone(),
        }
    }

    /// Why it cannot work, and the remedy.
    fn problem(&self) -> Option<String> {
        let seen = self.seen();
        if seen.components.is_empty() {
            return Some(
                "No sidecar has initialised the component since this program started. A sidecar does \
                 that once, when it starts: restart the sidecar"
                    .to_owned(),
            );
        }
        let mut lost = seen.topics.iter().filter(|(_, number)| **number == 0);
        lost.next().map(|(topic, _)| {
            format!(
                "The sidecar no longer subscribes to {topic}: start it, or restart it where it runs"
            )
        })
    }
}

impl Readiness for Instances {
    fn ready(&self) -> Result<(), String> {
        self.problem().map_or(Ok(()), Err)
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        if let Some(number) = self.instances.seen().topics.get_mut(&self.topic) {
            *number = number.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_from_the_start_of_a_sidecar_until_a_subscriber_is_lost() {
        let instances = Arc::new(Instances::default());
        let error = instances.ready().expect_err("no sidecar");
        assert!(error.contains("restart the sidecar"), "{error}");
        instances.initialised("confcast", None);
        instances.ready().expect("it may only publish");
        let topic = "ChannelConfiguration".parse().expect("a name");
        let first = instances.subscribed(&topic);
        let second = instances.subscribed(&topic);
        drop(first);
        instances.ready().expect("one is left");
        drop(second);
        let error = instances.ready().expect_err("it is lost");
        assert!(error.contains("ChannelConfiguration"), "{error}");
        drop(instances.subscribed(&topic));
        instances.ready().expect_err("it is lost again");
        // A sidecar that was told of other topics.
        instances.initialised("confcast", None);
        instances.ready().expect("it may only publish");
    }
}
