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

/// Most components that are remembered. The one that was not used for longest is forgotten.
const MAX_COMPONENTS: usize = 1_024;

/// A component of one sidecar: another one may have one of the same name, made of another file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instance {
    /// The name in the component file.
    pub(crate) name: String,
    /// The process of the sidecar; `None` where the system does not say.
    pub(crate) process: Option<i32>,
}

/// What sidecars did since the start of the program.
#[derive(Debug, Default)]
pub(crate) struct Instances(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    components: BTreeMap<Instance, Component>,
    /// How often a component was used so far.
    uses: u64,
    /// Subscribers by topic. One that ended stays with 0.
    topics: BTreeMap<CollectionName, usize>,
}

#[derive(Debug)]
struct Component {
    /// The default collection of a state store.
    collection: Option<CollectionName>,
    /// The number of its last use.
    used: u64,
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
    pub(crate) fn initialised(&self, instance: &Instance, collection: Option<CollectionName>) {
        let seen = &mut *self.seen();
        seen.uses += 1;
        let used = seen.uses;
        let component = Component { collection, used };
        seen.components.insert(instance.clone(), component);
        if seen.components.len() > MAX_COMPONENTS {
            let oldest = (seen.components.iter()).min_by_key(|(_, component)| component.used);
            if let Some(oldest) = oldest.map(|(instance, _)| instance.clone()) {
                seen.components.remove(&oldest);
            }
        }
        // A sidecar that starts says again to which topics it subscribes.
        seen.topics.retain(|_topic, subscribers| *subscribers > 0);
    }

    /// The default collection of a component; `None` when no sidecar initialised it.
    pub(crate) fn collection_of(&self, instance: &Instance) -> Option<Option<CollectionName>> {
        let seen = &mut *self.seen();
        seen.uses += 1;
        let component = seen.components.get_mut(instance)?;
        component.used = seen.uses;
        Some(component.collection.clone())
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

    fn instance(process: i32) -> Instance {
        Instance {
            name: "confcast".to_owned(),
            process: Some(process),
        }
    }

    #[test]
    fn two_sidecars_may_have_a_component_of_the_same_name() {
        let instances = Instances::default();
        let collection = |name: &str| Some(name.parse().expect("a name"));
        instances.initialised(&instance(1), collection("A"));
        instances.initialised(&instance(2), collection("B"));
        assert_eq!(instances.collection_of(&instance(1)), Some(collection("A")));
        assert_eq!(instances.collection_of(&instance(2)), Some(collection("B")));
        assert_eq!(instances.collection_of(&instance(3)), None);
        // Sidecars that start again and again displace what is not used.
        for process in 3..=MAX_COMPONENTS.try_into().expect("a number") {
            instances.initialised(&instance(process), None);
        }
        assert_eq!(instances.collection_of(&instance(1)), Some(collection("A")));
        instances.initialised(&instance(0), None);
        assert!(instances.collection_of(&instance(1)).is_some());
        assert_eq!(instances.collection_of(&instance(2)), None);
    }

    #[test]
    fn it_is_ready_from_the_start_of_a_sidecar_until_a_subscriber_is_lost() {
        let instances = Arc::new(Instances::default());
        let error = instances.ready().expect_err("no sidecar");
        assert!(error.contains("restart the sidecar"), "{error}");
        instances.initialised(&instance(1), None);
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
        // A sidecar that starts with other topics.
        instances.initialised(&instance(1), None);
        instances.ready().expect("it may only publish");
    }
}
