//! A publisher, replicas of it and their projections in the process of the test, and a real mongod.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use contract::status::{ProjectionState, ProjectionStatus};
use e2e::testbed::{mongod::Mongod, wait::eventually};
use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    bson::{Document, doc},
};
use projection::{Projection, ProjectionConfig};
use publisher::{
    Publisher, Settings,
    embed::{ChangeRequest, Changes, Context},
};
use replica::{Config, Events, Follow, Replica, Url};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub(crate) type Outcome = anyhow::Result<()>;

pub(crate) const SKILLS: &str = "Skills";
pub(crate) const AGENTS: &str = "Agents";
/// The name of the database of the projection.
const VIEWS: &str = "views";

/// What every test begins with.
pub(crate) struct Testbed {
    pub(crate) mongod: Mongod,
    pub(crate) changes: Changes,
    /// The URL of the publisher.
    pub(crate) url: String,
    /// What is added to the URL of the projection.
    pub(crate) url_options: &'static str,
}

/// Runs a publisher and a mongod for as long as the test runs.
pub(crate) async fn with_publisher(test: impl AsyncFnOnce(&mut Testbed) -> Outcome) -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = format!("file:{}", folder.path().display());
    let collections = format!("{SKILLS},{AGENTS}");
    let options = [
        "--store-url",
        &store,
        "--listen",
        "127.0.0.1:0",
        "--collections",
        &collections,
        "--log-keep-changes",
        "100000",
    ];
    let publisher = Publisher::build(Settings::read(&options)?).await?;
    let address = publisher.address().context("an address")?;
    let mut testbed = Testbed {
        mongod: Mongod::start().await?,
        changes: publisher.changes(),
        url: format!("http://{address}"),
        url_options: "",
    };
    let mut outcome = Ok(());
    publisher
        .run(async { outcome = Box::pin(test(&mut testbed)).await })
        .await?;
    outcome
}

impl Testbed {
    /// A replica of this name, not yet running.
    pub(crate) fn replica(&self, instance: &str) -> anyhow::Result<Replica> {
        Ok(Replica::new(Config {
            instance: instance.to_owned(),
            collections: BTreeSet::from([SKILLS.parse()?, AGENTS.parse()?]),
            follow: Follow::Named,
            publishers: vec![Url::parse(&self.url)?.into()],
            base_url: None,
            check_in: Duration::from_secs(1),
            events: Events::Feed,
            snapshot_dir: None,
            credentials: replica::Credentials::default(),
            sidecar_token: None,
            app_token: None,
            event_keys: None,
        })?)
    }

    /// Runs a replica and its projection for as long as `test` runs. The projection ends as a process
    /// that is killed: it gives up nothing.
    pub(crate) async fn projecting(
        &self,
        instance: &str,
        verify_every: Option<Duration>,
        test: impl AsyncFnOnce(&Projection) -> Outcome,
    ) -> Outcome {
        let replica = self.replica(instance)?;
        let url = format!("{}{}", self.mongod.url(VIEWS), self.url_options).parse()?;
        let config = ProjectionConfig { url, verify_every };
        project(&replica, config, test).await
    }

    pub(crate) async fn table(&self, name: &str) -> anyhow::Result<Collection<Document>> {
        Ok(self.mongod.database(VIEWS).await?.collection(name))
    }

    /// All rows of a collection, by id.
    pub(crate) async fn rows(&self, name: &str) -> anyhow::Result<Vec<Document>> {
        let table = self.table(name).await?;
        let found = table.find(doc! {}).sort(doc! { "_id": 1 }).await?;
        Ok(found.try_collect().await?)
    }

    pub(crate) async fn position(&self, name: &str) -> anyhow::Result<Document> {
        let positions = self.table("_projection").await?;
        let found = positions.find_one(doc! { "_id": name }).await?;
        found.context("a position")
    }

    /// Commits changes as one change set.
    pub(crate) async fn commit(&self, changes: Vec<ChangeRequest>) -> Outcome {
        let mut unit = self.changes.unit(Context::default());
        unit.publish_batch_after_commit(changes);
        unit.commit().await?;
        Ok(())
    }

    /// Waits until the rows are those of the publisher, and the position says so.
    pub(crate) async fn until_equal(&self, name: &str) -> Outcome {
        let client = e2e::http().build().expect("a client");
        eventually("the rows are those of the publisher", async || {
            let url = format!("{}/v1/collections/{name}/documents", self.url);
            let list: Value = client.get(url).send().await?.json().await?;
            let (head, items) = (&list["head"], &list["items"]);
            let position = self.position(name).await?;
            ensure!(
                position.get_i64("revision").ok() == head["revision"].as_i64()
                    && position.get_str("epoch").ok() == head["epoch"].as_str()
                    && position.get_str("digest").ok() == head["digest"].as_str()
                    && position.get_i64("count").ok() == head["count"].as_i64()
                    && !position.contains_key("reconciling"),
                "{position} instead of {head}"
            );
            let rows = self.rows(name).await?;
            let items = items.as_array().context("items")?;
            ensure!(rows.len() == items.len(), "{} rows", rows.len());
            for (row, item) in rows.iter().zip(items) {
                let config: Value = mongodb::bson::deserialize_from_bson(
                    row.get_document("configData")?.clone().into(),
                )?;
                ensure!(
                    row.get_str("_id").ok() == item["id"].as_str()
                        && row.get_i64("revision").ok() == item["revision"].as_i64()
                        && row.get_str("crc").ok() == item["crc"].as_str()
                        && config == item["configData"],
                    "{row} instead of {item}"
                );
            }
            Ok(())
        })
        .await
    }
}

/// As [`Testbed::projecting`], of a replica and a database of the test.
pub(crate) async fn project(
    replica: &Replica,
    config: ProjectionConfig,
    test: impl AsyncFnOnce(&Projection) -> Outcome,
) -> Outcome {
    let projection = Projection::new(config, replica.clone());
    let mut outcome = Ok(());
    let tested = async {
        tokio::select! {
            tested = Box::pin(test(&projection)) => outcome = tested,
            () = Box::pin(projection.clone().run(CancellationToken::new())) => {}
        }
    };
    Box::pin(replica.run(Box::pin(tested))).await;
    outcome
}

/// Waits until a projection has this state.
pub(crate) async fn until(projection: &Projection, state: ProjectionState) -> Outcome {
    until_status(projection, |status| status.state == state).await
}

pub(crate) async fn until_status(
    projection: &Projection,
    check: impl Fn(&ProjectionStatus) -> bool,
) -> Outcome {
    eventually("the status of the projection", async || {
        let status = projection.status();
        ensure!(check(&status), "{status:?}");
        Ok(())
    })
    .await
}

pub(crate) fn create(collection: &str, id: &str, value: &Value) -> ChangeRequest {
    ChangeRequest::create(collection, id, value).expect("a change request")
}

pub(crate) fn update(collection: &str, id: &str, value: &Value) -> ChangeRequest {
    ChangeRequest::update(collection, id, value).expect("a change request")
}

/// One change for each of fifty documents, to the same value.
pub(crate) fn fifty(change: fn(&str, &str, &Value) -> ChangeRequest, n: u64) -> Vec<ChangeRequest> {
    let value = json!({ "n": n });
    (0..50)
        .map(|id| change(SKILLS, &format!("d{id}"), &value))
        .collect()
}

pub(crate) fn delete(collection: &str, id: &str) -> ChangeRequest {
    ChangeRequest::delete(collection, id).expect("a change request")
}
