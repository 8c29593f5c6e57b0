//! The publisher as a replica sees it: what is asked for, and what an answer must be like to be
//! used.
//!
//! How a request is sent, and which publisher is tried next, is in the crate `client`. Nothing is
//! tried twice at the same publisher here, and nothing is remembered of an answer; when to ask
//! again is the caller's decision.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use client::{
    ClientError, CredentialError, Credentials, Endpoint, PublisherClient, Timeouts,
    feed::BegunPage,
    live_feed::{FeedStart, LiveFeed},
};
use contract::{
    CanonicalJson, CollectionName, DocumentId, Epoch, Head, ProblemKind, Revision, SecretUrl,
    dead_letter::DeadLetterReport,
    feed::Since,
    fleet::{CheckIn, CheckInAnswer},
};
use reqwest::header::HeaderValue;
use state::{CollectionState, ReceivedChange, Root, Snapshot};
use tokio::sync::Semaphore;

mod admission;
mod document_list;
mod error;
mod feed;
mod snapshot;

pub use error::SourceError;

/// After which revisions a delta continues, by collection: every change up to that revision was
/// read from the feed.
pub(crate) type Cursor = Since;

/// A page of the feed whose changes follow the cursor without a gap.
#[derive(Debug)]
pub(crate) struct Page {
    /// The changes, by collection contiguous and in order.
    pub(crate) changes: Vec<ReceivedChange>,
    /// Whether another page follows.
    pub(crate) more: bool,
    /// The cursor after it.
    pub(crate) reached: Cursor,
}

/// A proven snapshot.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The heads it belongs to.
    pub(crate) heads: Vec<Head>,
    /// The documents.
    pub(crate) snapshot: Snapshot,
    /// Whether it comes from a publisher, so that the heads are those of the store at the time of
    /// the request.
    pub(crate) confirms: bool,
    /// The followed collections that are not in it because no publisher serves them, each with what
    /// a publisher said.
    pub(crate) unserved: BTreeMap<CollectionName, String>,
    /// The followed collections that are not in it because no publisher gives all of their documents,
    /// each with what a publisher said.
    pub(crate) refused: BTreeMap<CollectionName, String>,
}

/// Whether a publisher says that it does not serve a collection. An older one does not say what it
/// serves.
pub(crate) fn withdrawn(answer: &CheckInAnswer, name: &CollectionName) -> bool {
    !answer.served.is_empty() && !answer.served.contains(name)
}

/// Values of events that are requested at the same time: whoever can send events must not be able to
/// send as many requests to the publishers.
pub(crate) const VALUE_REQUESTS: usize = 16;

/// The publishers of a replica.
#[derive(Debug)]
pub(crate) struct PublisherSource {
    /// The publishers, tried in turn, the one that answered last first.
    client: PublisherClient,
    /// Places for [`VALUE_REQUESTS`]. A caller waits for one within its own time limit.
    pub(crate) value_requests: Semaphore,
}

impl PublisherSource {
    /// The publishers at these URLs. `sidecar_token` is sent to sidecars only.
    ///
    /// # Errors
    /// When the credentials must not be sent to one of the URLs, or the system has no resources for an
    /// HTTP client.
    pub(crate) fn new(
        publishers: &[SecretUrl],
        credentials: &Credentials,
        sidecar_token: Option<HeaderValue>,
    ) -> Result<Self, CredentialError> {
        let client =
            PublisherClient::new(publishers, Timeouts::REPLICA, credentials, sidecar_token)?;
        Ok(Self {
            client,
            value_requests: Semaphore::new(VALUE_REQUESTS),
        })
    }

    /// The same, for the replica with this name.
    pub(crate) fn named(self, instance: &str) -> Self {
        Self {
            client: self.client.named(instance),
            ..self
        }
    }

