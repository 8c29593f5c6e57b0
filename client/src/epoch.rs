//! A new epoch: an operator says that the store of a publisher was replaced.

use contract::fleet::{EpochDeclared, RestoreEpochRequest};
use reqwest::Method;

use crate::{ClientError, Endpoint};

impl Endpoint {
    /// Declares a new epoch. The publisher verifies its whole store first.
    ///
    /// # Errors
    /// When there is no answer, or the publisher refuses: documents and heads do not agree yet.
    pub async fn declare_epoch(
        &self,
        request: &RestoreEpochRequest,
    ) -> Result<EpochDeclared, ClientError> {
        let request = self
            .maintenance_request(Method::POST, "/v1/epoch")
            .json(request);
        self.json(self.send_maintenance(request).await?).await
    }
}
