//! The handle of a replica: it wires the parts together, and every call goes to the part that
//! answers it. It decides nothing.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ops::Deref,
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use contract::{
    CollectionName, DocumentId, EventData, Revision,
    apply_delays::ApplyDelays,
    formats,
    release::ReleaseVersion,
    status::{CollectionStatus, MAX_REFUSALS, ReplicaState, ReplicaStatus},
};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};

use crate::{
    BuildError, Collection, Config, CredentialError, EventKeys, EventOutcome, NotFresh, NotReady,
    Pin, View,
    cache::Cache,
    failure_log::FailureLog,
    freshness,
    intake::{
        DropReports, EventSource, FeedIntake, IdOnlyCollections, Intake, IntakeConnection, Stats,
        StatsSnapshot, UnconfirmedClaims, UnversionedIntake,
    },
    persist::{CopyOnDisk, ImageFile, Persistence, StreamCursors},
    source::PublisherSource,
    sync::{CatchUp, CheckIns, IntakeMonitor, Loader, SyncLoop, SyncSignals},
    typed::Typed,
};

/// How long handlers may go on after the stop.
const HANDLERS_GRACE: Duration = Duration::from_secs(5);

/// Reads the file of public keys again and again, where there is one. It never ends.
async fn reload_keys(config: &Config) {
    match &config.event_keys {
        Some(keys) => keys.reload().await,
        None => std::future::pending().await,
    }
}

/// A live copy of the configuration. Cloning gives another handle to the same copy.
#[derive(Debug, Clone)]
pub struct Replica(Arc<Parts>);

/// The parts of a replica.
#[derive(Debug)]
struct Parts {
    /// As it was given; it never changes.
    config: Arc<Config>,
    /// 32 hexadecimal digits, at random: tells two processes of the same name apart.
    boot_id: String,
    /// Owns the documents.
    cache: Arc<Cache>,
    /// Counts for the status.
    stats: Arc<Stats>,
    /// Typed collections and handlers.
    typed: Arc<Typed>,
    /// The one way of events into the cache.
    intake: Arc<Intake>,
    /// Events of a live feed, if that is their source.
    feed: FeedIntake,
    /// Events of Redis, if that is their source.
    #[cfg(feature = "redis")]
    redis: crate::intake::RedisIntake,
    /// Keeps the cache in step with the publishers.
    sync: SyncLoop,
    /// Saves the configuration on disk.
    persistence: Persistence,
}

impl Replica {
    /// A replica that holds nothing yet. It takes events from now on; [`Replica::run`] loads and
    /// follows.
    ///
    /// # Errors
    /// When the HTTP client cannot be built, or the credentials must not be sent to a publisher.
    pub fn new(config: Config) -> Result<Self, CredentialError> {
        Self::with_types(config, Typed::default())
    }

