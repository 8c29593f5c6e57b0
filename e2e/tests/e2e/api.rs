//! The document API with both stores. Events are switched off; writes must work without them.

use contract::{CanonicalJson, Problem};
use e2e::{
    client::{Answer, Api, document_path},
    testbed::{FREE, Store, StoreKind, numbered, services::Service},
};
use reqwest::Method;
use serde_json::json;

mod lists;
mod refusals;

type Outcome = anyhow::Result<()>;

async fn quiet_publisher(kind: StoreKind) -> anyhow::Result<(Store, Service)> {
    let store = Store::start(kind).await?;
    let mut publisher = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    Ok((store, publisher))
}

fn problem(answer: &Answer) -> Problem {
    assert_eq!(
        answer.header("content-type"),
        "application/problem+json",
        "{}",
        answer.body
    );
    serde_json::from_str(&answer.body).expect("a problem")
}

#[tokio::test]
async fn the_document_api_works_with_the_embedded_store() -> Outcome {
    let (_store, publisher) = quiet_publisher(StoreKind::Embedded).await?;
    documents(&publisher.api()).await?;
    let mut subscriber = Service::subscriber("reader", &[publisher.url()])?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE);
    subscriber.start().await?;
    refusals::methods(&subscriber.api()).await
}

#[tokio::test]
async fn the_document_api_works_with_mongodb() -> Outcome {
    let (_store, publisher) = quiet_publisher(StoreKind::Mongo).await?;
    documents(&publisher.api()).await
}

async fn documents(api: &Api) -> Outcome {
    create_and_read(api).await?;
    update_merges_metadata(api).await?;
    patch_and_delete(api).await?;
    conditions(api).await?;
    refusals::refusals(api).await?;
    refusals::methods(api).await?;
    refusals::schemas(api).await?;
    refusals::limits(api).await?;
    lists::lists(api).await?;
    lists::a_long_list_is_of_one_moment(api).await?;
    lists::feed(api).await
}

