//! The rotation of the key for secrets: documents whose secrets are wrapped by another key than the
//! active one are written again, wrapped by the active one.
//!
//! Each document is a change as any other, so its replicas follow; the values stay as they are. The
//! work is found in the store, so it goes on after a restart. It waits until all publishers of the
//! store have the same active key: else they would wrap the documents back and forth. The keys are
//! read again when their file changes. Nothing is opened here.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use chrono::Utc;
use contract::{
    Context, Expected, ProblemKind,
    audit::{self, AuditEvent, Entry},
    canonical,
};
use secrets::{Keyring, SecretKeys, document::NotActive};
use service::runtime::log_rate::LogRate;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::search::Found;
use crate::{
    audit::Audit,
    decide::{Action, DocumentKey, Write, WriteError},
    metrics::Metrics,
    store::{Store, integrity::is_damage, secret_keys::TOLD_FOR},
    write::queue::Writer,
};

mod search;

/// Time between two looks at the file of the keys.
const POLL: Duration = Duration::from_secs(3);
/// Time between two exchanges of the active key with other publishers: they forget it after
/// [`TOLD_FOR`].
const EXCHANGE: Duration = Duration::from_secs(30);
/// Time from one complete pass to the next.
const PASS: Duration = Duration::from_secs(3_600);
/// Pause after a failure of the store.
const RETRY: Duration = Duration::from_secs(10);
/// Documents that are written after one reading of the store: their ids are held.
const BATCH: usize = 50_000;
/// Documents that are written between two looks at the file of the keys, at most.
const STEP: usize = 100;
/// Pause between two documents: at most 50 are written in a second.
const PAUSE: Duration = Duration::from_millis(20);
/// The reason in the change records.
const REASON: &str = "secret key rotation";

/// Rewrites documents after a rotation of the key.
pub struct SecretRotation {
    store: Store,
    writer: Writer,
    metrics: Arc<Metrics>,
    audit: Audit,
    /// Names this process among the publishers of the store.
    publisher: u64,
}

/// What is left to do.
#[derive(Debug)]
struct Work {
    exchange_at: Instant,
    /// Active keys of other publishers; `None` before they are known.
    others: Option<BTreeSet<String>>,
    search_at: Instant,
    /// Documents to write, ordered.
    todo: VecDeque<DocumentKey>,
    /// The next search is for documents after this one.
    after: Option<DocumentKey>,
    /// Whether there are documents after those of `todo`.
    has_more: bool,
    pass: Pass,
}

/// What was done since the pass began.
#[derive(Debug, Default)]
struct Pass {
    written: usize,
    /// Documents that could not be written.
    failed: usize,
    example: Option<DocumentKey>,
}

/// What became of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rewrapped {
    /// It was written.
    Here,
    /// Nothing was left to do: another publisher or a writer was faster, or it is gone.
    Elsewhere,
    /// It cannot be written.
    Failed,
}

impl Work {
    /// All of it, at once.
    fn new() -> Self {
        Self {
            exchange_at: Instant::now(),
            others: None,
            search_at: Instant::now(),
            todo: VecDeque::new(),
            after: None,
            has_more: false,
            pass: Pass::default(),
        }
    }

    /// Whether all publishers have the same active key.
    fn is_agreed(&self) -> bool {
        self.others.as_ref().is_some_and(BTreeSet::is_empty)
    }
}

impl SecretRotation {
    /// A rotation of the documents of a store.
    pub fn new(store: Store, writer: Writer, metrics: Arc<Metrics>, audit: Audit) -> Self {
        Self {
            store,
            writer,
            metrics,
            audit,
            publisher: rand::random(),
        }
    }

