//! The audit log on both stores: each commit with its records, chains over restarts and of several
//! publishers, rows that were changed by other means, and retention.

use std::{collections::BTreeSet, sync::Arc};

use chrono::TimeDelta;
use contract::{
    CollectionName, Context, Expected, Revision,
    audit::verify::{Expectation, Fault, KnownTip, Report, Verifier, changes},
};
use e2e::testbed::mongod::Mongod;

use super::*;
use crate::{
    decide::{Action, ChangeSetCommand, Rules, schemas::Schemas},
    policy::Broadcast,
    store::{PublisherPolicy, ServedCollections, StoreUrl},
};

pub(in crate::store) type Outcome = anyhow::Result<()>;

pub(in crate::store) fn name() -> CollectionName {
    "A".parse().expect("a name")
}

pub(in crate::store) async fn open(url: &StoreUrl, publisher: &str) -> anyhow::Result<Store> {
    let policy = PublisherPolicy {
        collections: ServedCollections::fixed(BTreeSet::from([name()])),
        rules: Rules {
            schemas: Schemas::default(),
            document_limit: 1_000,
            secrets: Default::default(),
        },
        broadcast: Broadcast::Off,
    };
    let store = Store::open(url, Arc::new(policy)).await?;
    store.enable_audit(publisher);
    Ok(store)
}

pub(in crate::store) fn mongo(server: &Mongod, database: &str) -> anyhow::Result<StoreUrl> {
    Ok(StoreUrl::Mongo {
        url: server.url(database).parse()?,
        database: database.to_owned(),
    })
}

fn write(id: &str, value: &str) -> Write {
    let value = CanonicalJson::parse(value.as_bytes()).expect("json");
    let key = (name(), id.parse().expect("an id"));
    let context = Context::default().with_user_id("ada").expect("a user");
    let mut write = Write::new(key, Action::Create(value), Expected::Any, context);
    write.origin.actor = "token:deploy".into();
    write
}

pub(in crate::store) async fn create(store: &Store, id: &str) -> anyhow::Result<Revision> {
    let committed = store
        .commit(Arc::from([Command::Single(write(id, "{}"))]))
        .await?;
    let change = committed.changes.first();
    Ok(change.map_or(0, |change| change.revision))
}

/// All records, page by page.
pub(crate) async fn records(store: &Store) -> anyhow::Result<Vec<AuditRecord>> {
    let mut query = AuditQuery {
        limit: 3,
        ..AuditQuery::default()
    };
    let mut records = Vec::new();
    loop {
        let page = store.audit_page(&query).await?;
        for item in page.items {
            records.push(serde_json::from_str(item.as_str())?);
        }
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(records),
        }
    }
}

pub(in crate::store) async fn verified(store: &Store, known: Vec<Tip>) -> anyhow::Result<Report> {
    let mut verifier = Verifier::expecting(Expectation {
        tips: known.into_iter().map(KnownTip::from).collect(),
        one_chain: store.has_one_audit_chain(),
        ..Expectation::default()
    });
    let query = AuditQuery {
        limit: 10_000,
        ..AuditQuery::default()
    };
    for item in store.audit_page(&query).await?.items {
        verifier.add(item.as_str().as_bytes());
    }
    Ok(verifier.finish())
}

fn kinds(records: &[AuditRecord]) -> Vec<&str> {
    records.iter().map(|record| record.kind.as_str()).collect()
}

/// Every change of the log is named once, with the digest that it has.
async fn check_against_log(store: &Store) -> Outcome {
    let log = store.changes(&name(), 0, 10_000, usize::MAX).await?;
    let records = records(store).await?;
    let mut named: Vec<_> = records.iter().flat_map(changes).collect();
    named.sort_by_key(|change| change.revision);
    let logged: Vec<_> = log.iter().map(AuditedChange::of).collect();
    anyhow::ensure!(named == logged, "{named:?}\n{logged:?}");
    Ok(())
}

async fn each_commit_has_its_records(url: &StoreUrl) -> Outcome {
    let store = open(url, "p").await?;
    let set = ChangeSetCommand {
        id: "set-1".to_owned(),
        writes: vec![write("b", "{}"), write("c", "{}")],
        ..ChangeSetCommand::default()
    };
    let mut again = write("a", "{}");
    again.action = Action::Replace(CanonicalJson::parse(b"{}")?);
    let mut rollback = write("a", "{}");
    rollback.action = Action::Delete;
    rollback.origin.is_rollback = true;
    let group = [
        Command::Single(write("a", "{}")),
        Command::Single(write("a", "{}")),
        Command::Single(again),
        Command::ChangeSet(set),
        Command::Single(rollback),
    ];
    let committed = store.commit(Arc::from(group)).await?;
    assert!(committed.results[1].is_err(), "it exists");
    let records = records(&store).await?;
    let expected = ["publisher-started", "write", "write", "rollback"];
    assert_eq!(kinds(&records), expected);
    assert_eq!(records[1].actor, "token:deploy");
    assert_eq!(records[1].user.as_deref(), Some("ada"));
    assert_eq!(records[2].detail["changeSet"], "set-1");
    assert_eq!(changes(&records[2]).len(), 2);
    let text = serde_json::to_string(&records)?;
    assert!(
        !text.contains("configData"),
        "a value is in no record: {text}"
    );
    check_against_log(&store).await?;
    assert_eq!(verified(&store, Vec::new()).await?.faults, []);
    // A group without a change has no record.
    store
        .commit(Arc::from([Command::Single(write("b", "{}"))]))
        .await?;
    assert_eq!(store.audit_tips().await?, [records[3].tip()]);
    Ok(())
}

