//! The document API on both stores. Nothing is sent here: events are switched off, and writes work
//! all the same.

use anyhow::ensure;
use contract::{CanonicalJson, Digest, FeedPage, Operation, Problem, snapshot};
use e2e::{
    client::{Answer, Api, document_path},
    testbed::{CHANNELS, FREE, Store, StoreKind, numbered, sample, services::Service},
};
use futures_util::future::try_join_all;
use reqwest::Method;
use serde_json::{Value, json};

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
async fn documents_embedded() -> Outcome {
    let (_store, publisher) = quiet_publisher(StoreKind::Embedded).await?;
    documents(&publisher.api()).await?;
    let mut subscriber = Service::subscriber("reader", &[publisher.url()])?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE);
    subscriber.start().await?;
    methods(&subscriber.api()).await
}

#[tokio::test]
async fn documents_mongo() -> Outcome {
    let (_store, publisher) = quiet_publisher(StoreKind::Mongo).await?;
    documents(&publisher.api()).await
}

async fn documents(api: &Api) -> Outcome {
    create_and_read(api).await?;
    update_merges_metadata(api).await?;
    patch_and_delete(api).await?;
    conditions(api).await?;
    refusals(api).await?;
    methods(api).await?;
    schemas(api).await?;
    limits(api).await?;
    lists(api).await?;
    a_long_list_is_of_one_moment(api).await?;
    feed(api).await
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
        json!({"id": "first", "revision": 1, "crc": config.crc()})
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
    assert_eq!(same, updated, "what changes nothing makes no revision");
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
        json!({"id": "patched", "revision": before.revision + 1})
    );
    api.document(FREE, "patched").await?.expect(404)?;
    api.delete(FREE, "patched").await?.expect(404)?;
    Ok(())
}

