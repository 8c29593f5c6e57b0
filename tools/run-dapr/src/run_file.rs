//! `dapr-config/dapr.yaml`: the applications and their ports. The Dapr CLI starts them if it is
//! installed, otherwise this module does.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fmt::Display,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use contract::status::{ReplicaState, ReplicaStatus};
use e2e::{
    client::Api,
    testbed::{
        dependencies::repository_root,
        ports::free_port,
        sidecar::{PUBLISHER, SUBSCRIBER},
    },
};
use serde::Deserialize;

use crate::{processes::Processes, say, servers};

const FOLDER: &str = "dapr-config";

/// The whole file. An unknown member is an error, so that both ways of starting have the same
/// meaning.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunFile {
    #[serde(rename = "version")]
    _version: u32,
    common: Common,
    pub(crate) apps: Vec<App>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Common {
    resources_paths: Vec<PathBuf>,
    config_file_path: PathBuf,
    api_listen_addresses: String,
    enable_app_health_check: bool,
    app_health_check_path: String,
    app_health_probe_interval: u32,
    app_health_probe_timeout: u32,
    app_health_threshold: u32,
    #[serde(rename = "daprdLogDestination")]
    _daprd_log_destination: String,
    #[serde(rename = "appLogDestination")]
    _app_log_destination: String,
    env: BTreeMap<String, String>,
}

/// An application and its sidecar.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct App {
    #[serde(rename = "appID")]
    app_id: String,
    app_dir_path: PathBuf,
    app_port: u16,
    #[serde(rename = "daprHTTPPort")]
    dapr_http_port: u16,
    #[serde(rename = "daprGRPCPort")]
    dapr_grpc_port: u16,
    metrics_port: u16,
    env: BTreeMap<String, String>,
    command: Vec<PathBuf>,
}

impl App {
    /// The program of the same build as this one, in its folder, whatever profile the file names.
    pub(crate) fn program(&self) -> anyhow::Result<PathBuf> {
        let named = self
            .command
            .first()
            .and_then(|path| path.file_name())
            .context("an app without a command")?;
        beside_us(named)
    }

    fn folder(&self) -> PathBuf {
        repository_root().join(FOLDER).join(&self.app_dir_path)
    }

    /// The name that distinguishes replicas with the same application id.
    fn name(&self) -> &str {
        let given = ["AURA_CONFIGURATION_INSTANCE", "POD_NAME"]
            .iter()
            .find_map(|name| self.env.get(*name));
        given.unwrap_or(&self.app_id)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.app_port)
    }

    async fn is_ready(&self) -> anyhow::Result<()> {
        let status = Api::new(self.url()).status_of("/readyz").await?;
        ensure!(status < 300, "/readyz says {status}");
        Ok(())
    }

    /// Checks that a subscriber has what the publisher has. Being ready is less: a replica is also
    /// ready with its last known good configuration, which may be of another database.
    pub(crate) async fn is_current(&self) -> anyhow::Result<()> {
        let answer = Api::new(self.url()).get("/v1/status").await?.expect(200)?;
        current(&serde_json::from_str(&answer.body)?)
    }

    /// Checks that the sidecar answers, and has subscribed for its application.
    ///
    /// `/v1.0/healthz` is not asked: it also waits for services of Dapr that nothing here needs,
    /// for example the scheduler of a newer version. A subscription shows that the sidecar reached
    /// its application.
    async fn is_connected(&self) -> anyhow::Result<()> {
        let sidecar = Api::new(format!("http://127.0.0.1:{}", self.dapr_http_port));
        sidecar.get("/v1.0/healthz/outbound").await?.expect(204)?;
        let metadata = sidecar.get("/v1.0/metadata").await?.json()?;
        let subscribed = metadata["subscriptions"]
            .as_array()
            .is_some_and(|topics| !topics.is_empty());
        ensure!(subscribed || !self.is_subscriber(), "no subscriptions");
        Ok(())
    }

    fn is_subscriber(&self) -> bool {
        self.app_id == SUBSCRIBER
    }
}

/// Checks that a replica with this status has what the publisher has.
fn current(status: &ReplicaStatus) -> anyhow::Result<()> {
    let error = status.last_error.as_ref();
    ensure!(
        status.state == ReplicaState::Current,
        "its state is {}{}",
        status.state.as_str(),
        error.map(|error| format!(": {error}")).unwrap_or_default()
    );
    Ok(())
}

