//! The handle: one writer behind a lock, any number of readers that never wait for it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use chrono::Utc;
use contract::{
    CollectionName,
    fleet::IntakeFault,
    status::{
        CollectionStatus, DroppedEvent, EventCounts, MAX_REFUSALS, ReplicaState, ReplicaStatus,
        SyncCounts,
    },
};
use tokio::sync::{Notify, watch};

use crate::{
    Answer, Config, Events, View, arrivals::Arrivals, disk::Disk, origin::Origin, shown::Shown,
    typed::Typed, writer::Writer,
};

/// Drops that are remembered.
const MAX_DROPS: usize = 32;
/// A deaf replica listens anew at most this often: where nothing is sent it would not help.
const LISTEN_ANEW: Duration = Duration::from_secs(60);
/// A remembered drop shows this much of its error: it may quote what was sent.
const MAX_ERROR_CHARS: usize = 300;

/// A live copy of the configuration. Cloning gives another handle to the same copy.
#[derive(Debug, Clone)]
pub struct Replica(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    boot_id: String,
    origin: Origin,
    disk: Option<Disk>,
    /// A std mutex, because every change is a few map operations: it is never held across an
    /// await, and there is no deadlock to be had, because nothing is called under it that
    /// takes another lock.
    writer: Mutex<Writer>,
    /// What the writer did last. Swapped under the writer's lock, so views follow each other in
    /// order.
    view: Shown<View>,
    /// Version of the newest changes in the view.
    moved: watch::Sender<u64>,
    /// Bumped after it was swapped.
    written: watch::Sender<()>,
    /// The state that the view shows, and when it may be another by time alone.
    turned: watch::Sender<(ReplicaState, Option<Instant>)>,
    typed: Typed,
    told: watch::Sender<ReplicaState>,
    journal: Mutex<Journal>,
    asked: Asked,
    lists: tokio::sync::Mutex<BTreeMap<CollectionName, Instant>>,
}

/// What the intake asks of the loop in `sync`. Asking twice before it looks is asking once.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// A change left a gap.
    pub(crate) gap: Notify,
    /// An event said that something changed, but not what.
    pub(crate) reading: Notify,
    /// An event counts in another history.
    pub(crate) other_epoch: Notify,
    /// There are changes and no events: whoever listens should do so anew.
    pub(crate) deaf: Notify,
}

/// What is told in the status and decides nothing.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) counts: EventCounts,
    pub(crate) drops: VecDeque<DroppedEvent>,
    pub(crate) sync: SyncCounts,
    pub(crate) arrivals: Arrivals,
    /// Whether what brings the events cannot be reached.
    pub(crate) away: bool,
    /// It has just begun, or begun to listen, and heard no event since: what it lacks is not on
    /// its way, and needs no grace.
    pub(crate) begun: bool,
    /// The loop waits for the grace of a gap, and looks again by itself when that is over.
    pub(crate) grace: bool,
    /// Up to where streams were read, where events come from streams.
    pub(crate) cursors: BTreeMap<CollectionName, String>,
    /// What was last logged of the intake.
    told: Option<IntakeFault>,
    /// When a listener was last asked to listen anew.
    anew: Option<Instant>,
    pub(crate) last_error: Option<String>,
}

