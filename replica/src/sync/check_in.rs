//! The check-in: it reports how far this replica is, is answered how far every collection is at the
//! publisher, and draws the conclusions.
//!
//! Only its answer, or the snapshot of a publisher, can make a replica `current`. It never changes
//! a document by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use contract::{
    CollectionName,
    apply_delays::ApplyDelays,
    fleet::{
        CheckIn, CheckInAnswer, CollectionReport, IntakeFault, MAX_INTERVAL_MS, MAX_SERVED,
        ResyncReason, Transport,
    },
    formats,
    release::ReleaseVersion,
    status::MAX_REFUSALS,
};
use state::Root;
use tokio::time::timeout;

use super::{Loader, SyncError, SyncSignals, load::listed};
use crate::{
    Config, Follow, SourceError, View,
    cache::Cache,
    intake::{IdOnlyCollections, Stats, UnconfirmedClaims, drop_refuted},
    source::{PublisherSource, withdrawn},
    typed::Typed,
};

/// Refused values of all collections, and handlers, that a check-in includes: its size is limited.
const MAX_REPORTED: usize = 50;
/// Characters of an error that a check-in includes.
const MAX_ERROR: usize = 200;
/// How long the last check-in may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// A source of events that delivers nothing is asked to connect again at most this often: where no
/// events are sent it would not help.
const RECONNECT_EVERY: Duration = Duration::from_secs(60);

/// Checks in with the publishers.
#[derive(Debug)]
pub(crate) struct CheckIns {
    /// Instance, interval, collections and tokens.
    pub(crate) config: Arc<Config>,
    /// Tells this process from the one before it under the same name.
    pub(crate) boot_id: String,
    /// What is reported, and what the heads are compared with.
    pub(crate) cache: Arc<Cache>,
    /// The publishers.
    pub(crate) source: Arc<PublisherSource>,
    /// Tells what is wrong with the intake.
    pub(crate) stats: Arc<Stats>,
    /// Asks the source of events to connect again.
    pub(crate) signals: Arc<SyncSignals>,
    /// What events said about revisions that no publisher confirmed.
    pub(crate) claims: Arc<UnconfirmedClaims>,
    /// Keeps which collections have id-only events.
    pub(crate) id_only: Arc<IdOnlyCollections>,
    /// Refused values and handlers, for the report.
    pub(crate) typed: Arc<Typed>,
    /// Loads when the answer says that a load is needed.
    pub(crate) loader: Arc<Loader>,
    /// What was last done about a fault of the intake.
    pub(crate) intake_monitor: Mutex<IntakeMonitor>,
    /// The delays that publishers know of. One whose answer was lost counts them twice.
    pub(crate) reported_delays: Mutex<ApplyDelays>,
}

/// What the loop has to know of a check-in that succeeded.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CheckedIn {
    /// The shortest time between two check-ins of a replica whose revisions move; `None` where
    /// early check-ins are not wanted.
    pub(crate) report_after: Option<Duration>,
    /// The same while requests wait for check-ins.
    pub(crate) confirm_after: Option<Duration>,
    /// Version of the changes that the report includes; see [`Cache::feed_changed`].
    pub(crate) reported_version: u64,
    /// Whether the report has an error, which is over now: the check-in succeeded.
    pub(crate) reported_error: bool,
}

/// What was last done about a fault of the intake.
#[derive(Debug, Default)]
pub(crate) struct IntakeMonitor {
    /// The fault that was last logged.
    logged: Option<IntakeFault>,
    /// When a reconnect was last requested.
    reconnected_at: Option<Instant>,
    /// Topics that the sidecar has not subscribed to, as they were last logged.
    topics: BTreeSet<CollectionName>,
    /// Served collections for which there is no place, as they were last logged.
    left_out: BTreeSet<CollectionName>,
}

