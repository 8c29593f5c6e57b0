//! The rules of `confcast doctor`: what follows from facts about publishers and replicas for a program
//! of this version. Nothing here asks a service.

use std::collections::BTreeMap;

use contract::{
    environment,
    fleet::{ReplicaList, ReplicaRecord},
    formats::{self, PROTOCOL, STORE},
    release::{Release, ReleaseVersion, StoreKind},
    repair::DegradedStore,
    status::ReplicaState,
};
use serde::Serialize;

use crate::commands::status::LATE_EVENT_MS;

/// Findings of one kind about replicas, at most.
const MAX_NAMED: usize = 20;
/// The part that findings about all replicas are of.
const REPLICAS: &str = "replicas";

/// What an upgrade meets. The worst one is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// It works.
    Ok,
    /// It works, with what the remedy avoids.
    Warning,
    /// It would not work.
    Blocks,
}

impl Verdict {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Blocks => "blocks",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    /// The publisher or replica that it is about.
    pub(super) part: String,
    /// What was looked at, in a word.
    pub(super) check: &'static str,
    /// What was found, in words.
    pub(super) found: String,
    /// What to do; absent where it is ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    fn ok(part: &str, check: &'static str, found: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Ok,
            part: part.to_owned(),
            check,
            found: found.into(),
            remedy: None,
        }
    }

    fn warning(
        part: &str,
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Warning,
            remedy: Some(remedy.into()),
            ..Self::ok(part, check, found)
        }
    }

    fn blocks(
        part: &str,
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Blocks,
            ..Self::warning(part, check, found, remedy)
        }
    }
}

/// What one publisher says.
#[derive(Debug)]
pub(super) struct PublisherFacts {
    pub(super) url: String,
    /// `None` where it has no such route.
    pub(super) release: Result<Option<Release>, String>,
    pub(super) readiness: Result<Option<DegradedStore>, String>,
}

impl PublisherFacts {
    /// Whether it may know the replicas: it answers, and does not say that it is a subscriber.
    pub(super) fn may_know_replicas(&self) -> bool {
        match &self.release {
            Ok(Some(release)) => release.store.is_some(),
            Ok(None) => true,
            Err(_error) => false,
        }
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let part = &self.url;
        let mut findings = match &self.release {
            Err(error) => {
                let remedy = "start it, or see what it waits for at /readyz; name every publisher with --publisher; \
                              the caller needs the right observe";
                return vec![Finding::blocks(part, "answer", error, remedy)];
            }
            Ok(None) => vec![Finding::warning(
                part,
                "version",
                "it says none: it is of the version before this one, or older",
                "look at its image or package: from an older one go version by version",
            )],
            Ok(Some(release)) => of_release(part, release),
        };
        findings.push(match &self.readiness {
            Ok(None) => Finding::ok(part, "readiness", "it is ready"),
            Ok(Some(degraded)) => Finding::warning(
                part,
                "readiness",
                &degraded.detail,
                "repair the rows first, with the version that runs: confcast repair",
            ),
            Err(error) => Finding::blocks(
                part,
                "readiness",
                error,
                "wait until it is ready: after an upgrade the cause would be unclear",
            ),
        });
        findings
    }
}

fn of_release(part: &str, release: &Release) -> Vec<Finding> {
    if release.store.is_none() {
        let found = format!("it is a {}", release.service);
        let remedy = "name a publisher with --publisher";
        return vec![Finding::blocks(part, "service", found, remedy)];
    }
    let mut findings = vec![of_protocol(part, &release.version, release.protocol)];
    if let Some(store) = release.store {
        findings.push(match formats::check_store(store.format) {
            Ok(()) => Finding::ok(part, "store", in_words(store.kind)),
            Err(error) => Finding::blocks(
                part,
                "store",
                error.to_string(),
                "make a backup with the version that runs, and restore it with this one into another store",
            ),
        });
    }
    let settings = release.settings.iter();
    let unread: Vec<&String> = settings
        .filter(|name| environment::is_unread(name))
        .collect();
    let before = findings.len();
    // The search for what was meant is for those that are shown: a publisher chooses the number of names.
    let named = unread.iter().take(MAX_NAMED);
    let named = named.filter_map(|name| environment::warning(name));
    let named = named.map(|warning| {
        let remedy = "correct or remove it: this version does not read it";
        Finding::warning(part, "settings", warning, remedy)
    });
    let more = unread.len().saturating_sub(MAX_NAMED);
    findings.extend(bounded(part, named.collect(), more));
    if findings.len() == before {
        let number = release.settings.len();
        let found = format!(
            "this version knows all {number} names; check values with --check-settings of each program"
        );
        findings.push(Finding::ok(part, "settings", found));
    }
    findings
}

fn in_words(kind: StoreKind) -> String {
    let format = format!("format {STORE}, which this version reads and writes");
    match kind {
        StoreKind::Embedded => {
            format!("embedded, {format}; writes are refused while its one publisher restarts")
        }
        StoreKind::MongoDb => {
            format!("MongoDB, {format}; publishers of both versions may write it")
        }
    }
}

