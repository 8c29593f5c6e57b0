//! The status of one replica, asked directly.

use contract::status::ReplicaStatus;

use crate::{ClientError, Endpoint};

impl Endpoint {
    /// What a replica reports about itself.
    ///
    /// # Errors
    /// When there is no answer, or it is not the status of a replica.
    pub async fn status(&self) -> Result<ReplicaStatus, ClientError> {
        self.json(self.get_short("/v1/status").await?).await
    }
}
