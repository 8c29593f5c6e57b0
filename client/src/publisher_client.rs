//! Several endpoints of the same publisher, tried one after the other.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
};

use contract::SecretUrl;
use reqwest::header::HeaderValue;

use crate::{ClientError, CredentialError, Credentials, Endpoint, Timeouts, endpoint::Clients};

/// The endpoints of a publisher, in order of preference. The endpoint that answered last is tried
/// first.
#[derive(Debug)]
pub struct PublisherClient {
    /// In the order in which they were given.
    endpoints: Vec<Endpoint>,
    /// The index of the endpoint that answered last.
    preferred: AtomicUsize,
}

/// The error of one attempt at one endpoint.
pub trait AttemptError: From<ClientError> {
    /// Whether the endpoint said something. Such a failure is reported in preference to one that
    /// says only that an endpoint is silent.
    fn is_answer(&self) -> bool;
}

impl AttemptError for ClientError {
    fn is_answer(&self) -> bool {
        Self::is_answer(self)
    }
}

impl PublisherClient {
    /// A client of the publisher at these base URLs. `sidecar_token` is sent to those that are Dapr
    /// invocation URLs, and to no other.
    ///
    /// # Errors
    /// When the credentials must not be sent to one of the URLs, or the system has no resources for an HTTP client.
    pub fn new(
        bases: &[SecretUrl],
        timeouts: Timeouts,
        credentials: &Credentials,
        sidecar_token: Option<HeaderValue>,
    ) -> Result<Self, CredentialError> {
        let clients = Clients::new(&timeouts, &credentials.tls)?;
        let endpoints = bases
            .iter()
            .map(|base| {
                Endpoint::with_clients(
                    base.expose(),
                    timeouts,
                    clients.clone(),
                    credentials.clone(),
                    sidecar_token.clone(),
                )
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            endpoints,
            preferred: AtomicUsize::new(0),
        })
    }

    /// The same, for requests of the replica with this name. A name that is no header value is left
    /// out.
    #[must_use]
    pub fn named(mut self, instance: &str) -> Self {
        if let Ok(instance) = HeaderValue::from_str(instance) {
            let named = |endpoint: Endpoint| endpoint.named(instance.clone());
            self.endpoints = self.endpoints.into_iter().map(named).collect();
        }
        self
    }

    /// The endpoints, in the order in which they were given.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Tries another endpoint first from now on: the answer of this one began, and its rest was of no use.
    pub fn avoid(&self, endpoint: &Endpoint) {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let first = self.endpoints.get(preferred);
        if first.is_some_and(|first| first.base() == endpoint.base()) {
            let next = (preferred + 1) % self.endpoints.len();
            self.preferred.store(next, Ordering::Relaxed);
        }
    }

    /// Makes one attempt at each endpoint until one succeeds, beginning with the one that answered
    /// last. Every failure counts the same: the next endpoint is tried.
    ///
    /// # Errors
    /// Of several failures, the first that is an answer, because it says more than silence; else
    /// the first. Without an endpoint [`ClientError::NoPublisher`].
    pub async fn try_each<'a, T, E, F>(
        &'a self,
        attempt: impl Fn(&'a Endpoint) -> F,
    ) -> Result<T, E>
    where
        E: AttemptError,
        F: Future<Output = Result<T, E>>,
    {
        // Once around, beginning with the endpoint that answered last.
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut failure: Option<E> = None;
        let from_preferred = self.endpoints.iter().enumerate().cycle().skip(preferred);
        for (index, endpoint) in from_preferred.take(self.endpoints.len()) {
            match attempt(endpoint).await {
                Ok(answer) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) if failure.as_ref().is_none_or(|first| !first.is_answer()) => {
                    // Silence does not replace silence: the preferred endpoint is reported.
                    if failure.is_none() || error.is_answer() {
                        failure = Some(error);
                    }
                }
                // There is an answer already, and the first one is reported.
                Err(_later) => {}
            }
        }
        Err(failure.unwrap_or_else(|| ClientError::NoPublisher.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(count: usize) -> PublisherClient {
        let bases: Vec<SecretUrl> = (0..count)
            .map(|number| {
                format!("http://127.0.0.1:{}", number + 1)
                    .parse()
                    .expect("a valid URL")
            })
            .collect();
        PublisherClient::new(&bases, Timeouts::REPLICA, &Credentials::default(), None)
            .expect("a client")
    }

    fn silent(endpoint: &Endpoint) -> ClientError {
        ClientError::NoAnswer {
            publisher: endpoint.name().to_owned(),
            after: Timeouts::REPLICA.read,
        }
    }

    #[tokio::test]
    async fn an_answer_is_reported_in_preference_to_silence() {
        let client = client(3);
        let failure: Result<(), ClientError> = client
            .try_each(async |endpoint| {
                Err(if endpoint.name().ends_with(":2") {
                    endpoint.unusable("it is empty")
                } else {
                    silent(endpoint)
                })
            })
            .await;
        let text = failure.expect_err("no endpoint succeeds").to_string();
        assert_eq!(
            text,
            "the answer of http://127.0.0.1:2 cannot be used: it is empty"
        );
    }

    #[tokio::test]
    async fn the_endpoint_that_answered_last_is_tried_first() {
        let client = client(2);
        for expected in [2, 1] {
            let attempts = AtomicUsize::new(0);
            let name: Result<_, ClientError> = client
                .try_each(async |endpoint| {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    if endpoint.name().ends_with(":2") {
                        Ok(endpoint.name())
                    } else {
                        Err(silent(endpoint))
                    }
                })
                .await;
            assert_eq!(name.expect("the second answers"), "http://127.0.0.1:2");
            assert_eq!(attempts.load(Ordering::Relaxed), expected);
        }
    }

    #[tokio::test]
    async fn an_endpoint_whose_answer_was_of_no_use_is_tried_last() {
        let client = client(2);
        let [first, second] = client.endpoints() else {
            panic!("two endpoints");
        };
        for (avoided, tried) in [(second, first), (first, second), (second, first)] {
            client.avoid(avoided);
            let name = client.try_each(async |endpoint| Ok::<_, ClientError>(endpoint.name()));
            assert_eq!(name.await.expect("the first succeeds"), tried.name());
        }
    }

    #[tokio::test]
    async fn a_client_without_endpoints_says_so() {
        let nothing: Result<(), ClientError> = client(0).try_each(async |_endpoint| Ok(())).await;
        assert!(matches!(nothing, Err(ClientError::NoPublisher)));
    }
}
