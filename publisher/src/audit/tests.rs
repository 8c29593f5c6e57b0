//! Refusals are coalesced, and what is lost is counted.

use std::collections::BTreeSet;

use contract::audit::AuditRecord;

use super::*;
use crate::{
    decide::{Rules, schemas::Schemas},
    policy::Broadcast,
    store::{PublisherPolicy, ServedCollections, StoreUrl, audit::tests::records as stored},
};

async fn audit(folder: &tempfile::TempDir) -> anyhow::Result<(Store, Audit, AuditTask)> {
    let policy = PublisherPolicy {
        collections: ServedCollections::fixed(BTreeSet::new()),
        rules: Rules {
            schemas: Schemas::default(),
            document_limit: 1_000,
            secrets: Default::default(),
        },
        broadcast: Broadcast::Off,
    };
    let url = StoreUrl::Embedded(folder.path().into());
    let store = Store::open(&url, Arc::new(policy)).await?;
    let settings = AuditSettings {
        mode: AuditMode::On,
        keep_days: 0,
        keep_bytes: u64::MAX,
        publisher: "p".to_owned(),
    };
    let (audit, task) = Audit::new(store.clone(), &settings);
    Ok((store, audit, task))
}

/// The records after the task ended.
async fn records(store: &Store, task: AuditTask) -> anyhow::Result<Vec<AuditRecord>> {
    let no_more_requests = CancellationToken::new();
    no_more_requests.cancel();
    task.run(no_more_requests).await?;
    stored(store).await
}

#[tokio::test]
async fn repeated_refusals_of_a_caller_are_one_record_with_a_count() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (store, audit, task) = audit(&folder).await?;
    for n in 0..1_000 {
        audit.refused(
            "token:a",
            "forbidden",
            Some(Right::Write),
            &format!("PUT {n}"),
        );
    }
    audit.refused("token:b", "forbidden", Some(Right::Write), "PUT x");
    let records = records(&store, task).await?;
    let found: Vec<_> = records
        .iter()
        .filter(|record| record.kind == "refusal")
        .map(|record| {
            (
                &*record.actor,
                &record.detail["count"],
                &record.detail["target"],
            )
        })
        .map(|(actor, count, target)| (actor, count.as_u64(), target.as_str()))
        .collect();
    let expected = [
        ("token:a", Some(1), Some("PUT 0")),
        ("token:b", Some(1), Some("PUT x")),
        ("token:a", Some(999), Some("PUT 1")),
    ];
    assert_eq!(found, expected);
    assert_eq!(records[0].kind, "publisher-started");
    assert_eq!(
        records.last().map(|record| &*record.kind),
        Some("publisher-stopped")
    );
    Ok(())
}

/// Each with a name of its own: the memory for them and the records are bounded all the same.
#[tokio::test]
async fn refusals_of_very_many_callers_are_counted_together() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (store, audit, task) = audit(&folder).await?;
    for n in 0..10_000 {
        audit.refused(&format!("jwt:{n}"), "forbidden", None, "GET /v1/audit");
    }
    let records = records(&store, task).await?;
    let counts = records.iter().filter(|record| record.kind == "refusal");
    let refused: u64 = counts
        .filter_map(|record| record.detail["count"].as_u64())
        .sum();
    let lost = records.iter().find(|record| record.kind == "lost");
    let lost = lost.and_then(|record| record.detail["count"].as_u64());
    assert_eq!(refused + lost.unwrap_or(0), 10_000);
    assert!(records.len() < 1_100, "{}", records.len());
    Ok(())
}

/// It takes no credential to be one: the records that they make are few, whatever their number.
#[tokio::test]
async fn refusals_of_callers_that_are_not_known_share_a_small_budget() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (store, audit, task) = audit(&folder).await?;
    for n in 0..1_000 {
        let actor = format!("{UNKNOWN} 192.0.2.{n}");
        audit.refused(&actor, "unauthenticated", None, "GET /v1/audit");
    }
    audit.refused("token:a", "forbidden", None, "GET /v1/audit");
    let records = records(&store, task).await?;
    let refusals = records.iter().filter(|record| record.kind == "refusal");
    let counts: Vec<_> = refusals
        .map(|record| (&*record.actor, record.detail["count"].as_u64().unwrap_or(0)))
        .collect();
    assert_eq!(
        counts.iter().map(|(_actor, count)| count).sum::<u64>(),
        1_001
    );
    assert_eq!(counts.len(), MAX_UNKNOWN + 3, "{counts:?}");
    assert!(counts.contains(&(UNKNOWN_OTHERS, 949)));
    assert!(counts.contains(&("token:a", 1)));
    Ok(())
}

#[tokio::test]
async fn what_does_not_fit_into_the_queue_is_counted_in_a_record() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (store, audit, task) = audit(&folder).await?;
    for _ in 0..QUEUE + 7 {
        let name = "s".parse()?;
        let event = AuditEvent::SnapshotDeleted { name };
        audit.record(Entry::done(Utc::now(), "token:a", event));
    }
    let records = records(&store, task).await?;
    let lost = records.iter().find(|record| record.kind == "lost");
    assert_eq!(
        lost.map(|record| record.detail["count"].as_u64()),
        Some(Some(7))
    );
    let kept = records
        .iter()
        .filter(|record| record.kind == "snapshot-deleted");
    assert_eq!(kept.count(), QUEUE);
    Ok(())
}
