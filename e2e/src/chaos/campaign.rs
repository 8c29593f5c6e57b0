//! A campaign: rounds of faults under load. After each round writes pause, everything is repaired,
//! and the validators run.
//!
//! It ends at the first round in which a promise was broken, and keeps the logs that explain it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    actions::Actions,
    clock,
    cluster::{CHECK_IN, Cluster},
    counts::CounterSums,
    damage,
    driver::Driver,
    followers,
    nemesis::{self, FaultContext},
    observations::Observations,
    past,
    random::Random,
    reader::{self, SnapshotParser},
    record::Millis,
    report::Report,
    schedule::{Fault, Targets, plan},
    snapshot, transport,
    validators::{
        self, FailedCheck, FollowerValidator, Promise, ReplicaValidator, Sample, WriteIndex,
        durable, epoch_explained, grew, spoilt_row,
    },
};
use crate::testbed::{Transport, wait::within};

/// Faults between two pauses.
const ROUND: usize = 20;
/// How long replicas may take to equal the publisher after the last fault.
const CONVERGES: Duration = Duration::from_secs(15);
/// Tolerance for the time that requests take.
const SLACK: Millis = 500;
/// Average time per fault on two cores, pauses included; measured.
const FAULT: Duration = Duration::from_millis(1_100);
/// No round begins after this time.
const LONGEST: Duration = Duration::from_secs(24 * 60);

/// Options of a campaign.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of faults.
    pub faults: usize,
    /// Seed of the schedule.
    pub seed: u64,
    /// Writes per second.
    pub rate: u64,
    /// The transport of events.
    pub transport: Transport,
}

/// Receives the progress of a campaign.
pub trait Progress {
    /// A line for people.
    fn say(&self, line: &str);
    /// One more fault was injected.
    fn fault(&self);
}

/// Runs a campaign. Broken promises are in the report.
///
/// # Errors
/// When the campaign cannot be run to its end.
pub async fn run(options: &Options, progress: &impl Progress) -> anyhow::Result<Report> {
    let began = Instant::now();
    let expected = FAULT
        .saturating_mul(u32::try_from(options.faults).unwrap_or(u32::MAX))
        .min(LONGEST);
    progress.say(&format!(
        "about {} min, never more than 25",
        expected.as_secs() / 60 + 1
    ));
    let cluster = Cluster::start(options.transport)
        .await
        .context("setting the testbed")?;
    let clocks = clock::library().is_some();
    if !clocks {
        progress.say("NOTE: libfaketime is not there (Debian: faketime; or LIBFAKETIME): NO WALL CLOCK IS SHIFTED");
    }
    let driver = Driver::new(began);
    let mut random = Random::new(options.seed ^ 0x5eed);
    let mut moments = random.fork();
    let mut campaign = Campaign::new(options, &cluster, &driver, progress, clocks);
    let records: Vec<_> = cluster
        .replicas
        .iter()
        .map(|_| Mutex::<Observations>::default())
        .collect();
    // Readers begin after every document exists: before that, an absent document is no fault.
    driver.create_all(&cluster).await?;
    within(
        CONVERGES,
        "every replica has all that was sown",
        async || snapshot::same(&cluster).await,
    )
    .await?;
    let watched = cluster.replicas.iter().zip(&records);
    let readers =
        join_all(watched.map(|(member, record)| reader::watch(&cluster, member, &driver, record)));
    let sums = Mutex::<CounterSums>::default();
    let ended = |name: &str, said: &str| {
        progress.say(&format!(
            "{name} had ended by itself and is started again: {said}"
        ));
    };
    let ended = tokio::select! {
        ended = campaign.rounds(&records) => ended,
        _ = driver.run(&cluster, options.rate, &mut random) => unreachable!("it never ends"),
        _ = readers => unreachable!("it never ends"),
        _ = followers::follow_all(&cluster, &driver) => unreachable!("it never ends"),
        _ = past::watch(&cluster, &driver, &mut moments) => unreachable!("it never ends"),
        _ = snapshot::count(&cluster, &sums) => unreachable!("it never ends"),
        error = cluster.keep(ended) => Err(error),
    };
    let Campaign {
        mut report,
        actions,
        ..
    } = campaign;
    report.seconds = began.elapsed().as_secs();
    report.count(&driver.record(), &records);
    report.count_followers(&cluster.followers);
    let actions = actions.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.count_actions(&actions, &snapshot::said(&cluster).await);
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.events = snapshot::EVENTS.map(|counter| sums.sum(counter));
    report.arrivals = snapshot::ARRIVALS.map(|counter| sums.sum(counter));
    if ended.is_err() || report.check().is_err() {
        report.kept = Some(snapshot::keep(options.seed, &cluster, &driver, &records).await?);
    }
    ended.with_context(|| format!("seed {}, logs in {:?}", options.seed, report.kept))?;
    report.write()?;
    Ok(report)
}

