//! Heads: the revision, document count and digest of each collection.

use contract::{CollectionName, Head, Heads};

use crate::{ClientError, Endpoint};

impl Endpoint {
    /// The heads of all collections, of one moment.
    ///
    /// # Errors
    /// When there is no answer, or it is not the heads.
    pub async fn heads(&self) -> Result<Vec<Head>, ClientError> {
        let Heads { heads } = self.json(self.get_short("/v1/collections").await?).await?;
        Ok(heads)
    }

    /// The head of one collection.
    ///
    /// # Errors
    /// When there is no answer, or the collection is unknown or unversioned.
    pub async fn head(&self, collection: &CollectionName) -> Result<Head, ClientError> {
        let path = format!("/v1/collections/{collection}");
        self.json(self.get_short(&path).await?).await
    }
}
