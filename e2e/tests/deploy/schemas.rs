//! Strict schemas of Kubernetes objects: they reject an unknown member. The API server would drop
//! it silently, so Dapr's operator would never receive it.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, anyhow, bail};
use e2e::testbed::dependencies::path_of;
use jsonschema::Registry;
use serde_json::{Value, json};

use crate::manifests::{documents, identity, items, text};

/// The base of the references in the schemas of Kubernetes.
const DEFINITIONS: &str = "https://kubernetes.io/api/_definitions.json";

/// Schemas of all kinds that we use.
pub(crate) struct Schemas {
    kubernetes: PathBuf,
    /// By apiVersion and kind.
    custom: BTreeMap<(String, String), Value>,
    registry: Registry<'static>,
}

impl Schemas {
    pub(crate) fn read() -> anyhow::Result<Self> {
        let kubernetes = path_of("KUBERNETES_SCHEMAS")?;
        let definitions: Value =
            serde_json::from_slice(&fs::read(kubernetes.join("_definitions.json"))?)?;
        let registry = Registry::new().add(DEFINITIONS, definitions)?.prepare()?;
        let mut custom = BTreeMap::new();
        let dapr = path_of("DAPR_CRDS")?.read_dir()?;
        for entry in dapr.chain(path_of("MONITORING_CRDS")?.read_dir()?) {
            let path = entry?.path();
            for definition in documents(&fs::read_to_string(&path)?)
                .with_context(|| path.display().to_string())?
            {
                for version in items(&definition, "/spec/versions") {
                    let api_version = format!(
                        "{}/{}",
                        text(&definition, "/spec/group")?,
                        text(version, "/name")?
                    );
                    let kind = text(&definition, "/spec/names/kind")?.to_owned();
                    let mut schema = version["schema"]["openAPIV3Schema"].clone();
                    make_strict(&mut schema);
                    schema["properties"]["metadata"] = json!({ "$ref": format!("{DEFINITIONS}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") });
                    custom.insert((api_version, kind), schema);
                }
            }
        }
        Ok(Self {
            kubernetes,
            custom,
            registry,
        })
    }

    /// Checks an object.
    pub(crate) fn check(&self, object: &Value) -> anyhow::Result<()> {
        let schema = self.schema(object).with_context(|| identity(object))?;
        let validator = jsonschema::options()
            .with_registry(&self.registry)
            .offline()
            .build(&schema);
        let validator =
            validator.map_err(|error| anyhow!("the schema of {}: {error}", identity(object)))?;
        let faults: Vec<_> = validator
            .iter_errors(object)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        if faults.is_empty() {
            Ok(())
        } else {
            bail!("{}: {}", identity(object), faults.join("; "))
        }
    }

    fn schema(&self, object: &Value) -> anyhow::Result<Value> {
        let api_version = text(object, "/apiVersion")?;
        let kind = text(object, "/kind")?;
        if let Some(schema) = self.custom.get(&(api_version.to_owned(), kind.to_owned())) {
            return Ok(schema.clone());
        }
        // apps/v1 → apps-v1, networking.k8s.io/v1 → networking-v1, v1 → v1
        let version = match api_version.split_once('/') {
            Some((group, version)) => {
                format!("{}-{version}", group.split('.').next().unwrap_or(group))
            }
            None => api_version.to_owned(),
        };
        let path = self
            .kubernetes
            .join(format!("{}-{version}.json", kind.to_lowercase()));
        let bytes = fs::read(&path)
            .with_context(|| format!("no schema for {api_version} {kind}: {}", path.display()))?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// The schema of a custom resource lists the permitted members. The API server drops all others,
/// unless the schema says to preserve them.
fn make_strict(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
                return;
            }
            if members.get("properties").is_some_and(Value::is_object) {
                members
                    .entry("additionalProperties")
                    .or_insert(Value::Bool(false));
            }
            members.values_mut().for_each(make_strict);
        }
        Value::Array(items) => items.iter_mut().for_each(make_strict),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
