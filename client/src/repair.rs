//! The repair of the store of a publisher.

use contract::repair::{RepairReport, RepairRequest};
use reqwest::Method;

use crate::{ClientError, Endpoint};

impl Endpoint {
    /// Examines the store of a publisher, and repairs it if the request says so.
    ///
    /// # Errors
    /// When there is no answer (the repair goes on), or the publisher refuses: another repair is under way.
    pub async fn repair(&self, request: &RepairRequest) -> Result<RepairReport, ClientError> {
        let request = self
            .repair_request(Method::POST, "/v1/repair")
            .json(request);
        self.json(self.send_repair(request).await?).await
    }
}
