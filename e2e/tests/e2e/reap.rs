//! `confcast reap` with sidecars that start and die: the consumer groups that it removes, and above
//! all those that it keeps.

use std::{collections::BTreeSet, process::Output, time::Duration};

use anyhow::{Context, ensure};
use e2e::testbed::{
    CHANNELS, FREE, StoreKind, Testbed, Transport, dependencies, numbered, redis::Redis,
    wait::eventually,
};
use serde_json::{Value, json};
use tokio::process::Command;

type Outcome = anyhow::Result<()>;

/// Groups of others in the same streams: one that replicas of an application share, a pod of
/// another service, and a client that is no sidecar.
const FOREIGN: [&str; 3] = [
    "aura-configuration-subscriber",
    "billing-0",
    "00000000-0000-4000-8000-00000000f0e1",
];
/// A pod that was removed while an event waited for it.
const POD: &str = "configuration-subscriber-7";

/// The groups of a stream. No key and no other value of the answer looks like a name here.
async fn groups(redis: &Redis, stream: &str) -> anyhow::Result<BTreeSet<String>> {
    let answer = redis.command_text(&["XINFO", "GROUPS", stream]).await?;
    let lines: Vec<_> = answer.split("\r\n").collect();
    let names = lines
        .windows(3)
        .filter(|lines| lines[0] == "name")
        .map(|lines| lines[2].to_owned());
    Ok(names.collect())
}

/// Runs `confcast reap --json` while live sidecars read a steady flow of events.
async fn reap(
    testbed: &Testbed,
    publisher: &str,
    options: &[&str],
) -> anyhow::Result<(Output, Value)> {
    let redis = testbed.redis.as_ref().context("a redis")?.url();
    let mut command = Command::new(dependencies::own_program("confcast")?);
    command
        .args([
            "reap",
            "--json",
            "--groups",
            "configuration-subscriber-*",
            "--idle-seconds",
            "2",
        ])
        .args(options);
    command
        .args(["--publisher", publisher])
        .env("AURA_REDIS_URL", redis)
        .kill_on_drop(true);
    let api = testbed.publisher.api();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let writing = async {
        for number in 0.. {
            pace.tick().await;
            api.put(FREE, "busy", &numbered(number))
                .await?
                .expect(200)?;
        }
        anyhow::Ok(())
    };
    let output = tokio::select! {
        output = command.output() => output?,
        ended = writing => anyhow::bail!("the writer ended: {ended:?}"),
    };
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok((output, report))
}

fn verdict<'a>(report: &'a Value, group: &str) -> &'a str {
    let groups = report["groups"].as_array().into_iter().flatten();
    groups
        .filter(|each| each["group"] == group)
        .find_map(|each| each["verdict"].as_str())
        .unwrap_or_default()
}

fn with_verdict(report: &Value, verdict: &str) -> BTreeSet<String> {
    let groups = report["groups"].as_array().into_iter().flatten();
    let groups = groups.filter(|each| each["verdict"] == verdict);
    groups
        .filter_map(|each| each["group"].as_str())
        .map(str::to_owned)
        .collect()
}

