//! `state.confcast` through the HTTP API of a sidecar.

use e2e::testbed::CHANNELS;
use reqwest::{Client, Response};

use super::*;

/// The state API of a sidecar.
pub(super) struct State {
    client: Client,
    base: String,
}

impl State {
    pub(super) fn new(sidecar: &Sidecar, store: &str) -> anyhow::Result<Self> {
        let port = sidecar.http_port();
        Ok(Self {
            client: e2e::http().build()?,
            base: format!("http://127.0.0.1:{port}/v1.0/state/{store}"),
        })
    }

    pub(super) async fn get(&self, key: &str) -> anyhow::Result<Response> {
        Ok(self
            .client
            .get(format!("{}/{key}", self.base))
            .send()
            .await?)
    }

    /// The value of a key, and its version.
    pub(super) async fn value(&self, key: &str) -> anyhow::Result<(Value, String)> {
        let answer = self.get(key).await?.error_for_status()?;
        let etag = answer.headers().get("etag").context("no etag")?;
        let etag = etag.to_str()?.to_owned();
        Ok((answer.json().await?, etag))
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<(u16, String)> {
        let url = format!("{}{path}", self.base);
        let answer = self.client.post(url).json(body).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    async fn delete(&self, key: &str, etag: Option<&str>) -> anyhow::Result<(u16, String)> {
        let mut request = self.client.delete(format!("{}/{key}", self.base));
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }
}

/// A replica with both components, the state store of documents without a schema.
pub(super) async fn with_state(publisher: &Service) -> anyhow::Result<Replica> {
    let topics = format!("{FREE},{CHANNELS}");
    let mut replica = Replica::new("state", &topics, publisher).await?;
    let file = dependencies::repository_root().join("components/confcast/state.yaml");
    let text = std::fs::read_to_string(file)?;
    replica.sidecar.add_component("channels", &text)?;
    let free = text
        .replace("name: channels", "name: free")
        .replace("value: ChannelConfiguration", &format!("value: {FREE}"));
    replica.sidecar.add_component("free", &free)?;
    replica.component.launch()?;
    replica.start_sidecar().await?;
    replica.component.until_ready().await?;
    Ok(replica)
}

pub(super) fn expect(answer: (u16, String), status: u16, words: &str) -> Outcome {
    let (given, body) = answer;
    ensure!(
        given == status && body.contains(words),
        "expected {status} {words}: {given} {body}"
    );
    Ok(())
}

/// Values are written, read at once, changed by their version alone, and deleted; a conflict is 409.
#[tokio::test]
async fn documents_are_values_with_versions() -> Outcome {
    let publisher = publisher().await?;
    let replica = with_state(&publisher).await?;
    let state = State::new(&replica.sidecar, "free")?;
    ensure!(state.get("a").await?.status() == 204, "there is nothing");
    let first_write = |etag: Option<&str>, value: Value| {
        let mut item =
            json!([{"key": "a", "value": value, "options": {"concurrency": "first-write"}}]);
        if let Some(etag) = etag {
            item[0]["etag"] = json!(etag);
        }
        item
    };
    expect(
        state.post("", &first_write(None, numbered(1))).await?,
        204,
        "",
    )?;
    let (value, etag) = state.value("a").await?;
    ensure!(value == numbered(1), "{value}");
    let conflict = state.post("", &first_write(None, numbered(2))).await?;
    expect(conflict, 409, "etag")?;
    expect(
        state
            .post("", &first_write(Some(&etag), numbered(2)))
            .await?,
        204,
        "",
    )?;
    let conflict = state
        .post("", &first_write(Some(&etag), numbered(3)))
        .await?;
    expect(conflict, 409, "etag")?;
    let invalid = state
        .post("", &first_write(Some("seven"), numbered(3)))
        .await?;
    expect(invalid, 400, "seven")?;
    expect(
        state
            .post("", &json!([{"key": "a", "value": numbered(4)}]))
            .await?,
        204,
        "",
    )?;
    let strong = state.get("a?consistency=strong").await?;
    ensure!(strong.json::<Value>().await? == numbered(4), "not strong");

    expect(state.delete("a", Some(&etag)).await?, 409, "etag")?;
    expect(state.delete("a", None).await?, 204, "")?;
    expect(state.delete("a", None).await?, 204, "")?;
    expect(state.delete("a", Some("1-00000000")).await?, 409, "etag")?;
    ensure!(state.get("a").await?.status() == 204, "it is gone");

    // The other collection by the metadata of the call, and what its schema says.
    let channel = e2e::testbed::sample(CHANNELS)?;
    let item =
        json!([{"key": channel["id"], "value": channel, "metadata": {"collection": CHANNELS}}]);
    expect(state.post("", &item).await?, 204, "")?;
    let channels = State::new(&replica.sidecar, "channels")?;
    let id = channel["id"].as_str().context("an id")?;
    let (value, _) = channels.value(id).await?;
    ensure!(value == channel, "{value}");
    let mut wrong = channel.clone();
    wrong["name"] = json!(7);
    let refused = channels
        .post("", &json!([{"key": id, "value": wrong}]))
        .await?;
    expect(refused, 500, "/name")?;
    Ok(())
}

/// Several keys at once, and transactions: all or none.
#[tokio::test]
async fn several_keys_change_together() -> Outcome {
    let publisher = publisher().await?;
    let replica = with_state(&publisher).await?;
    let state = State::new(&replica.sidecar, "free")?;
    let items = json!([
        {"key": "a", "value": numbered(1)}, {"key": "b", "value": numbered(2)}, {"key": "c", "value": numbered(3)}
    ]);
    expect(state.post("", &items).await?, 204, "")?;
    let (status, body) = state
        .post("/bulk", &json!({"keys": ["a", "b", "z"]}))
        .await?;
    let found: Value = serde_json::from_str(&body)?;
    ensure!(status == 200, "{status} {body}");
    let of = |key: &str| {
        let mut items = found.as_array().into_iter().flatten();
        items
            .find(|item| item["key"] == key)
            .cloned()
            .unwrap_or_default()
    };
    ensure!(
        of("b")["data"] == numbered(2) && of("z")["data"].is_null(),
        "{found}"
    );

    let (_, etag) = state.value("a").await?;
    let transaction = |etag: &str| {
        json!({"operations": [
            {"operation": "upsert", "request": {"key": "a", "value": numbered(10), "etag": etag, "options": {"concurrency": "first-write"}}},
            {"operation": "upsert", "request": {"key": "new", "value": numbered(11)}},
            {"operation": "delete", "request": {"key": "b"}},
            {"operation": "delete", "request": {"key": "never"}},
        ]})
    };
    expect(
        state.post("/transaction", &transaction(&etag)).await?,
        204,
        "",
    )?;
    let head = publisher.api().head(FREE).await?;
    ensure!((head.revision, head.count) == (6, 3), "{head:?}");
    let (status, body) = state.post("/transaction", &transaction(&etag)).await?;
    ensure!(
        status == 500 && body.contains("etag") || body.contains("412"),
        "{status} {body}"
    );
    ensure!(
        publisher.api().head(FREE).await? == head,
        "a part of it was written"
    );
    // What was written is received.
    replica.until_equal(&publisher, FREE).await
}

/// What is no document is refused in words.
#[tokio::test]
async fn what_is_no_document_is_refused_in_words() -> Outcome {
    let publisher = publisher().await?;
    let replica = with_state(&publisher).await?;
    let state = State::new(&replica.sidecar, "free")?;
    for (item, words) in [
        (json!({"key": "a b", "value": 1}), "key"),
        (
            json!({"key": "a", "value": {"n": 1}, "metadata": {"ttlInSeconds": "5"}}),
            "do not expire",
        ),
        (
            json!({"key": "a", "value": {"n": 1}, "metadata": {"collection": "Nowhere"}}),
            "AURA_CONFIGURATION_COLLECTIONS",
        ),
    ] {
        expect(state.post("", &json!([item])).await?, 500, words)?;
    }
    Ok(())
}

/// A second sidecar has a component of the same name, of another collection.
#[tokio::test]
async fn sidecars_may_have_stores_of_the_same_name() -> Outcome {
    let publisher = publisher().await?;
    let replica = with_state(&publisher).await?;
    let node = Node::start(FREE, &publisher.url()).await?;
    let mut second = sidecar("second", &node, &replica.component)?;
    let file = dependencies::repository_root().join("components/confcast/state.yaml");
    let file = std::fs::read_to_string(file)?.replace("name: channels", "name: free");
    second.add_component("free", &file)?;
    second.start().await?;
    let state = State::new(&replica.sidecar, "free")?;
    let item = json!([{"key": "a", "value": numbered(1)}]);
    expect(state.post("", &item).await?, 204, "")?;
    ensure!(
        publisher.api().head(FREE).await?.count == 1,
        "it is elsewhere"
    );
    let channel = e2e::testbed::sample(CHANNELS)?;
    let item = json!([{"key": channel["id"], "value": channel}]);
    expect(State::new(&second, "free")?.post("", &item).await?, 204, "")?;
    ensure!(
        publisher.api().head(CHANNELS).await?.count == 1,
        "it is elsewhere"
    );
    Ok(())
}

/// Programs in other languages use it without a library.
#[tokio::test]
async fn node_and_python_change_a_version_once() -> Outcome {
    let publisher = publisher().await?;
    let replica = with_state(&publisher).await?;
    let state = State::new(&replica.sidecar, "free")?;
    let folder = dependencies::repository_root().join("e2e/tests/e2e/component");
    for (program, file, key) in [
        ("node", "state.mjs", "node"),
        ("python3", "state.py", "python"),
    ] {
        let mut command = tokio::process::Command::new(program);
        command
            .arg(folder.join(file))
            .arg(&state.base)
            .kill_on_drop(true);
        let output = tokio::time::timeout(LONG, command.output()).await??;
        let printed = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && printed.trim() == "2",
            "{program}: {printed}{errors}"
        );
        let document = publisher
            .api()
            .document(FREE, key)
            .await?
            .expect(200)?
            .json()?;
        ensure!(document["configData"] == json!({"n": 2}), "{document}");
    }
    Ok(())
}
