//! The publisher as an HTTP server: RFC 9110 to 9112 at its routes, with requests as they are on the
//! wire.

use serde_json::Value;

use super::{
    Outcome,
    testbed::{Answer, Testbed, with_publisher},
};

const LIST: &str = "/v1/collections/Skills/documents";
const DOCUMENT: &str = "/v1/collections/Skills/documents/x";
const JSON: &str = "Content-Type: application/json\r\n";
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
async fn an_old_client_gets_no_chunks_and_head_has_no_body() -> Outcome {
    with_publisher(&[], async |publisher| {
        create(publisher).await?;
        for path in READS {
            let old = publisher
                .raw(&format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"))
                .await?;
            let old = Answer::read(&old)?;
            assert_eq!(old.header("transfer-encoding"), None, "{path} {old:?}");
            // Two requests at once: the answer to HEAD must not depend on the next request.
            let pair = publisher
                .raw(&format!(
                    "HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n\
                     GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                ))
                .await?;
            let head = Answer::read(&pair)?;
            assert!(
                head.body.starts_with("HTTP/1.1 204"),
                "{path}: the next answer follows at once: {pair}"
            );
            assert_eq!(head.status, old.status, "{path}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_unknown_or_repeated_query_parameter_is_refused_by_name() -> Outcome {
    with_publisher(&[], async |publisher| {
        create(publisher).await?;
        let lines = READS.map(|path| format!("GET {path}"));
        let writes = [
            format!("POST {LIST}"),
            format!("PUT {DOCUMENT}"),
            format!("PATCH {DOCUMENT}"),
            format!("DELETE {DOCUMENT}"),
            "POST /v1/changes".to_owned(),
            "POST /v1/epoch".to_owned(),
            "PUT /v1/replicas/r".to_owned(),
        ];
        for line in lines.iter().chain(&writes) {
            let mark = if line.contains('?') { '&' } else { '?' };
            let answer = publisher
                .ask(&format!("{line}{mark}dry-run=true"), JSON, "{}")
                .await?;
            assert_eq!(answer.status, 400, "{line} {answer:?}");
            let problem: Value = serde_json::from_str(&answer.body)?;
            assert_eq!(problem["field"], "dry-run", "{line}");
        }
        let twice = "GET /v1/collections?collections=Skills&collections=Agents";
        let answer = publisher.ask(twice, "", "").await?;
        assert_eq!(answer.problem(), "bad-request");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_entity_tag_gives_304_and_412() -> Outcome {
    with_publisher(&[], async |publisher| {
        create(publisher).await?;
        let mut tagged = 0;
        for path in READS {
            let line = format!("GET {path}");
            let Some(etag) = publisher.ask(&line, "", "").await?.header("etag") else {
                continue;
            };
            tagged += 1;
            for known in [
                etag.clone(),
                format!("W/{etag}"),
                format!("\"other\", {etag}"),
            ] {
                let headers = format!("If-None-Match: {known}\r\n");
                let answer = publisher.ask(&line, &headers, "").await?;
                assert_eq!(
                    (answer.status, answer.header("etag"), answer.body.as_str()),
                    (304, Some(etag.clone()), ""),
                    "{path}"
                );
            }
            let answer = publisher.ask(&line, "If-Match: \"other\"\r\n", "").await?;
            assert_eq!(answer.problem(), "condition-failed", "{path}");
        }
        assert!(tagged >= 3, "{tagged}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_condition_of_a_write_may_be_a_list_and_weak_and_is_never_ignored() -> Outcome {
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
        for (value, condition) in [
            (2, (|etag| format!("W/{etag}")) as fn(&str) -> String),
            (3, |etag| format!("\"7\", {etag}")),
            (5, |etag| format!("{}-gzip\"", etag.trim_end_matches('"'))),
        ] {
            let answer = put(&condition(&etag), value).await?;
            assert_eq!(answer.status, 200, "{answer:?}");
            etag = answer.header("etag").unwrap_or_default();
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
