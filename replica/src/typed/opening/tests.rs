//! Secrets as decoders get them, and what a refusal shows of them.

use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::typed::{Secret, SecretStore, StoreCache, TypedDecoder};

const CANARY: &str = "canary-99";

#[derive(Debug, Deserialize)]
struct Database {
    #[serde(default)]
    port: u16,
    password: Secret<String>,
}

/// The same document with a member of another type.
#[derive(Debug, Deserialize)]
struct Numbered {
    #[expect(dead_code, reason = "it is only decoded")]
    password: u64,
}

/// A service that does not read the secret.
#[derive(Debug, Deserialize)]
struct Port {
    port: u16,
}

fn keys() -> SecretKeys {
    let key = "A".repeat(43) + "=";
    let text = format!(r#"{{"active": "a", "keys": {{"a": "{key}"}}}}"#);
    let provider = secrets::KeyProvider::Environment(text.into());
    SecretKeys::read(provider).expect("keys")
}

fn name() -> CollectionName {
    "Databases".parse().expect("a name")
}

/// A document with a sealed password, at this revision.
fn sealed(value: Value, revision: u64) -> Document {
    let id = "db".parse().expect("an id");
    let pointers = ["/password".to_owned()];
    let draft = secrets::Draft::new(value, &pointers, secrets::system_entropy);
    let entropy = secrets::system_entropy;
    let keyring = keys().keyring();
    let text = draft
        .expect("a draft")
        .seal(&name(), &id, revision, None, &keyring, entropy)
        .expect("sealed");
    Document::new(id, revision, &text)
}

fn decode<T: serde::de::DeserializeOwned + Send + Sync + 'static>(
    opening: &Opening,
    document: &Document,
) -> Result<Arc<T>, String> {
    let decoder = TypedDecoder::of::<T>(name());
    match decoder.decode(document, opening) {
        Ok(value) => Ok(value.value().expect("its type")),
        Err(refused) => Err(format!("{refused:?}")),
    }
}

#[test]
fn a_service_with_the_key_reads_a_secret_and_one_without_it_reads_the_rest() {
    let document = sealed(json!({"port": 1, "password": CANARY}), 5);
    let with_keys = Opening::new(Some(keys()), None);
    let database: Arc<Database> = decode(&with_keys, &document).expect("it fits");
    assert_eq!((database.port, &**database.password.expose()), (1, CANARY));
    assert!(!format!("{database:?}").contains(CANARY));

    let without = Opening::default();
    assert_eq!(
        decode::<Port>(&without, &document).expect("it fits").port,
        1
    );
    let refused = decode::<Database>(&without, &document).expect_err("no key");
    assert!(refused.contains("this service has no key"), "{refused}");
}

#[test]
fn a_refusal_shows_nothing_of_an_opened_secret() {
    let opening = Opening::new(Some(keys()), None);
    let document = sealed(json!({"port": "x", "password": CANARY}), 5);
    for refused in [
        decode::<Numbered>(&opening, &document).expect_err("a text"),
        decode::<Vec<u8>>(&opening, &document).expect_err("an object"),
    ] {
        assert!(!refused.contains(CANARY), "{refused}");
        assert!(refused.contains("there is a secret"), "{refused}");
    }
    // A fault elsewhere is shown as always.
    let refused = decode::<Database>(&opening, &document).expect_err("a text");
    assert!(refused.contains("invalid type: string"), "{refused}");
    assert!(!refused.contains(CANARY), "{refused}");
}

#[test]
fn a_secret_of_another_place_or_of_the_future_is_refused() {
    let opening = Opening::new(Some(keys()), None);
    let document = sealed(json!({"password": CANARY}), 5);
    let value = document.value().expect("canonical");
    let id = document.id().clone();
    let before = Document::new(id, 4, &value);
    let moved = Document::new("other".parse().expect("an id"), 5, &value);
    for wrong in [before, moved] {
        let refused = decode::<Database>(&opening, &wrong).expect_err("refused");
        assert!(refused.contains("/password") && refused.contains("cannot be opened"));
    }
}

#[test]
fn a_reference_without_a_value_keeps_its_document_out() {
    let url = "http://127.0.0.1:1".parse().expect("a URL");
    let store = StoreCache::new(SecretStore::new(url).allow("vault", "")).expect("a cache");
    let opening = Opening::new(None, Some(store));
    let reference = json!({"$secretRef": {"store": "vault", "key": "db"}});
    let value = contract::CanonicalJson::of(&json!({"password": reference})).expect("JSON");
    let document = Document::new("db".parse().expect("an id"), 5, &value);
    let refused = decode::<Database>(&opening, &document).expect_err("not read yet");
    assert!(refused.contains("was not read yet"), "{refused}");
    assert_eq!(refs_of(&document).len(), 1);
}
