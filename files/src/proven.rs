//! When a view of the replica may be rendered: nothing is made of a part of the configuration, or of one that
//! no publisher confirms.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use contract::status::ReplicaState;
use replica::{Replica, View};
use tokio::time::sleep_until;

use crate::FilesError;

/// A view may become complete without a notification.
const LOOK: Duration = Duration::from_secs(1);

/// The view, as soon as it may be rendered.
///
/// # Errors
/// When that is not so in time.
pub(crate) async fn until_current(
    replica: &Replica,
    limit: Duration,
) -> Result<Arc<View>, FilesError> {
    let mut changed = replica.feed_changed();
    let mut states = replica.states();
    let deadline = Instant::now() + limit;
    loop {
        changed.borrow_and_update();
        states.borrow_and_update();
        let view = replica.view();
        let now = Instant::now();
        if is_renderable(&view, now) {
            return Ok(view);
        }
        if now >= deadline {
            return Err(FilesError::NotCurrent {
                waited: limit,
                state: format!("{}, {}", view.state(now).as_str(), last_error(replica)),
            });
        }
        tokio::select! {
            _ = changed.changed() => {}
            _ = states.changed() => {}
            () = sleep_until((now + LOOK).min(deadline).into()) => {}
        }
    }
}

/// Whether everything was loaded and is confirmed, and no change is known to be missing.
pub(crate) fn is_renderable(view: &View, now: Instant) -> bool {
    view.loaded() && view.state(now) == ReplicaState::Current && view.root().gaps().is_empty()
}

/// Why it is not current, as far as the replica knows.
pub(crate) fn last_error(replica: &Replica) -> String {
    let error = replica.status().last_error;
    error.unwrap_or_else(|| "no error".to_owned())
}
