//! Reading what the rule about references needs: whether documents exist, and what refers to them.

use contract::references::Referrer;
use rusqlite::Transaction;

use crate::{
    decide::{
        DocumentKey,
        references::{Facts, ReferrersByDocument, Wanted},
    },
    store::{embedded::Embedded, integrity::DamagedDocument, references::ReferrerSearch},
};

impl Embedded {
    /// The facts that a group needs.
    pub(super) fn facts(
        &self,
        transaction: &Transaction<'_>,
        wanted: Wanted,
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
        if !wanted.referred.is_empty() {
            let sought = wanted.referred.clone();
            let search = ReferrerSearch::new(policy, sought, wanted.referrers_limit);
            facts.referrers = self.search(transaction, search)?;
        }
        facts.wanted = wanted;
        Ok(facts)
    }

    pub(in crate::store) async fn referrers(
        &self,
        key: DocumentKey,
        limit: usize,
    ) -> anyhow::Result<Vec<Referrer>> {
        self.read(move |store, transaction| {
            let search = ReferrerSearch::new(&store.0.policy, [key.clone()].into(), limit);
            let mut found = store.search(transaction, search)?;
            Ok(found.remove(&key).unwrap_or_default())
        })
        .await
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
