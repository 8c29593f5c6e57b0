//! A campaign: rounds of faults under load, and after each round silence, repair, and the judge.
//!
//! It ends at the first round in which a promise was broken, with everything that is needed to
//! understand it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    cast::{CHECK_IN, Cast},
    clock,
    deeds::Deeds,
    driver::Driver,
    journal::Ms,
    judge::{Broken, Index, Promise, Replica, Sample, durable, grew},
    look,
    nemesis::{self, Scene},
    observe::Record,
    random::Random,
    reader::{self, Eye},
    report::Report,
    schedule::{Fault, Targets, plan},
    tally::Tally,
    way,
};
use crate::{stage::Via, wait::within};

/// Faults between two silences.
const ROUND: usize = 20;
/// How long replicas may take to equal the publisher after the last fault.
const CONVERGES: Duration = Duration::from_secs(15);
/// How long requests and the machine may take on their way.
const SLACK: Ms = 500;
/// What a fault takes on two cores, silences included: measured.
const FAULT: Duration = Duration::from_millis(1_100);
/// However many faults: no round begins after that.
const LONGEST: Duration = Duration::from_secs(24 * 60);

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many faults.
    pub faults: usize,
    /// Repeats a schedule.
    pub seed: u64,
    /// Writes a second.
    pub rate: u64,
    /// What carries the events.
    pub via: Via,
}

/// What is said while it goes on.
pub trait Progress {
    /// Something happened.
    fn say(&self, line: &str);
    /// One more fault was dealt.
    fn fault(&self);
}

/// Runs a campaign. Broken promises are in the report.
///
/// # Errors
/// When it cannot be run to its end.
pub async fn run(options: &Options, progress: &impl Progress) -> anyhow::Result<Report> {
    let began = Instant::now();
    let expected = FAULT
        .saturating_mul(u32::try_from(options.faults).unwrap_or(u32::MAX))
        .min(LONGEST);
    progress.say(&format!(
        "about {} min, never more than 25",
        expected.as_secs() / 60 + 1
    ));
    let cast = Cast::start(options.via)
        .await
        .context("setting the stage")?;
    let clocks = clock::library().is_some();
    if !clocks {
        progress.say("NOTE: libfaketime is not there (Debian: faketime; or LIBFAKETIME): NO WALL CLOCK IS SHIFTED");
    }
    let driver = Driver::new(began);
    let mut random = Random::new(options.seed ^ 0x5eed);
    let mut campaign = Campaign::new(options, &cast, &driver, progress, clocks);
    let records: Vec<_> = cast
        .replicas
        .iter()
        .map(|_| Mutex::<Record>::default())
        .collect();
    // What replicas show before every document was made once is no reader's business.
    driver.sow(&cast).await?;
    within(
        CONVERGES,
        "every replica has all that was sown",
        async || look::same(&cast).await,
    )
    .await?;
    let watched = cast.replicas.iter().zip(&records);
    let readers =
        join_all(watched.map(|(member, record)| reader::watch(&cast, member, &driver, record)));
    let tally = Mutex::<Tally>::default();
    let ended = |name: &str, said: &str| {
        progress.say(&format!(
            "{name} had ended by itself and is started again: {said}"
        ));
    };
    let ended = tokio::select! {
        ended = campaign.rounds(&records) => ended,
        _ = driver.run(&cast, options.rate, &mut random) => unreachable!("it never ends"),
        _ = readers => unreachable!("it never ends"),
        _ = look::count(&cast, &tally) => unreachable!("it never ends"),
        error = cast.keep(ended) => Err(error),
    };
    let Campaign {
        mut report, deeds, ..
    } = campaign;
    report.seconds = began.elapsed().as_secs();
    report.count(&driver.journal(), &records);
    let deeds = deeds.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.count_deeds(&deeds, &look::said(&cast).await);
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.events = look::EVENTS.map(|counter| tally.sum(counter));
    report.arrivals = look::ARRIVALS.map(|counter| tally.sum(counter));
    if ended.is_err() || report.verdict().is_err() {
        report.kept = Some(look::keep(options.seed, &cast, &driver, &records).await?);
    }
    ended.with_context(|| format!("seed {}, logs in {:?}", options.seed, report.kept))?;
    report.write()?;
    Ok(report)
}

struct Campaign<'a, P> {
    options: &'a Options,
    cast: &'a Cast,
    driver: &'a Driver,
    progress: &'a P,
    targets: Targets,
    judges: Vec<Replica>,
    samples: Vec<Option<Sample>>,
    deeds: Mutex<Deeds>,
    /// How many of the orderly ends were judged.
    judged: usize,
    report: Report,
}

