//! Pages of the change feed.

use contract::{CollectionName, Epoch, FeedPage, Revision, feed::Since};
use serde::de::DeserializeOwned;

use crate::{ClientError, Endpoint};

impl Endpoint {
    /// The changes of several collections after the revisions of `since`. `T` is the type that a
    /// change is read as: [`contract::Change`] at a publisher, [`contract::EventData`] at a
    /// subscriber, or one that reads both.
    ///
    /// # Errors
    /// When there is no answer, or the feed cannot continue from there (410).
    pub async fn page<T: DeserializeOwned>(
        &self,
        since: &Since,
        epoch: Epoch,
    ) -> Result<FeedPage<T>, ClientError> {
        self.json(self.get(&page_path(since, epoch)).await?).await
    }

    /// At most `limit` changes of one collection after `since`.
    ///
    /// # Errors
    /// As [`Endpoint::page`].
    pub async fn collection_page<T: DeserializeOwned>(
        &self,
        collection: &CollectionName,
        since: Revision,
        epoch: Epoch,
        limit: usize,
    ) -> Result<FeedPage<T>, ClientError> {
        let path = format!(
            "/v1/collections/{collection}/changes?since={since}&limit={limit}&epoch={epoch}"
        );
        self.json(self.get(&path).await?).await
    }
}

/// Path of the feed of several collections.
pub(crate) fn page_path(since: &Since, epoch: Epoch) -> String {
    // Names and numbers have no character that a URL escapes.
    let pairs: Vec<String> = since
        .iter()
        .map(|(name, revision)| format!("{name}:{revision}"))
        .collect();
    format!("/v1/changes?since={}&epoch={epoch}", pairs.join(","))
}
