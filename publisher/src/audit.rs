//! The audit log of this publisher: what is recorded besides writes, and how.
//!
//! The records of a write are written by the store, in the transaction of the write. Everything else
//! passes an [`Audit`]: a bounded queue whose task appends to the log, or a call that waits until the
//! record is durable. Refusals are coalesced, so that a caller that is refused all the time makes few
//! records. What is lost, because the store is away for too long, is counted in a record.
//!
//! Nothing here decides what a caller may do.

use std::{
    collections::{HashMap, hash_map},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use auth::Authenticator;
use chrono::{DateTime, TimeDelta, Utc};
use contract::{
    access::Right,
    audit::{AuditEvent, AuditOutcome, AuditRetention, Entry, PUBLISHER, Refusal},
};
use service::runtime::log_rate::LogRate;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{store::Store, transport::signer::EventSigner};

/// Entries that wait to be written.
const QUEUE: usize = 1_024;
/// Entries of one transaction.
const BATCH: usize = 64;
/// Pause after a failure of the store.
const RETRY: Duration = Duration::from_secs(1);
/// For how long the refusals of a caller are counted into one record.
const WINDOW: Duration = Duration::from_secs(60);
/// Time between two searches for windows that are over.
const ROUND: Duration = Duration::from_secs(5);
/// Time between two looks at the configuration. It is shorter than the time between two readings of a
/// file, so nothing is in force without being seen.
const CONFIGURATION_ROUND: Duration = Duration::from_millis(1_500);
/// Callers whose refusals are counted at the same time, by actor, reason and right. Those of all others
/// are counted together.
const MAX_REFUSED: usize = 1_024;
/// The actor of refusals that are counted together.
const OTHERS: &str = "others";
/// How the actor of a caller begins that is not known; its network follows.
pub const UNKNOWN: &str = "unknown";
/// Callers that are not known whose refusals are counted at the same time. It takes no credential to be
/// one, and a network has many addresses: all others are counted together.
const MAX_UNKNOWN: usize = 50;
/// The actor of those others.
const UNKNOWN_OTHERS: &str = "unknown others";
/// How long the last entries may take when the process stops.
const STOP_TIME: Duration = Duration::from_secs(3);
/// Time between two rounds of retention, approximately.
const RETENTION_ROUND: Duration = Duration::from_secs(60);
/// Pause between two steps of retention, in which writers are served.
const STEP_PAUSE: Duration = Duration::from_millis(50);

/// When an audit log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditMode {
    /// When callers have to present credentials.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Settings of the audit log.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// When it is kept.
    pub mode: AuditMode,
    /// Days after which records are removed; 0 = they are kept.
    pub keep_days: u32,
    /// Bytes of records that are kept at most; `u64::MAX` = no bound.
    pub keep_bytes: u64,
    /// Names this process in the log.
    pub publisher: String,
}

impl AuditSettings {
    /// Whether a log is kept. `has_credentials` says whether callers have to present them.
    pub fn is_on(&self, has_credentials: bool) -> bool {
        match self.mode {
            AuditMode::Auto => has_credentials,
            AuditMode::On => true,
            AuditMode::Off => false,
        }
    }

    /// Records from before this time are removed.
    fn before(&self) -> DateTime<Utc> {
        let age = TimeDelta::days(i64::from(self.keep_days));
        let before = Utc::now().checked_sub_signed(age);
        before
            .filter(|_before| self.keep_days > 0)
            .unwrap_or(DateTime::<Utc>::MIN_UTC)
    }
}

/// The log, or none. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    store: Store,
    queue: mpsc::Sender<Entry>,
    lost: AtomicU64,
    retention: AuditRetention,
    refused: Mutex<HashMap<RefusedCaller, Window>>,
}

/// Whose refusals are counted into one record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RefusedCaller {
    actor: String,
    reason: String,
    right: Option<Right>,
}

/// The refusals since the last record of a caller.
#[derive(Debug)]
struct Window {
    since: Instant,
    target: String,
    count: u64,
}

