//! Reading what the rule about references needs: whether documents exist, and what refers to them.
//!
//! The server selects the documents that hold a sought id where their schema has a reference, if the
//! places have fixed names; an index on such a place makes this as cheap as a look-up.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use contract::{
    CollectionName, DocumentId, Epoch, Revision, access::Identity, references::Referrer,
};
use mongodb::{
    ClientSession,
    bson::{Document as Bdoc, doc},
};
use tokio::time::timeout;

use crate::{
    decide::{
        DocumentKey,
        references::{Facts, ReferrersByDocument, Searched, Wanted},
    },
    store::{
        integrity::DamagedDocument,
        mongo::{CALL_TIMEOUT, Mongo, TIMED_OUT, rows},
        past::ValueRecord,
        references::{Bounds, Plan, ReferrerSearch, Referring},
    },
};

/// Rows that the database sends at once.
const BATCH_ROWS: u32 = 1_000;

impl Mongo {
    /// The facts that a group needs, as the session sees them.
    pub(super) async fn facts(
        &self,
        session: &mut ClientSession,
        wanted: Wanted,
        epoch: Epoch,
    ) -> anyhow::Result<Facts> {
        let served = self.policy.collections.all();
        let mut facts = Facts::default();
        let mut ids = BTreeMap::<&CollectionName, Vec<&str>>::new();
        for (collection, id) in &wanted.documents {
            // What no client can read does not exist for it.
            if served.contains(collection) {
                ids.entry(collection).or_default().push(id.as_str());
            }
        }
        for (collection, ids) in ids {
            let mut found = Self::raw(self.table_at_snapshot(collection.as_str()))
                .find(doc! { "_id": { "$in": ids } })
                .projection(doc! { "_id": 1 })
                .session(&mut *session)
                .await?;
            while let Some(row) = found.next(&mut *session).await.transpose()? {
                let id = rows::id(&row).context("MongoDB answered a row that was not asked for")?;
                facts.existing.insert((collection.clone(), id));
            }
        }
        let plan = Plan::new(&self.policy, &wanted, epoch);
        let limit = wanted.referrers_limit;
        let search = ReferrerSearch::new(&self.policy, plan.searched.clone(), limit);
        if let Some(found) = self.search_since(session, &plan, search).await? {
            facts.referrers = found;
            facts.searched = plan.searched;
        }
        facts.wanted = wanted;
        Ok(facts)
    }

    pub(in crate::store) async fn referrers(
        &self,
        key: DocumentKey,
        limit: usize,
        reader: Identity,
    ) -> anyhow::Result<Vec<Referrer>> {
        let mut session = self.snapshot_session().await?;
        let search =
            ReferrerSearch::new(&self.policy, [key.clone()].into(), limit).shown_to(reader);
        let mut found = self.search(&mut session, search).await?;
        Ok(found.remove(&key).unwrap_or_default())
    }

    /// What refers to some documents at one moment, and what is known after this search.
    pub(in crate::store) async fn search_ahead(
        &self,
        sought: BTreeSet<DocumentKey>,
        limit: usize,
    ) -> anyhow::Result<(Searched, ReferrersByDocument)> {
        let mut session = self.snapshot_session().await?;
        let search = ReferrerSearch::new(&self.policy, sought, limit);
        let referring = search.collections(&self.policy.collections.all())?;
        let collections = referring.into_iter().map(|each| each.collection).collect();
        let (epoch, heads) = self.epoch_and_heads(&mut session, &collections).await?;
        let heads = heads.into_iter();
        let revisions = heads.map(|head| (head.collection, head.revision)).collect();
        let searched = search.searched(epoch, revisions);
        Ok((searched, self.search(&mut session, search).await?))
    }

    /// What refers to the sought documents by changes after those of a plan. `None` when they cannot
    /// be read, or are many.
    async fn search_since(
        &self,
        session: &mut ClientSession,
        plan: &Plan,
        mut search: ReferrerSearch,
    ) -> anyhow::Result<Option<ReferrersByDocument>> {
        let collections: BTreeSet<_> = plan.since.keys().cloned().collect();
        if collections.is_empty() {
            return Ok(Some(search.found()));
        }
        let (_epoch, heads) = self.epoch_and_heads(session, &collections).await?;
        let mut bounds = Bounds::default();
        for head in heads {
            let collection = &head.collection;
            let since = plan.since.get(collection).copied().unwrap_or(0);
            let missed = head.revision.saturating_sub(since);
            if !bounds.take_changes(missed) {
                return Ok(None);
            }
            if missed == 0 {
                continue;
            }
            let after =
                doc! { "$gt": i64::try_from(since)?, "$lte": i64::try_from(head.revision)? };
            let mut found = Self::raw(self.table_at_snapshot(super::CHANGES))
                .find(doc! { "collection": collection.as_str(), "revision": after })
                .session(&mut *session)
                .await?;
            let mut ids = BTreeSet::new();
            let mut read = 0;
            while let Some(row) = found.next(&mut *session).await.transpose()? {
                if !bounds.take_bytes(row.as_bytes().len()) {
                    return Ok(None);
                }
                let Ok(record) = rows::record::<ValueRecord>(collection, &row) else {
                    return Ok(None);
                };
                ids.insert(record.id);
                read += 1;
            }
            // Trimmed, or not whole.
            if read != missed {
                return Ok(None);
            }
            let documents = self
                .touched_documents(session, collection, ids.iter().collect())
                .await;
            let documents = match documents {
                Ok(documents) => documents,
                // The search leaves it out, as nobody can read it.
                Err(error) if error.is::<DamagedDocument>() => return Ok(None),
                Err(error) => return Err(error),
            };
            for document in documents {
                search.take(collection, &document)?;
            }
        }
        Ok(Some(search.found()))
    }

