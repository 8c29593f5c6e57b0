//! Records of bearer tokens in MongoDB. Each is one document of `_tokens`.
//!
//! Every change of one also changes a number in `_meta`, in the same transaction: other publishers see
//! that they have to read, and two changes at the same time wait for each other.

use chrono::{DateTime, Utc};
use contract::{
    audit::Entry,
    token::{TokenId, TokenRecord},
};
use mongodb::{
    ClientSession,
    bson::{Document as Bdoc, doc},
};

use crate::store::{
    audit::ChainEnd,
    integrity::text_checksum,
    mongo::{META, Mongo, TOKENS, audit::OpenChain, call, transaction::in_transaction},
    tokens::{StoredToken, TokenError, admit},
};

/// `_id` of the number in [`META`].
const VERSION: &str = "tokens";

impl Mongo {
    pub(in crate::store) async fn create_token(
        &self,
        record: &TokenRecord,
        entry: Entry,
    ) -> Result<(), TokenError> {
        let chain = self.open_chain().await?;
        let created: anyhow::Result<Result<Option<ChainEnd>, TokenError>> =
            in_transaction!(self, |session| {
                let stored = self.tokens_in(session).await?;
                // A commit without an answer may have been this one.
                let others: Vec<_> = stored
                    .into_iter()
                    .filter(|stored| stored.id != record.id.as_str())
                    .collect();
                match admit(&others, record) {
                    Ok(ended) => {
                        if !ended.is_empty() {
                            let ended = doc! { "_id": { "$in": ended } };
                            self.table(TOKENS)
                                .delete_many(ended)
                                .session(&mut *session)
                                .await?;
                        }
                        self.put_token_in(session, record).await?;
                        let end = self.audit_token(session, chain.as_ref(), &entry).await?;
                        Ok(Ok(end))
                    }
                    Err(refused) => Ok(Err(refused)),
                }
            });
        let (end, created) = match created? {
            Ok(end) => (end, Ok(())),
            Err(refused) => (None, Err(refused)),
        };
        if let Some(chain) = chain {
            chain.close(end);
        }
        created
    }

    pub(in crate::store) async fn tokens(&self) -> anyhow::Result<Vec<StoredToken>> {
        let mut session = self.snapshot_session().await?;
        let read = self.tokens_in(&mut session);
        tokio::time::timeout(super::CALL_TIMEOUT, read).await?
    }

    pub(in crate::store) async fn revoke_token(
        &self,
        id: &TokenId,
        time: DateTime<Utc>,
        entry: Entry,
    ) -> anyhow::Result<bool> {
        let chain = self.open_chain().await?;
        let revoked: anyhow::Result<(bool, Option<ChainEnd>)> = in_transaction!(self, |session| {
            let key = doc! { "_id": id.as_str() };
            let found = self
                .table_at_snapshot(TOKENS)
                .find_one(key.clone())
                .session(&mut *session)
                .await?;
            match found.map(|row| stored(&row).record) {
                None => return Ok((false, None)),
                // The token of a damaged row is refused already; it is removed with its row.
                Some(None) => {
                    self.table(TOKENS)
                        .delete_one(key)
                        .session(&mut *session)
                        .await?;
                }
                Some(Some(mut record)) => {
                    record.revoked_at.get_or_insert(time);
                    self.put_token_in(session, &record).await?;
                }
            }
            let end = self.audit_token(session, chain.as_ref(), &entry).await?;
            Ok((true, end))
        });
        let (revoked, end) = revoked?;
        if let Some(chain) = chain {
            chain.close(end);
        }
        Ok(revoked)
    }

    /// The end of the chain when the transaction is committed, if a log is kept.
    async fn audit_token(
        &self,
        session: &mut ClientSession,
        chain: Option<&OpenChain<'_>>,
        entry: &Entry,
    ) -> anyhow::Result<Option<ChainEnd>> {
        let Some(chain) = chain else { return Ok(None) };
        let entries = std::slice::from_ref(entry);
        Ok(Some(self.audit(session, chain, entries, None).await?))
    }

    pub(in crate::store) async fn tokens_version(&self) -> anyhow::Result<i64> {
        let found = call(self.table(META).find_one(doc! { "_id": VERSION })).await?;
        let version = found.and_then(|row| row.get_i64("version").ok());
        Ok(version.unwrap_or_default())
    }

    async fn put_token_in(
        &self,
        session: &mut ClientSession,
        record: &TokenRecord,
    ) -> anyhow::Result<()> {
        let text = serde_json::to_string(record)?;
        let row = doc! {
            "_id": record.id.as_str(),
            "crc": text_checksum("token", &text).to_string(),
            "record": text,
        };
        self.table(TOKENS)
            .replace_one(doc! { "_id": record.id.as_str() }, row)
            .upsert(true)
            .session(&mut *session)
            .await?;
        self.table(META)
            .update_one(
                doc! { "_id": VERSION },
                doc! { "$inc": { "version": 1_i64 } },
            )
            .upsert(true)
            .session(&mut *session)
            .await?;
        Ok(())
    }

    /// All records, in a snapshot session or a transaction.
    async fn tokens_in(&self, session: &mut ClientSession) -> anyhow::Result<Vec<StoredToken>> {
        let mut rows = self
            .table_at_snapshot(TOKENS)
            .find(doc! {})
            .session(&mut *session)
            .await?;
        let mut found = Vec::new();
        while let Some(row) = rows.next(&mut *session).await.transpose()? {
            found.push(stored(&row));
        }
        Ok(found)
    }
}

/// Of another type than a publisher writes, it is damaged.
fn stored(row: &Bdoc) -> StoredToken {
    let id = row.get_str("_id").unwrap_or_default().to_owned();
    let text = row.get_str("record").unwrap_or_default();
    let crc = text_checksum("token", text).to_string();
    let is_whole = row.get_str("crc").is_ok_and(|stored| stored == crc);
    StoredToken::new(id, text, is_whole)
}
