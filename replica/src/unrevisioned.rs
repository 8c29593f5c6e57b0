//! Events without a revision, as a publisher sends them that follows the source document only
//! (requirement A20 to A23).
//!
//! Where revisions are known such an event is a hint and nothing else. Where they are not, the
//! source document's rules hold to the letter, and with them what they cannot promise: order, and
//! that what was deleted stays deleted. Two things are better here: a failure is told to the
//! broker, and a list that an event has overtaken is read again.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use contract::{CollectionName, EventData, Operation};
use tokio::time::timeout;

use crate::{Answer, OriginError, Replica, intake::FETCH_BUDGET};

/// Time that an event may spend on a full list.
const LIST_BUDGET: Duration = Duration::from_secs(5);
/// How often a list is read that events keep overtaking. The last one counts, and the next check-in
/// corrects it.
const LIST_ATTEMPTS: usize = 3;

impl Replica {
    pub(crate) async fn unrevisioned(
        &self,
        data: &EventData,
        expiration: Option<DateTime<Utc>>,
    ) -> Result<Answer, OriginError> {
        let EventData {
            collection, op, id, ..
        } = data;
        let view = self.view();
        let Some(held) = view.root().collection(collection) else {
            self.journal().counts.ignored += 1;
            return Ok(Answer::Success);
        };
        if held.versioned() {
            tracing::debug!(%collection, %id, "{collection}/{id}: {op:?} without a revision, the heads are read");
            self.journal().counts.without_revision += 1;
            self.asked().reading.notify_one();
            return Ok(Answer::Success);
        }
        if expiration.is_some_and(|until| until <= Utc::now()) {
            tracing::debug!(%collection, %id, "{collection}/{id}: {op:?} came after its expiration");
            self.journal().counts.expired += 1;
            return Ok(Answer::Success);
        }
        match op {
            Operation::Create | Operation::Update => self.update(data).await?,
            Operation::Delete
                if self.write(|writer| {
                    writer.touched += 1;
                    writer.machine.remove_unversioned(collection, id)
                }) =>
            {
                tracing::debug!(%collection, %id, "{collection}/{id} was removed");
            }
            Operation::Delete => {
                tracing::warn!(%collection, %id, "{collection}/{id} was deleted but not held: the list is read");
                self.list_in_time(collection).await?;
            }
        }
        self.journal().counts.applied += 1;
        Ok(Answer::Success)
    }

    /// `configData` if it came along, else `GetById`, else `GetAll` (requirement A21).
    async fn update(&self, data: &EventData) -> Result<(), OriginError> {
        let EventData { collection, id, .. } = data;
        let set = |config| {
            self.write(|writer| {
                writer.touched += 1;
                writer
                    .machine
                    .add_unversioned(collection, id.clone(), config)
            })
        };
        if data.config_data.as_ref().is_some_and(set) {
            return Ok(());
        }
        let fetched = timeout(FETCH_BUDGET, self.origin().document(collection, id)).await;
        match fetched.unwrap_or(Err(OriginError::TooLate(FETCH_BUDGET))) {
            Ok(config) => {
                self.journal().counts.fetched += 1;
                // It became versioned meanwhile, or it was set; either way nothing is left to do.
                set(&config);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%collection, %id, "{collection}/{id} could not be fetched, the list is read: {error}");
                self.list_in_time(collection).await
            }
        }
    }

    async fn list_in_time(&self, collection: &CollectionName) -> Result<(), OriginError> {
        let listed = timeout(LIST_BUDGET, self.load_list(collection)).await;
        listed.unwrap_or(Err(OriginError::TooLate(LIST_BUDGET)))
    }

    /// Replaces an unversioned collection by the publisher's complete list (requirement A20:
    /// `load()`).
    ///
    /// Whoever waits here while another list is loaded is content with one that was asked for after
    /// it came.
    pub(crate) async fn load_list(&self, collection: &CollectionName) -> Result<(), OriginError> {
        let came = Instant::now();
        let mut lists = self.lists().lock().await;
        if lists.get(collection).is_some_and(|asked| *asked >= came) {
            return Ok(());
        }
        for attempt in 1..=LIST_ATTEMPTS {
            let asked = Instant::now();
            let before = self.write(|writer| writer.touched);
            let documents = self.origin().documents(collection).await?;
            let settled = self.write(|writer| {
                let settled = writer.touched == before || attempt == LIST_ATTEMPTS;
                if settled {
                    writer.machine.replace_unversioned(collection, documents);
                }
                settled
            });
            if settled {
                lists.insert(collection.clone(), asked);
                break;
            }
        }
        Ok(())
    }
}