    async fn search(
        &self,
        session: &mut ClientSession,
        mut search: ReferrerSearch,
    ) -> anyhow::Result<ReferrersByDocument> {
        let served = self.policy.collections.all();
        for referring in search.collections(&served)? {
            let collection = &referring.collection;
            // Where a row is known to be damaged, the value in the log decides.
            let doubtful = self.damage.has_damaged_rows(collection);
            let filter = match referring.paths(&search) {
                Some(paths) if !doubtful => filter(&referring, &paths).unwrap_or_default(),
                _any => doc! {},
            };
            let table = Self::raw(self.table_at_snapshot(collection.as_str()));
            let open = table
                .find(filter)
                .batch_size(BATCH_ROWS)
                .session(&mut *session);
            let mut found = timeout(CALL_TIMEOUT, open).await.context(TIMED_OUT)??;
            while timeout(CALL_TIMEOUT, found.advance(&mut *session))
                .await
                .context(TIMED_OUT)??
            {
                // BSON holds the ids without quotation marks, so every row is converted.
                let row = found.current().to_owned();
                let Ok(id) = rows::id(&row) else { continue };
                let document = self
                    .document_of_row(
                        Some(&mut *session),
                        collection,
                        &id,
                        Some(&row),
                        Revision::MAX,
                    )
                    .await;
                let document = match document {
                    Ok(document) => document,
                    // Nobody can read it, so it refers to nothing.
                    Err(error) if error.is::<DamagedDocument>() => continue,
                    Err(error) => return Err(error),
                };
                let Some(document) =
                    document.filter(|document| referring.may_match(document.config_data()))
                else {
                    continue;
                };
                if !search.take(collection, &document)? {
                    return Ok(search.found());
                }
            }
        }
        Ok(search.found())
    }

    /// Writes rows that a group referred to, so that a transaction which deletes one at the same time
    /// conflicts with this one. A snapshot transaction conflicts only over what both write.
    pub(super) async fn mark_referred(
        &self,
        session: &mut ClientSession,
        referred: &BTreeSet<DocumentKey>,
        write_id: &str,
    ) -> anyhow::Result<()> {
        let mut ids = BTreeMap::<&CollectionName, Vec<&DocumentId>>::new();
        for (collection, id) in referred {
            ids.entry(collection).or_default().push(id);
        }
        for (collection, ids) in ids {
            let texts: Vec<_> = ids.iter().map(|id| id.as_str()).collect();
            // Always another value: an update that changes nothing conflicts with nothing.
            let updated = self
                .table(collection.as_str())
                .update_many(
                    doc! { "_id": { "$in": texts } },
                    doc! { "$set": { "referred": write_id } },
                )
                .session(&mut *session)
                .await
                .context("marking what was referred to")?;
            // They were read in this transaction.
            anyhow::ensure!(
                updated.matched_count == ids.len() as u64,
                "a document of {collection} that was read is gone"
            );
        }
        Ok(())
    }
}

/// Selects the documents that have a sought id at one of some paths; `None` when a name on a path
/// has a meaning of its own for MongoDB.
fn filter(referring: &Referring, paths: &BTreeSet<Vec<String>>) -> Option<Bdoc> {
    let ids: Vec<_> = referring
        .sought
        .iter()
        .map(|(_of, id)| id.as_str())
        .collect();
    let mut alternatives = Vec::new();
    for path in paths {
        let plain = |name: &String| !name.is_empty() && !name.contains(['.', '$']);
        if !path.iter().all(plain) {
            return None;
        }
        let path = format!("configData.{}", path.join("."));
        alternatives.push(doc! { &path: { "$in": &ids } });
        // An array in an array, which the first form does not find.
        alternatives.push(doc! { path: { "$elemMatch": { "$elemMatch": { "$in": &ids } } } });
    }
    (!alternatives.is_empty()).then(|| doc! { "$or": alternatives })
}
