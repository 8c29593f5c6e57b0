//! A projection as a service sees it, and the loop around its attempts: connect, wait for the hold,
//! write, and try again after a failure.
//!
//! It ends only when it is told to. A failure costs nothing that was committed: the positions in the
//! database say where the next attempt begins.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use contract::status::{ProjectionState, ProjectionStatus};
use replica::Replica;
use tokio::{
    sync::OnceCell,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ProjectionError, ProjectionUrl,
    database::Database,
    hold::{BEAT, Hold, LOOK},
    state::SharedState,
    writer::{Writer, readable, works},
};

/// The first wait after a failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The wait after a refusal: only an operator can help.
const REFUSED_WAIT: Duration = Duration::from_secs(15);
/// How long the hold is given up at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a projection writes, and how often it checks what is there.
#[derive(Debug, Clone)]
pub struct ProjectionConfig {
    /// The database.
    pub url: ProjectionUrl,
    /// The time between two comparisons of all rows with all documents; `None` = only after a load.
    pub verify_every: Option<Duration>,
}

/// A projection of the collections of a replica. Cloning shares its state.
#[derive(Debug, Clone)]
pub struct Projection {
    config: ProjectionConfig,
    replica: Replica,
    state: Arc<SharedState>,
    hold: Arc<Hold>,
    /// One client for all attempts: it reconnects by itself.
    database: Arc<OnceCell<Database>>,
}

impl Projection {
    /// A projection that does nothing until [`Projection::run`].
    pub fn new(config: ProjectionConfig, replica: Replica) -> Self {
        let hold = Arc::new(Hold::new(&replica.config().instance));
        Self {
            config,
            replica,
            state: Arc::new(SharedState::new()),
            hold,
            database: Arc::default(),
        }
    }

    /// What it does at the moment.
    pub fn status(&self) -> ProjectionStatus {
        self.state.status()
    }

    /// Writes until `stop`, beside [`Replica::run`], which never waits for it.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(Box::pin(self.follow())).await;
        // So that another replica takes over at once. It does so in any case.
        if let Some(database) = self.database.get() {
            let released = timeout(RELEASE_TIMEOUT, self.hold.release(database)).await;
            if !matches!(released, Ok(Ok(()))) {
                tracing::debug!("the hold of the projection was not given up; it runs out");
            }
        }
    }

    /// Tries again and again.
    async fn follow(&self) -> Infallible {
        let mut wait = FIRST_WAIT;
        loop {
            let began = Instant::now();
            let Err(error) = Box::pin(self.attempt()).await;
            // An attempt that went well for a while is no part of this failure.
            if began.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
            }
            let next = match &error {
                ProjectionError::NotHeld => {
                    self.state.set(ProjectionState::Standby);
                    FIRST_WAIT
                }
                ProjectionError::Refused(_) => {
                    self.state.failed(&error);
                    REFUSED_WAIT
                }
                _transient => {
                    self.state.failed(&error);
                    wait
                }
            };
            // Replicas that lost the same database do not come back at the same moment.
            sleep(next.mul_f64(rand::random_range(0.75..1.25))).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Connects, waits for its turn, and writes. It ends with an error only.
    async fn attempt(&self) -> Result<Infallible, ProjectionError> {
        let database = self
            .database
            .get_or_try_init(|| Database::new(&self.config.url))
            .await?;
        database.check().await?;
        // A database that was named by mistake stays as it is until there is something to write.
        let mut changed = self.replica.feed_changed();
        while self.replica.view().root().epoch().is_none() {
            if changed.changed().await.is_err() {
                // The replica has ended; the service stops.
                std::future::pending::<()>().await;
            }
        }
        database.create_positions().await?;
        let mut seen = None;
        while !self.hold.look(database, &mut seen).await? {
            let positions = database.positions().await?;
            // The mistake would show only when the writer stops.
            works(&positions, &self.replica.view())?;
            self.state.set(ProjectionState::Standby);
            self.state.positions(readable(&positions));
            sleep(LOOK).await;
        }
        let positions = database.positions().await?;
        self.state.positions(readable(&positions));
        let mut writer = Writer::new(
            database.clone(),
            &self.hold.token,
            &self.state,
            positions,
            self.config.verify_every,
        );
        let mut beat_at = Instant::now() + BEAT;
        loop {
            // Before the view is read: a change after that wakes the loop below.
            changed.borrow_and_update();
            let view = self.replica.view();
            let did = writer.step(&view).await?;
            if !did {
                self.state.set(writer.idle_state(&view));
            }
            // Not every step is a transaction, which renews the hold as well.
            if Instant::now() >= beat_at {
                self.hold.renew(&writer.database).await?;
                beat_at = Instant::now() + BEAT;
            }
            if did {
                continue;
            }
            tokio::select! {
                closed = changed.changed() => if closed.is_err() {
                    // The replica has ended; the service stops.
                    std::future::pending::<()>().await;
                },
                () = sleep_until(beat_at.into()) => {}
            }
        }
    }
}
