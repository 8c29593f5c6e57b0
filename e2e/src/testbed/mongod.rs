//! A real MongoDB server: a replica set of one node, with the settings that production should have.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::ensure;
use mongodb::{
    Client, Database,
    bson::{Document, doc},
};
use tempfile::TempDir;

use crate::testbed::{
    dependencies,
    ports::free_port,
    process::{Process, folder},
    wait::{eventually, within},
};

/// How long recovery of a killed server may take on a busy machine.
pub(super) const RECOVERY: Duration = Duration::from_secs(90);

/// A running server. Its data is removed with it.
#[derive(Debug)]
pub struct Mongod {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
}

impl Mongod {
    /// Starts a server and makes it a replica set.
    ///
    /// # Errors
    /// When the server is not ready in time.
    pub async fn start() -> anyhow::Result<Self> {
        let server = Self::start_standalone(&["--replSet", "rs0"]).await?;
        let members = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": format!("127.0.0.1:{}", server.port) }] };
        server.admin(doc! { "replSetInitiate": members }).await?;
        server.until_primary().await?;
        Ok(server)
    }

    /// Starts a server that is not yet a replica set, with additional arguments.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn start_standalone(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut server = Self {
            process: None,
            folder: folder()?,
            port: free_port()?,
        };
        server.launch(arguments)?;
        eventually("mongod answers", async || {
            server.admin(doc! { "ping": 1 }).await
        })
        .await?;
        Ok(server)
    }

    fn launch(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(dependencies::path_of("MONGOD")?);
        command
            .arg("--dbpath")
            .arg(self.data()?)
            .arg("--port")
            .arg(self.port.to_string());
        command.args([
            "--bind_ip",
            "127.0.0.1",
            "--wiredTigerCacheSizeGB",
            "0.25",
            "--nounixsocket",
        ]);
        // A killed server replays its log from the newest checkpoint before it answers. Frequent
        // checkpoints keep that short.
        command.args(["--syncdelay", "10"]);
        // A publisher that dies inside a transaction holds its locks for this long.
        command.args(["--setParameter", "transactionLifetimeLimitSeconds=3"]);
        // Enables the fail points of MongoDB, which tests use to delay or drop commands.
        command.args(["--setParameter", "enableTestCommands=1"]);
        command.args(arguments);
        self.process = Some(Process::start("mongod", self.folder.path(), &mut command)?);
        Ok(())
    }

    fn data(&self) -> anyhow::Result<PathBuf> {
        let data = self.folder.path().join("data");
        std::fs::create_dir_all(&data)?;
        Ok(data)
    }

    /// Kills the server (SIGKILL).
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        Process::end(&mut self.process)
    }

    /// Starts the server again on the same data.
    ///
    /// # Errors
    /// When the server is not ready in time.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.relaunch()?;
        self.until_primary().await
    }

    /// As [`Self::restart`], without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn relaunch(&mut self) -> anyhow::Result<()> {
        self.launch(&["--replSet", "rs0"])
    }

    /// The running process, if it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// The port of the server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until the server is primary and takes writes.
    ///
    /// # Errors
    /// When it is not primary in time.
    pub async fn until_primary(&self) -> anyhow::Result<()> {
        within(RECOVERY, "mongod is primary", async || {
            let hello = self.admin(doc! { "hello": 1 }).await?;
            ensure!(hello.get_bool("isWritablePrimary")?, "not yet");
            Ok(())
        })
        .await
    }

    /// Makes the server step down: the set has no primary, and elects none before [`Self::elect`].
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn step_down(&self) -> anyhow::Result<()> {
        let down = doc! { "replSetStepDown": 600, "force": true };
        self.admin(down).await.map(drop)
    }

    /// Lets the set elect a primary again.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn elect(&self) -> anyhow::Result<()> {
        self.admin(doc! { "replSetFreeze": 0 }).await.map(drop)
    }

    /// The store URL for a publisher.
    pub fn url(&self, database: &str) -> String {
        format!(
            "mongodb://127.0.0.1:{}/{database}?replicaSet=rs0",
            self.port
        )
    }

    /// A database, for tests that read or change it without a publisher.
    ///
    /// # Errors
    /// When the driver cannot be set up.
    pub async fn database(&self, name: &str) -> anyhow::Result<Database> {
        let url = format!(
            "mongodb://127.0.0.1:{}/?directConnection=true&serverSelectionTimeoutMS=2000",
            self.port
        );
        Ok(Client::with_uri_str(url).await?.database(name))
    }

    pub(super) async fn admin(&self, command: Document) -> anyhow::Result<Document> {
        let admin = self.database("admin").await?;
        let answer = admin.run_command(command);
        Ok(tokio::time::timeout(Duration::from_secs(5), answer.into_future()).await??)
    }

    /// Sets the fail point `failCommand` of MongoDB for the next `times` commands of this name from
    /// a publisher. `how` is, for example, `{blockConnection: true, blockTimeMS: 4000}` or
    /// `{closeConnection: true}`.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn fail(&self, command: &str, times: i32, how: Document) -> anyhow::Result<()> {
        let mut data = doc! { "failCommands": [command], "appName": "confcast-publisher" };
        data.extend(how);
        let mode = doc! { "times": times };
        self.admin(doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data })
            .await
            .map(drop)
    }

    /// Waits until the fail point was hit this number of times since the server started.
    ///
    /// # Errors
    /// When that does not happen in 20 s.
    pub async fn until_failed(&self, times: i64) -> anyhow::Result<()> {
        let wait =
            doc! { "waitForFailPoint": "failCommand", "timesEntered": times, "maxTimeMS": 20_000 };
        self.database("admin").await?.run_command(wait).await?;
        Ok(())
    }
}
