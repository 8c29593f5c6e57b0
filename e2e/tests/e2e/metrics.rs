//! `GET /metrics` of both services keeps the conventions of Prometheus: its own tool finds nothing. The
//! reference names every metric and its type.

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use e2e::testbed::{FREE, StoreKind, Testbed, Transport, dependencies};
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
    for service in [&testbed.publisher, &testbed.subscribers[0]] {
        let metrics = service.api().get("/metrics").await?.expect(200)?.body;
        ensure!(metrics.contains("# TYPE confcast_"), "{metrics}");
        lint(&metrics)?;
        let undocumented = &described(&metrics) - &documented()?;
        ensure!(undocumented.is_empty(), "{undocumented:?}");
    }
    ensure!(
        lint("# TYPE Bad counter\nBad 1\n").is_err(),
        "the tool finds what is wrong"
    );
    Ok(())
}

/// A metric that the reference names is served, besides those that have a condition.
#[tokio::test]
async fn the_reference_names_no_metric_that_is_not_there() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    testbed.until_same(FREE, "a").await?;
    let mut served = BTreeSet::new();
    for service in [&testbed.publisher, &testbed.subscribers[0]] {
        let metrics = service.api().get("/metrics").await?.expect(200)?.body;
        served.extend(described(&metrics));
    }
    let has_condition = |name: &str| {
        CONDITIONAL.contains(&name) || name.starts_with("confcast_subscriber_projection_")
    };
    let documented = documented()?;
    let missing: Vec<_> = (&documented - &served)
        .into_iter()
        .filter(|(name, _kind)| !has_condition(name))
        .collect();
    ensure!(missing.is_empty(), "{missing:?}");
    for name in CONDITIONAL {
        ensure!(
            documented.iter().any(|(known, _kind)| known == name),
            "{name}"
        );
    }
    Ok(())
}

/// Prometheus waits for 10 s by default: also when the store neither answers nor refuses.
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
    Ok(())
}

/// Metrics that have no sample before something went wrong, or was set up.
const CONDITIONAL: &[&str] = &[
    "confcast_dead_letters_added_total",
    "confcast_dead_letters_unproven_total",
    "confcast_probe_writes_total",
    "confcast_refusals_total",
    "confcast_subscriber_confirmed_age_seconds",
    "confcast_subscriber_refusals_total",
];

/// Names and types of the metrics in an answer in the text format.
fn described(metrics: &str) -> BTreeSet<(String, String)> {
    let lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let described = lines.filter_map(|line| line.split_once(' '));
    described
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// Names and types of the metrics in the reference.
fn documented() -> anyhow::Result<BTreeSet<(String, String)>> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
    let page = std::fs::read_to_string(page)?;
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `confcast_")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`');
        let name = name.split('{').next()?;
        Some((format!("confcast_{name}"), cells.next()?.to_owned()))
    });
    Ok(rows.collect())
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
