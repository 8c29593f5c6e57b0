//! What every rendering of the chart guarantees.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{kind, workloads};
use crate::{
    kubernetes::matches,
    manifests::{at, identity, items, read, renderings, text, the},
};

const POD: &str = "/spec/template/spec";

/// Runs a check on every rendering.
fn every(check: impl Fn(&[Value]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for (values, objects) in renderings()? {
        check(&objects).with_context(|| format!("with {values}"))?;
    }
    Ok(())
}

/// The profile `restricted` of the Pod Security Standards.
#[test]
fn every_pod_is_restricted() -> anyhow::Result<()> {
    every(|objects| {
        ensure!(workloads(objects).count() == 2, "two workloads");
        for workload in workloads(objects) {
            let pod = at(workload, POD)?;
            restricted(pod).with_context(|| identity(workload))?;
            let account = the(
                objects,
                "ServiceAccount",
                pod["serviceAccountName"].as_str(),
            )?;
            for place in [pod, account] {
                ensure!(
                    place["automountServiceAccountToken"] == false,
                    "a token of the API server"
                );
            }
        }
        Ok(())
    })
}

pub(crate) fn restricted(pod: &Value) -> anyhow::Result<()> {
    for member in [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "initContainers",
        "ephemeralContainers",
    ] {
        ensure!(pod.get(member).is_none(), "{member}");
    }
    let context = &pod["securityContext"];
    ensure!(
        context["runAsNonRoot"] == true && context["runAsUser"].as_u64() > Some(0),
        "it may run as root"
    );
    ensure!(
        context["seccompProfile"]["type"] == "RuntimeDefault" && context.get("sysctls").is_none(),
        "any system call"
    );
    for volume in items(pod, "/volumes") {
        let permitted = [
            "secret",
            "configMap",
            "emptyDir",
            "projected",
            "persistentVolumeClaim",
        ];
        ensure!(
            permitted.iter().any(|source| volume.get(source).is_some()),
            "{volume}"
        );
    }
    for container in items(pod, "/containers") {
        ensure!(
            container["securityContext"]
                == json!({
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                }),
            "{}",
            container["securityContext"]
        );
        ensure!(
            items(container, "/ports").all(|port| port.get("hostPort").is_none()),
            "a port of the node"
        );
    }
    Ok(())
}

/// A manifest is readable in a repository and for everyone who may read the release.
#[test]
fn no_manifest_has_a_secret() -> anyhow::Result<()> {
    let secret = [
        "AURA_CONFIGURATION_TOKEN",
        "AURA_CONFIGURATION_SECRET_KEYS",
        "AURA_CONFIGURATION_PROJECTION_URL",
        "AURA_REDIS_URL",
        "DAPR_API_TOKEN",
        "APP_API_TOKEN",
    ];
    every(|objects| {
        for object in objects {
            ensure!(kind(object) != "Secret", "{}", identity(object));
            let data = object.get("data").unwrap_or(&Value::Null);
            ensure!(
                secret.iter().all(|name| data.get(name).is_none()),
                "{}",
                identity(object)
            );
        }
        for workload in workloads(objects) {
            for variable in items(workload, "/spec/template/spec/containers/0/env") {
                let name = text(variable, "/name")?;
                let by_value = variable.get("value").is_some();
                ensure!(!(by_value && secret.contains(&name)), "{name}");
                ensure!(
                    !variable["value"]
                        .as_str()
                        .is_some_and(|url| url.contains('@')),
                    "{name}"
                );
            }
        }
        Ok(())
    })
}

/// A budget without room would hold up the drain of a node indefinitely.
#[test]
fn budgets_leave_room_for_a_rollout() -> anyhow::Result<()> {
    every(|objects| {
        let budgets = objects
            .iter()
            .filter(|object| kind(object) == "PodDisruptionBudget");
        for budget in budgets {
            ensure!(budget["spec"].get("minAvailable").is_none());
            ensure!(
                !["0", "\"0%\""].contains(&&*at(budget, "/spec/maxUnavailable")?.to_string()),
                "no pod may end"
            );
            let selected = workloads(objects).filter(|workload| {
                matches(
                    &budget["spec"]["selector"]["matchLabels"],
                    &workload["spec"]["template"]["metadata"]["labels"],
                )
            });
            let selected: Vec<_> = selected.collect();
            ensure!(selected.len() == 1, "{}", identity(budget));
            ensure!(
                selected[0]["spec"]["replicas"] != 1,
                "{} of one pod promises nothing",
                identity(budget)
            );
        }
        Ok(())
    })
}

#[test]
fn pods_are_spread_over_the_cluster() -> anyhow::Result<()> {
    every(|objects| {
        for workload in workloads(objects) {
            let labels = at(workload, "/spec/template/metadata/labels")?;
            let constraint = at(workload, "/spec/template/spec/topologySpreadConstraints/0")?;
            ensure!(matches(&constraint["labelSelector"]["matchLabels"], labels));
        }
        Ok(())
    })
}

#[test]
fn autoscaling_targets_the_subscribers() -> anyhow::Result<()> {
    let mut seen = 0;
    for (values, objects) in renderings()? {
        let scalers = objects
            .iter()
            .filter(|object| kind(object) == "HorizontalPodAutoscaler");
        for scaler in scalers {
            seen += 1;
            let target = at(scaler, "/spec/scaleTargetRef")?;
            let workload = the(&objects, text(target, "/kind")?, target["name"].as_str())?;
            ensure!(workload["apiVersion"] == target["apiVersion"]);
            // Two writers of one number would undo each other.
            ensure!(workload["spec"].get("replicas").is_none(), "{values}");
            let metric = at(scaler, "/spec/metrics/0/containerResource")?;
            let container = items(workload, "/spec/template/spec/containers")
                .find(|container| container["name"] == metric["container"])
                .with_context(|| format!("no container {}", metric["container"]))?;
            ensure!(container["name"] == "subscriber");
            at(container, "/resources/requests/cpu").context("a share of what?")?;
        }
    }
    ensure!(seen == 1, "{seen} autoscalers in all renderings");
    Ok(())
}

/// The API of Dapr is served, found and let through at one port, and only where a value says so.
#[test]
fn the_api_of_dapr_is_reached_where_it_is_served() -> anyhow::Result<()> {
    let mut seen = 0;
    for (values, objects) in renderings()? {
        let workload = the(&objects, "StatefulSet", Some("confcast-subscriber"))?;
        let listen = items(workload, "/spec/template/spec/containers/0/env")
            .find(|variable| variable["name"] == "AURA_CONFIGURATION_DAPR_API_LISTEN");
        let service = the(&objects, "Service", Some("confcast-subscriber"))?;
        let found = items(service, "/spec/ports").find(|port| port["name"] == "grpc-dapr");
        ensure!(listen.is_some() == found.is_some(), "{values}");
        let (Some(listen), Some(found)) = (listen, found) else {
            continue;
        };
        seen += 1;
        let port = &found["port"];
        ensure!(listen["value"] == format!("0.0.0.0:{port}"), "{listen}");
        ensure!(found["targetPort"] == *port, "{found}");
        let policy = the(&objects, "NetworkPolicy", Some("confcast-subscriber"))?;
        let admitted = items(policy, "/spec/ingress/0/ports").any(|rule| rule["port"] == *port);
        ensure!(admitted, "{values}: {policy}");
    }
    ensure!(seen == 1, "{seen} renderings serve it");
    Ok(())
}

/// Each pod is selected by one policy, and reaches what it needs.
#[test]
fn policies_let_through_what_is_needed() -> anyhow::Result<()> {
    every(|objects| {
        for workload in workloads(objects) {
            let labels = at(workload, "/spec/template/metadata/labels")?;
            let policies: Vec<_> = objects
                .iter()
                .filter(|object| kind(object) == "NetworkPolicy")
                .filter(|policy| matches(&policy["spec"]["podSelector"]["matchLabels"], labels))
                .collect();
            ensure!(policies.len() == 1, "{} policies", policies.len());
            let spec = &policies[0]["spec"];
            ensure!(spec["policyTypes"] == json!(["Ingress", "Egress"]));
            for rule in items(spec, "/ingress") {
                ensure!(items(rule, "/from").next().is_some(), "it admits all");
            }
            let ports: BTreeSet<u64> = items(spec, "/egress")
                .flat_map(|rule| items(rule, "/ports"))
                .filter_map(|port| port["port"].as_u64())
                .collect();
            let is_publisher = workload["metadata"]["name"] == "confcast-publisher";
            let annotations = at(workload, "/spec/template/metadata/annotations")?;
            let has_sidecar = annotations["dapr.io/enabled"] == "true";
            let store = items(workload, "/spec/template/spec/containers/0/env")
                .find(|variable| variable["name"] == "AURA_CONFIGURATION_STORE_URL");
            let has_mongodb = store.is_some_and(|variable| variable.get("valueFrom").is_some());
            // A sidecar on another broker reaches that one by a rule of the user.
            let has_component = (objects.iter()).any(|object| {
                kind(object) == "Component" && object["spec"]["type"] == "pubsub.redis"
            });
            let has_redis = has_sidecar && has_component
                || items(workload, "/spec/template/spec/containers/0/env")
                    .any(|variable| variable["name"] == "AURA_REDIS_URL");
            for (port, needed) in [
                (53, true),
                (8080, !is_publisher),
                (27017, has_mongodb),
                (6379, has_redis),
                // Operator and sentry of Dapr.
                (6500, has_sidecar),
                (50001, has_sidecar),
            ] {
                ensure!(
                    ports.contains(&port) == needed,
                    "{}: port {port}, needed: {needed}",
                    identity(workload)
                );
            }
        }
        Ok(())
    })
}

/// Kubernetes kills what has not ended when the time is over. The drain is part of that time, and long
/// enough for the Services to remove the pod.
#[test]
fn pods_get_the_time_that_they_need_to_end() -> anyhow::Result<()> {
    let grace = seconds_of("service/src/runtime/tasks.rs", "GRACE")?
        + seconds_of("service/src/runtime/process.rs", "BLOCKING_GRACE")?
        + seconds_of("service/src/runtime/telemetry/export.rs", "LAST")?;
    every(|objects| {
        for workload in workloads(objects) {
            let pod = at(workload, POD)?;
            let given = pod["terminationGracePeriodSeconds"]
                .as_u64()
                .map(Duration::from_secs)
                .context("the default of 30 s")?;
            ensure!(
                pod.pointer("/containers/0/lifecycle").is_none(),
                "a hook takes time as well"
            );
            let settings = the(objects, "ConfigMap", Some("confcast-settings"))?;
            let drain: u64 = text(settings, "/data/AURA_CONFIGURATION_DRAIN_SECONDS")?.parse()?;
            ensure!(drain >= 3, "a drain of {drain} s");
            ensure!(Duration::from_secs(drain) + grace <= given, "{given:?}");
            let annotations = at(workload, "/spec/template/metadata/annotations")?;
            // The sidecar stays for the last events, then ends within 5 s of its own.
            if annotations.get("dapr.io/enabled").is_some() {
                let block: u64 = text(annotations, "/dapr.io~1block-shutdown-duration")?
                    .strip_suffix('s')
                    .context("seconds")?
                    .parse()?;
                ensure!(block >= drain + grace.as_secs(), "the sidecar ends before");
                ensure!(block + 5 <= given.as_secs(), "{given:?}");
            }
        }
        Ok(())
    })
}

/// A constant of a crate that tests cannot depend on.
fn seconds_of(path: &str, name: &str) -> anyhow::Result<Duration> {
    let source = read(path)?;
    let (_, rest) = source
        .split_once(&format!("const {name}: Duration = Duration::from_secs("))
        .with_context(|| format!("{path} has no {name}"))?;
    let (seconds, _) = rest.split_once(')').context("no end")?;
    Ok(Duration::from_secs(seconds.parse()?))
}
