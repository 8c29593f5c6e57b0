//! What becomes of an event: the one way into a replica, whatever broker brought it.
//!
//! An event is a hint. What it says is applied when it can be; when it cannot, the change log is
//! asked. No event changes the history that is followed, and none is answered by what some reader
//! makes of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use contract::{CollectionName, DocumentId, EventData};
use serde_json::Value;
use state::{Decision, ReceivedChange};
use tokio::time::timeout;

use crate::{Answer, OriginError, Replica};

/// Time to fetch a value that did not come along.
pub(crate) const FETCH_BUDGET: Duration = Duration::from_secs(2);

impl Replica {
    /// As [`Replica::receive`], from the JSON text.
    pub async fn receive_text(&self, data: &str, expiration: Option<DateTime<Utc>>) -> Answer {
        match self.plain(data.as_bytes()) {
            Some(hint) => self.take(&hint).await,
            None => match serde_json::from_str(data) {
                Ok(data) => self.receive(data, expiration).await,
                Err(error) => self.dropped("not-json", error),
            },
        }
    }

    /// The data of an event that has a revision, and that nothing is wrong with, read in one go.
    /// [`Replica::receive`] knows what to make of the rest.
    pub(crate) fn plain(&self, data: &[u8]) -> Option<ReceivedChange> {
        serde_json::from_slice(data)
            .ok()
            .filter(|hint| self.follows(hint))
    }

    pub(crate) fn follows(&self, hint: &ReceivedChange) -> bool {
        self.config().collections.contains(&hint.collection)
    }

    /// Takes the data of an event as it came. `expiration` is until when the event is worth
    /// delivering.
    ///
    /// The collection named in the data decides where it belongs (requirement A25); one that is not
    /// followed is not an error. Data that cannot be understood can never succeed.
    pub async fn receive(&self, data: Value, expiration: Option<DateTime<Utc>>) -> Answer {
        let Some(members) = data.as_object() else {
            return self.dropped("wrong-type", "the data is not a JSON object");
        };
        let named = members
            .get("collection")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let followed = named
            .parse()
            .is_ok_and(|name: CollectionName| self.config().collections.contains(&name));
        if !followed {
            tracing::warn!(
                collection = named,
                "an event names the collection {named:?}, which is not followed here"
            );
            self.journal().counts.ignored += 1;
            return Answer::Success;
        }
        match serde_json::from_value::<EventData>(data) {
            Ok(data)
                if data
                    .config_data
                    .as_ref()
                    .is_some_and(|config| !config.is_object()) =>
            {
                self.dropped("wrong-type", "configData is not a JSON object")
            }
            Ok(data) => self.intake(data, expiration).await,
            Err(error) => self.dropped("wrong-type", error),
        }
    }

    /// Takes an event. `expiration` concerns events without a revision only: otherwise the revision
    /// decides.
    pub async fn intake(&self, data: EventData, expiration: Option<DateTime<Utc>>) -> Answer {
        match ReceivedChange::from_event(&data) {
            Some(hint) => self.take(&hint).await,
            None => {
                let result = self.unrevisioned(&data, expiration).await;
                result.unwrap_or_else(|error| self.again(&data.collection, &data.id, &error))
            }
        }
    }

    /// Takes what an event with a revision says.
    pub(crate) async fn take(&self, hint: &ReceivedChange) -> Answer {
        self.revisioned(hint)
            .await
            .unwrap_or_else(|error| self.again(&hint.collection, &hint.id, &error))
    }

    fn again(&self, collection: &CollectionName, id: &DocumentId, error: &OriginError) -> Answer {
        tracing::warn!(%collection, %id, "an event of {collection}/{id} must be sent again: {error}");
        self.journal().counts.retried += 1;
        Answer::Retry {
            reason: error.to_string(),
        }
    }

    async fn revisioned(&self, hint: &ReceivedChange) -> Result<Answer, OriginError> {
        let mut decision = self.write(|writer| writer.machine.apply(hint));
        if decision == Decision::NeedsValue {
            // The gap it leaves is healed in any case, whatever becomes of this attempt.
            self.journal()
                .arrivals
                .by_event(&hint.collection, hint.revision);
            self.asked().gap.notify_one();
            let record = self
                .origin()
                .record(&hint.collection, hint.epoch, hint.revision);
            let record = timeout(FETCH_BUDGET, record)
                .await
                .map_err(|_late| OriginError::TooLate(FETCH_BUDGET))??;
            self.journal().counts.fetched += 1;
            decision = self.write(|writer| writer.machine.apply(&record));
        }
        let mut journal = self.journal();
        let count = match decision {
            Decision::Applied => &mut journal.counts.applied,
            Decision::Duplicate => &mut journal.counts.duplicate,
            Decision::Superseded => &mut journal.counts.superseded,
            Decision::OtherEpoch => &mut journal.counts.other_epoch,
            Decision::Early => &mut journal.counts.early,
            // What finds no room in the staging heals from the feed.
            Decision::Staged | Decision::NoCapacity => &mut journal.counts.staged,
            // A fetched record has its value, so the last case cannot be.
            Decision::NotFollowed | Decision::NeedsValue => &mut journal.counts.ignored,
        };
        *count += 1;
        use Decision::{Applied, Duplicate, NoCapacity, Staged, Superseded};
        if matches!(
            decision,
            Applied | Superseded | Staged | NoCapacity | Duplicate
        ) {
            journal.arrivals.by_event(&hint.collection, hint.revision);
        }
        journal.begun = false;
        let awaited = journal.grace;
        drop(journal);
        let ReceivedChange {
            collection,
            id,
            revision,
            epoch,
            ..
        } = hint;
        tracing::debug!(%collection, %id, revision, %epoch, "{collection}/{id} at {revision}: {decision:?}");
        if decision == Decision::OtherEpoch {
            self.asked().other_epoch.notify_one();
        } else if decision == Decision::Early && self.view().root().loaded() {
            // A publisher that counted no revisions does so now.
            self.asked().reading.notify_one();
        } else if !awaited && !self.view().lacking.is_empty() {
            self.asked().gap.notify_one();
        }
        Ok(Answer::Success)
    }
}
