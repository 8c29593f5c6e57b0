//! JSON Web Tokens (RFC 7519) of issuers that a file names: verified by the keys of their issuer, and
//! made into an identity by its rules.
//!
//! An issuer decides nothing about how its tokens are verified: algorithms, keys and audience come from
//! the file. Headers that name keys (`jku`, `jwk`, `x5u`, `x5c`) are not looked at (RFC 8725).

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use contract::{access::Identity, objects, sha256::Sha256};
use futures_util::future::join_all;
use jsonwebtoken::{
    Algorithm, Validation, decode, decode_header, errors::ErrorKind, get_current_timestamp,
};
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use self::{
    claims::ClaimRule,
    source::{KeySource, Place},
    verified::{Holder, Verified},
};
use crate::{HttpClient, ReadFile, Refused, signatures};

mod claims;
mod keys;
mod source;
#[cfg(test)]
mod tests;
mod verified;

/// Longest token, in bytes.
const MAX_JWT: usize = 8 << 10;
/// Most issuers.
const MAX_ISSUERS: usize = 16;
/// Most rules of an issuer.
const MAX_RULES: usize = 256;
/// Difference of clocks that is allowed, in seconds, where the file does not say otherwise.
const SKEW_SECONDS: u64 = 60;
/// Largest one that the file may allow.
const MAX_SKEW_SECONDS: u64 = 600;
/// How long keys are used while their issuer cannot be asked, in seconds, where the file does not say
/// otherwise.
const KEEP_KEYS_SECONDS: u64 = 86_400;

/// The issuers of a file, and tokens of theirs that were verified by it.
#[derive(Debug, Default)]
pub(crate) struct Issuers {
    all: Vec<Issuer>,
    verified: Verified,
}

#[derive(Debug)]
struct Issuer {
    name: String,
    issuer: String,
    /// What a token has to have, by its algorithm. Others than these are refused.
    validations: HashMap<Algorithm, Validation>,
    skew_seconds: u64,
    name_claim: String,
    rules: Vec<ClaimRule>,
    keys: KeySource,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    issuers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    /// Short name, part of the name of every caller.
    name: String,
    /// `iss`, letter by letter.
    issuer: String,
    /// `aud` of this service.
    audience: OneOrMore,
    algorithms: Vec<JwtAlgorithm>,
    #[serde(default)]
    jwks_file: Option<PathBuf>,
    #[serde(default)]
    jwks_url: Option<String>,
    /// Authorities of the server of `jwksUrl`.
    #[serde(default)]
    jwks_ca_file: Option<PathBuf>,
    /// A file with the token that the server of `jwksUrl` asks for.
    #[serde(default)]
    jwks_token_file: Option<PathBuf>,
    #[serde(default = "subject")]
    name_claim: String,
    #[serde(default = "skew")]
    skew_seconds: u64,
    #[serde(default = "keep_keys")]
    keep_keys_seconds: u64,
    grants: Vec<ClaimRule>,
}

fn subject() -> String {
    "sub".to_owned()
}

fn skew() -> u64 {
    SKEW_SECONDS
}

