//! `GET /metrics` of both services keeps the conventions of Prometheus: its own tool finds nothing.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use e2e::testbed::{FREE, StoreKind, Testbed, Transport, dependencies};
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
    }
    ensure!(
        lint("# TYPE Bad counter\nBad 1\n").is_err(),
        "the tool finds what is wrong"
    );
    Ok(())
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
