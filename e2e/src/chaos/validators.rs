//! The promises as checks of what was written and what was seen.
//!
//! Nothing here does I/O or knows how the observations were made, so the same validators check
//! replicas that break a promise on purpose (`mutants`). A round is validated when all its outcomes
//! are known; an effect that an unknown outcome may explain is no failure.

mod followers;
mod index;
mod leak;
#[cfg(test)]
mod model;
#[cfg(test)]
mod mutants;
mod past;
mod replica;

use std::collections::BTreeMap;

pub use followers::FollowerValidator;
pub use index::{Order, WriteIndex};
pub use leak::{Sample, grew};
pub use past::past;
pub use replica::ReplicaValidator;
use serde::Serialize;

use super::{
    observations::DocumentTable,
    record::{DocumentKey, Millis, Outcome, Probe, ProbeAnswer},
};

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Promise {
    /// A write answered with 2xx is durable and reaches every live replica.
    NoLostAck,
    /// Within 15 s of the last fault every replica equals the publisher.
    Converges,
    /// In one run no reader sees an older revision after a newer one.
    NoRollback,
    /// A deleted document never comes back.
    NoResurrection,
    /// The documents of a set become visible together.
    AtomicSet,
    /// Nothing empty or incomplete replaces good data.
    NeverEmpty,
    /// `current` means that everything of 2.5 check-in intervals ago is there.
    NoSilentStale,
    /// Every value that is seen was written, to that document, and not refused. Not a promise of
    /// its own: all others depend on it.
    Explained,
    /// No process grows without bound.
    Leak,
    /// No service panics.
    NoPanic,
    /// After SIGTERM a service exits with success and in time, whatever else is unavailable.
    OrderlyEnd,
    /// No epoch is declared where no database was restored.
    NoFalseEpoch,
    /// What was changed in the store by other means than a publisher is never seen.
    NoSpoiltValue,
    /// A reader that takes nothing is disconnected in time.
    StalledReaderEnds,
    /// An answer about a moment of the past is what was committed then.
    ExactPast,
    /// A stream of changes leaves none out, and brings them in order.
    EveryChange,
    /// A folder of files is of one moment.
    OneMoment,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::NoLostAck,
        Self::Converges,
        Self::NoRollback,
        Self::NoResurrection,
        Self::AtomicSet,
        Self::NeverEmpty,
        Self::NoSilentStale,
        Self::Explained,
        Self::Leak,
        Self::NoPanic,
        Self::OrderlyEnd,
        Self::NoFalseEpoch,
        Self::NoSpoiltValue,
        Self::StalledReaderEnds,
        Self::ExactPast,
        Self::EveryChange,
        Self::OneMoment,
    ];
}

/// A promise that was broken.
#[derive(Debug, Clone, Serialize)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// The component that broke it.
    pub who: String,
    /// When, in milliseconds since the campaign began.
    pub at: Millis,
    /// How.
    pub what: String,
    /// What was written to the document, and what was seen of it.
    pub context: Vec<String>,
}

/// The results of the validators so far.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    /// Promises that were broken; the list is bounded, the first ones of each promise are kept.
    pub violations: Vec<Violation>,
    /// How often each was checked.
    pub checks: BTreeMap<Promise, u64>,
}

/// More violations of one promise add no information.
const MOST: usize = 20;

impl Findings {
    /// Records one check; `broken` says how it failed.
    pub fn check(
        &mut self,
        promise: Promise,
        broken: Option<FailedCheck>,
        who: &str,
        index: &WriteIndex<'_>,
    ) {
        *self.checks.entry(promise).or_default() += 1;
        let Some(FailedCheck { at, what, key }) = broken else {
            return;
        };
        if self
            .violations
            .iter()
            .filter(|violation| violation.promise == promise)
            .count()
            < MOST
        {
            let context = key.map(|key| index.history(key, at)).unwrap_or_default();
            self.violations.push(Violation {
                promise,
                who: who.to_owned(),
                at,
                what,
                context,
            });
        }
    }

    /// The names of the promises that were broken.
    pub fn broken(&self) -> Vec<Promise> {
        let mut broken: Vec<_> = self
            .violations
            .iter()
            .map(|violation| violation.promise)
            .collect();
        broken.sort_unstable();
        broken.dedup();
        broken
    }
}

/// How a check failed.
#[derive(Debug)]
pub struct FailedCheck {
    /// When.
    pub at: Millis,
    /// In words.
    pub what: String,
    /// The document that it is about.
    pub key: Option<DocumentKey>,
}

/// NoLostAck at rest: the publisher's documents account for every acknowledged write.
pub fn durable(
    index: &WriteIndex<'_>,
    publisher: &DocumentTable,
    at: Millis,
    findings: &mut Findings,
) {
    for key in DocumentKey::all() {
        let held = publisher[key.slot()];
        let broken = index
            .newest(key)
            .filter(|acked| !index.satisfies(key, held, acked, at))
            .map(|acked| FailedCheck {
                at,
                what: format!(
                    "{key} is {held:?}, but {} was acknowledged as {:?}",
                    acked.token, acked.order
                ),
                key: Some(key),
            });
        findings.check(Promise::NoLostAck, broken, "publisher", index);
        if let Some(seen) = held {
            let what = index.unexplained(key, seen, at);
            let broken = what.map(|what| FailedCheck {
                at,
                what,
                key: Some(key),
            });
            findings.check(Promise::Explained, broken, "publisher", index);
            let broken = index.spoilt(key, seen).map(|what| FailedCheck {
                at,
                what,
                key: Some(key),
            });
            findings.check(Promise::NoSpoiltValue, broken, "publisher", index);
        }
    }
}

/// What a publisher answered while a row was spoilt: the committed value, or the name of the row.
pub fn spoilt_row(index: &WriteIndex<'_>, probe: &Probe, findings: &mut Findings) {
    let Probe { key, got, .. } = *probe;
    let what = match &probe.answer {
        ProbeAnswer::Named => None,
        ProbeAnswer::Other(what) => Some(format!("{key} was answered {what}")),
        ProbeAnswer::Value(held) => {
            let wrong = held.and_then(|seen| {
                let spoilt = index.spoilt(key, seen);
                spoilt.or_else(|| index.unexplained(key, seen, got))
            });
            wrong.or_else(|| {
                let acked = index.newest_before(key, probe.sent)?;
                (!index.satisfies(key, *held, &acked, got))
                    .then(|| format!("{key} is {held:?}, but {} was acknowledged", acked.token))
            })
        }
    };
    let broken = what.map(|what| FailedCheck {
        at: got,
        what: format!("{what} ({})", probe.path),
        key: Some(key),
    });
    findings.check(Promise::NoSpoiltValue, broken, "publisher", index);
}

/// Epochs at rest: the epoch of the publisher is one that was seen before, or there was a
/// restore since.
pub fn epoch_explained(index: &WriteIndex<'_>, epoch: &str, at: Millis, findings: &mut Findings) {
    let broken = index.false_epoch(epoch).map(|what| FailedCheck {
        at,
        what,
        key: None,
    });
    findings.check(Promise::NoFalseEpoch, broken, "publisher", index);
}

/// Short names of outcomes for a line of history.
fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Open => "open",
        Outcome::Acked => "acked",
        Outcome::Refused => "refused",
        Outcome::Unknown => "unknown",
    }
}
