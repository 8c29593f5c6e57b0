//! URLs that may hold a user name and a password. Such a URL is never shown as it is: not by `Debug`,
//! not by `Display`, and not by the error of a text that is no URL.
//!
//! Nothing here connects.

use std::{fmt, net::IpAddr, str::FromStr};

use url::Url;

/// A URL that may hold a secret. `SecretUrl` is one that can be parsed; `SecretUrl<String>` is for
/// forms that a driver parses itself, as the lists of hosts of MongoDB.
///
/// Both `Debug` and `Display` give [`redacted`] text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretUrl<U = Url>(U);

/// Why a text is no URL. It never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretUrlError {
    /// There is no scheme with `://`.
    #[error("expected a URL, SCHEME://HOST")]
    NoScheme,
    /// White space or a control inside.
    #[error("a URL has no white space: write %20 for a space")]
    Space,
    /// An `@` that does not end the user information: a part of a password would be taken for host
    /// and path.
    #[error(
        "an @ is after the host: in user and password write %40 for @, %3A for :, %2F for /, %3F for ? and %23 for #"
    )]
    UserInfo,
    /// Another scheme than HTTP.
    #[error("expected http:// or https://")]
    NoHttp,
    /// Parameters or a fragment, to which no path can be appended.
    #[error("expected no ? and no #")]
    Parameters,
    /// The URL cannot be parsed (the reason of the parser, which has no part of the URL).
    #[error("{0}")]
    Form(String),
}

impl<U> SecretUrl<U> {
    /// The URL with its secret, for the one that connects.
    pub fn expose(&self) -> &U {
        &self.0
    }
}

impl From<Url> for SecretUrl {
    fn from(url: Url) -> Self {
        Self(url)
    }
}

impl SecretUrl {
    /// The base URL of a service, to which paths are appended.
    ///
    /// # Errors
    /// When the text is no URL, or not one of a service.
    pub fn http_base(text: &str) -> Result<Self, SecretUrlError> {
        let url: Self = text.parse()?;
        if !["http", "https"].contains(&url.0.scheme()) {
            return Err(SecretUrlError::NoHttp);
        }
        if url.0.query().is_some() || url.0.fragment().is_some() {
            return Err(SecretUrlError::Parameters);
        }
        Ok(url)
    }
}

impl SecretUrl<String> {
    /// The text of a URL that was parsed before.
    pub fn of_parsed(text: String) -> Self {
        Self(text)
    }
}

impl<U> FromStr for SecretUrl<U>
where
    U: FromStr,
    U::Err: fmt::Display,
{
    type Err = SecretUrlError;

    fn from_str(text: &str) -> Result<Self, SecretUrlError> {
        let (_scheme, rest) = text.split_once("://").ok_or(SecretUrlError::NoScheme)?;
        if text.contains(|character: char| {
            character.is_whitespace() || crate::text::is_hidden(character)
        }) {
            return Err(SecretUrlError::Space);
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if rest.rfind('@').is_some_and(|at| at >= authority.len()) {
            return Err(SecretUrlError::UserInfo);
        }
        text.parse()
            .map(Self)
            .map_err(|error: U::Err| SecretUrlError::Form(error.to_string()))
    }
}

impl<U: AsRef<str>> fmt::Display for SecretUrl<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(self.0.as_ref()))
    }
}

impl<U: AsRef<str>> fmt::Debug for SecretUrl<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether the host of a URL is this one: what is sent there leaves it by no wire. `localhost` is
/// resolved nowhere else (RFC 6761 section 6.3).
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether nobody on the way can read what is sent to a URL: by TLS, or to this host.
pub fn is_private(url: &Url) -> bool {
    url.scheme() == "https" || is_loopback(url)
}

/// A URL as it may be shown: `…` stands for all between `://` and the last `@`, and parameters and
/// fragment are left out. It also holds for a text that is no valid URL; a text without `://` is
/// `…` alone.
pub fn redacted(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return "…".to_owned();
    };
    let (mark, rest) = match rest.rsplit_once('@') {
        Some((_user_info, rest)) => ("…@", rest),
        None => ("", rest),
    };
    let shown = rest.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{mark}{shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_secret_is_shown_also_when_the_url_is_malformed() {
        for text in [
            "http://user:hunter2@host:1/path?token=hunter2#hunter2",
            "http://hunter2@host",
            "http://user:1/hunter2@host:1/path",
            "http://user:hunter2?x@host",
            "http://user:hunter2#x@host",
            "http://user:a@hunter2@host",
            "http://user:hunter2@",
            "http://user:hunter2@host:port",
            "http://user:hunter2 @host",
            "user:hunter2@host",
        ] {
            let shown = match text.parse::<SecretUrl>() {
                Ok(url) => format!("{url} {url:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("hunter2"), "{text}: {shown}");
            let many = match text.parse::<SecretUrl<String>>() {
                Ok(url) => format!("{url} {url:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!many.contains("hunter2"), "{text}: {many}");
            assert!(!redacted(text).contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn host_and_path_are_shown() {
        let url: SecretUrl = "http://u:p%2F@h:1/v1.0/invoke/a/method"
            .parse()
            .expect("valid");
        assert_eq!(url.to_string(), "http://…@h:1/v1.0/invoke/a/method");
        assert_eq!(url.expose().password(), Some("p%2F"));
        let hosts: SecretUrl<String> = "mongodb://a:1,b:2/db?replicaSet=r".parse().expect("valid");
        assert_eq!(hosts.to_string(), "mongodb://a:1,b:2/db");
    }

    #[test]
    fn the_base_of_a_service_is_http_without_parameters() {
        assert!(SecretUrl::http_base("http://u:p@h:1/a/b").is_ok());
        assert!(SecretUrl::http_base("https://u:p@h:1/a/b").is_ok());
        for (text, expected) in [
            ("httpx://h", SecretUrlError::NoHttp),
            ("http://h/?a=b", SecretUrlError::Parameters),
            ("http://h/#a", SecretUrlError::Parameters),
        ] {
            assert_eq!(SecretUrl::http_base(text), Err(expected), "{text}");
        }
        assert!(SecretUrl::http_base("http://").is_err());
    }

    #[test]
    fn a_password_that_was_not_encoded_is_refused_with_the_remedy() {
        let error = "mongodb://u:p/w@h/db"
            .parse::<SecretUrl<String>>()
            .expect_err("a slash");
        assert!(error.to_string().contains("%2F"), "{error}");
    }
}
