//! The programs start with exactly what the manifests give them, and changes arrive by the
//! sidecars, or by what the chart has in their place.
//!
//! Environment, files and sidecar of each pod are those of the rendered manifests. Different are the
//! folder that files are below, the ports, the store, Redis, and where the Service of the publisher
//! leads: to 0.0.0.0, which is this host, but no loopback address for the programs.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context, ensure};
use client::Endpoint;
use e2e::testbed::{process::folder, redis::Redis, wait::eventually};
use reqwest::Method;
use serde_json::Value;

use self::{made::Made, pod::Pod};
use crate::{
    images::image,
    manifests::{
        CHART, HELM, at, charted, documents, file, items, kustomized, read, secured, text, the,
        tool,
    },
};

mod made;
mod pod;

const CONTAINERS: &str = "/spec/template/spec/containers";

#[tokio::test]
async fn the_base_starts_as_shipped_and_changes_arrive() -> anyhow::Result<()> {
    run(&kustomized()?).await
}

#[tokio::test]
async fn with_tls_and_signed_events_both_start_and_changes_arrive() -> anyhow::Result<()> {
    run(&secured()?).await
}

/// By Redis with MongoDB's place taken by a file, and by the live feed with the embedded store.
#[tokio::test]
async fn without_dapr_both_start_and_changes_arrive() -> anyhow::Result<()> {
    for values in ["redis", "embedded"] {
        let file = format!("{CHART}/ci/{values}-values.yaml");
        run(&charted(Some(&file))?).await.context(values)?;
    }
    Ok(())
}

/// As images, by their own configuration and under the restrictions of the chart: with TLS, without Dapr.
/// They end in time, and write nothing but what is in their volumes.
#[tokio::test]
async fn images_start_as_the_chart_deploys_them_and_changes_arrive() -> anyhow::Result<()> {
    let values = format!("{CHART}/ci/embedded-values.yaml");
    let objects = documents(&tool(
        HELM,
        &[
            "template",
            "confcast",
            CHART,
            "--values",
            &values,
            "--set",
            "tls.enabled=true",
        ],
    )?)?;
    let folder = folder()?;
    let mut pods = Pods::start(&objects, folder.path(), |publisher, subscriber| {
        publisher.set_image(image("confcast-publisher")?);
        subscriber.set_image(image("confcast-subscriber")?);
        Ok(())
    })
    .await?;
    pods.change_arrives("SkillConfiguration").await?;
    for (api, service) in [(&pods.operator, "publisher"), (&pods.reader, "subscriber")] {
        let healthy = api
            .exchange(Method::GET, "/healthz", &[], Vec::new(), 1 << 20)
            .await?;
        ensure!(healthy.status == 204, "{healthy:?}");
        let version = api
            .exchange(Method::GET, "/v1/version", &[], Vec::new(), 1 << 20)
            .await?;
        let version: Value = serde_json::from_slice(&version.body)?;
        ensure!(
            version["service"] == service && version["version"] == env!("CARGO_PKG_VERSION"),
            "{version}"
        );
    }
    for (pod, name, files) in [
        (
            &mut pods.subscriber,
            "confcast-subscriber",
            ["last-known-good"].as_slice(),
        ),
        (
            &mut pods.publisher,
            "confcast-publisher",
            &["confcast.lock", "confcast.sqlite"],
        ),
    ] {
        let workload = objects.iter().find(|object| {
            object["metadata"]["name"] == name && object.pointer(CONTAINERS).is_some()
        });
        let given = at(
            workload.context("no workload")?,
            "/spec/template/spec/terminationGracePeriodSeconds",
        )?;
        let given = Duration::from_secs(given.as_u64().context("a number")?);
        let container = pod.container()?;
        container.is_restricted()?;
        let ended = container.stop(given).await?;
        let output = container.output();
        ensure!(ended.success(), "{name}: {ended}\n{output}");
        ensure!(
            output.contains("has stopped") && !output.contains("Read-only file system"),
            "{name}: {output}"
        );
        let written = names(pod.volume("/var/lib/confcast")?)?;
        ensure!(written == files, "{name}: {written:?}");
    }
    Ok(())
}