    /// A replica with typed collections and handlers.
    pub(crate) fn with_types(config: Config, typed: Typed) -> Result<Self, CredentialError> {
        let source = PublisherSource::new(
            &config.publishers,
            &config.credentials,
            config.sidecar_token.clone(),
        )?;
        if config.token_of_check_ins().is_some() {
            for publisher in &config.publishers {
                config.credentials.check_privacy(publisher.expose())?;
            }
        }
        let source = Arc::new(source.named(&config.instance));
        let config = Arc::new(config);
        let boot_id = format!("{:032x}", rand::random::<u128>());
        let cache = Arc::new(Cache::new(&config.known(), config.check_in));
        let stats = Arc::new(Stats::default());
        let signals = Arc::new(SyncSignals::default());
        let cursors = Arc::new(StreamCursors::default());
        let typed = Arc::new(typed);
        cache.note_typed(typed.reach_at_start());
        let claims = Arc::new(UnconfirmedClaims::default());
        let id_only = Arc::new(IdOnlyCollections::default());
        let unversioned = Arc::new(UnversionedIntake {
            cache: Arc::clone(&cache),
            source: Arc::clone(&source),
            stats: Arc::clone(&stats),
            signals: Arc::clone(&signals),
            listed: tokio::sync::Mutex::new(BTreeMap::new()),
            reading: tokio::sync::Mutex::new(()),
        });
        let intake = Arc::new(Intake {
            config: Arc::clone(&config),
            cache: Arc::clone(&cache),
            source: Arc::clone(&source),
            stats: Arc::clone(&stats),
            signals: Arc::clone(&signals),
            claims: Arc::clone(&claims),
            id_only: Arc::clone(&id_only),
            unversioned: Arc::clone(&unversioned),
            reports: Arc::new(DropReports::new(&config, Arc::clone(&source))),
            traces: Arc::clone(typed.traces()),
            #[cfg(feature = "actix")]
            large_events: tokio::sync::Semaphore::new(crate::actix::LARGE_EVENTS),
        });
        let feed = FeedIntake {
            intake: Arc::clone(&intake),
            typed: Arc::clone(&typed),
            connection: IntakeConnection::new(Arc::clone(&stats)),
        };
        #[cfg(feature = "redis")]
        let redis = crate::intake::RedisIntake {
            intake: Arc::clone(&intake),
            cursors: Arc::clone(&cursors),
            connection: IntakeConnection::new(Arc::clone(&stats)),
        };
        let loader = Arc::new(Loader {
            config: Arc::clone(&config),
            cache: Arc::clone(&cache),
            source: Arc::clone(&source),
            stats: Arc::clone(&stats),
            unversioned,
            refused: Mutex::default(),
        });
        let check_ins = Arc::new(CheckIns {
            config: Arc::clone(&config),
            boot_id: boot_id.clone(),
            cache: Arc::clone(&cache),
            source: Arc::clone(&source),
            stats: Arc::clone(&stats),
            signals: Arc::clone(&signals),
            claims,
            id_only,
            typed: Arc::clone(&typed),
            loader: Arc::clone(&loader),
            intake_monitor: Mutex::new(IntakeMonitor::default()),
            reported_delays: Mutex::default(),
        });
        let catch_up = CatchUp {
            cache: Arc::clone(&cache),
            traces: Arc::clone(&intake.traces),
            source,
            stats: Arc::clone(&stats),
            loader,
            check_ins: Arc::clone(&check_ins),
            signals: Arc::clone(&signals),
        };
        let sync = SyncLoop {
            config: Arc::clone(&config),
            cache: Arc::clone(&cache),
            stats: Arc::clone(&stats),
            signals,
            check_ins,
            catch_up,
            failures: Mutex::new(FailureLog::new(Instant::now())),
        };
        let persistence = Persistence {
            cache: Arc::clone(&cache),
            follow: config.follow,
            cursors,
            file: config
                .snapshot_dir
                .clone()
                .map(|directory| ImageFile::new(directory, &boot_id)),
            attempts: Mutex::default(),
        };
        Ok(Self(Arc::new(Parts {
            config,
            boot_id,
            cache,
            stats,
            typed,
            intake,
            feed,
            #[cfg(feature = "redis")]
            redis,
            sync,
            persistence,
        })))
    }

    /// Loads, then follows the publishers until `stop` resolves, and returns its output. `stop` may
    /// be the service itself: it is polled all along. Run it once. Dropping the future is safe at
    /// any moment; it costs at most the last half minute of what is saved on disk, and the calls of
    /// handlers that are under way. When `stop` resolves, handlers may finish their calls, for at
    /// most 5 s, and a last check-in, of at most 1 s, says that no write needs to wait for this replica.
    pub async fn run<T>(&self, stop: impl Future<Output = T>) -> T {
        let parts = &*self.0;
        // Handlers are told before they are cancelled, so that a call can end in order.
        let stopping = watch::Sender::new(false);
        let mut handling = pin!(parts.typed.run_handlers(&stopping));
        let following = async {
            // Before the loop starts, so that it knows what it holds.
            parts.persistence.restore().await;
            // Boxed, because the type would be too deep for the compiler of an embedding service.
            #[cfg(feature = "redis")]
            let redis = Box::pin(parts.redis.run());
            #[cfg(not(feature = "redis"))]
            let redis = std::future::pending::<()>();
            // None of them ends.
            tokio::join!(
                parts.sync.run(),
                parts.persistence.run(),
                parts.typed.run_projection(&parts.cache),
                parts.cache.report_states(),
                Box::pin(parts.feed.run()),
                Box::pin(parts.intake.reports.run()),
                Box::pin(reload_keys(&parts.config)),
                redis
            );
            std::future::pending::<Infallible>().await
        };
        let handlers = async {
            handling.as_mut().await;
            std::future::pending::<Infallible>().await
        };
        // The service is polled together with everything that keeps the replica in step.
        let output = tokio::select! {
            output = stop => output,
            never = following => match never {},
            never = handlers => match never {},
        };
        // Handlers begin no further call, and finish those that are under way.
        stopping.send_replace(true);
        let handled = timeout(HANDLERS_GRACE, handling);
        let (handled, ()) = tokio::join!(handled, parts.sync.check_ins.leave());
        if handled.is_err() {
            tracing::warn!(
                "handlers did not finish their calls within {HANDLERS_GRACE:?} after the stop, the calls are cancelled"
            );
        }
        // After everything else ended, so that the image is the newest.
        parts.persistence.save_last().await;
        output
    }

