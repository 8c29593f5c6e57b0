//! Schemas as contracts, from a running publisher: they are served, converted into documents and
//! types that are correct, and checked against stored documents.

use std::{env, fs, process::Output};

use anyhow::{Context, ensure};
use contract::{Problem, ProblemKind};
use e2e::{
    client::Answer,
    testbed::{
        CHANNELS, COLLECTIONS, FREE, StoreKind, Testbed, Transport, dependencies, sample,
        services::Service, wait::eventually,
    },
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

mod generated;

type Outcome = anyhow::Result<()>;

/// The collections that have a schema.
fn collections() -> impl Iterator<Item = &'static str> {
    COLLECTIONS.split(',').filter(|name| *name != FREE)
}

fn shipped(file: &str) -> anyhow::Result<String> {
    Ok(fs::read_to_string(
        dependencies::repository_root().join("schemas").join(file),
    )?)
}

async fn publisher() -> anyhow::Result<Service> {
    let mut publisher = Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", COLLECTIONS);
    publisher.start().await?;
    Ok(publisher)
}

async fn confcast(publisher: &Service, arguments: &[&str]) -> anyhow::Result<Output> {
    let tools = dependencies::path_of("NODE_TOOLS")?.join("node_modules/.bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(tools).chain(env::split_paths(&path)))?;
    let mut command = Command::new(dependencies::own_program("confcast")?);
    command
        .arg("schemas")
        .args(arguments)
        .args(["--publisher", &publisher.url()])
        .env("PATH", path);
    Ok(command.kill_on_drop(true).output().await?)
}

#[tokio::test]
async fn a_publisher_serves_the_schemas_of_its_collections() -> Outcome {
    let publisher = publisher().await?;
    let api = publisher.api();
    let list = api.get("/v1/schemas").await?.expect(200)?.json()?;
    let listed = list["schemas"].as_array().context("a list")?;
    ensure!(listed.len() == collections().count(), "{list:#}");
    for entry in listed {
        let collection = entry["collection"].as_str().context("a collection")?;
        let urn = entry["urn"].as_str().context("a urn")?;
        ensure!(
            entry["title"] == collection
                && entry["description"].is_string()
                && entry["sample"] == true,
            "{entry:#}"
        );
        let path = format!("/v1/schemas/{collection}");
        for (path, media_type, file) in [
            (
                path.clone(),
                "application/schema+json",
                format!("{collection}.schema.json"),
            ),
            (
                format!("{path}?urn={urn}"),
                "application/schema+json",
                format!("{collection}.schema.json"),
            ),
            (
                format!("{path}/sample"),
                "application/json",
                format!("{collection}.sample.json"),
            ),
        ] {
            let answer = api.get(&path).await?.expect(200)?;
            ensure!(
                answer.header("content-type") == media_type,
                "{path} is {}",
                answer.header("content-type")
            );
            ensure!(answer.body == shipped(&file)?, "{path} is not {file}");
            api.get_with(&path, "if-none-match", answer.header("etag"))
                .await?
                .expect(304)?;
            api.get_with(&path, "if-none-match", "\"other\"")
                .await?
                .expect(200)?;
        }
        let digits = urn.rsplit(':').next().context("digits")?;
        ensure!(
            api.get(&path).await?.header("etag") == format!("\"{digits}\""),
            "the tag is not of the version"
        );
    }
    for (path, kind) in [
        (format!("/v1/schemas/{FREE}"), ProblemKind::NoSchema),
        (format!("/v1/schemas/{FREE}/sample"), ProblemKind::NoSchema),
        (
            format!("/v1/schemas/{CHANNELS}?urn=urn:confcast:schema:{CHANNELS}:000000000000"),
            ProblemKind::NoSchema,
        ),
        (
            "/v1/schemas/NotServed".to_owned(),
            ProblemKind::UnknownCollection,
        ),
    ] {
        let answer = api.get(&path).await?.expect(404)?;
        let problem: Problem = serde_json::from_str(&answer.body)?;
        ensure!(problem.kind == kind, "{path}: {problem:?}");
    }
    api.send(Method::PUT, &format!("/v1/schemas/{CHANNELS}"), &[], "{}")
        .await?
        .expect(405)?;
    Ok(())
}

#[tokio::test]
async fn the_schemas_command_generates_files_from_a_publisher() -> Outcome {
    let publisher = publisher().await?;
    let out = tempfile::tempdir()?;
    let written = confcast(&publisher, &["--out", &out.path().display().to_string()]).await?;
    ensure!(written.status.success(), "{written:?}");
    for collection in collections() {
        for file in [
            format!("{collection}.schema.json"),
            format!("{collection}.sample.json"),
        ] {
            ensure!(
                fs::read_to_string(out.path().join("schemas").join(&file))? == shipped(&file)?,
                "{file} differs"
            );
        }
    }
    let types =
        fs::read_to_string(dependencies::repository_root().join("configs/src/generated.rs"))?;
    ensure!(
        fs::read_to_string(out.path().join("rust/configs.rs"))? == types,
        "the Rust types are not those of configs"
    );
    generated::asyncapi(&serde_json::from_slice(&fs::read(
        out.path().join("asyncapi.json"),
    )?)?)?;
    generated::typescript(&out.path().join("typescript")).await
}

#[tokio::test]
async fn the_schemas_command_generates_all_except_the_types_without_node() -> Outcome {
    let out = tempfile::tempdir()?;
    let mut command = Command::new(dependencies::own_program("confcast")?);
    command
        .arg("schemas")
        .arg("--dir")
        .arg(dependencies::repository_root().join("schemas"))
        .arg("--out")
        .arg(out.path());
    let output = command
        .env("PATH", out.path())
        .kill_on_drop(true)
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && text.contains("Node.js"),
        "{output:?}"
    );
    for file in [
        "asyncapi.json",
        "rust/configs.rs",
        "schemas/ChannelConfiguration.schema.json",
    ] {
        ensure!(out.path().join(file).exists(), "{file} is missing");
    }
    Ok(())
}

