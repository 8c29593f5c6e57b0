//! `confcast verify`: whether every replica holds the same documents as the publisher. It changes
//! nothing, and it never trusts a digest in place of the documents.

mod compare;
mod report;
mod rounds;
mod row;
mod snapshot;

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use client::Endpoint;
use contract::fleet::{CheckIn, ReplicaRecord};

use self::{
    report::{Compared, Outcome, Report},
    rounds::{CheckedReplica, verify},
};
use crate::{
    output,
    progress::ProgressLine,
    target::{Subscribers, Target, service_url},
};

/// Compare every replica with the publisher, document by document
///
/// Reads complete snapshots and compares ids, revisions, checksums and bytes in both directions:
/// documents that are missing, extra or different. The replicas are those that checked in with the
/// publisher, and those named with --subscriber; without either, those that `confcast up` starts.
/// Because both sides change, a collection is read again until both sides were seen at the same
/// revision.
///
/// The exit code is 0 only if there is a replica and each one equals the publisher. A live replica
/// that cannot be read is a failure. A replica that is gone (silent for more than three check-in
/// intervals) or that reports no base URL is named and skipped.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    subscribers: Subscribers,
    /// How long to wait until a replica and the publisher are at the same revision
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    wait: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Which replicas are compared and which are not.
#[derive(Debug, Default)]
struct Selection {
    compared: Vec<CheckedReplica>,
    rest: Vec<Compared>,
}

impl Verify {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let report = check(
            &publisher,
            &self.subscribers,
            Duration::from_secs(self.wait.into()),
        )
        .await?;
        if self.json {
            output::json(&report)?;
        } else {
            report.print()?;
        }
        let failures = report.failures();
        ensure!(
            failures.is_empty(),
            "not every replica is proven equal to the publisher: {}",
            failures.join("; ")
        );
        Ok(())
    }
}

async fn check(
    publisher: &Endpoint,
    subscribers: &Subscribers,
    wait: Duration,
) -> anyhow::Result<Report> {
    let Selection {
        compared: mut replicas,
        rest,
    } = Selection::of(publisher, subscribers).await?;
    if !replicas.is_empty() {
        let progress = ProgressLine::counted();
        let verified = verify(publisher, &mut replicas, wait, &progress).await;
        progress.finish();
        verified?;
    }
    Ok(Report::new(
        publisher,
        replicas
            .into_iter()
            .map(CheckedReplica::compared)
            .chain(rest)
            .collect(),
    ))
}

impl Selection {
    async fn of(publisher: &Endpoint, subscribers: &Subscribers) -> anyhow::Result<Self> {
        let mut selection = Self::default();
        let list = publisher.replicas().await?;
        // A publisher without a list of replicas says nothing about where they are.
        let named = if list.is_none() {
            subscribers.named_or_local(publisher)?
        } else {
            subscribers.named(publisher)?
        };
        let bases: BTreeSet<String> = named
            .iter()
            .map(|replica| replica.base().to_owned())
            .collect();
        for replica in named {
            selection
                .compared
                .push(CheckedReplica::new(replica.base().to_owned(), replica));
        }
        for ReplicaRecord { check_in, gone, .. } in list.into_iter().flat_map(|list| list.replicas)
        {
            let CheckIn {
                instance: replica,
                base_url: url,
                ..
            } = check_in;
            let outcome = match url.as_deref().map(service_url) {
                _ if gone => Outcome::Skipped("gone"),
                None => Outcome::Skipped("reports no base URL"),
                Some(Err(expected)) => Outcome::Error(format!("cannot be asked: {expected}")),
                Some(Ok(url)) => {
                    let endpoint = publisher.learned(url.expose())?;
                    // A named replica is compared once, under its URL.
                    if !bases.contains(endpoint.base()) {
                        selection
                            .compared
                            .push(CheckedReplica::new(replica, endpoint));
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
