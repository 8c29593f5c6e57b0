//! Rows that were changed by other means, on a real server: each concerns its own document only.

use std::{collections::BTreeSet, sync::Arc};

use contract::{
    CanonicalJson, CollectionName, Context, Document, Epoch, Expected, Head,
    repair::{CollectionRepair, RepairRequest, RepairState},
};
use e2e::testbed::mongod::Mongod;
use mongodb::{
    Database,
    bson::{Document as Bdoc, doc},
};

use crate::{
    decide::{Action, Command, Rules, Write, WriteError, schemas::Schemas},
    repair::{Scrub, repair},
    store::{
        PublisherPolicy, ServedCollections, Store, StoreUrl,
        integrity::{DamagedDocument, SumMismatch},
    },
};

type Outcome = anyhow::Result<()>;

fn name() -> CollectionName {
    "A".parse().expect("a name")
}

fn policy() -> PublisherPolicy {
    PublisherPolicy {
        collections: ServedCollections::fixed(BTreeSet::from([name()])),
        rules: Rules {
            schemas: Schemas::default(),
            document_limit: 1_000,
            secrets: Default::default(),
        },
        broadcast: crate::policy::Broadcast::all(),
    }
}

/// A store with the documents `a`, `b` and `c`, each with the value `{"n": 1}`.
struct Bed {
    store: Store,
    database: Database,
}

impl Bed {
    async fn new(server: &Mongod, database: &str) -> anyhow::Result<Self> {
        let url = StoreUrl::Mongo {
            url: server.url(database).parse()?,
            database: database.to_owned(),
        };
        let store = Store::open(&url, Arc::new(policy())).await?;
        let bed = Self {
            store,
            database: server.database(database).await?,
        };
        for id in ["a", "b", "c"] {
            bed.put(id, 1).await?.expect("a new document");
        }
        Ok(bed)
    }

