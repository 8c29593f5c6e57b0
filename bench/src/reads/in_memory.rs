//! `get` of the library at 100,000 documents while a writer changes them at full speed, compared
//! with a `HashMap` of the standard library with the same ids, which has no writer.
//!
//! One thread reads and one thread does everything else, so that both have a processor on a machine
//! with two. In the pass over the map the other thread is equally busy, with work that touches none
//! of the read data. Ids are read from one text in the order of the reads, so that the cost to find
//! the next id is equal and small. A whole pass is timed and divided by its gets. Single gets are
//! timed in separate passes, where the clock costs about as much as the get.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use contract::{CollectionName, DocumentId};
use e2e::testbed::{FREE, wait::eventually};
use replica::{Builder, Collection, Config, Events, Replica};
use serde::Deserialize;

use super::writer::{Activity, Writer};
use crate::{
    Bench, documents,
    figures::{Comparison, Row, Target, Unit},
};

/// Documents.
const DOCUMENTS: usize = 100_000;
/// Bytes of a value.
const BYTES: usize = 150;
/// Gets of a pass.
const GETS: usize = 2_000_000;
/// Gets that are timed one by one.
const SINGLE: usize = 1_000_000;
/// Gets of the pass over raw documents: their ids are prepared, and use memory.
const RAW: usize = 500_000;
/// The time limit of a load.
const LOAD: Duration = Duration::from_secs(60);

/// The type of a decoded document.
#[derive(Debug, Deserialize)]
struct Small {
    number: u64,
    active: bool,
}

/// The readers under test, and their content.
#[derive(Debug)]
struct Reader {
    replica: Replica,
    collection: Collection<Small>,
    map: HashMap<String, Arc<Small>>,
    /// Ids of one length, as they are read.
    order: String,
    name: CollectionName,
    raw: Vec<DocumentId>,
    single: usize,
}

/// Gets that were timed one by one, in seconds.
#[derive(Debug, Clone, Copy)]
struct Single {
    /// One in 10,000 gets takes longer.
    p9999: f64,
    longest: f64,
    /// How often the thread gave its processor away voluntarily, as a thread does that waits for a
    /// lock. Preemption does not count.
    waits: u64,
}

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let documents = bench.sized(DOCUMENTS);
    bench.say("filling a publisher");
    let (mut publisher, head) = documents::filled(documents, BYTES).await?;
    let config = Config::new("bench", [publisher.url()], [FREE])?;
    // The replica receives the changes of the writer, and does not contact a publisher that does
    // not know them.
    let config = Config {
        events: Events::Posted,
        check_in: Duration::from_secs(3_600),
        ..config
    };
    let replica = Builder::new(config).collection::<Small>(FREE)?.build()?;
    let writer = Writer::start(&replica, &head, documents, BYTES)?;
    tokio::time::timeout(LOAD, replica.ready())
        .await
        .context("it did not load in time")??;
    publisher.stop().await?;
    let reader = Arc::new(Reader::new(bench, replica, documents)?);

    let new = |ours: &str, beside: &str| Comparison::new(7, Unit::Seconds, ours, beside);
    let map = "HashMap::get, a busy thread beside";
    let mut typed = new("get of 100,000 values, a writer beside", map).must(Target::AtMost(2.0));
    let mut raw = new("get of a raw document, a writer beside", map).must(Target::AtMost(2.0));
    let mut p9999 = new("p99.99 of single gets, a writer beside", map);
    let mut longest = new("longest of 1,000,000 gets, a writer beside", map);
    let mut writing = new(
        "p99.99 of single gets, a writer beside",
        "the same, the writer at rest",
    );
    let mut applied = Comparison::alone(
        7,
        Unit::PerSecond,
        "changes applied and read into values meanwhile",
    );
    for round in 0..bench.rounds {
        bench.say(&format!("round {}", round + 1));
        let (ours, (get, single)) = if round % 2 == 0 {
            (
                of_ours(&reader, &writer).await?,
                of_map(&reader, &writer).await?,
            )
        } else {
            let floor = of_map(&reader, &writer).await?;
            (of_ours(&reader, &writer).await?, floor)
        };
        let [ours_waits, map_waits] = [ours.single.waits, single.waits];
        bench.say(&format!(
            "the reader waited {ours_waits} times beside a writer, {map_waits} times at the map"
        ));
        typed.round(ours.typed, get);
        raw.round(ours.raw, get);
        p9999.round(ours.single.p9999, single.p9999);
        longest.round(ours.single.longest, single.longest);
        writing.round(ours.single.p9999, ours.at_rest.p9999);
        applied.figure(ours.applied);
    }
    writer.end().await?;
    Ok([typed, raw, p9999, longest, writing, applied]
        .into_iter()
        .filter_map(Comparison::row)
        .collect())
}

/// Figures of ours in one round.
struct Ours {
    typed: f64,
    raw: f64,
    single: Single,
    at_rest: Single,
    applied: f64,
}

