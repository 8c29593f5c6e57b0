//! Collections whose schemas are added while the publisher runs.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use e2e::testbed::{mongod::Mongod, wait::eventually};
use publisher::{Publisher, Settings};
use serde_json::{Value, json};

use super::{
    Outcome,
    log::log,
    testbed::{SKILLS, Testbed, with_publisher},
};

/// A schema of documents with a member `mode`.
const SCHEMA: &str = r#"{"type": "object", "required": ["mode"]}"#;

fn add_schema(folder: &Path, collection: &str) -> Outcome {
    // Complete from its first moment, as files that a volume or an editor replaces.
    let path = folder.join(format!("{collection}.schema.json"));
    fs::write(folder.join("next"), SCHEMA)?;
    Ok(fs::rename(folder.join("next"), path)?)
}

fn documents(collection: &str) -> String {
    format!("/v1/collections/{collection}/documents")
}

async fn served(testbed: &Testbed) -> anyhow::Result<Vec<String>> {
    let check_in = json!({"instance": "r", "bootId": "b", "intervalMs": 1000, "collections": {}});
    let (status, answer) = testbed
        .send("PUT", "/v1/replicas/r", &[], &check_in.to_string())
        .await?;
    ensure!(status == 200, answer);
    let answer: Value = serde_json::from_str(&answer)?;
    Ok(serde_json::from_value(answer["served"].clone())?)
}

async fn until_served(testbed: &Testbed, collection: &str) -> Outcome {
    eventually("the collection of the new schema is served", async || {
        let served = served(testbed).await?;
        ensure!(served.iter().any(|name| name == collection), "{served:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_collection_is_served_when_its_schema_is_added_and_stays_when_it_is_removed() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().display().to_string();
    let log = log();
    let options = ["--collections", "", "--schemas-dir", &path];
    with_publisher(&options, async |testbed| {
        let (status, answer) = testbed.send("GET", &documents("Mine"), &[], "").await?;
        ensure!(status == 404, answer);
        // A file that cannot be used holds up no other.
        fs::write(folder.path().join("Torn.schema.json"), "{")?;
        add_schema(folder.path(), "Mine")?;
        until_served(testbed, "Mine").await?;
        log.line(&["they are served from now on", "Mine"]).await?;
        log.line(&["cannot be used", "Torn.schema.json"]).await?;

        // Its documents are checked from the first, and everything else knows the collection.
        let (status, answer) = testbed
            .send("POST", &documents("Mine"), &[], r#"{"id": "a"}"#)
            .await?;
        ensure!(status == 422, answer);
        let (status, answer) = testbed
            .send("POST", &documents("Mine"), &[], r#"{"id": "a", "mode": 1}"#)
            .await?;
        ensure!(status == 201, answer);
        assert_eq!(testbed.log("Mine").await?.len(), 1);
        for path in [
            "/v1/schemas/Mine",
            "/v1/collections/Mine",
            "/v1/snapshot?collections=Mine",
            "/readyz",
        ] {
            let (status, answer) = testbed.send("GET", path, &[], "").await?;
            ensure!([200, 204].contains(&status), "{path}: {status} {answer}");
        }
        let set = json!({"changes": [{"collection": "Mien", "op": "Delete", "id": "a"}]});
        let (status, answer) = testbed
            .send("POST", "/v1/changes", &[], &set.to_string())
            .await?;
        ensure!(
            status == 404 && answer.contains("did you mean Mine?"),
            answer
        );

        fs::remove_file(folder.path().join("Mine.schema.json"))?;
        log.line(&["are gone: Mine."]).await?;
        let (status, answer) = testbed
            .send("POST", &documents("Mine"), &[], r#"{"id": "b"}"#)
            .await?;
        ensure!(status == 422, "the schema stays in force: {answer}");
        ensure!(served(testbed).await?.contains(&"Mine".to_owned()));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn events_of_a_collection_that_was_added_are_published() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().display().to_string();
    // A topic that the subscriber of the test takes.
    let options = ["--collections", "", "--schemas-dir", &path];
    with_publisher(&options, async |testbed| {
        add_schema(folder.path(), SKILLS)?;
        until_served(testbed, SKILLS).await?;
        let (status, answer) = testbed
            .send("POST", &documents(SKILLS), &[], r#"{"id": "a", "mode": 1}"#)
            .await?;
        ensure!(status == 201, answer);
        assert_eq!(testbed.event().await?["data"]["collection"], SKILLS);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn collections_that_are_named_are_fixed_and_the_log_says_so() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().display().to_string();
    let log = log();
    with_publisher(&["--schemas-dir", &path], async |testbed| {
        add_schema(folder.path(), "Unnamed")?;
        log.line(&["not served: Unnamed.", "AURA_CONFIGURATION_COLLECTIONS"])
            .await?;
        let (status, answer) = testbed.send("GET", &documents("Unnamed"), &[], "").await?;
        ensure!(status == 404, answer);
        Ok(())
    })
    .await
}

/// Each publisher of a database serves a collection from the moment at which it has the schema: none
/// takes a document unchecked because another one serves it.
#[tokio::test]
async fn publishers_of_one_database_may_get_a_schema_one_after_the_other() -> Outcome {
    let server = Mongod::start().await?;
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let mut publishers = Vec::new();
    for folder in &folders {
        let settings = Settings::read(&[
            "--store-url",
            &server.url("growing"),
            "--schemas-dir",
            &folder.path().display().to_string(),
            "--listen",
            "127.0.0.1:0",
            "--events-enabled",
            "false",
        ])?;
        publishers.push(Publisher::build(settings).await?);
    }
    let [first, second] = <[Publisher; 2]>::try_from(publishers).ok().context("two")?;
    let url = |publisher: &Publisher| {
        let address = publisher.address().context("an address")?;
        anyhow::Ok(format!("http://{address}{}", documents("Mine")))
    };
    let (at_first, at_second) = (url(&first)?, url(&second)?);
    let client = e2e::http().build().expect("a client");
    let create = async |url: &str, id: &str| {
        let body = json!({"id": id, "mode": 1});
        let answer = client.post(url).json(&body).send().await?;
        anyhow::Ok(answer.status().as_u16())
    };
    let created = async |url: &str, id: &str| {
        eventually("the collection is served", async || {
            let status = create(url, id).await?;
            ensure!(status == 201, "{status}");
            Ok(())
        })
        .await
    };
    let test = async {
        add_schema(folders[0].path(), "Mine")?;
        created(&at_first, "a").await?;
        ensure!(create(&at_second, "b").await? == 404);
        add_schema(folders[1].path(), "Mine")?;
        created(&at_second, "b").await?;
        let list: Value = client.get(&at_first).send().await?.json().await?;
        ensure!(
            list["items"]
                .as_array()
                .is_some_and(|items| items.len() == 2),
            "{list}"
        );
        Outcome::Ok(())
    };
    let mut outcome = Ok(());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (one, two) = tokio::join!(
        first.run(async {
            outcome = test.await;
            drop(stop);
        }),
        second.run(async { drop(stopped.await) })
    );
    outcome.and(one).and(two)
}