    async fn put(&self, id: &str, n: u32) -> anyhow::Result<Result<(), WriteError>> {
        let value = CanonicalJson::parse(format!(r#"{{"n":{n}}}"#).as_bytes()).expect("json");
        let write = Write {
            collection: name(),
            id: id.parse()?,
            action: if n == 1 {
                Action::Create(value)
            } else {
                Action::Put(value)
            },
            expected: Expected::Any,
            context: Context::default(),
            checked: None,
            origin: crate::decide::Origin::default(),
        };
        Ok(
            match self.store.commit(Arc::from([Command::Single(write)])).await {
                Ok(committed) => {
                    let result = committed.results.into_iter().next().expect("a result");
                    result.map(drop)
                }
                Err(error) => Err(error.answer()),
            },
        )
    }

    async fn get(&self, id: &str) -> anyhow::Result<Option<String>> {
        let document = self.store.document(&name(), &id.parse()?).await?;
        Ok(document.map(|document| text(&document)))
    }

    async fn list(&self) -> anyhow::Result<Vec<String>> {
        let mut cursor = self.store.documents(&BTreeSet::from([name()])).await?;
        let mut found = Vec::new();
        while let Some(chunk) = cursor.next().await? {
            found.extend(chunk.documents.iter().map(|document| {
                format!(
                    "{}@{} {}",
                    document.id(),
                    document.revision(),
                    text(document)
                )
            }));
        }
        Ok(found)
    }

    async fn repair(&self, apply: bool, discard: bool) -> anyhow::Result<(CollectionRepair, bool)> {
        let request = RepairRequest {
            apply,
            discard,
            collections: Vec::new(),
        };
        let repaired = repair(&self.store, &name(), &request).await?;
        Ok((repaired.report, repaired.needs_epoch))
    }

    /// Changes a row by hand.
    async fn spoil(&self, table: &str, filter: Bdoc, update: Bdoc) -> Outcome {
        let rows = self.database.collection::<Bdoc>(table);
        let updated = rows.update_one(filter, update).await?;
        anyhow::ensure!(updated.modified_count == 1, "nothing was changed");
        Ok(())
    }

    async fn row(&self, id: &str) -> anyhow::Result<Bdoc> {
        let rows = self.database.collection::<Bdoc>("A");
        let row = rows.find_one(doc! { "_id": id }).await?;
        row.ok_or_else(|| anyhow::anyhow!("no row {id}"))
    }
}

fn text(document: &Document) -> String {
    String::from_utf8_lossy(document.config_data()).into_owned()
}

const ALL: [&str; 3] = [r#"a@1 {"n":1}"#, r#"b@2 {"n":1}"#, r#"c@3 {"n":1}"#];

#[tokio::test]
async fn a_row_that_was_changed_by_hand_is_read_from_the_log_and_mended_by_the_next_write()
-> Outcome {
    let server = Mongod::start().await?;
    for (case, update) in [
        doc! { "$set": { "configData.n": 666_i64 } },
        doc! { "$set": { "revision": 1_i64 } },
        doc! { "$set": { "revision": 99_i64 } },
        // Another type: MongoDB counts it as the same number.
        doc! { "$set": { "revision": 2_i32 } },
        doc! { "$set": { "revision": 2.0 } },
        doc! { "$set": { "revision": "2" } },
        doc! { "$unset": { "revision": "" } },
        doc! { "$unset": { "configData": "" } },
        doc! { "$set": { "crc": 5_i32 } },
        doc! { "$unset": { "rowCrc": "" } },
    ]
    .into_iter()
    .enumerate()
    {
        let bed = Bed::new(&server, &format!("changed{case}")).await?;
        let whole = bed.row("b").await?;
        bed.spoil("A", doc! { "_id": "b" }, update.clone()).await?;
        assert_eq!(
            bed.get("b").await?.as_deref(),
            Some(r#"{"n":1}"#),
            "{update}"
        );
        assert_eq!(bed.list().await?, ALL, "{update}");
        assert_eq!(bed.put("b", 2).await?, Ok(()), "{update}");
        let mended = bed.row("b").await?;
        assert_eq!(mended.get_i64("revision")?, 4, "{update}");
        assert_eq!(mended.len(), whole.len(), "{update}");
        assert_eq!(bed.list().await?[1], r#"b@4 {"n":2}"#, "{update}");
        assert_eq!(bed.store.damage().summary().from_log, 1, "{update}");
    }
    Ok(())
}

#[tokio::test]
async fn a_row_that_no_publisher_wrote_hides_no_other_document() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "stray").await?;
    let rows = bed.database.collection::<Bdoc>("A");
    for stray in [
        doc! { "_id": 7_i32, "revision": 5_i64, "configData": {} },
        doc! { "_id": "bb", "revision": 2_i64, "configData": {} },
        doc! { "_id": "not an id/", "revision": 2_i64 },
        doc! { "_id": { "a": 1 } },
    ] {
        rows.insert_one(stray).await?;
    }
    assert_eq!(bed.list().await?, ALL);
    // It is unknown whether it was a document, so it is refused and not absent.
    let error = bed.get("bb").await.expect_err("a damaged row");
    assert!(error.is::<DamagedDocument>(), "{error:#}");
    assert!(error.to_string().contains(r#""bb" of A"#), "{error:#}");
    assert_eq!(bed.put("c", 2).await?, Ok(()), "another document");
    let refused = bed.put("bb", 2).await?.expect_err("a damaged row");
    assert_eq!(refused.kind(), contract::ProblemKind::Unreadable);
    Ok(())
}

#[tokio::test]
async fn a_document_whose_row_is_gone_is_no_absent_document() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "gone").await?;
    let rows = bed.database.collection::<Bdoc>("A");
    rows.delete_one(doc! { "_id": "b" }).await?;
    assert_eq!(bed.get("b").await?.as_deref(), Some(r#"{"n":1}"#));
    let error = bed.list().await.expect_err("a document is missing");
    assert!(error.is::<SumMismatch>(), "{error:#}");
    assert_eq!(bed.get("never").await?, None);
    // The next write brings the row back, and counts the document once.
    assert_eq!(bed.put("b", 2).await?, Ok(()));
    assert_eq!(bed.list().await?[1], r#"b@4 {"n":2}"#);
    Ok(())
}

#[tokio::test]
async fn a_damaged_row_without_a_record_is_refused_alone_and_by_name() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "alone").await?;
    let log = bed.database.collection::<Bdoc>("_changes");
    log.delete_one(doc! { "id": "b" }).await?;
    assert_eq!(bed.list().await?, ALL, "the row is whole");
    let spoilt = doc! { "$set": { "configData.n": 666_i64 } };
    bed.spoil("A", doc! { "_id": "b" }, spoilt).await?;
    for error in [
        bed.get("b").await.expect_err("a damaged row"),
        bed.list().await.expect_err("a damaged row"),
    ] {
        assert!(error.is::<DamagedDocument>(), "{error:#}");
        assert!(error.to_string().contains(r#""b" of A"#), "{error:#}");
    }
    assert_eq!(bed.get("a").await?.as_deref(), Some(r#"{"n":1}"#));
    assert_eq!(bed.store.damage().summary().refused, 1);
    Ok(())
}

#[tokio::test]
async fn a_head_that_was_changed_by_hand_is_taken_from_the_log_and_mended_by_the_next_write()
-> Outcome {
    let server = Mongod::start().await?;
    for (case, update) in [
        doc! { "$set": { "revision": 77_i64 } },
        doc! { "$set": { "revision": 3_i32 } },
        doc! { "$set": { "count": 0_i64 } },
        doc! { "$unset": { "digest": "" } },
        doc! { "$set": { "revision": "three" } },
    ]
    .into_iter()
    .enumerate()
    {
        let bed = Bed::new(&server, &format!("head{case}")).await?;
        let before = bed.store.heads(&BTreeSet::from([name()])).await?;
        bed.spoil("_heads", doc! { "_id": "A" }, update.clone())
            .await?;
        assert_eq!(
            bed.store.heads(&BTreeSet::from([name()])).await?,
            before,
            "{update}"
        );
        assert_eq!(bed.list().await?, ALL, "{update}");
        assert_eq!(bed.put("b", 2).await?, Ok(()), "{update}");
        let head = bed.store.heads(&BTreeSet::from([name()])).await?.remove(0);
        assert_eq!(
            (head.revision, head.count, head.oldest),
            (4, 3, 1),
            "{update}"
        );
        assert_eq!(bed.list().await?.len(), 3, "{update}");
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_record_ends_a_page_of_the_log_and_is_not_published() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "record").await?;
    let spoilt = doc! { "$set": { "change": "{}" } };
    bed.spoil("_changes", doc! { "revision": 2_i64 }, spoilt)
        .await?;
    let read = async |since| {
        bed.store
            .records::<contract::Change>(&name(), since, 9, usize::MAX)
            .await
    };
    assert_eq!(read(0).await?.len(), 1);
    assert_eq!(read(1).await?.len(), 0);
    assert_eq!(read(2).await?.len(), 1);
    let far = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    let backlog = bed.store.backlog().await?;
    assert_eq!(backlog.pending, 3, "the damaged one too");
    assert!(backlog.oldest_ms < 60_000, "{backlog:?}");
    // Nobody publishes changes of a collection that is not served.
    let other = doc! { "collection": "B", "revision": 1_i64, "pending": true,
    "time": mongodb::bson::DateTime::from_millis(0) };
    let log = bed.database.collection::<Bdoc>("_changes");
    log.insert_one(other).await?;
    assert_eq!(bed.store.backlog().await?.pending, 3);
    let pending = bed.store.pending(&name(), 0, far..far, 9).await?;
    assert_eq!((pending.changes.len(), pending.next), (2, None));
    // Damaged records at the begin do not hide those after them.
    let second = bed.store.pending(&name(), 1, far..far, 1).await?;
    assert_eq!((second.changes.len(), second.next), (0, Some(2)));
    let third = bed.store.pending(&name(), 2, far..far, 1).await?;
    assert_eq!((third.changes.len(), third.next), (1, Some(3)));
    assert_eq!(bed.list().await?, ALL);
    Ok(())
}

#[tokio::test]
async fn a_repair_makes_rows_true_from_the_log_and_a_dry_run_writes_nothing() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "repair").await?;
    assert_eq!(bed.repair(true, false).await?.0.state, RepairState::Whole);
    let before = bed.store.heads(&BTreeSet::from([name()])).await?;
    let rows = bed.database.collection::<Bdoc>("A");
    rows.insert_one(doc! { "_id": 7_i32, "revision": 5_i64 })
        .await?;
    rows.insert_one(doc! { "_id": "bb", "revision": 5_i64 })
        .await?;
    rows.delete_one(doc! { "_id": "a" }).await?;
    let spoilt = doc! { "$set": { "configData.n": 666_i64 } };
    bed.spoil("A", doc! { "_id": "b" }, spoilt).await?;
    bed.spoil(
        "A",
        doc! { "_id": "c" },
        doc! { "$set": { "revision": 1_i32 } },
    )
    .await?;
    bed.spoil(
        "_heads",
        doc! { "_id": "A" },
        doc! { "$set": { "count": 9_i64 } },
    )
    .await?;
    let (dry, _) = bed.repair(false, false).await?;
    assert_eq!(dry.state, RepairState::Repairable, "{dry:?}");
    assert_eq!((dry.from_log.count, dry.stray.count), (3, 2), "{dry:?}");
    assert_eq!(
        bed.repair(false, false).await?.0,
        dry,
        "nothing was written"
    );

    let (applied, needs_epoch) = bed.repair(true, false).await?;
    assert_eq!(applied.state, RepairState::Repaired, "{applied:?}");
    assert!(!needs_epoch, "replicas have what the log says");
    assert_eq!(applied.head_before, None);
    assert_eq!(applied.head_after.as_ref(), before.first());
    assert_eq!(bed.list().await?, ALL);
    assert_eq!(bed.store.heads(&BTreeSet::from([name()])).await?, before);
    assert_eq!(bed.repair(false, false).await?.0.state, RepairState::Whole);
    let aside = bed.database.collection::<Bdoc>("_damaged");
    assert_eq!(aside.count_documents(doc! {}).await?, 2);
    assert_eq!(bed.put("a", 2).await?, Ok(()));
    Ok(())
}

#[tokio::test]
async fn what_nothing_tells_is_reported_and_moved_aside_only_on_request() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "discard").await?;
    let log = bed.database.collection::<Bdoc>("_changes");
    log.delete_one(doc! { "id": "b" }).await?;
    let spoilt = doc! { "$set": { "configData.n": 666_i64 } };
    bed.spoil("A", doc! { "_id": "b" }, spoilt).await?;
    let (reported, _) = bed.repair(true, false).await?;
    assert_eq!(reported.state, RepairState::Unrecoverable, "{reported:?}");
    assert_eq!(reported.unrecoverable.named[0].id, "b");
    assert!(bed.get("b").await.is_err() && bed.get("a").await.is_ok());

    let (discarded, needs_epoch) = bed.repair(true, true).await?;
    assert_eq!(discarded.state, RepairState::Repaired, "{discarded:?}");
    assert!(needs_epoch, "replicas hold the document");
    assert_eq!(bed.list().await?, [ALL[0], ALL[2]]);
    assert_eq!(bed.get("b").await?, None);
    assert_eq!(bed.put("b", 1).await?, Ok(()));
    let head = bed.store.heads(&BTreeSet::from([name()])).await?.remove(0);
    assert_eq!((head.revision, head.count), (4, 3));
    Ok(())
}

#[tokio::test]
async fn what_a_repair_moved_aside_is_absent_although_the_log_has_a_record_of_it() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "left-behind").await?;
    let log = bed.database.collection::<Bdoc>("_changes");
    log.delete_one(doc! { "id": "c" }).await?;
    // Neither the row nor the log, which lacks its end, says what the document is.
    let spoilt = doc! { "$set": { "configData.n": 666_i64, "revision": 77_i64 } };
    bed.spoil("A", doc! { "_id": "a" }, spoilt).await?;
    let (reported, _) = bed.repair(true, false).await?;
    assert_eq!(reported.state, RepairState::Unrecoverable, "{reported:?}");
    let (discarded, needs_epoch) = bed.repair(true, true).await?;
    assert_eq!(discarded.state, RepairState::Repaired, "{discarded:?}");
    assert!(needs_epoch, "replicas hold the document");
    assert_eq!(bed.get("a").await?, None);
    assert_eq!(bed.put("a", 1).await?, Ok(()));
    assert!(bed.get("a").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_damaged_record_is_left_behind_by_a_repair() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "records").await?;
    let spoilt = doc! { "$set": { "change": "{}" } };
    bed.spoil("_changes", doc! { "revision": 2_i64 }, spoilt)
        .await?;
    let (repaired, needs_epoch) = bed.repair(true, false).await?;
    assert_eq!(repaired.state, RepairState::Repaired, "{repaired:?}");
    assert_eq!((repaired.records.count, needs_epoch), (1, false));
    let head = bed.store.heads(&BTreeSet::from([name()])).await?.remove(0);
    assert_eq!(head.oldest, 3, "the log begins after it");
    assert_eq!(bed.list().await?, ALL);
    assert_eq!(bed.repair(false, false).await?.0.state, RepairState::Whole);
    Ok(())
}

#[tokio::test]
async fn the_scrub_finds_damage_without_a_reader_and_forgets_what_was_mended() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "scrub").await?;
    let scrub = Scrub::new(bed.store.clone(), 1_000_000);
    scrub.pass(&name()).await?;
    assert_eq!(bed.store.damage().summary().example, None);
    bed.spoil(
        "A",
        doc! { "_id": "c" },
        doc! { "$set": { "revision": 1_i32 } },
    )
    .await?;
    scrub.pass(&name()).await?;
    assert_eq!(bed.store.damage().summary().from_log, 1);
    bed.repair(true, false).await?;
    let rows = bed.database.collection::<Bdoc>("A");
    rows.delete_one(doc! { "_id": "a" }).await?;
    scrub.pass(&name()).await?;
    let summary = bed.store.damage().summary();
    assert_eq!((summary.from_log, summary.refused), (0, 1), "a row is gone");
    bed.repair(true, false).await?;
    scrub.pass(&name()).await?;
    assert_eq!(bed.store.damage().summary().example, None);
    Ok(())
}

