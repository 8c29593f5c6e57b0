//! Every file matches its schema, and the check detects errors.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use e2e::testbed::process::folder;
use serde_json::{Value, json};

use crate::{
    engines::COMPONENTS,
    manifests::{built, file, files, identity, kustomized, secured},
    schemas::Schemas,
};

/// Files of the Dapr CLI and of kustomize, which are not Kubernetes objects.
const NO_OBJECTS: [&str; 2] = ["dapr-config/dapr.yaml", "dapr-config/kustomization.yaml"];

#[test]
fn kubernetes_objects_match_their_schemas() -> anyhow::Result<()> {
    let schemas = Schemas::read()?;
    let objects = kustomized()?;
    let kinds: BTreeSet<_> = objects
        .iter()
        .filter_map(|object| object["kind"].as_str())
        .collect();
    for kind in [
        "Deployment",
        "StatefulSet",
        "Component",
        "Configuration",
        "Resiliency",
        "Service",
        "ConfigMap",
    ] {
        ensure!(kinds.contains(kind), "no {kind} among {kinds:?}");
    }
    objects
        .iter()
        .chain(&secured()?)
        .try_for_each(|object| schemas.check(object))
}

/// An overlay may take one component without the other.
#[test]
fn each_component_alone_fits_the_base() -> anyhow::Result<()> {
    let schemas = Schemas::read()?;
    for component in ["tls", "signatures"] {
        let overlay = folder()?;
        // Two folders below `target`, which is in the repository.
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
             resources: [../../../deploy/kubernetes]\n\
             components: [../../../deploy/kubernetes/{component}]\n"
        );
        std::fs::write(overlay.path().join("kustomization.yaml"), text)?;
        let path = overlay.path().to_str().context("a path in UTF-8")?;
        let objects = built(path)?;
        ensure!(objects != kustomized()?, "{component} changes nothing");
        objects
            .iter()
            .try_for_each(|object| schemas.check(object))?;
    }
    Ok(())
}

#[test]
fn the_example_secrets_match_their_schema() -> anyhow::Result<()> {
    let schemas = Schemas::read()?;
    let secrets = file("deploy/kubernetes/secret.example.yaml")?;
    ensure!(!secrets.is_empty(), "no secrets");
    secrets.iter().try_for_each(|secret| schemas.check(secret))
}

#[test]
fn dapr_files_for_one_machine_match_their_schemas() -> anyhow::Result<()> {
    let schemas = Schemas::read()?;
    let mut paths = files("dapr-config")?;
    for folder in COMPONENTS {
        paths.extend(files(folder)?);
    }
    let is_yaml = |path: &&String| path.ends_with(".yaml") && !NO_OBJECTS.contains(&path.as_str());
    for path in paths.iter().filter(is_yaml) {
        let objects = file(path)?;
        ensure!(!objects.is_empty(), "nothing in {path}");
        for object in &objects {
            schemas.check(object).with_context(|| path.clone())?;
        }
    }
    Ok(())
}

/// Each is a plausible error. Without the error the object is valid, so the check rejects the error
/// itself.
#[test]
fn the_schemas_reject_common_mistakes() -> anyhow::Result<()> {
    let schemas = Schemas::read()?;
    let objects = kustomized()?;
    let pod = "/spec/template/spec";
    let container = "/spec/template/spec/containers/0";
    let component = "/spec/metadata/0";
    for (kind, within, member, value) in [
        (
            "StatefulSet",
            container,
            "readinesProbe",
            json!({ "httpGet": { "path": "/readyz", "port": 8080 } }),
        ),
        (
            "StatefulSet",
            "/spec",
            "podManagmentPolicy",
            json!("Parallel"),
        ),
        ("StatefulSet", "/spec", "replicas", json!("two")),
        ("StatefulSet", "", "apiVersion", json!("apps/v2")),
        (
            "Deployment",
            pod,
            "serviceAcountName",
            json!("confcast-publisher"),
        ),
        (
            "Deployment",
            "/spec/template/metadata/annotations",
            "dapr.io/app-port",
            json!(8080),
        ),
        (
            "NetworkPolicy",
            "/spec/ingress/0",
            "ports",
            json!([{ "prot": 8080 }]),
        ),
        ("ConfigMap", "/data", "RUST_LOG", json!(true)),
        ("Component", "", "scope", json!(["aura-configuration-api"])),
        ("Component", component, "valeu", json!("x")),
        (
            "Component",
            component,
            "secretKeyRef",
            json!({ "key": "host" }),
        ),
        ("Component", "/metadata", "anotations", json!({})),
        (
            "Configuration",
            "/spec/metrics",
            "http",
            json!({ "increasedCardinalty": false }),
        ),
        (
            "Resiliency",
            "/spec/targets/components/pubsub-config/inbound",
            "retries",
            json!("delivery"),
        ),
        (
            "Resiliency",
            "/spec/policies/retries/delivery",
            "maxRetries",
            json!("2"),
        ),
    ] {
        let object = objects
            .iter()
            .find(|object| object["kind"] == kind)
            .with_context(|| format!("no {kind}"))?;
        schemas.check(object).context("before the mistake")?;
        let mut mistaken = object.clone();
        let place = mistaken.pointer_mut(within).and_then(Value::as_object_mut);
        place
            .with_context(|| format!("no {within} in {}", identity(object)))?
            .insert(member.to_owned(), value.clone());
        ensure!(
            schemas.check(&mistaken).is_err(),
            "{kind}: {within}/{member}: {value} is not refused"
        );
    }
    Ok(())
}
