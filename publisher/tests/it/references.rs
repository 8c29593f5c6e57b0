//! References between documents, through the API, on both stores.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use e2e::testbed::mongod::Mongod;
use futures_util::future::join_all;
use publisher::{Publisher, Settings};
use serde_json::{Value, json};

use super::Outcome;

const CHANNELS: &str = "/v1/collections/Channel/documents";
const SKILLS: &str = "/v1/collections/Skill/documents";

/// `Channel` refers to `Skill` at fixed places, and to itself at one that depends on the value.
fn schemas(folder: &Path) -> Outcome {
    let channel = json!({
        "properties": {
            "skills": {"type": "array", "items": {"type": "string", "x-ref": "Skill"}},
            "menu": {"items": {"properties": {"skill": {"x-ref": "Skill"}}}},
            "kind": {"enum": ["text", "channel"]},
        },
        "if": {"properties": {"kind": {"const": "channel"}}, "required": ["kind"]},
        "then": {"properties": {"to": {"x-ref": "Channel"}}},
    });
    fs::write(folder.join("Channel.schema.json"), channel.to_string())?;
    fs::write(folder.join("Skill.schema.json"), "{}")?;
    Ok(())
}

struct Client(reqwest::Client, String);

impl Client {
    async fn send(&self, method: &str, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
        let url = format!("{}{path}", self.1);
        let request = self.0.request(method.parse()?, url);
        let request = if body.is_null() {
            request
        } else {
            request.json(&body)
        };
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let body = answer.text().await?;
        Ok((status, serde_json::from_str(&body).unwrap_or_default()))
    }

    async fn expect(&self, status: u16, method: &str, path: &str, body: Value) -> Outcome {
        let answer = self.send(method, path, body).await?;
        ensure!(answer.0 == status, "{method} {path}: {answer:?}");
        Ok(())
    }
}

/// A publisher with the schemas of a folder.
async fn publisher(store: &str, schemas: &Path) -> anyhow::Result<(Publisher, Client)> {
    let schemas = schemas.display().to_string();
    let publisher = Publisher::build(Settings::read(&[
        "--store-url",
        store,
        "--collections",
        "Channel,Skill",
        "--schemas-dir",
        &schemas,
        "--listen",
        "127.0.0.1:0",
        "--events-enabled",
        "false",
    ])?)
    .await?;
    let address = publisher.address().context("an address")?;
    let client = Client(
        e2e::http().build().expect("a client"),
        format!("http://{address}"),
    );
    Ok((publisher, client))
}

