//! Alerts and dashboard: promtool accepts rules, their unit tests and every query; they name metrics
//! that docs/reference/metrics.md has; and every alert has its section in the runbook.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use e2e::testbed::{metric_reference::MetricReference, process::folder};
use serde_json::{Value, json};

use crate::manifests::{CHART, charted, file, items, read, text, tool};

pub(crate) const RULES: &str = "deploy/prometheus/rules.yaml";
pub(crate) const DASHBOARD: &str = "deploy/grafana/confcast.json";
const PROMTOOL: &str = "PROMTOOL";
const TESTS: &str = "deploy/prometheus/rules_test.yaml";
const RUNBOOK: &str = "docs/operations/alerts.md";
/// What each section of the runbook answers.
const POINTS: [&str; 5] = ["Seen", "Why", "First look", "Remedy", "Escalate"];

fn alerts() -> anyhow::Result<Vec<Value>> {
    let rules = file(RULES)?;
    let groups = rules.iter().flat_map(|rules| items(rules, "/groups"));
    let alerts: Vec<_> = groups
        .flat_map(|group| items(group, "/rules"))
        .cloned()
        .collect();
    ensure!(!alerts.is_empty(), "no alerts");
    Ok(alerts)
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() -> anyhow::Result<()> {
    // It reads the rules that the configuration names, too.
    tool(
        PROMTOOL,
        &["check", "config", "deploy/prometheus/prometheus.yaml"],
    )?;
    tool(PROMTOOL, &["test", "rules", TESTS])?;
    Ok(())
}

/// A rule that nobody tests may never fire, or always.
#[test]
fn every_alert_is_tested_with_and_without_its_cause() -> anyhow::Result<()> {
    let tests = file(TESTS)?;
    let cases = tests.iter().flat_map(|tests| items(tests, "/tests"));
    let cases: Vec<_> = cases
        .flat_map(|test| items(test, "/promql_expr_test"))
        .collect();
    for alert in alerts()? {
        let query = format!("alertname=\"{}\"", text(&alert, "/alert")?);
        let fires: BTreeSet<bool> = cases
            .iter()
            .filter(|case| {
                case["expr"]
                    .as_str()
                    .is_some_and(|expr| expr.contains(&query))
            })
            .map(|case| items(case, "/exp_samples").next().is_some())
            .collect();
        ensure!(
            fires.len() == 2,
            "{TESTS} lacks a case of {query}: {fires:?}"
        );
    }
    Ok(())
}

#[test]
fn every_alert_names_metrics_that_exist() -> anyhow::Result<()> {
    let reference = MetricReference::read()?;
    for alert in alerts()? {
        let expr = text(&alert, "/expr")?;
        let names = reference.check(expr)?;
        // `up` is a metric of Prometheus itself.
        ensure!(!names.is_empty() || expr.starts_with("up{"), "{alert}");
    }
    Ok(())
}

/// An alert on a job of another name would never fire.
#[test]
fn the_alert_for_a_target_names_the_jobs_of_both_configurations() -> anyhow::Result<()> {
    let configuration = file("deploy/prometheus/prometheus.yaml")?;
    let jobs = configuration
        .iter()
        .flat_map(|file| items(file, "/scrape_configs"));
    let jobs: BTreeSet<_> = jobs
        .map(|job| text(job, "/job_name"))
        .collect::<Result<_, _>>()?;
    let chart = charted(Some(&format!("{CHART}/ci/monitored-values.yaml")))?;
    let monitors = chart
        .iter()
        .filter(|object| object["kind"] == "PodMonitor")
        .map(|monitor| {
            let label = text(monitor, "/spec/jobLabel")?;
            let job = &monitor["spec"]["selector"]["matchLabels"][label];
            job.as_str().context("the pods have no such label")
        });
    ensure!(jobs == monitors.collect::<Result<_, _>>()?, "{jobs:?}");
    let jobs: Vec<_> = jobs.into_iter().collect();
    let expected = format!("up{{job=~\"{}\"}} == 0", jobs.join("|"));
    let alerts = alerts()?;
    ensure!(
        alerts
            .iter()
            .any(|alert| alert["expr"] == expected.as_str()),
        "{expected}"
    );
    Ok(())
}

#[test]
fn every_alert_has_its_section_in_the_runbook_and_every_section_its_alert() -> anyhow::Result<()> {
    let page = read(RUNBOOK)?;
    let sections: Vec<_> = page
        .split("\n## ")
        .filter(|section| section.starts_with("Confcast"))
        .collect();
    let alerts = alerts()?;
    let titles: Vec<_> = sections
        .iter()
        .filter_map(|section| section.lines().next())
        .collect();
    let names: Vec<_> = alerts
        .iter()
        .map(|alert| text(alert, "/alert"))
        .collect::<Result<_, _>>()?;
    ensure!(
        titles == names,
        "{RUNBOOK} has {titles:?}, {RULES} has {names:?}"
    );
    for (section, alert) in sections.iter().zip(&alerts) {
        runs(section, alert)
            .with_context(|| text(alert, "/alert").unwrap_or_default().to_owned())?;
    }
    Ok(())
}

/// Compares a section with its alert.
fn runs(section: &str, alert: &Value) -> anyhow::Result<()> {
    let severity = match text(alert, "/labels/severity")? {
        "page" => "Page",
        "ticket" => "Ticket",
        other => anyhow::bail!("severity {other}"),
    };
    let delay = match alert.get("for") {
        Some(delay) => format!("after {}", delay.as_str().context("no text")?),
        None => "at once".to_owned(),
    };
    let line = format!("{severity}, {delay}.");
    ensure!(
        section
            .lines()
            .nth(2)
            .is_some_and(|found| found.starts_with(&line)),
        "the section does not begin with {line:?}"
    );
    let points = section
        .lines()
        .filter_map(|line| line.strip_prefix("- **")?.split_once(":** "));
    let points: Vec<_> = points.map(|(point, _)| point).collect();
    ensure!(points == POINTS, "its points are {points:?}");
    let anchor = text(alert, "/alert")?.to_lowercase();
    ensure!(text(alert, "/annotations/runbook_url")? == format!("{RUNBOOK}#{anchor}"));
    for annotation in ["/annotations/summary", "/annotations/description"] {
        ensure!(!text(alert, annotation)?.is_empty());
    }
    Ok(())
}

/// What a panel asks, with values for the variables of Grafana.
fn queries(panel: &Value) -> impl Iterator<Item = String> {
    items(panel, "/targets")
        .filter_map(|target| target["expr"].as_str())
        .map(|query| {
            query
                .replace("$__rate_interval", "5m")
                .replace("$namespace", ".*")
        })
}

#[test]
fn every_panel_asks_for_metrics_that_exist() -> anyhow::Result<()> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)?)?;
    let reference = MetricReference::read()?;
    let mut rules = Vec::new();
    for panel in items(&dashboard, "/panels").filter(|panel| panel["type"] != "row") {
        let queries: Vec<_> = queries(panel).collect();
        ensure!(!queries.is_empty(), "{panel} asks for nothing");
        for (query, target) in queries.iter().zip(items(panel, "/targets")) {
            let names = reference.check(query)?;
            let of_metrics = names.iter().flat_map(|name| reference.labels(name));
            let known: BTreeSet<_> = of_metrics.chain(["alertname"]).collect();
            let legend = text(target, "/legendFormat")?.split("{{").skip(1);
            for label in legend.filter_map(|rest| rest.split("}}").next()) {
                ensure!(
                    known.contains(label) && query.contains(label),
                    "{query} has no {label}"
                );
            }
            rules.push(json!({ "record": format!("panel:{}", rules.len()), "expr": query }));
        }
    }
    let folder = folder()?;
    let path = folder.path().join("queries.yaml");
    // YAML has all of JSON.
    let queries = json!({ "groups": [{ "name": "queries", "rules": rules }] });
    std::fs::write(&path, queries.to_string())?;
    tool(
        PROMTOOL,
        &["check", "rules", path.to_str().context("a path in UTF-8")?],
    )?;
    let broken = queries.to_string().replacen("sum", "sun", 1);
    std::fs::write(&path, broken)?;
    ensure!(
        tool(
            PROMTOOL,
            &["check", "rules", path.to_str().context("a path in UTF-8")?]
        )
        .is_err(),
        "promtool parses the queries"
    );
    Ok(())
}