fn keep_keys() -> u64 {
    KEEP_KEYS_SECONDS
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// The algorithms that an issuer may have: with a public key each, and no others.
#[derive(Clone, Copy, Deserialize)]
enum JwtAlgorithm {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Issuers {
    /// Reads the file. No key is read yet.
    ///
    /// # Errors
    /// The fault in words.
    pub(crate) fn read(text: &str, read: ReadFile, http: HttpClient) -> Result<Self, String> {
        signatures::install();
        let file: File = objects::from_str(text).map_err(|error| error.to_string())?;
        if file.issuers.len() > MAX_ISSUERS {
            return Err(format!("/issuers: more than {MAX_ISSUERS}"));
        }
        let mut issuers: Vec<Issuer> = Vec::new();
        for (index, entry) in file.issuers.into_iter().enumerate() {
            let wrong = |what: String| format!("/issuers/{index}: {what}");
            let issuer = issuer(entry, read, http).map_err(wrong)?;
            if issuers
                .iter()
                .any(|known| known.name == issuer.name || known.issuer == issuer.issuer)
            {
                return Err(wrong("its name or its issuer is there twice".to_owned()));
            }
            issuers.push(issuer);
        }
        Ok(Self {
            all: issuers,
            verified: Verified::default(),
        })
    }

    /// Takes over the keys that the issuers of the former file gave: a change of the file must not
    /// make an issuer that is away unknown.
    pub(crate) fn keep_keys(&self, former: &Self) {
        for issuer in &self.all {
            let is_same =
                |known: &&Issuer| known.name == issuer.name && known.issuer == issuer.issuer;
            if let Some(known) = former.all.iter().find(is_same) {
                issuer.keys.take_over(&known.keys);
            }
        }
    }

    /// Whether no token is accepted.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The holder of a token.
    ///
    /// # Errors
    /// When the token is not accepted, or the keys of its issuer cannot be had.
    pub(crate) async fn find(&self, token: &str) -> Result<Identity, Refused> {
        let invalid = |detail: String| Refused::Invalid(detail);
        let digest = Sha256::of(&[token.as_bytes()]);
        if let Some(identity) = self.known(&digest) {
            return Ok(identity);
        }
        if token.len() > MAX_JWT {
            return Err(invalid(format!("the token is longer than {MAX_JWT} bytes")));
        }
        let Some(claimed) = claimed_issuer(token) else {
            let detail = "the token is neither one of this service nor a JSON Web Token";
            return Err(invalid(detail.to_owned()));
        };
        let Some(index) = self.all.iter().position(|known| known.issuer == claimed) else {
            let detail = "the issuer of the token is not known here";
            return Err(invalid(detail.to_owned()));
        };
        let holder = self.all[index].verify(index, token).await?;
        let identity = holder.identity.clone();
        self.verified.insert(digest, holder);
        Ok(identity)
    }

    /// Whether a token was verified before, and nothing has changed since: [`Self::find`] checks no
    /// signature then.
    pub(crate) fn knows(&self, token: &str) -> bool {
        self.known(&Sha256::of(&[token.as_bytes()])).is_some()
    }

    fn known(&self, digest: &Sha256) -> Option<Identity> {
        let holder = self.verified.find(digest)?;
        let issuer = self.all.get(holder.issuer)?;
        let keys = issuer.keys.usable_keys();
        if keys.is_some_and(|keys| holder.holds(&keys, get_current_timestamp())) {
            return Some(holder.identity);
        }
        self.verified.remove(digest);
        None
    }

    /// SHA-256 of the key set of each issuer that is in force, by the name of the issuer.
    pub(crate) fn keys_in_force(&self) -> impl Iterator<Item = (&str, Sha256)> {
        let all = self.all.iter();
        all.filter_map(|issuer| Some((issuer.name.as_str(), issuer.keys.digest()?)))
    }

    /// Reads keys that are old.
    pub(crate) async fn refresh(&self) {
        join_all(self.all.iter().map(|issuer| issuer.keys.refresh())).await;
    }
}

fn issuer(entry: Entry, read: ReadFile, http: HttpClient) -> Result<Issuer, String> {
    let is_name = (1..=32).contains(&entry.name.len())
        && entry
            .name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !is_name {
        return Err("/name: expected 1 to 32 of A-Z a-z 0-9 . _ -".to_owned());
    }
    let audiences = match entry.audience {
        OneOrMore::One(audience) => vec![audience],
        OneOrMore::More(audiences) => audiences,
    };
    if entry.issuer.is_empty() || audiences.is_empty() || audiences.iter().any(String::is_empty) {
        return Err("/issuer and /audience are texts that are not empty".to_owned());
    }
    let algorithms: HashSet<_> = entry.algorithms.into_iter().map(algorithm).collect();
    if algorithms.is_empty() {
        return Err("/algorithms: expected at least one of RS256, ES256, EdDSA".to_owned());
    }
    let skew_seconds = entry.skew_seconds;
    if skew_seconds > MAX_SKEW_SECONDS {
        return Err(format!("/skewSeconds: expected at most {MAX_SKEW_SECONDS}"));
    }
    if entry.grants.len() > MAX_RULES {
        return Err(format!("/grants: more than {MAX_RULES}"));
    }
    for (index, rule) in entry.grants.iter().enumerate() {
        rule.check()
            .map_err(|error| format!("/grants/{index}: {error}"))?;
    }
    let place = match (entry.jwks_file, entry.jwks_url) {
        (Some(path), None) => Place::File(path),
        (None, Some(url)) => Place::Url {
            client: http(entry.jwks_ca_file.as_deref())?,
            url: checked(&url)?,
            token: entry.jwks_token_file,
            authorities: entry.jwks_ca_file,
        },
        _ => return Err("expected either jwksFile or jwksUrl".to_owned()),
    };
    let max_age = Duration::from_secs(entry.keep_keys_seconds);
    Ok(Issuer {
        validations: algorithms
            .into_iter()
            .map(|algorithm| {
                let validation = validation(algorithm, &entry.issuer, &audiences, skew_seconds);
                (algorithm, validation)
            })
            .collect(),
        skew_seconds,
        keys: KeySource::new(&entry.name, place, max_age, read),
        name: entry.name,
        issuer: entry.issuer,
        name_claim: entry.name_claim,
        rules: entry.grants,
    })
}

/// Keys that anybody on the way can replace prove nothing.
fn checked(url: &str) -> Result<Url, String> {
    let url: Url = url.parse().map_err(|error| format!("/jwksUrl: {error}"))?;
    let host = url.host_str().unwrap_or_default();
    let is_loopback = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback => Ok(url),
        _ => Err("/jwksUrl: expected https, or http on loopback".to_owned()),
    }
}

fn algorithm(named: JwtAlgorithm) -> Algorithm {
    match named {
        JwtAlgorithm::Rs256 => Algorithm::RS256,
        JwtAlgorithm::Es256 => Algorithm::ES256,
        JwtAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

fn validation(
    algorithm: Algorithm,
    issuer: &str,
    audiences: &[String],
    skew_seconds: u64,
) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = skew_seconds;
    validation.validate_nbf = true;
    validation.set_issuer(&[issuer]);
    validation.set_audience(audiences);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation
}

/// The issuer that a token names, before anything is verified: it selects the rules, and they verify
/// it.
fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
    }
    let mut parts = token.split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    Some(serde_json::from_slice::<Claims>(&claims).ok()?.iss)
}