    /// Reports the state of this replica, and gives the heads of all collections. An answer that is
    /// behind what `root` had reached at the time of the request is refused: it comes from a
    /// publisher that reads an old copy, or from a store that was restored, and then the publisher
    /// knows of it by this very check-in.
    ///
    /// An answer without a loaded collection is used where no publisher has a better one, and only
    /// where it says itself that the collection is not served: see [`withdrawn`].
    ///
    /// # Errors
    /// When no publisher gave a usable answer, or its store is refused.
    pub(crate) async fn check_in(
        &self,
        root: &Root,
        report: &CheckIn,
        app_token: Option<&HeaderValue>,
    ) -> Result<CheckInAnswer, SourceError> {
        let partial = Mutex::new(None);
        let partial_of = &partial;
        let whole = self
            .client
            .try_each(|publisher| async move {
                let answer = publisher.check_in(report, app_token).await?;
                let check = |needed: &dyn Fn(&CollectionName, &CollectionState) -> bool| {
                    admission::check_heads(publisher, root, &answer.heads, &answer.resync, needed)
                };
                // Another publisher may be further, or serve more: it is tried next.
                // One that is not loaded may be unknown there, which the load finds out.
                let Err(error) = check(&|_name, held| held.loaded()) else {
                    return Ok(answer);
                };
                let served = |name: &CollectionName| !withdrawn(&answer, name);
                if check(&|name, held| held.loaded() && served(name)).is_ok() {
                    let mut partial = partial_of.lock().unwrap_or_else(PoisonError::into_inner);
                    partial.get_or_insert(answer);
                }
                Err(error)
            })
            .await;
        let partial = partial.into_inner();
        match (whole, partial.unwrap_or_else(PoisonError::into_inner)) {
            (Err(_lacks_a_collection), Some(partial)) => Ok(partial),
            (whole, _) => whole,
        }
    }

    /// Reports an event that was dropped, to the first publisher that keeps it.
    ///
    /// # Errors
    /// When no publisher keeps it.
    pub(crate) async fn report_dead_letter(
        &self,
        report: &DeadLetterReport,
    ) -> Result<(), SourceError> {
        self.client
            .try_each(async |publisher| {
                let kept = publisher.report_dead_letter(report).await;
                kept.map(drop).map_err(SourceError::from)
            })
            .await
    }

    /// The collections that the publishers serve.
    ///
    /// # Errors
    /// When no publisher gave a usable answer.
    pub(crate) async fn served(&self) -> Result<BTreeSet<CollectionName>, ClientError> {
        let heads = self
            .client
            .try_each(async |publisher| publisher.heads().await)
            .await?;
        Ok(heads.into_iter().map(|head| head.collection).collect())
    }

    /// Requests the next changes after a cursor.
    ///
    /// # Errors
    /// When no publisher answers with a page (410 where the log was trimmed).
    pub(crate) async fn request_page(
        &self,
        cursor: &Cursor,
        epoch: Epoch,
    ) -> Result<BegunPage, SourceError> {
        self.client
            .try_each(async |publisher| Ok(publisher.page(cursor, epoch).await?))
            .await
    }

    /// The page that was requested with a cursor.
    ///
    /// # Errors
    /// When neither the publisher that began to answer nor another one has a page that follows the
    /// cursor.
    pub(crate) async fn read_page(
        &self,
        begun: BegunPage,
        cursor: &Cursor,
        epoch: Epoch,
    ) -> Result<Page, SourceError> {
        let publisher = begun.endpoint().clone();
        match feed::read(begun, cursor, epoch).await {
            Err(_unusable) if self.client.endpoints().len() > 1 => {
                self.avoid(&publisher);
                self.client
                    .try_each(async |publisher| {
                        feed::read(publisher.page(cursor, epoch).await?, cursor, epoch).await
                    })
                    .await
            }
            page => page,
        }
    }

    /// All documents of the collections that `root` follows, proven complete, and the heads they
    /// belong to. Only the heads of a publisher are those of the store at that moment; another
    /// subscriber gives them by its check-in alone.
    ///
    /// A collection that no publisher serves, or whose documents no publisher gives, does not hold up
    /// the others. A publisher that serves what is loaded here is preferred.
    ///
    /// # Errors
    /// When no publisher gave a complete snapshot of the store and history of `root`.
    pub(crate) async fn snapshot(&self, root: &Root) -> Result<Loaded, SourceError> {
        let all = self
            .client
            .try_each(|publisher| snapshot::load(publisher, root))
            .await;
        let served = match &all {
            Err(SourceError::Client(refusal))
                if refusal.kind() == Some(ProblemKind::UnknownCollection) =>
            {
                let load = async |and_all_loaded| {
                    self.client
                        .try_each(|publisher| {
                            snapshot::load_served(publisher, root, refusal, and_all_loaded)
                        })
                        .await
                };
                match load(true).await {
                    Err(_lacks_a_collection) => load(false).await,
                    loaded => loaded,
                }
            }
            _ => all,
        };
        match served {
            Err(error)
                if snapshot::may_be_of_one_collection(&error)
                    && root.collections().nth(1).is_some() =>
            {
                let whole = self
                    .client
                    .try_each(|publisher| snapshot::load_whole(publisher, root))
                    .await;
                whole.map_err(|_none_is_whole| error)
            }
            served => served,
        }
    }