/// Names of the files in a folder, in order.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = folder.read_dir()?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<_> = names.collect::<anyhow::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Topics are declared by the chart instead of named by the subscriber. A sidecar with hot reload takes
/// one that is declared while it runs.
#[tokio::test]
async fn declared_topics_arrive_and_a_new_one_without_a_restart() -> anyhow::Result<()> {
    let objects = charted(Some(&format!("{CHART}/ci/declarative-values.yaml")))?;
    let declaration = |topic: &str| -> anyhow::Result<String> {
        let found = objects
            .iter()
            .find(|object| object["kind"] == "Subscription" && object["spec"]["topic"] == topic);
        // JSON is YAML.
        Ok(found.with_context(|| format!("no {topic}"))?.to_string())
    };
    let folder = folder()?;
    let pods = Pods::start(&objects, folder.path(), |_publisher, subscriber| {
        let configuration = folder.path().join("configuration.yaml");
        std::fs::write(
            &configuration,
            the(&objects, "Configuration", None)?.to_string(),
        )?;
        let sidecar = subscriber.sidecar_mut()?;
        sidecar.add_flag(format!("--config={}", configuration.display()));
        sidecar.add_component("declared", &declaration("SkillConfiguration")?)
    })
    .await?;
    pods.change_arrives("SkillConfiguration").await?;

    let sidecar = pods.subscriber.sidecar()?;
    sidecar.add_component("declared-later", &declaration("TvSectionsConfiguration")?)?;
    eventually("the sidecar has both topics", async || {
        let metadata = sidecar.metadata().await?;
        let declared: BTreeSet<_> = items(&metadata, "/subscriptions")
            .filter(|subscription| subscription["type"] == "DECLARATIVE")
            .filter_map(|subscription| subscription["topic"].as_str())
            .collect();
        ensure!(
            declared == ["SkillConfiguration", "TvSectionsConfiguration"].into(),
            "{metadata}"
        );
        Ok(())
    })
    .await
    .with_context(|| pods.subscriber.tail())?;
    pods.change_arrives("TvSectionsConfiguration").await?;
    let status = pods.status().await?;
    ensure!(
        items(&status, "/topicsNotSubscribed").next().is_none(),
        "{status}"
    );
    Ok(())
}

/// Starts one pod of each program, writes a document to the publisher and waits until the subscriber
/// has received it by an event.
async fn run(objects: &[Value]) -> anyhow::Result<()> {
    let folder = folder()?;
    let pods = Pods::start(objects, folder.path(), |_publisher, _subscriber| Ok(())).await?;
    pods.change_arrives("SkillConfiguration").await
}

/// One pod of each program, which run.
struct Pods {
    publisher: Pod,
    subscriber: Pod,
    operator: Endpoint,
    reader: Endpoint,
    _redis: Redis,
}

impl Pods {
    /// Starts both. `prepare` gets both before they start.
    async fn start(
        objects: &[Value],
        folder: &Path,
        prepare: impl FnOnce(&mut Pod, &mut Pod) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let made = Made::new(folder)?;
        let redis = Redis::start().await?;
        let mut sources = made.sources(objects)?;
        let url = ("url".to_owned(), redis.url());
        sources.insert("confcast-redis".to_owned(), [url].into());
        let pod = |name: &str| {
            let workload = objects.iter().find(|object| {
                object["metadata"]["name"] == name && object.pointer(CONTAINERS).is_some()
            });
            let workload = workload.with_context(|| format!("no workload {name}"))?;
            Pod::new(workload, &sources, folder, &redis)
        };
        let mut publisher = pod("confcast-publisher")?;
        let mut subscriber = pod("confcast-subscriber")?;
        subscriber.find("confcast-publisher:8080", &publisher)?;
        prepare(&mut publisher, &mut subscriber)?;

        let token = folder.join("ops.token");
        publisher.start().await?;
        let operator = made.endpoint(&publisher, &token)?;
        eventually("the publisher is ready", async || {
            Ok(operator.ready().await?)
        })
        .await
        .with_context(|| publisher.tail())?;
        subscriber.start().await?;
        let reader = made.endpoint(&subscriber, &token)?;
        eventually("the subscriber is ready", async || {
            Ok(reader.ready().await?)
        })
        .await
        .with_context(|| subscriber.tail())?;
        publisher.until_subscribed().await?;
        subscriber.until_subscribed().await?;
        Ok(Self {
            publisher,
            subscriber,
            operator,
            reader,
            _redis: redis,
        })
    }

