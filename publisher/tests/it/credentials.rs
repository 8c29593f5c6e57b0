//! Callers with and without a credential, and tokens that are made, listed and revoked.

use anyhow::{Context, ensure};
use auth::SecretToken;
use chrono::Utc;
use contract::{
    access::{Grant, Role},
    token::{CreatedToken, TokenRecord, Tokens},
};
use serde_json::{Value, json};

use super::{
    Outcome,
    testbed::{Answer, SKILLS, Testbed, with_publisher},
};

/// A file with the record of a token, in a folder that lives as long as it.
struct TokenFile {
    folder: tempfile::TempDir,
    token: SecretToken,
}

impl TokenFile {
    fn new(roles: &[Role]) -> anyhow::Result<Self> {
        let token = SecretToken::generate();
        let record = TokenRecord {
            id: token.hash().id(),
            name: "first".parse()?,
            hash: token.hash(),
            grants: roles.iter().copied().map(Grant::everywhere).collect(),
            created_at: Utc::now(),
            created_by: "offline".to_owned(),
            expires_at: None,
            revoked_at: None,
        };
        let folder = tempfile::tempdir()?;
        std::fs::write(
            folder.path().join("tokens"),
            serde_json::to_string(&record)?,
        )?;
        Ok(Self { folder, token })
    }

    fn flag(&self) -> String {
        format!(
            "--tokens-file={}",
            self.folder.path().join("tokens").display()
        )
    }

