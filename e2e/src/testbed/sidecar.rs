//! A real Dapr sidecar with the components that this repository ships. Only the addresses of the
//! broker and the list of collections differ.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use reqwest::RequestBuilder;
use serde_json::Value;
use tempfile::TempDir;

use crate::testbed::{
    brokers::{Broker, copy_components},
    dependencies,
    ports::free_port,
    process::{Process, folder},
    redis::Redis,
    wait::eventually,
};

/// App id of every publisher.
pub const PUBLISHER: &str = "aura-configuration-api";
/// App id of every subscriber.
pub const SUBSCRIBER: &str = "aura-configuration-subscriber";

/// Which address an app id has: the sidecar itself. Without it a sidecar asks by multicast DNS, which
/// needs an interface besides loopback. The component of Kubernetes takes any address, and is the
/// only other one in the stable build of the sidecar.
const NAME_RESOLUTION: &str = "\
kind: Configuration
metadata:
  name: tests
spec:
  nameResolution:
    component: kubernetes
    version: v1
    configuration:
      template: 127.0.0.1:{{.Port}}
";

/// A sidecar, running or stopped. Its ports stay the same over restarts.
#[derive(Debug)]
pub struct Sidecar {
    process: Option<Process>,
    folder: TempDir,
    app_id: String,
    app_port: u16,
    replica: String,
    http: u16,
    grpc: u16,
    internal: u16,
    resources: PathBuf,
    api_token: Option<String>,
    app_token: Option<String>,
    /// Where pluggable components listen.
    sockets: Option<PathBuf>,
    /// Further flags. Of a flag that is given twice, the sidecar takes the later value.
    flags: Vec<String>,
}

impl Sidecar {
    /// Reserves ports for the sidecar of an application that listens, now or later, on `app_port`.
    /// `replica` distinguishes replicas of one app id.
    ///
    /// # Errors
    /// When the components cannot be copied.
    pub fn new(app_id: &str, app_port: u16, replica: &str, redis: &Redis) -> anyhow::Result<Self> {
        Self::with_redis_at(&redis.host(), app_id, app_port, replica)
    }

    /// As [`Self::new`], with Redis at any `host:port`.
    ///
    /// # Errors
    /// When the components cannot be copied.
    pub fn with_redis_at(
        redis: &str,
        app_id: &str,
        app_port: u16,
        replica: &str,
    ) -> anyhow::Result<Self> {
        let address = [("localhost:6379", redis.to_owned())];
        Self::with_components("components", &address, app_id, app_port, replica)
    }

    /// As [`Self::new`], with the components for a broker.
    ///
    /// # Errors
    /// When the components cannot be copied.
    pub fn on(broker: &Broker, app_id: &str, app_port: u16, replica: &str) -> anyhow::Result<Self> {
        let addresses = broker.addresses();
        Self::with_components(broker.components(), &addresses, app_id, app_port, replica)
    }

    /// A sidecar without components: they are added with [`Self::add_component`]. It finds pluggable ones
    /// by their sockets in a folder.
    ///
    /// # Errors
    /// When its folder cannot be created.
    pub fn with_sockets(
        app_id: &str,
        app_port: u16,
        replica: &str,
        sockets: &Path,
    ) -> anyhow::Result<Self> {
        let mut sidecar = Self::with_folder(app_id, app_port, replica)?;
        sidecar.sockets = Some(sockets.to_owned());
        Ok(sidecar)
    }

    /// `addresses`: what the components of this folder say, and what is true here.
    fn with_components(
        components: &str,
        addresses: &[(&str, String)],
        app_id: &str,
        app_port: u16,
        replica: &str,
    ) -> anyhow::Result<Self> {
        let sidecar = Self::with_folder(app_id, app_port, replica)?;
        for source in [components, "dapr-config"] {
            let source = dependencies::repository_root().join(source);
            copy_components(&source, &sidecar.resources, addresses)?;
        }
        Ok(sidecar)
    }

    fn with_folder(app_id: &str, app_port: u16, replica: &str) -> anyhow::Result<Self> {
        let folder = folder()?;
        let resources = folder.path().join("resources");
        std::fs::create_dir_all(&resources)?;
        std::fs::write(folder.path().join("names.yaml"), NAME_RESOLUTION)?;
        let app_id = app_id.to_owned();
        let replica = replica.to_owned();
        Ok(Self {
            process: None,
            folder,
            app_id,
            app_port,
            replica,
            http: free_port()?,
            grpc: free_port()?,
            internal: free_port()?,
            resources,
            api_token: None,
            app_token: None,
            sockets: None,
            flags: Vec::new(),
        })
    }

