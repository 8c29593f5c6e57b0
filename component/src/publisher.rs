//! Writes and reads, through the API of the publishers that the replica follows.
//!
//! A write that may be repeated is repeated as the client does it. A write with a condition is repeated
//! only where the publisher said that it did nothing: the answer that was lost may have been a success,
//! which would make the repetition a conflict with itself.

use std::collections::BTreeSet;

use client::{
    ClientError, CredentialError, Endpoint, PublisherClient, RetryPolicy, Timeouts,
    documents::{StoredDocument, WriteOptions},
    retry::{is_busy, is_transient},
};
use contract::{
    CollectionName, DocumentId, Epoch, Expected, FeedPage, Operation, ProblemKind, Revision,
    set::{ChangeSetRequest, ChangeSetWritten, RequestOperation},
};
use replica::Config;
use serde::Deserialize;

/// Changes of one page of the log.
const PAGE: usize = 500;

/// What of a change in the log counts here.
#[derive(Deserialize)]
struct LoggedChange {
    op: Operation,
    id: DocumentId,
    revision: Revision,
}

/// Writes documents.
#[derive(Debug)]
pub(crate) struct Publisher {
    client: PublisherClient,
}

impl Publisher {
    /// A writer to the publishers of a replica, with its credentials.
    ///
    /// # Errors
    /// When the credentials must not be sent to one of them.
    pub(crate) fn new(config: &Config) -> Result<Self, CredentialError> {
        let client = PublisherClient::new(
            &config.publishers,
            Timeouts::COMMAND,
            &config.credentials,
            config.sidecar_token.clone(),
        )?;
        Ok(Self {
            client: client.named(&config.instance),
        })
    }

    /// Gives a document a value. Without a condition it is created where it does not exist. `exact`: the
    /// stored `metadata` is not merged.
    ///
    /// # Errors
    /// As the client.
    pub(crate) async fn put(
        &self,
        (collection, id): (&CollectionName, &DocumentId),
        value: &[u8],
        expected: &Expected,
        exact: bool,
    ) -> Result<Revision, ClientError> {
        let options = WriteOptions {
            exact,
            ..WriteOptions::default()
        };
        let written = self.send(expected.is_any(), |endpoint| {
            let endpoint = endpoint.writing(options.clone());
            async move {
                match expected {
                    Expected::Any => endpoint.put_or_create(collection, id, value).await,
                    _ => endpoint.put(collection, id, value, expected).await,
                }
            }
        });
        Ok(written.await?.revision)
    }

    /// Deletes a document. Without a condition it may be gone already: then there is no revision.
    ///
    /// # Errors
    /// As the client.
    pub(crate) async fn delete(
        &self,
        (collection, id): (&CollectionName, &DocumentId),
        expected: &Expected,
    ) -> Result<Option<Revision>, ClientError> {
        let deleted = self.send(expected.is_any(), |endpoint| async move {
            endpoint.delete(collection, id, expected).await
        });
        match deleted.await {
            Ok(written) => Ok(Some(written.revision)),
            Err(error) if expected.is_any() && error.kind() == Some(ProblemKind::NoData) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a change set.
    ///
    /// # Errors
    /// As the client.
    pub(crate) async fn change_set(
        &self,
        set: &ChangeSetRequest,
    ) -> Result<ChangeSetWritten, ClientError> {
        // A repeated creation would be refused: it was created by the attempt before.
        let is_free = set
            .changes
            .iter()
            .all(|change| change.expected.is_any() && change.op != RequestOperation::Create);
        self.send(is_free, |endpoint| async move {
            endpoint.write_change_set(set).await
        })
        .await
    }

    /// A document as a publisher has it now.
    ///
    /// # Errors
    /// As the client.
    pub(crate) async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> Result<StoredDocument, ClientError> {
        self.send(true, |endpoint| async move {
            endpoint.document(collection, id).await
        })
        .await
    }

    /// The documents that were deleted after a revision, as far as the log has it.
    ///
    /// # Errors
    /// As the client; when the log no longer has the revision, or it is of another epoch.
    pub(crate) async fn deleted_since(
        &self,
        collection: &CollectionName,
        epoch: Epoch,
        mut since: Revision,
    ) -> Result<BTreeSet<DocumentId>, ClientError> {
        let mut deleted = BTreeSet::new();
        loop {
            let page: FeedPage<LoggedChange> = self
                .send(true, |endpoint| async move {
                    endpoint
                        .collection_page(collection, since, epoch, PAGE)
                        .await
                })
                .await?;
            let Some(last) = page.items.last() else {
                return Ok(deleted);
            };
            since = last.revision;
            for change in page.items {
                match change.op {
                    Operation::Delete => deleted.insert(change.id),
                    Operation::Create | Operation::Update => deleted.remove(&change.id),
                };
            }
            if !page.more {
                return Ok(deleted);
            }
        }
    }

    /// Makes a request. One that `is_free` of a condition may happen twice.
    async fn send<T, F>(
        &self,
        is_free: bool,
        attempt: impl Fn(Endpoint) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let attempt = &attempt;
        if is_free {
            let each = || (self.client).try_each(|endpoint| attempt(endpoint.clone()));
            return RetryPolicy::COMMAND.run(is_transient, each).await;
        }
        let first = || async {
            let mut failure = ClientError::NoPublisher;
            for endpoint in self.client.endpoints() {
                match attempt(endpoint.clone()).await {
                    Err(error) if was_not_sent(&error) => failure = error,
                    answered => return answered,
                }
            }
            Err(failure)
        };
        let did_nothing = |error: &ClientError| {
            was_not_sent(error)
                || (is_busy(error) && error.kind() != Some(ProblemKind::OutcomeUnknown))
        };
        RetryPolicy::COMMAND.run(did_nothing, first).await
    }
}

/// Whether there was no connection that a request could have been sent on.
fn was_not_sent(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { cause, .. } if cause.is_connect())
}
