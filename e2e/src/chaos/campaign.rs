//! A campaign: rounds of faults under load, and after each round silence, repair, and the judge.
//!
//! It ends at the first round in which a promise was broken, with everything that is needed to understand it.

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use contract::snapshot::Start;
use futures_util::future::{join_all, try_join_all};
use tokio::time::timeout;

use super::{
    cast::{CHECK_IN, Cast},
    driver::Driver,
    journal::Ms,
    judge::{Broken, Index, Promise, Replica, Sample, durable, grew},
    nemesis,
    observe::Record,
    random::Random,
    reader::{self, Eye},
    report::Report,
    schedule::{Targets, plan},
};
use crate::{parts::root, stage::Via, wait::within};

/// Faults between two silences.
const ROUND: usize = 20;
/// How long replicas may take to equal the publisher after the last fault.
const CONVERGES: Duration = Duration::from_secs(15);
/// How long requests and the machine may take on their way.
const SLACK: Ms = 500;

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
    let cast = Cast::start(options.via).await.context("setting the stage")?;
    let sets = cast.has_sets().await?;
    if !sets {
        progress.say("NOTE: POST /v1/changes is not there: NO CHANGE SETS ARE WRITTEN");
    }
    let restores = options.via == Via::Dapr && cast.has_check_ins().await?;
    if options.via == Via::Dapr && !restores {
        progress.say("NOTE: GET /v1/replicas is not there: NO DUMP IS RESTORED");
    }
    let driver = Driver::new(began, sets);
    let mut random = Random::new(options.seed ^ 0x5eed);
    let mut campaign = Campaign::new(options, &cast, &driver, progress, restores);
    let records: Vec<_> = cast.replicas.iter().map(|_| Mutex::<Record>::default()).collect();
    // What replicas show before every document was made once is no reader's business.
    driver.sow(&cast).await?;
    within(CONVERGES, "every replica has all that was sown", async || campaign.same().await).await?;
    let watched = cast.replicas.iter().zip(&records);
    let readers = join_all(watched.map(|(member, record)| reader::watch(&cast, member, &driver, record)));
    let ended = tokio::select! {
        ended = campaign.rounds(&records) => ended,
        _ = driver.run(&cast, options.rate, &mut random) => unreachable!("it never ends"),
        _ = readers => unreachable!("it never ends"),
        error = cast.keep(|name| progress.say(&format!("{name} had ended by itself and is started again"))) => Err(error),
    };
    let mut report = campaign.report;
    report.seconds = began.elapsed().as_secs();
    report.count(&driver.journal(), &records);
    if ended.is_err() || !report.verdict.violations.is_empty() {
        report.kept = Some(keep(options.seed, &cast, &driver, &records).await?);
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
    report: Report,
}

impl<'a, P: Progress> Campaign<'a, P> {
    fn new(options: &'a Options, cast: &'a Cast, driver: &'a Driver, progress: &'a P, restores: bool) -> Self {
        let staleness = CHECK_IN.as_millis() as Ms * 5 / 2 + SLACK;
        let judges =
            cast.replicas.iter().map(|member| Replica::new(&cast.parts[member.part].name, staleness)).collect();
        let targets = Targets::of(cast, restores);
        let samples = vec![None; cast.parts.len()];
        let report = Report { seed: options.seed, ..Report::default() };
        Self { options, cast, driver, progress, targets, judges, samples, report }
    }

