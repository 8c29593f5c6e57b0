//! The replicas that checked in with a publisher.

use contract::fleet::ReplicaList;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    ClientError, Endpoint,
    answer::{MAX_ANSWER, MAX_LIST},
};

/// More replicas than a publisher lists: its pages go round.
const MAX_REPLICAS: usize = 200_000;

impl Endpoint {
    /// All replicas of the publisher, page by page, as they were at their last check-in; `None` when
    /// the service keeps no list of replicas, as an older publisher or a subscriber.
    ///
    /// # Errors
    /// When there is no answer, or it is not a list of replicas.
    pub async fn replicas(&self) -> Result<Option<ReplicaList>, ClientError> {
        let response = match self.get("/v1/replicas").await {
            Ok(response) => response,
            Err(error) if error.status() == Some(404) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut list: ReplicaList = self.json_within(response, MAX_LIST).await?;
        while let Some(after) = list.next.take() {
            let name = utf8_percent_encode(&after, NON_ALPHANUMERIC);
            let response = self.get(&format!("/v1/replicas?after={name}")).await?;
            let page: ReplicaList = self.json_within(response, MAX_ANSWER).await?;
            if page.replicas.is_empty() || list.replicas.len() > MAX_REPLICAS {
                return Err(ClientError::Unusable {
                    publisher: self.name().to_owned(),
                    reason: "its list of replicas has no end".to_owned(),
                });
            }
            list.replicas.extend(page.replicas);
            list.next = page.next;
        }
        Ok(Some(list))
    }
}