    /// Why no publisher gives a collection for itself; `None` when one gives it whole.
    ///
    /// # Errors
    /// When no publisher said something about the collection.
    pub(crate) async fn refusal_of(
        &self,
        root: &Root,
        name: &CollectionName,
    ) -> Result<Option<SourceError>, SourceError> {
        let refusal = Mutex::new(None);
        let refusal_of = &refusal;
        let whole = self
            .client
            .try_each(|publisher| async move {
                let Some(error) = snapshot::refusal_of(publisher, root, name).await? else {
                    return Ok(());
                };
                let silence = publisher.unusable(&error);
                let mut first = refusal_of.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
                Err(SourceError::from(silence))
            })
            .await;
        let refusal = refusal.into_inner();
        match (whole, refusal.unwrap_or_else(PoisonError::into_inner)) {
            (Ok(()), _) => Ok(None),
            (Err(_), Some(refusal)) => Ok(Some(refusal)),
            (Err(error), None) => Err(error),
        }
    }

    /// Asks another publisher first from now on.
    pub(crate) fn avoid(&self, publisher: &Endpoint) {
        self.client.avoid(publisher);
    }

    /// The live feed after these revisions.
    ///
    /// # Errors
    /// When no publisher has a feed that continues from there.
    pub(crate) async fn live_feed(
        &self,
        since: &Cursor,
        epoch: Epoch,
    ) -> Result<LiveFeed, ClientError> {
        let start = FeedStart::After(since, epoch);
        self.client
            .try_each(|publisher| publisher.live_feed(start))
            .await
    }

    /// One record of the change log, for an event. At most [`VALUE_REQUESTS`] at the same time.
    ///
    /// # Errors
    /// When no publisher has it in this history, with the value that its operation requires.
    pub(crate) async fn record(
        &self,
        collection: &CollectionName,
        epoch: Epoch,
        revision: Revision,
    ) -> Result<ReceivedChange, SourceError> {
        // The semaphore is never closed.
        let _place = self.value_requests.acquire().await.ok();
        self.client
            .try_each(|publisher| feed::record(publisher, collection, epoch, revision))
            .await
    }

    /// One document of an unversioned collection (requirement A17: `GetById`), for an event. At most
    /// [`VALUE_REQUESTS`] at the same time.
    ///
    /// # Errors
    /// When no publisher has the document, or its body has neither form.
    pub(crate) async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> Result<CanonicalJson, SourceError> {
        // The semaphore is never closed.
        let _place = self.value_requests.acquire().await.ok();
        self.client
            .try_each(|publisher| async move {
                let body = publisher.document_bytes(collection, id).await?;
                match document_list::record(&body).map_err(|error| publisher.unusable(error))? {
                    (Some(other), _config) if other != *id => {
                        Err(publisher.unusable("it is another document").into())
                    }
                    (_same, config) => Ok(config),
                }
            })
            .await
    }

    /// The head of a versioned collection, then one document of it, or that there is none. An
    /// answer of another store or of an earlier history is refused, and so is one that is behind
    /// `seen`.
    ///
    /// # Errors
    /// When no publisher gave both answers, or what they offer is refused.
    #[cfg(feature = "redis")]
    pub(crate) async fn held(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        seen: Option<(Epoch, Revision)>,
    ) -> Result<(Head, Option<contract::Document>), SourceError> {
        self.client
            .try_each(|publisher| async move {
                let head = publisher.head(collection).await?;
                let epoch = seen.map(|(epoch, _revision)| epoch);
                admission::check_epoch(epoch, std::slice::from_ref(&head))?;
                // In another history revisions cannot be compared.
                if seen.is_some_and(|(epoch, seen)| epoch == head.epoch && head.revision < seen) {
                    return Err(publisher.unusable("it is behind what was seen here").into());
                }
                let document = match publisher.document(collection, id).await {
                    Err(error) if error.is_no_document() => return Ok((head, None)),
                    answer => answer?,
                };
                // The checksum is of the value, so the id is compared for itself.
                if document.id != *id || document.config_data.crc() != document.crc {
                    return Err(publisher
                        .unusable("it is another document, or damaged")
                        .into());
                }
                let revision = document.revision;
                let document =
                    contract::Document::new(document.id, revision, &document.config_data);
                Ok((head, Some(document)))
            })
            .await
    }

    /// All documents of an unversioned collection (requirement A17: `GetAll`).
    ///
    /// # Errors
    /// When no publisher gave a list that can be read to its end.
    pub(crate) async fn documents(
        &self,
        collection: &CollectionName,
    ) -> Result<Vec<(DocumentId, CanonicalJson)>, SourceError> {
        self.client
            .try_each(|publisher| async move {
                let body = publisher.list_bytes(collection).await?;
                Ok(document_list::records(&body).map_err(|error| publisher.unusable(error))?)
            })
            .await
    }
}
