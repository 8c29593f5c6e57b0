//! The publisher as a client sees it: how it is reached. What is asked of it is in `readings`.
//!
//! Each reading is tried at one publisher after the other.
//! The publisher that answered last is asked first. Nothing is tried twice at the same publisher
//! here, and nothing is remembered of an answer; when to ask again is the caller's business. It
//! never talks through a proxy and never follows a redirect: publishers are inside.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use contract::Problem;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{HeaderValue, RETRY_AFTER},
    redirect,
};
use serde::de::DeserializeOwned;

use crate::error::OriginError;

mod readings;

pub(crate) use readings::{Cursor, Loaded, Page};

/// How the path of a Dapr invocation URL begins.
const INVOCATION: &str = "/v1.0/invoke/";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for the head of an answer, and between two pieces of its body.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest silence of a live feed, which gives a sign of life every 5 s.
const STREAM_TIMEOUT: Duration = Duration::from_secs(12);
/// Longest answer that is held in one piece: a page of the feed, one document, the heads.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Origin {
    client: Client,
    /// For answers that go on: they are silent for longer.
    streams: Client,
    publishers: Vec<Publisher>,
    preferred: AtomicUsize,
    sidecar_token: Option<HeaderValue>,
}

#[derive(Debug)]
struct Publisher {
    /// The URL without a slash at its end.
    base: String,
    /// What may be shown of it: no path, no credentials.
    name: String,
    /// A sidecar answers there and passes on.
    invoked: bool,
}

impl Publisher {
    fn unusable(&self, reason: impl ToString) -> OriginError {
        OriginError::Unusable {
            publisher: self.name.clone(),
            reason: reason.to_string(),
        }
    }

    fn unreachable(&self, source: reqwest::Error) -> OriginError {
        OriginError::Unreachable {
            publisher: self.name.clone(),
            source: source.without_url(),
        }
    }
}

impl Origin {
    pub(crate) fn new(
        publishers: &[Url],
        sidecar_token: Option<HeaderValue>,
    ) -> Result<Self, reqwest::Error> {
        let publisher = |url: &Url| Publisher {
            base: url.as_str().trim_end_matches('/').to_owned(),
            name: url.origin().ascii_serialization(),
            invoked: url.path().starts_with(INVOCATION),
        };
        let client = |read_timeout| {
            let client = Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(read_timeout);
            client.redirect(redirect::Policy::none()).no_proxy().build()
        };
        Ok(Self {
            client: client(READ_TIMEOUT)?,
            streams: client(STREAM_TIMEOUT)?,
            publishers: publishers.iter().map(publisher).collect(),
            preferred: AtomicUsize::new(0),
            sidecar_token,
        })
    }

    /// The first success. Of several failures, the first that is an answer: it tells more than
    /// silence.
    async fn in_turn<'a, T, F>(
        &'a self,
        reading: impl Fn(&'a Publisher) -> F,
    ) -> Result<T, OriginError>
    where
        F: Future<Output = Result<T, OriginError>>,
    {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut failure = None;
        for (at, publisher) in self
            .publishers
            .iter()
            .enumerate()
            .cycle()
            .skip(preferred)
            .take(self.publishers.len())
        {
            match reading(publisher).await {
                Ok(answer) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) if matches!(failure, None | Some(OriginError::Unreachable { .. })) => {
                    failure = Some(error)
                }
                Err(_another) => {}
            }
        }
        Err(failure.unwrap_or(OriginError::TooLate(Duration::ZERO)))
    }

    async fn get(&self, publisher: &Publisher, path: &str) -> Result<Response, OriginError> {
        self.send(
            publisher,
            self.client.get(format!("{}{path}", publisher.base)),
        )
        .await
    }

    async fn send(
        &self,
        publisher: &Publisher,
        mut request: RequestBuilder,
    ) -> Result<Response, OriginError> {
        if let Some(token) = self
            .sidecar_token
            .as_ref()
            .filter(|_token| publisher.invoked)
        {
            request = request.header("dapr-api-token", token);
        }
        let response = request
            .send()
            .await
            .map_err(|error| publisher.unreachable(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let refused = OriginError::Refused {
            publisher: publisher.name.clone(),
            status: status.as_u16(),
            retry_after: retry_after.map(Duration::from_secs),
        };
        if status == StatusCode::GONE {
            let problem: Problem = json(publisher, response).await?;
            return Err(OriginError::Gone {
                publisher: publisher.name.clone(),
                reason: problem.reason,
            });
        }
        if status != StatusCode::NOT_FOUND {
            return Err(refused);
        }
        let problem: Result<Problem, _> = json(publisher, response).await;
        match problem {
            Ok(problem) if problem.kind == contract::ProblemKind::NoData => {
                Err(OriginError::NoDocument {
                    publisher: publisher.name.clone(),
                })
            }
            Ok(problem) if problem.kind != contract::ProblemKind::Unversioned => Err(refused),
            _ => Err(OriginError::NoRevisions {
                publisher: publisher.name.clone(),
            }),
        }
    }
}

async fn json<T: DeserializeOwned>(
    publisher: &Publisher,
    response: Response,
) -> Result<T, OriginError> {
    let body = bytes(publisher, response, MAX_ANSWER).await?;
    serde_json::from_slice(&body).map_err(|error| publisher.unusable(error))
}

async fn bytes(
    publisher: &Publisher,
    mut response: Response,
    limit: usize,
) -> Result<Vec<u8>, OriginError> {
    let mut body = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| publisher.unreachable(error))?
    {
        if body.len() + piece.len() > limit {
            return Err(publisher.unusable(format!("it is longer than {limit} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}
