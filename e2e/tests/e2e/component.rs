//! The Dapr component `pubsub.confcast` under a stock sidecar, with the Node.js subscriber of the source
//! document as it is.

use std::{process::Command, time::Duration};

use anyhow::{Context, ensure};
use e2e::testbed::{
    FREE, Store, StoreKind, dependencies, numbered,
    ports::free_port,
    process::{Process, folder},
    services::Service,
    sidecar::{SUBSCRIBER, Sidecar},
    wait::{eventually, within},
};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

mod attacked;
mod hostile;
mod publishing;
mod restored;
mod state;

type Outcome = anyhow::Result<()>;

const PUBSUB: &str = "pubsub-config";
/// For many events on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// The subscriber of the source document.
struct Node {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
    topics: String,
    api: String,
}

impl Node {
    /// Starts it, without a sidecar.
    async fn start(topics: &str, api: &str) -> anyhow::Result<Self> {
        let folder = folder()?;
        // Node.js searches packages in the folder of the program.
        let modules = dependencies::path_of("PEER_MODULES")?.join("node_modules");
        std::os::unix::fs::symlink(modules, folder.path().join("node_modules"))?;
        let source = "e2e/tests/e2e/component/subscriber.mjs";
        std::fs::copy(
            dependencies::repository_root().join(source),
            folder.path().join("subscriber.mjs"),
        )?;
        let mut node = Self {
            process: None,
            folder,
            port: free_port()?,
            topics: topics.to_owned(),
            api: api.to_owned(),
        };
        node.launch().await?;
        Ok(node)
    }

    /// Starts it again, with nothing in memory.
    async fn launch(&mut self) -> Outcome {
        self.process = None;
        let mut command = Command::new("node");
        command
            .arg(self.folder.path().join("subscriber.mjs"))
            .env("PORT", self.port.to_string())
            .env("TOPICS", &self.topics)
            .env("PUBSUB", PUBSUB)
            .env("API_URL", &self.api);
        let process = Process::start("node", self.folder.path(), &mut command)?;
        self.process = Some(process);
        eventually("the subscriber in Node.js listens", async || {
            self.get("/events").await
        })
        .await
        .map(drop)
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let answer = e2e::http().build()?.get(url).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// The events that it handled, in their order.
    async fn events(&self) -> anyhow::Result<Vec<Value>> {
        let events = self.get("/events").await?;
        Ok(events.as_array().context("a list")?.clone())
    }

    /// Its documents by id.
    async fn documents(&self, collection: &str) -> anyhow::Result<Value> {
        self.get(&format!("/documents/{collection}")).await
    }

    /// Its documents are those of the publisher.
    async fn ensure_equal(&self, publisher: &Service, collection: &str) -> Outcome {
        let list = format!("/v1/collections/{collection}/documents");
        let list = publisher.api().get(&list).await?.expect(200)?.json()?;
        let documents = list["items"].as_array().context("items")?;
        let expected: Value = (documents.iter())
            .map(|document| {
                let id = document["id"].as_str().unwrap_or_default();
                (id.to_owned(), document["configData"].clone())
            })
            .collect();
        let held = self.documents(collection).await?;
        ensure!(
            held == expected,
            "it has {} of {} documents",
            held.as_object().map_or(0, serde_json::Map::len),
            documents.len(),
        );
        Ok(())
    }

    /// Its next events hang, or are answered 500.
    async fn fail(&self, kind: &str, times: u64) -> Outcome {
        let url = format!("http://127.0.0.1:{}/fault", self.port);
        let body = json!({ "kind": kind, "times": times });
        let answer = e2e::http().build()?.post(url).json(&body).send().await?;
        answer.error_for_status()?;
        Ok(())
    }
}

/// One replica of the subscriber: the program, its component and its sidecar.
struct Replica {
    node: Node,
    component: Service,
    sidecar: Sidecar,
}

impl Replica {
    /// Starts it with the component file that is shipped.
    async fn start(name: &str, topics: &str, publisher: &Service) -> anyhow::Result<Self> {
        let mut replica = Self::new(name, topics, publisher).await?;
        replica.component.launch()?;
        replica.start_sidecar().await?;
        replica.component.until_ready().await?;
        Ok(replica)
    }