#[tokio::test]
async fn each_commit_of_the_embedded_store_has_its_records() -> Outcome {
    let folder = tempfile::tempdir()?;
    each_commit_has_its_records(&StoreUrl::Embedded(folder.path().into())).await
}

#[tokio::test]
async fn each_commit_of_mongodb_has_its_records() -> Outcome {
    let server = Mongod::start().await?;
    each_commit_has_its_records(&mongo(&server, "commit")?).await
}

#[tokio::test]
async fn the_embedded_store_continues_one_chain() -> Outcome {
    let folder = tempfile::tempdir()?;
    let url = StoreUrl::Embedded(folder.path().into());
    for (id, publisher) in [("a", "one"), ("b", "two")] {
        let store = open(&url, publisher).await?;
        store.append_audit(Vec::new()).await?;
        create(&store, id).await?;
    }
    let store = open(&url, "three").await?;
    let records = records(&store).await?;
    let expected = [
        "publisher-started",
        "publisher-started",
        "write",
        "publisher-started",
        "write",
    ];
    assert_eq!(kinds(&records)[records.len() - 4..], expected[1..]);
    assert_eq!(store.audit_tips().await?.len(), 1);
    assert_eq!(verified(&store, Vec::new()).await?.faults, []);
    Ok(())
}

/// They conflict all the time, and a conflict must not begin a new chain.
#[tokio::test]
async fn several_publishers_of_mongodb_have_a_chain_each() -> Outcome {
    let server = Mongod::start().await?;
    let url = mongo(&server, "several")?;
    let write_all = async |publisher: &'static str| {
        let store = open(&url, publisher).await?;
        for n in 0..20 {
            // Not committed in time: a client tries again.
            while create(&store, &format!("{publisher}-{n}")).await.is_err() {}
            let other = AuditEvent::SnapshotCreated { name: "s".parse()? };
            store
                .append_audit(vec![Entry::done(Utc::now(), "x", other)])
                .await?;
        }
        anyhow::Ok(store)
    };
    let (one, two, three) = tokio::join!(write_all("one"), write_all("two"), write_all("three"));
    let (store, _two, _three) = (one?, two?, three?);
    check_against_log(&store).await?;
    let report = verified(&store, Vec::new()).await?;
    assert_eq!((report.faults.len(), report.tips.len()), (0, 3));
    assert_eq!(report.records, 3 + 3 * 40);
    Ok(())
}

/// Changes one record in the database, as an administrator of it could.
pub(in crate::store) async fn changed_record_is_found(store: &Store, known: Vec<Tip>) -> Outcome {
    let faults = verified(store, known).await?.faults;
    assert!(
        matches!(&faults[..], [Fault::Changed(tip)] if tip.sequence == 2),
        "{faults:?}"
    );
    // It is shown all the same, also to a reader who asks for another actor.
    let records = records(store).await?;
    assert_eq!(records[1].actor, "token:others");
    Ok(())
}

#[tokio::test]
async fn a_record_that_was_changed_in_the_file_is_found() -> Outcome {
    let folder = tempfile::tempdir()?;
    let url = StoreUrl::Embedded(folder.path().into());
    let store = open(&url, "p").await?;
    create(&store, "a").await?;
    create(&store, "b").await?;
    let tips = store.audit_tips().await?;
    let connection = rusqlite::Connection::open(folder.path().join("confcast.sqlite"))?;
    connection.execute(
        "UPDATE audit SET record = replace(record, 'token:deploy', 'token:others')
         WHERE sequence = 2",
        [],
    )?;
    changed_record_is_found(&store, tips.clone()).await?;
    // The newest records are gone: only a known tip tells.
    connection.execute("DELETE FROM audit WHERE sequence > 1", [])?;
    assert_eq!(verified(&store, Vec::new()).await?.faults, []);
    let truncated = Fault::Truncated {
        known: tips[0].clone(),
        last: 1,
    };
    assert_eq!(verified(&store, tips).await?.faults, [truncated]);
    Ok(())
}

