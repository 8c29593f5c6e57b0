//! Which services a command talks to, as the command line names them.

use client::{Endpoint, Timeouts, Url};

/// Which publisher a command talks to.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// Base URL of the publisher; of a list separated by commas, the first
    #[arg(
        long,
        value_name = "URL",
        env = "AURA_CONFIGURATION_API_URL",
        default_value = "http://127.0.0.1:8080",
        value_parser = first_url
    )]
    publisher: Url,
}

/// Which replicas a command asks itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Subscribers {
    /// Base URLs of replicas to ask directly, separated by commas
    #[arg(
        long = "subscriber",
        value_name = "URL",
        env = "AURA_CONFIGURATION_LOCAL_SUBSCRIBERS",
        value_delimiter = ',',
        value_parser = service_url
    )]
    pub(crate) named: Vec<Url>,
}

impl Target {
    pub(crate) fn endpoint(&self) -> anyhow::Result<Endpoint> {
        endpoint(&self.publisher)
    }
}

impl Subscribers {
    /// The named replicas and no others.
    pub(crate) fn named(&self) -> anyhow::Result<Vec<Endpoint>> {
        self.named.iter().map(endpoint).collect()
    }

    /// The replicas to ask when the publisher keeps no list of them: the named ones, else those
    /// that `confcast up` starts.
    pub(crate) fn named_or_local(&self) -> anyhow::Result<Vec<Endpoint>> {
        if !self.named.is_empty() {
            return self.named();
        }
        ["http://127.0.0.1:8081", "http://127.0.0.1:8082"]
            .into_iter()
            .map(|url| endpoint(&Url::parse(url)?))
            .collect()
    }
}

/// A client of one service.
pub(crate) fn endpoint(base: &Url) -> anyhow::Result<Endpoint> {
    Ok(Endpoint::new(base, Timeouts::COMMAND)?)
}

/// The first of a list of URLs separated by commas.
pub(crate) fn first_url(list: &str) -> Result<Url, String> {
    service_url(list.split(',').next().unwrap_or_default())
}

/// A URL that paths can be appended to.
pub(crate) fn service_url(text: &str) -> Result<Url, String> {
    match Url::parse(text.trim()) {
        Ok(url) if url.scheme() == "http" && url.query().is_none() => Ok(url),
        _ => Err("expected a URL like http://127.0.0.1:8080".to_owned()),
    }
}
