//! What a publisher is configured to serve and to enforce. It is fixed for the life of the process.
//!
//! It holds no state and decides nothing; [`crate::decide`] applies its rules.

use std::collections::BTreeSet;

use contract::CollectionName;

use crate::decide::Rules;

/// The collections of a publisher, the rules of their documents, and whether changes are published.
#[derive(Debug)]
pub struct PublisherPolicy {
    /// The collections that the publisher serves.
    pub collections: BTreeSet<CollectionName>,
    /// What every document must satisfy.
    pub rules: Rules,
    /// Whether a committed change is marked as pending, to be published as an event.
    pub events_enabled: bool,
}
