//! `confcast reap`: removes the consumer groups that sidecars of replicas that are gone left in Redis.
//! It never changes a group whose name is not that of a single replica, nor an event.

mod names;
mod verdict;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use broker::{
    ANSWER, Address, AddressError, Connection,
    groups::{self, GroupRemoval},
};
use client::Endpoint;
use serde::Serialize;

use self::{
    names::Pattern,
    verdict::{GroupVerdict, Judged, Observation, Rule, judge},
};
use crate::{
    output,
    target::{Target, Unshown},
};

/// Between the two observations. A sidecar that has just created its group reads from it within
/// milliseconds.
const OBSERVATION_GAP: Duration = Duration::from_secs(5);

/// Remove consumer groups that belong to replicas that are gone
///
/// Every sidecar has its own consumer group in Redis, named {uuid} or {podName}, and Dapr never
/// removes one. This command shows the groups of all collections of the publisher, and with --apply
/// removes those that are gone.
///
/// A group is gone when no live replica of the publisher has its name (the name of a replica may
/// end in a port), when it has left an event unread for --idle-seconds, and when no consumer asked
/// for events in its name for the same time. Being idle alone proves nothing: a live sidecar waits
/// silently while no event arrives. So a group that has read everything is `quiet` and stays until
/// events arrive. For each live replica without a group that is known to be read, one group stays
/// as `unsure`.
///
/// Only groups whose names are UUIDs or match --groups are removed, and only if no consumer but a
/// sidecar reads from them. Each group is observed twice, and once more in the step that removes
/// it. If a group was removed wrongly, its sidecar would create it again and receive all events of
/// the stream again.
///
/// The exit code is 0 when every group could be judged and, with --apply, all groups that are gone
/// were removed. When the publisher does not list its replicas, or no replica is live, nothing is
/// removed and the exit code is 1.
#[derive(Debug, clap::Args)]
pub(crate) struct Reap {
    /// The Redis of the sidecars, with its database
    #[arg(
        long,
        value_name = "URL",
        env = "AURA_REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379",
        value_parser = Unshown(redis_address)
    )]
    redis_url: Address,
    /// Names of groups of single replicas besides UUIDs, for instance configuration-subscriber-*;
    /// * stands for one or more characters
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    groups: Vec<Pattern>,
    /// How long a group must have left an event unread; the group of a live replica that hangs may
    /// take half a minute
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    idle_seconds: u32,
    /// Remove the groups that are gone; without this option they are only shown
    #[arg(long)]
    apply: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Serialize)]
struct Report {
    applied: bool,
    groups: Vec<Judged>,
}

fn redis_address(text: &str) -> Result<Address, String> {
    text.parse()
        .map_err(|error: AddressError| error.to_string())
}

impl Reap {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let rule = Rule {
            patterns: self.groups,
            idle: Duration::from_secs(self.idle_seconds.into()),
        };
        let address = self.redis_url;
        let connecting = || format!("cannot reach {address:?}; nothing was removed");
        let mut redis = address.connect(ANSWER).await.with_context(connecting)?;
        let (observation, mut judged) = observe_twice(&publisher, &mut redis, &rule)
            .await
            .context("nothing was removed")?;
        let failed = if self.apply {
            remove(&mut redis, &observation, &mut judged, &rule).await
        } else {
            Vec::new()
        };
        let report = Report {
            applied: self.apply,
            groups: judged,
        };
        if self.json {
            output::json(&report)?;
        } else {
            output::result_table(&report.table())?;
            output::result(report.summary())?;
        }
        ensure!(
            failed.is_empty(),
            "not all groups that are gone were removed: {}",
            failed.join("; ")
        );
        let none_is_live = observation.replicas.iter().all(|record| record.gone);
        ensure!(
            !none_is_live,
            "no replica of {} is live, so no group can be judged gone",
            publisher.base()
        );
        Ok(())
    }
}