impl<'a, P: Progress> Campaign<'a, P> {
    fn new(
        options: &'a Options,
        cast: &'a Cast,
        driver: &'a Driver,
        progress: &'a P,
        clocks: bool,
    ) -> Self {
        let staleness = CHECK_IN.as_millis() as Ms * 5 / 2 + SLACK;
        let judges = cast
            .replicas
            .iter()
            .map(|member| Replica::new(&cast.parts[member.part].name, staleness))
            .collect();
        let targets = Targets::of(cast, clocks);
        let samples = vec![None; cast.parts.len()];
        let via = way::name(options.via);
        let report = Report {
            seed: options.seed,
            via,
            asked: options.faults,
            ..Report::default()
        };
        let deeds = Mutex::default();
        Self {
            options,
            cast,
            driver,
            progress,
            targets,
            judges,
            samples,
            deeds,
            judged: 0,
            report,
        }
    }

    async fn rounds(&mut self, records: &[Mutex<Record>]) -> anyhow::Result<()> {
        let plan = plan(self.options.seed, self.options.faults, &self.targets);
        self.settle(records).await?;
        for round in plan.chunks(ROUND) {
            if self.driver.now() > LONGEST.as_millis() as Ms {
                let dealt = self.report.faults.values().sum::<usize>();
                self.progress.say(&format!(
                    "NOTE: TIME IS UP after {dealt} of {} faults",
                    plan.len()
                ));
                break;
            }
            let scene = Scene {
                cast: self.cast,
                driver: self.driver,
                deeds: &self.deeds,
            };
            let said = Mutex::new(&mut self.report.faults);
            let dealt = |fault: &Fault| {
                *said
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(fault.blow)
                    .or_default() += 1;
                self.progress.fault();
                self.progress.say(&format!(
                    "{:>7} ms  {:?} {} for {:?}",
                    self.driver.now(),
                    fault.blow,
                    fault.target,
                    fault.hold
                ));
            };
            let bound = Duration::from_secs(60 + 10 * round.len() as u64);
            timeout(bound, nemesis::deal(scene, round, dealt))
                .await
                .context("the faults did not end")??;
            self.settle(records).await?;
            if !self.report.verdict.violations.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Silence, repair, and the judge.
    async fn settle(&mut self, records: &[Mutex<Record>]) -> anyhow::Result<()> {
        let silence = self.driver.gate.write().await;
        self.cast.mend().await?;
        let mended = Instant::now();
        let same = within(
            CONVERGES,
            "every replica equals the publisher",
            async || look::same(self.cast).await,
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
            self.cast
                .publisher(0)
                .get("/v1/snapshot")
                .await?
                .expect(200)
        });
        let truth = truth.await?;
        let truth = Eye::default().read(&truth.body)?;
        let parts = self.cast.parts.iter().zip(&self.samples);
        let samples = join_all(parts.map(|(part, first)| look::calm(part, *first))).await;
        let journal = &mut *self.driver.journal();
        let index = Index::new(journal);
        let verdict = &mut self.report.verdict;
        let broken = same.err().map(|error| Broken {
            at,
            what: format!("{error:#}"),
            key: None,
        });
        verdict.check(Promise::Converges, broken, "every replica", &index);
        durable(&index, &truth.held, at, verdict);
        for (judge, record) in self.judges.iter_mut().zip(records) {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            for observation in &record.observations {
                judge.judge(&index, observation, verdict);
            }
            // What is kept of a failure is this round.
            if verdict.violations.is_empty() {
                record.observations.clear();
            }
        }
        for ((part, first), now) in self.cast.parts.iter().zip(&mut self.samples).zip(samples) {
            let Some((now, panicked)) = now else { continue };
            let broken = panicked.map(|what| Broken {
                at,
                what,
                key: None,
            });
            verdict.check(Promise::NoPanic, broken, &part.name, &index);
            let since = *first.insert(first.filter(|first| first.pid == now.pid).unwrap_or(now));
            let broken = grew(since, now).map(|what| Broken {
                at,
                what,
                key: None,
            });
            verdict.check(Promise::Leak, broken, &part.name, &index);
        }
        let deeds = self.deeds.get_mut().unwrap_or_else(PoisonError::into_inner);
        for stop in &deeds.stops[self.judged..] {
            let broken = stop.wrong.clone().map(|what| Broken {
                at: stop.asked,
                what,
                key: None,
            });
            verdict.check(Promise::OrderlyEnd, broken, &stop.who, &index);
        }
        self.judged = deeds.stops.len();
        // Not before this round was judged: a restore may have come between two of its readings in
        // this history.
        let epoch = truth.start.epoch.to_string();
        if !journal.epochs.iter().any(|(known, _)| *known == epoch) {
            journal.epochs.push((epoch, journal.restores.len()));
        }
        drop(silence);
        Ok(())
    }
}
