//! A publisher and two replicas, each of a version of its own, with everything that a store may hold:
//! sets, secrets, named snapshots, signed events, an audit log, and a copy of each replica on disk.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use e2e::{
    client::{Api, document_path},
    testbed::{
        FREE, StoreKind, Testbed, Transport, dependencies::Build, process::folder,
        services::Service, wait::eventually,
    },
};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use super::{Outcome, status, writer::Writer};

/// The collection that each change set of the writer changes beside [`FREE`].
pub(super) const PAIRED: &str = "FreeFormB";
/// A collection whose schema has a secret.
pub(super) const SECRETS: &str = "Databases";
/// The document whose values are the labels of [`Fleet::write_everything`], one after the other.
const LABELLED: &str = "labelled";

/// The programs, and a writer that goes on while they are exchanged.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) testbed: Testbed,
    files: TempDir,
    writer: Option<Writer>,
}

/// The folder of the copy of a replica.
pub(super) fn copy(replica: &Service) -> PathBuf {
    replica.folder().join("copy")
}

/// What a command of this version prints.
async fn confcast(arguments: &[&str], publisher: Option<&Service>) -> anyhow::Result<String> {
    run(Build::Current, arguments, publisher).await
}

/// What a command of a version prints.
pub(super) async fn run(
    build: Build,
    arguments: &[&str],
    publisher: Option<&Service>,
) -> anyhow::Result<String> {
    let (succeeded, text) = outcome(build, arguments, publisher).await?;
    ensure!(succeeded, "{build:?} {arguments:?}: {text}");
    Ok(text)
}

/// Whether a command of a version succeeds, and what it prints.
pub(super) async fn outcome(
    build: Build,
    arguments: &[&str],
    publisher: Option<&Service>,
) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(build.program("confcast")?);
    command
        .args(arguments)
        .env("USER", "ada")
        .kill_on_drop(true);
    if let Some(publisher) = publisher {
        command.env("AURA_CONFIGURATION_API_URL", publisher.url());
    }
    let output = timeout(Duration::from_secs(60), command.output())
        .await
        .with_context(|| format!("{arguments:?} does not end"))??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), text))
}

/// The settings of a publisher, of either version.
fn set_publisher(publisher: &mut Service, files: &Path) {
    let path = |name: &str| files.join(name).display().to_string();
    publisher.set("AURA_CONFIGURATION_SCHEMAS_DIR", path("schemas"));
    publisher.set("AURA_CONFIGURATION_SECRET_KEYS_FILE", path("secret-keys"));
    publisher.set(
        "AURA_CONFIGURATION_SIGNING_KEY_FILE",
        path("keys/signing-key.pem"),
    );
    publisher.set("AURA_CONFIGURATION_AUDIT", "on");
    publisher.set(
        "AURA_CONFIGURATION_COLLECTIONS",
        [FREE, PAIRED, SECRETS].join(","),
    );
}

/// Stores a document, whether or not it exists.
pub(super) async fn store(api: &Api, collection: &str, id: &str, value: &Value) -> Outcome {
    let mut written = api.put(collection, id, value).await?;
    if written.status == 404 {
        let path = document_path(collection, id);
        let absent = [("if-none-match", "*")];
        written = api
            .send(Method::PUT, &path, &absent, value.to_string())
            .await?;
    }
    ensure!(written.status < 300, "{}: {}", written.status, written.body);
    Ok(())
}

async fn write_files(files: &Path) -> Outcome {
    fs::create_dir(files.join("schemas"))?;
    let schema =
        json!({"type": "object", "properties": {"password": {"type": "string", "x-secret": true}}});
    let file = files.join(format!("schemas/{SECRETS}.schema.json"));
    fs::write(file, schema.to_string())?;
    let key = "A".repeat(43) + "=";
    let keys = json!({"active": "a", "keys": {"a": key}});
    fs::write(files.join("secret-keys"), keys.to_string())?;
    let keys = files.join("keys").display().to_string();
    confcast(&["keys", "create", &keys], None).await.map(drop)
}