    async fn new(name: &str, topics: &str, publisher: &Service) -> anyhow::Result<Self> {
        let node = Node::start(topics, &publisher.url()).await?;
        let component = Service::component(name, &[publisher.url()])?
            .with("AURA_CONFIGURATION_COLLECTIONS", topics)
            .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1");
        let sidecar = sidecar(name, &node, &component)?;
        Ok(Self {
            node,
            component,
            sidecar,
        })
    }

    /// Starts the sidecar, when the socket of the component is there.
    async fn start_sidecar(&mut self) -> Outcome {
        let socket = self.component.sockets().join("confcast.sock");
        eventually("the component listens", async || {
            ensure!(socket.exists(), "no {}", socket.display());
            Ok(())
        })
        .await?;
        self.sidecar.start().await?;
        self.sidecar.until_subscribed().await
    }

    /// Waits until its documents are those of the publisher.
    async fn until_equal(&self, publisher: &Service, collection: &str) -> Outcome {
        within(LONG, "the subscriber has every document", async || {
            let equal = self.node.ensure_equal(publisher, collection).await;
            equal.with_context(|| {
                let log = self.sidecar.output();
                let last: Vec<_> = log.lines().rev().take(5).collect();
                last.join("\n")
            })
        })
        .await
    }
}

fn sidecar(name: &str, node: &Node, component: &Service) -> anyhow::Result<Sidecar> {
    let sidecar = Sidecar::with_sockets(SUBSCRIBER, node.port, name, &component.sockets())?;
    let file = dependencies::repository_root().join("components/confcast/pubsub.yaml");
    sidecar.add_component("pubsub", &std::fs::read_to_string(file)?)?;
    Ok(sidecar)
}

async fn publisher() -> anyhow::Result<Service> {
    let mut publisher = Store::start(StoreKind::Embedded).await?.publisher()?;
    publisher.start().await?;
    Ok(publisher)
}

/// Creates a document, through whatever happens to the publisher.
async fn create(publisher: &Service, id: &str, value: &Value) -> Outcome {
    let path = format!("/v1/collections/{FREE}/documents/{id}");
    eventually("the document is created", async || {
        let absent = [("if-none-match", "*")];
        let answer = (publisher.api())
            .send(Method::PUT, &path, &absent, value.to_string())
            .await?;
        // A lost answer to an attempt before.
        ensure!([200, 201, 412].contains(&answer.status), "{}", answer.body);
        Ok(())
    })
    .await
}

/// The revisions of events, each where it first came.
fn revisions_of(events: &[Value]) -> Vec<u64> {
    let mut seen = std::collections::BTreeSet::new();
    let revisions = events
        .iter()
        .filter_map(|event| event["data"]["revision"].as_u64());
    revisions
        .filter(|revision| seen.insert(*revision))
        .collect()
}

/// Two replicas of one app id receive all of a thousand changes, in order, while the publisher, a sidecar
/// and a component are killed.
#[tokio::test]
async fn every_replica_receives_a_thousand_changes_in_order_through_kills() -> Outcome {
    let mut publisher = publisher().await?;
    let mut one = Replica::start("one", FREE, &publisher).await?;
    let mut two = Replica::start("two", FREE, &publisher).await?;
    for number in 1..=1_000 {
        match number {
            250 => {
                publisher.kill()?;
                publisher.launch()?;
            }
            500 => {
                one.sidecar.kill()?;
                eventually("a lost sidecar shows", async || {
                    let ready = one.component.api().get("/readyz").await?.expect(503)?;
                    ensure!(
                        ready.body.contains("no longer subscribes"),
                        "{}",
                        ready.body
                    );
                    Ok(())
                })
                .await?;
                one.sidecar.start().await?;
            }
            750 => {
                two.component.kill()?;
                two.component.launch()?;
                // The sidecar goes on and receives nothing, so the pod must not look ready.
                eventually("the component waits for a sidecar", async || {
                    let ready = two.component.api().get("/readyz").await?.expect(503)?;
                    ensure!(ready.body.contains("restart the sidecar"), "{}", ready.body);
                    Ok(())
                })
                .await?;
                two.sidecar.kill()?;
                two.sidecar.start().await?;
            }
            _ => {}
        }
        create(&publisher, &format!("d-{number:04}"), &numbered(number)).await?;
    }
    for replica in [&mut one, &mut two] {
        replica.until_equal(&publisher, FREE).await?;
        let revisions = revisions_of(&replica.node.events().await?);
        ensure!(
            revisions == (1..=1_000).collect::<Vec<_>>(),
            "{} revisions, not in order: {revisions:?}",
            revisions.len()
        );
        replica.component.until_ready().await?;
        replica.component.stop().await?;
    }
    Ok(())
}

/// A replica that comes late receives the documents as they are, and one that was away what is gone.
#[tokio::test]
async fn a_subscriber_receives_the_state_first_and_what_is_gone() -> Outcome {
    let publisher = publisher().await?;
    for id in ["a", "b", "c"] {
        create(&publisher, id, &numbered(1)).await?;
    }
    let api = publisher.api();
    api.put(FREE, "a", &numbered(2)).await?.expect(200)?;
    let mut replica = Replica::new("late", FREE, &publisher).await?;
    let copy = replica
        .component
        .folder()
        .join("copy")
        .display()
        .to_string();
    replica
        .component
        .set("AURA_CONFIGURATION_SNAPSHOT_DIR", copy);
    replica.component.launch()?;
    replica.start_sidecar().await?;
    replica.component.until_ready().await?;
    replica.until_equal(&publisher, FREE).await?;
    let events = replica.node.events().await?;
    let ids: Vec<_> = events
        .iter()
        .map(|event| event["subject"].as_str())
        .collect();
    ensure!(ids == [Some("b"), Some("c"), Some("a")], "{ids:?}");
    ensure!(events[2]["data"]["op"] == "Update", "{}", events[2]);
    ensure!(events[2]["pubsubname"] == PUBSUB, "{}", events[2]);

    // The sidecar is away, and the program lives on.
    replica.sidecar.kill()?;
    api.delete(FREE, "b").await?.expect(200)?;
    api.put(FREE, "c", &numbered(3)).await?.expect(200)?;
    eventually("the replica has the changes", async || {
        let head = replica.component.api().head(FREE).await?;
        ensure!(head.revision == 6, "{}", head.revision);
        Ok(())
    })
    .await?;
    replica.start_sidecar().await?;
    replica.until_equal(&publisher, FREE).await?;
    let events = replica.node.events().await?;
    let gone = events.iter().find(|event| event["data"]["op"] == "Delete");
    ensure!(gone.context("a deletion")?["subject"] == "b", "{events:?}");

    // The component is away as well: where it was is on disk.
    replica.component.kill()?;
    replica.sidecar.kill()?;
    api.delete(FREE, "c").await?.expect(200)?;
    replica.component.launch()?;
    replica.start_sidecar().await?;
    replica.until_equal(&publisher, FREE).await?;

    // The program forgets everything, and its sidecar does not notice: what comes next still arrives.
    replica.node.launch().await?;
    api.put(FREE, "a", &numbered(4)).await?.expect(200)?;
    eventually("a change after the restart", async || {
        let documents = replica.node.documents(FREE).await?;
        ensure!(documents["a"] == numbered(4), "{documents}");
        Ok(())
    })
    .await
}