#[tokio::test]
async fn a_damaged_record_or_head_is_known_until_it_is_repaired() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "known").await?;
    let scrub = Scrub::new(bed.store.clone(), 1_000_000);
    let known = || {
        let damage = bed.store.damage().summary();
        (damage.from_log, damage.ignored, damage.refused)
    };
    let record = (
        "_changes",
        doc! { "revision": 2_i64 },
        doc! { "change": "{}" },
    );
    let head = ("_heads", doc! { "_id": "A" }, doc! { "count": 9_i64 });
    for ((table, row, change), expected) in [(head, (1, 0, 0)), (record, (0, 1, 0))] {
        bed.spoil(table, row, doc! { "$set": change }).await?;
        // A reader of the log finds a record; the scrub reads the head itself.
        bed.store
            .records::<contract::Change>(&name(), 1, 1, 1)
            .await?;
        for _pass in 0..2 {
            scrub.pass(&name()).await?;
            assert_eq!(known(), expected, "{table}");
        }
        bed.repair(true, false).await?;
        assert_eq!(known(), (0, 0, 0), "{table}");
        scrub.pass(&name()).await?;
        assert_eq!(known(), (0, 0, 0), "{table}");
    }
    Ok(())
}

#[tokio::test]
async fn a_page_of_rows_ends_when_they_reach_its_bytes() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "pages").await?;
    let mut keys = Vec::new();
    loop {
        let page = bed.store.stored_rows(&name(), keys.last(), 500, 1).await?;
        if page.is_empty() {
            break;
        }
        assert_eq!(page.len(), 1);
        keys.extend(page.into_iter().map(|row| row.key));
    }
    assert_eq!(keys.len(), 3, "none is read twice or left out");
    Ok(())
}

