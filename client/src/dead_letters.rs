//! The dead letters of a publisher, and the report of a replica that dropped an event.

use contract::{
    CollectionName,
    dead_letter::{
        DeadLetter, DeadLetterAccepted, DeadLetterId, DeadLetterList, DeadLetterReason,
        DeadLetterReplayed, DeadLetterReport, DeadLettersDiscarded, ReplayRequest,
    },
};
use reqwest::Method;

use crate::{ClientError, Endpoint, history::query};

/// The routes of this module.
pub const PATH: &str = "/v1/dead-letters";

/// Which letters a request is about; the default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterSelection {
    /// Those whose event names this collection.
    pub collection: Option<CollectionName>,
    /// Those with this reason.
    pub reason: Option<DeadLetterReason>,
    /// Those that were sent again since they arrived last, or those that were not.
    pub replayed: Option<bool>,
}

impl LetterSelection {
    /// Whether it selects all letters.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let collection = self.collection.as_ref().map(CollectionName::to_string);
        let reason = self.reason.map(|reason| reason.as_str().to_owned());
        let replayed = self.replayed.map(|replayed| replayed.to_string());
        [
            ("collection", collection),
            ("reason", reason),
            ("replayed", replayed),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

impl Endpoint {
    /// A page of dead letters without their originals, the one that arrived last first. `before` is
    /// `next` of the page before.
    ///
    /// # Errors
    /// When there is no answer, or it is not a list of dead letters.
    pub async fn dead_letters(
        &self,
        selection: &LetterSelection,
        before: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterList, ClientError> {
        let mut parameters = selection.parameters();
        parameters.push(("limit", limit.to_string()));
        parameters.extend(before.map(|before| ("before", before.to_owned())));
        let path = format!("{PATH}{}", query(&parameters));
        self.json(self.get(&path).await?).await
    }

    /// One dead letter, with its original.
    ///
    /// # Errors
    /// When there is no answer, or no such letter.
    pub async fn dead_letter(&self, id: DeadLetterId) -> Result<DeadLetter, ClientError> {
        self.json(self.get(&format!("{PATH}/{id}")).await?).await
    }

    /// Reports an event that was dropped.
    ///
    /// # Errors
    /// When there is no answer, or the letter was not kept.
    pub async fn report_dead_letter(
        &self,
        report: &DeadLetterReport,
    ) -> Result<DeadLetterAccepted, ClientError> {
        let request = self.request(Method::POST, PATH).json(report);
        self.json(self.send_write(request).await?).await
    }

    /// Sends the event of a dead letter again.
    ///
    /// # Errors
    /// When there is no answer, no such letter, or its event cannot be sent.
    pub async fn replay_dead_letter(
        &self,
        id: DeadLetterId,
    ) -> Result<DeadLetterReplayed, ClientError> {
        let path = format!("{PATH}/{id}/replay");
        let request = self
            .request(Method::POST, &path)
            .json(&ReplayRequest::default());
        self.json(self.send_write(request).await?).await
    }

    /// Removes one dead letter.
    ///
    /// # Errors
    /// When there is no answer, or no such letter.
    pub async fn discard_dead_letter(
        &self,
        id: DeadLetterId,
    ) -> Result<DeadLetterAccepted, ClientError> {
        let request = self.request(Method::DELETE, &format!("{PATH}/{id}"));
        self.json(self.send_write(request).await?).await
    }

    /// Removes all dead letters that are selected.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn discard_dead_letters(
        &self,
        selection: &LetterSelection,
    ) -> Result<DeadLettersDiscarded, ClientError> {
        let mut parameters = selection.parameters();
        if selection.is_all() {
            parameters.push(("all", "true".to_owned()));
        }
        let path = format!("{PATH}{}", query(&parameters));
        let request = self.request(Method::DELETE, &path);
        self.json(self.send_write(request).await?).await
    }
}
