//! The publisher as an HTTP server: RFC 9110 to 9112 at its routes, with requests as they are on the
//! wire.

use serde_json::{Value, json};

use super::{
    Outcome,
    testbed::{Answer, Testbed, with_publisher},
    wire,
};

const LIST: &str = "/v1/collections/Skills/documents";
const DOCUMENT: &str = "/v1/collections/Skills/documents/x";
const JSON: &str = "Content-Type: application/json\r\n";
const MERGE_PATCH: &str = "Content-Type: application/merge-patch+json\r\n";
/// Every path that answers GET; the feed with a position.
const READS: [&str; 14] = [
    "/v1/collections",
    "/v1/collections/Skills",
    LIST,
    DOCUMENT,
    "/v1/snapshot",
    "/v1/changes?since=Skills:0",
    "/v1/collections/Skills/changes?since=0",
    "/v1/replicas",
    "/v1/schemas",
    "/v1/schemas/ApplicationConfiguration",
    "/openapi.json",
    "/metrics",
    "/healthz",
    "/readyz",
];

async fn create(publisher: &Testbed) -> Outcome {
    let body = r#"{"id":"x","v":1}"#;
    let answer = publisher.ask(&format!("POST {LIST}"), JSON, body).await?;
    assert_eq!(answer.status, 201, "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn the_reads_keep_to_http() -> Outcome {
    with_publisher(&[], async |publisher| {
        create(publisher).await?;
        for number in 0..200 {
            let body = format!(
                r#"{{"id":"large-{number}","text":"{}"}}"#,
                "y".repeat(5_000)
            );
            publisher.ask(&format!("POST {LIST}"), JSON, &body).await?;
        }
        wire::keeps_to_http(publisher.address(), &READS, 3).await
    })
    .await
}

#[tokio::test]
async fn every_400_names_the_field_or_the_place_in_the_body() -> Outcome {
    let changes = |changes: &str| format!(r#"{{"changes":[{changes}]}}"#);
    let no_op = changes(r#"{"collection":"Skills","id":"a"}"#);
    let bad_op = changes(r#"{"collection":"Skills","op":"Upsert","id":"a"}"#);
    let bad_id = changes(r#"{"collection":"Skills","op":"Delete","id":"a/b"}"#);
    let no_value = changes(r#"{"collection":"Skills","op":"Create","id":"a"}"#);
    let twice = changes(
        r#"{"collection":"Skills","op":"Delete","id":"x"},{"collection":"Skills","op":"Delete","id":"x"}"#,
    );
    let post = format!("POST {LIST}");
    let put = format!("PUT {DOCUMENT}");
    let patch = format!("PATCH {DOCUMENT}");
    let set = "POST /v1/changes";
    let replica = "PUT /v1/replicas/r";
    let feed = "GET /v1/collections/Skills/changes";
    let condition = format!("{JSON}If-Match: 7\r\n");
    let correlation = format!("{JSON}X-Correlation-Id: a b\r\n");
    let check_in = |members: &str| {
        format!(r#"{{"instance":"r","bootId":"b","intervalMs":1000,"collections":{{}}{members}}}"#)
    };
    let bad_url = check_in(r#","baseUrl":"ftp://h""#);
    let bad_revision = check_in("").replace("{}", r#"{"A":{"revision":"x"}}"#);
    let other_instance = check_in("").replace(r#""r""#, r#""s""#);
    let cases: &[wire::Refused<'_>] = &[
        (&post, JSON, "", ("pointer", "")),
        (&post, JSON, "[]", ("pointer", "")),
        (&post, JSON, "a: 1", ("pointer", "")),
        (&post, JSON, r#"{"a":{"b":1e999}}"#, ("pointer", "/a/b")),
        (&post, JSON, r#"{"id":7}"#, ("pointer", "/id")),
        (&post, JSON, r#"{"id":"a/b"}"#, ("pointer", "/id")),
        (&put, JSON, r#"{"id":"y"}"#, ("pointer", "/id")),
        (&put, JSON, "\u{feff}[]", ("pointer", "")),
        (&put, &condition, "{}", ("field", "If-Match")),
        (&put, &correlation, "{}", ("field", "X-Correlation-Id")),
        (&patch, MERGE_PATCH, "7", ("pointer", "")),
        (
            "GET /v1/collections/Skills/documents/a%20b",
            "",
            "",
            ("field", "id"),
        ),
        (&format!("GET {LIST}?limit=x"), "", "", ("field", "limit")),
        (
            "GET /v1/snapshot?collections=a&collections=b",
            "",
            "",
            ("field", "collections"),
        ),
        (feed, "", "", ("field", "since")),
        (&format!("{feed}?since=x"), "", "", ("field", "since")),
        (
            &format!("{feed}?since=0&limit=x"),
            "",
            "",
            ("field", "limit"),
        ),
        ("GET /v1/changes?since=Skills", "", "", ("field", "since")),
        (set, JSON, "{}", ("pointer", "")),
        (set, JSON, r#"{"changes":7}"#, ("pointer", "/changes")),
        (set, JSON, r#"{"changes":[]}"#, ("pointer", "/changes")),
        (set, JSON, &no_op, ("pointer", "/changes/0")),
        (set, JSON, &bad_op, ("pointer", "/changes/0/op")),
        (set, JSON, &bad_id, ("field", "id")),
        (set, JSON, &no_value, ("pointer", "/changes/0/configData")),
        (set, JSON, &twice, ("pointer", "/changes/1/id")),
        (replica, JSON, "{}", ("pointer", "")),
        (replica, JSON, &bad_url, ("pointer", "/baseUrl")),
        (
            replica,
            JSON,
            &bad_revision,
            ("pointer", "/collections/A/revision"),
        ),
        (replica, JSON, &other_instance, ("pointer", "/instance")),
        ("POST /v1/epoch", JSON, "[]", ("pointer", "")),
        (
            "POST /v1/epoch",
            JSON,
            r#"{"counter":"x"}"#,
            ("pointer", "/counter"),
        ),
        (
            "POST /v1/repair",
            JSON,
            r#"{"apply":7}"#,
            ("pointer", "/apply"),
        ),
        (
            "POST /v1/repair",
            JSON,
            r#"{"collections":["Skills",7]}"#,
            ("pointer", "/collections/1"),
        ),
    ];
    with_publisher(&[], async |publisher| {
        create(publisher).await?;
        wire::refusals_name_the_culprit(publisher.address(), cases).await
    })
    .await
}

#[tokio::test]
async fn an_unknown_query_parameter_of_a_write_is_refused_by_name() -> Outcome {
    with_publisher(&[], async |publisher| {
        create(publisher).await?;
        let writes = [
            format!("POST {LIST}"),
            format!("PUT {DOCUMENT}"),
            format!("PATCH {DOCUMENT}"),
            format!("DELETE {DOCUMENT}"),
            "POST /v1/changes".to_owned(),
            "POST /v1/epoch".to_owned(),
            "PUT /v1/replicas/r".to_owned(),
        ];
        for line in &writes {
            let answer = publisher
                .ask(&format!("{line}?dry-run=true"), JSON, "{}")
                .await?;
            assert_eq!(answer.status, 400, "{line} {answer:?}");
            let problem: Value = serde_json::from_str(&answer.body)?;
            assert_eq!(problem["field"], "dry-run", "{line}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_condition_of_a_write_may_be_a_list_and_is_compared_strongly_and_never_ignored() -> Outcome
{
    with_publisher(&[], async |publisher| {
        create(publisher).await?;
        let put = async |condition: &str, value: u8| {
            let headers = format!("{JSON}If-Match: {condition}\r\n");
            let body = format!("{{\"id\":\"x\",\"v\":{value}}}");
            publisher
                .ask(&format!("PUT {DOCUMENT}"), &headers, &body)
                .await
        };
        for (condition, status) in [
            ("\"7\", \"8\"", 412),
            ("\"foreign\"", 412),
            ("7", 400),
            ("\"7", 400),
            ("W/\"7\"", 412),
        ] {
            assert_eq!(put(condition, 9).await?.status, status, "{condition}");
        }
        let mut etag = publisher
            .ask(&format!("GET {DOCUMENT}"), "", "")
            .await?
            .header("etag")
            .unwrap_or_default();
        // A weak tag never matches `If-Match` (RFC 9110 section 13.1.1).
        assert_eq!(put(&format!("W/{etag}"), 9).await?.status, 412);
        for (value, condition) in [
            (2, (|etag| format!("W/\"1\", {etag}")) as fn(&str) -> String),
            (3, |etag| format!("\"7\", {etag}")),
            (5, |etag| format!("{}-gzip\"", etag.trim_end_matches('"'))),
        ] {
            let answer = put(&condition(&etag), value).await?;
            assert_eq!(answer.status, 200, "{answer:?}");
            etag = answer.header("etag").unwrap_or_default();
        }
        // Both fields, and tags that must not match: evaluated and not ignored (RFC 9110 section 13.2.2).
        for (value, expected, known, status) in [
            (6, etag.clone().as_str(), "\"7\"", 200),
            (7, "*", "*", 412),
            (7, "\"foreign\"", "\"7\"", 412),
            (7, "*", "\"foreign\"", 200),
        ] {
            let headers = format!("{JSON}If-Match: {expected}\r\nIf-None-Match: {known}\r\n");
            let body = format!("{{\"id\":\"x\",\"v\":{value}}}");
            let line = format!("PUT {DOCUMENT}");
            let answer = publisher.ask(&line, &headers, &body).await?;
            assert_eq!(answer.status, status, "{headers} {answer:?}");
            etag = answer.header("etag").unwrap_or(etag);
            let headers = format!("{JSON}If-None-Match: \"7\", {etag}\r\n");
            let answer = publisher.ask(&line, &headers, &body).await?;
            assert_eq!(answer.problem(), "condition-failed", "{headers}");
        }
        let set = r#"{"changes":[{"collection":"Skills","op":"Delete","id":"x"}]}"#;
        for (line, body) in [
            (format!("POST {LIST}"), r#"{"id":"new"}"#),
            ("POST /v1/changes".to_owned(), set),
            ("POST /v1/epoch".to_owned(), "{}"),
        ] {
            let headers = format!("{JSON}If-Match: \"1\"\r\n");
            let answer = publisher.ask(&line, &headers, body).await?;
            assert_eq!(answer.problem(), "condition-failed", "{line}");
        }
        let headers = format!("{JSON}If-None-Match: *\r\n");
        let body = r#"{"id":"new"}"#;
        let created = publisher
            .ask(&format!("POST {LIST}"), &headers, body)
            .await?;
        assert_eq!(created.status, 201);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_failed_condition_answers_what_is_there_and_which_change_made_it() -> Outcome {
    with_publisher(&[], async |publisher| {
        create(publisher).await?;
        let author = "X-User-Id: ada\r\nX-Change-Reason: a typing error\r\n";
        let line = format!("PUT {DOCUMENT}");
        let headers = format!("{JSON}{author}");
        let put = publisher.ask(&line, &headers, r#"{"v":2}"#).await?;
        assert_eq!(put.status, 200);

        let set = |expected: &str| {
            let other = r#"{"collection":"Skills","op":"Create","id":"other","configData":{}}"#;
            let change = r#"{"collection":"Skills","op":"Delete","id":"x","expected""#;
            format!(r#"{{"changes":[{other},{change}:{expected}}}]}}"#)
        };
        let stale = format!("{JSON}If-Match: \"1\"\r\n");
        let refused = [
            publisher.ask(&line, &stale, r#"{"v":3}"#).await?,
            publisher.ask("POST /v1/changes", JSON, &set("1")).await?,
            publisher
                .ask("POST /v1/changes", JSON, &set("\"absent\""))
                .await?,
            publisher
                .ask("POST /v1/changes", JSON, &set("\"2-00000000\""))
                .await?,
        ];
        for (case, answer) in refused.iter().enumerate() {
            assert_eq!(answer.status, 412, "{answer:?}");
            let problem: Value = serde_json::from_str(&answer.body)?;
            assert_eq!(problem["current"]["revision"], 2, "{problem}");
            assert_eq!(
                problem["current"]["configData"],
                json!({"v": 2}),
                "{problem}"
            );
            let change = &problem["lastChange"];
            assert_eq!(change["userId"], "ada", "{problem}");
            assert_eq!(change["reason"], "a typing error", "{problem}");
            assert_eq!(change["op"], "Update", "{problem}");
            let index = if case == 0 { Value::Null } else { json!(1) };
            assert_eq!(problem["index"], index, "{problem}");
        }
        let exists = format!("{JSON}If-None-Match: *\r\n");
        let answer = publisher.ask(&line, &exists, r#"{"v":3}"#).await?;
        let problem: Value = serde_json::from_str(&answer.body)?;
        assert_eq!(problem["current"]["revision"], 2, "{problem}");

        let line = format!("PUT {LIST}/missing");
        let answer = publisher.ask(&line, &stale, "{}").await?;
        let problem: Value = serde_json::from_str(&answer.body)?;
        assert!(problem["current"].is_null() && problem.get("current").is_some());

        let present = set("\"present\"");
        let answer = publisher.ask("POST /v1/changes", JSON, &present).await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_content_coding_is_415_and_no_acceptable_type_is_406() -> Outcome {
    with_publisher(&[], async |publisher| {
        create(publisher).await?;
        for line in [format!("POST {LIST}"), format!("PUT {DOCUMENT}")] {
            let headers = format!("{JSON}Content-Encoding: gzip\r\n");
            let answer = publisher.ask(&line, &headers, "{}").await?;
            assert_eq!(answer.problem(), "media-type", "{line}");
            assert_eq!(
                answer.header("accept-encoding").as_deref(),
                Some("identity")
            );
        }
        for (path, accept, expected) in [
            (LIST, "application/x-ndjson;q=0, */*", "application/json"),
            (
                LIST,
                "application/json;q=0.1, application/x-ndjson",
                "application/x-ndjson",
            ),
            (LIST, "application/json;q=0", ""),
            (
                "/v1/collections/Skills/changes?since=0",
                "text/event-stream;q=0, */*",
                "application/json",
            ),
            ("/v1/collections/Skills/changes?since=0", "text/html", ""),
            (
                "/metrics",
                "*/*",
                "text/plain; version=0.0.4; charset=utf-8",
            ),
            (
                "/metrics",
                "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ),
        ] {
            let headers = format!("Accept: {accept}\r\n");
            let answer = publisher.ask(&format!("GET {path}"), &headers, "").await?;
            match expected {
                "" => assert_eq!(answer.problem(), "not-acceptable", "{path} {accept}"),
                expected => assert_eq!(
                    answer.header("content-type").as_deref(),
                    Some(expected),
                    "{path} {accept}"
                ),
            }
            let vary = answer.header("vary").unwrap_or_default();
            assert!(expected.is_empty() || path.contains("changes") || vary.contains("Accept"));
        }
        let stream = publisher
            .raw("GET /v1/changes HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
            .await?;
        let cache = Answer::read(&stream)?.header("cache-control");
        assert_eq!(cache.as_deref(), Some("no-store, no-transform"));
        Ok(())
    })
    .await
}