impl Fleet {
    /// Starts the programs in these versions, and the writer.
    pub(super) async fn start(
        store: StoreKind,
        transport: Transport,
        publisher: Build,
        replicas: [Build; 2],
    ) -> anyhow::Result<Self> {
        let files = folder()?;
        write_files(files.path()).await?;
        let mut testbed = Testbed::prepare(store, transport).await?;
        set_publisher(&mut testbed.publisher, files.path());
        testbed.publisher.set_build(publisher);
        let keys = files.path().join("keys/event-keys.pem");
        for (replica, build) in testbed.subscribers.iter_mut().zip(replicas) {
            replica.set_build(build);
            replica.set("AURA_CONFIGURATION_CHECK_IN_SECONDS", "2");
            replica.set(
                "AURA_CONFIGURATION_COLLECTIONS",
                [FREE, PAIRED, SECRETS].join(","),
            );
            let folder = copy(replica).display().to_string();
            replica.set("AURA_CONFIGURATION_SNAPSHOT_DIR", folder);
            replica.set(
                "AURA_CONFIGURATION_EVENT_KEYS_FILE",
                keys.display().to_string(),
            );
        }
        testbed.publisher.start().await?;
        testbed.start_subscribers().await?;
        let writer = Writer::start(testbed.publisher.api(), "pair");
        Ok(Self {
            testbed,
            files,
            writer: Some(writer),
        })
    }

    /// A further publisher of the same store, not yet started.
    pub(super) fn another_publisher(&self, build: Build) -> anyhow::Result<Service> {
        let mut publisher = self.testbed.store.publisher()?;
        set_publisher(&mut publisher, self.files.path());
        if let Some(redis) = &self.testbed.redis {
            for (name, value) in self.testbed.transport.redis_settings(&redis.url()) {
                publisher.set(name, value);
            }
        }
        publisher.set_build(build);
        Ok(publisher)
    }

    /// The folder of its schemas.
    pub(super) fn schemas(&self) -> PathBuf {
        self.files.path().join("schemas")
    }

    pub(super) fn writer(&self) -> &Writer {
        self.writer.as_ref().expect("it writes until the end")
    }

    /// Ends the writer, where it writes: nothing changes from now on.
    pub(super) async fn pause_writer(&mut self) -> Outcome {
        match self.writer.take() {
            Some(writer) => writer.end().await?.is_at(&self.testbed.publisher).await,
            None => Ok(()),
        }
    }

    /// Exchanges the publisher while it is written to: it opens the store that the other version wrote.
    pub(super) async fn restart_publisher(&mut self, build: Build) -> Outcome {
        self.testbed.publisher.restart_as(build).await?;
        self.writer().until_more(10).await
    }

    /// Kills the publisher while it is written to, and starts it in another version.
    pub(super) async fn crash_publisher(&mut self, build: Build) -> Outcome {
        self.testbed.publisher.kill()?;
        self.testbed.publisher.set_build(build);
        self.testbed.publisher.start().await?;
        self.writer().until_more(10).await
    }

    /// Exchanges a replica while it receives changes: it begins with the copy on disk that the other
    /// version wrote, and loads nothing again.
    pub(super) async fn restart_replica(&mut self, replica: usize, build: Build) -> Outcome {
        let replica = &mut self.testbed.subscribers[replica];
        replica.restart_as(build).await?;
        let files: Vec<_> = copy(replica).read_dir()?.flatten().collect();
        ensure!(files.len() == 1, "nothing was moved aside: {files:?}");
        let replica = &*replica;
        eventually("it reads on from its copy", async || {
            let status = status(replica).await?;
            ensure!(
                status.sync.changes + status.events.applied > 0,
                "{status:?}"
            );
            ensure!(status.sync.loads == 0, "{status:?}");
            Ok(())
        })
        .await
        .with_context(|| replica.output())
    }

