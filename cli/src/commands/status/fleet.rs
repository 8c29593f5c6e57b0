//! The replicas by the publisher's account: who checked in, when, and where it stood then.
//!
//! Nobody is asked here, so what is shown is as old as "seen" says.

use std::{collections::BTreeMap, time::SystemTime};

use comfy_table::Table;
use contract::{
    CollectionName, Head,
    fleet::{CheckIn, CollectionReport, IntakeFault, ReplicaList, ReplicaRecord},
    status::ReplicaState,
};

use super::tables::yes_or_no;
use crate::output;

/// What keeps the live ones from being healthy.
pub(super) fn wrong(fleet: &ReplicaList, heads: &[Head]) -> Vec<String> {
    let live = fleet.replicas.iter().filter(|member| !member.gone);
    live.flat_map(|ReplicaRecord { check_in, .. }| {
        check_in.collections.iter().filter_map(|(name, report)| {
            let verdict = match digests_agree(name, report, heads) {
                Some(false) => "different from the publisher",
                _ if report.state != ReplicaState::Current => report.state.as_str(),
                _ => return None,
            };
            Some(format!("{name} of {} is {verdict}", check_in.instance))
        })
    })
    .collect()
}

pub(super) fn gone(fleet: &ReplicaList) -> impl Iterator<Item = &str> {
    fleet
        .replicas
        .iter()
        .filter(|member| member.gone)
        .map(|member| member.check_in.instance.as_str())
}

/// The live ones that events do not reach as they should.
pub(super) fn intakes(fleet: &ReplicaList) -> impl Iterator<Item = (IntakeFault, &str)> {
    let live = fleet.replicas.iter().filter(|member| !member.gone);
    live.filter_map(|member| Some((member.check_in.intake?, member.check_in.instance.as_str())))
}

pub(super) fn table(fleet: &ReplicaList, heads: &[Head]) -> Table {
    let mut table = output::table([
        "replica",
        "base URL",
        "seen",
        "collection",
        "state",
        "revision",
        "known",
        "head",
        "digest equal",
        "events",
        "reason",
    ]);
    for member in &fleet.replicas {
        let CheckIn {
            instance,
            base_url,
            intake,
            collections,
            ..
        } = &member.check_in;
        let about = [
            instance.clone(),
            base_url.clone().unwrap_or_default(),
            seen(member),
        ];
        let events = intake.map_or("", IntakeFault::as_str);
        let row = |cells: [String; 5], rest: [String; 3]| {
            [about.to_vec(), cells.to_vec(), rest.to_vec()].concat()
        };
        for (name, report) in collections {
            let head = heads.iter().find(|head| head.collection == *name);
            let agree = digests_agree(name, report, heads);
            table.add_row(row(
                [
                    name.to_string(),
                    report.state.as_str().to_owned(),
                    report.revision.to_string(),
                    report.known.to_string(),
                    head.map_or("?".to_owned(), |head| head.revision.to_string()),
                ],
                [
                    yes_or_no(agree),
                    events.to_owned(),
                    report.reason.clone().unwrap_or_default(),
                ],
            ));
        }
        if collections.is_empty() {
            table.add_row(row(
                Default::default(),
                [
                    "".to_owned(),
                    events.to_owned(),
                    "follows nothing".to_owned(),
                ],
            ));
        }
    }
    table
}

/// What to do about intakes, once per kind.
pub(super) fn mends<'a>(intakes: impl Iterator<Item = (IntakeFault, &'a str)>) -> Vec<String> {
    let mut by_kind: BTreeMap<&str, (IntakeFault, Vec<&str>)> = BTreeMap::new();
    for (intake, instance) in intakes {
        by_kind
            .entry(intake.as_str())
            .or_insert((intake, vec![]))
            .1
            .push(instance);
    }
    by_kind
        .into_iter()
        .map(|(kind, (intake, who))| format!("{kind}: {}: {}", who.join(", "), intake.remedy()))
        .collect()
}

/// How long ago, by the publisher's clock and ours.
fn seen(member: &ReplicaRecord) -> String {
    let ago = SystemTime::now()
        .duration_since(member.seen.into())
        .unwrap_or_default()
        .as_secs();
    let ago = match ago {
        0..120 => format!("{ago} s ago"),
        120..7200 => format!("{} min ago", ago / 60),
        _ => format!("{} h ago", ago / 3600),
    };
    if member.gone {
        format!("gone, {ago}")
    } else {
        ago
    }
}

/// Whether the digests are equal; no verdict unless both speak of the same revision of the same
/// history.
fn digests_agree(name: &CollectionName, report: &CollectionReport, heads: &[Head]) -> Option<bool> {
    let head = heads.iter().find(|head| head.collection == *name)?;
    let settled = report
        .settled
        .filter(|settled| settled.revision == head.revision)?;
    (report.epoch == Some(head.epoch)).then_some(settled.digest == head.digest)
}
