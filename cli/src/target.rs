//! Which services a command talks to, as the command line names them. A URL may hold a password, so
//! no error and no help text shows what was given.

use std::ffi::OsStr;

use clap::{Arg, Command, builder::TypedValueParser, error::ErrorKind};
use client::{Endpoint, Timeouts};
use contract::SecretUrl;

use crate::credentials::CredentialArgs;

/// Which publisher a command talks to.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// Base URL of the publisher; of a list separated by commas, the first
    #[arg(
        long,
        value_name = "URL",
        env = "AURA_CONFIGURATION_API_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8080",
        value_parser = Unshown(first_url)
    )]
    publisher: SecretUrl,

    #[command(flatten)]
    credentials: CredentialArgs,
}

/// Which replicas a command asks itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Subscribers {
    /// Base URLs of replicas to ask directly, separated by commas
    #[arg(
        long = "subscriber",
        value_name = "URL",
        env = "AURA_CONFIGURATION_LOCAL_SUBSCRIBERS",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = Unshown(service_url)
    )]
    pub(crate) named: Vec<SecretUrl>,
}

impl Target {
    pub(crate) fn endpoint(&self) -> anyhow::Result<Endpoint> {
        endpoint(&self.publisher, &self.credentials)
    }
}

impl Subscribers {
    /// The named replicas and no others. They get what the publisher gets.
    pub(crate) fn named(&self, publisher: &Endpoint) -> anyhow::Result<Vec<Endpoint>> {
        let replicas = self.named.iter();
        replicas
            .map(|url| Ok(publisher.beside(url.expose())?))
            .collect()
    }

    /// The replicas to ask when the publisher keeps no list of them: the named ones, else those
    /// that `confcast up` starts. Nobody named those: unless the publisher is on this host as well,
    /// the token is not for whatever listens there.
    pub(crate) fn named_or_local(&self, publisher: &Endpoint) -> anyhow::Result<Vec<Endpoint>> {
        if !self.named.is_empty() {
            return self.named(publisher);
        }
        ["http://127.0.0.1:8081", "http://127.0.0.1:8082"]
            .into_iter()
            .map(|url| {
                let url = url.parse::<SecretUrl>()?;
                Ok(if publisher.is_local() {
                    publisher.beside(url.expose())?
                } else {
                    publisher.learned(url.expose())?
                })
            })
            .collect()
    }
}

/// A client of one service. It waits where the service asks the caller to send less.
pub(crate) fn endpoint(base: &SecretUrl, credentials: &CredentialArgs) -> anyhow::Result<Endpoint> {
    let credentials = credentials.open()?;
    let endpoint = Endpoint::with_credentials(base.expose(), Timeouts::COMMAND, &credentials)?;
    Ok(endpoint.waiting_for_turns())
}

/// Parses an argument that may hold a password. An error never repeats the value, as one of clap
/// does.
#[derive(Clone, Copy)]
pub(crate) struct Unshown<T>(pub(crate) fn(&str) -> Result<T, String>);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Unshown<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let Self(parse) = self;
        parse(value.to_str().unwrap_or_default().trim()).map_err(|reason| {
            let name = argument.map(Arg::to_string).unwrap_or_default();
            let variable = argument.and_then(|argument| argument.get_env()?.to_str());
            let variable = variable
                .map(|name| format!(" ({name})"))
                .unwrap_or_default();
            let text = format!("invalid value for '{name}'{variable}: {reason}\n");
            clap::Error::raw(ErrorKind::ValueValidation, text).with_cmd(command)
        })
    }
}

/// The first of a list of URLs separated by commas.
pub(crate) fn first_url(list: &str) -> Result<SecretUrl, String> {
    service_url(list.split(',').next().unwrap_or_default().trim())
}

/// A URL that paths can be appended to.
pub(crate) fn service_url(text: &str) -> Result<SecretUrl, String> {
    SecretUrl::http_base(text)
        .map_err(|reason| format!("expected a URL like http://127.0.0.1:8080: {reason}"))
}

#[cfg(test)]
mod tests {
    use client::{CredentialSettings, Credentials, TokenSource};

    use super::*;

    #[test]
    fn replicas_that_nobody_named_get_the_token_only_beside_a_publisher_on_this_host() {
        let settings = CredentialSettings {
            token: TokenSource::Text("cct_text".to_owned()),
            ..CredentialSettings::default()
        };
        let credentials = Credentials::open(settings).expect("a token");
        for (publisher, with_token) in [
            ("http://127.0.0.1:8080", true),
            ("http://localhost:8080", true),
            ("https://publisher:8080", false),
        ] {
            let base = service_url(publisher).expect("a URL");
            let publisher =
                Endpoint::with_credentials(base.expose(), Timeouts::COMMAND, &credentials)
                    .expect("an endpoint");
            let asked = |named| Subscribers { named }.named_or_local(&publisher);
            for replica in asked(vec![]).expect("two") {
                assert_eq!(replica.is_authenticated(), with_token, "{publisher:?}");
            }
            let named = service_url("http://127.0.0.1:8081").expect("a URL");
            let named = asked(vec![named]).expect("one");
            assert!(named.iter().all(Endpoint::is_authenticated));
        }
    }
}
