//! What is in the database: values, positions, and what becomes of edits by hand.

use std::time::Duration;

use anyhow::ensure;
use contract::status::ProjectionState;
use mongodb::bson::{doc, oid::ObjectId};
use serde_json::json;

use super::testbed::{
    AGENTS, Outcome, SKILLS, create, delete, until, until_status, update, with_publisher,
};

#[tokio::test]
async fn rows_have_the_values_of_documents_and_can_be_queried() -> Outcome {
    with_publisher(async |testbed| {
        let odd = json!({
            "integer": 9_007_199_254_740_993_i64, "double": 0.1, "$set": {"a.b": [1, null, true]},
            "level": 7, "name": "ü",
        });
        testbed
            .commit(vec![
                create(SKILLS, "odd", &odd),
                create(SKILLS, "low", &json!({"level": 1})),
                create(SKILLS, "gone", &json!({"level": 9})),
            ])
            .await?;
        testbed
            .projecting("one", None, async |projection| {
                testbed.until_equal(SKILLS).await?;
                let table = testbed.table(SKILLS).await?;
                let high = doc! { "configData.level": { "$gt": 5 } };
                ensure!(table.count_documents(high.clone()).await? == 2);
                let exact = doc! { "configData.integer": 9_007_199_254_740_993_i64 };
                ensure!(
                    table.count_documents(exact).await? == 1,
                    "no number is rounded"
                );
                testbed
                    .commit(vec![
                        delete(SKILLS, "gone"),
                        update(SKILLS, "low", &json!({"level": 8})),
                        create(AGENTS, "smith", &json!({})),
                    ])
                    .await?;
                testbed.until_equal(SKILLS).await?;
                testbed.until_equal(AGENTS).await?;
                ensure!(table.count_documents(high).await? == 2);
                until(projection, ProjectionState::Current).await?;
                let status = projection.status();
                ensure!(status.mended == 0 && status.failures == 0, "{status:?}");
                ensure!(status.collections.len() == 2, "{status:?}");
                ensure!(status.rows == 6, "each row is written once: {status:?}");
                Ok(())
            })
            .await
    })
    .await
}

#[tokio::test]
async fn an_edit_by_hand_is_found_and_written_again() -> Outcome {
    with_publisher(async |testbed| {
        let documents = ["a", "b", "c"].map(|id| create(SKILLS, id, &json!({"n": 1})));
        testbed.commit(documents.into()).await?;
        let every = Some(Duration::from_secs(1));
        testbed
            .projecting("one", every, async |projection| {
                testbed.until_equal(SKILLS).await?;
                let table = testbed.table(SKILLS).await?;
                let of = |id: &str| doc! { "_id": id };
                // The value alone, so that revision and checksum still look right.
                let forged = doc! { "$set": { "configData.n": 2_i64 } };
                table.update_one(of("a"), forged).await?;
                table.delete_one(of("b")).await?;
                table.insert_one(doc! { "_id": "foreign" }).await?;
                table.insert_one(doc! { "_id": ObjectId::new() }).await?;
                until_status(projection, |status| status.mended == 4).await?;
                testbed.until_equal(SKILLS).await?;
                // The same number of another type.
                let forged = doc! { "$set": { "configData.n": 1.0 } };
                table.update_one(of("a"), forged).await?;
                until_status(projection, |status| status.mended == 5).await?;
                let row = table.find_one(of("a")).await?.unwrap_or_default();
                ensure!(
                    row.get_document("configData")?
                        .get_i64("n")
                        .is_ok_and(|n| n == 1),
                    "{row}"
                );
                // Readers rely on the position as well.
                let positions = testbed.table("_projection").await?;
                positions.delete_one(of(SKILLS)).await?;
                until_status(projection, |status| status.mended == 6).await?;
                testbed.until_equal(SKILLS).await?;
                let forged = doc! { "$set": { "count": 7_i64 } };
                positions.update_one(of(SKILLS), forged).await?;
                testbed.until_equal(SKILLS).await
            })
            .await?;
        // The position is removed while nobody writes.
        let positions = testbed.table("_projection").await?;
        positions.delete_one(doc! { "_id": SKILLS }).await?;
        testbed
            .projecting("one", None, async |_projection| {
                testbed.until_equal(SKILLS).await
            })
            .await
    })
    .await
}

/// More rows than one transaction takes: readers see by the position that they are not there yet.
#[tokio::test]
async fn a_large_load_is_marked_until_it_is_complete() -> Outcome {
    with_publisher(async |testbed| {
        testbed.url_options = "&appName=confcast-publisher";
        // Each commit takes a while, so the mark is there while somebody looks.
        let block = doc! { "blockConnection": true, "blockTimeMS": 500 };
        testbed.mongod.fail("commitTransaction", 100, block).await?;
        for part in 0..10 {
            let documents = (0..250).map(|number| {
                let id = format!("d{}", part * 250 + number);
                create(SKILLS, &id, &json!({"text": "t".repeat(100)}))
            });
            testbed.commit(documents.collect()).await?;
        }
        testbed
            .projecting("one", None, async |projection| {
                until_status(projection, |status| {
                    status.collections.iter().any(|row| row.reconciling)
                })
                .await?;
                testbed.until_equal(SKILLS).await?;
                until(projection, ProjectionState::Current).await?;
                ensure!(
                    projection.status().rows == 2_500,
                    "{:?}",
                    projection.status()
                );
                Ok(())
            })
            .await
    })
    .await
}

/// A new epoch: rows and documents are compared, and nothing is written that is the same.
#[tokio::test]
async fn in_a_new_epoch_only_what_differs_is_written() -> Outcome {
    with_publisher(async |testbed| {
        let documents = ["a", "b", "c"].map(|id| create(SKILLS, id, &json!({"n": 1})));
        testbed.commit(documents.into()).await?;
        testbed
            .projecting("one", None, async |projection| {
                testbed.until_equal(SKILLS).await?;
                let rows = projection.status().rows;
                let epoch = testbed.position(SKILLS).await?.get_str("epoch")?.to_owned();
                let declared = e2e::http()
                    .build()
                    .expect("a client")
                    .post(format!("{}/v1/epoch", testbed.url))
                    .header("content-type", "application/json")
                    .body("{}")
                    .send()
                    .await?;
                ensure!(declared.status().is_success(), "{declared:?}");
                testbed.commit(vec![delete(SKILLS, "b")]).await?;
                testbed.until_equal(SKILLS).await?;
                let position = testbed.position(SKILLS).await?;
                ensure!(position.get_str("epoch")? != epoch, "{position}");
                ensure!(
                    projection.status().rows == rows + 1,
                    "{:?}",
                    projection.status()
                );
                Ok(())
            })
            .await
    })
    .await
}

/// As deep as JSON is read at all. This test reads rows as `Document`, for which the decoder of BSON
/// needs more stack in a debug build than a thread has. The projection never reads values that way.
#[test]
fn the_deepest_document_has_a_row() -> Outcome {
    let test = || {
        with_publisher(async |testbed| {
            let deep = (0..contract::canonical::MAX_DEPTH)
                .fold(json!(1), |inner, _level| json!({ "n": inner }));
            testbed.commit(vec![create(SKILLS, "deep", &deep)]).await?;
            testbed
                .projecting("one", None, async |_projection| {
                    testbed.until_equal(SKILLS).await
                })
                .await
        })
    };
    let run = move || -> Outcome {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build()?.block_on(test())
    };
    let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(run)?;
    thread.join().expect("no panic")
}