/// A read of a deleted document read up to 16 of its old values.
#[tokio::test]
async fn a_read_of_a_deleted_document_reads_one_record() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "deleted").await?;
    for n in 2..6 {
        bed.put("b", n).await?.expect("changed");
    }
    let rows = bed.database.collection::<Bdoc>("A");
    rows.delete_one(doc! { "_id": "b" }).await?;
    bed.database.run_command(doc! { "profile": 2_i32 }).await?;
    assert_eq!(bed.get("b").await?.as_deref(), Some(r#"{"n":5}"#));
    bed.database.run_command(doc! { "profile": 0_i32 }).await?;
    let profile = bed.database.collection::<Bdoc>("system.profile");
    let reads = doc! { "command.find": "_changes" };
    let read = profile.find_one(reads).await?;
    let read = read.ok_or_else(|| anyhow::anyhow!("no read of the log"))?;
    assert_eq!(read.get_i32("nreturned")?, 1, "{read}");
    Ok(())
}

/// A replaced head without a proof keeps none of before.
#[tokio::test]
async fn a_head_whose_content_a_repair_changed_has_no_proof_until_an_epoch_is_declared() -> Outcome
{
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "unproven").await?;
    let head = async || -> anyhow::Result<Head> {
        let heads = bed.store.heads(&BTreeSet::from([name()])).await?;
        Ok(heads.into_iter().next().expect("a head"))
    };
    let log = bed.database.collection::<Bdoc>("_changes");
    log.delete_one(doc! { "id": "b" }).await?;
    let spoilt = doc! { "$set": { "configData.n": 666_i64 } };
    bed.spoil("A", doc! { "_id": "b" }, spoilt).await?;
    let before = head().await?;
    assert!(bed.repair(true, true).await?.1);
    let after = head().await?;
    assert_eq!((after.revision, after.proof), (before.revision, None));
    assert_eq!(after.oldest, after.revision + 1, "no record leads to it");
    let (again, needs_epoch) = bed.repair(true, false).await?;
    assert!(needs_epoch, "until it is declared: {again:?}");
    let next = Epoch {
        counter: before.epoch.counter + 1,
        ..before.epoch
    };
    assert!(bed.store.declare_epoch(before.epoch, next).await?);
    assert!(head().await?.proof.is_some());
    assert_eq!(bed.repair(true, false).await?.0.state, RepairState::Whole);
    Ok(())
}

