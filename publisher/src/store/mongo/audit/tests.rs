//! Chains of several processes in MongoDB, and rows that were changed by other means.

use contract::audit::{
    AuditEvent, AuditedChange, Entry, Tip,
    verify::{Fault, changes},
};
use e2e::testbed::mongod::Mongod;
use mongodb::bson::{Bson, Document as Bdoc, doc};

use crate::store::{
    Store,
    audit::{
        AuditQuery,
        tests::{Outcome, changed_record_is_found, create, mongo, name, open, records, verified},
    },
};

#[tokio::test]
async fn a_chain_of_mongodb_names_the_ones_before_it_and_a_lost_one_is_noticed() -> Outcome {
    let server = Mongod::start().await?;
    let url = mongo(&server, "chains")?;
    let mut tips = Vec::new();
    for (id, publisher) in [("a", "one"), ("b", "two"), ("c", "three")] {
        let store = open(&url, publisher).await?;
        store.append_audit(Vec::new()).await?;
        create(&store, id).await?;
        tips = store.audit_tips().await?;
    }
    assert_eq!(tips.len(), 3);
    let store = open(&url, "reader").await?;
    let records = records(&store).await?;
    let named = |at: usize| serde_json::from_value::<Vec<Tip>>(records[at].detail["tips"].clone());
    // Each names only what no other one names.
    assert_eq!(named(2)?, [tips[0].clone()]);
    assert_eq!(named(4)?, [tips[1].clone()]);
    assert_eq!(verified(&store, tips.clone()).await?.faults, []);
    let rows = server.database("chains").await?;
    let rows = rows.collection::<Bdoc>("_audit");
    rows.delete_many(doc! { "chain": tips[1].chain.as_str() })
        .await?;
    let faults = verified(&store, Vec::new()).await?.faults;
    assert_eq!(faults, [Fault::ChainMissing(tips[1].clone())]);
    Ok(())
}

#[tokio::test]
async fn a_publisher_whose_position_is_taken_begins_a_new_chain() -> Outcome {
    let server = Mongod::start().await?;
    let url = mongo(&server, "taken")?;
    let store = open(&url, "one").await?;
    create(&store, "a").await?;
    let rows = server.database("taken").await?;
    let rows = rows.collection::<Bdoc>("_audit");
    let mut row = rows
        .find_one(doc! { "sequence": 2_i64 })
        .await?
        .expect("a row");
    row.remove("_id");
    row.insert("sequence", 3_i64);
    rows.insert_one(row).await?;
    create(&store, "b").await?;
    create(&store, "c").await?;
    // The row has the record of another place.
    let report = verified(&store, Vec::new()).await?;
    let faults = &report.faults[..];
    assert!(matches!(faults, [Fault::Damaged(_row)]), "{faults:?}");
    assert_eq!(report.tips.len(), 2);
    rows.delete_one(doc! { "sequence": 3_i64, "record": { "$regex": "\"sequence\":2," } })
        .await?;
    check_log_is_named(&store).await?;
    assert_eq!(verified(&store, Vec::new()).await?.faults, []);
    Ok(())
}