    /// Writes what a store may hold: a secret, a value of a document with a history, a deletion, and a
    /// named snapshot of it all.
    pub(super) async fn write_everything(&self, label: &str) -> Outcome {
        let api = self.testbed.publisher.api();
        let secret = json!({"password": format!("secret-{label}")});
        for (collection, id, value) in [
            (SECRETS, label, &secret),
            (FREE, LABELLED, &json!({"label": label})),
            (FREE, "gone", &json!({})),
        ] {
            store(&api, collection, id, value).await?;
        }
        api.delete(FREE, "gone").await?.expect(200)?;
        let path = format!("/v1/snapshots/{label}");
        let answer = api.send(Method::PUT, &path, &[], "{}").await?;
        answer.expect(201).map(drop)
    }

    /// A change reaches both replicas, and events are among what brings it: none is dropped.
    pub(super) async fn events_reach_all(&self) -> Outcome {
        let mut before = Vec::new();
        for replica in &self.testbed.subscribers {
            before.push(status(replica).await?.events.applied);
        }
        let api = self.testbed.publisher.api();
        let number = e2e::testbed::numbered(before.iter().sum());
        store(&api, FREE, "marker", &number).await?;
        self.testbed.until_same(FREE, "marker").await?;
        for (replica, before) in self.testbed.subscribers.iter().zip(before) {
            eventually("events come", async || {
                let status = status(replica).await?;
                ensure!(status.events.applied > before, "{:?}", status.events);
                ensure!(status.drops.is_empty(), "{:?}", status.drops);
                ensure!(status.intake.is_none(), "{:?}", status.intake);
                Ok(())
            })
            .await
            .with_context(|| replica.output())?;
        }
        Ok(())
    }

    /// A write at a publisher of this version waits for the replicas of both.
    pub(super) async fn a_wait_sees_both_replicas(&self) -> Outcome {
        let path = format!("/v1/collections/{FREE}/documents/marker?wait=all&timeout=20s");
        let api = self.testbed.publisher.api();
        let written = api.send(Method::PUT, &path, &[], "{}").await?;
        ensure!(written.status < 300, "{}", written.body);
        let applied = &written.json()?["applied"];
        ensure!(
            applied["applied"] == 2 && applied["replicas"] == 2,
            "{}",
            written.body
        );
        Ok(())
    }

    /// Nothing that was confirmed is lost, and everything that was written in whichever version is read.
    pub(super) async fn ends_well(&mut self, labels: &[&str]) -> Outcome {
        self.pause_writer().await?;
        let publisher = &self.testbed.publisher;
        for collection in [FREE, PAIRED, SECRETS] {
            self.testbed.until_converged(collection).await?;
        }
        let api = publisher.api();
        for label in labels {
            let path = format!("/v1/collections/{FREE}/documents/{LABELLED}?snapshot={label}");
            let past = api.get(&path).await?.expect(200)?.json()?;
            ensure!(past["configData"]["label"] == *label, "{past}");
            let path = format!("/v1/collections/{SECRETS}/documents/{label}?reveal=true");
            let secret = api.get(&path).await?.expect(200)?.json()?;
            let password = format!("secret-{label}");
            ensure!(secret["configData"]["password"] == password, "{secret}");
        }
        // The log, the digests of all replicas, and the chain of the audit log over both versions.
        let history = confcast(&["history", FREE, LABELLED, "--json"], Some(publisher)).await?;
        ensure!(history.lines().count() == labels.len(), "{history}");
        confcast(&["verify", "--wait", "20"], Some(publisher)).await?;
        let verified = confcast(&["audit", "verify"], Some(publisher)).await?;
        ensure!(!verified.contains("damaged"), "{verified}");
        let first = labels.first().context("a label")?;
        let back = ["rollback", FREE, LABELLED, "--to-snapshot", first, "--yes"];
        confcast(&back, Some(publisher)).await?;
        self.testbed.until_same(FREE, LABELLED).await
    }
}
