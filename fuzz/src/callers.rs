//! What a caller presents, and the files and keys that decide about it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
};

use auth::{Anonymous, Authenticator, Files, Identity, Presented, Refused, Setup};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

const ISSUERS: &str = r#"{"issuers":[{"name":"a","issuer":"https://issuer.example","audience":"confcast",
    "algorithms":["RS256","ES256","EdDSA"],"jwksFile":"keys",
    "grants":[{"claim":"sub","prefix":"team:","grant":{"role":"reader"}},
        {"claim":"/realm/roles","value":"config-writer","grant":{"role":"writer"}}]}]}"#;
/// The header of a token that is signed with [`SIGNER`].
const HEADER: &str = r#"{"alg":"EdDSA","kid":"k"}"#;

static SIGNER: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[7; 32]));

fn set_of_signer() -> Vec<u8> {
    let x = URL_SAFE_NO_PAD.encode(SIGNER.verifying_key());
    let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x});
    json!({"keys": [key]}).to_string().into_bytes()
}

/// The file `bytes`: the input of a target.
static BYTES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn file(path: &Path, _most: u64) -> io::Result<Vec<u8>> {
    match path.to_str() {
        Some("issuers") => Ok(ISSUERS.into()),
        Some("issuers-of-bytes") => Ok(ISSUERS.replace(r#""keys""#, r#""bytes""#).into()),
        Some("keys") => Ok(set_of_signer()),
        Some("bytes") => Ok(BYTES.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn set_bytes(bytes: &[u8]) {
    let mut file = BYTES.lock().unwrap_or_else(PoisonError::into_inner);
    bytes.clone_into(&mut file);
}

fn no_client(_authorities: Option<&Path>) -> Result<reqwest::Client, String> {
    Err("there is no client".to_owned())
}

fn setup(files: Files) -> Setup {
    Setup {
        anonymous: Anonymous::Refused,
        files,
        read: file,
        http: no_client,
    }
}

/// Asks the issuers of this file.
fn with_issuers(name: &str) -> Authenticator {
    let files = Files {
        issuers: Some(name.into()),
        ..Files::default()
    };
    Authenticator::new(setup(files)).expect("an authenticator")
}

fn present(authenticator: &Authenticator, presented: Presented<'_>) -> Result<Identity, Refused> {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let runtime = Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime")
    });
    RUNTIME.block_on(authenticator.authenticate(presented))
}

fn present_header(authenticator: &Authenticator, header: &str) -> Result<Identity, Refused> {
    let presented = Presented {
        authorization: Some(header),
        ..Presented::default()
    };
    present(authenticator, presented)
}

/// A header `Authorization`: nobody knows a key or a token, so nobody is known.
pub fn authorization(bytes: &[u8]) {
    static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| with_issuers("issuers"));
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let bearer = format!("Bearer {text}");
    for header in [text, &bearer] {
        if let Ok(identity) = present_header(&AUTHENTICATOR, header) {
            panic!("{text:?} is taken for {identity:?}");
        }
    }
}

/// The claims of a token with a valid signature: who is accepted is of the issuer and the audience, and
/// has a name that every log can carry.
pub fn claims(bytes: &[u8]) {
    static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| with_issuers("issuers"));
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", part(HEADER.as_bytes()), part(bytes));
    let signature = part(&SIGNER.sign(message.as_bytes()).to_bytes());
    let header = format!("Bearer {message}.{signature}");
    let Ok(identity) = present_header(&AUTHENTICATOR, &header) else {
        return;
    };
    let name = &identity.name;
    assert!(name.starts_with("jwt:a:"), "{name:?}");
    assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    let claims: Value = serde_json::from_slice(bytes).expect("claims are JSON");
    assert_eq!(claims["iss"], "https://issuer.example");
    let audience = &claims["aud"];
    let is_for = |audience: &Value| audience == "confcast";
    let is_for_us = is_for(audience)
        || audience
            .as_array()
            .is_some_and(|all| all.iter().any(is_for));
    assert!(is_for_us && !claims["exp"].is_null(), "{claims}");
}

/// The keys of an issuer, as its server sends them.
pub fn issuer_keys(bytes: &[u8]) {
    set_bytes(bytes);
    let authenticator = with_issuers("issuers-of-bytes");
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let claims = part(br#"{"iss":"https://issuer.example","aud":"confcast","sub":"b"}"#);
    for (algorithm, signature) in [("RS256", 256), ("ES256", 64), ("EdDSA", 64)] {
        let header = format!(r#"{{"alg":"{algorithm}"}}"#);
        let token = format!(
            "{}.{claims}.{}",
            part(header.as_bytes()),
            part(&vec![1; signature])
        );
        let found = present_header(&authenticator, &format!("Bearer {token}"));
        // It has no end.
        assert!(found.is_err(), "{found:?}");
    }
}

/// The files of tokens, of issuers and of certificates: a file is taken as a whole or not at all.
pub fn credential_files(bytes: &[u8]) {
    set_bytes(bytes);
    let path = || Some(PathBuf::from("bytes"));
    let of_tokens = Files {
        tokens: path(),
        ..Files::default()
    };
    let of_issuers = Files {
        issuers: path(),
        ..Files::default()
    };
    let of_certificates = Files {
        certificates: path(),
        ..Files::default()
    };
    for files in [of_tokens, of_issuers, of_certificates] {
        let Ok(authenticator) = Authenticator::new(setup(files)) else {
            continue;
        };
        let nobody = present(&authenticator, Presented::default());
        assert!(nobody.is_err(), "{nobody:?}");
        let presented = Presented {
            certificate: Some("spiffe://a/b"),
            ..Presented::default()
        };
        drop(present(&authenticator, presented));
    }
}