impl CheckIns {
    /// Checks in once. Loads before when nothing is held at all, and afterwards when a collection
    /// is not loaded, when the publisher is in a newer history, or when it found that this replica
    /// has diverged.
    ///
    /// A replica that lacks a collection checks in before it loads: what it holds of the others may
    /// be the only evidence that a database was restored.
    ///
    /// # Errors
    /// When no publisher gave a usable answer, or its store is refused.
    pub(crate) async fn check_in(&self) -> Result<CheckedIn, SyncError> {
        if self.cache.view().root().epoch().is_none() {
            if !self.loader.discover().await? {
                return Ok(CheckedIn::default());
            }
            self.loader.load().await?;
            if self.cache.view().root().epoch().is_none() {
                // A publisher without revisions knows no check-ins.
                return Ok(CheckedIn::default());
            }
        }
        let view = self.cache.view();
        // Before the report, which includes the same fault.
        self.watch_intake();
        // Claims that come during the request are decided by the next one.
        let claims = self.claims.take();
        let requested_at = Instant::now();
        let delays = self.cache.delays();
        let report = CheckIn {
            apply_delays: self.new_delays(&delays),
            ..self.report(&view, requested_at)
        };
        let token = self.config.token_of_check_ins();
        let answer = match self.source.check_in(view.root(), &report, token).await {
            Ok(answer) => answer,
            Err(error) => {
                self.claims.put_back(claims);
                return Err(match error {
                    SourceError::Install(refusal) => self.loader.refused(refusal),
                    error => error.into(),
                });
            }
        };
        *self.reported_delays() = delays;
        drop_refuted(claims, &answer.heads, &self.stats);
        for (collection, reason) in &answer.resync {
            self.note_resync(view.root(), collection, *reason);
        }
        self.note_withdrawn(&view, &answer);
        // The heads were true that long before they were requested.
        let true_at = requested_at.checked_sub(Duration::from_millis(answer.age));
        let other_epoch =
            self.cache
                .compare_heads(true_at, answer.heads, &answer.resync, &answer.unsettled);
        self.hold_back_diverged(Instant::now());
        self.stats.checked_in(answer.without_topic);
        self.id_only.set(answer.id_only);
        let joins = self.follow(&answer.served) | self.returned(&view);
        // A newer history cannot be reached by changes: it is loaded whole.
        if other_epoch {
            self.loader.load().await?;
        } else if self.loader.is_due() {
            self.loader.load_missing().await?;
        }
        if joins {
            // Connections of before bring no events of the new collections.
            self.signals.request_reconnect();
        }
        Ok(CheckedIn {
            report_after: answer.report_after_ms.map(Duration::from_millis),
            confirm_after: answer.confirm_after_ms.map(Duration::from_millis),
            reported_version: view.buffers.version,
            reported_error: self.stats.request_failed(),
        })
    }

    /// Checks in for the last time, with the shortest interval: soon after it the replica counts as gone,
    /// and no write waits for it. It is a courtesy: a failure costs nothing, since the replica is gone
    /// after three silent intervals in any case.
    pub(crate) async fn leave(&self) {
        let view = self.cache.view();
        // No publisher knows it.
        if view.root().epoch().is_none() {
            return;
        }
        let report = CheckIn {
            interval_ms: 1,
            apply_delays: self.new_delays(&self.cache.delays()),
            ..self.report(&view, Instant::now())
        };
        let token = self.config.token_of_check_ins();
        let sent = self.source.check_in(view.root(), &report, token);
        if !matches!(timeout(LEAVE_TIMEOUT, sent).await, Ok(Ok(_answer))) {
            tracing::debug!("the last check-in was not answered");
        }
    }

    /// Logs why a collection is loaded again, and from where its newest events came: one of them was
    /// probably wrong.
    fn note_resync(&self, root: &Root, collection: &CollectionName, reason: ResyncReason) {
        let sources = self.stats.sources_of(collection);
        match reason {
            ResyncReason::Diverged => {
                tracing::error!(%collection, sources, "the content of {collection} differs from the publisher's at the same revision: it is loaded again (its newest events came from: {sources})");
            }
            ResyncReason::Unproven => {
                let revision = root.collection(collection).map_or(0, |held| held.known());
                tracing::error!(%collection, revision, sources, "{collection} has a revision that was never committed, from a wrong event up to revision {revision}: it is loaded again (its newest events came from: {sources})");
                let error = format!(
                    "an event of {collection} up to revision {revision} was never committed; the newest came from: {sources}"
                );
                self.stats.refuted("unconfirmed", &error, None);
            }
        }
    }

