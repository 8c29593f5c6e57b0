//! A real Kafka broker: one process that is its own controller, run by the Java of the system.
//! Topics are created when they are first used, as most installations have it.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::testbed::{
    dependencies,
    ports::free_port,
    process::{Process, folder},
    wait::within,
};

/// How long a start may take on a busy machine, with the recovery of a broker that was killed.
const START: Duration = Duration::from_secs(90);
/// Any id of a cluster will do: 16 bytes in base 64.
const CLUSTER_ID: &str = "Y29uZmNhc3QtZTJlLXRlcw";
/// The request `ApiVersions` of protocol version 0, as length and body: key 18, version 0, correlation
/// id 1, no client id. A broker answers it as soon as it answers anything.
const API_VERSIONS: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];

/// A broker, running or stopped. Port and data stay the same over restarts.
#[derive(Debug)]
pub struct Kafka {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
    controller: u16,
}

impl Kafka {
    /// Starts a broker without topics.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start() -> anyhow::Result<Self> {
        let mut kafka = Self {
            process: None,
            folder: folder()?,
            port: free_port()?,
            controller: free_port()?,
        };
        std::fs::write(kafka.properties(), kafka.settings())?;
        let mut format = kafka.java("kafka.tools.StorageTool")?;
        format.args(["format", "--cluster-id", CLUSTER_ID, "--config"]);
        format.arg(kafka.properties());
        let mut formatting = Process::start("kafka-format", kafka.folder.path(), &mut format)
            .context("Kafka needs Java 17 or newer")?;
        let formatted = formatting.ended(START).await?;
        ensure!(formatted.success(), "{}", formatting.tail());
        kafka.restart().await?;
        Ok(kafka)
    }

    fn properties(&self) -> PathBuf {
        self.folder.path().join("server.properties")
    }

    fn settings(&self) -> String {
        let Self {
            port, controller, ..
        } = self;
        let data = self.folder.path().join("data");
        // With one member in a group there is nobody to wait for when it is first joined.
        format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             log.dirs={}\n\
             log.retention.ms=300000\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             group.initial.rebalance.delay.ms=0\n",
            data.display()
        )
    }

    /// A Java process that is small and starts fast.
    fn java(&self, class: &str) -> anyhow::Result<Command> {
        let mut command = Command::new("java");
        // No file of performance data stays in the folder of the system after a kill.
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.arg("-XX:-UsePerfData");
        command
            .arg("-cp")
            .arg(dependencies::path_of("KAFKA")?.join("*"))
            .arg(class);
        Ok(command)
    }

    /// Kills the broker (SIGKILL). Its data stays.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        Process::end(&mut self.process)
    }

    /// Starts the broker, again after [`Self::kill`], and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let mut command = self.java("kafka.Kafka")?;
        command.arg(self.properties());
        let process = Process::start("kafka", self.folder.path(), &mut command)?;
        let process = self.process.insert(process);
        let host = ("127.0.0.1", self.port);
        within(START, "kafka answers", async || {
            let mut connection = TcpStream::connect(host).await?;
            connection.write_all(&API_VERSIONS).await?;
            ensure!(connection.read_u32().await? > 0, "an empty answer");
            Ok(())
        })
        .await
        .with_context(|| process.tail())
    }

    /// `127.0.0.1:<port>`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
