//! Keeps the tokens of the store in the memory of this publisher, where every request is checked against
//! them: read at once after a change by this publisher, and within [`INTERVAL`] after one by another.
//!
//! While the store cannot be read, what was read before stays in force. Nothing here decides about a
//! request.

use std::{sync::Arc, time::Duration};

use auth::StoreTokens;
use service::runtime::log_rate::LogRate;
use tokio::{sync::Mutex, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// Time between two looks at the store: a token that another publisher revokes is refused here after
/// this time and that of one read.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reads tokens that changed. Cloning shares it.
#[derive(Debug, Clone)]
pub struct TokenWatch {
    store: Store,
    tokens: StoreTokens,
    /// The number of what was read; it is held while somebody reads.
    version: Arc<Mutex<Option<i64>>>,
}

impl TokenWatch {
    /// Nothing is read yet.
    pub fn new(store: Store, tokens: StoreTokens) -> Self {
        Self {
            store,
            tokens,
            version: Arc::default(),
        }
    }

    /// Looks at the store until `stop` is cancelled.
    ///
    /// # Errors
    /// Never: what cannot be read is logged.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let looking = async {
            loop {
                ticks.tick().await;
                if let Err(error) = self.look(false).await {
                    static FAILURES: LogRate = LogRate::new();
                    if let Some(left_out) = FAILURES.due() {
                        tracing::warn!(
                            "the tokens of the store cannot be read, those that are known stay in \
                             force: {error:#}{left_out}"
                        );
                    }
                }
            }
        };
        stop.run_until_cancelled(looking).await;
        Ok(())
    }

    /// Reads the tokens after a change by this publisher.
    ///
    /// # Errors
    /// When the store cannot be read. The change comes into force later then.
    pub async fn changed(&self) -> anyhow::Result<()> {
        self.look(true).await
    }

    async fn look(&self, has_changed: bool) -> anyhow::Result<()> {
        let mut known = self.version.lock().await;
        // Before the records: a change in between is found at the next look.
        let version = Some(self.store.tokens_version().await?);
        if *known == version && !has_changed {
            return Ok(());
        }
        self.tokens.set(self.store.tokens().await?);
        *known = version;
        Ok(())
    }
}
