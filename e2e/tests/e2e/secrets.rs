//! Secret values: in plain text only where they are revealed, and in the service that has the key.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, ensure};
use e2e::{
    client::{Answer, Api},
    testbed::{
        Store, StoreKind, Testbed, Transport, redis::Redis, services::Service, sidecar::Sidecar,
        wait::eventually,
    },
};
use mongodb::bson::Document;
use replica::{Builder, Config, FirstLoad, KeyProvider, Replica, Secret, SecretKeys, SecretStore};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

const DATABASES: &str = "Databases";
/// Part of every secret of these tests, and of nothing else.
const CANARY: &str = "canary-7d1f";
const KEY_A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const KEY_B: &str = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA=";

/// A document as the service reads it.
#[derive(Debug, Deserialize)]
struct Database {
    #[serde(default)]
    port: u16,
    password: Secret<String>,
}

fn write_schema(folder: &Path) -> Outcome {
    let schema = json!({
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "port": {"type": "integer"},
            "password": {"type": "string", "minLength": 5, "x-secret": true},
            "servers": {"items": {"properties": {"token": {"x-secret": true}}}},
            "vault": {"x-secret-ref": true},
        },
        "additionalProperties": false,
    });
    let path = folder.join(format!("{DATABASES}.schema.json"));
    Ok(fs::write(path, schema.to_string())?)
}

fn keys(active: &str, all: &[(&str, &str)]) -> String {
    let all: serde_json::Map<_, _> = all
        .iter()
        .map(|(id, key)| ((*id).to_owned(), json!(key)))
        .collect();
    json!({"active": active, "keys": all}).to_string()
}