    fn header(&self) -> String {
        bearer(self.token.expose())
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

const JSON: &str = "Content-Type: application/json\r\n";

async fn create(testbed: &Testbed, by: &str, request: Value) -> anyhow::Result<Answer> {
    let headers = format!("{by}{JSON}");
    testbed
        .ask("POST /v1/tokens", &headers, &request.to_string())
        .await
}

async fn status(testbed: &Testbed, line: &str, headers: &str) -> anyhow::Result<u16> {
    Ok(testbed.ask(line, headers, "").await?.status)
}

#[tokio::test]
async fn every_request_needs_a_credential_but_those_of_orchestrators() -> Outcome {
    let file = TokenFile::new(&[Role::Reader])?;
    with_publisher(&[&file.flag()], async |testbed| {
        for line in ["GET /healthz", "GET /readyz"] {
            ensure!(status(testbed, line, "").await? == 204, "{line}");
        }
        let heads = "GET /v1/collections";
        for (what, headers) in [
            ("none", String::new()),
            ("another scheme", "Authorization: Basic YTpi\r\n".to_owned()),
            ("another token", bearer(SecretToken::generate().expose())),
            ("two", file.header().repeat(2)),
            ("a JWT", bearer("e30.e30.e30")),
        ] {
            let answer = testbed.ask(heads, &headers, "").await?;
            ensure!(
                answer.status == 401
                    && answer.problem() == "unauthenticated"
                    && answer.header("WWW-Authenticate").as_deref() == Some("Bearer"),
                "{what}: {answer:?}"
            );
        }
        ensure!(status(testbed, heads, &file.header()).await? == 200);
        let lower = file.header().replace("Bearer", "bearer");
        ensure!(status(testbed, heads, &lower).await? == 200);
        for line in [
            "GET /metrics",
            "GET /openapi.json",
            "GET /none",
            "PUT /dapr/subscribe",
            "GET /%64apr/subscribe",
        ] {
            ensure!(status(testbed, line, "").await? == 401, "{line}");
        }
        // Without APP_API_TOKEN nothing tells a sidecar from others: a reader is none.
        for subscribe in ["GET /dapr/subscribe", "GET /%64apr/subscribe"] {
            ensure!(
                status(testbed, subscribe, &file.header()).await? == 401,
                "{subscribe}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_anonymous_caller_on_this_host_is_admitted_when_told_so_unless_it_was_forwarded()
-> Outcome {
    with_publisher(&["--anonymous=loopback"], async |testbed| {
        let heads = "GET /v1/collections";
        ensure!(status(testbed, heads, "").await? == 200);
        for forwarded in [
            "Forwarded: for=10.0.0.1",
            "X-Forwarded-For: 10.0.0.1",
            "Via: 1.1 proxy",
        ] {
            let headers = format!("{forwarded}\r\n");
            ensure!(
                status(testbed, heads, &headers).await? == 401,
                "{forwarded}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_token_is_shown_once_works_at_once_and_is_refused_at_once_when_it_is_revoked() -> Outcome
{
    let file = TokenFile::new(&[Role::Operator])?;
    with_publisher(&[&file.flag()], async |testbed| {
        let request = json!({
            "name": "billing", "expiresInSeconds": 3600,
            "grants": [{"role": "writer", "collections": [SKILLS], "idPrefix": "eu-"}]
        });
        let answer = create(testbed, &file.header(), request).await?;
        ensure!(answer.status == 201, "{answer:?}");
        ensure!(answer.header("Cache-Control").as_deref() == Some("no-store"));
        let created: CreatedToken = serde_json::from_str(&answer.body)?;
        ensure!(
            created.enforced && created.info.created_by == "token:first",
            "{created:?}"
        );

        let line = format!("POST /v1/collections/{SKILLS}/documents");
        let value = |id: &str| json!({"id": id}).to_string();
        let by = format!("{}{JSON}", bearer(&created.token));
        let written = testbed.ask(&line, &by, &value("eu-1")).await?;
        ensure!(written.status == 201, "{written:?}");
        let refused = testbed.ask(&line, &by, &value("us-1")).await?;
        ensure!(refused.status == 403, "{refused:?}");

        let listed = testbed.ask("GET /v1/tokens", &file.header(), "").await?;
        ensure!(!listed.body.contains(&created.token), "{listed:?}");
        let listed: Tokens = serde_json::from_str(&listed.body)?;
        ensure!(listed.items == [created.info.clone()], "{listed:?}");
        ensure!(status(testbed, "GET /v1/tokens", &by).await? == 403);

        let revoke = format!("DELETE /v1/tokens/{}", created.info.id);
        ensure!(status(testbed, &revoke, &by).await? == 403);
        ensure!(status(testbed, &revoke, &file.header()).await? == 204);
        let refused = testbed.ask(&line, &by, &value("eu-2")).await?;
        ensure!(
            refused.status == 401 && refused.body.contains("revoked"),
            "{refused:?}"
        );
        let unknown = status(
            testbed,
            "DELETE /v1/tokens/0123456789abcdef",
            &file.header(),
        )
        .await?;
        ensure!(unknown == 404);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nobody_gives_more_than_it_may() -> Outcome {
    let file = TokenFile::new(&[Role::Operator])?;
    with_publisher(&[&file.flag()], async |testbed| {
        let part =
            json!({"name": "lead", "grants": [{"role": "operator", "collections": [SKILLS]}]});
        let lead = create(testbed, &file.header(), part).await?;
        let lead: CreatedToken = serde_json::from_str(&lead.body).context("a token")?;
        let by = bearer(&lead.token);
        for (index, (who, grant, expected)) in [
            (&by, json!({"role": "writer", "collections": [SKILLS]}), 201),
            (&by, json!({"role": "writer"}), 403),
            (
                &by,
                json!({"role": "reader", "collections": ["Agents"]}),
                403,
            ),
            (&file.header(), json!({"role": "publisher"}), 201),
            (&file.header(), json!({"role": "gateway"}), 403),
            (&file.header(), json!({"role": "secret-reader"}), 403),
            (&file.header(), json!({"role": "admin"}), 400),
            (
                &file.header(),
                json!({"role": "reader", "collections": []}),
                400,
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let request = json!({"name": format!("a{index}"), "grants": [grant]});
            let answer = create(testbed, who, request).await?;
            ensure!(answer.status == expected, "{grant}: {answer:?}");
        }
        // The lead of a part sees and revokes the tokens of its part alone.
        let listed = testbed.ask("GET /v1/tokens", &by, "").await?;
        let listed: Tokens = serde_json::from_str(&listed.body)?;
        ensure!(listed.items.len() == 2, "{listed:?}");
        let all = testbed.ask("GET /v1/tokens", &file.header(), "").await?;
        let all: Tokens = serde_json::from_str(&all.body)?;
        let other = all.items.iter().find(|info| !listed.items.contains(info));
        let other = other.context("a token of another part")?;
        let revoke = format!("DELETE /v1/tokens/{}", other.id);
        ensure!(status(testbed, &revoke, &by).await? == 404);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nobody_acts_under_the_name_of_a_token_with_other_grants() -> Outcome {
    let file = TokenFile::new(&[Role::Operator])?;
    with_publisher(&[&file.flag()], async |testbed| {
        let part = json!({"role": "operator", "collections": [SKILLS]});
        let writer = json!({"role": "writer", "collections": [SKILLS]});
        let reader = json!({"role": "reader"});
        let named = async |by: &str, name: &str, grants: Value| {
            let answer = create(testbed, by, json!({"name": name, "grants": grants})).await?;
            let id = serde_json::from_str::<CreatedToken>(&answer.body);
            anyhow::Ok((answer, id.ok()))
        };
        let (_answer, lead) = named(&file.header(), "lead", json!([part])).await?;
        let lead = bearer(&lead.context("a token")?.token);
        let (_answer, all) = named(&file.header(), "all", json!([reader])).await?;
        for name in ["first", "all", "lead"] {
            let (refused, _none) = named(&lead, name, json!([writer])).await?;
            ensure!(
                refused.status == 409 && refused.problem() == "name-taken",
                "{name}: {refused:?}"
            );
        }
        // A token that replaces another one has its name and its grants.
        let (_answer, again) = named(&lead, "lead", json!([part])).await?;
        ensure!(again.is_some());
        // The name of a token that has ended is free for a caller that may manage it.
        let revoke = format!("DELETE /v1/tokens/{}", all.context("a token")?.info.id);
        ensure!(status(testbed, &revoke, &file.header()).await? == 204);
        let (refused, _none) = named(&lead, "all", json!([writer])).await?;
        ensure!(refused.status == 409, "{refused:?}");
        let (answer, made) = named(&file.header(), "all", json!([writer])).await?;
        ensure!(made.is_some(), "{answer:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_token_that_is_made_while_nobody_is_asked_says_so() -> Outcome {
    with_publisher(&[], async |testbed| {
        let request = json!({"name": "a", "grants": [{"role": "reader"}]});
        let answer = create(testbed, "", request).await?;
        let created: CreatedToken = serde_json::from_str(&answer.body)?;
        ensure!(!created.enforced, "{created:?}");
        Ok(())
    })
    .await
}

/// The tokens of another library, and a publisher that knows their issuer.
#[tokio::test]
async fn a_flood_of_forged_tokens_costs_no_verifications_and_locks_out_no_known_token() -> Outcome {
    const FIXTURE: &str = include_str!("../../../auth/src/issuers/testdata/pyjwt.json");
    let fixture: Value = serde_json::from_str(FIXTURE)?;
    let folder = tempfile::tempdir()?;
    let keys = folder.path().join("keys.json");
    std::fs::write(&keys, fixture["jwks"].to_string())?;
    let issuers = json!({"issuers": [{
        "name": "corp", "issuer": "https://issuer.example", "audience": "confcast",
        "algorithms": ["RS256", "EdDSA"], "jwksFile": keys,
        "grants": [{"claim": "roles", "value": "config-writer", "grant": {"role": "reader"}}]
    }]});
    let file = folder.path().join("issuers.json");
    std::fs::write(&file, issuers.to_string())?;
    let options = [
        format!("--issuers-file={}", file.display()),
        "--limit-bad-credentials-per-minute=3".to_owned(),
    ];
    let options = options.each_ref().map(String::as_str);
    with_publisher(&options, async |testbed| {
        let heads = "GET /v1/collections";
        let token = |name: &str| bearer(fixture["tokens"][name].as_str().unwrap_or_default());
        let (known, new) = (token("RS256"), token("EdDSA"));
        ensure!(status(testbed, heads, &known).await? == 200);
        let forged = new.replace("\r\n", "AA\r\n");
        for attempt in 0..4 {
            let expected = if attempt < 3 { 401 } else { 429 };
            ensure!(status(testbed, heads, &forged).await? == expected);
        }
        ensure!(status(testbed, heads, &known).await? == 200);
        // What would cost a verification waits until the address may send one more.
        let refused = testbed.ask(heads, &new, "").await?;
        ensure!(
            refused.status == 429 && refused.header("Retry-After").is_some(),
            "{refused:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn bodies_of_callers_that_are_not_known_take_nothing_of_the_budget() -> Outcome {
    let line = format!("PUT /v1/collections/{SKILLS}/documents/a");
    take_nothing_of_the_budget(&[], &line).await
}

#[tokio::test]
async fn bodies_of_callers_that_are_not_the_sidecar_take_nothing_of_the_budget() -> Outcome {
    take_nothing_of_the_budget(&["--app-api-token=t"], "POST /dapr/deadLetters").await
}

/// The router decodes a path before it looks for a route.
#[tokio::test]
async fn an_encoded_path_needs_the_token_of_the_sidecar_too() -> Outcome {
    let flags = ["--app-api-token=t"];
    with_publisher(&flags, async |testbed| {
        for line in [
            "GET /dapr/subscribe",
            "GET /%64apr/subscribe",
            "POST /d%61pr/deadLetters",
        ] {
            ensure!(status(testbed, line, "").await? == 401, "{line}");
        }
        let right = "dapr-api-token: t\r\n";
        ensure!(status(testbed, "GET /%64apr/subscribe", right).await? == 200);
        Ok(())
    })
    .await
}

/// 64 bodies of 2 MiB are twice the budget of all bodies.
async fn take_nothing_of_the_budget(flags: &[&str], line: &str) -> Outcome {
    let file = TokenFile::new(&[Role::Writer])?;
    let tokens = file.flag();
    with_publisher(&[&[tokens.as_str()], flags].concat(), async |testbed| {
        let head =
            format!("{line} HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: 2097152\r\n");
        let mut slow = Vec::new();
        for _ in 0..64 {
            let mut connection = tokio::net::TcpStream::connect(testbed.address()).await?;
            let begin = format!("{head}\r\n{}", "x".repeat(100 << 10));
            tokio::io::AsyncWriteExt::write_all(&mut connection, begin.as_bytes()).await?;
            slow.push(connection);
        }
        let by = format!("{}{JSON}", file.header());
        let value = json!({"id": "b", "text": "x".repeat(900_000)}).to_string();
        let line = format!("POST /v1/collections/{SKILLS}/documents");
        let written = testbed.ask(&line, &by, &value).await?;
        ensure!(written.status == 201, "{written:?}");
        drop(slow);
        Ok(())
    })
    .await
}
