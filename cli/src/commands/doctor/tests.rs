//! The rules, on facts that are made here.

use contract::{
    access::routes::Service,
    fleet::ReplicaList,
    formats::{PROTOCOL, STORE},
    release::{Release, StoreKind, StoreRelease},
};

use super::findings::{Finding, FleetFacts, PublisherFacts, Verdict};
use crate::fake_publisher::replicas::{gone, record};

fn release() -> Release {
    let store = StoreRelease {
        kind: StoreKind::Embedded,
        format: STORE,
    };
    Release {
        store: Some(store),
        ..Release::own(Service::Publisher, [])
    }
}

fn publisher(release: Result<Option<Release>, String>) -> Vec<Finding> {
    let facts = PublisherFacts {
        url: "http://p:1".to_owned(),
        release,
        readiness: Ok(None),
    };
    facts.findings()
}

fn of_check<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
    let mut all = findings.iter().filter(|finding| finding.check == check);
    all.next()
        .unwrap_or_else(|| panic!("{check}: {findings:?}"))
}

#[test]
fn a_publisher_of_this_version_is_ok() {
    let findings = publisher(Ok(Some(release())));
    let is_ok = |finding: &Finding| finding.verdict == Verdict::Ok && finding.remedy.is_none();
    assert!(findings.iter().all(is_ok), "{findings:?}");
    assert!(of_check(&findings, "store").found.contains("embedded"));
}

#[test]
fn what_is_not_known_or_does_not_fit_has_a_remedy() {
    let other = |change: fn(&mut Release)| {
        let mut release = release();
        change(&mut release);
        Ok(Some(release))
    };
    for (facts, check, verdict, remedy) in [
        (Ok(None), "version", Verdict::Warning, "version by version"),
        (
            Err("connection refused".to_owned()),
            "answer",
            Verdict::Blocks,
            "--publisher",
        ),
        (
            other(|release| release.protocol = PROTOCOL + 2),
            "version",
            Verdict::Blocks,
            "too old",
        ),
        (
            other(|release| release.store.as_mut().expect("one").format = STORE + 1),
            "store",
            Verdict::Blocks,
            "backup",
        ),
        (
            other(|release| release.store = None),
            "service",
            Verdict::Blocks,
            "--publisher",
        ),
        (
            other(|release| {
                release.settings = (0..1_000)
                    .map(|number| format!("AURA_CONFIGURATION_STORE_ULR{number}"))
                    .collect();
            }),
            "settings",
            Verdict::Warning,
            "does not read",
        ),
        // A hundred thousand of them cost no more than those that are shown.
        (
            other(|release| {
                release.settings = (0..100_000)
                    .map(|number| format!("AURA_CONFIGURATION_STORE_ULR{}{number}", "X".repeat(70)))
                    .collect();
            }),
            "settings",
            Verdict::Warning,
            "does not read",
        ),
    ] {
        let findings = publisher(facts);
        assert!(findings.len() < 30, "{}", findings.len());
        let finding = of_check(&findings, check);
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        let has = finding
            .remedy
            .as_ref()
            .is_some_and(|it| it.contains(remedy));
        assert!(has, "{finding:?}");
    }
}

#[test]
fn the_protocol_of_the_version_before_and_after_is_understood() {
    for protocol in [PROTOCOL - 1, PROTOCOL, PROTOCOL + 1] {
        let mut release = release();
        release.protocol = protocol;
        let findings = publisher(Ok(Some(release)));
        assert_eq!(of_check(&findings, "version").verdict, Verdict::Ok);
    }
}

#[test]
fn replicas_are_counted_by_version_and_many_are_not_all_named() {
    let mut replicas: Vec<_> = (0..30)
        .map(|number| record(&format!("r{number}"), None, 1))
        .collect();
    for replica in &mut replicas[..29] {
        replica.check_in.version = Some("9.0.0".parse().expect("a version"));
        replica.check_in.protocol = Some(PROTOCOL + 2);
    }
    replicas.push(gone("away", None));
    let facts = FleetFacts {
        replicas: Ok(Some(ReplicaList {
            replicas,
            backlog: None,
            next: None,
        })),
        unfinished_restores: Ok(vec!["unfinished-restore-1".to_owned()]),
    };
    let findings = facts.findings();
    let found = |text: &str| {
        let mut all = findings.iter();
        let one = all.find(|finding| finding.found.contains(text));
        one.unwrap_or_else(|| panic!("{text}: {findings:?}"))
    };
    assert_eq!(found("29 of 9.0.0").verdict, Verdict::Ok);
    assert_eq!(found("1 without one").verdict, Verdict::Warning);
    assert_eq!(found("9 more").verdict, Verdict::Blocks);
    assert_eq!(found("silent since").verdict, Verdict::Warning);
    assert_eq!(found("not finished").verdict, Verdict::Blocks);
    assert!(findings.len() < 30, "{}", findings.len());
}

#[test]
fn a_look_at_unfinished_restores_that_fails_blocks() {
    let facts = FleetFacts {
        replicas: Ok(None),
        unfinished_restores: Err("no answer".to_owned()),
    };
    let findings = facts.findings();
    let finding = of_check(&findings, "restore");
    assert_eq!(finding.verdict, Verdict::Blocks);
    assert_eq!(finding.found, "no answer");
    let remedy = finding.remedy.as_deref();
    assert_eq!(remedy, Some("ask again when the store answers"));
}