#[tokio::test]
async fn a_database_with_another_lineage_names_the_one_before_it() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "renewed").await?;
    let head = async || -> anyhow::Result<Head> {
        let heads = bed.store.heads(&BTreeSet::from([name()])).await?;
        Ok(heads.into_iter().next().expect("a head"))
    };
    let first = head().await?;
    assert!(first.replaces.is_empty());
    let renewed = Epoch {
        lineage: first.epoch.lineage ^ 1,
        counter: 5,
    };
    assert!(bed.store.declare_epoch(first.epoch, renewed).await?);
    bed.put("d", 1).await?.expect("a new document");
    let second = head().await?;
    assert_eq!(
        (second.epoch, second.revision),
        (renewed, first.revision + 1)
    );
    assert!(second.replaces.includes(first.epoch));
    // A head that is read from the log names it as well.
    let damage = doc! { "$set": { "count": 99_i64 } };
    let heads = bed.database.collection::<Bdoc>("_heads");
    heads.update_one(doc! { "_id": "A" }, damage).await?;
    let read = head().await?;
    assert_eq!((read.count, read.replaces), (4, second.replaces));
    Ok(())
}

/// A group takes the identity that is known where its head has a proof by it.
#[tokio::test]
async fn a_write_is_in_the_epoch_that_another_publisher_declared() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "declared").await?;
    let url = StoreUrl::Mongo {
        url: server.url("declared").parse()?,
        database: "declared".to_owned(),
    };
    let other = Store::open(&url, Arc::new(policy())).await?;
    let heads = other.heads(&BTreeSet::from([name()])).await?;
    let first = heads.into_iter().next().expect("a head");
    let next = Epoch {
        counter: first.epoch.counter + 1,
        ..first.epoch
    };
    assert!(other.declare_epoch(first.epoch, next).await?);
    bed.put("d", 1).await?.expect("a new document");
    bed.put("d", 2).await?.expect("a change");
    let collection = name();
    let changes = bed.store.changes(&collection, first.revision, 9, 1 << 20);
    let epochs = changes.await?.into_iter().map(|change| change.epoch);
    assert_eq!(epochs.collect::<Vec<_>>(), [next, next]);
    Ok(())
}

