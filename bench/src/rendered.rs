//! Measure 21: the time from before a write is sent until a rendered file has its value, by `confcast files`,
//! compared with consul-template where `make bench` built it, and with a floor. One write at a time.
//!
//! Each side has one server on one disk that answers when the write is durable, and one process that renders one
//! template of one value with its default options; both bring the file to the disk before its rename. The floor
//! is this process, which writes a file of that size, brings it to the disk and renames it. All are awaited by
//! inotify, and the file is read after each rename.
//!
//! A write comes after a rest, or right after the file had the one before it: ours gathers changes that follow
//! each other sooner than 100 ms, and consul-template by default none.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use e2e::{
    client::Api,
    testbed::{
        FREE, dependencies,
        process::{Process, folder},
        services::Service,
    },
};
use tempfile::TempDir;
use tokio::{
    time::{sleep, timeout},
    try_join,
};

use crate::{
    Bench,
    carrier::TIMEOUT,
    figures::{Comparison, Durations, Row, Unit},
    floor::{consul::Consul, renamed::Renames},
    prepare::{create_documents, id},
    values::value,
};

/// Writes of a round that follow a rest, and that follow each other.
const WRITES: usize = 40;
/// Longer than ours gathers.
const REST: Duration = Duration::from_millis(200);
/// Length of a value, in bytes.
const BYTES: usize = 300;

pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut ours = Ours::start(&[]).await?;
    let mut eager = Ours::start(&["--wait-min", "0s"]).await?;
    let mut theirs = Theirs::start().await?;
    let mut floor = Floor::start()?;
    let line = "PUT sent until the file of confcast files has it, embedded store";
    let peer = "consul-template and Consul, PUT until the file has it";
    let own = "write, fsync and rename by the reader itself";
    let row = |ours: String, beside: &str| Comparison::new(21, Unit::Seconds, ours, beside);
    let mut beside_peer = [
        row(format!("{line}, after a rest, median"), peer),
        row(format!("{line}, after a rest, p95"), peer),
        row(
            "of that, until the PUT is answered, median".to_owned(),
            "until the PUT is answered",
        ),
        row(format!("{line}, right after the one before, median"), peer),
        row(
            format!("{line}, right after the one before, --wait-min 0s, median"),
            peer,
        ),
    ];
    let mut beside_floor = [
        row(format!("{line}, after a rest, median"), own),
        row(format!("{line}, after a rest, p95"), own),
    ];
    for round in 0..bench.rounds {
        bench.say(&format!("measure 21, round {}", round + 1));
        let writes = bench.sized(WRITES);
        let least = samples(&mut floor, writes, true).await?;
        let (here, there);
        if round % 2 == 0 {
            there = figures(theirs.as_mut(), writes).await?;
            here = figures(Some(&mut ours), writes).await?;
        } else {
            here = figures(Some(&mut ours), writes).await?;
            there = figures(theirs.as_mut(), writes).await?;
        }
        let [eager, ..] = samples(&mut eager, writes, false).await?;
        let here = here.context("ours is there")?;
        for (row, (ours, floor)) in beside_floor.iter_mut().zip(here.iter().zip(least)) {
            row.round(*ours, floor);
        }
        if let Some(there) = there {
            let [.., next] = there;
            let pairs = here.into_iter().zip(there).chain([(eager, next)]);
            for (row, (ours, theirs)) in beside_peer.iter_mut().zip(pairs) {
                row.round(ours, theirs);
            }
        }
    }
    let rows = beside_peer.into_iter().chain(beside_floor);
    Ok(rows.filter_map(Comparison::row).collect())
}

/// What writes a value, and the file that shows it.
trait Side {
    /// Writes the value of this number.
    async fn write(&self, number: u64) -> anyhow::Result<()>;
    fn file(&self) -> &Renames;
    /// Another number for each call.
    fn next(&mut self) -> u64;
}

/// Median and p95 until the file has it and the median until the answer, after a rest; and the median without.
async fn figures(side: Option<&mut impl Side>, writes: usize) -> anyhow::Result<Option<[f64; 4]>> {
    let Some(side) = side else { return Ok(None) };
    let [median, tail, answered] = samples(side, writes, true).await?;
    let [next, ..] = samples(side, writes, false).await?;
    Ok(Some([median, tail, answered, next]))
}

/// Median and p95 until the file has a write, and the median until the answer.
async fn samples(side: &mut impl Side, writes: usize, rests: bool) -> anyhow::Result<[f64; 3]> {
    let [mut shown, mut answered] = <[Durations; 2]>::default();
    for _each in 0..writes {
        if rests {
            sleep(REST).await;
        }
        let number = side.next();
        let sent = Instant::now();
        let write = async {
            side.write(number).await?;
            anyhow::Ok(sent.elapsed())
        };
        let show = async { Ok(side.file().until(&mark(number)).await? - sent) };
        let both = timeout(TIMEOUT, async { try_join!(write, show) }).await;
        let (answer, show) = both.context("a write was not rendered")??;
        answered.add(answer);
        shown.add(show);
    }
    Ok([shown.at(50), shown.at(95), answered.at(50)])
}

