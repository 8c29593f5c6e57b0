//! The rotation of the key for secrets: documents whose secrets are wrapped by another key than the
//! active one are written again, wrapped by the active one.
//!
//! Each document is a change as any other, so its replicas follow; the values stay as they are. The
//! work is found in the store, so it goes on after a restart. Publishers with different active keys
//! wrap the documents back and forth. The keys are read again when their file changes. Nothing is
//! opened here.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::Utc;
use contract::{
    CollectionName, Context, Expected,
    audit::{self, AuditEvent, Entry},
    canonical,
    secrets::SEALED_MEMBER,
};
use secrets::{Keyring, SecretKeys, document::NotActive};
use service::runtime::log_rate::LogRate;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    audit::Audit,
    decide::{Action, DocumentKey, Write, WriteError},
    metrics::Metrics,
    store::Store,
    write::queue::Writer,
};

/// Time between two looks at the file of the keys.
const POLL: Duration = Duration::from_secs(3);
/// Time from the end of a complete pass to the next.
const PASS: Duration = Duration::from_secs(3_600);
/// Pause after a failed pass.
const RETRY: Duration = Duration::from_secs(10);
/// Documents that are written between two readings of the store.
const BATCH: usize = 1_000;
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
}

/// Documents whose secrets are not wrapped by the active key.
#[derive(Default)]
struct Found {
    number: usize,
    /// The first ones.
    keys: Vec<DocumentKey>,
}

impl SecretRotation {
    /// A rotation of the documents of a store.
    pub fn new(store: Store, writer: Writer, metrics: Arc<Metrics>, audit: Audit) -> Self {
        Self {
            store,
            writer,
            metrics,
            audit,
        }
    }

    /// Works until `stop` is cancelled.
    ///
    /// # Errors
    /// Never; the supervisor expects this signature.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        if let Some(keys) = self.store.policy().rules.secrets.keys().cloned() {
            stop.run_until_cancelled(self.passes(&keys)).await;
        }
        stop.cancelled().await;
        Ok(())
    }

    async fn passes(&self, keys: &Arc<SecretKeys>) {
        let mut due = Instant::now();
        self.record(&keys.keyring());
        loop {
            if reload(keys).await {
                self.record(&keys.keyring());
                due = Instant::now();
            }
            if Instant::now() >= due {
                due = Instant::now()
                    + match self.pass(&keys.keyring()).await {
                        Ok(true) => PASS,
                        Ok(false) => Duration::ZERO,
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
            sleep(POLL).await;
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

    /// Writes a batch of documents. Whether nothing more can be done.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    async fn pass(&self, keys: &Keyring) -> anyhow::Result<bool> {
        let found = self.find(keys).await?;
        let remaining = &self.metrics.secrets_to_rewrap;
        remaining.set(i64::try_from(found.number).unwrap_or(i64::MAX));
        let (batch, mut written, mut left) = (found.keys.len(), 0, 0);
        for key in found.keys {
            let context = Context::default().with_reason(REASON)?;
            let write = Write::new(key, Action::Rewrap, Expected::Any, context);
            match self.writer.write(write).await {
                // The key that it is wrapped by is not here.
                Ok(outcome) if outcome.operation.is_none() => left += 1,
                Ok(_wrapped) => {
                    remaining.dec();
                    written += 1;
                }
                Err(WriteError::NoData { .. }) => _ = remaining.dec(),
                Err(error) => return Err(error.into()),
            }
            sleep(PAUSE).await;
        }
        if written > 0 {
            info!(
                key = keys.active().as_str(),
                "the secrets of {written} documents are wrapped by the active key {}; {} documents \
                 are left",
                keys.active(),
                found.number - written
            );
        }
        if left > 0 {
            warn!(
                "the secrets of {left} documents are wrapped by keys that this publisher does not \
                 have: they cannot be opened; give it the keys, or write the secrets again"
            );
        }
        Ok(found.number <= batch || written == 0)
    }

    /// # Errors
    /// When the store cannot be read.
    async fn find(&self, keys: &Keyring) -> anyhow::Result<Found> {
        let mut found = Found::default();
        for collection in self.store.policy().collections.all().iter() {
            self.find_in(collection, keys, &mut found).await?;
        }
        Ok(found)
    }

    async fn find_in(
        &self,
        collection: &CollectionName,
        keys: &Keyring,
        found: &mut Found,
    ) -> anyhow::Result<()> {
        let only = BTreeSet::from([collection.clone()]);
        let mut documents = self.store.documents(&only).await?;
        while let Some(chunk) = documents.next().await? {
            for document in chunk.documents {
                let json = document.config_data();
                // Most documents have no secret, and are not parsed.
                if memchr::memmem::find(&json, SEALED_MEMBER.as_bytes()).is_none() {
                    continue;
                }
                let value = canonical::value(&json);
                if value.is_ok_and(|value| !NotActive::of(&value, keys).is_empty()) {
                    found.number += 1;
                    if found.keys.len() < BATCH {
                        found.keys.push((collection.clone(), document.id().clone()));
                    }
                }
            }
        }
        Ok(())
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
