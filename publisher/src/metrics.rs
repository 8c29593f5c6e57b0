//! The metrics of a publisher, and their text for Prometheus. Labels come from short fixed lists,
//! never from a request. Nothing is stored: counters begin at 0 when the process starts.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use contract::{
    Head,
    apply_delays::ApplyDelays,
    dead_letter::DeadLetterReason,
    fleet::{CheckIn, EventBacklog},
};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use service::http::{histograms::DelayHistogram, refusals::Refusals, stream_slots::StreamSlots};

use crate::store::{Store, damage::DamageSummary, dead_letters::LetterCounts};

mod fleet;

type Label = [(&'static str, &'static str); 1];
type StatusLabel = [(&'static str, u16); 1];

/// All counters of this process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Check-ins whose digest was not the digest of the change log.
    pub diverged: Counter,
    /// Epochs that this publisher declared.
    pub epochs_declared: Counter,
    /// Reports of replicas that were ahead of the store without a valid proof.
    pub unproven_claims: Counter,
    /// Snapshots that were refused because the limit of snapshots was reached.
    pub snapshots_refused: Counter,
    /// Lists that were refused because the limit of lists was reached.
    pub lists_refused: Counter,
    /// Snapshots that were sent, or are being sent.
    pub snapshots: Counter,
    /// Dead letters that had to go for newer ones.
    pub dead_letters_evicted: Counter,
    /// Dead letters whose event was sent again.
    pub dead_letters_replayed: Counter,
    /// Requests that were refused.
    pub refusals: Refusals,
    /// Documents whose secrets are not wrapped by the active key.
    pub secrets_to_rewrap: Gauge,
    dead_letters_added: Family<Label, Counter>,
    dead_letters_unproven: Family<Label, Counter>,
    events: Family<Label, Counter>,
    writes: Family<StatusLabel, Counter>,
    probe_writes: Family<Label, Counter>,
    /// The sum over all replicas that checked in here.
    apply_delays: Mutex<ApplyDelays>,
}

/// What became of the turn of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeWrite {
    /// The document was written.
    Written,
    /// Another publisher writes it, or may.
    Elsewhere,
    /// It could not be written.
    Failed,
}

impl ProbeWrite {
    const ALL: [Self; 3] = [Self::Written, Self::Elsewhere, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Elsewhere => "elsewhere",
            Self::Failed => "failed",
        }
    }
}

/// What is read at the time of the scrape. `None` where the store does not answer: those metrics are
/// then omitted.
#[derive(Debug, Clone)]
pub struct Scrape<'a> {
    /// The store, for the times of its calls and for damaged rows.
    pub store: &'a Store,
    /// Whether it can be read and written, as `/readyz` finds it.
    pub store_ready: bool,
    /// The slots of streams.
    pub streams: &'a StreamSlots,
    /// The replicas of the store.
    pub replicas: Option<Replicas<'a>>,
    /// The heads of all collections.
    pub heads: Option<&'a [Head]>,
    /// The dead letters of the store.
    pub letters: Option<LetterCounts>,
    /// The changes whose events are not published yet.
    pub backlog: Option<EventBacklog>,
}

/// The replicas of a store.
#[derive(Debug, Clone, Default)]
pub struct Replicas<'a> {
    /// The newest check-in of each that is live.
    pub live: Vec<&'a CheckIn>,
    /// How many are not.
    pub gone: usize,
    /// How many are live and not listed, because the list is full.
    pub unlisted: usize,
}

impl Metrics {
    /// Counts an attempt to publish an event.
    pub fn event(&self, published: bool) {
        let result = if published { "published" } else { "failed" };
        self.events.get_or_create(&[("result", result)]).inc();
    }

    /// Counts a new dead letter by its reason.
    pub fn dead_letter(&self, reason: DeadLetterReason) {
        let reason = reason.as_str();
        self.dead_letters_added
            .get_or_create(&[("reason", reason)])
            .inc();
    }

    /// Counts an event that is not kept as a dead letter, because no publisher has signed it.
    pub fn dead_letter_unproven(&self, cause: &'static str) {
        self.dead_letters_unproven
            .get_or_create(&[("cause", cause)])
            .inc();
    }

    /// Counts a write by the HTTP status of its answer.
    pub fn write(&self, status: u16) {
        self.writes.get_or_create(&[("status", status)]).inc();
    }

    /// Counts a turn of the probe.
    pub fn probe(&self, write: ProbeWrite) {
        let label = [("result", write.as_str())];
        self.probe_writes.get_or_create(&label).inc();
    }

    /// Adds the delays that a replica reports.
    pub fn applied(&self, delays: &ApplyDelays) {
        self.delays().add(delays);
    }

    /// Makes the samples whose first increase an alert has to see: a sample that appears above 0 has
    /// not increased.
    fn begin_at_zero(&self) {
        self.writes.get_or_create(&[("status", 503)]).inc_by(0);
        for result in ["published", "failed"] {
            self.events.get_or_create(&[("result", result)]).inc_by(0);
        }
        for write in ProbeWrite::ALL {
            let label = [("result", write.as_str())];
            self.probe_writes.get_or_create(&label).inc_by(0);
        }
    }

