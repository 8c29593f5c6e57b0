//! The progress of a long command: a bar on a terminal, a line every few seconds elsewhere. It never
//! writes to standard output.

use std::{
    cell::Cell,
    fmt::Display,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// Time between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(2);

/// Shows progress on standard error.
pub(crate) struct ProgressLine {
    bar: ProgressBar,
    reported: Cell<Instant>,
}

impl ProgressLine {
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

    /// Counts documents or replicas; their number is announced while the command runs.
    pub(crate) fn counted() -> Self {
        Self::new(ProgressBar::new(0), "{bar:40} {msg}")
    }

    fn new(bar: ProgressBar, template: &str) -> Self {
        bar.set_style(ProgressStyle::with_template(template).expect("the templates are valid"));
        Self {
            bar,
            reported: Cell::new(Instant::now()),
        }
    }

    /// Counts bytes that were read.
    pub(crate) fn inc(&self, count: u64) {
        self.bar.inc(count);
    }

    /// One more document was read.
    pub(crate) fn document(&self) {
        self.bar.inc(1);
        self.report(format!(
            "{} of {} documents read",
            self.bar.position(),
            self.bar.length().unwrap_or_default()
        ));
    }

    /// Announces that this many documents more will be read.
    pub(crate) fn announce(&self, count: u64) {
        self.bar.inc_length(count);
    }

    /// `count` more documents are as in the backup.
    pub(crate) fn restored(&self, count: u64) {
        self.bar.inc(count);
        self.report(format!("{} documents restored", self.bar.position()));
    }

    /// `applied` of `replicas` have applied the write.
    pub(crate) fn applied(&self, applied: u64, replicas: u64) {
        self.bar.set_length(replicas);
        self.bar.set_position(applied);
        self.report(format!("applied by {applied} of {replicas} replicas"));
    }

    /// Shows what was done until now.
    pub(crate) fn report(&self, message: String) {
        if self.bar.is_hidden() && self.reported.get().elapsed() >= EVERY {
            self.reported.set(Instant::now());
            output::note(&message);
        }
        self.bar.set_message(message);
    }

    /// Writes a line beside the bar.
    pub(crate) fn note(&self, line: impl Display) {
        self.bar.suspend(|| output::note(line));
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
