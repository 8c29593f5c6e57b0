//! `confcast reap`: removes the consumer groups that sidecars of gone replicas left in Redis. It
//! never touches a group whose name is not that of a single replica, nor an event.

mod names;
mod verdict;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use broker::{
    ANSWER, Address, Connection,
    groups::{self, GroupRemoval},
};
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use self::{
    names::Pattern,
    verdict::{Judged, Look, Rule, Verdict, judge},
};
use crate::{
    client::{Api, Target},
    output,
};

/// Between the two looks. A sidecar that has just made its group reads from it within milliseconds.
const APART: Duration = Duration::from_secs(5);

/// Remove consumer groups that sidecars of gone replicas left behind
///
/// Every sidecar has a consumer group of its own in Redis, named {uuid} or {podName}, and Dapr
/// never removes one. This shows the groups of all collections of the publisher, and with --apply
/// removes those that are gone.
///
/// A group is gone when no live replica of the publisher has its name (a replica's name may end in
/// a port), when it has left an event unread for --idle-seconds, and when nobody asked for events
/// in its name for as long. Being idle alone says nothing: a live sidecar waits silently for as
/// long as no event comes. So a group that has read everything is `quiet` and stays until events
/// have come. As many groups stay, as `unsure`, as live replicas have no group that is known to be
/// read.
///
/// Only names that are UUIDs or match --groups are ever removed, and only if none but a sidecar
/// reads there. Each group is looked at twice, and a last time in the step that removes it. A group
/// that was removed wrongly would be made again by its sidecar, and replay what the stream holds.
///
/// The exit code is 0 when everything could be judged, and all that is gone was removed if that was
/// asked for. When the publisher does not tell its replicas, or no replica is live, nothing is
/// removed and it is 1.
#[derive(Debug, clap::Args)]
pub(crate) struct Reap {
    /// The Redis of the sidecars, with its database
    #[arg(
        long,
        value_name = "URL",
        env = "AURA_REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379"
    )]
    redis_url: String,
    /// Names of groups of single replicas besides UUIDs, as configuration-subscriber-*; * is one
    /// or more characters
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    groups: Vec<Pattern>,
    /// How long a group must have left an event unread; a live one may take half a minute when its
    /// replica hangs
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    idle_seconds: u32,
    /// Remove them; without it they are only shown
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

impl Reap {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.api()?;
        let rule = Rule {
            patterns: self.groups,
            idle: Duration::from_secs(self.idle_seconds.into()),
        };
        // Not by the parser of the command line, which would quote what is wrong, and a password
        // with it.
        let address: Address = self
            .redis_url
            .parse()
            .context("--redis-url (AURA_REDIS_URL)")?;
        let to = || format!("cannot reach {address:?}; nothing was removed");
        let mut redis = address.connect(ANSWER).await.with_context(to)?;
        let look = look_twice(&publisher, &mut redis, &rule)
            .await
            .context("nothing was removed")?;
        let (look, mut judged) = look;
        let failed = if self.apply {
            remove(&mut redis, &look, &mut judged, &rule).await
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
            output::say(report.table())?;
            output::say(report.sum())?;
        }
        ensure!(
            failed.is_empty(),
            "not all groups that are gone were removed: {}",
            failed.join("; ")
        );
        let blind = look.fleet.replicas.iter().all(|member| member.gone);
        ensure!(
            !blind,
            "no replica of {} is live, so nothing can be told gone",
            publisher.base()
        );
        Ok(())
    }
}

/// The last look, and what both together say.
async fn look_twice(
    publisher: &Api,
    redis: &mut Connection,
    rule: &Rule,
) -> anyhow::Result<(Look, Vec<Judged>)> {
    let first = look(publisher, redis).await?;
    let judged = judge(&first, &first, rule);
    if judged.iter().all(|group| group.verdict != Verdict::Gone) {
        return Ok((first, judged));
    }
    tokio::time::sleep(APART.min(rule.idle)).await;
    let second = look(publisher, redis).await?;
    let judged = judge(&first, &second, rule);
    Ok((second, judged))
}

async fn look(publisher: &Api, redis: &mut Connection) -> anyhow::Result<Look> {
    let mut by_name: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for head in publisher.heads().await?.heads {
        let stream = head.collection;
        let groups = groups::list(redis, stream.as_str()).await;
        for group in groups.with_context(|| format!("the groups of {stream} in Redis"))? {
            by_name
                .entry(group.name.clone())
                .or_default()
                .insert(stream.clone(), group);
        }
    }
    // After the groups: whoever made one of them and is live has checked in by now, or is known by
    // its reading.
    let fleet = publisher.fleet().await?;
    let fleet =
        fleet.with_context(|| format!("{} keeps no account of its replicas", publisher.base()))?;
    Ok(Look {
        groups: by_name,
        fleet,
    })
}

/// Removes what is gone, and tells what went wrong. Who is read from after all is let be, in all
/// streams that are left.
async fn remove(
    redis: &mut Connection,
    look: &Look,
    judged: &mut [Judged],
    rule: &Rule,
) -> Vec<String> {
    let mut failed = Vec::new();
    for judged in judged
        .iter_mut()
        .filter(|judged| judged.verdict == Verdict::Gone)
    {
        judged.verdict = Verdict::Removed;
        judged.pending = 0;
        for (stream, group) in look.groups.get(&judged.group).into_iter().flatten() {
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
                Ok(GroupRemoval::Read) => {
                    judged.verdict = Verdict::Live;
                    judged.why = format!(
                        "it was read from in {stream} just before it was to be removed there"
                    );
                    break;
                }
                Err(error) => {
                    judged.verdict = Verdict::Gone;
                    failed.push(format!("{name} in {stream}: {error}"));
                    break;
                }
            }
        }
    }
    failed
}

impl Report {
    fn table(&self) -> Table {
        let mut table = output::table([
            "group",
            "verdict",
            "collections",
            "idle s",
            "unread s",
            "pending",
            "why",
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
                group.why.clone(),
            ]);
        }
        for numbers in 2..=5 {
            if let Some(column) = table.column_mut(numbers) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    fn sum(&self) -> String {
        let verdict = if self.applied {
            Verdict::Removed
        } else {
            Verdict::Gone
        };
        let those = || self.groups.iter().filter(|group| group.verdict == verdict);
        let pending: u64 = those().map(|group| group.pending).sum();
        let number = those().count();
        let groups = if number == 1 { "group" } else { "groups" };
        match (self.applied, number) {
            (true, _) => format!("{number} {groups} removed, with {pending} pending events"),
            (false, 0) => "no group is gone".to_owned(),
            (false, _) => {
                format!(
                    "{number} {groups} gone, with {pending} pending events; --apply removes what is gone"
                )
            }
        }
    }
}