    fn delays(&self) -> MutexGuard<'_, ApplyDelays> {
        // Numbers are whole at any time.
        self.apply_delays
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The text in the OpenMetrics format.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn text(&self, scrape: Scrape<'_>) -> Result<String, fmt::Error> {
        self.begin_at_zero();
        let mut registry = Registry::with_prefix("confcast");
        registry.register(
            "replicas_diverged",
            "Check-ins whose digest was not the digest of the change log",
            self.diverged.clone(),
        );
        registry.register(
            "epochs_declared",
            "Epochs that this publisher declared after a restore",
            self.epochs_declared.clone(),
        );
        registry.register(
            "claims_unproven",
            "Reports of replicas that were ahead of the store without a valid proof, and were ignored",
            self.unproven_claims.clone(),
        );
        registry.register(
            "snapshots_refused",
            "Snapshots refused because the limit of concurrent snapshots was reached",
            self.snapshots_refused.clone(),
        );
        registry.register(
            "lists_refused",
            "Lists refused because the limit of concurrent lists was reached",
            self.lists_refused.clone(),
        );
        registry.register(
            "snapshots",
            "Snapshots that were sent or are being sent: loads of replicas",
            self.snapshots.clone(),
        );
        DelayHistogram(self.delays().clone()).register(&mut registry);
        self.refusals.register(&mut registry);
        registry.register(
            "events",
            "Attempts to publish an event, by result: published or failed",
            self.events.clone(),
        );
        registry.register(
            "writes",
            "Writes that were answered, by HTTP status",
            self.writes.clone(),
        );
        registry.register(
            "probe_writes",
            "Turns of the probe document, by result: written, elsewhere or failed",
            self.probe_writes.clone(),
        );
        registry.register(
            "damaged_rows",
            "Damaged rows of the store that this publisher knows of, by what readers get",
            by_outcome(&scrape.store.damage().summary()),
        );
        registry.register(
            "store_ready",
            "1 while the store can be read and written, 0 while /readyz says that it cannot",
            gauge(u64::from(scrape.store_ready)),
        );
        registry.register(
            "store_disk_full",
            "Attempts to write that failed because the disk of the embedded store is full",
            scrape.store.disk_full(),
        );
        scrape.streams.register(&mut registry);
        scrape.store.times().register(
            &mut registry,
            "store_call_seconds",
            "Seconds that a call of the store took, by operation and result",
        );
        registry.register(
            "secrets_to_rewrap",
            "Documents whose secrets are not yet wrapped by the active key",
            self.secrets_to_rewrap.clone(),
        );
        registry.register(
            "dead_letters_added",
            "New dead letters, by reason",
            self.dead_letters_added.clone(),
        );
        registry.register(
            "dead_letters_unproven",
            "Events that are not kept as dead letters because no publisher has signed them, by cause",
            self.dead_letters_unproven.clone(),
        );
        registry.register(
            "dead_letters_evicted",
            "Dead letters that were removed because the store keeps no more",
            self.dead_letters_evicted.clone(),
        );
        registry.register(
            "dead_letters_replayed",
            "Dead letters whose event was sent again",
            self.dead_letters_replayed.clone(),
        );
        if let Some(letters) = scrape.letters {
            registry.register(
                "dead_letters",
                "Dead letters that the store keeps, by state: open or replayed",
                by_letter_state(letters),
            );
        }
        if let Some(EventBacklog { pending, oldest_ms }) = scrape.backlog {
            registry.register(
                "events_pending",
                "Changes whose events are not published yet, counted up to 10,000",
                gauge(pending),
            );
            registry.register(
                "events_pending_age_seconds",
                "Seconds since the oldest of them was committed",
                gauge(oldest_ms / 1_000),
            );
        }
        if let Some(replicas) = &scrape.replicas {
            fleet::register(&mut registry, replicas);
        }
        if let Some(heads) = scrape.heads {
            let replicas = scrape.replicas.unwrap_or_default();
            fleet::register_lag(&mut registry, heads, &replicas);
        }
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn gauge(number: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
    gauge
}

fn by_outcome(damage: &DamageSummary) -> Family<Label, Gauge> {
    let family = Family::<Label, Gauge>::default();
    for (outcome, rows) in [
        ("from_log", damage.from_log),
        ("ignored", damage.ignored),
        ("refused", damage.refused),
    ] {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        family.get_or_create(&[("outcome", outcome)]).set(rows);
    }
    family
}

fn by_letter_state(letters: LetterCounts) -> Family<Label, Gauge> {
    let family = Family::<Label, Gauge>::default();
    let replayed = letters.kept.saturating_sub(letters.open);
    for (state, count) in [("open", letters.open), ("replayed", replayed)] {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        family.get_or_create(&[("state", state)]).set(count);
    }
    family
}
