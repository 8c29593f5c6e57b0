//! Rights at a subscriber: every route with every role, and what a caller of one collection learns of
//! another one.

use std::{collections::BTreeMap, path::PathBuf};

use auth::SecretToken;
use contract::access::{
    Role,
    routes::{self, Access, Service},
};

use super::*;

/// The roles that may use each route; `-` for a route that needs a caller and no role, nothing for one
/// that needs no caller.
const EXPECTED: &[(&str, &str)] = &[
    (
        "GET /v1/collections",
        "reader writer publisher replica operator monitor secret-reader",
    ),
    (
        "GET /v1/collections/{collection}",
        "reader writer publisher replica operator monitor secret-reader",
    ),
    (
        "GET /v1/collections/{collection}/documents",
        "reader writer publisher replica secret-reader",
    ),
    (
        "GET /v1/collections/{collection}/documents/{id}",
        "reader writer publisher replica secret-reader",
    ),
    (
        "GET /v1/collections/{collection}/changes",
        "reader writer publisher replica secret-reader",
    ),
    (
        "GET /v1/snapshot",
        "reader writer publisher replica secret-reader",
    ),
    (
        "GET /v1/changes",
        "reader writer publisher replica secret-reader",
    ),
    ("PUT /v1/replicas/{instance}", "replica"),
    ("GET /v1/status", "operator monitor"),
    ("GET /v1/version", "operator monitor"),
    ("GET /v1/identity", "-"),
    ("GET /openapi.json", "-"),
    ("GET /metrics", "operator monitor"),
    ("GET /healthz", ""),
    ("GET /readyz", ""),
];

/// A file of tokens, which is removed when the test ends.
struct Tokens {
    file: PathBuf,
    by_name: BTreeMap<String, SecretToken>,
}

impl Drop for Tokens {
    fn drop(&mut self) {
        std::fs::remove_file(&self.file).ok();
    }
}

impl Tokens {
    /// Tokens by name, with these grants.
    fn new(test: &str, grants: &[(&str, Value)]) -> Self {
        let mut by_name = BTreeMap::new();
        let mut records = String::new();
        for (name, grants) in grants {
            let token = SecretToken::generate();
            let record = json!({
                "id": token.hash().id(), "name": name, "hash": token.hash(), "grants": grants,
                "createdAt": "2026-01-01T00:00:00Z", "createdBy": "test",
            });
            records += &format!("{record}\n");
            by_name.insert((*name).to_owned(), token);
        }
        let name = format!("confcast-{test}-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, records).expect("a file of tokens");
        Self { file, by_name }
    }

    fn flag(&self) -> String {
        format!("--tokens-file={}", self.file.display())
    }

    /// Sends a method and a path with the token of a caller.
    async fn send(&self, subscriber: &Subscriber, caller: &str, line: &str) -> (u16, String) {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let method = method.parse().expect("a method");
        let mut request = subscriber.client.request(method, subscriber.url(path));
        if let Some(token) = self.by_name.get(caller) {
            request = request.bearer_auth(token.expose());
        }
        if line.starts_with("PUT") {
            request = request.json(&json!({}));
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.text().await.expect("a text"))
    }
}

async fn is_ready(subscriber: &Subscriber) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while subscriber.fetch("/readyz").await.status() != 204 {
        assert!(Instant::now() < deadline, "it does not load");
        tick.tick().await;
    }
}