impl RunFile {
    pub(crate) fn read() -> anyhow::Result<Self> {
        let path = repository_root().join(FOLDER).join("dapr.yaml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_saphyr::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Returns the publisher and the subscribers.
    pub(crate) fn publisher_and_subscribers(&self) -> anyhow::Result<(&App, Vec<&App>)> {
        let publisher = self
            .apps
            .iter()
            .find(|app| app.app_id == PUBLISHER)
            .context("no publisher in the run file")?;
        Ok((
            publisher,
            self.apps.iter().filter(|app| app.is_subscriber()).collect(),
        ))
    }

    /// Returns the needed ports that another process uses.
    pub(crate) fn taken_ports(&self) -> Vec<String> {
        let ports = |app: &App| {
            [
                app.app_port,
                app.dapr_http_port,
                app.dapr_grpc_port,
                app.metrics_port,
            ]
        };
        let taken = self
            .apps
            .iter()
            .flat_map(ports)
            .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_err());
        taken.map(|port| port.to_string()).collect()
    }

    /// Starts all applications, and waits until they are ready and connected, and the replicas
    /// current.
    pub(crate) async fn start(&self, processes: &mut Processes) -> anyhow::Result<()> {
        processes.next_layer();
        if let Some(dapr) = dapr_cli() {
            say(format_args!(
                "Services and sidecars: {} run -f {FOLDER}",
                dapr.display()
            ));
            let mut command = Command::new(dapr);
            command
                .args(["run", "-f", FOLDER])
                .current_dir(repository_root());
            // Other processes of ours get no variable of Dapr. The CLI is the user's own, and may
            // need them to find its installation.
            command.envs(env::vars().filter(|(name, _)| name.starts_with("DAPR_")));
            processes.start("dapr", &command)?;
        } else {
            say(
                "Services and sidecars: starting (there is no Dapr CLI here, so without `dapr run`)",
            );
            for app in &self.apps {
                processes.start(&format!("daprd-{}", app.name()), &self.sidecar(app)?)?;
            }
            // Services stop before the sidecars, because they finish their work through them.
            processes.next_layer();
            for app in &self.apps {
                processes.start(app.name(), &self.service(app)?)?;
            }
        }
        for app in &self.apps {
            processes
                .until(&format!("{} is ready", app.name()), || app.is_ready())
                .await?;
            processes
                .until(&format!("the sidecar of {} is ready", app.name()), || {
                    app.is_connected()
                })
                .await?;
        }
        for app in self.apps.iter().filter(|app| app.is_subscriber()) {
            processes
                .until(&format!("{} is current", app.name()), || app.is_current())
                .await
                .context(
                    "a replica that holds documents of another database keeps them: remove the \
                     folder `data` if they are not needed",
                )?;
        }
        Ok(())
    }

    fn service(&self, app: &App) -> anyhow::Result<Command> {
        let mut command = Command::new(app.program()?);
        command
            .args(&app.command[1..])
            .current_dir(app.folder())
            .envs(&self.common.env)
            .envs(&app.env);
        command.env("DAPR_HTTP_PORT", app.dapr_http_port.to_string());
        command.env("DAPR_GRPC_PORT", app.dapr_grpc_port.to_string());
        Ok(command)
    }

    fn sidecar(&self, app: &App) -> anyhow::Result<Command> {
        let folder = repository_root().join(FOLDER);
        let common = &self.common;
        let mut command = Command::new(servers::program("DAPRD")?);
        let flags: [(&str, &dyn Display); 15] = [
            ("mode", &"standalone"),
            ("app-id", &app.app_id),
            ("app-protocol", &"http"),
            ("app-port", &app.app_port),
            ("dapr-http-port", &app.dapr_http_port),
            ("dapr-grpc-port", &app.dapr_grpc_port),
            ("dapr-listen-addresses", &common.api_listen_addresses),
            ("dapr-internal-grpc-port", &free_port()?),
            ("dapr-internal-grpc-listen-address", &"127.0.0.1"),
            ("metrics-port", &app.metrics_port),
            ("enable-app-health-check", &common.enable_app_health_check),
            ("app-health-check-path", &common.app_health_check_path),
            (
                "app-health-probe-interval",
                &common.app_health_probe_interval,
            ),
            ("app-health-probe-timeout", &common.app_health_probe_timeout),
            ("app-health-threshold", &common.app_health_threshold),
        ];
        command.args(flags.map(|(name, value)| format!("--{name}={value}")));
        for path in &common.resources_paths {
            command.arg("--resources-path").arg(folder.join(path));
        }
        command
            .arg("--config")
            .arg(folder.join(&common.config_file_path));
        // Without these the sidecar looks up its own name in the network.
        command
            .env("DAPR_HOST_IP", "127.0.0.1")
            .env("POD_NAME", app.name())
            .env("NAMESPACE", "default");
        Ok(command)
    }
}

/// Returns the path of one of our programs.
pub(crate) fn beside_us(name: impl AsRef<OsStr>) -> anyhow::Result<PathBuf> {
    let path = env::current_exe()
        .context("cannot find the path of this program")?
        .with_file_name(name.as_ref());
    ensure!(
        path.is_file(),
        "{} is not there: `make run-dapr` builds it",
        path.display()
    );
    Ok(path)
}

/// Returns the path of the Dapr CLI, if it is installed and `dapr init` has installed a sidecar.
fn dapr_cli() -> Option<PathBuf> {
    let on_path = env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join("dapr"))
        .find(|path| path.is_file())?;
    let home = env::var_os("DAPR_RUNTIME_PATH").or_else(|| env::var_os("HOME"))?;
    Path::new(&home)
        .join(".dapr/bin/daprd")
        .is_file()
        .then_some(on_path)
}

#[cfg(test)]
mod tests {
    use contract::status::EventCounts;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_replicas_keep_their_data_beside_the_database() {
        let file = RunFile::read().expect("the run file");
        let (_publisher, subscribers) = file.publisher_and_subscribers().expect("apps");
        assert_eq!(subscribers.len(), 2);
        for app in subscribers {
            let home = fs::canonicalize(app.folder()).expect("a folder");
            let kept = home.join(&app.env["AURA_CONFIGURATION_SNAPSHOT_DIR"]);
            assert!(kept.starts_with(crate::data()), "{}", kept.display());
        }
    }

    #[test]
    fn a_replica_with_documents_of_another_database_is_not_up() {
        for (state, up) in [("current", true), ("stale", false), ("loading", false)] {
            let status = json!({
                "instance": "subscriber-1", "state": state, "collections": [], "drops": [],
                "events": EventCounts::default(),
                "lastError": "the publisher has another store",
            });
            let status = serde_json::from_value(status).expect("a status");
            assert_eq!(current(&status).is_ok(), up, "{state}");
        }
    }
}