/// What the file of this number begins with, and no other one.
fn mark(number: u64) -> String {
    format!("{number} ")
}

/// What a file of this number has, in all three.
fn text(number: u64) -> String {
    format!("{}{}", mark(number), value(number, BYTES)["prompt"])
}

/// A publisher, and `confcast files` that follows it.
struct Ours {
    number: u64,
    file: Renames,
    api: Api,
    // Killed before what it follows.
    _files: Process,
    _publisher: Service,
    _folder: TempDir,
}

impl Ours {
    async fn start(options: &[&str]) -> anyhow::Result<Self> {
        let mut publisher = Service::publisher()?
            .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
            .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
        publisher.start().await?;
        let api = publisher.api();
        create_documents(&api, FREE, 1, BYTES).await?;
        let folder = folder()?;
        let [templates, out] = folders(folder.path())?;
        let document = format!("{FREE}['{}']", id(0));
        let template = format!("{{{{ {document}.number }}}} {{{{ {document}.prompt|quoted }}}}");
        fs::write(templates.join("value.j2"), template)?;
        let file = Renames::watch(&out, out.join("current/value"))?;
        let mut files = Command::new(dependencies::own_program("confcast")?);
        files.args(["files", FREE, "--publisher", &publisher.url(), "--to"]);
        files
            .arg(&out)
            .arg("--templates")
            .arg(&templates)
            .args(options);
        let files = Process::start("files", folder.path(), &mut files)?;
        let first = timeout(TIMEOUT, file.until(&mark(0))).await;
        first.with_context(|| files.tail())??;
        Ok(Self {
            number: 0,
            file,
            api,
            _files: files,
            _publisher: publisher,
            _folder: folder,
        })
    }
}

impl Side for Ours {
    async fn write(&self, number: u64) -> anyhow::Result<()> {
        let written = self.api.put(FREE, &id(0), &value(number, BYTES)).await?;
        written.expect(200).map(drop)
    }

    fn file(&self) -> &Renames {
        &self.file
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

/// A Consul server, and consul-template that follows it.
struct Theirs {
    number: u64,
    file: Renames,
    consul: Consul,
    _template: Process,
    _folder: TempDir,
}

impl Theirs {
    /// `None` where there is no consul-template.
    async fn start() -> anyhow::Result<Option<Self>> {
        let Some(programs) = Consul::programs() else {
            return Ok(None);
        };
        let consul = Consul::start(&programs).await?;
        consul.put(&id(0), &value(0, BYTES)).await?;
        let folder = folder()?;
        let [templates, out] = folders(folder.path())?;
        let template = format!(
            "{{{{ with key \"{}\" | parseJSON }}}}{{{{ .number }}}} \"{{{{ .prompt }}}}\"{{{{ end }}}}",
            id(0)
        );
        let source = templates.join("value.ctmpl");
        fs::write(&source, template)?;
        let to = out.join("value");
        let file = Renames::watch(&out, to.clone())?;
        let process = consul.template(&programs, folder.path(), &source, &to)?;
        let first = timeout(TIMEOUT, file.until(&mark(0))).await;
        first.with_context(|| process.tail())??;
        Ok(Some(Self {
            number: 0,
            file,
            consul,
            _template: process,
            _folder: folder,
        }))
    }
}

impl Side for Theirs {
    async fn write(&self, number: u64) -> anyhow::Result<()> {
        self.consul.put(&id(0), &value(number, BYTES)).await
    }

    fn file(&self) -> &Renames {
        &self.file
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

/// Writes the file itself.
struct Floor {
    number: u64,
    file: Renames,
    to: PathBuf,
    _folder: TempDir,
}

impl Floor {
    fn start() -> anyhow::Result<Self> {
        let folder = folder()?;
        let to = folder.path().join("value");
        Ok(Self {
            number: 0,
            file: Renames::watch(folder.path(), to.clone())?,
            to,
            _folder: folder,
        })
    }
}

impl Side for Floor {
    async fn write(&self, number: u64) -> anyhow::Result<()> {
        let new = self.to.with_extension("new");
        fs::write(&new, text(number))?;
        fs::File::open(&new)?.sync_all()?;
        Ok(fs::rename(new, &self.to)?)
    }

    fn file(&self) -> &Renames {
        &self.file
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

/// The folders of the templates and of the files.
fn folders(below: &Path) -> anyhow::Result<[PathBuf; 2]> {
    let folders = ["templates", "out"].map(|name| below.join(name));
    for folder in &folders {
        fs::create_dir(folder)?;
    }
    Ok(folders)
}
