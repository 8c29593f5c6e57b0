//! The replicas that checked in with a publisher.

use contract::fleet::ReplicaList;

use crate::{ClientError, Endpoint, answer::MAX_LIST};

impl Endpoint {
    /// The replicas of the publisher, as they were at their last check-in; `None` when the service
    /// keeps no list of replicas, as an older publisher or a subscriber.
    ///
    /// # Errors
    /// When there is no answer, or it is not a list of replicas.
    pub async fn replicas(&self) -> Result<Option<ReplicaList>, ClientError> {
        match self.get("/v1/replicas").await {
            Ok(response) => self.json_within(response, MAX_LIST).await.map(Some),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
