//! The guarantees of the manifests for Kubernetes.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use e2e::testbed::sidecar::{PUBLISHER, SUBSCRIBER};
use serde_json::{Value, json};

use crate::manifests::{at, file, identity, items, kustomized, secured, text, the};

const ANNOTATIONS: &str = "/spec/template/metadata/annotations";
const POD: &str = "/spec/template/spec";
const CONTAINER: &str = "/spec/template/spec/containers/0";

/// The annotations of Dapr 1.14 that we use. Dapr ignores unknown annotations silently.
pub(crate) const KNOWN_ANNOTATIONS: [&str; 17] = [
    "dapr.io/enabled",
    "dapr.io/app-id",
    "dapr.io/app-port",
    "dapr.io/app-protocol",
    "dapr.io/config",
    "dapr.io/enable-app-health-check",
    "dapr.io/app-health-check-path",
    "dapr.io/app-health-probe-interval",
    "dapr.io/app-health-probe-timeout",
    "dapr.io/app-health-threshold",
    "dapr.io/block-shutdown-duration",
    "dapr.io/disable-builtin-k8s-secret-store",
    "dapr.io/sidecar-cpu-request",
    "dapr.io/sidecar-memory-request",
    "dapr.io/sidecar-memory-limit",
    "dapr.io/api-token-secret",
    "dapr.io/app-token-secret",
];

