//! Databases that are not for a projection are refused in words, and nothing in them is changed.

use anyhow::ensure;
use contract::status::ProjectionState;
use e2e::testbed::mongod::Mongod;
use mongodb::bson::doc;
use serde_json::json;

use super::testbed::{
    Outcome, SKILLS, Testbed, create, project, until, until_status, with_publisher,
};

async fn refused(testbed: &Testbed, words: &str) -> Outcome {
    testbed
        .projecting("one", None, async |projection| {
            until(projection, ProjectionState::Refused).await?;
            let error = projection.status().last_error.unwrap_or_default();
            ensure!(error.contains(words), "{error}");
            Ok(())
        })
        .await
}

/// Commits one document, and projects it.
async fn one_projected(testbed: &Testbed) -> Outcome {
    testbed
        .commit(vec![create(SKILLS, "a", &json!({}))])
        .await?;
    testbed
        .projecting("one", None, async |_projection| {
            testbed.until_equal(SKILLS).await
        })
        .await
}

#[tokio::test]
async fn a_standalone_server_is_refused_with_the_remedy() -> Outcome {
    with_publisher(async |testbed| {
        testbed.mongod = Mongod::start_standalone(&[]).await?;
        // Without the name of a replica set, as somebody has it who starts a plain server.
        let port = testbed.mongod.port();
        let url = format!("mongodb://127.0.0.1:{port}/views").parse()?;
        let replica = testbed.replica("one")?;
        let config = projection::ProjectionConfig {
            url,
            verify_every: None,
        };
        project(&replica, config, async |projection| {
            until_status(projection, |status| {
                let error = status.last_error.as_deref().unwrap_or_default();
                status.state == ProjectionState::Refused && error.contains("rs.initiate()")
            })
            .await
        })
        .await
    })
    .await
}

#[tokio::test]
async fn the_store_of_a_publisher_is_refused() -> Outcome {
    with_publisher(async |testbed| {
        testbed
            .table("_heads")
            .await?
            .insert_one(doc! { "_id": SKILLS })
            .await?;
        refused(testbed, "it is the store of a publisher").await?;
        let names = testbed
            .mongod
            .database("views")
            .await?
            .list_collection_names()
            .await?;
        ensure!(names == ["_heads"], "{names:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn documents_of_somebody_else_are_refused_and_stay() -> Outcome {
    with_publisher(async |testbed| {
        testbed
            .commit(vec![create(SKILLS, "a", &json!({}))])
            .await?;
        let own = doc! { "_id": "a", "mine": true };
        testbed.table(SKILLS).await?.insert_one(own.clone()).await?;
        refused(testbed, "they are not of a projection").await?;
        ensure!(testbed.rows(SKILLS).await? == [own]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_projection_of_another_store_is_refused_and_stays() -> Outcome {
    with_publisher(async |testbed| {
        one_projected(testbed).await?;
        let before = testbed.rows(SKILLS).await?;
        let other = doc! { "$set": { "epoch": "00000001-1" } };
        let positions = testbed.table("_projection").await?;
        positions.update_one(doc! { "_id": SKILLS }, other).await?;
        refused(testbed, "are of the store 00000001-1").await?;
        ensure!(testbed.rows(SKILLS).await? == before);
        Ok(())
    })
    .await
}

/// Not only when the writer stops and this replica takes over.
#[tokio::test]
async fn the_projection_of_another_store_is_refused_while_its_writer_runs() -> Outcome {
    with_publisher(async |testbed| {
        one_projected(testbed).await?;
        let positions = testbed.table("_projection").await?;
        let other = doc! { "$set": { "epoch": "00000001-1" } };
        positions.update_one(doc! { "_id": SKILLS }, other).await?;
        let writer = doc! { "_id": "_writer" };
        let of_another =
            doc! { "_id": "_writer", "token": "other", "instance": "other", "beat": 0_i64 };
        positions.replace_one(writer, of_another.clone()).await?;
        refused(testbed, "are of the store 00000001-1").await?;
        ensure!(testbed.position("_writer").await? == of_another);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_publisher_does_not_store_in_the_database_of_a_projection() -> Outcome {
    with_publisher(async |testbed| {
        testbed
            .projecting("one", None, async |projection| {
                until(projection, ProjectionState::Current).await
            })
            .await?;
        let url = testbed.mongod.url("views");
        let settings = publisher::Settings::read(&["--store-url", &url, "--listen", "127.0.0.1:0"]);
        let opened = Box::pin(publisher::Publisher::build(settings?)).await;
        let error = opened.map(drop).expect_err("it is refused");
        ensure!(
            format!("{error:#}").contains("of a projection"),
            "{error:#}"
        );
        let names = testbed
            .mongod
            .database("views")
            .await?
            .list_collection_names()
            .await?;
        ensure!(!names.iter().any(|name| name == "_meta"), "{names:?}");
        Ok(())
    })
    .await
}
