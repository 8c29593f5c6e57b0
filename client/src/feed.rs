//! Pages of the change feed.

use contract::{
    CollectionName, Epoch, FeedPage, Revision,
    event::Confirm,
    feed::{CONFIRM_HEADER, FeedScope, NEXT_HEADER, Since},
};
use reqwest::Response;
use serde::de::DeserializeOwned;

use crate::{ClientError, Endpoint};

/// A page whose answer has begun. Nothing of its content was read.
#[derive(Debug)]
pub struct BegunPage {
    endpoint: Endpoint,
    response: Response,
}

impl BegunPage {
    /// The position after the page, where another one follows: that one can be requested now. `None`
    /// also where the service does not say it.
    pub fn next(&self) -> Option<Since> {
        let next = self.response.headers().get(NEXT_HEADER)?;
        FeedScope::Several.since(next.to_str().ok()?).ok()
    }

    /// Whether a check-in is asked for once the page is applied.
    pub fn wants_confirmation(&self) -> bool {
        let wanted = self.response.headers().get(CONFIRM_HEADER);
        wanted.is_some_and(|wanted| wanted == Confirm::Applied.as_str())
    }

    /// Who answers.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Reads the page. `T` is the type that a change is read as: [`contract::Change`] at a publisher,
    /// [`contract::EventData`] at a subscriber, or one that reads both.
    ///
    /// # Errors
    /// When the answer breaks off, or is no page.
    pub async fn read<T: DeserializeOwned>(self) -> Result<FeedPage<T>, ClientError> {
        self.endpoint.json(self.response).await
    }
}

impl Endpoint {
    /// Requests the changes of several collections after the revisions of `since`.
    ///
    /// # Errors
    /// When there is no answer, or the feed cannot continue from there (410).
    pub async fn page(&self, since: &Since, epoch: Epoch) -> Result<BegunPage, ClientError> {
        let response = self.get(&page_path(since, epoch)).await?;
        Ok(BegunPage {
            endpoint: self.clone(),
            response,
        })
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
    let since = FeedScope::Several.text(since);
    format!("/v1/changes?since={since}&epoch={epoch}")
}
