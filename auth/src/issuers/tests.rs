//! Tokens against issuers: valid and hostile tokens, tokens of another library, and a real HTTP server
//! as an issuer that changes its keys, stalls and dies.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use contract::access::Role;
use futures_util::future::join_all;
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use super::{source::Pace, *};

const ISSUER: &str = "https://issuer.example";

/// A key pair of an issuer.
struct Signer {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let random = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random bytes");
        let pair = Ed25519KeyPair::from_pkcs8(random.as_ref()).expect("a key pair");
        Self { id, pair }
    }

    fn jwk(&self) -> Value {
        let x = BASE64.encode(self.pair.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| BASE64.encode(json.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = BASE64.encode(self.pair.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn token(&self) -> String {
        self.sign(&self.header(), &claims())
    }

    fn header(&self) -> Value {
        json!({"alg": "EdDSA", "typ": "JWT", "kid": self.id})
    }
}

fn claims() -> Value {
    let now = get_current_timestamp();
    json!({"iss": ISSUER, "aud": "confcast", "sub": "ann", "exp": now + 600, "iat": now})
}

fn set(signers: &[&Signer]) -> String {
    let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
    json!({"keys": keys}).to_string()
}

fn read_file(path: &Path, _most: u64) -> std::io::Result<Vec<u8>> {
    std::fs::read(path)
}

fn http(_authorities: Option<&Path>) -> Result<reqwest::Client, String> {
    let tls = tls::ClientTls::default().config();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(tls);
    client.build().map_err(|error| error.to_string())
}

fn issuers(change: impl FnOnce(&mut Value)) -> Issuers {
    let mut entry = json!({
        "name": "corp", "issuer": ISSUER, "audience": "confcast",
        "algorithms": ["RS256", "ES256", "EdDSA"],
        "grants": [
            {"claim": "sub", "value": "ann", "grant": {"role": "reader"}},
            {"claim": "roles", "value": "config-writer", "grant": {"role": "writer"}}
        ]
    });
    change(&mut entry);
    let text = json!({"issuers": [entry]}).to_string();
    Issuers::read(&text, read_file, http).expect("a file of issuers")
}

/// Issuers with one issuer whose keys are in a file.
fn with_file(set: &str) -> (Issuers, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.json");
    std::fs::write(&path, set).expect("a file");
    (issuers(|entry| entry["jwksFile"] = json!(path)), folder)
}

/// What the HTTP server of an issuer does.
#[derive(Clone, Default)]
struct Served {
    body: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
    stalls: Arc<Mutex<bool>>,
}

impl Served {
    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn answer(&self, body: impl Into<String>) {
        *self.body.lock().expect("the body") = body.into();
    }
}

/// An issuer with an HTTP server, which lives as long as the set of tasks.
async fn with_server(pace: Pace, keep: u64) -> (Issuers, Served, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
    let served = Served::default();
    let mut tasks = JoinSet::new();
    let serving = served.clone();
    tasks.spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _peer) = listener.accept().await.expect("a connection");
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.expect("a request");
            assert!(head[..read].starts_with(b"GET /keys "));
            serving.requests.fetch_add(1, Ordering::SeqCst);
            if *serving.stalls.lock().expect("the flag") {
                open.push(stream);
                continue;
            }
            let body = serving.body.lock().expect("the body").clone();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            // The client may have seen enough.
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    let mut found = issuers(|entry| {
        entry["jwksUrl"] = json!(url);
        entry["keepKeysSeconds"] = json!(keep);
    });
    found.all[0].keys.set_pace(pace);
    (found, served, tasks)
}

const NO_PAUSE: Pace = Pace {
    min_interval: Duration::ZERO,
    refresh_age: Duration::from_secs(300),
    timeout: Duration::from_millis(300),
};
const LONG_PAUSE: Pace = Pace {
    min_interval: Duration::from_secs(3_600),
    refresh_age: Duration::from_secs(300),
    timeout: Duration::from_secs(5),
};

fn reason(result: Result<Identity, Refused>) -> String {
    match result {
        Err(Refused::Invalid(reason)) => reason,
        other => panic!("not refused as invalid: {other:?}"),
    }
}

#[tokio::test]
async fn tokens_of_another_library_are_verified_and_forged_ones_are_refused() {
    let fixture: Value =
        serde_json::from_str(include_str!("testdata/pyjwt.json")).expect("the fixture");
    let (issuers, _folder) = with_file(&fixture["jwks"].to_string());
    for (name, token) in fixture["tokens"].as_object().expect("tokens") {
        let found = issuers.find(token.as_str().expect("a token")).await;
        if ["RS256", "ES256", "EdDSA"].contains(&name.as_str()) {
            let identity = found.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(*identity.name, *format!("jwt:corp:py-{name}"));
            assert_eq!(identity.grants[0].role, Role::Writer);
        } else {
            assert!(
                matches!(found, Err(Refused::Invalid(_))),
                "{name}: {found:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_valid_token_gives_a_name_and_grants() {
    let signer = Signer::new("k1");
    let (issuers, _folder) = with_file(&set(&[&signer]));
    let identity = issuers.find(&signer.token()).await.expect("a valid token");
    assert_eq!(&*identity.name, "jwt:corp:ann");
    assert_eq!(identity.grants.len(), 1);
    // A known caller without a grant is known all the same.
    let mut other = claims();
    other["sub"] = json!("bob");
    let identity = issuers.find(&signer.sign(&signer.header(), &other)).await;
    assert!(identity.expect("a valid token").grants.is_empty());
}

#[tokio::test]
async fn hostile_tokens_are_refused() {
    let (signer, stranger) = (Signer::new("k1"), Signer::new("k1"));
    let (issuers, _folder) = with_file(&set(&[&signer]));
    let now = get_current_timestamp();
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        signer.sign(&signer.header(), &claims)
    };
    let header = |name: &str, value: Value| {
        let mut header = signer.header();
        header[name] = value;
        signer.sign(&header, &claims())
    };
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().expect("an object").remove(name);
        signer.sign(&signer.header(), &claims)
    };
    let valid = signer.token();
    let (message, _signature) = valid.rsplit_once('.').expect("a token");
    for (what, token) in [
        ("another audience", with("aud", json!("other"))),
        ("no audience in the list", with("aud", json!(["a", "b"]))),
        ("no audience", without("aud")),
        (
            "an unknown issuer",
            with("iss", json!("https://other.example")),
        ),
        ("a list of issuers", with("iss", json!([ISSUER, "x"]))),
        ("no issuer", without("iss")),
        ("it has expired", with("exp", json!(now - 61))),
        ("no end", without("exp")),
        ("an end that is a text", with("exp", json!("never"))),
        ("not valid yet", with("nbf", json!(now + 120))),
        ("issued in the future", with("iat", json!(now + 120))),
        ("issued at a text", with("iat", json!("now"))),
        ("no name", without("sub")),
        ("a name that is no text", with("sub", json!({"a": 1}))),
        ("a long name", with("sub", json!("a".repeat(200)))),
        ("an unknown critical header", header("crit", json!(["x"]))),
        ("an unencoded payload", header("b64", json!(false))),
        ("an unknown key", header("kid", json!("k2"))),
        ("another algorithm", header("alg", json!("ES256"))),
        ("a symmetric algorithm", header("alg", json!("HS256"))),
        ("no algorithm", header("alg", json!("none"))),
        ("the key of somebody else", stranger.token()),
        ("no signature", format!("{message}.")),
        ("two parts", message.to_owned()),
        ("four parts", format!("{valid}.a")),
        ("a huge token", format!("{valid}{}", "A".repeat(MAX_JWT))),
        ("no token", "...".to_owned()),
    ] {
        let found = issuers.find(&token).await;
        assert!(
            matches!(found, Err(Refused::Invalid(_))),
            "{what}: {found:?}"
        );
    }
    // Clocks differ.
    for token in [with("exp", json!(now - 30)), with("nbf", json!(now + 30))] {
        issuers.find(&token).await.expect("within the skew");
    }
}

#[tokio::test]
async fn a_header_that_names_a_key_is_not_looked_at() {
    let (signer, stranger) = (Signer::new("k1"), Signer::new("k1"));
    let (issuers, _folder) = with_file(&set(&[&signer]));
    for (name, value) in [
        ("jku", json!("http://127.0.0.1:1/keys")),
        ("x5u", json!("http://127.0.0.1:1/certificate")),
        ("jwk", stranger.jwk()),
    ] {
        let mut header = signer.header();
        header[name] = value;
        issuers
            .find(&signer.sign(&header, &claims()))
            .await
            .expect("the key of the issuer verifies it");
        let forged = issuers.find(&stranger.sign(&header, &claims())).await;
        assert!(forged.is_err(), "{name}");
    }
}

#[tokio::test]
async fn an_algorithm_that_is_not_pinned_is_refused_also_with_a_right_signature() {
    let signer = Signer::new("k1");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.json");
    std::fs::write(&path, set(&[&signer])).expect("a file");
    let issuers = issuers(|entry| {
        entry["jwksFile"] = json!(path);
        entry["algorithms"] = json!(["ES256"]);
    });
    let reason = reason(issuers.find(&signer.token()).await);
    assert!(reason.contains("algorithm"), "{reason}");
}

#[tokio::test]
async fn a_key_that_the_issuer_adds_is_fetched_once_for_all_who_need_it() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let (issuers, served, _tasks) = with_server(NO_PAUSE, 3_600).await;
    served.answer(set(&[&old]));
    let all = |token: String| {
        let issuers = &issuers;
        async move { join_all((0..50).map(|_| issuers.find(&token))).await }
    };
    assert!(all(old.token()).await.iter().all(Result::is_ok));
    assert_eq!(served.requests(), 1);
    served.answer(set(&[&old, &new]));
    assert!(all(new.token()).await.iter().all(Result::is_ok));
    assert_eq!(served.requests(), 2);
    // The old one is withdrawn: at the next fetch it is gone.
    served.answer(set(&[&new]));
    issuers
        .find(&Signer::new("x").token())
        .await
        .expect_err("an unknown key");
    issuers
        .find(&old.token())
        .await
        .expect_err("a withdrawn key");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_costs_one_request() {
    let signer = Signer::new("k1");
    let (issuers, served, _tasks) = with_server(LONG_PAUSE, 3_600).await;
    served.answer(set(&[&signer]));
    issuers.find(&signer.token()).await.expect("a valid token");
    for _ in 0..200 {
        let forged = Signer::new("unknown").token();
        issuers.find(&forged).await.expect_err("an unknown key");
    }
    assert_eq!(served.requests(), 1);
    issuers.find(&signer.token()).await.expect("a valid token");
}

#[tokio::test]
async fn keys_stay_in_force_while_the_issuer_stalls_sends_too_much_or_is_gone() {
    let signer = Signer::new("k1");
    let (issuers, served, mut tasks) = with_server(NO_PAUSE, 3_600).await;
    served.answer(set(&[&signer]));
    issuers.find(&signer.token()).await.expect("a valid token");
    let unknown = Signer::new("unknown").token();
    served.answer(" ".repeat(300 << 10));
    issuers.find(&unknown).await.expect_err("an unknown key");
    served.answer(r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#);
    issuers.find(&unknown).await.expect_err("an unknown key");
    *served.stalls.lock().expect("the flag") = true;
    issuers.find(&unknown).await.expect_err("an unknown key");
    assert_eq!(served.requests(), 4);
    issuers.find(&signer.token()).await.expect("a valid token");
    tasks.shutdown().await;
    issuers.find(&unknown).await.expect_err("an unknown key");
    issuers.find(&signer.token()).await.expect("a valid token");
}

#[tokio::test]
async fn keys_stay_in_force_when_the_file_of_issuers_changes_while_the_issuer_is_away() {
    let signer = Signer::new("k1");
    let (issuers, served, mut tasks) = with_server(NO_PAUSE, 3_600).await;
    served.answer(set(&[&signer]));
    issuers.find(&signer.token()).await.expect("a valid token");
    let again = |url: &str| {
        let changed = self::issuers(|entry| {
            entry["jwksUrl"] = json!(url);
            entry["grants"] = json!([]);
        });
        changed.keep_keys(&issuers);
        changed
    };
    let url = issuers.all[0].keys.url().expect("a URL").to_string();
    tasks.shutdown().await;
    let found = again(&url).find(&signer.token()).await;
    assert!(found.expect("a valid token").grants.is_empty());
    // Keys of another place are not taken over.
    let found = again(&format!("{url}/other")).find(&signer.token()).await;
    assert!(matches!(found, Err(Refused::Unavailable(_))), "{found:?}");
}

#[tokio::test]
async fn a_refusal_repeats_nothing_that_the_token_says() {
    let signer = Signer::new("k1");
    let (issuers, _folder) = with_file(&set(&[&signer]));
    let mut kind = signer.header();
    kind["alg"] = json!("hunter2");
    let mut claims = claims();
    claims["exp"] = json!("hunter2");
    for token in [
        signer.sign(&kind, &self::claims()),
        signer.sign(&signer.header(), &claims),
    ] {
        let reason = reason(issuers.find(&token).await);
        assert!(!reason.contains("hunter2"), "{reason}");
    }
}

#[tokio::test]
async fn keys_that_are_too_old_are_not_used() {
    let signer = Signer::new("k1");
    let (issuers, served, mut tasks) = with_server(NO_PAUSE, 0).await;
    served.answer(set(&[&signer]));
    tasks.shutdown().await;
    let found = issuers.find(&signer.token()).await;
    assert!(matches!(found, Err(Refused::Unavailable(_))), "{found:?}");
}

#[test]
fn files_that_would_accept_too_much_are_refused() {
    let entry = json!({
        "name": "corp", "issuer": ISSUER, "audience": "confcast", "algorithms": ["EdDSA"],
        "jwksUrl": "https://issuer.example/keys", "grants": []
    });
    let read = |entry: &Value| {
        let text = json!({"issuers": [entry]}).to_string();
        Issuers::read(&text, read_file, http)
    };
    read(&entry).expect("a file of issuers");
    for (name, value) in [
        ("algorithms", json!(["HS256"])),
        ("algorithms", json!(["none"])),
        ("algorithms", json!([])),
        ("audience", json!("")),
        ("audience", json!([])),
        ("issuer", json!("")),
        ("name", json!("a b")),
        ("jwksUrl", json!("http://issuer.example/keys")),
        ("jwksUrl", json!("file:///keys")),
        ("jwksFile", json!("also")),
        ("skewSeconds", json!(601)),
        ("unknown", json!(1)),
    ] {
        let mut wrong = entry.clone();
        wrong[name] = value.clone();
        read(&wrong).expect_err(&format!("{name}: {value}"));
    }
    let twice = json!({"issuers": [entry, entry]}).to_string();
    Issuers::read(&twice, read_file, http).expect_err("the same issuer twice");
}

#[tokio::test]
async fn the_signature_of_a_token_is_checked_once_until_its_keys_are_withdrawn() {
    let (signer, other) = (Signer::new("k1"), Signer::new("k2"));
    let (issuers, served, _tasks) = with_server(NO_PAUSE, 3_600).await;
    served.answer(set(&[&signer]));
    let (valid, forged) = (signer.token(), Signer::new("k1").token());
    assert!(!issuers.knows(&valid));
    issuers.find(&valid).await.expect("a valid token");
    issuers.find(&forged).await.expect_err("a forged token");
    assert!(issuers.knows(&valid) && !issuers.knows(&forged));
    // The issuer gives the same keys again.
    issuers.find(&other.token()).await.expect_err("unknown key");
    assert!(issuers.knows(&valid));
    let keys = || issuers.keys_in_force().map(|(_name, digest)| digest).next();
    let before = keys();
    served.answer(set(&[&other]));
    issuers.find(&other.token()).await.expect("a valid token");
    assert!(keys().is_some() && keys() != before);
    assert!(!issuers.knows(&valid));
    issuers.find(&valid).await.expect_err("a withdrawn key");
}

#[tokio::test]
async fn a_token_that_was_verified_ends_with_its_time() {
    let signer = Signer::new("k1");
    let (issuers, _folder) = with_file(&set(&[&signer]));
    let mut claims = claims();
    // Half of the skew has passed.
    claims["exp"] = json!(get_current_timestamp() - SKEW_SECONDS / 2);
    let token = signer.sign(&signer.header(), &claims);
    issuers.find(&token).await.expect("within the skew");
    let holder = issuers.verified.find(&Sha256::of(&[token.as_bytes()]));
    let holder = holder.expect("a verified token");
    let now = get_current_timestamp();
    assert!((now..now + SKEW_SECONDS).contains(&holder.until));
}