/// The publisher and the subscriber.
fn workloads(objects: &[Value]) -> anyhow::Result<[(&Value, &'static str); 2]> {
    // The subscriber needs stable names: they are its consumer groups.
    Ok([
        (the(objects, "Deployment", None)?, PUBLISHER),
        (the(objects, "StatefulSet", None)?, SUBSCRIBER),
    ])
}

#[test]
fn both_workloads_have_a_sidecar() -> anyhow::Result<()> {
    for objects in [kustomized()?, secured()?] {
        let configuration = text(the(&objects, "Configuration", None)?, "/metadata/name")?;
        let settings = at(the(&objects, "ConfigMap", None)?, "/data")?;
        for (workload, app_id) in workloads(&objects)? {
            let annotations = at(workload, ANNOTATIONS)?;
            for (name, expected) in [
                ("dapr.io/enabled", "true"),
                ("dapr.io/app-id", app_id),
                ("dapr.io/config", configuration),
                ("dapr.io/enable-app-health-check", "true"),
                ("dapr.io/app-health-check-path", "/healthz"),
            ] {
                ensure!(
                    annotations[name] == expected,
                    "{}: {name} is not {expected:?}",
                    identity(workload)
                );
            }
            for name in annotations
                .as_object()
                .into_iter()
                .flat_map(|all| all.keys())
            {
                ensure!(
                    KNOWN_ANNOTATIONS.contains(&name.as_str()),
                    "{}: does Dapr know {name}? Then name it here",
                    identity(workload)
                );
            }
            let port = at(workload, CONTAINER)?["ports"][0]["containerPort"].to_string();
            ensure!(
                annotations["dapr.io/app-port"] == port.as_str(),
                "{}: another port",
                identity(workload)
            );
            let listen = text(settings, "/AURA_CONFIGURATION_LISTEN")?;
            ensure!(
                listen == format!("0.0.0.0:{port}"),
                "{listen}: the kubelet must reach port {port}"
            );
            let map = &at(workload, CONTAINER)?["envFrom"][0]["configMapRef"]["name"];
            ensure!(
                *map == the(&objects, "ConfigMap", None)?["metadata"]["name"],
                "{}: other settings",
                identity(workload)
            );
        }
        ensure!(
            settings["AURA_CONFIGURATION_EVENTS_MANAGER"] == "DAPR",
            "the sidecars are not used for events"
        );
    }
    Ok(())
}

#[test]
fn every_replica_has_its_own_consumer_group() -> anyhow::Result<()> {
    let objects = kustomized()?;
    let consumer = items(
        the(&objects, "Component", Some("pubsub-config"))?,
        "/spec/metadata",
    )
    .find(|item| item["name"] == "consumerID");
    ensure!(
        consumer.context("no consumerID")?["value"] == "{podName}",
        "replicas would share events"
    );
    let replicas = at(the(&objects, "StatefulSet", None)?, "/spec/replicas")?.as_u64();
    ensure!(replicas >= Some(2), "one replica shows nothing");
    Ok(())
}

#[test]
fn pods_have_no_privileges_that_they_do_not_need() -> anyhow::Result<()> {
    for objects in [kustomized()?, secured()?] {
        for (workload, _) in workloads(&objects)? {
            let name = identity(workload);
            let pod = at(workload, POD)?;
            let container = at(workload, CONTAINER)?;
            ensure!(
                items(workload, "/spec/template/spec/containers").count() == 1,
                "{name}: check all containers here"
            );
            ensure!(
                pod["securityContext"]["runAsNonRoot"] == true,
                "{name} may run as root"
            );
            ensure!(
                pod["securityContext"]["runAsUser"].as_u64() > Some(0),
                "{name} runs as root"
            );
            ensure!(
                pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault",
                "{name}: any system call"
            );
            ensure!(
                pod["automountServiceAccountToken"] == false,
                "{name} gets a token of the API server"
            );
            ensure!(
                container["securityContext"]["readOnlyRootFilesystem"] == true,
                "{name} may write to its image"
            );
            ensure!(
                container["securityContext"]["allowPrivilegeEscalation"] == false,
                "{name} may escalate"
            );
            ensure!(
                container["securityContext"]["capabilities"] == json!({ "drop": ["ALL"] }),
                "{name} has capabilities"
            );
        }
    }
    Ok(())
}

#[test]
fn pods_have_probes_and_resource_limits() -> anyhow::Result<()> {
    for objects in [kustomized()?, secured()?] {
        for (workload, _) in workloads(&objects)? {
            let name = identity(workload);
            let container = at(workload, CONTAINER)?;
            let has_tls = text(
                the(&objects, "ConfigMap", None)?,
                "/data/AURA_CONFIGURATION_API_URL",
            )?
            .starts_with("https://");
            // The sidecar calls the application in the same way as the kubelet.
            let protocol = has_tls.then_some("https");
            ensure!(
                at(workload, ANNOTATIONS)?
                    .get("dapr.io/app-protocol")
                    .and_then(Value::as_str)
                    == protocol,
                "{name}: another protocol for the sidecar"
            );
            // Readiness checks the replica. Liveness checks the process only, so that an unavailable
            // database does not restart all pods.
            for (probe, path) in [
                ("startupProbe", "/healthz"),
                ("livenessProbe", "/healthz"),
                ("readinessProbe", "/readyz"),
            ] {
                let mut expected = json!({ "path": path, "port": "http" });
                if has_tls {
                    expected["scheme"] = json!("HTTPS");
                }
                ensure!(container[probe]["httpGet"] == expected, "{name}: {probe}");
            }
            for resource in [
                "/resources/requests/cpu",
                "/resources/requests/memory",
                "/resources/limits/memory",
                "/resources/requests/ephemeral-storage",
                "/resources/limits/ephemeral-storage",
            ] {
                at(container, resource).with_context(|| name.clone())?;
            }
        }
    }
    Ok(())
}

#[test]
fn selectors_match_their_pods() -> anyhow::Result<()> {
    for objects in [kustomized()?, secured()?] {
        let pods: Vec<&Value> = workloads(&objects)?
            .iter()
            .map(|(workload, _)| *workload)
            .collect();
        let labels = |workload: &'_ Value| {
            workload
                .pointer("/spec/template/metadata/labels")
                .cloned()
                .unwrap_or_default()
        };
        let finds = |selector: &Value| {
            pods.iter()
                .filter(|pod| matches(selector, &labels(pod)))
                .count()
        };
        for object in &objects {
            let selector = match object["kind"].as_str() {
                Some("Service") => at(object, "/spec/selector")?,
                Some("Deployment" | "StatefulSet" | "PodDisruptionBudget") => {
                    at(object, "/spec/selector/matchLabels")?
                }
                Some("NetworkPolicy") => at(object, "/spec/podSelector/matchLabels")?,
                _ => continue,
            };
            ensure!(
                finds(selector) == 1,
                "{} finds {} workloads",
                identity(object),
                finds(selector)
            );
        }
        // Subscribers find the publisher by the name of its Service, and its NetworkPolicy permits
        // their traffic.
        let url = text(
            the(&objects, "ConfigMap", None)?,
            "/data/AURA_CONFIGURATION_API_URL",
        )?;
        let host = url
            .strip_prefix("http://")
            .or_else(|| url.strip_prefix("https://"))
            .and_then(|rest| rest.strip_suffix(":8080"))
            .context("another port")?;
        the(&objects, "Service", Some(host))?;
        let mut allowed = items(
            the(&objects, "NetworkPolicy", Some(host))?,
            "/spec/ingress/0/from",
        );
        let labels = at(
            the(&objects, "StatefulSet", None)?,
            "/spec/template/metadata/labels",
        )?;
        let reach = allowed.any(|peer| matches(&peer["podSelector"]["matchLabels"], labels));
        ensure!(reach, "subscribers cannot reach the publisher");
    }
    Ok(())
}