struct Campaign<'a, P> {
    options: &'a Options,
    cluster: &'a Cluster,
    driver: &'a Driver,
    progress: &'a P,
    targets: Targets,
    validators: Vec<ReplicaValidator>,
    followers: Vec<FollowerValidator>,
    samples: Vec<Option<Sample>>,
    actions: Mutex<Actions>,
    /// How many of the orderly stops were validated.
    validated: usize,
    /// How many of the stalled readers were validated.
    stalls: usize,
    report: Report,
}

impl<'a, P: Progress> Campaign<'a, P> {
    fn new(
        options: &'a Options,
        cluster: &'a Cluster,
        driver: &'a Driver,
        progress: &'a P,
        clocks: bool,
    ) -> Self {
        let staleness = CHECK_IN.as_millis() as Millis * 5 / 2 + SLACK;
        let validators = cluster
            .replicas
            .iter()
            .map(|member| {
                ReplicaValidator::new(&cluster.components[member.component].name, staleness)
            })
            .collect();
        let targets = Targets::of(cluster, clocks);
        let samples = vec![None; cluster.components.len()];
        let transport = transport::name(options.transport);
        let report = Report {
            seed: options.seed,
            transport,
            asked: options.faults,
            ..Report::default()
        };
        let actions = Mutex::default();
        Self {
            options,
            cluster,
            driver,
            progress,
            targets,
            validators,
            followers: (cluster.followers.iter())
                .map(|follower| FollowerValidator::new(&follower.name))
                .collect(),
            samples,
            actions,
            validated: 0,
            stalls: 0,
            report,
        }
    }