async fn of_ours(reader: &Arc<Reader>, writer: &Writer) -> anyhow::Result<Ours> {
    writer.set_activity(Activity::Write);
    let before = writer.applied();
    let begun = Instant::now();
    eventually("the writer writes", async || {
        ensure!(writer.applied() > before, "not yet");
        Ok(())
    })
    .await?;
    let typed = reader
        .on_a_thread(|it| it.pass(it.ids(), |id| seen(it.collection.get(id))))
        .await?;
    let raw = reader
        .on_a_thread(|it| {
            it.pass(it.raw.iter(), |id| {
                it.replica.view().root().get(&it.name, id).is_some()
            })
        })
        .await?;
    let single = reader
        .on_a_thread(|it| it.one_by_one(|id| seen(it.collection.get(id))))
        .await?;
    let applied = (writer.applied() - before) as f64 / begun.elapsed().as_secs_f64();
    writer.set_activity(Activity::Rest);
    let at_rest = reader
        .on_a_thread(|it| it.one_by_one(|id| seen(it.collection.get(id))))
        .await?;
    Ok(Ours {
        typed,
        raw,
        single,
        at_rest,
        applied,
    })
}

async fn of_map(reader: &Arc<Reader>, writer: &Writer) -> anyhow::Result<(f64, Single)> {
    writer.set_activity(Activity::Other);
    let get = reader
        .on_a_thread(|it| it.pass(it.ids(), |id| seen(it.map.get(id).cloned())))
        .await?;
    let single = reader
        .on_a_thread(|it| it.one_by_one(|id| seen(it.map.get(id).cloned())))
        .await?;
    writer.set_activity(Activity::Rest);
    Ok((get, single))
}

/// Uses the value, as a caller would.
fn seen(small: Option<Arc<Small>>) -> bool {
    black_box(small).is_some_and(|small| small.active && small.number < u64::MAX)
}

impl Reader {
    fn new(bench: &Bench, replica: Replica, documents: usize) -> anyhow::Result<Self> {
        let small = |number| {
            anyhow::Ok((
                documents::id(number),
                serde_json::from_str(&documents::config(number, BYTES))?,
            ))
        };
        let map = (0..documents).map(small).collect::<Result<_, _>>()?;
        let order = documents::places(documents, bench.sized(GETS))
            .map(documents::id)
            .collect();
        let raw = documents::places(documents, bench.sized(RAW))
            .map(|place| documents::id(place).parse());
        Ok(Self {
            collection: replica.collection::<Small>(FREE)?,
            replica,
            map,
            order,
            name: FREE.parse()?,
            raw: raw.collect::<Result<_, _>>()?,
            single: bench.sized(SINGLE),
        })
    }

    fn ids(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        let length = documents::id(0).len();
        let id = move |index: usize| {
            self.order
                .get(index * length..(index + 1) * length)
                .unwrap_or_default()
        };
        (0..self.order.len() / length).map(id)
    }

    /// The result of a pass in its own thread.
    async fn on_a_thread<T: Send + 'static>(
        self: &Arc<Self>,
        pass: impl FnOnce(&Self) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let reader = Arc::clone(self);
        tokio::task::spawn_blocking(move || pass(&reader)).await?
    }

    /// Seconds per get. A tenth is read first, so that caches are warm.
    fn pass<I: Copy>(
        &self,
        ids: impl ExactSizeIterator<Item = I> + Clone,
        get: impl Fn(I) -> bool,
    ) -> anyhow::Result<f64> {
        let count = ids.len();
        let warm = ids
            .clone()
            .take(count.div_ceil(10))
            .filter(|id| get(*id))
            .count();
        let begun = Instant::now();
        let found = ids.filter(|id| get(*id)).count();
        let lasted = begun.elapsed();
        ensure!(warm > 0 && found == count, "{found} of {count} were there");
        Ok(lasted.as_secs_f64() / count as f64)
    }

    fn one_by_one(&self, get: impl Fn(&str) -> bool) -> anyhow::Result<Single> {
        // Written before, so that no get waits for a memory page for its time.
        let mut times = vec![Duration::MAX; self.single.min(self.ids().len())];
        let waits = waits()?;
        let mut begun = Instant::now();
        for (time, id) in times.iter_mut().zip(self.ids()) {
            ensure!(get(id), "{id} was not there");
            let ended = Instant::now();
            *time = ended - begun;
            begun = ended;
        }
        let waits = self::waits()? - waits;
        times.sort_unstable();
        let slow = times.len() - 1 - times.len() / 10_000;
        let at = |rank: usize| {
            times
                .get(rank)
                .map(Duration::as_secs_f64)
                .context("no gets")
        };
        Ok(Single {
            p9999: at(slow)?,
            longest: at(times.len() - 1)?,
            waits,
        })
    }
}

/// The voluntary waits of this thread so far.
fn waits() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status")?;
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count
        .context("no count of context switches")?
        .trim()
        .parse()
        .context("a count of context switches")
}
