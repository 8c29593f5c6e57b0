//! Callers of a subscriber with and without a credential.

use auth::SecretToken;
use contract::{
    access::{Grant, Role},
    token::TokenRecord,
};

use super::*;

/// A file with the record of a token, and the token.
fn token_file(role: Role) -> (tempfile::TempDir, String, String) {
    let token = SecretToken::generate();
    let record = TokenRecord {
        id: token.hash().id(),
        name: "app".parse().expect("a name"),
        hash: token.hash(),
        grants: vec![Grant::everywhere(role)],
        created_at: "2026-01-01T00:00:00Z".parse().expect("a time"),
        created_by: "offline".to_owned(),
        expires_at: None,
        revoked_at: None,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens");
    let record = serde_json::to_string(&record).expect("JSON");
    std::fs::write(&path, record).expect("a file");
    let flag = format!("--tokens-file={}", path.display());
    (folder, flag, token.expose().to_owned())
}

#[tokio::test]
async fn every_request_needs_a_credential_but_those_of_orchestrators_and_the_sidecar() {
    let (_folder, flag, token) = token_file(Role::Reader);
    let flags = [&*flag, "--app-api-token=secret"];
    check(&flags, publisher(7, 200), async |subscriber| {
        let heads = "/v1/collections";
        let known = async |path: &str| {
            let answer = subscriber.get(path).bearer_auth(&token).send().await;
            answer.expect("an answer").status().as_u16()
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while known(heads).await != 200 {
            assert!(Instant::now() < deadline, "it does not load");
        }
        for path in [
            heads,
            "/v1/collections/A/documents/x",
            "/v1/changes?since=A:7",
            "/metrics",
        ] {
            let answer = subscriber.fetch(path).await;
            assert_eq!(header(&answer, "www-authenticate"), "Bearer");
            problem(answer, 401, "unauthenticated").await;
        }
        assert_eq!(known("/metrics").await, 403);
        assert_eq!(subscriber.fetch("/healthz").await.status(), 204);

        // An event needs the token of the sidecar, and nothing else gives that.
        let post = |name: &str, value: &str| {
            let request = subscriber.client.post(subscriber.url(EVENTS));
            let event = update("x", 8, &json!({}));
            request
                .header("content-type", STRUCTURED)
                .header(name, value)
                .body(event.to_string())
        };
        let bearer = format!("Bearer {token}");
        let refused = post("authorization", &bearer).send().await;
        assert_eq!(refused.expect("an answer").status(), 401);
        let taken = post("dapr-api-token", "secret").send().await;
        assert_eq!(taken.expect("an answer").status(), 200);
    })
    .await;
}
