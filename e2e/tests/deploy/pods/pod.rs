//! One pod of a workload, as the kubelet and the injector of Dapr would start it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};
use e2e::testbed::{
    dependencies::{own_program, repository_root},
    ports::free_port,
    process::Process,
    redis::Redis,
    sidecar::Sidecar,
};
use serde_json::Value;

use crate::manifests::{at, identity, items, text};

/// The Secrets and `ConfigMap`s of a namespace: name, then key, then content.
pub(super) type Sources = BTreeMap<String, BTreeMap<String, String>>;

const POD: &str = "/spec/template/spec";
const CONTAINER: &str = "/spec/template/spec/containers/0";
/// The port of every container in the manifests.
const PORT: &str = ":8080";
/// The flags of the sidecar that annotations set: the part of the annotation's name after
/// `dapr.io/` is the name of the flag.
const FLAGS: [&str; 6] = [
    "app-protocol",
    "enable-app-health-check",
    "app-health-check-path",
    "app-health-probe-interval",
    "app-health-probe-timeout",
    "app-health-threshold",
];

/// One pod, with its sidecar if its annotations ask for one.
pub(super) struct Pod {
    program: String,
    port: u16,
    scheme: String,
    environment: BTreeMap<String, String>,
    folder: PathBuf,
    process: Option<Process>,
    sidecar: Option<Sidecar>,
}

impl Pod {
    /// Makes the files of the pod and its environment; nothing is started.
    pub(super) fn new(
        workload: &Value,
        sources: &Sources,
        folder: &Path,
        redis: &Redis,
    ) -> anyhow::Result<Self> {
        let container = at(workload, CONTAINER)?;
        let program = text(container, "/name")?.to_owned();
        let port = free_port()?;
        let folder = folder.join(&program);
        let mut environment = environment(workload, sources)?;
        for (path, real) in mounts(workload, sources, &folder)? {
            for value in environment.values_mut() {
                // The URL of the embedded store is a path behind its scheme.
                if value
                    .strip_prefix("file:")
                    .unwrap_or(value)
                    .starts_with(&path)
                {
                    *value = value.replacen(&path, &real.display().to_string(), 1);
                }
            }
        }
        for value in environment.values_mut() {
            for host in ["0.0.0.0", "127.0.0.1"] {
                *value = value.replace(&format!("{host}{PORT}"), &format!("{host}:{port}"));
            }
        }
        let annotations = at(workload, "/spec/template/metadata/annotations")?;
        let mut sidecar = None;
        if annotations["dapr.io/enabled"] == "true" {
            let injected = injected(annotations, port, &program, sources, redis)?;
            for (name, port) in [
                ("DAPR_HTTP_PORT", injected.http_port()),
                ("DAPR_GRPC_PORT", injected.grpc_port()),
            ] {
                environment.insert(name.into(), port.to_string());
            }
            sidecar = Some(injected);
        }
        let scheme = container["readinessProbe"]["httpGet"]["scheme"].as_str();
        Ok(Self {
            program,
            port,
            scheme: scheme.unwrap_or("HTTP").to_ascii_lowercase(),
            environment,
            folder,
            process: None,
            sidecar,
        })
    }

    /// Where a `HOST:PORT` in the environment leads.
    pub(super) fn find(&mut self, service: &str, pod: &Self) -> anyhow::Result<()> {
        let mut found = false;
        for value in self
            .environment
            .values_mut()
            .filter(|value| value.contains(service))
        {
            *value = value.replace(service, &format!("0.0.0.0:{}", pod.port));
            found = true;
        }
        ensure!(
            found,
            "the environment of {} has no {service}",
            self.program
        );
        Ok(())
    }

    /// The URL that the readiness probe calls, without its path.
    pub(super) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// Its sidecar.
    pub(super) fn sidecar(&self) -> anyhow::Result<&Sidecar> {
        self.sidecar.as_ref().context("the pod has no sidecar")
    }

    /// The same, before it starts.
    pub(super) fn sidecar_mut(&mut self) -> anyhow::Result<&mut Sidecar> {
        self.sidecar.as_mut().context("the pod has no sidecar")
    }

    /// Waits until its sidecar, if it has one, has subscribed.
    pub(super) async fn until_subscribed(&self) -> anyhow::Result<()> {
        match &self.sidecar {
            Some(sidecar) => sidecar.until_subscribed().await,
            None => Ok(()),
        }
    }

    /// Starts the sidecar and the program.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(own_program(&self.program)?);
        // The image has the schemas in its working folder.
        command
            .current_dir(repository_root())
            .envs(&self.environment);
        self.process = Some(Process::start(&self.program, &self.folder, &mut command)?);
        match &mut self.sidecar {
            Some(sidecar) => sidecar.start().await,
            None => Ok(()),
        }
    }

    /// The end of both logs.
    pub(super) fn tail(&self) -> String {
        let program = self.process.as_ref().map(Process::tail).unwrap_or_default();
        let sidecar = self.sidecar.as_ref().map(Sidecar::output);
        let sidecar = sidecar.unwrap_or_default();
        let lines: Vec<_> = sidecar.lines().collect();
        let last = lines[lines.len().saturating_sub(25)..].join("\n");
        format!("{program}\n--- sidecar\n{last}")
    }
}

