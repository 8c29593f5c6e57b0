//! The publisher as a client sees it: five readings, each tried at one publisher after the other.
//!
//! The publisher that answered last is asked first. Nothing is tried twice at the same publisher here, and nothing is
//! remembered of an answer; when to ask again is the caller's business. It never talks through a proxy and never
//! follows a redirect: publishers are inside.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use contract::{
    CanonicalJson, CollectionName, DocumentId, Epoch, Feed, Head, Heads, Operation, Problem, Revision,
    snapshot::{Line, Start},
};
use futures_util::{StreamExt, TryStreamExt};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{HeaderValue, RETRY_AFTER},
    redirect,
};
use serde::de::DeserializeOwned;
use state::{Hint, Root, Snapshot, snapshot::Builder};
use tokio_util::{
    codec::{AnyDelimiterCodec, FramedRead},
    io::StreamReader,
};

use crate::{error::OriginError, list};

/// How the path of a Dapr invocation URL begins.
const INVOCATION: &str = "/v1.0/invoke/";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for the head of an answer, and between two pieces of its body.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest line of a snapshot: the largest document that can be written, and its frame.
const MAX_LINE: usize = 5 * 1024 * 1024;
/// Longest answer that is held in one piece and concerns one document, or the heads.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// Longest list of an unversioned collection.
const MAX_LIST: usize = 256 * 1024 * 1024;
/// Problems of this kind come from a publisher of ours; any other 404 may come from one that follows the source document.
const OURS: &str = "urn:confcast:problem:";
/// The one problem of ours that says so itself: a subscriber that holds unversioned collections.
const UNVERSIONED: &str = "urn:confcast:problem:unversioned";

#[derive(Debug)]
pub(crate) struct Origin {
    client: Client,
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
        OriginError::Unusable { publisher: self.name.clone(), reason: reason.to_string() }
    }

    fn unreachable(&self, source: reqwest::Error) -> OriginError {
        OriginError::Unreachable { publisher: self.name.clone(), source: source.without_url() }
    }
}

impl Origin {
    pub(crate) fn new(publishers: &[Url], sidecar_token: Option<HeaderValue>) -> Result<Self, reqwest::Error> {
        let publisher = |url: &Url| Publisher {
            base: url.as_str().trim_end_matches('/').to_owned(),
            name: url.origin().ascii_serialization(),
            invoked: url.path().starts_with(INVOCATION),
        };
        Ok(Self {
            client: Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                .redirect(redirect::Policy::none())
                .no_proxy()
                .build()?,
            publishers: publishers.iter().map(publisher).collect(),
            preferred: AtomicUsize::new(0),
            sidecar_token,
        })
    }

    /// Where all collections stand. An answer that is behind what `root` had reached when it was asked for is refused:
    /// it comes from a publisher that reads an old copy.
    pub(crate) async fn heads(&self, root: &Root) -> Result<Vec<Head>, OriginError> {
        self.in_turn(|publisher| async move {
            let response = self.get(publisher, "/v1/collections").await?;
            let Heads { heads } = json(publisher, response).await?;
            check_heads(root, &heads).map_err(|reason| publisher.unusable(reason))?;
            Ok(heads)
        })
        .await
    }

    /// All documents of the collections that `root` follows, proven complete, and the heads they belong to.
    pub(crate) async fn snapshot(&self, root: &Root) -> Result<(Vec<Head>, Snapshot), OriginError> {
        let names: Vec<_> = root.collections().map(|(name, _held)| name.as_str()).collect();
        let path = &format!("/v1/snapshot?collections={}", names.join(","));
        self.in_turn(|publisher| async move {
            let response = self.get(publisher, path).await?;
            let body = StreamReader::new(response.bytes_stream().map_err(std::io::Error::other));
            let codec = AnyDelimiterCodec::new_with_max_length(b"\n".to_vec(), Vec::new(), MAX_LINE);
            let mut lines = FramedRead::new(body, codec).map_err(|error| publisher.unusable(error));

            let cut = || publisher.unusable("the snapshot ends before its end line");
            let first = lines.next().await.ok_or_else(cut)??;
            let start: Start = serde_json::from_slice(&first).map_err(|error| publisher.unusable(error))?;
            check_heads(root, &start.heads).map_err(|reason| publisher.unusable(reason))?;
            let heads = start.heads.clone();
            let mut builder: Builder = Snapshot::begin(start);
            while let Some(line) = lines.next().await {
                match Line::parse(&line?).map_err(|error| publisher.unusable(error))? {
                    Line::Item(item) => builder.item(item, root).map_err(|error| publisher.unusable(error))?,
                    Line::End(end) => {
                        let snapshot = builder.complete(&end, root).map_err(|error| publisher.unusable(error))?;
                        return Ok((heads, snapshot));
                    }
                }
            }
            Err(cut())
        })
        .await
    }

