//! The objects for the Prometheus operator and Grafana. Without the values that ask for them there is
//! none: `base` compares all objects.

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{kind, workloads};
use crate::{
    kubernetes::matches,
    manifests::{CHART, at, charted, file, identity, items, read, text, the},
    monitoring::{DASHBOARD, RULES},
};

const RUNBOOK_URL: &str = "https://wiki.example/confcast/";

fn monitored() -> anyhow::Result<Vec<Value>> {
    charted(Some(&format!("{CHART}/ci/monitored-values.yaml")))
}

#[test]
fn the_chart_has_the_shipped_rules_with_the_address_of_the_runbook() -> anyhow::Result<()> {
    let objects = monitored()?;
    let rule = the(&objects, "PrometheusRule", None)?;
    let [mut shipped] = file(RULES)?
        .try_into()
        .map_err(|_| anyhow::anyhow!("one document"))?;
    for group in shipped["groups"].as_array_mut().context("no groups")? {
        for alert in group["rules"].as_array_mut().context("no rules")? {
            let url = format!("{RUNBOOK_URL}{}", text(alert, "/annotations/runbook_url")?);
            alert["annotations"]["runbook_url"] = url.into();
        }
    }
    ensure!(rule["spec"] == shipped, "{}", rule["spec"]);
    ensure!(rule["metadata"]["labels"]["release"] == "prometheus");
    Ok(())
}

#[test]
fn the_chart_has_the_shipped_dashboard() -> anyhow::Result<()> {
    let objects = monitored()?;
    let map = the(&objects, "ConfigMap", Some("confcast-dashboard"))?;
    ensure!(text(map, "/data/confcast.json")?.trim_end() == read(DASHBOARD)?.trim_end());
    ensure!(map["metadata"]["labels"]["grafana_dashboard"] == "1");
    Ok(())
}

/// A monitor that selects nothing, or scrapes a port that is not there, fails silently.
#[test]
fn each_workload_is_scraped_by_one_monitor() -> anyhow::Result<()> {
    let objects = monitored()?;
    for workload in workloads(&objects) {
        let labels = at(workload, "/spec/template/metadata/labels")?;
        let monitors: Vec<_> = objects
            .iter()
            .filter(|object| kind(object) == "PodMonitor")
            .filter(|monitor| matches(&monitor["spec"]["selector"]["matchLabels"], labels))
            .collect();
        ensure!(
            monitors.len() == 1,
            "{}: {}",
            identity(workload),
            monitors.len()
        );
        let endpoint = at(monitors[0], "/spec/podMetricsEndpoints/0")?;
        let ports = items(workload, "/spec/template/spec/containers/0/ports");
        let ports: Vec<_> = ports.map(|port| &port["name"]).collect();
        ensure!(ports.contains(&&endpoint["port"]), "{endpoint}");
        // The certificate that the pod shows has this name.
        ensure!(
            endpoint["scheme"] == "https"
                && endpoint["tlsConfig"]["serverName"] == workload["metadata"]["name"]
        );
        let volumes = items(workload, "/spec/template/spec/volumes");
        let mut secrets = volumes.filter_map(|volume| volume.pointer("/secret/secretName"));
        let authority = at(endpoint, "/tlsConfig/ca/secret/name")?;
        ensure!(
            secrets.any(|name| name == authority),
            "{}: {authority}",
            identity(workload)
        );
        ensure!(endpoint["authorization"]["credentials"]["name"] == "confcast-monitor-token");
    }
    Ok(())
}
