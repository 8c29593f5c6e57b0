//! One pod of a workload, as the kubelet and the injector of Dapr would start it: its program on this
//! host, or its image in a container.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
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

use crate::{
    images::{
        Image,
        container::{Container, Mount},
        is_root,
    },
    manifests::{at, identity, items, text},
};

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
    /// The longest paths first.
    mounts: Vec<Mount>,
    /// The group that the kubelet gives the volumes to.
    group: Option<u32>,
    image: Option<&'static Image>,
    running: Option<Running>,
    sidecar: Option<Sidecar>,
}

/// The container of the manifests.
enum Running {
    /// The program of this repository, on this host.
    Program(Process),
    /// The image.
    Image(Container),
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
        let mounts = mounts(workload, sources, &folder)?;
        let group = workload.pointer("/spec/template/spec/securityContext/fsGroup");
        let group = group.and_then(Value::as_u64).map(u32::try_from);
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
            mounts,
            group: group.transpose()?,
            image: None,
            running: None,
            sidecar,
        })
    }

    /// Starts this image instead of the program. `confcast-publisher:8080` and the like lead to this host.
    pub(super) fn set_image(&mut self, image: &'static Image) {
        self.image = Some(image);
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
        self.running = Some(match self.image {
            Some(image) => Running::Image(self.start_image(image)?),
            None => Running::Program(self.start_program()?),
        });
        match &mut self.sidecar {
            Some(sidecar) => sidecar.start().await,
            None => Ok(()),
        }
    }

    fn start_program(&self) -> anyhow::Result<Process> {
        let mut environment = self.environment.clone();
        for Mount { path, real, .. } in &self.mounts {
            for value in environment.values_mut() {
                // The URL of the embedded store is a path behind its scheme.
                if value
                    .strip_prefix("file:")
                    .unwrap_or(value)
                    .starts_with(path)
                {
                    *value = value.replacen(path, &real.display().to_string(), 1);
                }
            }
        }
        let mut command = Command::new(own_program(&self.program)?);
        // The image has the schemas in its working folder.
        command.current_dir(repository_root()).envs(environment);
        Process::start(&self.program, &self.folder, &mut command)
    }

    fn start_image(&self, image: &Image) -> anyhow::Result<Container> {
        // Another user sees the volumes as its own.
        if let Some(group) = self.group
            && is_root()?
        {
            for mount in &self.mounts {
                give(&mount.real, group)?;
            }
        }
        let (name, folder) = (&self.program, &self.folder);
        Container::start(image, name, folder, &self.environment, &self.mounts, &[])
    }

    /// The container, when the image was started.
    pub(super) fn container(&mut self) -> anyhow::Result<&mut Container> {
        match &mut self.running {
            Some(Running::Image(container)) => Ok(container),
            _ => bail!("no image was started"),
        }
    }

    /// The folder of this host that the container has at a path.
    pub(super) fn volume(&self, path: &str) -> anyhow::Result<&Path> {
        let mount = self.mounts.iter().find(|mount| mount.path == path);
        Ok(&mount
            .with_context(|| format!("nothing is mounted at {path}"))?
            .real)
    }

    /// The end of both logs.
    pub(super) fn tail(&self) -> String {
        let program = match &self.running {
            Some(Running::Program(process)) => process.tail(),
            Some(Running::Image(container)) => container.tail(),
            None => String::new(),
        };
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

/// Gives a volume to the group of the pod, as the kubelet does it.
fn give(path: &Path, group: u32) -> anyhow::Result<()> {
    let kind = fs::symlink_metadata(path)?;
    if kind.is_symlink() {
        return Ok(());
    }
    chown(path, None, Some(group))?;
    let mode = kind.permissions().mode();
    if !kind.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o440))?;
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o2770))?;
    for entry in path.read_dir()? {
        give(&entry?.path(), group)?;
    }
    Ok(())
}

/// Makes the volumes below a folder: the paths of the container, the longest first, with those of this
/// host.
fn mounts(workload: &Value, sources: &Sources, folder: &Path) -> anyhow::Result<Vec<Mount>> {
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
        made.push(Mount {
            path: path.to_owned(),
            real: real.clone(),
            read_only: mount["readOnly"] == true,
        });
        // A claim of a StatefulSet is an empty folder at first.
        let mut claims = items(workload, "/spec/volumeClaimTemplates");
        if claims.any(|claim| claim["metadata"]["name"] == name) {
            continue;
        }
        let volume = items(pod, "/volumes")
            .find(|volume| volume["name"] == name)
            .with_context(|| format!("{}: no volume {name}", identity(workload)))?;
        let (source, body) = match (volume.get("secret"), volume.get("configMap")) {
            (Some(secret), _) => (text(secret, "/secretName")?, secret),
            (None, Some(map)) => (text(map, "/name")?, map),
            (None, None) => continue,
        };
        match sources.get(source) {
            Some(files) => project(&real, files, mode(body)?)?,
            None => ensure!(body["optional"] == true, "no source {source}"),
        }
    }
    made.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
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