/// A program speaks the protocol of its own number and of the one before, so two programs understand
/// each other when their numbers differ by one at most.
fn of_protocol(part: &str, version: &ReleaseVersion, protocol: u32) -> Finding {
    let found = format!("{version}, protocol {protocol}");
    if protocol.abs_diff(PROTOCOL) <= 1 {
        Finding::ok(part, "version", found)
    } else if protocol < PROTOCOL {
        let remedy = "upgrade to the versions in between first, one after the other";
        Finding::blocks(part, "version", found, remedy)
    } else {
        let remedy = "this program is too old: use the confcast of the version before that one, or a later one";
        Finding::blocks(part, "version", found, remedy)
    }
}

/// What a publisher says of its replicas and its store.
#[derive(Debug)]
pub(super) struct FleetFacts {
    /// `None` where it keeps no list.
    pub(super) replicas: Result<Option<ReplicaList>, String>,
    /// In words.
    pub(super) unfinished_restores: Result<Vec<String>, String>,
}

impl FleetFacts {
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        match &self.unfinished_restores {
            Ok(marks) => findings.extend(marks.iter().map(|mark| {
                let remedy = "run confcast restore with the same backup again, with the version that began it";
                let found = format!("a restore was not finished ({mark})");
                Finding::blocks("store", "restore", found, remedy)
            })),
            Err(error) => {
                let remedy = "ask again when the store answers";
                findings.push(Finding::blocks("store", "restore", error, remedy));
            }
        }
        let list = match &self.replicas {
            Ok(Some(list)) => list,
            Ok(None) => {
                let remedy = "look at their images or packages";
                let found = "the publisher keeps no list of them";
                findings.push(Finding::warning(REPLICAS, "version", found, remedy));
                return findings;
            }
            Err(error) => {
                let remedy = "the caller needs the right observe; ask again when the store answers";
                findings.push(Finding::blocks(REPLICAS, "answer", error, remedy));
                return findings;
            }
        };
        if let Some(backlog) = list.backlog
            && backlog.oldest_ms >= LATE_EVENT_MS
        {
            let found = format!("{} events are not published yet", backlog.pending);
            let remedy = "wait until they are: replicas read these changes from the feed, which is more load";
            findings.push(Finding::warning("store", "events", found, remedy));
        }
        findings.extend(versions(&list.replicas));
        let live = || list.replicas.iter().filter(|replica| !replica.gone);
        let name = |replica: &ReplicaRecord| replica.check_in.instance.clone();
        let foreign = live().filter_map(|replica| {
            let check_in = &replica.check_in;
            let version = check_in.version.as_ref()?;
            let finding = of_protocol(&name(replica), version, check_in.protocol?);
            (finding.verdict != Verdict::Ok).then_some(finding)
        });
        findings.extend(bounded(REPLICAS, foreign.collect(), 0));
        let late = live().filter_map(|replica| {
            let worst = replica.check_in.worst_state();
            let worst = worst.unwrap_or(ReplicaState::Loading);
            (worst != ReplicaState::Current).then(|| {
                let remedy = "wait until it is current: confcast status says what it lacks";
                let found = format!("it is {}", worst.as_str());
                Finding::warning(&name(replica), "state", found, remedy)
            })
        });
        findings.extend(bounded(REPLICAS, late.collect(), 0));
        let gone = list.replicas.iter().filter(|replica| replica.gone);
        let gone = gone.map(|replica| {
            let found = format!("it is silent since {}", replica.seen.format("%F %T UTC"));
            let remedy = "upgrade it too before it starts again, or ignore it where it was removed";
            Finding::warning(&name(replica), "state", found, remedy)
        });
        findings.extend(bounded(REPLICAS, gone.collect(), 0));
        findings
    }
}

/// How many live replicas there are of each version.
fn versions(replicas: &[ReplicaRecord]) -> Vec<Finding> {
    let mut numbers: BTreeMap<Option<&ReleaseVersion>, usize> = BTreeMap::new();
    for replica in replicas.iter().filter(|replica| !replica.gone) {
        *numbers
            .entry(replica.check_in.version.as_ref())
            .or_default() += 1;
    }
    let silent = numbers.remove(&None).unwrap_or_default();
    let named: Vec<_> = numbers
        .iter()
        .take(MAX_NAMED)
        .filter_map(|(version, number)| Some(format!("{number} of {}", (*version)?)))
        .collect();
    let mut findings = Vec::new();
    if !named.is_empty() || silent == 0 {
        let found = if named.is_empty() {
            "none is live".to_owned()
        } else {
            named.join(", ")
        };
        findings.push(Finding::ok(REPLICAS, "version", found));
    }
    if silent > 0 {
        findings.push(Finding::warning(
            REPLICAS,
            "version",
            format!("{silent} without one: of the version before this one, or older"),
            "look at their images: those of the version before may stay for now, older ones go version by version",
        ));
    }
    findings
}

/// The first of many findings, and how many there are besides, with `more` that were not made. Services
/// choose the number of them.
fn bounded(part: &str, mut findings: Vec<Finding>, more: usize) -> Vec<Finding> {
    let more = more + findings.len().saturating_sub(MAX_NAMED);
    findings.truncate(MAX_NAMED);
    if let Some(last) = findings.last().filter(|_last| more > 0).cloned() {
        findings.push(Finding {
            part: part.to_owned(),
            found: format!("{more} more are like the one before"),
            ..last
        });
    }
    findings
}
