//! Starts an image by runc, the runtime of containerd and Docker, by the configuration of the image and
//! under what the manifests promise: root file system that nobody can write, no capabilities, no new
//! privileges, the user of the image. The network is that of this host. There is no seccomp filter and no
//! limit of resources.
//!
//! Where the tests do not run as root the user of the image is the user of the tests, seen as root in a
//! user namespace of its own: a machine gives one user no second one.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, ensure};
use e2e::testbed::{dependencies::path_of, process::Process};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Image, is_root};
use crate::manifests::{at, items, text};

/// A folder or a file of this host that a container sees.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    /// Its path in the container.
    pub(crate) path: String,
    /// Its path on this host.
    pub(crate) real: PathBuf,
    /// Whether the container cannot change it.
    pub(crate) read_only: bool,
}

/// A running container. It ends with this value.
pub(crate) struct Container {
    process: Process,
    id: String,
    bundle: PathBuf,
    /// Paths that the container can change.
    volumes: Vec<String>,
}

impl Container {
    /// Unpacks the image below a folder and starts it. Its output goes to `<folder>/<name>.log`.
    pub(crate) fn start(
        image: &Image,
        name: &str,
        folder: &Path,
        environment: &BTreeMap<String, String>,
        mounts: &[Mount],
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let bundle = folder.join(format!("{name}.bundle"));
        image.unpack(&bundle.join("root"))?;
        let specification = specification(image, environment, mounts, arguments)?;
        fs::write(bundle.join("config.json"), specification.to_string())?;
        let id = format!("confcast-{}-{name}", std::process::id());
        let process = Process::start(
            name,
            folder,
            runc(&bundle)?
                .args(["run", "--bundle"])
                .arg(&bundle)
                .arg("--pid-file")
                .arg(bundle.join("pid"))
                .arg(&id),
        )?;
        let writable = mounts.iter().filter(|mount| !mount.read_only);
        Ok(Self {
            process,
            id,
            bundle,
            volumes: writable.map(|mount| mount.path.clone()).collect(),
        })
    }

    /// Fails unless the running process has the restrictions that the manifests promise.
    pub(crate) fn is_restricted(&self) -> anyhow::Result<()> {
        let process = fs::read_to_string(self.bundle.join("pid"))?;
        let file = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}"));
        let status = file("status")?;
        let user = vec![super::USER.to_string(); 4].join("\t");
        let mut expected = vec![("NoNewPrivs", "1")];
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            expected.push((set, "0000000000000000"));
        }
        if is_root()? {
            expected.extend([("Uid", &*user), ("Gid", &*user)]);
        }
        for (name, value) in expected {
            let line = format!("{name}:\t{value}");
            ensure!(status.lines().any(|found| found == line), "{status}");
        }
        // Fields 5 and 6 of proc_pid_mountinfo(5): the path, and the options of this mount.
        let mounts = file("mountinfo")?;
        let writable: Vec<_> = mounts
            .lines()
            .filter_map(|line| {
                let fields: Vec<_> = line.split(' ').collect();
                let (path, options) = (*fields.get(4)?, *fields.get(5)?);
                let is_writable = options.split(',').any(|option| option == "rw");
                // In a user namespace each device is a mount.
                let is_system = path == "/proc" || path == "/dev" || path.starts_with("/dev/");
                (is_writable && !is_system).then_some(path)
            })
            .collect();
        ensure!(
            writable == self.volumes,
            "it can write {writable:?}, not only {:?}",
            self.volumes
        );
        Ok(())
    }

    /// Sends SIGTERM, as the kubelet does it, and waits for the end.
    pub(crate) async fn stop(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        // runc passes it on.
        self.process.signal(Signal::SIGTERM)?;
        self.process.ended(within).await
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.process.ended(within).await
    }

    /// Its whole output.
    pub(crate) fn output(&self) -> String {
        self.process.output()
    }

    /// The end of its output.
    pub(crate) fn tail(&self) -> String {
        self.process.tail()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The end of runc alone would leave the container.
        let removed = runc(&self.bundle)
            .and_then(|mut runc| Ok(runc.args(["delete", "--force", &self.id]).output()?));
        if removed.is_err() {
            // Nothing more can be done.
        }
    }
}

/// runc with its state beside the container. Without the managers of cgroups, which not every machine
/// lets a test change.
fn runc(bundle: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(path_of("RUNC")?);
    command.arg("--rootless=true").arg("--root");
    command.arg(bundle.join("state"));
    Ok(command)
}

/// The runtime specification of OCI for an image.
fn specification(
    image: &Image,
    environment: &BTreeMap<String, String>,
    mounts: &[Mount],
    arguments: &[&str],
) -> anyhow::Result<Value> {
    let config = at(image.configuration(), "/config")?;
    let own = items(config, "/Env").filter_map(|item| item.as_str()?.split_once('='));
    let mut variables: BTreeMap<&str, &str> = own.collect();
    variables.extend(environment.iter().map(|(name, value)| (&**name, &**value)));
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let entrypoint = items(config, "/Entrypoint").filter_map(Value::as_str);
    let arguments: Vec<_> = entrypoint.chain(arguments.iter().copied()).collect();

    let is_root = is_root()?;
    let (user, group) = text(config, "/User")?.split_once(':').context("no group")?;
    let (user, group): (u32, u32) = match is_root {
        true => (user.parse()?, group.parse()?),
        false => (0, 0),
    };
    let bind = |path: &str, real: &Path, read_only: bool| {
        let access = if read_only { "ro" } else { "rw" };
        json!({
            "destination": path,
            "source": real,
            "type": "bind",
            "options": ["rbind", "nosuid", "nodev", access],
        })
    };
    let mut all = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "noexec", "mode=755"],
        }),
        // Every engine and the kubelet give a container this one.
        bind("/etc/hosts", Path::new("/etc/hosts"), true),
    ];
    all.extend(
        mounts
            .iter()
            .map(|mount| bind(&mount.path, &mount.real, mount.read_only)),
    );
    let mut linux = json!({
        "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
    });
    if !is_root {
        let this = fs::metadata("/proc/self")?;
        for (name, id) in [("uidMappings", this.uid()), ("gidMappings", this.gid())] {
            linux[name] = json!([{"containerID": 0, "hostID": id, "size": 1}]);
        }
        let namespaces = linux["namespaces"].as_array_mut().context("a list")?;
        namespaces.push(json!({"type": "user"}));
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user, "gid": group},
            "args": arguments,
            "env": variables,
            "cwd": text(config, "/WorkingDir")?,
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [],
            },
        },
        "root": {"path": "root", "readonly": true},
        "mounts": all,
        "linux": linux,
    }))
}