    /// Takes the data of an event as it came. `expiration` is until when the event is worth
    /// delivering; it concerns events without a revision only.
    ///
    /// The collection that the data names decides where the event belongs (requirement A25); one
    /// that is not followed is not an error. Data that cannot be parsed can never succeed.
    pub async fn receive(&self, data: Value, expiration: Option<DateTime<Utc>>) -> EventOutcome {
        self.0.intake.receive(data, expiration).await
    }

    /// As [`Replica::receive`], from the JSON text.
    pub async fn receive_text(
        &self,
        data: &str,
        expiration: Option<DateTime<Utc>>,
    ) -> EventOutcome {
        self.0
            .intake
            .receive_text(EventSource::Service, data, expiration)
            .await
    }

    /// As [`Replica::receive`], from the parsed data.
    pub async fn receive_event(
        &self,
        data: EventData,
        expiration: Option<DateTime<Utc>>,
    ) -> EventOutcome {
        self.0.intake.receive_event(data, expiration).await
    }

    /// As [`Replica::receive`], of an event that has nothing but the id of the document (requirement
    /// D1); `collection` is that of its topic.
    pub async fn receive_id(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        expiration: Option<DateTime<Utc>>,
    ) -> EventOutcome {
        self.0.intake.receive_id(collection, id, expiration).await
    }

    /// Counts and remembers an event that can never succeed, and returns the answer to it. For
    /// services that receive events their own way.
    pub fn drop_event(&self, reason: &'static str, error: impl std::fmt::Display) -> EventOutcome {
        self.0.intake.drop_event(reason, error)
    }

