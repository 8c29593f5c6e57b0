//! Opening a database whose server may be away: the publisher waits for it, and says so.
//!
//! Until it is open nothing is read or written, because the database may have another format. A
//! reason that waiting does not remove ends the start.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::Context;
use mongo_json::server::{self, UnfitServer};
use mongodb::error::ErrorKind;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::store::mongo::Mongo;

/// Time between two attempts.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two log lines about the same wait.
const REPORT: Duration = Duration::from_secs(60);
/// Error code: the user has no right to it.
const UNAUTHORIZED: i32 = 13;
/// Error code: the user or the password is wrong.
const AUTHENTICATION_FAILED: i32 = 18;

/// Whether the database is open.
#[derive(Debug, Default)]
pub(super) struct Opening {
    open: OnceLock<()>,
    /// Why the last attempt failed.
    reason: Mutex<String>,
}

/// The database is not open yet.
#[derive(Debug, thiserror::Error)]
#[error("the store is not open yet: {0}")]
struct NotOpenError(String);

/// Why the database cannot be opened, however long the publisher waits.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct CannotOpenError(pub(super) String);

impl Mongo {
    /// The database, if it is open.
    pub(in crate::store) fn opened(&self) -> anyhow::Result<&Self> {
        if self.opening.open.get().is_some() {
            return Ok(self);
        }
        let reason = self.opening.reason.lock();
        let reason = reason.unwrap_or_else(PoisonError::into_inner).clone();
        Err(NotOpenError(reason).into())
    }

    /// Tries once. A server that does not answer is no error.
    pub(super) async fn try_to_open(&self) -> anyhow::Result<()> {
        let opened = async {
            self.require_transactions().await?;
            self.prepare().await.context("preparing the database")
        };
        let Err(error) = opened.await else {
            self.opening.open.get_or_init(|| ());
            return Ok(());
        };
        if waiting_is_useless(&error) {
            return Err(error);
        }
        let mut reason = self
            .opening
            .reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_not_initiated = error.downcast_ref().is_some_and(server::is_not_initiated);
        *reason = if is_not_initiated {
            UnfitServer::NotInitiated.to_string()
        } else {
            format!("{error:#}")
        };
        Ok(())
    }

    /// Tries until the database is open.
    pub(in crate::store) async fn until_open(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut reported = None::<Instant>;
        while let Err(reason) = self.opened() {
            if reported.is_none_or(|reported| reported.elapsed() >= REPORT) {
                reported = Some(Instant::now());
                warn!(
                    waiting_seconds = start.elapsed().as_secs(),
                    "the publisher is not ready and waits for MongoDB, requests are answered 503: \
                     {reason:#}"
                );
            }
            sleep(RETRY).await;
            self.try_to_open().await?;
        }
        if reported.is_some() {
            info!("MongoDB answers: the store is open");
        }
        Ok(())
    }
}

/// Whether only a person can remove the reason.
fn waiting_is_useless(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        if cause.is::<CannotOpenError>() {
            return true;
        }
        let Some(error) = cause.downcast_ref::<mongodb::error::Error>() else {
            return false;
        };
        match &*error.kind {
            ErrorKind::Authentication { .. } | ErrorKind::InvalidArgument { .. } => true,
            ErrorKind::Command(failed) => {
                [UNAUTHORIZED, AUTHENTICATION_FAILED].contains(&failed.code)
            }
            _ => false,
        }
    })
}
