//! `confcast up`: a publisher and its subscribers in one terminal, on the embedded store, without
//! any server.
//!
//! It runs the programs that are in the same folder and talks to them as any client does. The
//! programs end when it ends, also when it is killed.

mod children;
mod ports;
mod seed;
pub(super) mod with_parent;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use client::{ClientError, Endpoint, RetryPolicy};
use futures_util::future::try_join_all;
use stop_signals::StopSignals;

use self::children::Children;
use crate::{credentials::CredentialArgs, output, target::endpoint};

/// A sample that the printed examples use.
const SAMPLE: &str = "/v1/collections/ChannelConfiguration/documents/whatsapp-es";

/// Start a publisher and its subscribers on this machine, with the embedded store
///
/// The first start stores the samples that are in the folder of the schemas. Ctrl-C stops
/// everything.
#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// Folder of the embedded store
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Port of the publisher
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    publisher_port: u16,
    /// Port of a subscriber; may be given several times, for one subscriber per port
    #[arg(
        long = "subscriber-port",
        value_name = "PORT",
        default_values_t = [8081, 8082],
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    subscriber_ports: Vec<u16>,
    /// Folder with *.schema.json and *.sample.json; otherwise ./schemas, or the one nearest to
    /// this program
    #[arg(long, value_name = "DIR")]
    schemas: Option<PathBuf>,
}

impl Up {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        // Before any child: a stop at any moment stops the children in order.
        let mut signals = StopSignals::install()?;
        let schemas = self.schemas_folder()?;
        ports::are_free(&self.ports())?;
        let mut children = self.start(&schemas)?;
        let log = children.log();
        let life = async {
            let end = tokio::select! {
                () = signals.received() => Ok(()),
                ended = children.any_ended() => Err(ended),
                failed = async {
                    // The services go on after the welcome, so this branch ends only with an error.
                    self.welcome(&schemas).await?;
                    std::future::pending().await
                } => failed,
            };
            // A second signal ends the children at once.
            children.stop(signals.received()).await;
            end
        };
        tokio::join!(life, log).0
    }

    fn ports(&self) -> Vec<u16> {
        [&[self.publisher_port], &self.subscriber_ports[..]].concat()
    }

    /// Starts everything.
    fn start(&self, schemas: &Path) -> anyhow::Result<Children> {
        let publisher = url(self.publisher_port);
        let subscribers: Vec<String> = self.subscriber_ports.iter().copied().map(url).collect();
        let mut children = Children::default();
        children.start(
            "publisher",
            "publisher",
            &[
                (
                    "AURA_CONFIGURATION_STORE_URL",
                    format!("file:{}", self.data.display()),
                ),
                ("AURA_CONFIGURATION_EVENTS_MANAGER", "LOCAL".to_owned()),
                ("AURA_CONFIGURATION_LISTEN", listen(self.publisher_port)),
                (
                    "AURA_CONFIGURATION_LOCAL_SUBSCRIBERS",
                    subscribers.join(","),
                ),
                (
                    "AURA_CONFIGURATION_SCHEMAS_DIR",
                    schemas.display().to_string(),
                ),
            ],
        )?;
        for (number, port) in (1..).zip(&self.subscriber_ports) {
            let name = format!("subscriber-{number}");
            children.start(
                &name,
                "subscriber",
                &[
                    ("AURA_CONFIGURATION_API_URL", publisher.clone()),
                    ("AURA_CONFIGURATION_EVENTS_MANAGER", "LOCAL".to_owned()),
                    ("AURA_CONFIGURATION_LISTEN", listen(*port)),
                    ("AURA_CONFIGURATION_INSTANCE", name.clone()),
                    // Empty: the subscribers follow what the publisher serves, also those of schemas.
                    ("AURA_CONFIGURATION_COLLECTIONS", String::new()),
                ],
            )?;
        }
        Ok(children)
    }

    /// Waits until all services are ready, stores the samples, and prints commands to try.
    async fn welcome(&self, schemas: &Path) -> anyhow::Result<()> {
        let services = self
            .ports()
            .into_iter()
            .map(|port| endpoint(&url(port).parse()?, &CredentialArgs::default()))
            .collect::<anyhow::Result<Vec<_>>>()?;
        try_join_all(services.iter().map(ready)).await?;
        let publisher = &services[0];
        let seeded = match seed::seed(publisher, schemas)
            .await
            .context("storing the samples")?
        {
            0 => String::new(),
            samples => format!(", {samples} samples stored"),
        };
        let subscribers: Vec<&str> = services[1..].iter().map(Endpoint::base).collect();
        output::result(format_args!(
            "Confcast is up: publisher {}, subscribers {}, data in {}{seeded}",
            publisher.base(),
            subscribers.join(" and "),
            self.data.display()
        ))?;
        output::result_lines(&try_this(publisher, &subscribers).await)?;
        Ok(())
    }

    fn schemas_folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(given) = &self.schemas {
            ensure!(
                given.is_dir(),
                "--schemas {} is not a folder",
                given.display()
            );
            return Ok(given.clone());
        }
        let program = std::env::current_exe().context("cannot find the folder of this program")?;
        let ancestors = program
            .ancestors()
            .skip(1)
            .map(|folder| folder.join("schemas"));
        std::iter::once(PathBuf::from("schemas"))
            .chain(ancestors)
            .find(|folder| folder.is_dir())
            .context(
                "there is no folder `schemas` here or above this program: name it with --schemas DIR",
            )
    }
}

/// Commands that work as they are printed.
async fn try_this(publisher: &Endpoint, subscribers: &[&str]) -> String {
    let mut lines = Vec::new();
    // It exists after the first start, unless other schemas are used or it was deleted.
    if publisher.get(SAMPLE).await.is_ok() {
        lines.push(
            "\nChange a channel at the publisher, and read it from the memory of each subscriber:"
                .to_owned(),
        );
        lines.push(format!(
            "  curl -X PATCH {}{SAMPLE} -H 'Content-Type: application/merge-patch+json' -d '{{\"name\": \"Hello\"}}'",
            publisher.base()
        ));
        lines.extend(
            subscribers
                .iter()
                .map(|subscriber| format!("  curl {subscriber}{SAMPLE}")),
        );
    }
    lines.push("\nThe state of every collection and every replica:".to_owned());
    lines.push(format!("  curl {}/v1/collections", publisher.base()));
    let subscribers = subscribers.join(",");
    lines.push(format!(
        "  confcast status --publisher {} --subscriber {subscribers}",
        publisher.base()
    ));
    lines.push("\nCtrl-C stops everything.".to_owned());
    lines.join("\n")
}

/// Waits until a service is ready.
async fn ready(service: &Endpoint) -> anyhow::Result<()> {
    // During the start every failure may be temporary: the port is not open yet.
    let is_worth_retrying = |_error: &ClientError| true;
    RetryPolicy::START
        .run(is_worth_retrying, || service.ready())
        .await
        .with_context(|| format!("{} did not become ready", service.base()))
}

fn url(port: u16) -> String {
    format!("http://{}", listen(port))
}

fn listen(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
