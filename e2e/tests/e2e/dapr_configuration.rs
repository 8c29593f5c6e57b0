//! Dapr's Configuration API at two subscribers, used by the SDKs of Dapr as they are published, beside real
//! sidecars: every client reads, follows, sees a deletion, unsubscribes, and saves state through its sidecar.

use std::{process::Command, time::Duration};

use anyhow::{Context, ensure};
use e2e::testbed::{
    FREE, StoreKind, Testbed, Transport, dependencies, numbered,
    ports::free_port,
    process::{Process, folder},
    wait::within,
};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

mod agents;

type Outcome = anyhow::Result<()>;

const KEY: &str = "agent:weather";
/// A sidecar that was killed, a Java that starts, and a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Publisher, two subscribers with the API, and a sidecar of Dapr for each.
struct Stage {
    testbed: Testbed,
    /// The port of the API of each subscriber.
    ports: [u16; 2],
    folder: TempDir,
}

impl Stage {
    async fn start() -> anyhow::Result<Self> {
        Self::start_with(None).await
    }

    /// As [`Self::start`], with a further flag for the sidecars.
    async fn start_with(flag: Option<String>) -> anyhow::Result<Self> {
        let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Dapr).await?;
        let ports = [free_port()?, free_port()?];
        let redis = testbed.redis.as_ref().context("a Redis")?.host();
        let state = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: statestore}}\nspec:\n  \
             type: state.redis\n  version: v1\n  metadata:\n  - {{name: redisHost, value: \"{redis}\"}}\n  \
             - {{name: actorStateStore, value: \"true\"}}\n"
        );
        let subscribers = testbed.subscribers.iter_mut().zip(&mut testbed.sidecars);
        for ((subscriber, sidecar), port) in subscribers.zip(ports) {
            sidecar.add_component("statestore", &state)?;
            flag.iter().for_each(|flag| sidecar.add_flag(flag.clone()));
            subscriber.set(
                "AURA_CONFIGURATION_DAPR_API_LISTEN",
                format!("127.0.0.1:{port}"),
            );
            subscriber.set("DAPR_GRPC_PORT", sidecar.grpc_port().to_string());
            subscriber.set("DAPR_HTTP_PORT", sidecar.http_port().to_string());
            // What events do not bring is there soon.
            subscriber.set("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1");
        }
        testbed.publisher.start().await?;
        testbed.start_subscribers().await?;
        if let Some(sidecar) = &mut testbed.publisher_sidecar {
            sidecar.start().await?;
        }
        Ok(Self {
            testbed,
            ports,
            folder: folder()?,
        })
    }

    /// Creates the document; its second revision is at both subscribers.
    async fn create(&self, second: &Value) -> Outcome {
        let api = self.testbed.publisher.api();
        api.create(FREE, &json!({"id": KEY})).await?.expect(201)?;
        self.put(second).await?;
        self.testbed.until_same(FREE, KEY).await
    }

    /// Writes the next revision.
    async fn put(&self, value: &Value) -> Outcome {
        let api = self.testbed.publisher.api();
        let written = api.put(FREE, KEY, value).await?;
        written.expect(200).map(drop)
    }

    async fn delete(&self) -> Outcome {
        let api = self.testbed.publisher.api();
        api.delete(FREE, KEY).await?.expect(200).map(drop)
    }

    /// Starts a client at the port of a subscriber.
    fn client(&self, language: &str, replica: usize) -> anyhow::Result<Client> {
        let sources = dependencies::repository_root().join("e2e/dependencies/dapr-clients");
        let mut command = match language {
            "node" => {
                let mut command = Command::new("node");
                command.arg(sources.join("node/follow.mjs"));
                command.current_dir(dependencies::path_of("DAPR_CLIENT_NODE")?);
                command
            }
            "python" => {
                let mut command = Command::new("python3");
                command.arg(sources.join("python/follow.py"));
                command.env("PYTHONPATH", dependencies::path_of("DAPR_CLIENT_PYTHON")?);
                command
            }
            "agents" => {
                let mut command = Command::new("python3");
                command.arg(sources.join("agents/agent.py"));
                command.env("PYTHONPATH", dependencies::path_of("DAPR_CLIENT_AGENTS")?);
                command
            }
            "go" => Command::new(dependencies::path_of("DAPR_CLIENT_GO")?),
            _java => {
                let folder = dependencies::path_of("DAPR_CLIENT_JAVA")?;
                let mut command = Command::new("java");
                command.arg("--class-path");
                command.arg(format!("{0}/*:{0}", folder.display()));
                command.arg("Follow");
                command
            }
        };
        let port = self.ports[replica].to_string();
        command
            .args([FREE, KEY])
            .env("DAPR_GRPC_PORT", &port)
            .env("DAPR_HTTP_PORT", &port)
            .env("NO_PROXY", "*");
        let name = format!("{language}-{replica}");
        let process = Process::start(&name, self.folder.path(), &mut command)?;
        Ok(Client { name, process })
    }
}

