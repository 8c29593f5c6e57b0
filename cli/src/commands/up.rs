//! `confcast up`: a publisher and its subscribers in one terminal, on the embedded store, without
//! any server.
//!
//! It runs the programs that lie beside it and talks to them as anybody would. They end with it,
//! however it ends.

mod children;
mod ports;
mod seed;
pub(super) mod with_parent;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use reqwest::Url;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use self::children::Children;
use crate::{client::Api, output};

/// Until a service must be ready.
const READY: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// A sample that the examples speak of.
const SAMPLE: &str = "/v1/collections/ChannelConfiguration/documents/whatsapp-es";

/// Start a publisher and its subscribers here, on the embedded store
///
/// The first start stores the samples that lie beside the schemas. Ctrl-C stops everything.
#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// Folder of the embedded store
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    publisher_port: u16,
    /// One subscriber per port
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
        let schemas = self.schemas_folder()?;
        ports::are_free(&self.ports())?;
        let (mut children, chatter) = self.start(&schemas)?;
        let life = async {
            let end = tokio::select! {
                stopped = stop_signal() => stopped,
                ended = children.any_ended() => Err(ended),
                failed = async {
                    self.welcome(&schemas).await?;
                    std::future::pending().await
                } => failed,
            };
            // Asked a second time, it does not wait for them to finish what they do.
            children.stop(stop_signal()).await;
            end
        };
        tokio::join!(life, chatter).0
    }

    fn ports(&self) -> Vec<u16> {
        [&[self.publisher_port], &self.subscriber_ports[..]].concat()
    }

    /// Starts everything; the second part carries what the children say to the terminal until all
    /// have ended.
    fn start(
        &self,
        schemas: &Path,
    ) -> anyhow::Result<(Children, impl Future<Output = ()> + use<>)> {
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
                ],
            )?;
        }
        let chatter = children.chatter();
        Ok((children, chatter))
    }

    /// Waits until all are ready, stores the samples, says what to try.
    async fn welcome(&self, schemas: &Path) -> anyhow::Result<()> {
        let apis = self
            .ports()
            .into_iter()
            .map(api)
            .collect::<anyhow::Result<Vec<_>>>()?;
        try_join_all(apis.iter().map(ready)).await?;
        let seeded = match seed::seed(&apis[0], schemas)
            .await
            .context("storing the samples")?
        {
            0 => String::new(),
            samples => format!(", {samples} samples stored"),
        };
        let subscribers: Vec<&str> = apis[1..].iter().map(Api::base).collect();
        output::say(format_args!(
            "Confcast is up: publisher {}, subscribers {}, data in {}{seeded}",
            apis[0].base(),
            subscribers.join(" and "),
            self.data.display()
        ))?;
        output::say(try_this(&apis[0], &subscribers).await)?;
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
        let program = std::env::current_exe().context("cannot tell where this program lies")?;
        let beside = program
            .ancestors()
            .skip(1)
            .map(|folder| folder.join("schemas"));
        std::iter::once(PathBuf::from("schemas"))
            .chain(beside)
            .find(|folder| folder.is_dir())
            .context(
                "found no folder `schemas` here or above this program: name it with --schemas DIR",
            )
    }
}

/// Commands that work as they are printed.
async fn try_this(publisher: &Api, subscribers: &[&str]) -> String {
    let mut lines = Vec::new();
    // It is there after the first start, unless the schemas are not ours or somebody deleted it.
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
    lines.push("\nWhere every collection and every replica stands:".to_owned());
    lines.push(format!("  curl {}/v1/collections", publisher.base()));
    let subscribers = subscribers.join(",");
    lines.push(format!(
        "  confcast status --publisher {} --subscriber {subscribers}",
        publisher.base()
    ));
    lines.push("\nCtrl-C stops everything.".to_owned());
    lines.join("\n")
}

async fn ready(api: &Api) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY;
    while let Err(error) = api.get("/readyz").await {
        if Instant::now() > deadline {
            return Err(error.context(format!(
                "{} was not ready within {} s",
                api.base(),
                READY.as_secs()
            )));
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Resolves when the process is asked to stop: SIGTERM or SIGINT (Ctrl-C).
async fn stop_signal() -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn api(port: u16) -> anyhow::Result<Api> {
    Api::new(Url::parse(&url(port))?)
}

fn url(port: u16) -> String {
    format!("http://{}", listen(port))
}

fn listen(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