async fn create_and_read(api: &Api) -> Outcome {
    let created = api
        .create(FREE, &json!({"id": "first", "b": 1.50, "a": [1e2, "ü"]}))
        .await?
        .expect(201)?;
    assert_eq!(created.header("location"), document_path(FREE, "first"));
    let config = CanonicalJson::parse(r#"{"a":[100,"ü"],"b":1.5,"id":"first"}"#.as_bytes())?;
    assert_eq!(
        created.json()?,
        json!({"id": "first", "revision": 1, "crc": config.crc(), "changed": true})
    );

    let read = api.document(FREE, "first").await?.expect(200)?;
    let crc = config.crc();
    assert_eq!(
        read.body,
        format!(
            r#"{{"id":"first","revision":1,"crc":"{crc}","configData":{}}}"#,
            config.as_str()
        )
    );
    assert_eq!(read.header("etag"), format!("\"1-{crc}\""));
    api.get_with(
        &document_path(FREE, "first"),
        "if-none-match",
        read.header("etag"),
    )
    .await?
    .expect(304)?;

    let exists = api
        .create(FREE, &json!({"id": "first"}))
        .await?
        .expect(409)?;
    assert_eq!(problem(&exists).etag.as_deref(), Some(read.header("etag")));
    let generated = api
        .create(FREE, &json!({"a": 1}))
        .await?
        .expect(201)?
        .json()?;
    let id = generated["id"].as_str().unwrap_or_default().to_owned();
    assert_eq!(id.len(), 36, "a UUID");
    assert_eq!(
        api.document(FREE, &id).await?.json()?["configData"],
        json!({"a": 1}),
        "the id is not put into the body"
    );
    api.delete(FREE, &id).await?.expect(200)?;
    Ok(())
}

async fn update_merges_metadata(api: &Api) -> Outcome {
    let missing = api.put(FREE, "absent", &json!({})).await?.expect(404)?;
    assert_eq!(
        problem(&missing).detail,
        "FreeForm with id: absent cannot be found"
    );
    api.create(
        FREE,
        &json!({"id": "meta", "x": 1, "metadata": {"kept": "1", "replaced": "2"}}),
    )
    .await?
    .expect(201)?;
    let updated = api
        .put(
            FREE,
            "meta",
            &json!({"y": 2, "metadata": {"replaced": "3"}}),
        )
        .await?
        .expect(200)?
        .json()?;
    let config = &api.document(FREE, "meta").await?.json()?["configData"];
    assert_eq!(
        config,
        &json!({"y": 2, "metadata": {"kept": "1", "replaced": "3"}})
    );
    let same = api
        .put(FREE, "meta", &json!({"y": 2}))
        .await?
        .expect(200)?
        .json()?;
    let mut unchanged = updated.clone();
    unchanged["changed"] = json!(false);
    assert_eq!(same, unchanged, "what changes nothing makes no revision");
    Ok(())
}

async fn patch_and_delete(api: &Api) -> Outcome {
    let patch = |body: &'static str, media_type: &'static str| {
        let api = api.clone();
        async move {
            api.send(
                Method::PATCH,
                &document_path(FREE, "patched"),
                &[("content-type", media_type)],
                body,
            )
            .await
        }
    };
    const MERGE: &str = "application/merge-patch+json";
    patch("{}", MERGE).await?.expect(404)?;
    api.create(
        FREE,
        &json!({"id": "patched", "gone": 1, "deep": {"a": 1, "b": 2}}),
    )
    .await?
    .expect(201)?;
    patch(r#"{"gone":null,"deep":{"b":3},"new":[1]}"#, MERGE)
        .await?
        .expect(200)?;
    let config = &api.document(FREE, "patched").await?.json()?["configData"];
    assert_eq!(
        config,
        &json!({"id": "patched", "deep": {"a": 1, "b": 3}, "new": [1]})
    );
    patch("{}", "text/plain").await?.expect(415)?;
    patch("[]", MERGE).await?.expect(400)?;
    let before = api.head(FREE).await?;
    let deleted = api.delete(FREE, "patched").await?.expect(200)?.json()?;
    assert_eq!(
        deleted,
        json!({"id": "patched", "revision": before.revision + 1, "changed": true})
    );
    api.document(FREE, "patched").await?.expect(404)?;
    api.delete(FREE, "patched").await?.expect(404)?;
    Ok(())
}

async fn conditions(api: &Api) -> Outcome {
    let path = document_path(FREE, "conditional");
    let put = |name: &'static str, value: String, n: u64| {
        let api = api.clone();
        let path = path.clone();
        let headers = move |value: String| {
            vec![
                ("content-type".to_owned(), "application/json".to_owned()),
                (name.to_owned(), value),
            ]
        };
        async move {
            let headers = headers(value);
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            api.send(Method::PUT, &path, &headers, numbered(n).to_string())
                .await
        }
    };
    put("if-match", "\"1\"".into(), 0).await?.expect(412)?;
    let created = put("if-none-match", "*".into(), 1).await?.expect(201)?;
    let etag = created.header("etag").to_owned();
    let taken = put("if-none-match", "*".into(), 2).await?.expect(412)?;
    assert_eq!(
        problem(&taken).etag.as_deref(),
        Some(etag.as_str()),
        "412 says what is there"
    );
    put("if-match", etag.clone(), 2).await?.expect(200)?;
    put("if-match", etag, 3).await?.expect(412)?;
    let revision = api.document(FREE, "conditional").await?.json()?["revision"].clone();
    put("if-match", format!("\"{revision}\""), 4)
        .await?
        .expect(200)?;
    put("if-match", "*".into(), 5).await?.expect(200)?;
    put("if-match", "7".into(), 5).await?.expect(400)?;
    api.send(Method::DELETE, &path, &[("if-match", "\"1\"")], "")
        .await?
        .expect(412)?;
    api.delete(FREE, "conditional").await?.expect(200)?;
    Ok(())
}