impl Replica {
    /// A replica that holds nothing yet. It takes events from now on; [`Replica::run`] loads and
    /// follows.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(config: Config) -> Result<Self, reqwest::Error> {
        Self::with(config, Typed::default())
    }

    pub(crate) fn with(config: Config, typed: Typed) -> Result<Self, reqwest::Error> {
        let origin = Origin::new(&config.publishers, config.sidecar_token.clone())?;
        let boot_id = format!("{:032x}", rand::random::<u128>());
        let disk = config
            .snapshot_dir
            .clone()
            .map(|folder| Disk::new(folder, &boot_id));
        let mut writer = Writer::new(&config.collections, config.check_in);
        let view = Shown::new(writer.view(Instant::now()));
        Ok(Self(Arc::new(Shared {
            config,
            boot_id,
            origin,
            disk,
            writer: Mutex::new(writer),
            view,
            moved: watch::Sender::default(),
            written: watch::Sender::default(),
            turned: watch::Sender::new((ReplicaState::Loading, None)),
            typed,
            told: watch::Sender::new(ReplicaState::Loading),
            journal: Mutex::default(),
            asked: Asked::default(),
            lists: tokio::sync::Mutex::default(),
        })))
    }

    /// What is held now. The view stays as it is, whatever comes later.
    pub fn view(&self) -> Arc<View> {
        self.0.view.get()
    }

    /// A short look at what is held now: what [`Replica::view`] gives, for whoever does not keep
    /// it. It counts no references, so readers on many processors do not meet.
    pub fn look(&self) -> impl std::ops::Deref<Target = Arc<View>> + use<> {
        self.0.view.look()
    }

    /// Whoever waits for [`View::changes`] to change waits here. What is seen of it is a number
    /// without meaning.
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.0.moved.subscribe()
    }

    /// What it was told to do.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// What it says of itself.
    pub fn status(&self) -> ReplicaStatus {
        let (view, now) = (self.view(), Instant::now());
        let collections = view
            .root()
            .collections()
            .map(|(name, held)| CollectionStatus {
                collection: name.clone(),
                state: view.state_of(name, now),
                reason: view.reason_of(name).map(str::to_owned),
                revision: held.watermark(),
                known: held.known(),
                staged: held.staged() as u64,
                count: held.count(),
                digest: held.digest(),
                refusals: self.0.typed.refusals(name, MAX_REFUSALS),
            });
        let journal = self.journal();
        ReplicaStatus {
            instance: self.0.config.instance.clone(),
            state: view.state(now),
            epoch: view.root().epoch(),
            confirmed_ms_ago: confirmed_ms_ago(&view, now),
            collections: collections.collect(),
            events: journal.counts.clone(),
            drops: journal.drops.iter().cloned().collect(),
            boot_id: self.0.boot_id.clone(),
            intake: journal.intake(&self.0.config),
            sync: journal.sync.clone(),
            last_error: journal.last_error.clone(),
            handlers: self.handlers(usize::MAX),
        }
    }

    /// Counts and remembers an event that can never succeed, and gives the answer to it.
    pub fn dropped(&self, reason: &'static str, error: impl std::fmt::Display) -> Answer {
        let error: String = error.to_string().chars().take(MAX_ERROR_CHARS).collect();
        tracing::warn!(reason, error, "an event was dropped: {reason}: {error}");
        let mut journal = self.journal();
        journal.counts.dropped += 1;
        if journal.drops.len() == MAX_DROPS {
            journal.drops.pop_front();
        }
        journal.drops.push_back(DroppedEvent {
            time: Utc::now(),
            reason: reason.to_owned(),
            error: error.clone(),
        });
        Answer::Drop { reason, error }
    }

    /// Changes what is held and shows it to readers.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Writer) -> T) -> T {
        let mut writer = self.0.writer.lock().expect("nothing that holds it panics");
        let result = change(&mut writer);
        let now = Instant::now();
        let view = writer.view(now);
        let (version, turn) = (view.rings.version, (view.state(now), view.turns_after(now)));
        let freed = self.0.view.show(view);
        self.0
            .moved
            .send_if_modified(|told| std::mem::replace(told, version) != version);
        if self.0.written.receiver_count() > 0 {
            self.0.written.send_replace(());
        }
        // Most changes change neither, and need wake nobody for it.
        self.0
            .turned
            .send_if_modified(|told| std::mem::replace(told, turn) != turn);
        drop(writer);
        drop(freed);
        result
    }

    /// Whoever waits for another view waits here.
    pub(crate) fn written(&self) -> watch::Receiver<()> {
        self.0.written.subscribe()
    }

    /// Whoever tells the state waits here.
    pub(crate) fn turned(&self) -> watch::Receiver<(ReplicaState, Option<Instant>)> {
        self.0.turned.subscribe()
    }

    pub(crate) fn typed(&self) -> &Typed {
        &self.0.typed
    }

    /// The state as it was last told; see [`Replica::states`].
    pub(crate) fn told(&self) -> &watch::Sender<ReplicaState> {
        &self.0.told
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.0.journal.lock().expect("nothing that holds it panics")
    }

    /// Remembers whether what brings events can be reached, and logs when that changes.
    pub(crate) fn reachable(&self, error: Option<&dyn std::fmt::Display>) {
        let mut journal = self.journal();
        match error {
            Some(error) if !journal.away => {
                tracing::warn!("no events until they can be had again: {error}")
            }
            Some(error) => tracing::debug!("still no events: {error}"),
            None if journal.away => {
                // What the check-ins had to bring meanwhile says nothing of the connection that
                // stands now.
                journal.arrivals.clear();
                tracing::info!("events come again");
            }
            None => tracing::info!("events come"),
        }
        journal.away = error.is_some();
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.0.boot_id
    }

    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.0.disk.as_ref()
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.0.origin
    }

    pub(crate) fn asked(&self) -> &Asked {
        &self.0.asked
    }

    /// Held while a list of an unversioned collection is loaded: one at a time. It remembers when
    /// the newest complete list of each collection was asked for.
    pub(crate) fn lists(&self) -> &tokio::sync::Mutex<BTreeMap<CollectionName, Instant>> {
        &self.0.lists
    }
}

impl Journal {
    /// What is wrong with the way events come. Where none are expected nothing can be wrong with
    /// them.
    pub(crate) fn intake(&self, config: &Config) -> Option<IntakeFault> {
        let verdict = if self.away {
            Some(IntakeFault::Disconnected)
        } else {
            self.arrivals.verdict()
        };
        match config.events {
            Events::None => None,
            Events::Posted => verdict,
            // There is nobody to compete with: each replica hears for itself, and outages make
            // patchworks too.
            Events::Feed => verdict.filter(|verdict| *verdict != IntakeFault::SharedConsumerGroup),
            #[cfg(feature = "redis")]
            Events::Redis(_) => {
                verdict.filter(|verdict| *verdict != IntakeFault::SharedConsumerGroup)
            }
        }
    }

    /// Logs a fault of the intake when it begins, and its end; whether whoever listens should do so
    /// anew, because it is deaf.
    pub(crate) fn tell_intake(&mut self, config: &Config) -> bool {
        let now = self.intake(config);
        let lately = self.anew.is_some_and(|at| at.elapsed() < LISTEN_ANEW);
        let anew = now == Some(IntakeFault::NotReceiving) && !lately;
        if anew {
            self.anew = Some(Instant::now());
        }
        match now {
            Some(fault) if self.told != now => {
                tracing::warn!("{}: {}", fault.as_str(), fault.remedy())
            }
            None if self.told.is_some() => tracing::info!("events come as they should again"),
            _ => {}
        }
        self.told = now;
        anew
    }
}

/// In this life of the process, or else in the one that left its last known good on disk.
fn confirmed_ms_ago(view: &View, now: Instant) -> Option<u64> {
    let here = view
        .confirmed(now)
        .map(|ago| ago.as_millis().try_into().unwrap_or(u64::MAX));
    here.or_else(|| {
        view.kept.map(|at| {
            Utc::now()
                .timestamp_millis()
                .saturating_sub(at)
                .try_into()
                .unwrap_or(0)
        })
    })
}
