//! What a service says of itself: which version it is, and whether it can do its work.

use contract::{release::Release, repair::DegradedStore};
use reqwest::StatusCode;

use crate::{ClientError, Endpoint};

impl Endpoint {
    /// Which version a service runs; `None` where it does not say, as one before this route was added.
    ///
    /// # Errors
    /// When there is no answer, or it is not that of a service.
    pub async fn version(&self) -> Result<Option<Release>, ClientError> {
        match self.get_short("/v1/version").await {
            Ok(response) => Ok(Some(self.json(response).await?)),
            Err(error) if error.is_missing_route() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a service can do its work, and where it can, what is damaged in its store.
    ///
    /// # Errors
    /// When it cannot, or does not answer.
    pub async fn readiness(&self) -> Result<Option<DegradedStore>, ClientError> {
        let response = self.get_short("/readyz").await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        Ok(Some(self.json(response).await?))
    }
}
