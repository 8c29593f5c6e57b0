//! Rights, through the API: every route with every role, and what a caller that may see a part of the
//! store learns of the rest.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, ensure};
use auth::SecretToken;
use contract::{
    access::{
        Role,
        routes::{self, Access, Service},
    },
    dead_letter::{DeadLetterId, EventSummary},
};
use e2e::testbed::mongod::Mongod;
use publisher::{Publisher, Settings};
use serde_json::{Value, json};

use super::Outcome;

const AGENTS: &str = "/v1/collections/Agents/documents";
const SKILLS: &str = "/v1/collections/Skills/documents";

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
        "POST /v1/collections/{collection}/documents",
        "writer publisher",
    ),
    (
        "GET /v1/collections/{collection}/documents/{id}",
        "reader writer publisher replica secret-reader",
    ),
    (
        "PUT /v1/collections/{collection}/documents/{id}",
        "writer publisher",
    ),
    (
        "PATCH /v1/collections/{collection}/documents/{id}",
        "writer publisher",
    ),
    (
        "DELETE /v1/collections/{collection}/documents/{id}",
        "writer publisher",
    ),
    (
        "GET /v1/collections/{collection}/documents/{id}/referrers",
        "reader writer publisher replica secret-reader",
    ),
    (
        "GET /v1/collections/{collection}/documents/{id}/history",
        "reader writer publisher replica secret-reader",
    ),
    (
        "POST /v1/collections/{collection}/documents/{id}/rollback",
        "writer publisher",
    ),
    (
        "GET /v1/collections/{collection}/changes",
        "reader writer publisher replica secret-reader",
    ),
    (
        "GET /v1/collections/{collection}/history",
        "reader writer publisher replica secret-reader",
    ),
    ("POST /v1/collections/{collection}/rollback", "publisher"),
    (
        "GET /v1/snapshot",
        "reader writer publisher replica secret-reader",
    ),
    (
        "GET /v1/changes",
        "reader writer publisher replica secret-reader",
    ),
    ("POST /v1/changes", "publisher"),
    (
        "GET /v1/history",
        "reader writer publisher replica secret-reader",
    ),
    ("POST /v1/sets/{setId}/rollback", "publisher"),
    (
        "GET /v1/snapshots",
        "reader writer publisher replica operator monitor secret-reader",
    ),
    (
        "GET /v1/snapshots/{name}",
        "reader writer publisher replica operator monitor secret-reader",
    ),
    ("PUT /v1/snapshots/{name}", "operator"),
    ("DELETE /v1/snapshots/{name}", "operator"),
    (
        "GET /v1/collections/{collection}/applied",
        "reader writer publisher replica operator monitor secret-reader",
    ),
    ("GET /v1/replicas", "operator monitor"),
    ("PUT /v1/replicas/{instance}", "replica"),
    ("POST /v1/epoch", "operator"),
    ("POST /v1/repair", "operator"),
    ("GET /v1/dead-letters", "operator monitor"),
    ("POST /v1/dead-letters", "replica"),
    ("DELETE /v1/dead-letters", "operator"),
    ("GET /v1/dead-letters/{id}", "operator monitor"),
    ("DELETE /v1/dead-letters/{id}", "operator"),
    ("POST /v1/dead-letters/{id}/replay", "operator"),
    (
        "GET /v1/schemas",
        "reader writer publisher replica secret-reader",
    ),
    (
        "GET /v1/schemas/{collection}",
        "reader writer publisher replica secret-reader",
    ),
    (
        "GET /v1/schemas/{collection}/sample",
        "reader writer publisher replica secret-reader",
    ),
    ("GET /v1/audit", "operator auditor"),
    ("GET /v1/audit/tips", "operator auditor"),
    ("GET /v1/tokens", "operator"),
    ("POST /v1/tokens", "operator"),
    ("DELETE /v1/tokens/{id}", "operator"),
    ("GET /v1/version", "operator monitor"),
    ("GET /v1/identity", "-"),
    ("GET /openapi.json", "-"),
    ("GET /metrics", "operator monitor"),
    ("GET /healthz", ""),
    ("GET /readyz", ""),
];