#[tokio::test]
async fn every_route_is_for_the_roles_that_have_its_right_and_for_no_other() {
    let grants: Vec<_> = Role::ALL
        .iter()
        .map(|role| (role.as_str(), json!([{"role": role}])))
        .collect();
    let tokens = Tokens::new("roles", &grants);
    check(
        &[&tokens.flag(), "--app-api-token=secret"],
        publisher(1, 0),
        async |subscriber| {
            is_ready(subscriber).await;
            for route in routes::ALL {
                if !route.services.contains(&Service::Subscriber) || route.access == Access::Sidecar
                {
                    continue;
                }
                let line = route.line();
                let expected = EXPECTED.iter().find(|(known, _roles)| *known == line);
                let (_line, expected) =
                    expected.unwrap_or_else(|| panic!("say which roles may send {line}"));
                let path = line
                    .replace("{collection}", "A")
                    .replace("{instance}", "r")
                    .replace("{id}", "x");
                let (status, _text) = tokens.send(subscriber, "", &path).await;
                assert_eq!(status == 401, !expected.is_empty(), "{line}: {status}");
                for role in Role::ALL {
                    let (status, text) = tokens.send(subscriber, role.as_str(), &path).await;
                    let allowed = matches!(*expected, "" | "-")
                        || expected.split(' ').any(|known| known == role.as_str());
                    assert_eq!(status == 403, !allowed, "{role}: {line}: {text}");
                    assert_ne!(status, 401, "{role}: {line}: {text}");
                }
            }
            // Where its publisher is, a caller without a credential does not learn on any path.
            for line in [
                "GET /dapr/x",
                "POST /readyz",
                "PUT /healthz",
                "OPTIONS /dapr/subscribe",
            ] {
                let (status, text) = tokens.send(subscriber, "", line).await;
                assert!([404, 405].contains(&status), "{line}: {status} {text}");
                assert!(!text.contains("http"), "{line}: {text}");
            }
            let (_status, text) = tokens.send(subscriber, "reader", "POST /v1/identity").await;
            assert!(text.contains("ask its publisher (http"), "{text}");
            let (_status, metrics) = tokens.send(subscriber, "monitor", "GET /metrics").await;
            let refusals =
                "confcast_subscriber_refusals_total{reason=\"forbidden\",right=\"read\"}";
            assert!(metrics.contains(refusals), "{metrics}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_caller_of_one_collection_learns_nothing_of_another_one() {
    let of = |role: &str, name: &str| json!([{"role": role, "collections": [name]}]);
    let tokens = Tokens::new(
        "collections",
        &[
            ("b", of("replica", "B")),
            ("ghost", of("reader", "AA")),
            (
                "prefix",
                json!([{"role": "reader", "collections": ["A"], "idPrefix": "x"}]),
            ),
        ],
    );
    check(
        &[&tokens.flag(), "--app-api-token=secret"],
        publisher(1, 0),
        async |subscriber| {
            is_ready(subscriber).await;
            for path in [
                "/v1/collections/A/documents/x",
                "/v1/collections/A/documents/none",
                "/v1/collections/None/documents/x",
                "/v1/collections/A/documents",
                "/v1/collections/A",
                "/v1/collections/A/changes?since=0",
                "/v1/collections?collections=A,B",
                "/v1/collections?collections=None",
                "/v1/snapshot?collections=A",
                "/v1/changes?since=A:0,B:0",
            ] {
                for method in ["GET", "HEAD"] {
                    let line = format!("{method} {path}");
                    let (status, text) = tokens.send(subscriber, "b", &line).await;
                    assert_eq!(status, 403, "{line}: {text}");
                }
            }
            for line in [
                "GET /v1/collections",
                "GET /v1/snapshot",
                "GET /v1/changes?since=B:0",
                "PUT /v1/replicas/r",
            ] {
                let (status, text) = tokens.send(subscriber, "b", line).await;
                assert_eq!(status, 200, "{line}: {text}");
                assert!(!text.contains("\"A\""), "{line}: {text}");
            }
            let (status, text) = tokens
                .send(subscriber, "ghost", "GET /v1/collections/AA")
                .await;
            assert!(status == 404 && !text.contains("did you mean"), "{text}");
            for (line, expected) in [
                ("GET /v1/collections/A/documents/x", 200),
                ("GET /v1/collections/A/documents/y", 403),
                ("GET /v1/collections/A/documents", 403),
            ] {
                let (status, text) = tokens.send(subscriber, "prefix", line).await;
                assert_eq!(status, expected, "{line}: {text}");
            }
        },
    )
    .await;
}