    async fn rounds(&mut self, records: &[Mutex<Record>]) -> anyhow::Result<()> {
        let plan = plan(self.options.seed, self.options.faults, &self.targets);
        self.settle(records).await?;
        for round in plan.chunks(ROUND) {
            let said = Mutex::new(&mut self.report.faults);
            let dealt = |fault: &super::schedule::Fault| {
                *said.lock().unwrap_or_else(PoisonError::into_inner).entry(fault.blow).or_default() += 1;
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
            timeout(bound, nemesis::deal(self.cast, self.driver, round, dealt))
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
        let same = within(CONVERGES, "every replica equals the publisher", async || self.same().await).await;
        let took = mended.elapsed();
        self.report.convergence.push(took);
        let at = self.driver.now();
        self.progress.say(&format!("{at:>7} ms  all is mended; converged: {} after {took:?}", same.is_ok()));
        let truth = within(CONVERGES, "the publisher answers", async || {
            self.cast.publisher(0).get("/v1/snapshot").await?.expect(200)
        });
        let truth = truth.await?;
        let truth = Eye::default().read(&truth.body)?;
        let samples = join_all(self.cast.parts.iter().map(sample)).await;
        let journal = &mut *self.driver.journal();
        let index = Index::new(journal);
        let verdict = &mut self.report.verdict;
        let broken = same.err().map(|error| Broken { at, what: format!("{error:#}"), key: None });
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
            let broken = panicked.map(|what| Broken { at, what, key: None });
            verdict.check(Promise::NoPanic, broken, &part.name, &index);
            let since = *first.insert(first.filter(|first| first.pid == now.pid).unwrap_or(now));
            let broken = grew(since, now).map(|what| Broken { at, what, key: None });
            verdict.check(Promise::Leak, broken, &part.name, &index);
        }
        // Not before this round was judged: a restore may have come between two of its readings in this history.
        let epoch = truth.start.epoch.to_string();
        if !journal.epochs.iter().any(|(known, _)| *known == epoch) {
            journal.epochs.push((epoch, journal.restores.len()));
        }
        drop(silence);
        Ok(())
    }

    /// Whether every replica holds what the publisher holds, byte for byte.
    async fn same(&self) -> anyhow::Result<()> {
        let truth = documents(&self.cast.publisher(0)).await?;
        try_join_all(self.cast.replicas.iter().map(async |member| {
            let name = &self.cast.parts[member.part].name;
            let held = documents(&crate::client::Api::new(member.url.clone())).await.context(name.clone())?;
            ensure!(held.0 == truth.0, "{name} has epoch {} instead of {}", held.0, truth.0);
            let differs: Vec<_> = truth.1.iter().filter(|line| !held.1.contains(line)).take(3).collect();
            ensure!(differs.is_empty(), "{name} lacks {differs:?}");
            ensure!(held.1 == truth.1, "{name} has {} documents instead of {}", held.1.len(), truth.1.len());
            Ok(())
        }))
        .await
        .map(drop)
    }
}

/// What a part uses, and the line in which it said that it panicked.
async fn sample(part: &super::part::Part) -> Option<(Sample, Option<String>)> {
    let mut program = part.program.lock().await;
    let process = program.process()?;
    let panicked = process.output().lines().find(|line| line.contains("panicked at ")).map(str::to_owned);
    Some((Sample::of(process.id()).ok()?, panicked))
}

/// The epoch and the lines of all documents of a service, sorted.
async fn documents(api: &crate::client::Api) -> anyhow::Result<(String, Vec<String>)> {
    let body = timeout(Duration::from_secs(3), api.get("/v1/snapshot")).await.context("no answer")??.expect(200)?.body;
    let mut lines: Vec<_> = body.lines().map(str::to_owned).collect();
    ensure!(lines.len() >= 2, "an incomplete snapshot");
    lines.pop();
    let start: Start = serde_json::from_str(&lines.remove(0))?;
    lines.sort();
    Ok((start.epoch.to_string(), lines))
}

/// Keeps what is needed to understand a failure; where.
async fn keep(seed: u64, cast: &Cast, driver: &Driver, records: &[Mutex<Record>]) -> anyhow::Result<PathBuf> {
    let folder = root().join(format!("target/chaos/{seed}"));
    fs::create_dir_all(&folder)?;
    for part in &cast.parts {
        let output = part.program.lock().await.process().map(|process| process.output()).unwrap_or_default();
        fs::write(folder.join(format!("{}.log", part.name)), output)?;
    }
    fs::write(folder.join("journal.json"), serde_json::to_vec(&*driver.journal())?)?;
    for (member, record) in cast.replicas.iter().zip(records) {
        let observations = serde_json::to_vec(&record.lock().unwrap_or_else(PoisonError::into_inner).observations)?;
        fs::write(folder.join(format!("{}.seen.json", cast.parts[member.part].name)), observations)?;
    }
    Ok(folder)
}