/// Values of other types are in other parts of the index, and before no page or after it.
#[tokio::test]
async fn rows_of_mongodb_with_values_of_other_types_are_faults() -> Outcome {
    let server = Mongod::start().await?;
    let store = open(&mongo(&server, "types")?, "p").await?;
    create(&store, "a").await?;
    create(&store, "b").await?;
    let rows = server.database("types").await?;
    let rows = rows.collection::<Bdoc>("_audit");
    let newest = doc! { "sequence": 3_i64 };
    let row = rows.find_one(newest.clone()).await?.expect("a row");
    let chain = row.get_str("chain")?;
    let after_first = AuditQuery {
        after: Some(format!("{chain}:1").parse()?),
        limit: 1,
        ..AuditQuery::default()
    };
    for damage in [
        doc! { "sequence": 3_i32 },
        doc! { "sequence": "3" },
        doc! { "sequence": Bson::Null },
        doc! { "chain": 7_i32 },
        doc! { "chain": Bson::MaxKey },
        doc! { "chain": "A" },
    ] {
        let mut row = row.clone();
        row.extend(damage.clone());
        rows.delete_one(doc! { "_id": row.get_object_id("_id")? })
            .await?;
        rows.insert_one(&row).await?;
        let report = verified(&store, Vec::new()).await?;
        assert!(
            matches!(&report.faults[..], [Fault::Damaged(_row)]),
            "{damage}: {:?}",
            report.faults
        );
    }
    // A page after a record begins with the next one.
    rows.delete_one(doc! { "chain": "A" }).await?;
    rows.insert_one(&row).await?;
    let page = store.audit_page(&after_first).await?;
    assert_eq!(page.items.len(), 1);
    assert!(page.items[0].as_str().contains("\"sequence\":2,"));
    assert!(page.next.is_some());
    Ok(())
}

/// A publisher that runs while the database is restored from an older dump.
#[tokio::test]
async fn a_publisher_whose_last_records_are_gone_begins_a_new_chain() -> Outcome {
    let server = Mongod::start().await?;
    let url = mongo(&server, "restored")?;
    let store = open(&url, "one").await?;
    create(&store, "a").await?;
    create(&store, "b").await?;
    let rows = server.database("restored").await?;
    let rows = rows.collection::<Bdoc>("_audit");
    rows.delete_many(doc! { "sequence": { "$gte": 2_i64 } })
        .await?;
    let event = AuditEvent::SnapshotDeleted { name: "s".parse()? };
    let entry = Entry::done(chrono::Utc::now(), "token:a", event);
    store.append_audit(vec![entry]).await?;
    create(&store, "c").await?;
    let report = verified(&store, Vec::new()).await?;
    assert_eq!((report.faults.len(), report.tips.len()), (0, 2));
    Ok(())
}

/// As [`check_against_log`], with records that were added by other means.
async fn check_log_is_named(store: &Store) -> Outcome {
    let log = store.changes(&name(), 0, 10_000, usize::MAX).await?;
    let records = records(store).await?;
    let named: Vec<_> = records.iter().flat_map(changes).collect();
    for change in log.iter().map(AuditedChange::of) {
        anyhow::ensure!(named.contains(&change), "{change:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_record_that_was_changed_in_mongodb_is_found() -> Outcome {
    let server = Mongod::start().await?;
    let url = mongo(&server, "tampered")?;
    let store = open(&url, "p").await?;
    create(&store, "a").await?;
    create(&store, "b").await?;
    let rows = server.database("tampered").await?;
    let rows = rows.collection::<Bdoc>("_audit");
    let second = doc! { "sequence": 2_i64 };
    let row = rows.find_one(second.clone()).await?.expect("a row");
    let text = row
        .get_str("record")?
        .replace("token:deploy", "token:others");
    rows.update_one(second, doc! { "$set": { "record": text } })
        .await?;
    changed_record_is_found(&store, Vec::new()).await
}

/// Else the start of a publisher would read all of a long log.
#[tokio::test]
async fn mongodb_finds_the_ends_of_the_chains_by_the_index() -> Outcome {
    let server = Mongod::start().await?;
    let store = open(&mongo(&server, "plan")?, "p").await?;
    create(&store, "a").await?;
    let explained = server
        .database("plan")
        .await?
        .run_command(doc! { "explain": {
            "aggregate": "_audit",
            "pipeline": [
                { "$sort": { "chain": 1, "sequence": 1 } },
                { "$group": { "_id": "$chain", "row": { "$first": "$$ROOT" } } },
            ],
            "cursor": {},
        } })
        .await?;
    assert!(
        explained.to_string().contains("DISTINCT_SCAN"),
        "{explained}"
    );
    Ok(())
}
