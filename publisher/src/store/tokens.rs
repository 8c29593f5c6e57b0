//! The calls of a store for bearer tokens: their records, and never a token.
//!
//! A record that ended is kept for [`KEEP_ENDED_DAYS`], so that a list shows what became of it, or until
//! its place is needed.

use chrono::{DateTime, TimeDelta, Utc};
use contract::{
    audit::Entry,
    token::{MAX_TOKENS, TokenId, TokenRecord},
};
use service::runtime::log_rate::LogRate;

use crate::store::Store;

/// How long the record of a token that ended is kept.
const KEEP_ENDED_DAYS: i64 = 30;

/// Why a token was not stored.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The store has as many as it may, and all of them are valid.
    #[error("the store has {MAX_TOKENS} tokens, which is the limit; revoke one")]
    Full,
    /// A valid token has the name of the new one, and other grants.
    #[error("a token of this name has other grants; take another name")]
    NameTaken,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] anyhow::Error),
}

/// A row of a token.
#[derive(Debug)]
pub(super) struct StoredToken {
    /// Its key.
    pub(super) id: String,
    /// `None` where the row is not what a publisher wrote: its token is refused.
    pub(super) record: Option<TokenRecord>,
}

impl StoredToken {
    /// The record of a row, if its text fits the checksum.
    pub(super) fn new(id: String, text: &str, is_whole: bool) -> Self {
        let read = serde_json::from_str(text).ok();
        let record = read.filter(|read: &TokenRecord| is_whole && read.id.as_str() == id);
        Self { id, record }
    }

    fn ended_before(&self, time: DateTime<Utc>) -> bool {
        let ends = self.record.as_ref().and_then(TokenRecord::ends_at);
        ends.is_some_and(|end| end < time)
    }
}

/// What has to be removed for a new record: the ids of others. It is decided in the transaction that
/// stores it, so of two requests at the same time one is refused.
pub(super) fn admit(stored: &[StoredToken], new: &TokenRecord) -> Result<Vec<String>, TokenError> {
    let now = new.created_at;
    let is_taken = stored.iter().any(|stored| {
        let record = stored.record.as_ref();
        !stored.ended_before(now)
            && record.is_some_and(|record| record.keeps_from(&new.name, &new.grants))
    });
    if is_taken {
        return Err(TokenError::NameTaken);
    }
    room_for_one(stored, now).ok_or(TokenError::Full)
}

/// The ids of records that make room for a new one, or `None` when there is no room. `now` is the
/// time of the request.
fn room_for_one(stored: &[StoredToken], now: DateTime<Utc>) -> Option<Vec<String>> {
    let ended_before = |time: DateTime<Utc>| {
        let ended = stored.iter().filter(|stored| stored.ended_before(time));
        let ids: Vec<_> = ended.map(|stored| stored.id.clone()).collect();
        (stored.len() - ids.len() < MAX_TOKENS).then_some(ids)
    };
    ended_before(now - TimeDelta::days(KEEP_ENDED_DAYS)).or_else(|| ended_before(now))
}

/// The readable records, the newest first. One whose row is damaged is logged.
fn readable(stored: Vec<StoredToken>) -> Vec<TokenRecord> {
    let mut records = Vec::with_capacity(stored.len());
    for StoredToken { id, record } in stored {
        match record {
            Some(record) => records.push(record),
            None => {
                static DAMAGED: LogRate = LogRate::new();
                if let Some(left_out) = DAMAGED.due() {
                    tracing::warn!(
                        id,
                        "the record of a token is damaged, so the token is refused: make a new \
                         one{left_out}"
                    );
                }
            }
        }
    }
    records.sort_by(|one, other| (other.created_at, &other.id).cmp(&(one.created_at, &one.id)));
    records
}

impl Store {
    /// Stores the record of a new token, with `entry` in the audit log if one is kept: both or none.
    ///
    /// # Errors
    /// `TokenError`. After an error of the store the record may be there all the same; nobody has its
    /// token.
    pub async fn create_token(&self, record: TokenRecord, entry: Entry) -> Result<(), TokenError> {
        match self {
            Self::Embedded(store) => store.create_token(record, entry).await,
            Self::Mongo(store) => store.opened()?.create_token(&record, entry).await,
        }
    }

    /// All records that can be read, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn tokens(&self) -> anyhow::Result<Vec<TokenRecord>> {
        let stored = match self {
            Self::Embedded(store) => store.tokens().await?,
            Self::Mongo(store) => store.opened()?.tokens().await?,
        };
        Ok(readable(stored))
    }

    /// Revokes a token, with `entry` in the audit log if one is kept: both or none; `false` when there
    /// is no record of this id. One that was revoked before keeps its time.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn revoke_token(
        &self,
        id: &TokenId,
        time: DateTime<Utc>,
        entry: Entry,
    ) -> anyhow::Result<bool> {
        match self {
            Self::Embedded(store) => store.revoke_token(id, time, entry).await,
            Self::Mongo(store) => store.opened()?.revoke_token(id, time, entry).await,
        }
    }

    /// A number that changes with every record, by whichever publisher; 0 for a store that this
    /// process alone writes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn tokens_version(&self) -> anyhow::Result<i64> {
        match self {
            Self::Embedded(_) => Ok(0),
            Self::Mongo(store) => store.opened()?.tokens_version().await,
        }
    }
}

#[cfg(test)]
mod tests;