    /// The events of a collection that has diverged wait for check-ins for a while: one of them may
    /// have been wrong, and others would lead to one load after the other.
    fn hold_back_diverged(&self, now: Instant) {
        for (collection, held) in self.cache.view_guard().root().collections() {
            if held.diverged() {
                self.claims.hold_back(collection, now);
            }
        }
    }

    /// Notes the loaded collections that the publisher does not serve. They keep what they hold, and
    /// the others go on.
    fn note_withdrawn(&self, view: &View, answer: &CheckInAnswer) {
        let reason = |name: &CollectionName| {
            format!(
                "no publisher serves {name} any more, its last values stay: serve it by its schema \
                 or by AURA_CONFIGURATION_COLLECTIONS"
            )
        };
        let withdrawn: BTreeMap<_, _> = view
            .root()
            .collections()
            .filter(|(name, held)| held.loaded() && withdrawn(answer, name))
            .map(|(name, _held)| (name.clone(), reason(name)))
            .collect();
        let new: BTreeMap<_, _> = withdrawn
            .into_iter()
            .filter(|(name, _reason)| view.is_served(name))
            .collect();
        for (collection, reason) in &new {
            tracing::warn!(%collection, "{reason}");
        }
        if !new.is_empty() {
            self.cache.note_withdrawn(new);
        }
    }

    /// Whether a collection is served again that was loaded before; `before` is of the time of the
    /// request.
    fn returned(&self, before: &View) -> bool {
        let now = self.cache.view();
        let is_back = |name: &&CollectionName| {
            now.is_served(name)
                && now
                    .root()
                    .collection(name)
                    .is_some_and(|held| held.loaded())
        };
        let names = listed(before.unserved.keys().filter(is_back));
        if !names.is_empty() {
            tracing::info!("a publisher serves these collections again: {names}");
        }
        !names.is_empty()
    }

    /// Follows what the publisher serves, if that is wanted. Returns whether a collection joins:
    /// the next load brings it.
    fn follow(&self, served: &BTreeSet<CollectionName>) -> bool {
        // An older publisher does not say what it serves.
        if self.config.follow == Follow::Named || served.is_empty() {
            return false;
        }
        let joins_in = |root: &Root| -> BTreeSet<CollectionName> {
            let joins = root.collections().filter(|(_name, held)| held.joining());
            joins.map(|(name, _held)| name.clone()).collect()
        };
        let before = self.cache.view();
        let known = |name: &CollectionName| before.root().collection(name).is_some();
        let joins_before = joins_in(before.root());
        // Most answers name nothing new, and change nothing.
        if joins_before.is_empty() && served.iter().all(known) {
            return false;
        }
        let left_out = self.cache.follow(served);
        let after = self.cache.view();
        let joins = joins_in(after.root());
        let mut monitor = self
            .intake_monitor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let new = listed(joins.difference(&joins_before));
        if !new.is_empty() {
            tracing::info!(
                "the publisher serves collections that are new here, they are followed: {new}"
            );
        }
        if left_out != monitor.left_out {
            let names = listed(&left_out);
            if !names.is_empty() {
                tracing::warn!(
                    "{MAX_SERVED} collections are followed, which is the limit; not followed: {names}"
                );
            }
            monitor.left_out = left_out;
        }
        let topics = self.stats.topics_not_subscribed(&self.config, after.root());
        if topics != monitor.topics {
            let names = listed(&topics);
            let remedy = Transport::late_topics(self.config.events.transport());
            if let Some(remedy) = remedy.filter(|_remedy| !names.is_empty()) {
                tracing::warn!(
                    "the topics {names} were not known when they were asked for: {remedy}"
                );
            }
            monitor.topics = topics;
        }
        !joins.is_empty()
    }