/// What an administrator of the file does to rows, so that the records are not read.
#[tokio::test]
async fn rows_that_cannot_be_read_are_faults_and_writes_go_on() -> Outcome {
    for (damage, chains) in [
        ("UPDATE audit SET record = '{' WHERE sequence = 3", 2),
        ("UPDATE audit SET chain = 'zz'", 1),
        ("UPDATE audit SET chain = x'00' WHERE sequence = 3", 1),
        ("UPDATE audit SET sequence = 'x' WHERE sequence = 3", 2),
        ("UPDATE audit SET sequence = -1 WHERE sequence = 2", 0),
        (
            "UPDATE audit SET sequence = 9223372036854775807 WHERE sequence = 3",
            2,
        ),
        ("UPDATE audit SET total = 9223372036854775807", 2),
    ] {
        let folder = tempfile::tempdir()?;
        let url = StoreUrl::Embedded(folder.path().into());
        let store = open(&url, "p").await?;
        create(&store, "a").await?;
        create(&store, "b").await?;
        let connection = rusqlite::Connection::open(folder.path().join("confcast.sqlite"))?;
        connection.execute(damage, [])?;
        create(&store, "c").await?;
        create(&store, "d").await?;
        let report = verified(&store, Vec::new()).await?;
        let is_damaged = |fault: &Fault| matches!(fault, Fault::Damaged(_row));
        // The size of a chain is in no record.
        let is_found = report.faults.iter().any(is_damaged) || damage.contains("total");
        assert!(is_found, "{damage}: {:?}", report.faults);
        let trimmed = store
            .trim_audit(DateTime::<Utc>::MIN_UTC, 100 << 20)
            .await?;
        assert_eq!(trimmed, None, "{damage}: the log is small");
        assert_eq!(report.tips.len(), chains, "{damage}: {:?}", report.faults);
    }
    Ok(())
}

/// Old records go, what is left is verified, and writes go on. A record that was changed stays as
/// evidence while there is room.
async fn retention_leaves_an_anchor(url: &StoreUrl) -> Outcome {
    let store = open(url, "p").await?;
    for n in 0..5 {
        create(&store, &n.to_string()).await?;
    }
    let tips = store.audit_tips().await?;
    assert_eq!(
        store
            .trim_audit(Utc::now() - TimeDelta::days(1), u64::MAX)
            .await?,
        None
    );
    let trimmed = store
        .trim_audit(Utc::now() + TimeDelta::days(1), u64::MAX)
        .await?;
    let trimmed = trimmed.expect("removed");
    assert_eq!((trimmed.records, &trimmed.removed), (6, &tips[0]));
    let left = records(&store).await?;
    assert_eq!((kinds(&left), left[0].sequence), (vec!["retention"], 7));
    create(&store, "a").await?;
    let report = verified(&store, Vec::new()).await?;
    assert_eq!((report.faults.len(), report.retentions.len()), (0, 1));
    assert_eq!(report.retentions[0].removed, [trimmed.removed]);
    // A record of retention does not explain why a known record is gone.
    let faults = verified(&store, tips).await?.faults;
    assert!(
        matches!(&faults[..], [Fault::Retained { .. }]),
        "{faults:?}"
    );
    // By size: the oldest go until the rest fits.
    for n in 10..15 {
        create(&store, &n.to_string()).await?;
    }
    let trimmed = store.trim_audit(DateTime::<Utc>::MIN_UTC, 2_000).await?;
    assert!(trimmed.is_some_and(|trimmed| trimmed.records > 1));
    let left = records(&store).await?;
    let bytes: usize = left
        .iter()
        .map(|record| serde_json::to_string(record).map_or(0, |text| text.len()))
        .sum();
    assert!(bytes < 3_000 && left.len() > 1, "{bytes}");
    assert_eq!(verified(&store, Vec::new()).await?.faults, []);
    Ok(())
}

#[tokio::test]
async fn retention_of_the_embedded_store_leaves_an_anchor() -> Outcome {
    let folder = tempfile::tempdir()?;
    retention_leaves_an_anchor(&StoreUrl::Embedded(folder.path().into())).await
}

#[tokio::test]
async fn retention_of_mongodb_leaves_an_anchor() -> Outcome {
    let server = Mongod::start().await?;
    retention_leaves_an_anchor(&mongo(&server, "retention")?).await
}

#[tokio::test]
async fn a_page_is_filtered_by_actor_kind_and_time() -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = open(&StoreUrl::Embedded(folder.path().into()), "p").await?;
    create(&store, "a").await?;
    let made = AuditEvent::SnapshotCreated { name: "s".parse()? };
    let made = Entry::done(Utc::now() + TimeDelta::days(1), "jwt:bob", made);
    store.append_audit(vec![made]).await?;
    let found = async |query: AuditQuery| -> anyhow::Result<usize> {
        let query = AuditQuery { limit: 9, ..query };
        Ok(store.audit_page(&query).await?.items.len())
    };
    let all = AuditQuery::default;
    let soon = Some(Utc::now() + TimeDelta::hours(1));
    assert_eq!(found(all()).await?, 3);
    assert_eq!(
        found(AuditQuery {
            actor: Some("jwt:bob".into()),
            ..all()
        })
        .await?,
        1
    );
    assert_eq!(
        found(AuditQuery {
            kind: Some("write".into()),
            ..all()
        })
        .await?,
        1
    );
    assert_eq!(
        found(AuditQuery {
            from: soon,
            ..all()
        })
        .await?,
        1
    );
    assert_eq!(found(AuditQuery { to: soon, ..all() }).await?, 2);
    assert_eq!(
        found(AuditQuery {
            chain: Some("other".parse()?),
            ..all()
        })
        .await?,
        0
    );
    Ok(())
}