/// A client and what it prints.
struct Client {
    name: String,
    process: Process,
}

impl Client {
    /// Waits until it has printed these lines, in this order and no other of their kind.
    async fn says(&mut self, expected: &[String]) -> Outcome {
        let kinds = [
            "state ",
            "have ",
            "item ",
            "gone ",
            "unsubscribed",
            "instructions ",
        ];
        within(DEADLINE, &format!("{} says all", self.name), async || {
            let output = self.process.output();
            let lines = output
                .lines()
                .filter(|line| kinds.iter().any(|kind| line.starts_with(kind)));
            let lines: Vec<_> = lines.collect();
            ensure!(lines == expected, "{lines:?} instead of {expected:?}");
            Ok(())
        })
        .await
        .with_context(|| self.process.tail())
    }
}

fn item(revision: u64) -> String {
    format!("item {revision} {{\"number\":{revision}}}")
}

fn begun(revision: u64) -> Vec<String> {
    vec![
        "state hello".to_owned(),
        format!("have {revision} {{\"number\":{revision}}}"),
        item(revision),
    ]
}

#[tokio::test]
async fn the_sdks_of_dapr_read_follow_and_use_their_sidecar() -> Outcome {
    let stage = Stage::start().await?;
    stage.create(&numbered(2)).await?;
    let languages = ["node", "python", "go", "java"].into_iter().enumerate();
    let clients = languages.map(|(index, language)| stage.client(language, index % 2));
    let mut clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
    let mut expected = begun(2);
    for client in &mut clients {
        client.says(&expected).await?;
    }
    for number in 3..=20 {
        stage.put(&numbered(number)).await?;
        expected.push(item(number));
    }
    for client in &mut clients {
        client.says(&expected).await?;
    }
    stage.delete().await?;
    expected.extend(["gone 21".to_owned(), "unsubscribed".to_owned()]);
    for client in &mut clients {
        client.says(&expected).await?;
        let ended = client.process.ended(DEADLINE).await?;
        ensure!(ended.success(), "{}: {ended}", client.name);
    }
    Ok(())
}

/// Sidecars, publisher and Redis are killed in turn while changes are written, and the store gets a new
/// epoch; a client at each of two subscribers sees every change, once and in order, over one subscription.
#[tokio::test]
async fn a_subscription_outlives_sidecars_publisher_and_redis() -> Outcome {
    let mut stage = Stage::start().await?;
    stage.create(&numbered(2)).await?;
    let mut clients = [stage.client("go", 0)?, stage.client("python", 1)?];
    let mut expected = begun(2);
    for client in &mut clients {
        client.says(&expected).await?;
    }
    let mut number = 2;
    let mut write = async |stage: &Stage, expected: &mut Vec<String>, changes: usize| {
        for _change in 0..changes {
            number += 1;
            stage.put(&numbered(number)).await?;
            expected.push(item(number));
        }
        anyhow::Ok(())
    };

    for sidecar in &mut stage.testbed.sidecars {
        sidecar.kill()?;
    }
    write(&stage, &mut expected, 5).await?;
    for client in &mut clients {
        client.says(&expected).await?;
    }
    for sidecar in &mut stage.testbed.sidecars {
        sidecar.start().await?;
    }
    write(&stage, &mut expected, 5).await?;

    stage.testbed.publisher.kill()?;
    stage.testbed.publisher.start().await?;
    write(&stage, &mut expected, 5).await?;

    for client in &mut clients {
        client.says(&expected).await?;
    }

    // As after a restore of the database: the subscribers load again, and what is the same is not sent.
    let api = stage.testbed.publisher.api();
    let declared = api.send(Method::POST, "/v1/epoch", &[], "").await?;
    declared.expect(200)?;
    write(&stage, &mut expected, 1).await?;
    for client in &mut clients {
        client.says(&expected).await?;
    }
    stage.testbed.until_converged(FREE).await?;

    let redis = stage.testbed.redis.as_mut().context("a Redis")?;
    redis.kill()?;
    write(&stage, &mut expected, 5).await?;
    for client in &mut clients {
        client.says(&expected).await?;
    }
    let redis = stage.testbed.redis.as_mut().context("a Redis")?;
    redis.restart().await?;
    write(&stage, &mut expected, 5).await?;

    stage.delete().await?;
    let revision = expected.len();
    expected.extend([format!("gone {revision}"), "unsubscribed".to_owned()]);
    for client in &mut clients {
        client.says(&expected).await?;
        let ended = client.process.ended(DEADLINE).await?;
        ensure!(ended.success(), "{}: {ended}", client.name);
    }
    Ok(())
}
