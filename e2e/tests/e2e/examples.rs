//! The examples as a user would try them: each runs with a real publisher and does what it
//! documents.

use std::{path::Path, process::Command};

use anyhow::ensure;
use e2e::{
    client::Api,
    testbed::{
        CHANNELS, dependencies,
        ports::free_port,
        process::{Process, folder},
        sample,
        services::Service,
        wait::eventually,
    },
};
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

const FLAGS: &str = "FeatureFlags";

/// A publisher, and the API of an example that follows it.
async fn beside_publisher(
    name: &'static str,
) -> anyhow::Result<(Service, Process, Api, tempfile::TempDir)> {
    let mut publisher = Service::publisher()?.with(
        "AURA_CONFIGURATION_COLLECTIONS",
        format!("{FLAGS},{CHANNELS}"),
    );
    publisher.start().await?;
    let folder = folder()?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let process = start(name, &publisher.url(), &listen, folder.path())?;
    Ok((
        publisher,
        process,
        Api::new(format!("http://{listen}")),
        folder,
    ))
}

fn start(name: &str, publisher: &str, listen: &str, folder: &Path) -> anyhow::Result<Process> {
    let mut command = Command::new(dependencies::own_program(name)?);
    command
        .current_dir(folder)
        .env("PUBLISHER", publisher)
        .env("LISTEN", listen);
    Process::start(name, folder, command.env("PROJECTION", "flags.json"))
}

async fn ends_well(mut process: Process) -> Outcome {
    let status = process.stop().await?;
    ensure!(
        status.success(),
        "it ended with {status}\n{}",
        process.tail()
    );
    Ok(())
}

#[tokio::test]
async fn the_feature_flag_example_answers_from_memory() -> Outcome {
    let (publisher, process, example, _folder) = beside_publisher("feature-flags").await?;
    let api = publisher.api();
    let shows = async |status: u16, enabled: Option<bool>| {
        eventually("the flag is visible", async || {
            let answer = example.get("/flags/dark-mode").await?.expect(status)?;
            let shown = if status == 200 {
                answer.json()?["enabled"].as_bool()
            } else {
                None
            };
            ensure!(shown == enabled, "{shown:?} instead of {enabled:?}");
            Ok(())
        })
        .await
    };
    shows(404, None).await?;
    api.create(FLAGS, &json!({"id": "dark-mode", "enabled": true}))
        .await?
        .expect(201)?;
    shows(200, Some(true)).await?;
    // The first check-in gave the publisher the address of the example. From now on changes come by
    // event.
    eventually("a change comes by event", async || {
        let number = api.head(FLAGS).await?.revision;
        api.put(
            FLAGS,
            "dark-mode",
            &json!({"id": "dark-mode", "enabled": false, "note": number.to_string()}),
        )
        .await?;
        let applied = &example.get("/status").await?.json()?["events"]["applied"];
        ensure!(applied.as_u64() > Some(0), "{applied} events");
        Ok(())
    })
    .await?;
    shows(200, Some(false)).await?;

    api.put(
        FLAGS,
        "dark-mode",
        &json!({"id": "dark-mode", "enabled": "perhaps"}),
    )
    .await?
    .expect(200)?;
    eventually("the value is refused", async || {
        let status = example.get("/status").await?;
        let refusal = &status.json()?["collections"][0]["refusals"][0];
        ensure!(
            refusal["id"] == "dark-mode" && refusal["pointer"] == "/enabled",
            "{}",
            status.body
        );
        Ok(())
    })
    .await?;
    shows(200, Some(false)).await?;
    eventually("the publisher receives the check-in", async || {
        let fleet = api.get("/v1/replicas").await?;
        let refusals = &fleet.json()?["replicas"][0]["collections"][FLAGS]["refusals"];
        ensure!(refusals[0]["pointer"] == "/enabled", "{}", fleet.body);
        Ok(())
    })
    .await?;
    api.delete(FLAGS, "dark-mode").await?.expect(200)?;
    shows(404, None).await?;
    ends_well(process).await
}

#[tokio::test]
async fn the_example_of_an_existing_service_adopts_confcast() -> Outcome {
    let (publisher, process, example, _folder) = beside_publisher("adopted").await?;
    let mut channel = sample(CHANNELS)?;
    let id = channel["id"].as_str().unwrap_or_default().to_owned();
    let path = format!("/greet/{id}");
    let greets = async |name: &str| {
        eventually("the example greets", async || {
            let answer = example.get(&path).await?.expect(200)?;
            ensure!(
                answer.body == format!("Welcome to {name}"),
                "{}",
                answer.body
            );
            Ok(())
        })
        .await
    };
    greets("us").await?;
    channel["name"] = json!("Lima");
    publisher
        .api()
        .create(CHANNELS, &channel)
        .await?
        .expect(201)?;
    greets("Lima").await?;
    let topics = example.get("/dapr/subscribe").await?.expect(200)?.json()?;
    ensure!(topics[0]["topic"] == CHANNELS, "{topics}");
    ends_well(process).await
}

#[tokio::test]
async fn the_projector_example_receives_all_documents_and_then_changes() -> Outcome {
    let (publisher, process, _example, folder) = beside_publisher("projector").await?;
    let api = publisher.api();
    let file = folder.path().join("flags.json");
    let says = async |expected: Value| {
        eventually("the file has the expected content", async || {
            let actual: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
            ensure!(actual == expected, "{actual} instead of {expected}");
            Ok(())
        })
        .await
    };
    says(json!({"enabled": 0, "revision": 0, "resyncs": 1, "changes": 0})).await?;
    api.create(FLAGS, &json!({"id": "a", "enabled": true}))
        .await?
        .expect(201)?;
    says(json!({"enabled": 1, "revision": 1, "resyncs": 1, "changes": 1})).await?;
    api.put(FLAGS, "a", &json!({"id": "a", "enabled": false}))
        .await?
        .expect(200)?;
    says(json!({"enabled": 0, "revision": 2, "resyncs": 1, "changes": 2})).await?;
    api.create(FLAGS, &json!({"id": "b", "enabled": true}))
        .await?
        .expect(201)?;
    says(json!({"enabled": 1, "revision": 3, "resyncs": 1, "changes": 3})).await?;
    api.delete(FLAGS, "b").await?.expect(200)?;
    says(json!({"enabled": 0, "revision": 4, "resyncs": 1, "changes": 4})).await?;
    ends_well(process).await?;

    // The next run of the projector receives all documents again.
    let process = start("projector", &publisher.url(), "", folder.path())?;
    says(json!({"enabled": 0, "revision": 4, "resyncs": 1, "changes": 0})).await?;
    eventually("the publisher lists its state", async || {
        let fleet = api.get("/v1/replicas").await?;
        let handler = &fleet.json()?["replicas"][0]["handlers"][0];
        ensure!(
            handler["name"] == "CountFeatureFlags" && handler["state"] == "in-step",
            "{}",
            fleet.body
        );
        Ok(())
    })
    .await?;
    ends_well(process).await
}
