//! The values of single settings, from their texts. Each function records its errors; no error repeats
//! a text that may hold a secret. Nothing here reads the environment.

use std::collections::BTreeSet;

use ::tls::ClientTls;
use contract::{CollectionName, DocumentId, SecretUrl};
use replica::{CredentialError, Credentials, HeaderValue, TokenSource, Url};
use service::runtime::settings::{self, SettingChecks, listed, positive};

use super::{TOKEN, TOKEN_FILE};

const API_URL_NAME: &str = "AURA_CONFIGURATION_API_URL";
/// Longest base URL that a publisher accepts, in bytes.
const MAX_BASE_URL: usize = 256;
/// With a longer interval, a replica that receives no events would be out of date for too long.
const MAX_CHECK_IN_SECONDS: u64 = 3_600;

pub(super) fn check_in_seconds(text: &str) -> Result<u64, &'static str> {
    let seconds = positive(text)?;
    if seconds <= MAX_CHECK_IN_SECONDS {
        Ok(seconds)
    } else {
        Err("expected at most 3600")
    }
}

/// The name of the replica; `None` when an error was recorded. The name is part of a path, so it has
/// the form of a document id.
pub(super) fn instance(checks: &mut SettingChecks, text: &str) -> Option<Option<String>> {
    if text.is_empty() {
        return Some(None);
    }
    checks
        .parse::<DocumentId>("AURA_CONFIGURATION_INSTANCE", text)
        .map(|name| Some(name.to_string()))
}

/// A token as the value of a header; `None` when an error was recorded.
pub(super) fn token(
    checks: &mut SettingChecks,
    name: &str,
    text: &str,
) -> Option<Option<HeaderValue>> {
    let Some(token) = settings::token(checks, name, text)? else {
        return Some(None);
    };
    let mut value = HeaderValue::from_str(&token).ok()?;
    value.set_sensitive(true);
    Some(Some(value))
}

/// The bearer token; `None` when an error was recorded.
pub(super) fn bearer(checks: &mut SettingChecks, text: &str, file: &str) -> Option<TokenSource> {
    match (text, file) {
        ("", "") => Some(TokenSource::None),
        ("", file) => Some(TokenSource::File(file.into())),
        (text, "") => settings::token(checks, TOKEN, text)?.map(TokenSource::Text),
        _ => {
            checks.error(
                TOKEN,
                format_args!("…: {TOKEN_FILE} is set as well, name one of them"),
            );
            None
        }
    }
}

/// What publishers are shown; `None` when an error was recorded. The token must not be readable on the
/// way to any of the publishers.
pub(super) fn credentials(
    checks: &mut SettingChecks,
    tls: ClientTls,
    token: Option<TokenSource>,
    allow_plaintext_token: Option<bool>,
    publishers: &[SecretUrl],
) -> Option<Credentials> {
    let opened = Credentials::of(tls, token?, allow_plaintext_token?);
    let credentials = opened.map_err(|error| match error {
        CredentialError::File(error) => checks.error(TOKEN_FILE, error),
        error => checks.error(TOKEN, format_args!("…: {error}")),
    });
    let credentials = credentials.ok()?;
    for publisher in publishers {
        if let Err(error) = credentials.check(publisher.expose()) {
            checks.error(API_URL_NAME, format_args!("{publisher}: {error}"));
        }
    }
    Some(credentials)
}

/// The URL of the replica; `None` when an error was recorded. The error does not contain the URL,
/// which may have a password.
pub(super) fn base_url(checks: &mut SettingChecks, text: &str) -> Option<Option<Url>> {
    let name = "AURA_CONFIGURATION_BASE_URL";
    if text.is_empty() {
        return Some(None);
    }
    match Url::parse(text) {
        Ok(url) if is_base(&url) => Some(Some(url)),
        _ => {
            checks.error(name, "…: expected http://HOST:PORT or https://HOST:PORT");
            None
        }
    }
}

/// Whether the URL is `http://HOST:PORT` or `https://HOST:PORT`, and not longer than a publisher accepts.
fn is_base(url: &Url) -> bool {
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    ["http", "https"].contains(&url.scheme())
        && url.has_host()
        && url.path() == "/"
        && bare
        && url.as_str().len() <= MAX_BASE_URL
}

/// The collections; `None` when an error was recorded.
pub(super) fn collections(
    checks: &mut SettingChecks,
    text: &str,
) -> Option<BTreeSet<CollectionName>> {
    let name = "AURA_CONFIGURATION_COLLECTIONS";
    let read: Vec<Option<CollectionName>> =
        listed(text).map(|item| checks.parse(name, item)).collect();
    if read.is_empty() {
        checks.error(
            name,
            format_args!("{text:?}: expected at least one collection"),
        );
    }
    read.into_iter().collect()
}

/// URLs of publishers. A URL may contain a password, so an error names the position in the list.
pub(super) fn publishers(checks: &mut SettingChecks, text: &str) -> Option<Vec<SecretUrl>> {
    let name = API_URL_NAME;
    let mut read = Vec::new();
    for (index, item) in listed(text).enumerate() {
        match SecretUrl::http_base(item) {
            Ok(url) => read.push(url),
            Err(wrong) => checks.error(name, format_args!("item {}: {wrong}", index + 1)),
        }
    }
    if listed(text).next().is_none() {
        checks.error(name, format_args!("{text:?}: expected at least one URL"));
    }
    Some(read)
}
