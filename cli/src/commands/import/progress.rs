//! How far an import is: a bar on a terminal, a line every few seconds elsewhere.

use std::{
    cell::Cell,
    fmt::Display,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

const EVERY: Duration = Duration::from_secs(2);

/// Shows progress on standard error.
pub(super) struct Progress {
    bar: ProgressBar,
    told: Cell<Instant>,
}

impl Progress {
    /// `length` in bytes; unknown for a pipe.
    pub(super) fn new(length: Option<u64>) -> Self {
        let (bar, template) = match length {
            Some(length) => (ProgressBar::new(length), "{bar:40} {bytes}/{total_bytes}, {msg} ({eta} left)"),
            None => (ProgressBar::no_length(), "{spinner} {bytes}, {msg}"),
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the templates are valid"));
        Self { bar, told: Cell::new(Instant::now()) }
    }

    pub(super) fn read(&self, bytes: usize) {
        self.bar.inc(bytes as u64);
    }

    pub(super) fn written(&self, documents: u64) {
        let message = format!("{documents} documents written");
        if self.bar.is_hidden() && self.told.get().elapsed() >= EVERY {
            self.told.set(Instant::now());
            output::note(&message);
        }
        self.bar.set_message(message);
    }

    /// Says something without tearing the bar.
    pub(super) fn note(&self, line: impl Display) {
        self.bar.suspend(|| output::note(line));
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
