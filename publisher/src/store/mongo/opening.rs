//! Opening a database whose server may be away: the publisher waits for it, and says so.
//!
//! Until it is open nothing is read or written, because the database may have another format. A
//! reason that waiting does not remove ends the start.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use mongo_json::server::{self, UnfitServer};
use mongodb::error::ErrorKind;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

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
    /// Cancelled when it is.
    open: CancellationToken,
    /// Why the last attempt failed.
    reason: Mutex<NotOpenError>,
}

/// The database is not open yet.
#[derive(Debug, Clone, Default, thiserror::Error)]
#[error("the store is not open yet: {reason}")]
pub(in crate::store) struct NotOpenError {
    reason: String,
    /// Whether it opens only after somebody has done something.
    needs_a_person: bool,
}

/// Why the database cannot be opened, however long the publisher waits.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct CannotOpenError(pub(super) String);

impl Mongo {
    /// The database, if it is open.
    pub(in crate::store) fn opened(&self) -> anyhow::Result<&Self> {
        if self.opening.open.is_cancelled() {
            return Ok(self);
        }
        let reason = self.opening.reason.lock();
        let reason = reason.unwrap_or_else(PoisonError::into_inner);
        Err(reason.clone().into())
    }

    /// Waits until the database is open.
    pub(in crate::store) async fn when_open(&self) {
        self.opening.open.cancelled().await;
    }

    /// Tries once. A server that does not answer is no error.
    pub(super) async fn try_to_open(&self) -> anyhow::Result<()> {
        let opened = async {
            self.require_transactions().await?;
            self.prepare().await.context("preparing the database")
        };
        let Err(error) = opened.await else {
            self.opening.open.cancel();
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
        *reason = NotOpenError {
            reason: if is_not_initiated {
                UnfitServer::NotInitiated.to_string()
            } else {
                format!("{error:#}")
            },
            needs_a_person: is_not_initiated,
        };
        Ok(())
    }

    /// Tries until the database is open.
    pub(in crate::store) async fn until_open(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut reported = None::<Instant>;
        let mut said_to_a_person = false;
        while let Err(reason) = self.opened() {
            let needs_a_person = reason
                .downcast_ref::<NotOpenError>()
                .is_some_and(|reason| reason.needs_a_person);
            let is_news = needs_a_person && !said_to_a_person;
            if is_news || reported.is_none_or(|reported| reported.elapsed() >= REPORT) {
                reported = Some(Instant::now());
                said_to_a_person |= needs_a_person;
                let waiting_seconds = start.elapsed().as_secs();
                let line = format!(
                    "the publisher is not ready and waits for MongoDB, requests are answered 503: \
                     {reason:#}"
                );
                if needs_a_person {
                    error!(waiting_seconds, "{line}");
                } else {
                    warn!(waiting_seconds, "{line}");
                }
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