impl Issuer {
    /// The holder of a token. `index` is the one of this issuer.
    async fn verify(&self, index: usize, token: &str) -> Result<Holder, Refused> {
        let invalid = |error: &dyn std::fmt::Display| {
            Refused::Invalid(format!("the token of {} is not valid: {error}", self.name))
        };
        // The text of the error repeats what the header says.
        let header =
            decode_header(token).map_err(|_error| invalid(&"its header cannot be read"))?;
        let Some(validation) = self.validations.get(&header.alg) else {
            return Err(invalid(&"its algorithm is not one of the issuer"));
        };
        let verified = self
            .keys
            .find(|keys| {
                let mut outcome = None;
                for key in keys.find(header.kid.as_deref(), header.alg) {
                    let decoded = decode::<Value>(token, key, validation);
                    let is_valid = decoded.is_ok();
                    outcome = Some((decoded, Arc::downgrade(keys)));
                    if is_valid {
                        break;
                    }
                }
                outcome
            })
            .await
            .map_err(|()| {
                let detail = format!("the keys of the issuer {} are not available", self.name);
                Refused::Unavailable(detail)
            })?;
        let (claims, keys) = match verified {
            None => return Err(invalid(&"its issuer has no key of its key id")),
            Some((Err(error), _keys)) => {
                return Err(match error.kind() {
                    // The texts of these repeat what the token says.
                    ErrorKind::Json(_) | ErrorKind::Base64(_) | ErrorKind::Utf8(_) => {
                        invalid(&"its claims cannot be read")
                    }
                    _of_its_own => invalid(&error),
                });
            }
            Some((Ok(decoded), keys)) => (decoded.claims, keys),
        };
        // RFC 7519 section 4.1.6 does not ask for this, but such a token comes from a broken clock.
        let latest = get_current_timestamp().saturating_add(self.skew_seconds);
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
        if claims
            .get("iat")
            .is_some_and(|issued| issued.as_f64().is_none_or(|issued| issued > latest as f64))
        {
            return Err(invalid(&"it was issued in the future"));
        }
        let identity = claims::identity(&self.name, &self.name_claim, &self.rules, &claims)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "seconds since 1970; what is beyond the range becomes its edge"
        )]
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or(0.0) as u64;
        Ok(Holder {
            identity,
            issuer: index,
            keys,
            until: expires.saturating_add(self.skew_seconds),
        })
    }
}
