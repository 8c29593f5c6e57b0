//! `confcast status`: where the publisher and every replica stand. It compares revisions and
//! digests, never documents: that is `confcast verify`.

mod asked;
mod fleet;
mod tables;

use anyhow::ensure;
use contract::{
    CollectionName, Head, Heads,
    fleet::{IntakeFault, ReplicaList},
    status::{CollectionStatus, ReplicaState, ReplicaStatus as Replica},
};
use futures_util::future::join_all;
use serde::Serialize;

use self::asked::{Asked, Said, ask};
use crate::{
    client::{Api, Subscribers, Target},
    output,
};

/// Show where the publisher and every replica stand
///
/// Shows the replicas that checked in with the publisher, as they were then; those named with
/// --subscriber are asked directly instead. A publisher that keeps no account of its replicas (an
/// older one, or a subscriber) is shown with the named ones, else with those that `confcast up`
/// starts.
///
/// The exit code is 0 only if the publisher and all replicas answer, every collection of every
/// replica is `current`, and no digest differs. A replica that is gone (silent for more than three
/// check-ins, as one is that was scaled away) and one that events do not reach (deaf, competing: it
/// lives on check-ins) are shown, and fail only with --strict.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplicaStatus {
    #[command(flatten)]
    subscribers: Subscribers,
    /// Fail also when a replica is gone, deaf or competing, or when there is none
    #[arg(long)]
    strict: bool,
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
    /// Absent when replicas were asked directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<Asked<ReplicaList>>,
    replicas: Vec<Asked<Replica>>,
}

impl ReplicaStatus {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let report = Report::ask(&self.target.api()?, &self.subscribers).await?;
        if self.json {
            output::json(&report)?;
        } else {
            output::say(report.publisher_table())?;
            if let Some(table) = report.replicas_table() {
                output::say(table)?;
            }
            for mend in fleet::mends(report.intakes()) {
                output::say(mend)?;
            }
        }
        let wrong = report.wrong(self.strict);
        ensure!(wrong.is_empty(), "not all is well: {}", wrong.join("; "));
        Ok(())
    }
}

impl Report {
    async fn ask(publisher: &Api, subscribers: &Subscribers) -> anyhow::Result<Self> {
        // The publisher first: a replica asked after it is behind these heads only if it really is.
        let heads = ask(publisher, "/v1/collections").await;
        let fleet = if subscribers.named.is_empty() {
            publisher.fleet().await.transpose()
        } else {
            None
        };
        let replicas = if fleet.is_none() {
            subscribers.or_local()?
        } else {
            vec![]
        };
        Ok(Self {
            publisher: heads,
            fleet: fleet.map(|fleet| Asked::new(publisher, fleet)),
            replicas: join_all(replicas.iter().map(|replica| ask(replica, "/v1/status"))).await,
        })
    }

    /// What keeps this from being a healthy fleet.
    fn wrong(&self, strict: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.publisher.error().is_some() {
            wrong.push("the publisher does not answer".to_owned());
        }
        match self.fleet.as_ref().map(|asked| &asked.said) {
            Some(Said::Error(_)) if !wrong.is_empty() => {}
            Some(Said::Error(error)) => {
                wrong.push(format!("the publisher does not tell its replicas: {error}"))
            }
            Some(Said::Answer(fleet)) => {
                wrong.extend(fleet::wrong(fleet, self.heads()));
                if strict {
                    wrong.extend(fleet::gone(fleet).map(|instance| format!("{instance} is gone")));
                    wrong.extend(
                        fleet
                            .replicas
                            .is_empty()
                            .then(|| "no replica has checked in".to_owned()),
                    );
                }
            }
            None => {}
        }
        wrong.extend(self.replicas.iter().flat_map(|asked| {
            match &asked.said {
                Said::Error(_) => vec![format!("{} does not answer", asked.url)],
                Said::Answer(replica) => (replica.collections.iter())
                    .filter(|row| {
                        row.state != ReplicaState::Current
                            || self.agrees(replica, row) == Some(false)
                    })
                    .map(|row| {
                        format!(
                            "{} of {} is {}",
                            row.collection,
                            replica.instance,
                            self.verdict(replica, row)
                        )
                    })
                    .collect(),
            }
        }));
        if strict {
            wrong.extend(
                self.intakes()
                    .map(|(intake, instance)| format!("{instance} is {}", intake.as_str())),
            );
        }
        wrong
    }

    fn intakes(&self) -> impl Iterator<Item = (IntakeFault, &str)> {
        let told = self
            .fleet
            .iter()
            .filter_map(Asked::answer)
            .flat_map(fleet::intakes);
        let asked = self.replicas.iter().filter_map(Asked::answer);
        told.chain(asked.filter_map(|replica| Some((replica.intake?, replica.instance.as_str()))))
    }

    fn head(&self, collection: &CollectionName) -> Option<&Head> {
        self.heads()
            .iter()
            .find(|head| head.collection == *collection)
    }

    fn heads(&self) -> &[Head] {
        self.publisher.answer().map_or(&[], |Heads { heads }| heads)
    }

    /// Whether the digests are equal; no verdict unless both speak of the same revision of the same
    /// history.
    fn agrees(&self, replica: &Replica, row: &CollectionStatus) -> Option<bool> {
        let head = self.head(&row.collection)?;
        let comparable = replica.epoch == Some(head.epoch) && row.revision == head.revision;
        comparable.then_some(row.digest == head.digest)
    }

    fn verdict(&self, replica: &Replica, row: &CollectionStatus) -> &'static str {
        if self.agrees(replica, row) == Some(false) {
            "different from the publisher"
        } else {
            row.state.as_str()
        }
    }
}

#[cfg(test)]
mod tests;
