//! Bodies of requests as JSON. [`service::http::bodies`] receives them, within its limits. Nothing here
//! knows what a body means.

use actix_web::web::Bytes;
use contract::{CanonicalJson, JsonError, Problem, ProblemKind, objects};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::api::{Api, error::ApiError};

impl Api {
    /// A body as a canonical JSON value.
    ///
    /// # Errors
    /// 400 `bad-body`, 503 `busy`.
    pub(super) async fn canonical(&self, body: Bytes) -> Result<CanonicalJson, ApiError> {
        self.writer
            .large_work()
            .run(Instant::now(), body.len(), move || {
                CanonicalJson::parse(&body)
            })
            .await?
            .map_err(ApiError::bad_body)
    }
}

/// The request in a body; an empty body stands for the default request. `members` are those of the
/// request, as a client writes them.
///
/// # Errors
/// 400 `bad-body`, with the members and the place of the fault.
pub(super) fn optional_request<T: Default + DeserializeOwned>(
    body: &[u8],
    members: &str,
) -> Result<T, ApiError> {
    if body.is_empty() {
        return Ok(T::default());
    }
    objects::from_slice_located(body).map_err(|JsonError { pointer, reason }| {
        let detail = format!("The body is not {{{members}}} (all optional): {reason}");
        Problem::new(ProblemKind::BadBody, detail)
            .at(pointer)
            .into()
    })
}