    /// One record of the change log.
    pub(crate) async fn record(
        &self,
        collection: &CollectionName,
        epoch: Epoch,
        revision: Revision,
    ) -> Result<Hint, OriginError> {
        let since = revision.saturating_sub(1);
        let path = &format!("/v1/collections/{collection}/changes?since={since}&limit=1&epoch={epoch}");
        self.in_turn(|publisher| async move {
            let response = self.get(publisher, path).await?;
            let Feed { items, .. } = json(publisher, response).await?;
            let asked = items.into_iter().next().filter(|change| {
                (&change.collection, change.epoch, change.revision) == (collection, epoch, revision)
                    && change.config_data.as_ref().map(CanonicalJson::crc) == change.crc
                    && (change.op == Operation::Delete || change.config_data.is_some())
            });
            let change = asked.ok_or_else(|| publisher.unusable(format!("it is not revision {revision}, intact")))?;
            Ok(Hint {
                collection: change.collection,
                id: change.id,
                epoch,
                revision,
                op: change.op,
                config: change.config_data,
            })
        })
        .await
    }

    /// One document of an unversioned collection (seeds.md A17: `GetById`).
    pub(crate) async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> Result<CanonicalJson, OriginError> {
        let path = &format!("/v1/collections/{collection}/documents/{id}");
        self.in_turn(|publisher| async move {
            let body = bytes(publisher, self.get(publisher, path).await?, MAX_ANSWER).await?;
            match list::record(&body).map_err(|error| publisher.unusable(error))? {
                (Some(other), _config) if other != *id => Err(publisher.unusable("it is another document")),
                (_same, config) => Ok(config),
            }
        })
        .await
    }

    /// All documents of an unversioned collection (seeds.md A17: `GetAll`).
    pub(crate) async fn documents(
        &self,
        collection: &CollectionName,
    ) -> Result<Vec<(DocumentId, CanonicalJson)>, OriginError> {
        let path = &format!("/v1/collections/{collection}/documents");
        self.in_turn(|publisher| async move {
            let body = bytes(publisher, self.get(publisher, path).await?, MAX_LIST).await?;
            list::records(&body).map_err(|error| publisher.unusable(error))
        })
        .await
    }

    /// The first success. Of several failures, the first that is an answer: it tells more than silence.
    async fn in_turn<'a, T, F>(&'a self, reading: impl Fn(&'a Publisher) -> F) -> Result<T, OriginError>
    where
        F: Future<Output = Result<T, OriginError>>,
    {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut failure = None;
        for (at, publisher) in self.publishers.iter().enumerate().cycle().skip(preferred).take(self.publishers.len()) {
            match reading(publisher).await {
                Ok(answer) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) if matches!(failure, None | Some(OriginError::Unreachable { .. })) => failure = Some(error),
                Err(_another) => {}
            }
        }
        Err(failure.unwrap_or(OriginError::TooLate(Duration::ZERO)))
    }

    async fn get(&self, publisher: &Publisher, path: &str) -> Result<Response, OriginError> {
        let mut request = self.client.get(format!("{}{path}", publisher.base));
        if let Some(token) = self.sidecar_token.as_ref().filter(|_token| publisher.invoked) {
            request = request.header("dapr-api-token", token);
        }
        let response = request.send().await.map_err(|error| publisher.unreachable(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let refused = OriginError::Refused {
            publisher: publisher.name.clone(),
            status: status.as_u16(),
            retry_after: retry_after.map(Duration::from_secs),
        };
        if status != StatusCode::NOT_FOUND {
            return Err(refused);
        }
        let problem: Result<Problem, _> = json(publisher, response).await;
        match problem {
            Ok(problem) if problem.kind.starts_with(OURS) && problem.kind != UNVERSIONED => Err(refused),
            _ => Err(OriginError::NoRevisions { publisher: publisher.name.clone() }),
        }
    }
}

/// Heads of every followed collection, none of them behind what is held.
fn check_heads(root: &Root, heads: &[Head]) -> Result<(), String> {
    for (name, held) in root.collections() {
        let Some(head) = heads.iter().find(|head| head.collection == *name) else {
            return Err(format!("{name} is not in it"));
        };
        if Some(head.epoch) == root.epoch() && head.revision < held.watermark() {
            return Err(format!("{name} is at {} there, and at {} here", head.revision, held.watermark()));
        }
    }
    Ok(())
}

async fn json<T: DeserializeOwned>(publisher: &Publisher, response: Response) -> Result<T, OriginError> {
    let body = bytes(publisher, response, MAX_ANSWER).await?;
    serde_json::from_slice(&body).map_err(|error| publisher.unusable(error))
}

async fn bytes(publisher: &Publisher, mut response: Response, limit: usize) -> Result<Vec<u8>, OriginError> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| publisher.unreachable(error))? {
        if body.len() + piece.len() > limit {
            return Err(publisher.unusable(format!("it is longer than {limit} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}
