//! Requests that a service refuses, the content of the answer, and the methods of each route.

use anyhow::ensure;
use e2e::{
    client::{Api, document_path},
    testbed::{CHANNELS, FREE, sample},
};
use reqwest::Method;
use serde_json::json;

use super::{Outcome, problem};

pub(super) async fn refusals(api: &Api) -> Outcome {
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
        ("if-match", "x"),
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
        ("?since=0&limit=x", Some("limit")),
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
    // Several lines of a header are one list. `*` stands alone.
    for (name, lines, status) in [
        ("if-match", ["*", "*"], 400),
        ("if-none-match", ["*", "*"], 400),
        ("if-match", ["\"0\"", "\"9\""], 412),
        ("if-none-match", [etag.as_str(), "\"0\""], 412),
    ] {
        let lines = lines.map(|line| (name, line));
        let answer = api.send(Method::PUT, &path, &lines, "{}").await?;
        problem(&answer.expect(status)?);
    }
    assert_eq!(
        api.head(FREE).await?,
        before,
        "a refused request left data behind"
    );
    Ok(())
}

/// The answers of both services to HEAD, to a method that does not exist, and to `If-None-Match`.
pub(super) async fn methods(api: &Api) -> Outcome {
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
            // How a body is framed says nothing where there is none (RFC 9112 section 6.1).
            get.headers.remove("transfer-encoding");
            head.headers.remove("transfer-encoding");
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

pub(super) async fn schemas(api: &Api) -> Outcome {
    let mut channel = sample(CHANNELS)?;
    api.create(CHANNELS, &channel).await?.expect(201)?;
    channel["notInTheSchema"] = json!(true);
    let id = channel["id"].as_str().unwrap_or_default().to_owned();
    let refused = problem(&api.put(CHANNELS, &id, &channel).await?.expect(422)?);
    assert_eq!(
        (refused.kind, refused.pointer.as_deref()),
        (contract::ProblemKind::Schema, Some(""))
    );
    // A patch is checked by its result.
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

pub(super) async fn limits(api: &Api) -> Outcome {
    let longest = "i".repeat(128);
    let too_long = "i".repeat(129);
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
