//! `GET /metrics` of both services keeps the conventions of Prometheus: its own tool finds nothing.
//! The page that rules and dashboard are checked against says what the services answer.

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use e2e::testbed::{
    FREE, StoreKind, Testbed, Transport, dependencies, metric_reference::MetricReference,
    wait::eventually,
};
use nix::sys::signal::Signal;
use serde_json::json;

type Outcome = anyhow::Result<()>;

#[tokio::test]
async fn promtool_accepts_the_metrics_of_both_services() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    api.create(FREE, &json!({"id": "a"})).await?.expect(409)?;
    testbed.until_same(FREE, "a").await?;
    let reference = MetricReference::read()?;
    let mut seen = BTreeSet::new();
    for service in [&testbed.publisher, &testbed.subscribers[0]] {
        let metrics = service.api().get("/metrics").await?.expect(200)?.body;
        ensure!(metrics.contains("# TYPE confcast_"), "{metrics}");
        lint(&metrics)?;
        seen.append(&mut reference.check(&metrics)?);
    }
    let publisher = testbed.publisher.api();
    let metrics = publisher.get("/metrics").await?.expect(200)?.body;
    // An alert sees an increase only of what was there before.
    for sample in [
        "confcast_store_ready 1\n",
        "confcast_writes_total{status=\"503\"} 0\n",
        "confcast_events_total{result=\"failed\"} 0\n",
        "confcast_probe_writes_total{result=\"failed\"} 0\n",
    ] {
        ensure!(metrics.contains(sample), "{sample}: {metrics}");
    }
    let unseen: Vec<_> = reference
        .names()
        .filter(|name| !seen.contains(*name) && !is_absent_at_first(name))
        .collect();
    ensure!(unseen.is_empty(), "no service has {unseen:?}");
    ensure!(
        lint("# TYPE Bad counter\nBad 1\n").is_err(),
        "the tool finds what is wrong"
    );
    Ok(())
}

/// The alert `ConfcastStoreUnavailable` needs an answer of the publisher, well within the 10 s that
/// Prometheus gives it by default: also when the store neither answers nor refuses.
#[tokio::test]
async fn a_store_that_hangs_leaves_its_numbers_out_in_time() -> Outcome {
    let mut testbed = Testbed::start(StoreKind::Mongo, Transport::Local).await?;
    let mongod = testbed.store.0.as_mut().context("a mongod")?;
    mongod
        .process()
        .context("a process")?
        .signal(Signal::SIGSTOP)?;
    let api = testbed.publisher.api();
    let metrics = tokio::time::timeout(Duration::from_secs(6), api.get("/metrics")).await;
    let metrics = metrics.context("too late for Prometheus")??.body;
    for (name, is_there) in [
        ("confcast_claims_unproven_total", true),
        ("confcast_replicas_last_error", false),
        ("confcast_events_pending", false),
    ] {
        ensure!(metrics.contains(name) == is_there, "{name}: {metrics}");
    }
    // A store that answered a moment ago counts as ready, as at `/readyz`.
    eventually("the store is not ready", async || {
        let metrics = api.get("/metrics").await?.body;
        ensure!(metrics.contains("confcast_store_ready 0\n"), "{metrics}");
        Ok(())
    })
    .await
}

/// Those with labels that are there once they were counted, those of a projection, and those of a copy on
/// disk, which `a_replica_that_cannot_write_to_its_disk_serves_and_logs_it` sees.
fn is_absent_at_first(name: &str) -> bool {
    name.starts_with("confcast_subscriber_projection_")
        || [
            "confcast_refusals_total",
            "confcast_subscriber_refusals_total",
            "confcast_dead_letters_added_total",
            "confcast_dead_letters_unproven_total",
            "confcast_subscriber_confirmed_age_seconds",
            "confcast_subscriber_copy_age_seconds",
            "confcast_subscriber_copy_failed",
        ]
        .contains(&name)
}

/// # Errors
/// With every complaint of `promtool check metrics`.
fn lint(metrics: &str) -> Outcome {
    let mut tool = Command::new(dependencies::path_of("PROMTOOL")?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = tool.stdin.take().context("its input")?;
    input.write_all(metrics.as_bytes())?;
    drop(input);
    let output = tool.wait_with_output()?;
    let complaints = [output.stdout, output.stderr].concat();
    let complaints = String::from_utf8_lossy(&complaints);
    ensure!(
        output.status.success() && complaints.trim().is_empty(),
        "{complaints}\n{metrics}"
    );
    Ok(())
}
