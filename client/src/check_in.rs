//! The check-in: a replica reports its state, and the publisher answers with the heads.

use contract::{
    fleet::{CheckIn, CheckInAnswer},
    sidecar::TOKEN_HEADER,
};
use reqwest::{Method, header::HeaderValue};

use crate::{ClientError, Endpoint};

impl Endpoint {
    /// Checks in. `app_token` proves to the publisher that events may be sent to this replica.
    ///
    /// # Errors
    /// When there is no answer, or it is not the answer to a check-in.
    pub async fn check_in(
        &self,
        report: &CheckIn,
        app_token: Option<&HeaderValue>,
    ) -> Result<CheckInAnswer, ClientError> {
        let path = format!("/v1/replicas/{}", report.instance);
        let mut request = self.request(Method::PUT, &path).json(report);
        // Behind an invocation URL that header belongs to the sidecar.
        if let Some(token) = app_token
            && !self.is_invoked()
        {
            request = request.header(TOKEN_HEADER, token);
        }
        self.json(self.send_write(request).await?).await
    }
}