    /// Works until `stop` is cancelled.
    ///
    /// # Errors
    /// Never; the supervisor expects this signature.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        if let Some(keys) = self.store.policy().rules.secrets.keys().cloned() {
            stop.run_until_cancelled(self.work(&keys)).await;
        }
        stop.cancelled().await;
        Ok(())
    }

    async fn work(&self, keys: &Arc<SecretKeys>) {
        let mut due = Instant::now();
        let mut work = Work::new();
        self.record(&keys.keyring());
        loop {
            if reload(keys).await {
                self.record(&keys.keyring());
                due = Instant::now();
                work = Work::new();
            }
            if Instant::now() >= due {
                let stepped = self.step(&keys.keyring(), &mut work).await;
                due = Instant::now()
                    + match stepped {
                        Ok(true) => Duration::ZERO,
                        Ok(false) => POLL,
                        Err(error) => {
                            static FAILURES: LogRate = LogRate::new();
                            if let Some(left_out) = FAILURES.due() {
                                warn!(
                                    "the rotation of the secret key is interrupted and goes on in \
                                     {} s: {error:#}{left_out}",
                                    RETRY.as_secs()
                                );
                            }
                            RETRY
                        }
                    };
            }
            sleep_until(due.min(Instant::now() + POLL)).await;
        }
    }

    /// Records which key is in use.
    fn record(&self, keys: &Keyring) {
        let event = AuditEvent::KeyInUse {
            purpose: "secrets".to_owned(),
            id: keys.active().to_string(),
        };
        self.audit
            .record(Entry::done(Utc::now(), audit::PUBLISHER, event));
    }

    /// Does what is due, for some seconds. Whether more can be done at once.
    ///
    /// # Errors
    /// When the store cannot be read or written. What was done stays done.
    async fn step(&self, keys: &Keyring, work: &mut Work) -> anyhow::Result<bool> {
        if Instant::now() >= work.exchange_at {
            self.exchange(keys, work).await?;
        }
        if Instant::now() >= work.search_at && work.todo.is_empty() {
            self.search(keys, work).await?;
        }
        for _document in 0..STEP {
            let Some(key) = work.todo.front() else {
                return Ok(false);
            };
            match self.rewrap(key, keys).await? {
                Rewrapped::Here => {
                    work.pass.written += 1;
                    self.metrics.secrets_to_rewrap.dec();
                }
                Rewrapped::Elsewhere => _ = self.metrics.secrets_to_rewrap.dec(),
                Rewrapped::Failed => {
                    work.pass.failed += 1;
                    work.pass.example.get_or_insert_with(|| key.clone());
                }
            }
            work.after = work.todo.pop_front();
            if work.todo.is_empty() {
                finish(keys, work);
            }
            sleep(PAUSE).await;
        }
        Ok(true)
    }

    /// Exchanges the active key with the other publishers of the store.
    ///
    /// # Errors
    /// When the store cannot be written.
    async fn exchange(&self, keys: &Keyring, work: &mut Work) -> anyhow::Result<()> {
        let active = keys.active().as_str();
        let others = self.store.tell_secret_key(self.publisher, active).await?;
        work.exchange_at = Instant::now() + EXCHANGE;
        if work.others.as_ref() == Some(&others) {
            return Ok(());
        }
        if others.is_empty() {
            if work.others.is_some() {
                info!(active, "all publishers have the active secret key {active}");
            }
        } else {
            work.todo.clear();
            work.after = None;
        }
        // Others may have sealed documents since the last search.
        work.search_at = Instant::now();
        work.others = Some(others);
        Ok(())
    }

    /// Searches the next documents; while publishers do not agree, they are counted only.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn search(&self, keys: &Keyring, work: &mut Work) -> anyhow::Result<()> {
        let limit = if work.is_agreed() { BATCH } else { 0 };
        let found = Found::search(&self.store, keys, work.after.as_ref(), limit).await?;
        if work.after.is_none() {
            work.pass = Pass::default();
        }
        let number = i64::try_from(found.number).unwrap_or(i64::MAX);
        self.metrics.secrets_to_rewrap.set(number);
        if let Some(others) = work.others.as_ref().filter(|others| !others.is_empty()) {
            let active = keys.active().as_str();
            let others: Vec<_> = others.iter().map(String::as_str).collect();
            warn!(
                active,
                "other publishers of this store have another active secret key: {}, and this one {active}; \
                 no document is wrapped by another key until all of them have the same one: give them the \
                 same keys (one that stopped counts for {} s)",
                others.join(", "),
                TOLD_FOR.as_secs()
            );
        }
        if found.unknown > 0 {
            warn!(
                "{} documents have secrets that are wrapped by keys that this publisher does not have: \
                 they cannot be opened; give it the keys, or write the secrets again",
                found.unknown
            );
        }
        if let Some((collection, error)) = found.damaged {
            warn!(
                %collection,
                "secrets of {collection} may stay wrapped by an old key, because the collection is \
                 damaged; the next search is in {} min: {error:#}",
                PASS.as_secs() / 60
            );
        }
        work.search_at = Instant::now() + PASS;
        work.has_more = found.has_more;
        work.todo = found.keys.into();
        if work.todo.is_empty() {
            finish(keys, work);
        }
        Ok(())
    }

    /// # Errors
    /// When the store cannot be read or written.
    async fn rewrap(&self, key: &DocumentKey, keys: &Keyring) -> anyhow::Result<Rewrapped> {
        let context = Context::default().with_reason(REASON)?;
        let write = Write::new(key.clone(), Action::Rewrap, Expected::Any, context);
        match self.writer.write(write).await {
            Ok(outcome) if outcome.operation.is_some() => Ok(Rewrapped::Here),
            Ok(_unchanged) => self.unchanged(key, keys).await,
            Err(WriteError::NoData { .. }) => Ok(Rewrapped::Elsewhere),
            Err(error) => match error.kind() {
                ProblemKind::Busy
                | ProblemKind::Stopping
                | ProblemKind::NotCommitted
                | ProblemKind::OutcomeUnknown => Err(error.into()),
                // It is about this document, and must not stop those after it.
                _of_the_document => Ok(Rewrapped::Failed),
            },
        }
    }

    /// Why a write changed nothing.
    async fn unchanged(&self, key: &DocumentKey, keys: &Keyring) -> anyhow::Result<Rewrapped> {
        let (collection, id) = key;
        let document = match self.store.document(collection, id).await {
            Err(error) if is_damage(&error) => return Ok(Rewrapped::Failed),
            read => read?,
        };
        let value = document.map(|document| canonical::value(document.config_data()));
        let is_left = value
            .is_some_and(|value| value.map_or(true, |value| NotActive::of(&value, keys).known > 0));
        Ok(if is_left {
            Rewrapped::Failed
        } else {
            Rewrapped::Elsewhere
        })
    }
}