async fn conditions(api: &Api) -> Outcome {
    let path = document_path(FREE, "conditional");
    let put = |name: &'static str, value: String, n: u64| {
        let (api, path) = (api.clone(), path.clone());
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

async fn refusals(api: &Api) -> Outcome {
    let before = api.head(FREE).await?;
    let post = async |body: &str| {
        api.send(
            Method::POST,
            &format!("/v1/collections/{FREE}/documents"),
            &[],
            body,
        )
        .await
    };
    for (body, pointer) in [
        ("{", ""),
        ("[]", ""),
        (r#"{"a":1,"a":2}"#, "/a"),
        (r#"{"a":{"b\u0000":1}}"#, "/a/b\0"),
        (r#"{"a":["\ud800"]}"#, "/a/0"),
        (r#"{"a":9223372036854775808}"#, "/a"),
        (r#"{"a":1e999}"#, "/a"),
        (r#"{"id":7}"#, "/id"),
        (r#"{"id":"not an id"}"#, "/id"),
    ] {
        let answer = post(body).await?.expect(400)?;
        assert_eq!(
            problem(&answer).pointer.as_deref(),
            Some(pointer),
            "{body}: {}",
            answer.body
        );
    }
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(64), "]".repeat(64));
    post(&deep).await?.expect(400)?;
    let other_id = api
        .put(FREE, "first", &json!({"id": "second"}))
        .await?
        .expect(400)?;
    assert_eq!(problem(&other_id).pointer.as_deref(), Some("/id"));
    assert_eq!(
        problem(
            &api.get("/v1/collections/Unknown/documents")
                .await?
                .expect(404)?
        )
        .field
        .as_deref(),
        Some("collection")
    );
    assert_eq!(
        problem(&api.get(&document_path(FREE, "a%20b")).await?.expect(400)?)
            .field
            .as_deref(),
        Some("id")
    );
    api.get("/v1/nothing").await?.expect(404)?;
    for (name, value) in [
        ("x-correlation-id", "has space"),
        ("x-correlation-id", ""),
        ("if-match", "\"x\""),
    ] {
        let answer = api
            .send(
                Method::PUT,
                &document_path(FREE, "first"),
                &[(name, value)],
                "{}",
            )
            .await?
            .expect(400)?;
        assert!(problem(&answer).field.is_some());
    }
    for (query, field) in [
        ("", Some("since")),
        ("?since=0&since=1", Some("since")),
        ("?since=0&limit=x", None),
        ("?since=%FF", Some("since")),
    ] {
        let answer = api
            .get(&format!("/v1/collections/{FREE}/changes{query}"))
            .await?
            .expect(400)?;
        assert_eq!(problem(&answer).field.as_deref(), field, "{query}");
    }
    let twice = problem(
        &api.get("/v1/collections?collections=a&collections=b")
            .await?
            .expect(400)?,
    );
    assert_eq!(twice.field.as_deref(), Some("collections"));
    problem(&api.get("/v1/collections/%FF").await?.expect(404)?);
    let path = document_path(FREE, "first");
    let etag = api.get(&path).await?.header("etag").to_owned();
    for name in ["if-match", "if-none-match"] {
        for lines in
            [[etag.as_str(), "\"0\""], ["*", "*"]].map(|lines| lines.map(|line| (name, line)))
        {
            problem(
                &api.send(Method::PUT, &path, &lines, "{}")
                    .await?
                    .expect(400)?,
            );
        }
    }
    assert_eq!(
        api.head(FREE).await?,
        before,
        "what was refused left nothing behind"
    );
    Ok(())
}

/// What both services say of HEAD, of a method that is not there, and of `If-None-Match`.
async fn methods(api: &Api) -> Outcome {
    let list = format!("/v1/collections/{FREE}/documents");
    let one = document_path(FREE, "first");
    let ndjson = ("accept", "application/x-ndjson");
    for path in [
        "/v1/collections",
        &format!("/v1/collections/{FREE}"),
        &list,
        &one,
        "/v1/snapshot",
        "/healthz",
        "/readyz",
    ] {
        for headers in [&[][..], &[ndjson]] {
            let mut get = api.send(Method::GET, path, headers, "").await?;
            let mut head = api
                .send(Method::HEAD, path, headers, "")
                .await?
                .expect(get.status)?;
            get.headers.remove("date");
            head.headers.remove("date");
            assert_eq!(
                (head.headers, head.body.as_str()),
                (get.headers, ""),
                "{path}"
            );
        }
        let refused = api.send(Method::TRACE, path, &[], "").await?.expect(405)?;
        assert!(
            refused.header("allow").starts_with("GET, HEAD"),
            "{path}: {}",
            refused.header("allow")
        );
        problem(&refused);
    }
    api.send(Method::HEAD, &document_path(FREE, "absent"), &[], "")
        .await?
        .expect(404)?;
    api.send(Method::HEAD, "/v1/nothing", &[], "")
        .await?
        .expect(404)?;

    let etags = [
        api.get(&list).await?,
        api.get_with(&list, ndjson.0, ndjson.1).await?,
    ]
    .map(|answer| {
        assert_eq!(answer.header("vary").to_lowercase(), "accept");
        answer.header("etag").to_owned()
    });
    for (form, held, status) in [
        ("application/json", &etags[0], 304),
        (ndjson.1, &etags[1], 304),
        ("application/json", &etags[1], 200),
        (ndjson.1, &etags[0], 200),
    ] {
        let lines = [
            ("accept", form),
            ("if-none-match", "\"other\""),
            ("if-none-match", held),
        ];
        api.send(Method::GET, &list, &lines, "")
            .await?
            .expect(status)?;
    }
    Ok(())
}

async fn schemas(api: &Api) -> Outcome {
    let mut channel = sample(CHANNELS)?;
    api.create(CHANNELS, &channel).await?.expect(201)?;
    channel["notInTheSchema"] = json!(true);
    let id = channel["id"].as_str().unwrap_or_default().to_owned();
    let refused = problem(&api.put(CHANNELS, &id, &channel).await?.expect(422)?);
    assert_eq!(
        (refused.kind.as_str(), refused.pointer.as_deref()),
        ("urn:confcast:problem:schema", Some(""))
    );
    // A patch is checked by what it makes.
    let patch = api
        .send(
            Method::PATCH,
            &document_path(CHANNELS, &id),
            &[],
            r#"{"metadata":{"n":5}}"#,
        )
        .await?
        .expect(422)?;
    assert_eq!(problem(&patch).pointer.as_deref(), Some("/metadata/n"));
    for collection in [
        "ApplicationConfiguration",
        "SkillConfiguration",
        "TvSectionsConfiguration",
        "PresetConfiguration",
        "AgentConfiguration",
    ] {
        api.create(collection, &sample(collection)?)
            .await?
            .expect(201)?;
        api.create(collection, &json!({})).await?.expect(422)?;
    }
    Ok(())
}

async fn limits(api: &Api) -> Outcome {
    let (longest, too_long) = ("i".repeat(128), "i".repeat(129));
    api.create(FREE, &json!({"id": longest}))
        .await?
        .expect(201)?;
    api.create(FREE, &json!({"id": too_long}))
        .await?
        .expect(400)?;
    api.delete(FREE, &longest).await?.expect(200)?;
    let of_size = |bytes: usize| json!({"x": "x".repeat(bytes - r#"{"x":""}"#.len())});
    let largest = api
        .create(FREE, &of_size(1 << 20))
        .await?
        .expect(201)?
        .json()?;
    api.create(FREE, &of_size((1 << 20) + 1))
        .await?
        .expect(413)?;
    api.create(FREE, &of_size(9 << 20)).await?.expect(413)?;
    let id = largest["id"].as_str().unwrap_or_default();
    ensure!(api.document(FREE, id).await?.body.len() > 1 << 20);
    api.delete(FREE, id).await?.expect(200)?;
    Ok(())
}

/// Lists and snapshots are of one moment, complete, and add up to their heads, while others write.
async fn lists(api: &Api) -> Outcome {
    try_join_all((0..300).map(|n| async move {
        let document = json!({"id": format!("many-{n:03}"), "text": "t".repeat(1_000)});
        api.create(FREE, &document).await?.expect(201)
    }))
    .await?;
    let writing = try_join_all((0..300).map(|n| async move {
        api.put(FREE, &format!("many-{n:03}"), &numbered(n))
            .await?
            .expect(200)
    }));
    let reading = async {
        for _again in 0..10 {
            let list = api
                .get(&format!("/v1/collections/{FREE}/documents"))
                .await?
                .expect(200)?;
            let items = list.json()?["items"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            adds_up(&list.json()?["head"], &items)?;
        }
        anyhow::Ok(())
    };
    let (_written, ()) = futures_util::future::try_join(writing, reading).await?;

    let list = api
        .get(&format!("/v1/collections/{FREE}/documents"))
        .await?
        .expect(200)?;
    let path = format!("/v1/collections/{FREE}/documents");
    api.get_with(&path, "if-none-match", list.header("etag"))
        .await?
        .expect(304)?;
    let ndjson = api
        .get_with(&path, "accept", "application/x-ndjson")
        .await?
        .expect(200)?;
    let lines: Vec<Value> = ndjson
        .body
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let (head, items, end) = (
        &lines[0]["head"],
        &lines[1..lines.len() - 1],
        &lines[lines.len() - 1],
    );
    adds_up(head, items)?;
    assert_eq!(end, &json!({"end": true, "count": items.len()}));
    assert_eq!(
        Some(items),
        list.json()?["items"].as_array().map(Vec::as_slice)
    );

    let snapshot = api
        .get(&format!("/v1/snapshot?collections={CHANNELS},{FREE}"))
        .await?
        .expect(200)?;
    let mut lines = snapshot.body.lines();
    let start: snapshot::SnapshotStart = serde_json::from_str(lines.next().unwrap_or_default())?;
    assert_eq!(
        start
            .heads
            .iter()
            .map(|head| head.collection.as_str())
            .collect::<Vec<_>>(),
        [CHANNELS, FREE]
    );
    let rest: Vec<_> = lines
        .map(|line| snapshot::SnapshotLine::parse(line.as_bytes()))
        .collect::<Result<_, _>>()?;
    let count = rest.len() as u64 - 1;
    assert_eq!(
        rest.last(),
        Some(&snapshot::SnapshotLine::End(snapshot::SnapshotEnd {
            end: true,
            count
        }))
    );
    assert_eq!(
        count,
        start.heads.iter().map(|head| head.count).sum::<u64>()
    );
    Ok(())
}

/// Longer than all buffers on its way, so that it is still being read when the last document
/// changes.
async fn a_long_list_is_of_one_moment(api: &Api) -> Outcome {
    let ids: Vec<_> = (0..200).map(|n| format!("long-{n:03}")).collect();
    let text = "t".repeat(100_000);
    try_join_all(ids.iter().map(|id| {
        let document = json!({"id": id, "text": text});
        async move { api.create(FREE, &document).await?.expect(201) }
    }))
    .await?;
    let mut list = api
        .begin(&format!("/v1/collections/{FREE}/documents"))
        .await?;
    let mut body = list.chunk().await?.unwrap_or_default().to_vec();
    for id in ["long-199", "long-198"] {
        api.put(FREE, id, &numbered(1)).await?.expect(200)?;
    }
    api.delete(FREE, "long-197").await?.expect(200)?;
    while let Some(chunk) = list.chunk().await? {
        body.extend_from_slice(&chunk);
    }
    let list: Value = serde_json::from_slice(&body)?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    ensure!(
        items.iter().any(|item| item["id"] == "long-197"),
        "it was there when the list began"
    );
    adds_up(&list["head"], &items)
}

fn adds_up(head: &Value, items: &[Value]) -> Outcome {
    let head: contract::Head = serde_json::from_value(head.clone())?;
    let mut digest = Digest::default();
    for item in items {
        let config = CanonicalJson::parse(item["configData"].to_string().as_bytes())?;
        let (id, revision) = (
            item["id"].as_str().unwrap_or_default(),
            item["revision"].as_u64().unwrap_or_default(),
        );
        digest = digest.with(&id.parse()?, revision, config.crc());
    }
    ensure!(
        (head.count, head.digest) == (items.len() as u64, digest),
        "{} items do not add up to {head:?}",
        items.len()
    );
    Ok(())
}

async fn feed(api: &Api) -> Outcome {
    let head = api.head(FREE).await?;
    let mut since = 0;
    let mut last: Option<contract::Change> = None;
    loop {
        let path = format!(
            "/v1/collections/{FREE}/changes?since={since}&epoch={}&limit=200",
            head.epoch
        );
        let page: FeedPage = serde_json::from_str(&api.get(&path).await?.expect(200)?.body)?;
        for change in &page.items {
            since += 1;
            assert_eq!(
                (change.revision, change.epoch),
                (since, head.epoch),
                "gapless"
            );
            assert_eq!(change.config_data.is_none(), change.op == Operation::Delete);
            assert_eq!(
                change.config_data.as_ref().map(CanonicalJson::crc),
                change.crc
            );
        }
        last = page.items.into_iter().next_back().or(last);
        if !page.more {
            break;
        }
    }
    assert_eq!(since, head.revision);
    assert_eq!(
        last.map(|change| (change.count, change.digest)),
        Some((head.count, head.digest))
    );
    let both: FeedPage = serde_json::from_str(
        &api.get(&format!(
            "/v1/changes?since={FREE}:{},{CHANNELS}:0",
            since - 1
        ))
        .await?
        .expect(200)?
        .body,
    )?;
    assert_eq!(both.items.len(), 2);
    for (path, reason) in [
        (
            format!("/v1/collections/{FREE}/changes?since={}", head.revision + 1),
            "ahead",
        ),
        (
            format!("/v1/collections/{FREE}/changes?since=0&epoch=00000000-1"),
            "epoch",
        ),
    ] {
        assert_eq!(
            problem(&api.get(&path).await?.expect(410)?)
                .reason
                .as_deref(),
            Some(reason)
        );
    }
    api.get(&format!("/v1/collections/{FREE}/changes?since=x"))
        .await?
        .expect(400)?;
    Ok(())
}