    async fn rounds(&mut self, records: &[Mutex<Observations>]) -> anyhow::Result<()> {
        let plan = plan(self.options.seed, self.options.faults, &self.targets);
        self.settle(records).await?;
        for round in plan.chunks(ROUND) {
            if self.driver.now() > LONGEST.as_millis() as Millis {
                let dealt = self.report.faults.values().sum::<usize>();
                self.progress.say(&format!(
                    "NOTE: TIME IS UP after {dealt} of {} faults",
                    plan.len()
                ));
                break;
            }
            let context = FaultContext {
                cluster: self.cluster,
                driver: self.driver,
                actions: &self.actions,
            };
            let said = Mutex::new(&mut self.report.faults);
            let dealt = |fault: &Fault| {
                *said
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(fault.kind)
                    .or_default() += 1;
                self.progress.fault();
                self.progress.say(&format!(
                    "{:>7} ms  {:?} {} for {:?}",
                    self.driver.now(),
                    fault.kind,
                    fault.target,
                    fault.hold
                ));
            };
            let bound = Duration::from_secs(60 + 10 * round.len() as u64);
            timeout(bound, nemesis::deal(context, round, dealt))
                .await
                .context("the faults did not end")??;
            self.settle(records).await?;
            if !self.report.findings.violations.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Pauses writes, repairs everything, and runs the validators.
    async fn settle(&mut self, records: &[Mutex<Observations>]) -> anyhow::Result<()> {
        let silence = self.driver.gate.write().await;
        self.cluster.mend().await?;
        damage::repair(self.cluster, self.driver).await?;
        let mended = Instant::now();
        let same = within(
            CONVERGES,
            "every replica and follower equals the publisher",
            async || {
                snapshot::same(self.cluster).await?;
                followers::same(self.cluster).await
            },
        )
        .await;
        let took = mended.elapsed();
        self.report.convergence.push(took);
        let at = self.driver.now();
        self.progress.say(&format!(
            "{at:>7} ms  all is mended; converged: {} after {took:?}",
            same.is_ok()
        ));
        let truth = within(CONVERGES, "the publisher answers", async || {
            self.cluster
                .publisher(0)
                .get("/v1/snapshot")
                .await?
                .expect(200)
        });
        let truth = truth.await?;
        let truth = SnapshotParser::default().read(&truth.body)?;
        let components = self.cluster.components.iter().zip(&self.samples);
        let samples =
            join_all(components.map(|(component, first)| snapshot::calm(component, *first))).await;
        let record = &mut *self.driver.record();
        let index = WriteIndex::new(record);
        let findings = &mut self.report.findings;
        let broken = same.err().map(|error| FailedCheck {
            at,
            what: format!("{error:#}"),
            key: None,
        });
        findings.check(Promise::Converges, broken, "every replica", &index);
        durable(&index, &truth.held, at, findings);
        let epoch = truth.start.epoch.to_string();
        epoch_explained(&index, &epoch, at, findings);
        for probe in &record.probes {
            spoilt_row(&index, probe, findings);
        }
        let shifted = self
            .actions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .shifted
            > 0;
        for reading in &record.past {
            validators::past(&index, reading, !shifted, findings);
        }
        for (validate, record) in self.validators.iter_mut().zip(records) {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            for observation in &record.observations {
                validate.validate(&index, observation, findings);
            }
            // After a violation the observations of this round are kept for the logs.
            if findings.violations.is_empty() {
                record.observations.clear();
            }
        }
        for (validate, follower) in self.followers.iter_mut().zip(&self.cluster.followers) {
            let observed = &mut follower.record().observed;
            for followed in observed.iter() {
                validate.validate(&index, followed, findings);
            }
            if findings.violations.is_empty() {
                observed.clear();
            }
        }
        for ((component, first), now) in self
            .cluster
            .components
            .iter()
            .zip(&mut self.samples)
            .zip(samples)
        {
            let Some((now, panicked)) = now else { continue };
            let broken = panicked.map(|what| FailedCheck {
                at,
                what,
                key: None,
            });
            findings.check(Promise::NoPanic, broken, &component.name, &index);
            let since = *first.insert(first.filter(|first| first.pid == now.pid).unwrap_or(now));
            let broken = grew(since, now).map(|what| FailedCheck {
                at,
                what,
                key: None,
            });
            findings.check(Promise::Leak, broken, &component.name, &index);
        }
        let actions = self
            .actions
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for stop in &actions.stops[self.validated..] {
            let broken = stop.wrong.clone().map(|what| FailedCheck {
                at: stop.asked,
                what,
                key: None,
            });
            findings.check(Promise::OrderlyEnd, broken, &stop.who, &index);
        }
        self.validated = actions.stops.len();
        for stall in &actions.stalls[self.stalls..] {
            let broken = stall.wrong.clone().map(|what| FailedCheck {
                at: stall.at,
                what,
                key: None,
            });
            findings.check(Promise::StalledReaderEnds, broken, &stall.who, &index);
        }
        self.stalls = actions.stalls.len();
        // As the observations.
        if findings.violations.is_empty() {
            record.probes.clear();
            record.past.clear();
        }
        // Only after this round was validated, because a restore may lie between two of its views
        // with this epoch.
        if !record.epochs.iter().any(|(known, _)| *known == epoch) {
            record.epochs.push((epoch, record.restores.len()));
        }
        drop(silence);
        Ok(())
    }
}