/// The driver selects no such server unless it is told to, and then the server says it itself.
#[tokio::test]
async fn a_replica_set_that_is_not_initiated_is_named_with_its_remedy() -> Outcome {
    let server = Mongod::start_standalone(&["--replSet", "rs0"]).await?;
    let url = server.url("blank");
    let base = url.split('?').next().unwrap_or_default();
    for query in ["directConnection=true", "directConnection=false"] {
        let url = StoreUrl::Mongo {
            url: format!("{base}?{query}").parse()?,
            database: "blank".to_owned(),
        };
        let store = Store::open(&url, Arc::new(policy())).await?;
        let error = store.heads(&BTreeSet::from([name()])).await;
        let text = format!("{:#}", error.expect_err("it is not open"));
        assert!(text.contains("rs.initiate()"), "{query}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_publisher_that_is_silent_for_two_minutes_has_no_secret_key_any_more() -> Outcome {
    let server = Mongod::start().await?;
    let bed = Bed::new(&server, "confcast").await?;
    let told = async |publisher, key| bed.store.tell_secret_key(publisher, key).await;
    assert_eq!(told(1, "old").await?, BTreeSet::new());
    assert_eq!(told(2, "new").await?, ["old".to_owned()].into());
    assert_eq!(told(1, "old").await?, ["new".to_owned()].into());
    // Its own earlier key is none of another publisher.
    assert_eq!(told(1, "new").await?, BTreeSet::new());
    assert_eq!(told(1, "old").await?, ["new".to_owned()].into());
    let age = doc! { "$dateSubtract": { "startDate": "$$NOW", "unit": "second", "amount": 121 } };
    let aged = doc! { "$map": {
        "input": "$publishers", "in": { "$mergeObjects": ["$$this", { "told": age }] },
    } };
    let meta = bed.database.collection::<Bdoc>("_meta");
    let update = vec![doc! { "$set": { "publishers": aged } }];
    let updated = meta
        .update_one(doc! { "_id": "secretKeys" }, update)
        .await?;
    assert_eq!(updated.modified_count, 1);
    assert_eq!(told(1, "old").await?, BTreeSet::new());
    Ok(())
}