    /// A collection whose documents are values of `T`. It is empty until the first load
    /// ([`Replica::ready`]).
    ///
    /// # Errors
    /// When the builder did not give the collection this type.
    pub fn collection<T: Send + Sync + 'static>(
        &self,
        name: &str,
    ) -> Result<Collection<T>, BuildError> {
        Collection::new(Arc::clone(&self.0.typed), name)
    }

    /// All typed collections at one moment, which stays as it is.
    /// For a caller that needs values of several collections which belong together.
    pub fn pin(&self) -> Pin {
        Pin::new(Arc::clone(&self.0.typed))
    }

    /// A document with its secrets in plain text, as typed values get it; `None` when there is no such
    /// document. Everything else in this crate gives the sealed form.
    ///
    /// # Errors
    /// Where a secret is that cannot be opened, and why.
    pub fn opened(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> Option<Result<Value, String>> {
        let view = self.view();
        let document = view.root().get(collection, id)?;
        let opened = self.0.typed.opening().open(collection, document);
        Some(match opened {
            Ok(opened) => opened.to_value(document),
            Err(unopened) => Err(format!("at {:?}: {}", unopened.pointer, unopened.reason)),
        })
    }

    /// What is held now. The view stays as it is.
    pub fn view(&self) -> Arc<View> {
        self.0.cache.view()
    }

    /// As [`Replica::view`], for a short read: it counts no references, so readers on many
    /// processors do not contend.
    pub fn view_guard(&self) -> impl Deref<Target = Arc<View>> + use<> {
        self.0.cache.view_guard()
    }

    /// Changes with [`View::changes`]. The number has no meaning.
    pub fn feed_changed(&self) -> watch::Receiver<u64> {
        self.0.cache.feed_changed()
    }

    /// Changes with every new view, also by what is not in [`View::changes`]: documents of a collection
    /// without revisions, and those that are ahead of a missing revision.
    pub fn view_changed(&self) -> watch::Receiver<()> {
        self.0.cache.written()
    }

    /// The state, to read and to wait for. It changes only while [`Replica::run`] runs.
    pub fn states(&self) -> watch::Receiver<ReplicaState> {
        self.0.cache.states()
    }

    /// Resolves as soon as everything was loaded and can be read, typed collections included.
    /// [`Replica::run`] has to run meanwhile.
    ///
    /// # Errors
    /// [`NotReady::Partial`] when loaded values do not fit their types, unless
    /// [`Builder::first_load`](crate::Builder::first_load) allows that. The replica goes on: a
    /// service that wants to wait for the correction waits in [`Replica::states`] for another state
    /// than [`ReplicaState::Partial`].
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.0.typed.loaded().await;
        self.readiness()
    }

    /// As [`Replica::ready`], at this moment: for the readiness route of a service. Once it
    /// succeeded it succeeds for the life of the replica.
    ///
    /// # Errors
    /// When the first load is not complete, or as [`Replica::ready`].
    pub fn readiness(&self) -> Result<(), NotReady> {
        self.0.typed.readiness()
    }

    /// Waits until readers of a collection see every change up to a revision, also as values where the
    /// collection has a type: a service that knows the revision of a write reads it then. A replica that
    /// lacks the revision asks a publisher at once. [`Replica::run`] has to run meanwhile.
    ///
    /// A revision counts in its epoch: after a restore of the database a number of before means
    /// another change, or none.
    ///
    /// # Errors
    /// [`NotFresh::Late`] at the deadline; at once when no revision of the collection can come.
    pub async fn wait_for_revision(
        &self,
        collection: &CollectionName,
        revision: Revision,
        deadline: Instant,
    ) -> Result<(), NotFresh> {
        let parts = &*self.0;
        let replica = (&*parts.cache, &*parts.typed, &*parts.sync.signals);
        freshness::wait(replica, collection, revision, deadline).await
    }

    /// The configuration of the replica.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The status: the body of `GET /v1/status` of a subscriber.
    /// All of it is of one view, except counters, which may be a moment newer.
    pub fn status(&self) -> ReplicaStatus {
        let parts = &*self.0;
        let view = self.view();
        let now = Instant::now();
        // All of one view: revisions, counts and states belong together.
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
                refusals: parts.typed.refusals(name, MAX_REFUSALS),
                refused_values: parts.typed.refused_values(name),
            });
        let StatsSnapshot {
            events,
            drops,
            sync,
            intake,
            events_behind,
            last_error,
        } = parts.stats.snapshot(&parts.config);
        ReplicaStatus {
            projection: None,
            instance: parts.config.instance.clone(),
            state: view.state(now),
            epoch: view.root().epoch(),
            confirmed_ms_ago: confirmed_ms_ago(&view, now),
            collections: collections.collect(),
            events,
            drops,
            boot_id: parts.boot_id.clone(),
            base_url: parts.config.named_url(),
            version: Some(ReleaseVersion::own()),
            protocol: Some(formats::PROTOCOL),
            transport: parts.config.events.transport(),
            event_keys: (parts.config.event_keys.as_ref())
                .map(EventKeys::ids)
                .unwrap_or_default(),
            intake,
            events_behind,
            topics_not_subscribed: parts
                .stats
                .topics_not_subscribed(&parts.config, view.root()),
            sync,
            last_error: view.last_error(last_error),
            handlers: parts.typed.handler_statuses(),
        }
    }

    /// How long changes took from their commit until readers saw them, since the start of the
    /// replica: for the metrics of a service. Changes that were committed before the start, or came
    /// without their time, do not count.
    pub fn apply_delays(&self) -> ApplyDelays {
        self.0.cache.delays()
    }

    /// The copy of what the replica holds on disk; `None` without a directory for it. For the metrics of
    /// a service: a replica whose copy is old starts with old values when no publisher answers.
    pub fn copy_on_disk(&self) -> Option<CopyOnDisk> {
        self.0.persistence.copy_on_disk()
    }

    /// The intake, for routes that are mounted in a service.
    #[cfg(any(test, feature = "actix"))]
    pub(crate) fn intake(&self) -> &Arc<Intake> {
        &self.0.intake
    }
}

/// The parts that tests look into.
#[cfg(test)]
impl Replica {
    pub(crate) fn cache(&self) -> &Cache {
        &self.0.cache
    }

    pub(crate) fn source(&self) -> &PublisherSource {
        &self.0.intake.source
    }

    pub(crate) fn persistence(&self) -> &Persistence {
        &self.0.persistence
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.0.stats
    }

    pub(crate) fn check_ins(&self) -> &CheckIns {
        &self.0.sync.check_ins
    }
}

/// Time since a publisher confirmed what is held: in this life of the process, or in the one that
/// saved it on disk.
fn confirmed_ms_ago(view: &View, now: Instant) -> Option<u64> {
    // In this life of the process the monotonic clock tells, which nobody sets back.
    if let Some(ago) = view.confirmed(now) {
        return Some(ago.as_millis().try_into().unwrap_or(u64::MAX));
    }
    // Only the wall clock outlives a process.
    let saved = view.saved_confirmed_ms?;
    let ago = Utc::now().timestamp_millis().saturating_sub(saved);
    // The wall clock may have been set back.
    Some(ago.try_into().unwrap_or(0))
}