/// A running publisher and its callers, by name.
struct Callers {
    tokens: BTreeMap<String, SecretToken>,
    url: String,
    client: reqwest::Client,
}

/// One answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Value,
    text: String,
}

impl Answer {
    fn is_forbidden(&self) -> bool {
        self.status == 403 && self.body["type"] == "urn:confcast:problem:forbidden"
    }

    fn has(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

impl Callers {
    /// `line` is a method and a path; a body is JSON, or nothing.
    async fn send(&self, caller: &str, line: &str, body: Value) -> anyhow::Result<Answer> {
        self.send_with(caller, line, &[], body).await
    }

    async fn send_with(
        &self,
        caller: &str,
        line: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> anyhow::Result<Answer> {
        let (method, path) = line.split_once(' ').context("a method and a path")?;
        let url = format!("{}{path}", self.url);
        let mut request = self.client.request(method.parse()?, url);
        if let Some(token) = self.tokens.get(caller) {
            request = request.bearer_auth(token.expose());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if method == "PATCH" {
            request = request.header("content-type", "application/merge-patch+json");
        }
        if !body.is_null() {
            request = match method {
                "PATCH" => request.body(body.to_string()),
                _ => request.json(&body),
            };
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok(Answer {
            status,
            body: serde_json::from_str(&text).unwrap_or_default(),
            text,
        })
    }

    /// The answer, which has this status.
    async fn expect(
        &self,
        status: u16,
        caller: &str,
        line: &str,
        body: Value,
    ) -> anyhow::Result<Answer> {
        let answer = self.send(caller, line, body).await?;
        ensure!(answer.status == status, "{caller}: {line}: {answer:?}");
        Ok(answer)
    }
}

/// Agents refer to skills.
fn schemas(folder: &Path) -> Outcome {
    let agents = json!({"properties": {"skill": {"x-ref": "Skills"}}});
    std::fs::write(folder.join("Agents.schema.json"), agents.to_string())?;
    std::fs::write(folder.join("Skills.schema.json"), "{}")?;
    Ok(())
}

/// Runs a test against a publisher on this store with these callers, by name and grants.
async fn with_callers(
    store: &str,
    grants: &[(&str, Value)],
    test: impl AsyncFnOnce(&Callers) -> Outcome,
) -> Outcome {
    let folder = tempfile::tempdir()?;
    schemas(folder.path())?;
    let mut tokens = BTreeMap::new();
    let mut records = String::new();
    for (name, grants) in grants {
        let token = SecretToken::generate();
        let record = json!({
            "id": token.hash().id(), "name": name, "hash": token.hash(), "grants": grants,
            "createdAt": "2026-01-01T00:00:00Z", "createdBy": "test",
        });
        records += &format!("{record}\n");
        tokens.insert((*name).to_owned(), token);
    }
    let file = folder.path().join("tokens");
    std::fs::write(&file, records)?;
    let publisher = Publisher::build(Settings::read(&[
        "--store-url",
        store,
        "--schemas-dir",
        &folder.path().display().to_string(),
        "--collections",
        "Skills,Agents",
        "--listen",
        "127.0.0.1:0",
        "--events-enabled",
        "false",
        "--tokens-file",
        &file.display().to_string(),
    ])?)
    .await?;
    let address = publisher.address().context("an address")?;
    let callers = Callers {
        tokens,
        url: format!("http://{address}"),
        client: e2e::http().build()?,
    };
    let mut outcome = Ok(());
    publisher
        .run(async { outcome = test(&callers).await })
        .await?;
    outcome
}

async fn on_the_embedded_store(
    grants: &[(&str, Value)],
    test: impl AsyncFnOnce(&Callers) -> Outcome,
) -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = format!("file:{}", folder.path().display());
    with_callers(&store, grants, test).await
}

async fn on_both_stores(
    grants: &[(&str, Value)],
    test: impl AsyncFn(&Callers) -> Outcome,
) -> Outcome {
    on_the_embedded_store(grants, &test).await?;
    let server = Mongod::start().await?;
    with_callers(&server.url("access"), grants, &test).await
}

#[tokio::test]
async fn every_route_is_for_the_roles_that_have_its_right_and_for_no_other() -> Outcome {
    let grants: Vec<_> = Role::ALL
        .iter()
        .map(|role| (role.as_str(), json!([{"role": role}])))
        .collect();
    on_the_embedded_store(&grants, async |callers| {
        for route in routes::ALL {
            if !route.services.contains(&Service::Publisher) || route.access == Access::Sidecar {
                continue;
            }
            let line = format!("{} {}", route.method, route.path);
            let (_line, expected) = EXPECTED
                .iter()
                .find(|(known, _roles)| *known == line)
                .with_context(|| format!("say which roles may send {line}"))?;
            let path = line
                .replace("{collection}", "Skills")
                .replace("{setId}", "s")
                .replace("{instance}", "r")
                .replace("{name}", "n")
                .replace("{id}", "0123456789abcdef0123456789abcdef");
            // No request does anything: a body is refused, and no document exists.
            let body = if route.method == "GET" {
                Value::Null
            } else {
                json!([])
            };
            let unknown = callers.send("", &path, body.clone()).await?;
            assert_eq!(unknown.status == 401, !expected.is_empty(), "{line}");
            for role in Role::ALL {
                let answer = callers.send(role.as_str(), &path, body.clone()).await?;
                let allowed = matches!(*expected, "" | "-")
                    || expected.split(' ').any(|known| known == role.as_str());
                assert_eq!(
                    answer.is_forbidden(),
                    !allowed,
                    "{role}: {line}: {answer:?}"
                );
                assert!(answer.status != 401 && (allowed || answer.status == 403));
                if let (false, Access::Right(rights, _scope)) = (allowed, route.access) {
                    assert_eq!(answer.body["right"], json!(rights[0]), "{answer:?}");
                    assert!(answer.has("roles that have it"), "{answer:?}");
                }
            }
        }
        let metrics = callers.send("monitor", "GET /metrics", Value::Null).await?;
        let refusals = "confcast_refusals_total{reason=\"forbidden\",right=\"write\"}";
        assert!(metrics.has(refusals), "{}", metrics.text);
        Ok(())
    })
    .await
}

/// Count and digest of every revision would tell what others changed, and prove a guess.
#[tokio::test]
async fn an_id_prefix_gives_neither_count_nor_digest_nor_bounds_of_the_collection() -> Outcome {
    let team = json!([{"role": "publisher", "collections": ["Skills"], "idPrefix": "team."}]);
    let grants = [
        ("all", json!([{"role": "publisher"}, {"role": "operator"}])),
        ("team", team),
    ];
    on_both_stores(&grants, async |callers| {
        for id in ["team.a", "other"] {
            let line = format!("POST {SKILLS}");
            callers.expect(201, "all", &line, json!({"id": id})).await?;
        }
        callers
            .expect(201, "all", "PUT /v1/snapshots/one", Value::Null)
            .await?;
        let now = chrono::Utc::now().to_rfc3339().replace('+', "%2B");
        for id in ["team.a", "team.none"] {
            for point in ["revision=2", "snapshot=one", &format!("at={now}")] {
                let url = format!("{}{SKILLS}/{id}?{point}", callers.url);
                let headers = async |caller: &str| -> anyhow::Result<Vec<bool>> {
                    let request = callers
                        .client
                        .get(&url)
                        .bearer_auth(callers.tokens[caller].expose());
                    let answer = request.send().await?;
                    ensure!([200, 404].contains(&answer.status().as_u16()), "{answer:?}");
                    let names = ["Confcast-Revision", "Confcast-Digest", "Confcast-Count"];
                    Ok(names
                        .map(|name| answer.headers().contains_key(name))
                        .to_vec())
                };
                assert_eq!(headers("team").await?, [true, false, false], "{url}");
                assert_eq!(headers("all").await?, [true, true, true], "{url}");
            }
        }
        // As far as its documents go, it may know how many replicas have applied a write.
        let applied = "GET /v1/collections/Skills/applied?timeout=0s";
        for (caller, query, status) in [
            ("team", "&id=team.a", 200),
            ("team", "&id=other", 403),
            ("team", "", 403),
            ("team", "&id=a/b", 400),
            ("all", "", 200),
        ] {
            let line = format!("{applied}{query}");
            callers.expect(status, caller, &line, Value::Null).await?;
        }
        let not_yet = format!("{applied}&id=team.a&revision=99");
        let ahead = format!("GET {SKILLS}/team.a?revision=99");
        let undo = format!("POST {SKILLS}/team.a/rollback");
        let together = "POST /v1/collections/Skills/rollback".to_owned();
        for (line, body) in [
            (not_yet, Value::Null),
            (ahead, Value::Null),
            (undo, json!({"toRevision": 99})),
            (together, json!({"toRevision": 99, "ids": ["team.a"]})),
        ] {
            let answer = callers.expect(404, "team", &line, body.clone()).await?;
            assert_eq!(answer.body["detail"], "Skills has no such revision yet");
            let answer = callers.expect(404, "all", &line, body).await?;
            assert_eq!(answer.body["detail"], "the newest revision of Skills is 2");
        }
        Ok(())
    })
    .await
}

fn of_agents(role: &str) -> Value {
    json!([{"role": role, "collections": ["Agents"]}])
}

#[tokio::test]
async fn a_caller_of_one_collection_learns_nothing_of_another_one() -> Outcome {
    let grants = [
        ("all", json!([{"role": "publisher"}, {"role": "operator"}])),
        ("agents", of_agents("publisher")),
        (
            "skills",
            json!([{"role": "publisher", "collections": ["Skills"]}]),
        ),
        (
            "ghost",
            json!([{"role": "reader", "collections": ["Skilss"]}]),
        ),
    ];
    on_both_stores(&grants, async |callers| {
        let get = async |path: &str| {
            callers
                .send("agents", &format!("GET {path}"), Value::Null)
                .await
        };
        callers
            .expect(200, "all", "POST /v1/changes", json!({"changes": [
                {"collection": "Skills", "op": "Create", "id": "s", "configData": {"hidden": 1}},
                {"collection": "Skills", "op": "Create", "id": "t", "configData": {"hidden": 1}},
            ]}))
            .await?;
        let set = callers
            .expect(200, "all", "POST /v1/changes", json!({"changes": [
                {"collection": "Agents", "op": "Create", "id": "a", "configData": {"skill": "s"}},
                {"collection": "Skills", "op": "Update", "id": "t", "configData": {"hidden": 2}},
            ]}))
            .await?;
        callers
            .expect(201, "all", "PUT /v1/snapshots/both", Value::Null)
            .await?;
        let hidden = |answer: &Answer| !answer.has("Skills") && !answer.has("hidden");

        // What exists and what does not exist look the same.
        for path in [
            format!("{SKILLS}/s"),
            format!("{SKILLS}/none"),
            "/v1/collections/None/documents/s".to_owned(),
            format!("{SKILLS}/s?revision=1"),
            format!("{SKILLS}/s/history"),
            format!("{SKILLS}/s/referrers"),
            format!("{SKILLS}/%2F"),
            "/v1/collections/%2F/documents/s".to_owned(),
            SKILLS.to_owned(),
            "/v1/collections/Skills".to_owned(),
            "/v1/collections/None".to_owned(),
            "/v1/collections/Skills/changes?since=0".to_owned(),
            "/v1/collections/Skills/history".to_owned(),
            "/v1/collections?collections=Agents,Skills".to_owned(),
            "/v1/collections?collections=None".to_owned(),
            "/v1/snapshot?collections=Skills".to_owned(),
            "/v1/changes?since=Agents:0,Skills:0".to_owned(),
            "/v1/changes?since=None:0".to_owned(),
            "/v1/schemas/Skills".to_owned(),
            "/v1/schemas/None".to_owned(),
        ] {
            let answer = get(&path).await?;
            assert!(answer.is_forbidden(), "{path}: {answer:?}");
            assert!(!answer.has("hidden"), "{path}: {answer:?}");
        }
        // A name that the caller may see and that is not served: no name that is alike is shown.
        let ghost = callers
            .expect(404, "ghost", "GET /v1/collections/Skilss", Value::Null)
            .await?;
        assert!(!ghost.has("Skills"), "{ghost:?}");

        // Lists have what the caller may read, and no more.
        for path in [
            "/v1/collections",
            "/v1/snapshot",
            "/v1/history",
            "/v1/schemas",
            "/v1/snapshots",
            "/v1/snapshots/both",
            "/v1/changes?since=Agents:0",
            "/v1/collections/Agents/documents/a/history",
            "/v1/history?before=Skills.9",
        ] {
            let answer = get(path).await?;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            assert!(hidden(&answer), "{path}: {answer:?}");
        }
        let heads = get("/v1/collections").await?;
        assert_eq!(heads.body["heads"].as_array().map(Vec::len), Some(1));

        // Writes: a set with one foreign change is refused as a whole, and says nothing of it.
        for foreign in ["Skills", "None", "%"] {
            let changes = json!({"changes": [
                {"collection": "Agents", "op": "Create", "id": "b", "configData": {}},
                {"collection": foreign, "op": "Delete", "id": "s", "expected": 77},
            ]});
            let answer = callers.send("agents", "POST /v1/changes", changes).await?;
            assert!(answer.is_forbidden(), "{answer:?}");
            assert_eq!(
                (&answer.body["index"], &answer.body["current"]),
                (&json!(1), &Value::Null)
            );
        }
        callers
            .expect(404, "all", &format!("GET {AGENTS}/b"), Value::Null)
            .await?;

        // The undo of a set that has a document of another collection.
        let undo = format!(
            "POST /v1/sets/{}/rollback",
            set.body["id"].as_str().unwrap_or_default()
        );
        let answer = callers
            .send("agents", &undo, json!({"dryRun": true}))
            .await?;
        assert!(answer.is_forbidden() && hidden(&answer), "{answer:?}");
        callers
            .expect(200, "all", &undo, json!({"dryRun": true}))
            .await?;

        // What refers to a document is shown as far as it may be read; that it refers is not hidden.
        let referrers = format!("GET {SKILLS}/s/referrers");
        let shown = callers
            .expect(200, "skills", &referrers, Value::Null)
            .await?;
        assert_eq!(shown.body, json!({"items": [], "more": false}));
        let shown = callers.expect(200, "all", &referrers, Value::Null).await?;
        assert_eq!(shown.body["items"].as_array().map(Vec::len), Some(1));
        let answer = callers
            .expect(409, "skills", &format!("DELETE {SKILLS}/s"), Value::Null)
            .await?;
        assert!(
            !answer.has("Agents") && answer.body["references"].is_null(),
            "{answer:?}"
        );
        let answer = callers
            .expect(409, "all", &format!("DELETE {SKILLS}/s"), Value::Null)
            .await?;
        assert!(answer.has("Agents"), "{answer:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_set_of_foreign_documents_does_not_exist_for_a_caller() -> Outcome {
    let grants = [
        ("all", json!([{"role": "publisher"}])),
        ("agents", of_agents("publisher")),
    ];
    on_the_embedded_store(&grants, async |callers| {
        let set = callers
            .expect(
                200,
                "all",
                "POST /v1/changes",
                json!({"changes": [
                    {"collection": "Skills", "op": "Create", "id": "s", "configData": {}},
                    {"collection": "Skills", "op": "Create", "id": "t", "configData": {}},
                ]}),
            )
            .await?;
        let undo = |id: &str| format!("POST /v1/sets/{id}/rollback");
        let id = set.body["id"].as_str().unwrap_or_default();
        let foreign = callers.expect(404, "agents", &undo(id), json!({})).await?;
        let absent = callers
            .expect(404, "agents", &undo("none"), json!({}))
            .await?;
        let text = |answer: &Answer, id: &str| answer.text.replace(id, "ID");
        assert_eq!(text(&foreign, id), text(&absent, "none"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_id_prefix_is_for_single_documents() -> Outcome {
    let grants = [
        ("all", json!([{"role": "publisher"}])),
        (
            "team",
            json!([{"role": "publisher", "collections": ["Skills"], "idPrefix": "team."}]),
        ),
    ];
    on_the_embedded_store(&grants, async |callers| {
        for id in ["team.a", "other"] {
            let line = format!("POST {SKILLS}");
            callers.expect(201, "all", &line, json!({"id": id, "v": 1})).await?;
        }
        let one = |id: &str| format!("{SKILLS}/{id}");
        callers.expect(200, "team", &format!("GET {}", one("team.a")), Value::Null).await?;
        callers.expect(200, "team", &format!("PUT {}", one("team.a")), json!({"v": 2})).await?;
        callers.expect(201, "team", &format!("POST {SKILLS}"), json!({"id": "team.b"})).await?;
        callers.expect(200, "team", "GET /v1/schemas/Skills", Value::Null).await?;
        let point = json!({"toRevision": 1, "ids": ["team.a"]});
        callers.expect(200, "team", "POST /v1/collections/Skills/rollback", point).await?;
        let set = |id: &str| json!({"changes": [{"collection": "Skills", "op": "Patch", "id": id, "configData": {"v": 3}}]});
        callers.expect(200, "team", "POST /v1/changes", set("team.a")).await?;
        for (line, body) in [
            (format!("GET {}", one("other")), Value::Null),
            (format!("PUT {}", one("other")), json!({"v": 2})),
            (format!("PUT {}", one("none")), json!({"v": 2})),
            // The id is generated, or in the body.
            (format!("POST {SKILLS}"), json!({"v": 1})),
            (format!("POST {SKILLS}"), json!({"id": "other"})),
            ("POST /v1/changes".to_owned(), set("other")),
            ("POST /v1/collections/Skills/rollback".to_owned(), json!({"toRevision": 1, "ids": ["team.a", "other"]})),
            ("POST /v1/collections/Skills/rollback".to_owned(), json!({"toRevision": 1})),
            (format!("GET {SKILLS}"), Value::Null),
            ("GET /v1/collections/Skills".to_owned(), Value::Null),
            ("GET /v1/collections/Skills/changes?since=0".to_owned(), Value::Null),
            ("GET /v1/changes?since=Skills:0".to_owned(), Value::Null),
            ("GET /v1/snapshot?collections=Skills".to_owned(), Value::Null),
        ] {
            let answer = callers.send("team", &line, body).await?;
            assert!(answer.is_forbidden(), "{line}: {answer:?}");
        }
        let heads = callers.expect(200, "team", "GET /v1/collections", Value::Null).await?;
        assert_eq!(heads.body, json!({"heads": []}));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_user_of_a_change_is_the_caller_or_one_that_a_gateway_names() -> Outcome {
    let grants = [
        ("ci", json!([{"role": "publisher"}])),
        (
            "gateway",
            json!([{"role": "publisher"}, {"role": "gateway", "collections": ["Agents"]}]),
        ),
        ("reader", json!([{"role": "reader"}])),
        ("operator", json!([{"role": "operator"}])),
    ];
    on_both_stores(&grants, async |callers| {
        let user = [("x-user-id", "ada")];
        let create = |id: &str| json!({"id": id});
        let agents = format!("POST {AGENTS}");
        let skills = format!("POST {SKILLS}");
        callers.expect(201, "ci", &agents, create("a")).await?;
        let own = [("x-user-id", "token:ci")];
        let answer = callers.send_with("ci", &agents, &own, create("b")).await?;
        assert_eq!(answer.status, 201, "its own name is no claim: {answer:?}");
        for (header, value) in [user[0], ("x-organisation-id", "hectare")] {
            for (line, body) in [
                (&*agents, create("c")),
                (
                    "POST /v1/collections/Agents/rollback",
                    json!({"toRevision": 0}),
                ),
                (
                    "POST /v1/changes",
                    json!({"changes": [{"collection": "Agents", "op": "Delete", "id": "a"}]}),
                ),
            ] {
                let answer = callers
                    .send_with("ci", line, &[(header, value)], body)
                    .await?;
                assert!(
                    answer.is_forbidden() && answer.has("assert-user"),
                    "{answer:?}"
                );
            }
        }
        let answer = callers
            .send_with("gateway", &agents, &user, create("c"))
            .await?;
        assert_eq!(answer.status, 201, "{answer:?}");
        let answer = callers
            .send_with("gateway", &skills, &user, create("c"))
            .await?;
        assert!(
            answer.is_forbidden(),
            "it names users for agents only: {answer:?}"
        );
        let mixed = json!({"changes": [
            {"collection": "Agents", "op": "Create", "id": "d", "configData": {}},
            {"collection": "Skills", "op": "Create", "id": "d", "configData": {}},
        ]});
        let answer = callers
            .send_with("gateway", "POST /v1/changes", &user, mixed)
            .await?;
        assert!(
            answer.is_forbidden() && answer.body["index"] == 1,
            "{answer:?}"
        );

        let history = callers
            .expect(200, "reader", "GET /v1/history", Value::Null)
            .await?;
        let users: Vec<_> = history.body["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| {
                (
                    item["id"].clone(),
                    item["userId"].clone(),
                    item["via"].clone(),
                )
            })
            .collect();
        assert_eq!(
            users,
            [
                (json!("c"), json!("ada"), json!("token:gateway")),
                (json!("b"), json!("token:ci"), Value::Null),
                (json!("a"), json!("token:ci"), Value::Null),
            ]
        );
        for line in [
            "POST /v1/epoch",
            "POST /v1/repair",
            "DELETE /v1/dead-letters?all=true",
        ] {
            let answer = callers
                .send_with("operator", line, &user, json!({}))
                .await?;
            assert!(
                answer.is_forbidden() && answer.has("assert-user"),
                "{line}: {answer:?}"
            );
        }
        let snapshot = callers
            .expect(201, "operator", "PUT /v1/snapshots/now", Value::Null)
            .await?;
        assert_eq!(snapshot.body["userId"], "token:operator");
        let identity = callers
            .expect(200, "gateway", "GET /v1/identity", Value::Null)
            .await?;
        assert_eq!(identity.body["name"], "token:gateway");
        assert_eq!(
            identity.body["grants"][1],
            json!({"role": "gateway", "collections": ["Agents"]})
        );
        Ok(())
    })
    .await
}

/// A typed replica reports why a value does not fit, which quotes the value.
#[tokio::test]
async fn who_may_not_read_sees_how_many_values_a_replica_refuses_and_none_of_them() -> Outcome {
    let both = json!([{"role": "monitor"}, {"role": "reader", "collections": ["Skills"]}]);
    let grants = [
        ("replica", json!([{"role": "replica"}])),
        ("monitor", json!([{"role": "monitor"}])),
        ("both", both),
    ];
    on_the_embedded_store(&grants, async |callers| {
        let of = |value: &str| json!({
            "revision": 0, "known": 0, "state": "partial", "refusedValues": 1,
            "refusals": [{"id": "a", "revision": 1, "pointer": "/p", "error": value}],
        });
        let handler = |name: &str| json!({
            "name": name, "collection": name, "state": "failing", "revision": 0, "error": name.to_lowercase(),
        });
        let check_in = json!({
            "instance": "r", "bootId": "b", "intervalMs": 60_000,
            "collections": {"Agents": of("value of an agent"), "Skills": of("value of a skill")},
            "handlers": [handler("Agents"), handler("Skills")], "failingHandlers": 2,
        });
        callers.expect(200, "replica", "PUT /v1/replicas/r", check_in).await?;
        let list = callers.expect(200, "monitor", "GET /v1/replicas", Value::Null).await?;
        assert!(!list.has("value of") && !list.has("\"agents\""), "{list:?}");
        let report = &list.body["replicas"][0];
        assert_eq!(report["collections"]["Agents"]["refusedValues"], 1);
        assert_eq!(report["failingHandlers"], 2);
        let list = callers.expect(200, "both", "GET /v1/replicas", Value::Null).await?;
        assert!(list.has("value of a skill") && list.has("\"skills\""), "{list:?}");
        assert!(!list.has("value of an agent"), "{list:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_replica_reports_what_it_may_follow_and_hears_of_nothing_else() -> Outcome {
    let grants = [
        ("agents", of_agents("replica")),
        ("other", of_agents("replica")),
        ("reader", of_agents("reader")),
        ("monitor", json!([{"role": "monitor"}])),
    ];
    on_both_stores(&grants, async |callers| {
        let check_in = |boot: &str, collections: Value| json!({
            "instance": "r", "bootId": boot, "intervalMs": 60_000, "collections": collections,
            "baseUrl": format!("http://127.0.0.1:{boot}"),
        });
        let at = |name: &str| json!({name: {"revision": 0, "known": 0, "state": "current"}});
        let line = "PUT /v1/replicas/r";
        let answer = callers.expect(200, "agents", line, check_in("1", at("Agents"))).await?;
        assert_eq!(answer.body["served"], json!(["Agents"]));
        assert!(!answer.has("Skills"), "{answer:?}");
        for (caller, collections) in [("agents", at("Skills")), ("agents", at("None")), ("reader", at("Agents"))] {
            let answer = callers.send(caller, line, check_in("1", collections)).await?;
            assert!(answer.is_forbidden(), "{caller}: {answer:?}");
        }
        // A replica that lost a right stays in step in the rest.
        let mut both = at("Agents");
        both["Skills"] = at("Skills")["Skills"].clone();
        let answer = callers
            .expect(200, "agents", line, check_in("1", both))
            .await?;
        assert_eq!(answer.body["heads"].as_array().map(Vec::len), Some(1));
        assert!(!answer.has("Skills"), "{answer:?}");
        // Another caller with the same name is answered, and the record stays.
        callers.expect(200, "other", line, check_in("2", at("Agents"))).await?;
        let list = callers.expect(200, "monitor", "GET /v1/replicas", Value::Null).await?;
        let replicas = list.body["replicas"].as_array().cloned().unwrap_or_default();
        assert_eq!(replicas.len(), 1);
        assert_eq!(replicas[0]["baseUrl"], "http://127.0.0.1:1");

        let report = |collection: &str| json!({
            "id": "0123456789abcdef0123456789abcdef", "instance": "r", "cause": "wrong-type",
            "detail": "hidden", "event": {"collection": collection, "document": "a"}, "bytes": 8,
            "original": {"text": "hidden"},
        });
        let line = "POST /v1/dead-letters";
        let answer = callers.send("agents", line, report("Skills")).await?;
        assert!(answer.is_forbidden(), "{answer:?}");
        let answer = callers.send("agents", line, report("Agents")).await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        // What the original says decides, and not what is said of it.
        let original = json!({"collection": "Skills", "op": "Update", "id": "a"}).to_string();
        let summary = EventSummary::of(original.as_bytes());
        let mut forged = report("Agents");
        forged["id"] = json!(DeadLetterId::of(&summary, original.as_bytes()));
        forged["bytes"] = json!(original.len());
        forged["original"] = json!({"text": original});
        let answer = callers.send("agents", line, forged).await?;
        assert!(answer.is_forbidden(), "{answer:?}");
        // A monitor sees that there is one, and not what it quotes.
        for path in ["/v1/dead-letters", "/v1/dead-letters/0123456789abcdef0123456789abcdef"] {
            let answer = callers.expect(200, "monitor", &format!("GET {path}"), Value::Null).await?;
            assert!(answer.has("wrong-type") && !answer.has("hidden"), "{answer:?}");
        }
        Ok(())
    })
    .await
}
