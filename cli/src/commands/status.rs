//! `confcast status`: where the publisher and every replica stand.

use anyhow::{Context, ensure};
use comfy_table::Table;
use contract::{
    CollectionName, Head, Heads,
    status::{CollectionStatus, State, Status as Replica},
};
use futures_util::future::join_all;
use reqwest::Url;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    client::{Api, Target, service_url},
    output,
};

/// Show where the publisher and every replica stand
///
/// The exit code is 0 only if the publisher and all replicas answer, every collection of every replica is `current`, and no
/// digest differs.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Replicas to ask
    #[arg(
        long = "subscriber",
        value_name = "URL",
        env = "AURA_CONFIGURATION_LOCAL_SUBSCRIBERS",
        default_value = "http://127.0.0.1:8081,http://127.0.0.1:8082",
        value_delimiter = ',',
        value_parser = service_url
    )]
    subscribers: Vec<Url>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// What everybody said.
#[derive(Debug, Serialize)]
struct Report {
    publisher: Asked<Heads>,
    replicas: Vec<Asked<Replica>>,
}

#[derive(Debug, Serialize)]
struct Asked<T> {
    url: String,
    #[serde(flatten)]
    said: Said<T>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Said<T> {
    Answer(T),
    Error(String),
}

impl Status {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let replicas = self.subscribers.into_iter().map(Api::new).collect::<anyhow::Result<Vec<_>>>()?;
        let report = Report::ask(&self.target.api()?, &replicas).await;
        if self.json {
            output::json(&report)?;
        } else {
            output::say(report.publisher_table())?;
            output::say(report.replica_table())?;
        }
        let wrong = report.wrong();
        ensure!(wrong.is_empty(), "not all is well: {}", wrong.join("; "));
        Ok(())
    }
}

impl Report {
    async fn ask(publisher: &Api, replicas: &[Api]) -> Self {
        // The publisher first: a replica asked after it is behind these heads only if it really is.
        let publisher = ask(publisher, "/v1/collections").await;
        Self { publisher, replicas: join_all(replicas.iter().map(|replica| ask(replica, "/v1/status"))).await }
    }

    /// What keeps this from being a healthy fleet.
    fn wrong(&self) -> Vec<String> {
        let publisher = self.publisher.error().map(|_| "the publisher does not answer".to_owned());
        let replicas = self.replicas.iter().flat_map(|asked| match &asked.said {
            Said::Error(_) => vec![format!("{} does not answer", asked.url)],
            Said::Answer(replica) => (replica.collections.iter())
                .filter(|row| row.state != State::Current || self.agrees(replica, row) == Some(false))
                .map(|row| format!("{} of {} is {}", row.collection, replica.instance, self.verdict(replica, row)))
                .collect(),
        });
        publisher.into_iter().chain(replicas).collect()
    }

    fn publisher_table(&self) -> Table {
        let mut table = output::table(["publisher", "collection", "epoch", "revision", "documents", "digest"]);
        match &self.publisher.said {
            Said::Error(error) => _ = table.add_row([&self.publisher.url, error]),
            Said::Answer(Heads { heads }) => {
                for Head { collection, epoch, revision, count, digest, .. } in heads {
                    table.add_row([
                        self.publisher.url.clone(),
                        collection.to_string(),
                        epoch.to_string(),
                        revision.to_string(),
                        count.to_string(),
                        digest.to_string(),
                    ]);
                }
            }
        }
        table
    }

    fn replica_table(&self) -> Table {
        let mut table =
            output::table(["replica", "collection", "state", "revision/head", "documents", "digest equal", "reason"]);
        for asked in &self.replicas {
            match &asked.said {
                Said::Error(error) => _ = table.add_row([&asked.url, "", "unreachable", "", "", "", error]),
                Said::Answer(replica) => {
                    for row in &replica.collections {
                        let head = self.head(&row.collection).map_or("?".to_owned(), |head| head.revision.to_string());
                        table.add_row([
                            replica.instance.clone(),
                            row.collection.to_string(),
                            row.state.as_str().to_owned(),
                            format!("{}/{head}", row.revision),
                            row.count.to_string(),
                            match self.agrees(replica, row) {
                                Some(true) => "yes".to_owned(),
                                Some(false) => "NO".to_owned(),
                                None => "-".to_owned(),
                            },
                            row.reason.clone().unwrap_or_default(),
                        ]);
                    }
                }
            }
        }
        table
    }

    fn head(&self, collection: &CollectionName) -> Option<&Head> {
        match &self.publisher.said {
            Said::Answer(Heads { heads }) => heads.iter().find(|head| head.collection == *collection),
            Said::Error(_) => None,
        }
    }

    /// Whether the digests are equal; no verdict unless both speak of the same revision of the same history.
    fn agrees(&self, replica: &Replica, row: &CollectionStatus) -> Option<bool> {
        let head = self.head(&row.collection)?;
        let comparable = replica.epoch == Some(head.epoch) && row.revision == head.revision;
        comparable.then_some(row.digest == head.digest)
    }

    fn verdict(&self, replica: &Replica, row: &CollectionStatus) -> &'static str {
        if self.agrees(replica, row) == Some(false) { "different from the publisher" } else { row.state.as_str() }
    }
}

impl<T> Asked<T> {
    fn error(&self) -> Option<&str> {
        match &self.said {
            Said::Answer(_) => None,
            Said::Error(error) => Some(error),
        }
    }
}

async fn ask<T: DeserializeOwned>(api: &Api, path: &str) -> Asked<T> {
    let answer = async { api.get(path).await?.json().await.context("the answer is odd") };
    let said = match answer.await {
        Ok(answer) => Said::Answer(answer),
        Err(error) => Said::Error(error.root_cause().to_string()),
    };
    Asked { url: api.base().to_owned(), said }
}

#[cfg(test)]
mod tests;