/// Runs a test against a publisher with the embedded store, and one with MongoDB.
async fn on_both_stores(test: impl AsyncFn(&Client) -> Outcome) -> Outcome {
    let server = Mongod::start().await?;
    let folder = tempfile::tempdir()?;
    let schema_folder = tempfile::tempdir()?;
    schemas(schema_folder.path())?;
    let embedded = format!("file:{}", folder.path().display());
    for store in [embedded, server.url("references")] {
        let (publisher, client) = publisher(&store, schema_folder.path()).await?;
        let mut outcome = Ok(());
        publisher
            .run(async { outcome = test(&client).await })
            .await?;
        outcome.with_context(|| store.clone())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_dangling_reference_is_refused_with_both_ends() -> Outcome {
    on_both_stores(async |client| {
        let channel = json!({"id": "c", "skills": ["s"], "menu": [{"skill": "t"}]});
        let (status, problem) = client.send("POST", CHANNELS, channel.clone()).await?;
        ensure!(status == 409, "{problem}");
        ensure!(problem["type"] == "urn:confcast:problem:dangling-reference");
        ensure!(problem["pointer"] == "/menu/0/skill", "{problem}");
        let expected = json!([
            {"collection": "Channel", "id": "c", "pointer": "/menu/0/skill",
             "refersTo": {"collection": "Skill", "id": "t"}},
            {"collection": "Channel", "id": "c", "pointer": "/skills/0",
             "refersTo": {"collection": "Skill", "id": "s"}},
        ]);
        ensure!(problem["references"] == expected, "{problem}");

        // The same as a set, in the order that a foreign key would refuse.
        let set = json!({"changes": [
            {"collection": "Channel", "op": "Create", "id": "c", "configData": channel},
            {"collection": "Skill", "op": "Create", "id": "s", "configData": {}},
            {"collection": "Skill", "op": "Create", "id": "t", "configData": {}},
        ]});
        client.expect(200, "POST", "/v1/changes", set).await?;

        let (status, problem) = client
            .send("DELETE", &format!("{SKILLS}/t"), json!(null))
            .await?;
        ensure!(status == 409 && problem["pointer"].is_null(), "{problem}");
        ensure!(problem["references"] == json!([expected[0]]), "{problem}");
        let set = json!({"changes": [
            {"collection": "Skill", "op": "Delete", "id": "s"},
            {"collection": "Skill", "op": "Delete", "id": "t"},
        ]});
        let (status, problem) = client.send("POST", "/v1/changes", set).await?;
        ensure!(status == 409 && problem["index"] == 0, "{problem}");
        ensure!(problem["pointer"] == "/changes/0", "{problem}");
        let indexes: Vec<_> = problem["references"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|reference| reference["index"].as_u64())
            .collect();
        ensure!(indexes == [Some(0), Some(1)], "{problem}");

        // With its referrer it can go.
        let set = json!({"changes": [
            {"collection": "Skill", "op": "Delete", "id": "t"},
            {"collection": "Channel", "op": "Patch", "id": "c", "configData": {"menu": null}},
        ]});
        client.expect(200, "POST", "/v1/changes", set).await
    })
    .await
}

#[tokio::test]
async fn a_reference_counts_only_where_its_schema_applies() -> Outcome {
    on_both_stores(async |client| {
        let text = json!({"id": "a", "kind": "text", "to": "nobody"});
        client.expect(201, "POST", CHANNELS, text).await?;
        let channel = json!({"id": "b", "kind": "channel", "to": "nobody"});
        client.expect(409, "POST", CHANNELS, channel).await?;
        let channel = json!({"id": "b", "kind": "channel", "to": "a"});
        client.expect(201, "POST", CHANNELS, channel).await?;
        client
            .expect(409, "DELETE", &format!("{CHANNELS}/a"), json!(null))
            .await?;
        let patch = json!({"changes": [
            {"collection": "Channel", "op": "Patch", "id": "b", "configData": {"kind": "text"}}]});
        client.expect(200, "POST", "/v1/changes", patch).await?;
        client
            .expect(200, "DELETE", &format!("{CHANNELS}/a"), json!(null))
            .await
    })
    .await
}

#[tokio::test]
async fn referrers_are_listed_also_of_a_document_that_does_not_exist() -> Outcome {
    on_both_stores(async |client| {
        client.expect(201, "POST", SKILLS, json!({"id": "s"})).await?;
        for (id, value) in [
            ("b", json!({"id": "b", "skills": ["s"]})),
            ("a", json!({"id": "a", "skills": ["s"], "menu": [{}, {"skill": "s"}]})),
            ("c", json!({"id": "c", "note": "s"})),
        ] {
            client
                .expect(201, "POST", CHANNELS, value)
                .await
                .context(id)?;
        }
        let path = format!("{SKILLS}/s/referrers");
        let (status, answer) = client.send("GET", &path, json!(null)).await?;
        let at = |id: &str, pointer: &str| {
            json!({"collection": "Channel", "id": id, "pointer": pointer})
        };
        let items = [at("a", "/menu/1/skill"), at("a", "/skills/0"), at("b", "/skills/0")];
        ensure!(status == 200 && answer == json!({"items": items, "more": false}), "{answer}");
        let (status, answer) = client
            .send("GET", &format!("{SKILLS}/none/referrers"), json!(null))
            .await?;
        ensure!(status == 200 && answer == json!({"items": [], "more": false}), "{answer}");
        client
            .expect(404, "GET", "/v1/collections/None/documents/s/referrers", json!(null))
            .await?;
        client.expect(400, "GET", &format!("{SKILLS}/%20/referrers"), json!(null)).await
    })
    .await
}

/// One publisher deletes a skill while the other adds a channel that refers to it. Each transaction
/// reads a state in which it may, and writes nothing that the other one reads.
#[tokio::test]
async fn two_publishers_of_one_database_leave_no_dangling_reference() -> Outcome {
    const TRIES: usize = 60;
    let server = Mongod::start().await?;
    let schema_folder = tempfile::tempdir()?;
    schemas(schema_folder.path())?;
    let url = server.url("skew");
    let (first, one) = publisher(&url, schema_folder.path()).await?;
    let (second, other) = publisher(&url, schema_folder.path()).await?;
    let test = async {
        for n in 0..TRIES {
            one.expect(201, "POST", SKILLS, json!({"id": format!("s{n}")}))
                .await?;
        }
        let tries = (0..TRIES).map(async |n| {
            let path = format!("{SKILLS}/s{n}");
            let channel = json!({"id": format!("c{n}"), "skills": [format!("s{n}")]});
            let (delete, create) = tokio::join!(
                one.send("DELETE", &path, json!(null)),
                other.send("POST", CHANNELS, channel)
            );
            anyhow::Ok((delete?.0, create?.0))
        });
        for (n, answers) in join_all(tries).await.into_iter().enumerate() {
            let answers = answers?;
            let one_of_both = matches!(answers, (200, 409) | (409, 201));
            ensure!(one_of_both, "try {n} was answered {answers:?}");
        }
        for n in 0..TRIES {
            let (_, channel) = one
                .send("GET", &format!("{CHANNELS}/c{n}"), json!(null))
                .await?;
            let (skill, _) = other
                .send("GET", &format!("{SKILLS}/s{n}"), json!(null))
                .await?;
            ensure!(
                (skill == 200) == channel["configData"].is_object(),
                "{n}: {channel}"
            );
        }
        // What was marked is as it was for everybody who reads it.
        let repair = json!({"apply": false});
        let (status, report) = one.send("POST", "/v1/repair", repair).await?;
        ensure!(status == 200, "{report}");
        for path in [CHANNELS, SKILLS] {
            other.expect(200, "GET", path, json!(null)).await?;
        }
        Ok(())
    };
    let mut outcome = Ok(());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ended, also_ended) = tokio::join!(
        first.run(async {
            outcome = test.await;
            drop(stop);
        }),
        second.run(async { _ = stopped.await })
    );
    ended?;
    also_ended?;
    outcome
}

/// All other writes wait for the one writer of the store, so a deletion that cannot happen must not
/// need it, however large the collections are.
#[tokio::test]
async fn a_deletion_of_what_is_in_use_is_refused_without_the_writer() -> Outcome {
    let folder = tempfile::tempdir()?;
    let schema_folder = tempfile::tempdir()?;
    schemas(schema_folder.path())?;
    let store = format!("file:{}", folder.path().display());
    let (publisher, client) = publisher(&store, schema_folder.path()).await?;
    let mut outcome = Ok(());
    let test = async {
        client
            .expect(201, "POST", SKILLS, json!({"id": "s"}))
            .await?;
        let channel = json!({"id": "c", "skills": ["s"]});
        client.expect(201, "POST", CHANNELS, channel).await?;
        let file = folder.path().join("confcast.sqlite");
        let mut writer = rusqlite::Connection::open(file)?;
        let held = writer.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let path = format!("{SKILLS}/s");
        client.expect(409, "DELETE", &path, json!(null)).await?;
        let set = json!({"changes": [{"collection": "Skill", "op": "Delete", "id": "s"}]});
        client.expect(409, "POST", "/v1/changes", set).await?;
        drop(held);
        Ok(())
    };
    publisher.run(async { outcome = test.await }).await?;
    outcome
}

/// A preview that promises what is refused afterwards is worse than none.
#[tokio::test]
async fn the_dry_run_of_a_rollback_refuses_what_would_leave_a_dangling_reference() -> Outcome {
    on_both_stores(async |client| {
        client
            .expect(201, "POST", SKILLS, json!({"id": "s"}))
            .await?;
        let channel = json!({"id": "c", "skills": ["s"]});
        client.expect(201, "POST", CHANNELS, channel).await?;
        let skills = "/v1/collections/Skill/rollback";
        // Before its first change the skill did not exist.
        for dry_run in [true, false] {
            let body = json!({"toRevision": 0, "dryRun": dry_run});
            let (status, problem) = client.send("POST", skills, body).await?;
            ensure!(status == 409, "{dry_run}: {problem}");
            ensure!(problem["type"] == "urn:confcast:problem:dangling-reference");
            ensure!(problem["references"][0]["id"] == "c", "{problem}");
        }
        // The channel comes back, and what it refers to is gone.
        for path in [format!("{CHANNELS}/c"), format!("{SKILLS}/s")] {
            client.expect(200, "DELETE", &path, json!(null)).await?;
        }
        let channel = format!("{CHANNELS}/c/rollback");
        for dry_run in [true, false] {
            let body = json!({"toRevision": 1, "dryRun": dry_run});
            let (status, problem) = client.send("POST", &channel, body).await?;
            ensure!(status == 409, "{dry_run}: {problem}");
        }
        client
            .expect(201, "POST", SKILLS, json!({"id": "s"}))
            .await?;
        let body = json!({"toRevision": 1, "dryRun": true});
        let (status, shown) = client.send("POST", &channel, body).await?;
        ensure!(
            status == 200 && shown["items"][0]["op"] == "Create",
            "{shown}"
        );
        client
            .expect(404, "GET", &format!("{CHANNELS}/c"), json!(null))
            .await
    })
    .await
}