impl Audit {
    /// The log of a store, and the task that has to run for it. From now on each commit of the store has
    /// its records.
    pub fn new(store: Store, settings: &AuditSettings) -> (Self, AuditTask) {
        store.enable_audit(&settings.publisher);
        let (queue, entries) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner {
            store,
            queue,
            lost: AtomicU64::new(0),
            retention: AuditRetention {
                keep_days: settings.keep_days,
                keep_bytes: settings.keep_bytes,
            },
            refused: Mutex::default(),
        });
        let task = AuditTask {
            inner: inner.clone(),
            entries,
            pending: Vec::new(),
            settings: settings.clone(),
        };
        (Self(Some(inner)), task)
    }

    /// Whether a log is kept.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What retention leaves of the log; `None` where none is kept.
    pub fn retention(&self) -> Option<AuditRetention> {
        self.0.as_ref().map(|inner| inner.retention)
    }

    /// Records something soon. It does not wait, and does not fail.
    pub fn record(&self, entry: Entry) {
        if let Some(inner) = &self.0 {
            inner.enqueue(entry);
        }
    }

    /// Records something before the call returns: for what must not happen without its record.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn record_now(&self, entry: Entry) -> anyhow::Result<()> {
        match &self.0 {
            Some(inner) => inner.store.append_audit(vec![entry]).await,
            None => Ok(()),
        }
    }

    /// Records a refusal: the first one soon, further ones of the same actor, reason and right within a
    /// minute together.
    pub fn refused(&self, actor: &str, reason: &str, right: Option<Right>, target: &str) {
        let Some(inner) = &self.0 else {
            return;
        };
        let mut caller = RefusedCaller {
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            right,
        };
        let mut refused = inner.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if !refused.contains_key(&caller) {
            let is_unknown = |caller: &RefusedCaller| caller.actor.starts_with(UNKNOWN);
            let unknown = || refused.keys().filter(|other| is_unknown(other)).count();
            if is_unknown(&caller) && unknown() >= MAX_UNKNOWN {
                UNKNOWN_OTHERS.clone_into(&mut caller.actor);
            } else if refused.len() >= MAX_REFUSED {
                OTHERS.clone_into(&mut caller.actor);
            }
        }
        match refused.entry(caller) {
            hash_map::Entry::Occupied(mut window) => {
                let window = window.get_mut();
                if window.count == 0 {
                    target.clone_into(&mut window.target);
                }
                window.count += 1;
            }
            hash_map::Entry::Vacant(vacant) => {
                let entry = refusal(vacant.key(), target.to_owned(), 1);
                vacant.insert(Window {
                    since: Instant::now(),
                    target: String::new(),
                    count: 0,
                });
                drop(refused);
                inner.enqueue(entry);
            }
        }
    }
}

impl Inner {
    fn enqueue(&self, entry: Entry) {
        if self.queue.try_send(entry).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// The records of the windows that are over, or of all.
    fn counted(&self, all: bool) -> Vec<Entry> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Vec::new();
        refused.retain(|caller, window| {
            if !all && window.since.elapsed() < WINDOW {
                return true;
            }
            let Window { target, count, .. } = window;
            if *count > 0 {
                entries.push(refusal(caller, std::mem::take(target), *count));
            }
            false
        });
        entries
    }
}

fn refusal(caller: &RefusedCaller, target: String, count: u64) -> Entry {
    let event = AuditEvent::Refusal(Refusal {
        reason: caller.reason.clone(),
        right: caller.right,
        target,
        count,
    });
    Entry {
        outcome: AuditOutcome::Refused,
        ..Entry::done(Utc::now(), caller.actor.as_str(), event)
    }
}

/// The task of an [`Audit`].
#[derive(Debug)]
pub struct AuditTask {
    inner: Arc<Inner>,
    entries: mpsc::Receiver<Entry>,
    /// What is being written: a task that ends meanwhile writes it again.
    pending: Vec<Entry>,
    settings: AuditSettings,
}

