//! The JSON Schemas and samples that a publisher has in force.

use contract::CollectionName;
use serde::Deserialize;

use crate::{ClientError, Endpoint, answer::MAX_ANSWER};

/// One collection that has a schema.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SchemaEntry {
    /// The collection.
    pub collection: CollectionName,
    /// Whether it has a sample as well.
    pub sample: bool,
}

/// The body of the list.
#[derive(Deserialize)]
struct SchemaList {
    schemas: Vec<SchemaEntry>,
}

impl Endpoint {
    /// The collections that have a schema.
    ///
    /// # Errors
    /// When there is no answer, or it is not a list of schemas.
    pub async fn schemas(&self) -> Result<Vec<SchemaEntry>, ClientError> {
        let SchemaList { schemas } = self.json(self.get("/v1/schemas").await?).await?;
        Ok(schemas)
    }

    /// The schema of a collection, as it was written.
    ///
    /// # Errors
    /// When there is no answer, or the collection has no schema.
    pub async fn schema(&self, collection: &CollectionName) -> Result<String, ClientError> {
        self.text(&format!("/v1/schemas/{collection}")).await
    }

    /// The sample of a collection, as it was written.
    ///
    /// # Errors
    /// When there is no answer, or the collection has no sample.
    pub async fn sample(&self, collection: &CollectionName) -> Result<String, ClientError> {
        self.text(&format!("/v1/schemas/{collection}/sample")).await
    }

    /// A body as text.
    ///
    /// # Errors
    /// When there is no answer, or it is not UTF-8.
    async fn text(&self, path: &str) -> Result<String, ClientError> {
        let body = self.body(self.get(path).await?, MAX_ANSWER).await?;
        String::from_utf8(body).map_err(|error| self.unusable(error))
    }
}