/// The sidecar that the injector of Dapr would add.
fn injected(
    annotations: &Value,
    port: u16,
    program: &str,
    sources: &Sources,
    redis: &Redis,
) -> anyhow::Result<Sidecar> {
    let app_id = text(&annotations["dapr.io/app-id"], "")?;
    let mut sidecar = Sidecar::new(app_id, port, program, redis)?;
    for flag in FLAGS {
        if let Some(value) = annotations[format!("dapr.io/{flag}")].as_str() {
            sidecar.add_flag(format!("--{flag}={value}"));
        }
    }
    let token = |name: &str| -> anyhow::Result<&String> {
        let secret = text(&annotations[format!("dapr.io/{name}")], "")?;
        sources
            .get(secret)
            .and_then(|keys| keys.get("token"))
            .with_context(|| format!("no Secret {secret}"))
    };
    sidecar.set_api_token(token("api-token-secret")?);
    sidecar.set_app_token(token("app-token-secret")?);
    Ok(sidecar)
}

/// The environment of the container. A `$(NAME)` is that of a variable before it, else it stays.
fn environment(workload: &Value, sources: &Sources) -> anyhow::Result<BTreeMap<String, String>> {
    let container = at(workload, CONTAINER)?;
    let source = |reference: &Value| -> anyhow::Result<&BTreeMap<String, String>> {
        let name = text(reference, "/name")?;
        sources
            .get(name)
            .with_context(|| format!("no source {name}"))
    };
    let mut environment = BTreeMap::new();
    for from in items(container, "/envFrom") {
        environment.extend(source(at(from, "/configMapRef")?)?.clone());
    }
    for variable in items(container, "/env") {
        let name = text(variable, "/name")?;
        let value = match variable.get("valueFrom") {
            None => environment
                .iter()
                .fold(text(variable, "/value")?.to_owned(), |value, (name, of)| {
                    value.replace(&format!("$({name})"), of)
                }),
            Some(from) if from.get("secretKeyRef").is_some() => {
                let reference = &from["secretKeyRef"];
                let key = text(reference, "/key")?;
                let value = source(reference)?.get(key);
                value
                    .with_context(|| format!("no {key} for {name}"))?
                    .clone()
            }
            Some(from) => match text(from, "/fieldRef/fieldPath")? {
                "metadata.name" => format!("{}-0", text(workload, "/metadata/name")?),
                "metadata.namespace" => "confcast".to_owned(),
                "status.podIP" => "127.0.0.1".to_owned(),
                other => bail!("{name}: {other} is not known here"),
            },
        };
        ensure!(
            !value.contains("$("),
            "{name}={value}: not defined before it"
        );
        environment.insert(name.to_owned(), value);
    }
    Ok(environment)
}

/// Makes the volumes below a folder. Returns the paths of the container, the longest first, with those
/// of this host.
fn mounts(
    workload: &Value,
    sources: &Sources,
    folder: &Path,
) -> anyhow::Result<Vec<(String, PathBuf)>> {
    fs::create_dir_all(folder)?;
    let pod = at(workload, POD)?;
    let mut made = Vec::new();
    for mount in items(at(workload, CONTAINER)?, "/volumeMounts") {
        let name = text(mount, "/name")?;
        let path = text(mount, "/mountPath")?;
        ensure!(
            mount.get("subPath").is_none(),
            "{path} would never be updated"
        );
        let real = folder.join(name);
        fs::create_dir_all(&real)?;
        // A claim of a StatefulSet is an empty folder at first.
        let mut claims = items(workload, "/spec/volumeClaimTemplates");
        if claims.any(|claim| claim["metadata"]["name"] == name) {
            made.push((path.to_owned(), real));
            continue;
        }
        let volume = items(pod, "/volumes")
            .find(|volume| volume["name"] == name)
            .with_context(|| format!("{}: no volume {name}", identity(workload)))?;
        let (source, body) = match (volume.get("secret"), volume.get("configMap")) {
            (Some(secret), _) => (text(secret, "/secretName")?, secret),
            (None, Some(map)) => (text(map, "/name")?, map),
            (None, None) => {
                made.push((path.to_owned(), real));
                continue;
            }
        };
        match sources.get(source) {
            Some(files) => project(&real, files, mode(body)?)?,
            None => ensure!(body["optional"] == true, "no source {source}"),
        }
        made.push((path.to_owned(), real));
    }
    made.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    Ok(made)
}

/// The mode of the files of a volume.
fn mode(volume: &Value) -> anyhow::Result<u32> {
    let mode = volume.get("defaultMode").map_or(Some(0o644), Value::as_u64);
    Ok(u32::try_from(mode.context("a mode is a number")?)?)
}

/// Writes files as the kubelet does: each is a link through a link to a folder that is exchanged.
fn project(folder: &Path, files: &BTreeMap<String, String>, mode: u32) -> anyhow::Result<()> {
    let current = folder.join("..2026");
    fs::create_dir_all(&current)?;
    symlink("..2026", folder.join("..data"))?;
    for (name, content) in files {
        let file = current.join(name);
        fs::write(&file, content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        symlink(Path::new("..data").join(name), folder.join(name))?;
    }
    Ok(())
}
