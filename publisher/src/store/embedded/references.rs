//! Reading what the rule about references needs: whether documents exist, and what refers to them.

use std::collections::BTreeSet;

use contract::{Epoch, access::Identity, references::Referrer};
use rusqlite::{Transaction, params};

use crate::{
    decide::{
        DocumentKey,
        references::{Facts, ReferrersByDocument, Searched, Wanted},
    },
    store::{
        embedded::{Embedded, rows, tables},
        integrity::DamagedDocument,
        past::ValueRecord,
        references::{Bounds, Plan, ReferrerSearch},
    },
};

impl Embedded {
    /// The facts that a group needs.
    pub(super) fn facts(
        &self,
        transaction: &Transaction<'_>,
        wanted: Wanted,
        epoch: Epoch,
    ) -> anyhow::Result<Facts> {
        let policy = &self.0.policy;
        let served = policy.collections.all();
        let mut facts = Facts::default();
        let mut exists = transaction.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM documents WHERE collection = ?1 AND id = ?2)",
        )?;
        for key in &wanted.documents {
            let (collection, id) = key;
            // What no client can read does not exist for it.
            if served.contains(collection)
                && exists.query_row([collection.as_str(), id.as_str()], |row| row.get(0))?
            {
                facts.existing.insert(key.clone());
            }
        }
        let plan = Plan::new(policy, &wanted, epoch);
        let search = ReferrerSearch::new(policy, plan.searched.clone(), wanted.referrers_limit);
        if let Some(found) = self.search_since(transaction, &plan, search)? {
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
        held: impl Send + 'static,
    ) -> anyhow::Result<Vec<Referrer>> {
        self.read(move |store, transaction| {
            let _until_read = held;
            let search =
                ReferrerSearch::new(&store.0.policy, [key.clone()].into(), limit).shown_to(reader);
            let mut found = store.search(transaction, search)?;
            Ok(found.remove(&key).unwrap_or_default())
        })
        .await
    }

    /// What refers to some documents at one moment, and what is known after this search.
    pub(in crate::store) async fn search_ahead(
        &self,
        sought: BTreeSet<DocumentKey>,
        limit: usize,
        held: impl Send + 'static,
    ) -> anyhow::Result<(Searched, ReferrersByDocument)> {
        self.read(move |store, transaction| {
            let _until_read = held;
            let policy = &store.0.policy;
            let search = ReferrerSearch::new(policy, sought, limit);
            let referring = search.collections(&policy.collections.all())?;
            let collections = referring.into_iter().map(|each| each.collection).collect();
            let (epoch, heads) = store.heads_of(transaction, &collections)?;
            let heads = heads.into_iter();
            let revisions = heads.map(|head| (head.collection, head.revision)).collect();
            let searched = search.searched(epoch, revisions);
            Ok((searched, store.search(transaction, search)?))
        })
        .await
    }

    /// What refers to the sought documents by changes after those of a plan. `None` when they cannot
    /// be read, or are many.
    fn search_since(
        &self,
        transaction: &Transaction<'_>,
        plan: &Plan,
        mut search: ReferrerSearch,
    ) -> anyhow::Result<Option<ReferrersByDocument>> {
        let identity = tables::identity(transaction)?;
        let mut bounds = Bounds::default();
        for (collection, since) in &plan.since {
            let head = self.head(transaction, collection, &identity)?;
            let missed = head.revision.saturating_sub(*since);
            if !bounds.take_changes(missed) {
                return Ok(None);
            }
            let mut statement = transaction.prepare_cached(
                "SELECT revision, crc, record FROM changes WHERE collection = ?1 AND revision > ?2",
            )?;
            let mut rows = statement.query(params![collection.as_str(), since])?;
            let mut ids = BTreeSet::new();
            let mut read = 0;
            while let Some(row) = rows.next()? {
                let bytes = row.get_ref(2)?.as_bytes().map_or(0, <[u8]>::len);
                if !bounds.take_bytes(bytes) {
                    return Ok(None);
                }
                let Ok(record) = rows::record::<ValueRecord>(collection, row) else {
                    return Ok(None);
                };
                ids.insert(record.id);
                read += 1;
            }
            // Trimmed, or not whole.
            if read != missed {
                return Ok(None);
            }
            for id in ids {
                match self.row(transaction, collection, &id) {
                    Ok(Some(document)) => _ = search.take(collection, &document)?,
                    Ok(None) => {}
                    // The search leaves it out, as nobody can read it.
                    Err(error) if error.is::<DamagedDocument>() => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Some(search.found()))
    }

    fn search(
        &self,
        transaction: &Transaction<'_>,
        mut search: ReferrerSearch,
    ) -> anyhow::Result<ReferrersByDocument> {
        let served = self.0.policy.collections.all();
        for referring in search.collections(&served)? {
            let collection = &referring.collection;
            // Where a row is known to be damaged, the value in the log decides.
            let doubtful = self.0.damage.has_damaged_rows(collection);
            let mut statement = transaction.prepare_cached(
                "SELECT id, revision, crc, value FROM documents WHERE collection = ?1 ORDER BY id",
            )?;
            let mut rows = statement.query([collection.as_str()])?;
            while let Some(row) = rows.next()? {
                let value = row.get_ref(3)?.as_bytes();
                if !doubtful && !value.is_ok_and(|value| referring.may_match(value)) {
                    continue;
                }
                match self.listed(transaction, collection, row, doubtful) {
                    Ok(Some(document)) => {
                        if !search.take(collection, &document)? {
                            return Ok(search.found());
                        }
                    }
                    Ok(None) => {}
                    // Nobody can read it, so it refers to nothing.
                    Err(error) if error.is::<DamagedDocument>() => self.note(&error),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(search.found())
    }
}
