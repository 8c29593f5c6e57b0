//! `confcast tail`: its output, and that it shows every change once, whatever happens to the
//! connection.

use std::{process::Command, time::Duration};

use anyhow::ensure;
use e2e::{
    chaos::proxy::{Mode, Proxy},
    testbed::{
        CHANNELS, FREE, Store, StoreKind, dependencies, numbered,
        process::{Process, folder},
        sample,
        services::Service,
        wait::eventually,
    },
};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

type Outcome = anyhow::Result<()>;

/// A running `confcast tail`.
struct Tail {
    process: Process,
    _folder: TempDir,
}

impl Tail {
    fn start(url: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let folder = folder()?;
        let mut command = Command::new(dependencies::own_program("confcast")?);
        command.args(["tail", "--url", url]).args(arguments);
        Ok(Self {
            process: Process::start("tail", folder.path(), &mut command)?,
            _folder: folder,
        })
    }

    /// Waits until the output has this text, and returns the whole output.
    async fn shows(&self, what: &str) -> anyhow::Result<String> {
        eventually(&format!("tail shows {what}"), async || {
            let output = self.process.output();
            ensure!(output.contains(what), "{output}");
            Ok(output)
        })
        .await
    }

    async fn interrupt(mut self) -> Outcome {
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.ended(Duration::from_secs(5)).await?;
        ensure!(status.success(), "{status}: {}", self.process.output());
        Ok(())
    }
}

async fn publisher() -> anyhow::Result<Service> {
    let publisher = Store::start(StoreKind::Embedded).await?.publisher()?;
    let mut publisher = publisher.with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    Ok(publisher)
}

#[tokio::test]
async fn tail_shows_the_difference_of_each_change() -> Outcome {
    let publisher = publisher().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a", "name": "old", "same": true}))
        .await?
        .expect(201)?;
    let all = Tail::start(
        &publisher.url(),
        &["--since", &format!("{CHANNELS}:0,{FREE}:1")],
    )?;
    let one = Tail::start(
        &publisher.url(),
        &[FREE, "--id", "b", "--op", "delete", "--since", "0"],
    )?;
    api.create(CHANNELS, &sample(CHANNELS)?)
        .await?
        .expect(201)?;
    all.shows(&format!("{CHANNELS}/whatsapp-es created at 1"))
        .await?;
    api.put(FREE, "a", &json!({"id": "a", "name": "new", "same": true}))
        .await?
        .expect(200)?;
    let shown = all.shows("\"new\"").await?;
    ensure!(shown.contains("FreeForm/a updated at 2\n"), "{shown}");
    for line in [
        "    {\n",
        "  -   \"name\": \"old\",\n",
        "  +   \"name\": \"new\",\n",
        "      \"same\": true\n",
    ] {
        ensure!(shown.contains(line), "{line:?} is not in {shown}");
    }
    ensure!(!shown.contains('\u{1b}'), "colours in a file: {shown}");
    let set = json!({"changes": [{"collection": FREE, "op": "Delete", "id": "a"},
        {"collection": FREE, "op": "Create", "id": "b", "configData": {"n": 1}}]});
    api.send(
        Method::POST,
        "/v1/changes",
        &[("content-type", "application/json")],
        set.to_string(),
    )
    .await?
    .expect(200)?;
    let shown = all.shows("FreeForm/b created at 4 in set ").await?;
    ensure!(
        shown.contains("FreeForm/a deleted at 3 in set ")
            && shown.contains("  -   \"name\": \"new\""),
        "{shown}"
    );
    api.delete(FREE, "b").await?.expect(200)?;
    let shown = one.shows("FreeForm/b deleted at 5").await?;
    ensure!(
        !shown.contains("created") && !shown.contains("FreeForm/a"),
        "{shown}"
    );
    one.interrupt().await?;
    all.interrupt().await
}

/// The service is killed and the link is disconnected, again and again.
#[tokio::test]
async fn tail_shows_every_change_exactly_once() -> Outcome {
    let mut publisher = publisher().await?;
    let link = Proxy::start("tail to publisher", publisher.port()).await?;
    let tail = Tail::start(
        &format!("http://127.0.0.1:{}", link.port()),
        &[FREE, "--since", "0", "--json"],
    )?;
    let api = publisher.api();
    for round in 0..4 {
        for n in 0..25 {
            api.create(FREE, &numbered(n)).await?.expect(201)?;
        }
        tail.shows(&format!("\"revision\":{},", round * 50 + 5))
            .await?;
        if round % 2 == 0 {
            publisher.kill()?;
            publisher.start().await?;
        } else {
            link.set(Mode::Cut);
        }
        for n in 0..25 {
            api.create(FREE, &numbered(n)).await?.expect(201)?;
        }
        link.set(Mode::Open);
    }
    let shown = tail.shows("\"revision\":200,").await?;
    let items: Vec<Value> = shown
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let log = api
        .get(&format!("/v1/collections/{FREE}/changes?since=0"))
        .await?
        .json()?;
    ensure!(
        json!(items) == log["items"],
        "{} lines: {shown}",
        items.len()
    );
    ensure!(
        shown.contains("trying again") && shown.contains("connected again"),
        "{shown}"
    );
    tail.interrupt().await
}

#[tokio::test]
async fn tail_reports_why_it_cannot_continue() -> Outcome {
    let publisher = publisher().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let epoch = api.head(FREE).await?.epoch;
    let other = format!(
        "{} {FREE}:1",
        contract::Epoch {
            counter: epoch.counter + 1,
            ..epoch
        }
    );
    let goes_on = Tail::start(&publisher.url(), &[FREE, "--since", &other])?;
    let mut strict = Tail::start(&publisher.url(), &[FREE, "--since", &other, "--strict"])?;
    goes_on
        .shows("resync: the feed cannot continue without a gap (epoch)")
        .await?;
    let status = strict.process.ended(Duration::from_secs(10)).await?;
    ensure!(
        status.code() == Some(1) && strict.process.output().contains("(epoch)"),
        "{}",
        strict.process.output()
    );
    api.put(FREE, "a", &numbered(7)).await?.expect(200)?;
    goes_on.shows("FreeForm/a updated at 2").await?;
    goes_on.interrupt().await?;
    for (arguments, message) in [
        (vec!["Unknown"], "has no collection Unknown"),
        (vec![FREE, "--since", "x"], "--since"),
    ] {
        let mut refused = Tail::start(&publisher.url(), &arguments)?;
        let status = refused.process.ended(Duration::from_secs(10)).await?;
        ensure!(
            status.code() == Some(1) && refused.process.output().contains(message),
            "{}",
            refused.process.output()
        );
    }
    Ok(())
}