/// Nothing of what was found is left to write.
fn finish(keys: &Keyring, work: &mut Work) {
    if work.has_more && work.is_agreed() {
        work.search_at = Instant::now();
        return;
    }
    let pass = std::mem::take(&mut work.pass);
    work.after = None;
    if pass.written > 0 {
        info!(
            key = keys.active().as_str(),
            "the secrets of {} documents are wrapped by the active key {}",
            pass.written,
            keys.active()
        );
    }
    if let Some((collection, id)) = pass.example {
        warn!(
            %collection, %id,
            "the secrets of {} documents cannot be wrapped by the active key, for example those of \
             {collection} {id}: they do not open with the key that they name, or the document is \
             damaged; write these secrets again",
            pass.failed
        );
    }
}

/// Reads the keys again. Whether they are others.
async fn reload(keys: &Arc<SecretKeys>) -> bool {
    let reading = Arc::clone(keys);
    match tokio::task::spawn_blocking(move || reading.reload()).await {
        Ok(Ok(false)) | Err(_) => false,
        Ok(Ok(true)) => {
            let keyring = keys.keyring();
            info!(
                active = keyring.active().as_str(),
                "the secret keys were read again: {keyring:?}"
            );
            true
        }
        Ok(Err(error)) => {
            static FAILURES: LogRate = LogRate::new();
            if let Some(left_out) = FAILURES.due() {
                warn!(
                    "the secret keys cannot be read again, the earlier ones stay: {error}{left_out}"
                );
            }
            false
        }
    }
}

#[cfg(test)]
mod tests;
