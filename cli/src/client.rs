//! The HTTP API as the commands use it, with a time budget on every step and every refusal in
//! words.
//!
//! It never retries by itself, but for the one race of [`Api::put`]; who calls knows whether trying
//! again makes sense.

mod refused;
mod target;

use std::{io, time::Duration};

use anyhow::{Context, anyhow};
use contract::{CollectionName, DocumentId, Heads, Revision, feed, fleet::ReplicaList, listing};
use futures_util::{StreamExt, TryStreamExt};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, Split},
    time::timeout,
};
use tokio_util::io::StreamReader;

use self::refused::accepted;
pub(crate) use self::{
    refused::{Refused, refused_with},
    target::{Subscribers, Target, first_url, service_url},
};

const CONNECT: Duration = Duration::from_secs(1);
/// Until the headers of an answer to a reader are there.
const READ: Duration = Duration::from_secs(2);
/// The same for a writer: a publisher may take 5 s until it gives up on a commit, and says so then.
const WRITE: Duration = Duration::from_secs(8);
/// The same for who asks for something that may make the publisher read its whole store.
const THOROUGH: Duration = Duration::from_secs(60);

/// A service with the API that the README describes, or its read half.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    base: Url,
    http: Client,
}

/// When a write is to happen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Condition {
    /// The document is there, at whatever revision.
    Present,
    /// There is no such document.
    Absent,
    /// The document is at this revision.
    At(Revision),
}

/// Answer to a write.
#[derive(Debug, Deserialize)]
pub(crate) struct Written {
    /// Revision of the collection that the document has now.
    pub(crate) revision: Revision,
}

impl Api {
    pub(crate) fn new(base: Url) -> anyhow::Result<Self> {
        Ok(Self {
            base,
            http: client(WRITE)?,
        })
    }

    pub(crate) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Reads something. `accept` matters to lists only.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Response> {
        let request = self
            .request(Method::GET, path)
            .header(header::ACCEPT, format!("{}, */*", listing::NDJSON));
        Ok(accepted(self.send(request, READ).await?).await?)
    }

    /// Begins to read a live feed after a position. One that says nothing for so long is broken.
    pub(crate) async fn stream(
        &self,
        path: &str,
        position: &str,
        silence: Duration,
    ) -> anyhow::Result<Response> {
        let request = client(silence)?.get(format!("{}{path}", self.base()));
        let request = request
            .header(header::ACCEPT, feed::EVENT_STREAM)
            .header("Last-Event-ID", position);
        Ok(accepted(self.send(request, READ).await?).await?)
    }

    pub(crate) async fn heads(&self) -> anyhow::Result<Heads> {
        let answer = self.get("/v1/collections").await?;
        answer
            .json()
            .await
            .with_context(|| format!("the heads that {} told", self.base()))
    }

    /// The replicas that checked in with this publisher. `None` = it keeps no account of them: an
    /// older one, or a subscriber.
    pub(crate) async fn fleet(&self) -> anyhow::Result<Option<ReplicaList>> {
        match self.get("/v1/replicas").await {
            Ok(answer) => {
                Ok(Some(answer.json().await.with_context(|| {
                    format!("the fleet that {} told", self.base())
                })?))
            }
            Err(error) if refused_with(&error, StatusCode::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks the publisher to do something to its store.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let request = client(THOROUGH)?
            .post(format!("{}{path}", self.base()))
            .json(body);
        let answer = match accepted(self.send(request, THOROUGH).await?).await {
            Err(refused) if refused.lacks_route() => {
                let explained = format!(
                    "{} is older than this confcast, or no publisher: it has no POST {path}",
                    self.base()
                );
                return Err(anyhow::Error::new(refused).context(explained));
            }
            answer => answer?,
        };
        answer
            .json()
            .await
            .with_context(|| format!("done, but the answer of {} is odd", self.base()))
    }

    /// Creates or updates a document; what stands in for `configData` is sent as it is.
    pub(crate) async fn put(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        config: &[u8],
    ) -> anyhow::Result<Written> {
        match self
            .put_if(collection, id, config, Condition::Present)
            .await
        {
            Err(error) if refused_with(&error, StatusCode::NOT_FOUND) => {}
            settled => return settled,
        }
        match self.put_if(collection, id, config, Condition::Absent).await {
            // Somebody else created it in between.
            Err(error) if refused_with(&error, StatusCode::PRECONDITION_FAILED) => {}
            settled => return settled,
        }
        self.put_if(collection, id, config, Condition::Present)
            .await
    }

    pub(crate) async fn put_if(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        config: &[u8],
        condition: Condition,
    ) -> anyhow::Result<Written> {
        let request = self
            .request(Method::PUT, &document(collection, id))
            .header(header::CONTENT_TYPE, "application/json")
            .body(config.to_vec());
        self.write(request, condition).await
    }

    pub(crate) async fn delete(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        condition: Condition,
    ) -> anyhow::Result<Written> {
        self.write(
            self.request(Method::DELETE, &document(collection, id)),
            condition,
        )
        .await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base()))
    }

    async fn write(
        &self,
        request: RequestBuilder,
        condition: Condition,
    ) -> anyhow::Result<Written> {
        let request = match condition {
            Condition::Present => request,
            Condition::Absent => request.header(header::IF_NONE_MATCH, "*"),
            Condition::At(revision) => request.header(header::IF_MATCH, format!("\"{revision}\"")),
        };
        let answer = accepted(self.send(request, WRITE).await?).await?;
        answer
            .json()
            .await
            .with_context(|| format!("written, but the answer of {} is odd", self.base()))
    }

    async fn send(&self, request: RequestBuilder, patience: Duration) -> anyhow::Result<Response> {
        let late = |_elapsed| {
            anyhow!(
                "{} gave no answer within {} s",
                self.base(),
                patience.as_secs()
            )
        };
        timeout(patience, request.send())
            .await
            .map_err(late)?
            .map_err(reqwest::Error::without_url)
            .with_context(|| format!("cannot reach {}; is it running there?", self.base()))
    }
}

fn client(idle: Duration) -> anyhow::Result<Client> {
    // A configuration service is never on the far side of a web proxy.
    let client = Client::builder()
        .no_proxy()
        .connect_timeout(CONNECT)
        .read_timeout(idle)
        .build();
    client.context("cannot make an HTTP client")
}

/// Path of a document. Neither part has a character that a URL escapes.
pub(crate) fn document(collection: &CollectionName, id: &DocumentId) -> String {
    format!("/v1/collections/{collection}/documents/{id}")
}

/// The lines of an answer, as they come. A cut connection is an error.
pub(crate) fn lines(answer: Response) -> Split<impl AsyncBufRead + Unpin> {
    StreamReader::new(answer.bytes_stream().map_err(io::Error::other).boxed()).split(b'\n')
}