    /// Starts the sidecar and waits until its own API answers, with or without the application.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.until_ready().await
    }

    /// Starts the sidecar and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(dependencies::path_of("DAPRD")?);
        command.args([
            "--mode",
            "standalone",
            "--app-id",
            &self.app_id,
            "--app-protocol",
            "http",
        ]);
        command.args([
            "--app-port",
            &self.app_port.to_string(),
            "--dapr-http-port",
            &self.http.to_string(),
        ]);
        command.args([
            "--dapr-grpc-port",
            &self.grpc.to_string(),
            "--dapr-listen-addresses",
            "127.0.0.1",
        ]);
        command.args([
            "--dapr-internal-grpc-port",
            &self.internal.to_string(),
            "--enable-metrics=false",
        ]);
        command.args([
            "--dapr-internal-grpc-listen-address",
            "127.0.0.1",
            "--log-level",
            "info",
        ]);
        command.arg("--resources-path").arg(&self.resources);
        command
            .arg("--config")
            .arg(dependencies::repository_root().join("dapr-config/config.yaml"))
            .arg("--config")
            .arg(self.folder.path().join("names.yaml"));
        command
            .env("DAPR_HOST_IP", "127.0.0.1")
            .env("POD_NAME", &self.replica)
            .env("NAMESPACE", "default");
        command.args(&self.flags);
        if let Some(sockets) = &self.sockets {
            command.env("DAPR_COMPONENTS_SOCKETS_FOLDER", sockets);
        }
        if let Some(token) = &self.api_token {
            command.env("DAPR_API_TOKEN", token);
        }
        if let Some(token) = &self.app_token {
            command.env("APP_API_TOKEN", token);
        }
        self.process = Some(Process::start(
            &format!("daprd-{}", self.replica),
            self.folder.path(),
            &mut command,
        )?);
        Ok(())
    }

    /// The running process, if it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// Waits until the API of the sidecar answers.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn until_ready(&self) -> anyhow::Result<()> {
        let health = format!("http://127.0.0.1:{}/v1.0/healthz/outbound", self.http);
        eventually("the sidecar is ready", async || {
            ensure!(
                self.get(&health)?.send().await?.status().is_success(),
                "not yet"
            );
            Ok(())
        })
        .await
        .with_context(|| self.process.as_ref().map(Process::tail).unwrap_or_default())
    }

    /// Waits until the sidecar has subscribed for its application.
    ///
    /// # Errors
    /// When it has not in time.
    pub async fn until_subscribed(&self) -> anyhow::Result<()> {
        let health = format!("http://127.0.0.1:{}/v1.0/healthz", self.http);
        eventually("the sidecar has subscribed", async || {
            let metadata = self.metadata().await?;
            let subscriptions = metadata
                .get("subscriptions")
                .and_then(Value::as_array)
                .map_or(0, Vec::len);
            ensure!(subscriptions > 0, "no subscriptions: {metadata}");
            let healthy = self.get(&health)?.send().await?.status().is_success();
            ensure!(healthy, "not healthy");
            Ok(())
        })
        .await
        .with_context(|| self.process.as_ref().map(Process::tail).unwrap_or_default())
    }

    /// A request of its API, with the token that callers need.
    fn get(&self, url: &str) -> anyhow::Result<RequestBuilder> {
        let request = crate::http().build()?.get(url);
        Ok(match &self.api_token {
            Some(token) => request.header("dapr-api-token", token),
            None => request,
        })
    }

    /// The metadata of the sidecar (`/v1.0/metadata`).
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metadata(&self) -> anyhow::Result<Value> {
        let url = format!("http://127.0.0.1:{}/v1.0/metadata", self.http);
        Ok(self
            .get(&url)?
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?)
    }

    /// Publishes a body through the HTTP API of the sidecar, as the application would. Returns the
    /// HTTP status.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn publish(
        &self,
        topic: &str,
        ttl: Option<u64>,
        media_type: &str,
        body: String,
    ) -> anyhow::Result<u16> {
        let mut url = format!(
            "http://127.0.0.1:{}/v1.0/publish/pubsub-config/{topic}",
            self.http
        );
        if let Some(ttl) = ttl {
            url.push_str(&format!("?metadata.ttlInSeconds={ttl}"));
        }
        let answer = crate::http()
            .build()?
            .post(url)
            .header("content-type", media_type)
            .body(body)
            .send()
            .await?;
        Ok(answer.status().as_u16())
    }

    /// Kills the sidecar (SIGKILL).
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        Process::end(&mut self.process)
    }

    /// The same sidecar with a fault: its consumer group is shared with other replicas.
    ///
    /// # Errors
    /// When the component cannot be written.
    pub fn sharing_a_group(self, group: &str) -> anyhow::Result<Self> {
        let component = self.resources.join("pubsub.yaml");
        let text = std::fs::read_to_string(&component)?;
        ensure!(
            text.contains(r#""{uuid}""#),
            "the component has another consumerID"
        );
        std::fs::write(
            component,
            text.replace(r#""{uuid}""#, &format!("{group:?}")),
        )?;
        Ok(self)
    }

    /// Adds a component, for the next start.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add_component(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        std::fs::write(self.resources.join(format!("{name}.yaml")), yaml)?;
        Ok(())
    }

    /// Sets the API token that callers need. It takes effect at the next start.
    pub fn set_api_token(&mut self, token: &str) {
        self.api_token = Some(token.to_owned());
    }

    /// Sets the token that the sidecar sends to its application. It takes effect at the next start.
    pub fn set_app_token(&mut self, token: &str) {
        self.app_token = Some(token.to_owned());
    }

    /// Adds a flag, as `--name=value`. It takes effect at the next start.
    pub fn add_flag(&mut self, flag: String) {
        self.flags.push(flag);
    }

    /// The URL by which other applications invoke the application of this sidecar.
    pub fn invocation_url(&self, app_id: &str) -> String {
        format!("http://127.0.0.1:{}/v1.0/invoke/{app_id}/method", self.http)
    }

    /// Its HTTP port.
    pub fn http_port(&self) -> u16 {
        self.http
    }

    /// Its gRPC port.
    pub fn grpc_port(&self) -> u16 {
        self.grpc
    }

    /// Its internal port, at which other sidecars invoke its application.
    pub fn internal_port(&self) -> u16 {
        self.internal
    }

    /// The whole log file of the sidecar.
    pub fn output(&self) -> String {
        self.process
            .as_ref()
            .map(Process::output)
            .unwrap_or_default()
    }
}