#[test]
fn every_referenced_secret_is_in_the_example() -> anyhow::Result<()> {
    let offered: BTreeSet<(String, String)> = file("deploy/kubernetes/secret.example.yaml")?
        .iter()
        .flat_map(|secret| {
            let name = secret["metadata"]["name"].as_str().unwrap_or_default();
            let keys = secret["stringData"]
                .as_object()
                .into_iter()
                .flat_map(|data| data.keys());
            keys.map(|key| (name.to_owned(), key.clone()))
                .collect::<Vec<_>>()
        })
        .collect();
    let mut referenced = BTreeSet::new();
    kustomized()?
        .iter()
        .for_each(|object| secrets(object, &mut referenced));
    ensure!(
        !referenced.is_empty() && referenced == offered,
        "referenced {referenced:?}, offered {offered:?}"
    );
    Ok(())
}

/// Any pod of the cluster could otherwise read from a subscriber, and post events to it.
#[test]
fn every_pod_admits_callers_by_label_only() -> anyhow::Result<()> {
    let objects = kustomized()?;
    for (workload, _) in workloads(&objects)? {
        let policy = the(
            &objects,
            "NetworkPolicy",
            workload["metadata"]["name"].as_str(),
        )?;
        ensure!(policy["spec"]["policyTypes"] == json!(["Ingress"]));
        for rule in items(policy, "/spec/ingress") {
            ensure!(rule["ports"] == json!([{ "port": 8080 }]), "other ports");
            let peers: Vec<_> = items(rule, "/from").collect();
            ensure!(!peers.is_empty(), "{} admits all", identity(policy));
            for peer in peers {
                at(peer, "/podSelector/matchLabels").with_context(|| identity(policy))?;
            }
        }
    }
    Ok(())
}

/// The sidecar and the application prove themselves to each other. Dapr gives the tokens to the
/// sidecar only.
#[test]
fn application_and_sidecar_share_their_tokens() -> anyhow::Result<()> {
    let objects = kustomized()?;
    for (workload, _) in workloads(&objects)? {
        for (annotation, variable) in [
            ("dapr.io/api-token-secret", "DAPR_API_TOKEN"),
            ("dapr.io/app-token-secret", "APP_API_TOKEN"),
        ] {
            let secret = &at(workload, ANNOTATIONS)?[annotation];
            let value = items(at(workload, CONTAINER)?, "/env")
                .find(|item| item["name"] == variable)
                .with_context(|| format!("{}: no {variable}", identity(workload)))?;
            ensure!(
                value["valueFrom"]["secretKeyRef"] == json!({ "name": secret, "key": "token" }),
                "{}: {annotation} is {secret}, {variable} is {value}",
                identity(workload)
            );
        }
    }
    Ok(())
}

/// Collects every `secretKeyRef`, every mounted secret, and every secret that an annotation of Dapr
/// names.
fn secrets(value: &Value, found: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Object(members) => {
            if let Some(reference) = members.get("secretKeyRef") {
                let part = |name: &str| reference[name].as_str().unwrap_or_default().to_owned();
                found.insert((part("name"), part("key")));
            }
            for (name, value) in members {
                let secret = value.as_str().unwrap_or_default().to_owned();
                if name.starts_with("dapr.io/") && name.ends_with("-token-secret") {
                    found.insert((secret, "token".to_owned()));
                } else if name == "secretName" {
                    // A folder with one file.
                    let file = match secret.as_str() {
                        "confcast-tokens" => "tokens",
                        "confcast-subscriber-token" => "token",
                        _ => "ca.crt",
                    };
                    found.insert((secret, file.to_owned()));
                }
            }
            members.values().for_each(|member| secrets(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| secrets(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether the labels include everything that a selector requires.
pub(crate) fn matches(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|wanted| {
        !wanted.is_empty() && wanted.iter().all(|(name, value)| labels[name] == *value)
    })
}