impl AuditTask {
    /// Writes entries until `no_more_requests` is cancelled, then what is left.
    ///
    /// # Errors
    /// Never; the supervisor expects this signature.
    pub async fn run(mut self, no_more_requests: CancellationToken) -> anyhow::Result<()> {
        info!(
            publisher = self.settings.publisher,
            keep_days = self.settings.keep_days,
            "an audit log is kept in the store"
        );
        let ended = no_more_requests.run_until_cancelled(self.write()).await;
        if ended.is_none() {
            // What is not written in this time is lost with the process, as after a crash.
            match timeout(STOP_TIME, self.write_last()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!("the last audit records of this publisher were not written: {error:#}");
                }
                Err(_elapsed) => {
                    warn!("the last audit records of this publisher were not written in time");
                }
            }
        }
        Ok(())
    }

    async fn write(&mut self) {
        // The start of this process.
        self.append().await;
        loop {
            tokio::select! {
                _received = self.entries.recv_many(&mut self.pending, BATCH) => {}
                () = sleep(ROUND) => {}
            }
            self.pending.extend(self.inner.counted(false));
            let lost = self.lost();
            self.pending.extend(lost);
            if !self.pending.is_empty() {
                self.append().await;
                self.pending.clear();
            }
        }
    }

    /// Appends what is pending until it succeeds; meanwhile the queue fills.
    async fn append(&self) {
        while let Err(error) = self.inner.store.append_audit(self.pending.clone()).await {
            static FAILURES: LogRate = LogRate::new();
            if let Some(left_out) = FAILURES.due() {
                error!(
                    entries = self.pending.len(),
                    "the store takes no audit records; they are written when it does, and what does \
                     not fit into the queue is counted: {error:#}{left_out}"
                );
            }
            sleep(RETRY).await;
        }
    }

    async fn write_last(&mut self) -> anyhow::Result<()> {
        self.entries.close();
        let mut entries = std::mem::take(&mut self.pending);
        while let Some(entry) = self.entries.recv().await {
            entries.push(entry);
        }
        entries.extend(self.inner.counted(true));
        entries.extend(self.lost());
        let publisher = self.settings.publisher.clone();
        let event = AuditEvent::PublisherStopped { publisher };
        entries.push(Entry::done(Utc::now(), PUBLISHER, event));
        self.inner.store.append_audit(entries).await
    }

    /// A record of what was lost.
    fn lost(&self) -> Option<Entry> {
        let count = self.inner.lost.swap(0, Relaxed);
        (count > 0).then(|| {
            warn!(
                count,
                "audit records were lost: more waited than the queue holds"
            );
            Entry {
                outcome: AuditOutcome::Failed,
                ..Entry::done(Utc::now(), PUBLISHER, AuditEvent::Lost { count })
            }
        })
    }
}

/// Records what decides about callers and signs events: at the start, and soon after a file changed.
///
/// # Errors
/// Never; the supervisor expects this signature.
pub async fn watch_configuration(
    audit: Audit,
    authenticator: Arc<Authenticator>,
    signer: Option<EventSigner>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let rounds = async {
        let mut known = Vec::new();
        loop {
            let Some(files) = authenticator.in_force() else {
                sleep(RETRY).await;
                continue;
            };
            let files = files.into_iter();
            let files = files.map(|(source, digest)| AuditEvent::AccessConfigured {
                source: source.to_owned(),
                digest,
            });
            let key = signer.as_ref().map(|signer| AuditEvent::KeyInUse {
                purpose: "signing".to_owned(),
                id: signer.id().to_string(),
            });
            let issuers = authenticator.issuer_keys().into_iter();
            let issuers = issuers.map(|(issuer, digest)| AuditEvent::AccessConfigured {
                source: format!("issuer-keys {issuer}"),
                digest,
            });
            let now: Vec<_> = files.chain(issuers).chain(key).collect();
            for event in now.iter().filter(|event| !known.contains(*event)) {
                audit.record(Entry::done(Utc::now(), PUBLISHER, event.clone()));
            }
            known = now;
            sleep(CONFIGURATION_ROUND).await;
        }
    };
    stop.run_until_cancelled(rounds).await;
    Ok(())
}

/// Removes old records, round by round, until `stop` is cancelled.
///
/// # Errors
/// Never; the supervisor expects this signature.
pub async fn retention(
    store: Store,
    settings: AuditSettings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let rounds = async {
        loop {
            sleep(RETENTION_ROUND.mul_f64(rand::random_range(0.67..=1.33))).await;
            trim(&store, &settings).await;
        }
    };
    stop.run_until_cancelled(rounds).await;
    Ok(())
}

/// One round.
async fn trim(store: &Store, settings: &AuditSettings) {
    loop {
        match store
            .trim_audit(settings.before(), settings.keep_bytes)
            .await
        {
            Ok(None) => return,
            Ok(Some(trimmed)) => info!(
                chain = %trimmed.removed.chain,
                up_to = trimmed.removed.sequence,
                records = trimmed.records,
                "old audit records were removed; a record says so"
            ),
            Err(error) => {
                warn!("old audit records were not removed, the next round tries again: {error:#}");
                return;
            }
        }
        sleep(STEP_PAUSE).await;
    }
}

#[cfg(test)]
mod tests;