/// The event of a sidecar matches the AsyncAPI document, and its `dataschema` leads to the schema.
#[tokio::test]
async fn events_match_the_generated_asyncapi_document() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Dapr).await?;
    testbed.publisher.start().await?;
    testbed
        .publisher_sidecar
        .as_mut()
        .context("a sidecar")?
        .start()
        .await?;
    let api = testbed.publisher.api();
    let redis = testbed.redis.as_ref().context("a redis")?;
    let out = tempfile::tempdir()?;
    let to = out.path().display().to_string();
    let written = confcast(&testbed.publisher, &["--no-typescript", "--out", &to]).await?;
    ensure!(written.status.success(), "{written:?}");
    let document: Value = serde_json::from_slice(&fs::read(out.path().join("asyncapi.json"))?)?;
    for collection in collections() {
        api.create(collection, &sample(collection)?)
            .await?
            .expect(201)?;
        let event = eventually("the event is in the stream", async || {
            let answer = redis
                .command_text(&["XRANGE", collection, "-", "+"])
                .await?;
            let line = answer
                .split("\r\n")
                .find(|line| line.starts_with('{') && line.contains("specversion"));
            Ok(serde_json::from_str::<Value>(line.context("not yet")?)?)
        })
        .await?;
        let schema = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "allOf": [document["components"]["messages"][format!("{collection}Event")]["payload"]],
            "components": document["components"],
        });
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .offline()
            .build(&schema);
        let validator =
            validator.map_err(|fault| anyhow::anyhow!("the schema of {collection}: {fault}"))?;
        validator
            .validate(&event)
            .map_err(|fault| anyhow::anyhow!("{}: {fault}", fault.instance_path()))?;
        let properties =
            &schema["components"]["schemas"][format!("{collection}Event")]["properties"];
        for member in event
            .as_object()
            .into_iter()
            .flatten()
            .map(|(member, _value)| member)
        {
            ensure!(
                properties.get(member).is_some(),
                "the document has no member {member}"
            );
        }
        let urn = event["dataschema"].as_str().context("a dataschema")?;
        let Answer { body, .. } = api
            .get(&format!("/v1/schemas/{collection}?urn={urn}"))
            .await?
            .expect(200)?;
        ensure!(
            body == shipped(&format!("{collection}.schema.json"))?,
            "{urn} is another schema"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_changed_schema_is_checked_against_stored_documents() -> Outcome {
    let publisher = publisher().await?;
    let api = publisher.api();
    let mut channel = sample(CHANNELS)?;
    for number in 0..3 {
        channel["id"] = json!(format!("channel-{number}"));
        channel["limits"]["maxTextLength"] = json!(1_000 + number);
        api.create(CHANNELS, &channel).await?.expect(201)?;
    }
    let shipped_folder = dependencies::repository_root()
        .join("schemas")
        .display()
        .to_string();
    let same = confcast(&publisher, &["check", "--dir", &shipped_folder]).await?;
    let text = String::from_utf8_lossy(&same.stdout).into_owned();
    ensure!(
        same.status.success() && text.contains("all 3 documents pass"),
        "{same:?}"
    );

    let folder = tempfile::tempdir()?;
    let mut schema: Value = serde_json::from_str(&shipped(&format!("{CHANNELS}.schema.json"))?)?;
    schema["properties"]["limits"]["properties"]["maxTextLength"]["maximum"] = json!(1_001);
    let file = folder.path().join(format!("{CHANNELS}.schema.json"));
    fs::write(&file, schema.to_string())?;
    let stricter = confcast(
        &publisher,
        &["check", "--json", &file.display().to_string()],
    )
    .await?;
    ensure!(stricter.status.code() == Some(1), "{stricter:?}");
    let report: Value = serde_json::from_slice(&stricter.stdout)?;
    let faults = report["faults"].as_array().context("faults")?;
    let [fault] = &faults[..] else {
        anyhow::bail!("{report:#}")
    };
    ensure!(
        fault["id"] == "channel-2" && fault["pointer"] == "/limits/maxTextLength",
        "{report:#}"
    );
    ensure!(
        (&report["checked"], &report["refused"]) == (&json!(3), &json!(1)),
        "{report:#}"
    );
    let table = confcast(
        &publisher,
        &["check", "--dir", &folder.path().display().to_string()],
    )
    .await?;
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    ensure!(
        table.status.code() == Some(1) && text.contains("channel-2") && !text.contains("channel-1"),
        "{text}"
    );

    // The report was correct.
    let stricter = publisher.with(
        "AURA_CONFIGURATION_SCHEMAS_DIR",
        folder.path().display().to_string(),
    );
    let mut stricter = stricter;
    stricter.kill()?;
    stricter.start().await?;
    for (number, status) in [(1, 200), (2, 422)] {
        let id = format!("channel-{number}");
        let mut held = stricter
            .api()
            .document(CHANNELS, &id)
            .await?
            .expect(200)?
            .json()?["configData"]
            .take();
        held["name"] = json!("another");
        stricter
            .api()
            .put(CHANNELS, &id, &held)
            .await?
            .expect(status)?;
    }
    Ok(())
}
