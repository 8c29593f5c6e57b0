//! Id-only events (requirement D1, D5): `{"id": "…"}` and nothing else. The topic or the channel names
//! the collection.
//!
//! Such an event says that a document may have changed. Where revisions are counted, the feed of the
//! collection is read, so order and change sets hold as for every other event. Where they are not,
//! the document is read by its id. An event that says nothing new costs a request and is no error.
//! Where events are signed, one of a collection of which no publisher sends such events is dropped:
//! they are not signed, so anyone can make them. Nothing here decides which history is followed.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwapOption;
use chrono::{DateTime, Utc};
use contract::{CollectionName, DocumentId, signature::UnprovenEvent};
use tracing::Instrument;
#[cfg(any(feature = "actix", feature = "redis"))]
use {contract::event::IdOnlyData, serde_json::Value};

use super::{
    EventOutcome, EventSource, Intake,
    receive::{event_span, record_document},
};

/// The collections whose events are id-only, as a publisher last said it.
#[derive(Debug, Default)]
pub(crate) struct IdOnlyCollections(ArcSwapOption<BTreeSet<CollectionName>>);

impl IdOnlyCollections {
    /// Takes what the answer to a check-in says; `None` when it says nothing of it.
    pub(crate) fn set(&self, names: Option<BTreeSet<CollectionName>>) {
        self.0.store(names.map(Arc::new));
    }

    /// Whether no publisher sends id-only events of a collection; `false` while that is not known.
    pub(crate) fn excludes(&self, collection: &CollectionName) -> bool {
        let names = self.0.load();
        names
            .as_deref()
            .is_some_and(|names| !names.contains(collection))
    }
}

/// Whether the data of an event has the form of an id-only event.
#[cfg(any(feature = "actix", feature = "redis"))]
pub(crate) fn is_id_only(data: &Value) -> bool {
    data.as_object()
        .is_some_and(|members| members.len() == 1 && members.contains_key("id"))
}

impl Intake {
    /// See [`Replica::receive_id`](crate::Replica::receive_id).
    pub(crate) async fn receive_id(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        expiration: Option<DateTime<Utc>>,
    ) -> EventOutcome {
        match self.find_followed(collection.as_str(), None) {
            Ok(_followed) => {
                self.take_id(collection, id, expiration)
                    .instrument(event_span(EventSource::Service))
                    .await
            }
            Err(ignored) => ignored,
        }
    }

    /// Takes data for which [`is_id_only`] holds, of a topic. `event` is its id and source, if they are
    /// known.
    #[cfg(any(feature = "actix", feature = "redis"))]
    pub(super) async fn take_id_only(
        &self,
        topic: &str,
        data: Value,
        expiration: Option<DateTime<Utc>>,
        event: Option<&str>,
    ) -> EventOutcome {
        let collection = match self.find_followed(topic, event) {
            Ok(collection) => collection,
            Err(ignored) => return ignored,
        };
        match serde_json::from_value::<IdOnlyData>(data) {
            Ok(IdOnlyData { id }) => self.take_id(&collection, &id, expiration).await,
            Err(error) => self.drop_named(event, "wrong-type", error),
        }
    }

    /// A document of a followed collection may have changed.
    async fn take_id(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        expiration: Option<DateTime<Utc>>,
    ) -> EventOutcome {
        record_document(collection, id);
        if self.config.event_keys.is_some() && self.id_only.excludes(collection) {
            return self.refuse(collection, id, UnprovenEvent::Unsigned);
        }
        let view = self.cache.view();
        if view
            .root()
            .collection(collection)
            .is_some_and(|held| held.versioned())
        {
            let held = view.root().get(collection, id);
            self.stats
                .announced(collection, held.map(|document| document.revision()));
            self.signals.changed(collection);
            // Notes that events come: what is missing at a check-in may be on its way.
            self.signals.event_handled();
            tracing::debug!(%collection, %id, "the id-only event of {collection}/{id}: the feed of {collection} is read");
            return EventOutcome::Success;
        }
        // The document would be taken as it is, in no order.
        if self.config.event_keys.is_some() {
            self.stats.count(|events| events.without_revision += 1);
            self.request_check();
            return EventOutcome::Success;
        }
        match self.unversioned.take_id(collection, id, expiration).await {
            Ok(()) => EventOutcome::Success,
            Err(error) => self.retry(collection, id, &error),
        }
    }
}