/// Every file below a folder that has the canary in it.
fn files_with_canary(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_with_canary(&path)?);
        } else if fs::read(&path)?
            .windows(CANARY.len())
            .any(|part| part == CANARY.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

async fn send(api: &Api, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
    api.send(method, path, &[], body.to_string()).await
}

fn replica_of(publisher: &Service, keys_file: &Path) -> anyhow::Result<Builder> {
    let config = Config::new("service-1", [publisher.url()], [DATABASES])?;
    let keys = SecretKeys::read(KeyProvider::File(keys_file.to_owned()))?;
    Ok(Builder::new(config)
        .collection::<Database>(DATABASES)?
        .first_load(FirstLoad::Partial)
        .secret_keys(keys))
}

/// Waits until the service reads this password and port of a document.
async fn until_read(replica: &Replica, id: &str, password: &str, port: u16) -> Outcome {
    let databases = replica.collection::<Database>(DATABASES)?;
    eventually(&format!("{id} is read"), async || {
        let database = databases.get(id).context("no value")?;
        ensure!(!format!("{database:?}").contains(CANARY));
        let read = (database.password.expose().as_str(), database.port);
        ensure!(read == (password, port), "another value");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_secret_is_shown_by_a_reveal_and_to_the_service_with_the_key_and_nowhere_else() -> Outcome
{
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::PubSub).await?;
    let schemas = tempfile::tempdir()?;
    write_schema(schemas.path())?;
    let keys_file = schemas.path().join("keys");
    fs::write(&keys_file, keys("a", &[("a", KEY_A)]))?;
    testbed.set_all("AURA_CONFIGURATION_COLLECTIONS", DATABASES);
    testbed.set_all("RUST_LOG", "trace");
    let publisher = &mut testbed.publisher;
    publisher.set(
        "AURA_CONFIGURATION_SCHEMAS_DIR",
        schemas.path().display().to_string(),
    );
    publisher.set(
        "AURA_CONFIGURATION_SECRET_KEYS_FILE",
        keys_file.display().to_string(),
    );
    publisher.start().await?;
    for subscriber in &mut testbed.subscribers {
        let saved = subscriber.folder().join("saved").display().to_string();
        subscriber.set("AURA_CONFIGURATION_SNAPSHOT_DIR", saved);
    }
    testbed.start_subscribers().await?;
    let redis = testbed.redis.as_ref().context("a Redis")?;
    let mut events = redis.listen("PSUBSCRIBE", "*").await?;
    let replica = replica_of(&testbed.publisher, &keys_file)?.build()?;
    let mut outcome = Ok(());
    replica
        .run(async { outcome = exercise(&testbed, &replica, &keys_file).await })
        .await;
    outcome?;

    // The service wrote nothing to disk here; the subscribers and the publisher did.
    for _event in 0..4 {
        let event = events.next().await?;
        let event = format!("{event:?}");
        ensure!(event.contains("v1.a."), "{event}");
        ensure!(!event.contains(CANARY), "{event}");
    }
    for service in testbed
        .subscribers
        .iter_mut()
        .chain([&mut testbed.publisher])
    {
        let log = service.output();
        ensure!(log.contains("TRACE") && !log.contains(CANARY), "{log}");
        service.stop().await?;
        let found = files_with_canary(service.folder())?;
        ensure!(found.is_empty(), "{found:?}");
    }
    Ok(())
}

async fn exercise(testbed: &Testbed, replica: &Replica, keys_file: &Path) -> Outcome {
    let api = testbed.publisher.api();
    let documents = format!("/v1/collections/{DATABASES}/documents");
    let path = format!("{documents}/db");
    let first = format!("{CANARY}-first");
    let plain = json!({
        "id": "db", "port": 1, "password": first, "servers": [{"token": CANARY}],
    });
    let mut answers = vec![
        send(&api, Method::POST, &documents, &plain)
            .await?
            .expect(201)?,
    ];
    until_read(replica, "db", &first, 1).await?;

    // A reader changes another member of what it read.
    let mut read = api.get(&path).await?.expect(200)?.json()?["configData"].take();
    read["port"] = json!(2);
    answers.push(send(&api, Method::PUT, &path, &read).await?.expect(200)?);
    until_read(replica, "db", &first, 2).await?;
    let second = format!("{CANARY}-second");
    let patch = json!({"password": second});
    answers.push(
        send(&api, Method::PATCH, &path, &patch)
            .await?
            .expect(200)?,
    );
    until_read(replica, "db", &second, 2).await?;

    // Refusals with the value in the request.
    let long = json!({"password": CANARY, "extra": CANARY.len()});
    for (wrong, status) in [
        (json!({"password": 7, "servers": [{"token": CANARY}]}), 422),
        (json!({"password": {CANARY: CANARY}}), 422),
        (
            json!({"password": {"$secret": format!("v1.{CANARY}")}}),
            422,
        ),
        (long, 422),
    ] {
        answers.push(
            send(&api, Method::PUT, &path, &wrong)
                .await?
                .expect(status)?,
        );
    }
    let set = json!({"changes": [
        {"collection": DATABASES, "id": "new", "op": "Create", "configData": {"password": first}},
        {"collection": DATABASES, "id": "db", "op": "Patch", "configData": {"port": 3}},
    ]});
    answers.push(
        send(&api, Method::POST, "/v1/changes", &set)
            .await?
            .expect(200)?,
    );
    until_read(replica, "new", &first, 0).await?;
    let rollback = json!({"toRevision": 1});
    let at = format!("{path}/rollback");
    answers.push(
        send(&api, Method::POST, &at, &rollback)
            .await?
            .expect(200)?,
    );
    until_read(replica, "db", &first, 1).await?;

    // An export, as it is imported again.
    let exported = api.get(&path).await?.expect(200)?.json()?["configData"].take();
    let again = send(&api, Method::PUT, &path, &exported)
        .await?
        .expect(200)?;
    ensure!(again.json()?["changed"] == false, "{}", again.body);
    // A sealed text opens nowhere else.
    let other = format!("{documents}/new");
    let stolen = json!({"password": exported["password"]});
    answers.push(
        send(&api, Method::PUT, &other, &stolen)
            .await?
            .expect(422)?,
    );

    for read in [
        path.clone(),
        documents.clone(),
        format!("{path}?revision=1"),
        format!("{path}/history"),
        format!("/v1/collections/{DATABASES}/history"),
        format!("/v1/collections/{DATABASES}/changes?since=0"),
        "/v1/snapshot".to_owned(),
        "/v1/replicas".to_owned(),
        "/v1/dead-letters".to_owned(),
        "/metrics".to_owned(),
    ] {
        answers.push(api.get(&read).await?.expect(200)?);
    }
    for subscriber in &testbed.subscribers {
        for read in [&path, &documents, "/v1/status", "/metrics"] {
            answers.push(subscriber.api().get(read).await?.expect(200)?);
        }
    }
    for answer in &answers {
        ensure!(!answer.body.contains(CANARY), "{}", answer.body);
    }
    // What is searched is the stored form.
    let search = format!("/v1/collections/{DATABASES}/history?text={CANARY}");
    let found = api.get(&search).await?.expect(200)?.json()?;
    ensure!(found["items"] == json!([]), "{found}");

    let revealed = api.get(&format!("{path}?reveal=true")).await?.expect(200)?;
    ensure!(revealed.json()?["configData"] == plain, "another value");
    ensure!(revealed.header("cache-control") == "no-store");
    ensure!(revealed.header("etag").is_empty());
    let past = api.get(&format!("{path}?reveal=true&revision=1")).await?;
    past.expect(400)?;
    api.get(&format!("{documents}?reveal=true"))
        .await?
        .expect(400)?;

    // Another key: everything is wrapped again, and the old key can go.
    fs::write(keys_file, keys("b", &[("b", KEY_B), ("a", KEY_A)]))?;
    eventually("all secrets are wrapped by the new key", async || {
        let list = api.get(&documents).await?.expect(200)?.body;
        ensure!(!list.contains("v1.a.") && list.contains("v1.b."), "{list}");
        Ok(())
    })
    .await?;
    fs::write(keys_file, keys("b", &[("b", KEY_B)]))?;
    let metrics = api.get("/metrics").await?.body;
    ensure!(
        metrics.contains("confcast_secrets_to_rewrap 0\n"),
        "{metrics}"
    );
    let history = api.get(&format!("{path}/history")).await?.body;
    ensure!(history.contains("secret key rotation"), "{history}");
    until_read(replica, "db", &first, 1).await?;
    let patch = json!({"port": 9});
    eventually(
        "the publisher has no other key than the new one",
        async || {
            send(&api, Method::PATCH, &path, &patch)
                .await?
                .expect(200)?;
            Ok(())
        },
    )
    .await?;
    until_read(replica, "db", &first, 9).await
}

/// A text as `Debug` of raw BSON shows it.
fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_database_has_secrets_only_in_their_sealed_form() -> Outcome {
    let store = Store::start(StoreKind::Mongo).await?;
    let folder = tempfile::tempdir()?;
    write_schema(folder.path())?;
    let publisher = store.publisher()?;
    let mut publisher = publisher
        .with("AURA_CONFIGURATION_COLLECTIONS", DATABASES)
        .with(
            "AURA_CONFIGURATION_SCHEMAS_DIR",
            folder.path().display().to_string(),
        )
        .with("AURA_CONFIGURATION_SECRET_KEYS", keys("a", &[("a", KEY_A)]));
    publisher.start().await?;
    let api = publisher.api();
    let plain = json!({"id": "db", "password": CANARY, "servers": [{"token": [CANARY]}]});
    api.create(DATABASES, &plain).await?.expect(201)?;
    let path = format!("/v1/collections/{DATABASES}/documents/db");
    let mut read = api.get(&path).await?.expect(200)?.json()?["configData"].take();
    read["port"] = json!(2);
    send(&api, Method::PUT, &path, &read).await?.expect(200)?;
    let stored = api.get(&path).await?.expect(200)?;
    ensure!(stored.json()?["configData"] == read, "{}", stored.body);
    let revealed = api.get(&format!("{path}?reveal=true")).await?.expect(200)?;
    ensure!(revealed.json()?["configData"]["password"] == CANARY);
    let mongod = store.0.as_ref().context("a server")?;
    let database = mongod.database("confcast").await?;
    for name in database.list_collection_names().await? {
        let mut rows = database
            .collection::<Document>(&name)
            .find(Document::new())
            .await?;
        while rows.advance().await? {
            let row = format!("{:?}", rows.current());
            ensure!(
                !row.contains(&hex(CANARY)) && !row.contains(CANARY),
                "{name}: {row}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_a_key_writes_of_secrets_are_refused_with_the_remedy() -> Outcome {
    let mut publisher = Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", DATABASES);
    let schemas = tempfile::tempdir()?;
    write_schema(schemas.path())?;
    publisher.set(
        "AURA_CONFIGURATION_SCHEMAS_DIR",
        schemas.path().display().to_string(),
    );
    publisher.start().await?;
    let api = publisher.api();
    let path = format!("/v1/collections/{DATABASES}/documents");
    let secret = json!({"id": "db", "password": CANARY});
    let refused = send(&api, Method::POST, &path, &secret)
        .await?
        .expect(500)?;
    ensure!(refused.body.contains("no-secret-key"), "{}", refused.body);
    ensure!(refused.body.contains("AURA_CONFIGURATION_SECRET_KEYS_FILE"));
    let open = json!({"id": "db", "port": 1});
    send(&api, Method::POST, &path, &open).await?.expect(201)?;
    ensure!(publisher.output().contains("there is no key for them"));
    Ok(())
}

/// A document whose password is in a secret store.
#[derive(Debug, Deserialize)]
struct Vaulted {
    vault: Secret<String>,
}

#[tokio::test]
async fn a_reference_is_resolved_at_the_sidecar_refreshed_and_kept_while_it_is_away() -> Outcome {
    let mut publisher = Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", DATABASES);
    let folder = tempfile::tempdir()?;
    write_schema(folder.path())?;
    publisher.set(
        "AURA_CONFIGURATION_SCHEMAS_DIR",
        folder.path().display().to_string(),
    );
    publisher.start().await?;
    let secrets = folder.path().join("secrets.json");
    let write =
        |password: &str| fs::write(&secrets, json!({"db": {"password": password}}).to_string());
    write(&format!("{CANARY}-1"))?;
    let redis = Redis::start().await?;
    let mut sidecar = Sidecar::new("secret-service", publisher.port(), "service-1", &redis)?;
    sidecar.add_component(
        "vault",
        &format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: vault\nspec:\n  type: \
             secretstores.local.file\n  version: v1\n  metadata:\n  - name: secretsFile\n    value: {}\n  \
             - name: multiValued\n    value: \"true\"\n",
            secrets.display()
        ),
    )?;
    sidecar.start().await?;

    let api = publisher.api();
    let document = |key: &str| {
        let reference = json!({"store": "vault", "key": key, "member": "password"});
        json!({"id": key, "vault": {"$secretRef": reference}})
    };
    api.create(DATABASES, &document("db")).await?.expect(201)?;
    api.create(DATABASES, &document("missing"))
        .await?
        .expect(201)?;
    let wrong = json!({"id": "wrong", "vault": CANARY});
    let refused = api.create(DATABASES, &wrong).await?.expect(422)?;
    ensure!(!refused.body.contains(CANARY), "{}", refused.body);

    let config = Config::new("service-1", [publisher.url()], [DATABASES])?;
    let url = format!("http://127.0.0.1:{}", sidecar.http_port()).parse()?;
    let store = SecretStore::new(url)
        .allow("vault", "")
        .refresh(Duration::from_secs(3));
    let replica = Builder::new(config)
        .collection::<Vaulted>(DATABASES)?
        .first_load(FirstLoad::Partial)
        .secret_store(store)
        .build()?;
    let mut outcome = Ok(());
    replica
        .run(async { outcome = follow(&replica, &mut sidecar, &write).await })
        .await;
    outcome?;
    ensure!(files_with_canary(publisher.folder())?.is_empty());
    Ok(())
}

async fn follow(
    replica: &Replica,
    sidecar: &mut Sidecar,
    write: &impl Fn(&str) -> std::io::Result<()>,
) -> Outcome {
    let databases = replica.collection::<Vaulted>(DATABASES)?;
    let read = |id: &str| Some(databases.get(id)?.vault.expose().clone());
    replica.ready().await?;
    let first = format!("{CANARY}-1");
    ensure!(read("db") == Some(first.clone()), "at the first load");
    ensure!(read("missing").is_none());
    let status = serde_json::to_string(&replica.status())?;
    ensure!(
        status.contains("the store has no such secret") || status.contains("the sidecar answers"),
        "{status}"
    );
    ensure!(!status.contains(CANARY), "{status}");
    let raw = replica
        .view()
        .root()
        .get(&DATABASES.parse()?, &"db".parse()?)
        .context("held")?
        .clone();
    ensure!(String::from_utf8_lossy(raw.config_data()).contains("$secretRef"));

    sidecar.kill()?;
    ensure!(read("db") == Some(first), "the last value stays");
    let second = format!("{CANARY}-2");
    write(&second)?;
    sidecar.start().await?;
    eventually("the new value is read", async || {
        ensure!(read("db") == Some(second.clone()));
        Ok(())
    })
    .await
}
