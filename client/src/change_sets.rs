//! Change sets: several documents that change together or not at all.

use contract::set::{ChangeSetRequest, ChangeSetWritten};

use crate::{ClientError, Endpoint};

impl Endpoint {
    /// Writes a change set.
    ///
    /// # Errors
    /// When there is no answer, or the publisher refuses the set. `index` of the problem is the
    /// change at fault, from 0.
    pub async fn write_change_set(
        &self,
        set: &ChangeSetRequest,
    ) -> Result<ChangeSetWritten, ClientError> {
        let request = self.set_request("/v1/changes").json(set);
        let response = self.send_maintenance(self.authored(request)).await?;
        self.json(response).await
    }
}
