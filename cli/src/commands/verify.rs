//! `confcast verify`: whether every replica holds what the publisher holds, document by document.
//! It changes nothing, and it never trusts a digest in place of the documents.

mod compare;
mod report;
mod rounds;
mod row;
mod snapshot;

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use contract::fleet::{CheckIn, ReplicaRecord};

use self::{
    report::{Compared, Outcome, Report},
    rounds::{Replica, verify},
};
use crate::{
    client::{Api, Subscribers, Target, service_url},
    output,
    progress::Progress,
};

/// Compare every replica with the publisher, document by document
///
/// Reads whole snapshots and compares ids, revisions, checksums and bytes, both ways: what is
/// missing, what is extra, what differs. Replicas are those that checked in with the publisher, and
/// those named with --subscriber; without either, those that `confcast up` starts. As both sides
/// move, a collection is read again until both were seen at the same revision.
///
/// The exit code is 0 only if there is a replica and each one equals the publisher. One that is
/// live and cannot be read is a failure. One that is gone (silent for more than three check-ins) or
/// tells no base URL is named and skipped.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    subscribers: Subscribers,
    /// How long to wait for a replica and the publisher to be at the same revision
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    wait: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Who is compared and who is not.
#[derive(Debug, Default)]
struct Selection {
    compared: Vec<Replica>,
    rest: Vec<Compared>,
}

impl Verify {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.api()?;
        let report = check(
            &publisher,
            &self.subscribers,
            Duration::from_secs(self.wait.into()),
        )
        .await?;
        if self.json {
            output::json(&report)?;
        } else {
            report.show()?;
        }
        let wrong = report.wrong();
        ensure!(
            wrong.is_empty(),
            "not every replica is proven equal to the publisher: {}",
            wrong.join("; ")
        );
        Ok(())
    }
}

async fn check(
    publisher: &Api,
    subscribers: &Subscribers,
    wait: Duration,
) -> anyhow::Result<Report> {
    let Selection {
        compared: mut replicas,
        rest,
    } = Selection::of(publisher, subscribers).await?;
    if !replicas.is_empty() {
        let progress = Progress::documents();
        let verified = verify(publisher, &mut replicas, wait, &progress).await;
        progress.finish();
        verified?;
    }
    Ok(Report::new(
        publisher,
        replicas
            .into_iter()
            .map(Replica::compared)
            .chain(rest)
            .collect(),
    ))
}

impl Selection {
    async fn of(publisher: &Api, subscribers: &Subscribers) -> anyhow::Result<Self> {
        let mut selection = Self::default();
        let fleet = publisher.fleet().await?;
        let replicas = if fleet.is_none() {
            subscribers.or_local()?
        } else {
            subscribers.named()?
        };
        let named: BTreeSet<String> = replicas.iter().map(|api| api.base().to_owned()).collect();
        for api in replicas {
            selection
                .compared
                .push(Replica::new(api.base().to_owned(), api));
        }
        for ReplicaRecord { check_in, gone, .. } in
            fleet.into_iter().flat_map(|fleet| fleet.replicas)
        {
            let CheckIn {
                instance: replica,
                base_url: url,
                ..
            } = check_in;
            let outcome = match url.as_deref().map(service_url) {
                _ if gone => Outcome::Skipped("gone"),
                None => Outcome::Skipped("tells no base URL"),
                Some(Err(expected)) => Outcome::Error(format!("cannot be asked: {expected}")),
                Some(Ok(url)) => {
                    let api = Api::new(url)?;
                    if !named.contains(api.base()) {
                        selection.compared.push(Replica::new(replica, api));
                    }
                    continue;
                }
            };
            selection.rest.push(Compared {
                replica,
                url,
                outcome,
            });
        }
        Ok(selection)
    }
}

#[cfg(test)]
mod tests;
