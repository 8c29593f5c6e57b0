//! When the application is notified after an attempt.

use std::time::{Duration, Instant};

use super::*;
use crate::{ReloadState, Status, attempt::Attempt, progress::Progress};

/// Whether the application is to be notified after this attempt. It was notified of all before.
fn is_notified(progress: &mut Progress, attempt: &Attempt) -> bool {
    progress.reload_at = None;
    progress.status.reload = ReloadState::Done;
    progress.succeeded(attempt, &root(&[]), Duration::ZERO, true);
    let is_pending = progress.status.reload == ReloadState::Pending;
    assert_eq!(is_pending, progress.reload_at.is_some());
    is_pending
}

#[test]
fn a_swap_is_notified_also_when_it_is_known_by_the_next_attempt_only() {
    let status = Status::new(PathBuf::from("out/current"), Some(1), true);
    let mut progress = Progress::new(status, Instant::now());
    let same = |number| Attempt::Same {
        number: Some(number),
        files: 1,
    };
    assert!(is_notified(&mut progress, &same(1)), "the first one");
    assert!(!is_notified(&mut progress, &same(1)));
    // Generation 2 was swapped, and the attempt failed after that.
    assert!(is_notified(&mut progress, &same(2)));
    assert!(!is_notified(&mut progress, &same(2)));
    let swapped = Attempt::Swapped {
        number: 3,
        files: 1,
    };
    assert!(is_notified(&mut progress, &swapped));
}