/// The last observation, and the verdicts that follow from both.
async fn observe_twice(
    publisher: &Endpoint,
    redis: &mut Connection,
    rule: &Rule,
) -> anyhow::Result<(Observation, Vec<Judged>)> {
    let first = observe(publisher, redis).await?;
    let judged = judge(&first, &first, rule);
    // Nothing has to be proven a second time.
    if judged
        .iter()
        .all(|group| group.verdict != GroupVerdict::Gone)
    {
        return Ok((first, judged));
    }
    tokio::time::sleep(OBSERVATION_GAP.min(rule.idle)).await;
    let second = observe(publisher, redis).await?;
    let judged = judge(&first, &second, rule);
    Ok((second, judged))
}

/// Lists all groups of all streams, and then the replicas.
async fn observe(publisher: &Endpoint, redis: &mut Connection) -> anyhow::Result<Observation> {
    let mut by_name: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for head in publisher.heads().await? {
        let stream = head.collection;
        let groups = groups::list(redis, stream.as_str()).await;
        for group in groups.with_context(|| format!("the groups of {stream} in Redis"))? {
            by_name
                .entry(group.name.clone())
                .or_default()
                .insert(stream.clone(), group);
        }
    }
    // After the groups: a live replica that created one of them has checked in by now, or its group
    // is known to be read.
    let list = publisher.replicas().await?;
    let list = list.with_context(|| format!("{} keeps no list of replicas", publisher.base()))?;
    Ok(Observation {
        groups: by_name,
        replicas: list.replicas,
    })
}

/// Removes the groups that are gone, and gives the failures. A group that is read from after all
/// stays in all remaining streams.
async fn remove(
    redis: &mut Connection,
    observation: &Observation,
    judged: &mut [Judged],
    rule: &Rule,
) -> Vec<String> {
    let mut failed = Vec::new();
    for judged in judged
        .iter_mut()
        .filter(|judged| judged.verdict == GroupVerdict::Gone)
    {
        judged.verdict = GroupVerdict::Removed;
        judged.pending = 0;
        for (stream, group) in observation.groups.get(&judged.group).into_iter().flatten() {
            let name = &group.name;
            match groups::destroy(
                redis,
                stream.as_str(),
                name,
                &group.last_delivered,
                rule.idle,
            )
            .await
            {
                Ok(GroupRemoval::Yes(pending)) => judged.pending += pending,
                Ok(GroupRemoval::Absent) => {}
                // Its sidecar lives: the group must stay in the other streams as well.
                Ok(GroupRemoval::Read) => {
                    judged.verdict = GroupVerdict::Live;
                    judged.reason =
                        format!("it was read from in {stream} just before its removal there");
                    break;
                }
                // The result is unknown, so the group still counts as gone.
                Err(error) => {
                    judged.verdict = GroupVerdict::Gone;
                    failed.push(format!("{name} in {stream}: {error}"));
                    break;
                }
            }
        }
    }
    failed
}

impl Report {
    fn table(&self) -> output::Table {
        let mut table = output::table([
            "group",
            "verdict",
            "collections",
            "idle s",
            "unread s",
            "pending",
            "reason",
        ]);
        let seconds = |time: Option<Duration>| {
            time.map(|time| time.as_secs().to_string())
                .unwrap_or_default()
        };
        for group in &self.groups {
            table.add_row([
                group.group.clone(),
                group.verdict.as_str().to_owned(),
                group.collections.len().to_string(),
                seconds(group.idle),
                seconds(group.unread),
                group.pending.to_string(),
                group.reason.clone(),
            ]);
        }
        table.align_right(2..=5);
        table
    }

    fn summary(&self) -> String {
        let verdict = if self.applied {
            GroupVerdict::Removed
        } else {
            GroupVerdict::Gone
        };
        let counted = || self.groups.iter().filter(|group| group.verdict == verdict);
        let pending: u64 = counted().map(|group| group.pending).sum();
        let number = counted().count();
        let groups = if number == 1 { "group" } else { "groups" };
        match (self.applied, number) {
            (true, _) => format!("{number} {groups} removed, with {pending} pending events"),
            (false, 0) => "no group is gone".to_owned(),
            (false, _) => {
                format!(
                    "{number} {groups} gone, with {pending} pending events; --apply removes them"
                )
            }
        }
    }
}