/// One sidecar dies and starts with another group, so the old group is left behind. That group is
/// removed, and nothing else.
#[tokio::test]
async fn only_consumer_groups_of_removed_replicas_are_deleted() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Dapr).await?;
    testbed.publisher.start().await?;
    for subscriber in &mut testbed.subscribers {
        subscriber.start().await?;
    }
    let redis = testbed.redis.as_ref().context("a redis")?;
    testbed.sidecars[0].start().await?;
    testbed.sidecars[0].until_subscribed().await?;
    let first = eventually("the first sidecar has its group", async || {
        groups(redis, FREE)
            .await?
            .into_iter()
            .next()
            .context("none yet")
    })
    .await?;
    testbed
        .publisher_sidecar
        .as_mut()
        .context("a sidecar")?
        .start()
        .await?;
    let publisher = testbed.publisher.api();
    let url = testbed.publisher.url();
    publisher
        .create(FREE, &json!({"id": "busy"}))
        .await?
        .expect(201)?;
    eventually("there is something to read", async || {
        ensure!(redis.command_text(&["XLEN", FREE]).await? != ":0\r\n");
        Ok(())
    })
    .await?;
    for foreign in FOREIGN.into_iter().chain([POD]) {
        redis
            .command_text(&["XGROUP", "CREATE", FREE, foreign, "0"])
            .await?;
    }
    for (group, consumer) in [(POD, POD), (FOREIGN[2], "worker-1")] {
        redis
            .command_text(&[
                "XREADGROUP",
                "GROUP",
                group,
                consumer,
                "COUNT",
                "1",
                "STREAMS",
                FREE,
                ">",
            ])
            .await?;
    }
    testbed.sidecars[1].start().await?;
    testbed.sidecars[1].until_subscribed().await?;
    publisher
        .put(FREE, "busy", &json!({"before": "the end"}))
        .await?
        .expect(200)?;
    testbed.until_same(FREE, "busy").await?;

    // The replica of this group is live but may be disconnected: it read last, after the pod, which
    // belongs to no replica. The command reports everything that it removes.
    testbed.sidecars[0].kill()?;
    let before = groups(redis, FREE).await?;
    ensure!(before.len() == 6, "{before:?}");
    eventually("the group of the dead sidecar is noticed", async || {
        let (output, report) = reap(&testbed, &url, &[]).await?;
        ensure!(output.status.success(), "{output:?}");
        ensure!(
            verdict(&report, &first) == "unsure" && verdict(&report, POD) == "gone",
            "{report:#}"
        );
        Ok(())
    })
    .await?;

    testbed.sidecars[0].start().await?;
    testbed.sidecars[0].until_subscribed().await?;
    let redis = testbed.redis.as_ref().context("a redis")?;
    let gone = BTreeSet::from([first.clone(), POD.to_owned()]);
    let all = groups(redis, FREE).await?;
    ensure!(all.len() == 7 && all.is_superset(&before), "{all:?}");
    eventually("it is gone", async || {
        let (output, report) = reap(&testbed, &url, &[]).await?;
        ensure!(
            output.status.success() && with_verdict(&report, "gone") == gone,
            "{report:#}"
        );
        let others = with_verdict(&report, "other");
        ensure!(
            others
                .iter()
                .map(String::as_str)
                .eq(BTreeSet::from(FOREIGN)),
            "{report:#}"
        );
        Ok(())
    })
    .await?;
    ensure!(
        groups(redis, FREE).await? == all,
        "a dry run removed something"
    );

    // A subscriber has no list of replicas, so the command cannot decide with it.
    let (output, _report) = reap(&testbed, &testbed.subscribers[0].url(), &["--apply"]).await?;
    let output_text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(1) && output_text.contains("nothing was removed"),
        "{output_text}"
    );
    ensure!(
        groups(redis, FREE).await? == all,
        "it removed a group without a list of replicas"
    );

    eventually("it is removed", async || {
        let (output, report) = reap(&testbed, &url, &["--apply"]).await?;
        ensure!(
            output.status.success() && with_verdict(&report, "removed") == gone,
            "{report:#}"
        );
        let pod = report["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|each| each["group"] == POD);
        ensure!(pod.is_some_and(|pod| pod["pending"] == 1), "{report:#}");
        Ok(())
    })
    .await?;
    let left: BTreeSet<_> = all.difference(&gone).cloned().collect();
    ensure!(groups(redis, FREE).await? == left, "{left:?}");
    // The group is removed also where the dead sidecar left nothing unread.
    ensure!(
        !groups(redis, CHANNELS).await?.contains(&first),
        "its other groups are still there"
    );

    publisher
        .put(FREE, "busy", &json!({"after": "all"}))
        .await?
        .expect(200)?;
    testbed.until_same(FREE, "busy").await?;
    ensure!(
        groups(redis, FREE).await? == left,
        "a live sidecar had to create its group again"
    );
    Ok(())
}
