//! Problems that only the subscriber sends. [`ProblemError`] has those of both services.
//!
//! Events are never answered with one of these: their answer is always 200 (see `replica::actix`).

use contract::{Problem, ProblemKind};
use service::http::problem::ProblemError;

/// 404 `unversioned`: the collection has no head, because its publisher has no revisions.
pub(super) fn unversioned(name: &str) -> ProblemError {
    let detail =
        format!("The publisher of {name} counts no revisions; read its documents instead.");
    Problem::new(ProblemKind::Unversioned, detail)
        .field("collection")
        .into()
}

/// 503 `loading`: nothing was loaded yet, so nothing is known about any document.
pub(super) fn loading() -> ProblemError {
    let detail = "The first load is not complete; /v1/status says what it waits for";
    Problem::new(ProblemKind::Loading, detail).into()
}

/// 503 `stale`: no publisher confirmed the configuration for too long, and a setting says that the
/// replica is not ready then.
pub(super) fn stale() -> ProblemError {
    let detail = "No publisher has confirmed the configuration in time (AURA_CONFIGURATION_READY_WHEN_STALE=false)";
    Problem::new(ProblemKind::Stale, detail).into()
}

/// 503 `loading`: the program that embeds the subscriber waits for something.
pub(super) fn not_ready(why: String) -> ProblemError {
    Problem::new(ProblemKind::Loading, why).into()
}
