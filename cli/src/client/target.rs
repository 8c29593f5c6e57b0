//! Whom a command speaks to, as the command line says it.

use reqwest::Url;

use super::Api;

/// Which publisher a command speaks to.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// Publisher to speak to; of a comma list, the first
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
    /// Replicas to ask directly
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
    pub(crate) fn api(self) -> anyhow::Result<Api> {
        Api::new(self.publisher)
    }
}

impl Subscribers {
    /// Nobody but the named ones.
    pub(crate) fn named(&self) -> anyhow::Result<Vec<Api>> {
        self.named.iter().cloned().map(Api::new).collect()
    }

    /// The replicas to ask when the publisher cannot tell its own: the named ones, else those that
    /// `confcast up` starts.
    pub(crate) fn or_local(&self) -> anyhow::Result<Vec<Api>> {
        if !self.named.is_empty() {
            return self.named();
        }
        ["http://127.0.0.1:8081", "http://127.0.0.1:8082"]
            .into_iter()
            .map(|url| Api::new(Url::parse(url)?))
            .collect()
    }
}

/// The first of a comma list of URLs.
pub(crate) fn first_url(list: &str) -> Result<Url, String> {
    service_url(list.split(',').next().unwrap_or_default())
}

/// A URL that paths can be added to.
pub(crate) fn service_url(text: &str) -> Result<Url, String> {
    match Url::parse(text.trim()) {
        Ok(url) if url.scheme() == "http" && url.query().is_none() => Ok(url),
        _ => Err("expected a URL like http://127.0.0.1:8080".to_owned()),
    }
}
