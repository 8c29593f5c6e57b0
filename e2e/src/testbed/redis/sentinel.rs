//! A real master and its replica with a real sentinel, which promotes the replica when the master
//! dies.

use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::{Redis, resp::Client};
use crate::testbed::{
    dependencies,
    ports::free_port,
    process::{Process, folder},
    wait::eventually,
};

/// The name of the master at the sentinel.
pub const SERVICE: &str = "mymaster";

/// Master, replica and sentinel, running.
#[derive(Debug)]
pub struct SentinelSetup {
    /// The first master.
    pub master: Redis,
    /// The replica that the sentinel promotes.
    pub replica: Redis,
    password: Option<&'static str>,
    sentinel_password: Option<&'static str>,
    port: u16,
    _sentinel: Process,
    _folder: TempDir,
}

impl SentinelSetup {
    /// Starts all three, with optional passwords of the servers and of the sentinel.
    ///
    /// # Errors
    /// When one of them is not ready in time.
    pub async fn start(
        password: Option<&'static str>,
        sentinel_password: Option<&'static str>,
    ) -> anyhow::Result<Self> {
        Self::start_with(&[], password, sentinel_password).await
    }

    /// As [`Self::start`], with more lines in the configuration file of both servers.
    ///
    /// # Errors
    /// When one of them is not ready in time.
    pub async fn start_with(
        directives: &[String],
        password: Option<&'static str>,
        sentinel_password: Option<&'static str>,
    ) -> anyhow::Result<Self> {
        let server = || {
            // Otherwise a replica waits 5 s for other replicas that want the same data.
            let redis = directives.iter().fold(Redis::new()?, |redis, directive| {
                redis.with(directive.clone())
            });
            let redis = redis.with("repl-diskless-sync-delay 0");
            anyhow::Ok(match password {
                Some(password) => redis
                    .with_password(password)
                    .with(format!("masterauth {password:?}")),
                None => redis,
            })
        };
        let master = server()?.started().await?;
        let replica = server()?
            .with(format!("replicaof 127.0.0.1 {}", master.port()))
            .started()
            .await?;
        eventually("the replica follows", async || {
            let info = replica
                .command(&["INFO", "replication"])
                .await?
                .into_text()?;
            ensure!(info.contains("master_link_status:up"), "{info}");
            Ok(())
        })
        .await?;
        let folder = folder()?;
        let port = free_port()?;
        let mut lines = vec![
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", folder.path().display()),
            format!("sentinel monitor {SERVICE} 127.0.0.1 {} 1", master.port()),
            format!("sentinel down-after-milliseconds {SERVICE} 1000"),
            format!("sentinel failover-timeout {SERVICE} 3000"),
        ];
        lines.extend(password.map(|password| format!("sentinel auth-pass {SERVICE} {password}")));
        lines.extend(sentinel_password.map(|password| format!("requirepass {password}")));
        let config = folder.path().join("sentinel.conf");
        std::fs::write(&config, lines.join("\n") + "\n")?;
        let mut command = Command::new(dependencies::path_of("REDIS_SERVER")?);
        command.arg(config).arg("--sentinel");
        let sentinel = Process::start("sentinel", folder.path(), &mut command)?;
        let watched = Self {
            master,
            replica,
            password,
            sentinel_password,
            port,
            _sentinel: sentinel,
            _folder: folder,
        };
        eventually("the sentinel knows both", async || {
            let replicas = watched
                .sentinel()
                .await?
                .command(&["SENTINEL", "REPLICAS", SERVICE])
                .await?
                .into_many()?;
            ensure!(replicas.len() == 1, "{replicas:?}");
            Ok(())
        })
        .await?;
        Ok(watched)
    }

    async fn sentinel(&self) -> anyhow::Result<Client> {
        Client::connect(&format!("127.0.0.1:{}", self.port), self.sentinel_password).await
    }

    /// Promotes the replica. The old master continues as its replica.
    ///
    /// # Errors
    /// When the sentinel refuses.
    pub async fn fail_over(&self) -> anyhow::Result<()> {
        self.sentinel()
            .await?
            .command(&["SENTINEL", "FAILOVER", SERVICE])
            .await
            .map(drop)
    }

    /// Waits until sentinel and replica both report that the replica is the master.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub async fn until_failed_over(&self) -> anyhow::Result<()> {
        eventually("the replica becomes the master", async || {
            let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
            let address = self
                .sentinel()
                .await?
                .command(&question)
                .await?
                .into_many()?;
            let port = address
                .into_iter()
                .next_back()
                .context("an address")?
                .into_text()?;
            ensure!(port == self.replica.port().to_string(), "still {port}");
            let info = self
                .replica
                .command(&["INFO", "replication"])
                .await?
                .into_text()?;
            ensure!(info.contains("role:master"), "{info}");
            Ok(())
        })
        .await
    }

    /// A URL that names the sentinel and the master to ask for; for the default user.
    pub fn url(&self) -> String {
        self.url_as(
            &self
                .password
                .map(|password| format!(":{password}@"))
                .unwrap_or_default(),
        )
    }

    /// The same URL with `user:password@` for the servers.
    pub fn url_as(&self, login: &str) -> String {
        let own = self
            .sentinel_password
            .map(|password| format!("&sentinelPassword={password}"))
            .unwrap_or_default();
        format!(
            "redis-sentinel://{login}127.0.0.1:{}?sentinelServiceName={SERVICE}{own}",
            self.port
        )
    }
}
