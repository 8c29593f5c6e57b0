//! Who the caller is at a service, and what it may do there.

use contract::access::Identity;

use crate::{ClientError, Endpoint};

impl Endpoint {
    /// What the service takes the caller for.
    ///
    /// # Errors
    /// When there is no answer, the service does not know the caller, or it has no such route.
    pub async fn identity(&self) -> Result<Identity, ClientError> {
        self.json(self.get_short("/v1/identity").await?).await
    }
}