    /// Writes a document and waits until the subscriber has applied its event.
    async fn change_arrives(&self, collection: &str) -> anyhow::Result<()> {
        let sample = read(format!("schemas/{collection}.sample.json"))?;
        let id: Value = serde_json::from_str(&sample)?;
        let id = text(&id, "/id")?;
        let document = format!("/v1/collections/{collection}/documents/{id}");
        let before = self.applied().await?;
        let written = self
            .operator
            .exchange(
                Method::PUT,
                &document,
                &[("content-type", "application/json"), ("if-none-match", "*")],
                sample.into_bytes(),
                1 << 20,
            )
            .await?;
        ensure!(written.status == 201, "{written:?}");
        eventually("the change arrives by an event", async || {
            let answer = self
                .reader
                .exchange(Method::GET, &document, &[], Vec::new(), 1 << 20)
                .await?;
            ensure!(answer.status == 200, "{answer:?}");
            let applied = self.applied().await?;
            ensure!(applied > before, "{applied} events applied");
            Ok(())
        })
        .await
        .with_context(|| format!("{}\n{}", self.publisher.tail(), self.subscriber.tail()))
    }

    /// Events that the subscriber has applied.
    async fn applied(&self) -> anyhow::Result<u64> {
        self.status().await?["events"]["applied"]
            .as_u64()
            .context("no count of events")
    }

    /// The status of the subscriber.
    async fn status(&self) -> anyhow::Result<Value> {
        let status = self
            .reader
            .exchange(Method::GET, "/v1/status", &[], Vec::new(), 1 << 20)
            .await?;
        Ok(serde_json::from_slice(&status.body)?)
    }
}

/// Names in the certificates that are shipped as an example are those that the manifests call.
#[test]
fn the_example_certificates_have_the_names_that_are_called() -> anyhow::Result<()> {
    let objects = secured()?;
    let certificates = file("deploy/secured/certificates.yaml")?;
    let names = |secret: &str| -> anyhow::Result<Vec<String>> {
        let certificate = certificates
            .iter()
            .find(|object| object["spec"]["secretName"] == secret)
            .with_context(|| format!("no certificate {secret}"))?;
        Ok(items(certificate, "/spec/dnsNames")
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect())
    };
    let settings = the(&objects, "ConfigMap", None)?;
    let url = text(settings, "/data/AURA_CONFIGURATION_API_URL")?;
    let publisher = names("confcast-publisher-tls")?;
    ensure!(
        publisher
            .iter()
            .any(|name| url == format!("https://{name}:8080")),
        "{url} is none of {publisher:?}"
    );
    // A wildcard stands for one label. The namespace is that of the overlay.
    let namespace = text(settings, "/metadata/namespace")?;
    let subscriber = items(
        the(&objects, "StatefulSet", None)?,
        "/spec/template/spec/containers/0/env",
    )
    .find(|item| item["name"] == "AURA_CONFIGURATION_BASE_URL")
    .context("no URL")?;
    let pattern = text(subscriber, "/value")?
        .replace("$(POD_NAME)", "*")
        .replace("$(POD_NAMESPACE)", namespace);
    let subscriber = names("confcast-subscriber-tls")?;
    ensure!(
        subscriber
            .iter()
            .any(|name| pattern == format!("https://{name}:8080")),
        "{pattern} is none of {subscriber:?}"
    );
    Ok(())
}
