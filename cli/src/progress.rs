//! How far a long command is: a bar on a terminal, a line every few seconds elsewhere. It never
//! writes to standard output.

use std::{
    cell::Cell,
    fmt::Display,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

const EVERY: Duration = Duration::from_secs(2);

/// Shows progress on standard error.
pub(crate) struct Progress {
    bar: ProgressBar,
    told: Cell<Instant>,
}

impl Progress {
    /// Counts bytes. The length of a pipe is unknown.
    pub(crate) fn bytes(length: Option<u64>) -> Self {
        match length {
            Some(length) => Self::new(
                ProgressBar::new(length),
                "{bar:40} {bytes}/{total_bytes}, {msg} ({eta} left)",
            ),
            None => Self::new(ProgressBar::no_length(), "{spinner} {bytes}, {msg}"),
        }
    }

    /// Counts documents that are announced by and by.
    pub(crate) fn documents() -> Self {
        Self::new(ProgressBar::new(0), "{bar:40} {msg}")
    }

    fn new(bar: ProgressBar, template: &str) -> Self {
        bar.set_style(ProgressStyle::with_template(template).expect("the templates are valid"));
        Self {
            bar,
            told: Cell::new(Instant::now()),
        }
    }

    pub(crate) fn inc(&self, count: u64) {
        self.bar.inc(count);
    }

    /// One more document was read.
    pub(crate) fn document(&self) {
        self.bar.inc(1);
        self.tell(format!(
            "{} of {} documents read",
            self.bar.position(),
            self.bar.length().unwrap_or_default()
        ));
    }

    /// Announces that more is to come.
    pub(crate) fn more(&self, count: u64) {
        self.bar.inc_length(count);
    }

    /// What has happened so far.
    pub(crate) fn tell(&self, message: String) {
        if self.bar.is_hidden() && self.told.get().elapsed() >= EVERY {
            self.told.set(Instant::now());
            output::note(&message);
        }
        self.bar.set_message(message);
    }

    /// Says something without tearing the bar.
    pub(crate) fn note(&self, line: impl Display) {
        self.bar.suspend(|| output::note(line));
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