    /// The delays that no publisher knows of yet, if there are any.
    fn new_delays(&self, delays: &ApplyDelays) -> Option<ApplyDelays> {
        let new = delays.since(&self.reported_delays());
        (new.changes() > 0).then_some(new)
    }

    fn reported_delays(&self) -> MutexGuard<'_, ApplyDelays> {
        let reported = self.reported_delays.lock();
        reported.unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of the check-in, without delays.
    fn report(&self, view: &View, now: Instant) -> CheckIn {
        let config = &self.config;
        let mut capacity = MAX_REPORTED;
        let collections = view.root().collections().map(|(name, held)| {
            let refusals = self.typed.refusals(name, capacity.min(MAX_REFUSALS));
            // The first collections get what there is: one report has a limit for all of them.
            capacity -= refusals.len();
            // What no proof shows to exist is told apart: the publisher takes it for no evidence.
            let proven = held
                .proven()
                .filter(|(revision, _proof)| *revision >= held.watermark());
            let known = proven.map_or(held.watermark(), |(revision, _proof)| revision);
            let report = CollectionReport {
                epoch: view.root().epoch().filter(|_epoch| held.versioned()),
                revision: held.watermark(),
                known,
                proof: proven.map(|(_revision, proof)| proof),
                claimed: Some(held.known()).filter(|claimed| *claimed > known),
                settled: held.last_settled(),
                state: view.state_of(name, now),
                reason: view.reason_of(name).map(str::to_owned),
                refusals,
                refused_values: self.typed.refused_values(name),
            };
            (name.clone(), report)
        });
        let mut handlers = self.typed.handler_statuses();
        let failing = handlers.iter().filter(|handler| handler.is_failing());
        let failing_handlers = failing.count() as u64;
        // Failing ones first: a report has a limit.
        handlers.sort_by_key(|handler| !handler.is_failing());
        handlers.truncate(MAX_REPORTED);
        CheckIn {
            instance: config.instance.clone(),
            boot_id: self.boot_id.clone(),
            base_url: config.named_url(),
            // A service that embeds the replica may configure any interval.
            interval_ms: u64::try_from(config.check_in.as_millis())
                .unwrap_or(MAX_INTERVAL_MS)
                .clamp(1, MAX_INTERVAL_MS),
            intake: self.stats.intake_fault(config),
            collections: collections.collect(),
            topics_not_subscribed: self.stats.topics_not_subscribed(config, view.root()),
            handlers,
            failing_handlers,
            events_behind: self.stats.events_behind(config),
            last_error: view
                .last_error(self.stats.last_error())
                .map(|error| error.chars().take(MAX_ERROR).collect()),
            transport: config.events.transport(),
            version: Some(ReleaseVersion::own()),
            protocol: Some(formats::PROTOCOL),
            apply_delays: None,
        }
    }

    /// Logs a fault of the intake when it begins and when it ends. A source of events that delivers
    /// nothing is asked to connect again.
    fn watch_intake(&self) {
        let fault = self.stats.intake_fault(&self.config);
        let mut monitor = self
            .intake_monitor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A connection that was just made has had no time to deliver anything.
        let recently = monitor
            .reconnected_at
            .is_some_and(|at| at.elapsed() < RECONNECT_EVERY);
        if fault == Some(IntakeFault::NotReceiving) && !recently {
            monitor.reconnected_at = Some(Instant::now());
            self.signals.request_reconnect();
        }
        match fault {
            Some(fault) if monitor.logged != Some(fault) => {
                tracing::warn!(
                    fault = fault.as_str(),
                    "the intake of events is faulty ({}): {}",
                    fault.as_str(),
                    fault.remedy(
                        self.config.events.transport(),
                        self.config.base_url.is_some()
                    )
                );
            }
            None if monitor.logged.is_some() => {
                tracing::info!("the intake of events works again");
            }
            _ => {}
        }
        monitor.logged = fault;
    }
}
