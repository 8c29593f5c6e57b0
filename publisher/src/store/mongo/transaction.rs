//! Snapshot transactions that are tried again while they conflict with others.
//!
//! What a transaction reads and writes is the caller's; a group of writes has a loop of its own
//! (`commit`), because its outcome must be known.

use std::time::Duration;

use anyhow::Context;
use mongo_json::server::durable;
use mongodb::{ClientSession, options::ReadConcern};
use tokio::time::{Instant, sleep, timeout};

use crate::store::mongo::{CALL_TIMEOUT, TIMED_OUT, has_label};

/// Time limit of a transaction with all its attempts: groups that write the same rows conflict with
/// it.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The attempts of one transaction, each in a session of its own. A session that is dropped before
/// the commit aborts its transaction.
pub(super) struct Attempts {
    /// After it, the next attempt is the last.
    deadline: Instant,
    /// An attempt that ended with an error of one of these labels of the driver is repeated.
    repeated: &'static [&'static str],
}

impl Attempts {
    /// Begins; the time limit of all attempts counts from now.
    pub(super) fn repeated_on(repeated: &'static [&'static str]) -> Self {
        Self {
            deadline: Instant::now() + TRANSACTION_TIMEOUT,
            repeated,
        }
    }

    /// Makes an attempt. `None` when it conflicted and another one should be made, after a pause
    /// that was made here: a random one, so that the same two transactions do not collide again.
    pub(super) async fn attempt<T>(
        &self,
        attempt: impl Future<Output = anyhow::Result<T>>,
    ) -> Option<anyhow::Result<T>> {
        let ended = timeout(CALL_TIMEOUT, attempt).await.context(TIMED_OUT);
        let ended = ended.and_then(|in_time| in_time);
        let conflicted = ended
            .as_ref()
            .is_err_and(|error| self.repeated.iter().any(|label| has_label(error, label)));
        if !conflicted || Instant::now() >= self.deadline {
            return Some(ended);
        }
        sleep(Duration::from_millis(rand::random_range(1..=50))).await;
        None
    }
}

/// Starts a transaction that reads from one snapshot and is acknowledged when it is durable.
///
/// # Errors
/// As the driver.
pub(super) async fn start(session: &mut ClientSession) -> mongodb::error::Result<()> {
    session
        .start_transaction()
        .read_concern(ReadConcern::snapshot())
        .write_concern(durable())
        .await
}

/// Runs reads and writes that may be repeated in a transaction, until it is committed: a
/// `Result` with what they give. A macro, because the compiler does not prove the future of an async
/// closure to be `Send`.
macro_rules! in_transaction {
    ($store:expr, |$session:ident| $work:block) => {{
        let attempts = $crate::store::mongo::transaction::Attempts::repeated_on(&[
            mongodb::error::TRANSIENT_TRANSACTION_ERROR,
            mongodb::error::UNKNOWN_TRANSACTION_COMMIT_RESULT,
        ]);
        loop {
            let mut session = call($store.client.start_session()).await?;
            let attempt = async {
                $crate::store::mongo::transaction::start(&mut session).await?;
                let $session = &mut session;
                let done: anyhow::Result<_> = async { $work }.await;
                let done = done?;
                session.commit_transaction().await?;
                anyhow::Ok(done)
            };
            if let Some(ended) = attempts.attempt(attempt).await {
                break ended;
            }
        }
    }};
}

/// Reads within the usual time limit of a call.
///
/// # Errors
/// As the reads, or when they take too long.
pub(super) async fn in_time<T>(
    reads: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    timeout(CALL_TIMEOUT, reads).await.context(TIMED_OUT)?
}

/// One call in a snapshot session of its own, within the usual time limit.
macro_rules! in_snapshot {
    ($store:expr, |$session:ident| $work:block) => {{
        let mut session = $store.snapshot_session().await?;
        let work = async {
            let $session = &mut session;
            $work
        };
        $crate::store::mongo::transaction::in_time(work).await
    }};
}

pub(super) use {in_snapshot, in_transaction};
