//! The checks of followers: streams that bring changes, and folders that are of one moment.
//!
//! A stream is checked from its beginning: what it told, in the order of its messages. What all followers have
//! at rest is compared elsewhere.

use super::{
    super::{
        followers::{FolderView, Followed, MessageKind, StreamItem, StreamMessage},
        observations::{DocumentTable, SeenValue},
        record::{DocumentKey, Millis, SLOTS},
    },
    FailedCheck, Findings, Promise, WriteIndex,
};
use crate::testbed::SCHEMA_FREE;

/// The newest that a stream told of a document.
#[derive(Debug, Clone, Copy)]
struct Floor {
    revision: u64,
    is_deletion: bool,
}

/// The validator of one follower.
#[derive(Debug)]
pub struct FollowerValidator {
    name: String,
    /// Of the newest message: the stream and the epoch.
    scope: Option<(u64, String)>,
    /// The documents that the stream told.
    told: Box<DocumentTable>,
    floors: [Option<Floor>; SLOTS],
    /// The revision of the message before, if it was a change.
    last_change: Option<u64>,
    /// Epoch and revisions of the folder before.
    last_folder: Option<(String, [u64; SCHEMA_FREE.len()])>,
}

impl FollowerValidator {
    /// Creates a validator.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            scope: None,
            told: Box::new([None; SLOTS]),
            floors: [None; SLOTS],
            last_change: None,
            last_folder: None,
        }
    }

    /// Checks the next observation.
    pub fn validate(
        &mut self,
        index: &WriteIndex<'_>,
        followed: &Followed,
        findings: &mut Findings,
    ) {
        let at = match followed {
            Followed::Message(message) => message.at,
            Followed::Folder(view) => view.at,
            Followed::Wrong { at, .. } => *at,
        };
        let mut check = Check {
            follower: self,
            index,
            findings,
            at,
        };
        match followed {
            Followed::Message(message) => check.message(message),
            Followed::Folder(view) => check.folder(view),
            Followed::Wrong { what, .. } => {
                check.check(Promise::NeverEmpty, None, Some(what.clone()));
            }
        }
    }
}

/// The checks of one observation.
struct Check<'a, 'i> {
    follower: &'a mut FollowerValidator,
    index: &'a WriteIndex<'i>,
    findings: &'a mut Findings,
    at: Millis,
}

impl Check<'_, '_> {
    fn check(&mut self, promise: Promise, key: Option<DocumentKey>, broken: Option<String>) {
        let at = self.at;
        let broken = broken.map(|what| FailedCheck { at, what, key });
        self.findings
            .check(promise, broken, &self.follower.name, self.index);
    }

    fn message(&mut self, message: &StreamMessage) {
        let scope = (message.stream, message.epoch.clone());
        let before = self.follower.scope.replace(scope);
        let before = before.as_ref();
        if before.is_none_or(|(stream, _)| *stream != message.stream) {
            self.follower.told.fill(None);
        }
        // Another epoch counts anew, or goes on.
        if self.follower.scope.as_ref() != before {
            self.follower.floors = [None; SLOTS];
            self.follower.last_change = None;
        }
        if message.kind == MessageKind::All {
            self.follower.told.fill(None);
        }
        for item in &message.items {
            self.check_item(*item);
        }
        // The store was restored and the follower does not know yet: both histories are mixed.
        let has_ended = self.index.has_ended(&message.epoch, self.at);
        if let MessageKind::Change(revision) = message.kind {
            if !has_ended {
                self.check_change(message, revision);
            }
            self.follower.last_change = Some(revision);
        } else if message.kind == MessageKind::State {
            self.follower.last_change = None;
        } else if !has_ended {
            for item in &message.items {
                self.check_set(item.key);
            }
        }
    }

    /// A document is told of in the order of its revisions, and with a value that was written to it.
    fn check_item(&mut self, item: StreamItem) {
        let StreamItem {
            key,
            revision,
            token,
        } = item;
        let slot = key.slot();
        if let Some(revision) = revision {
            let floor = self.follower.floors[slot].replace(Floor {
                revision,
                is_deletion: token.is_none(),
            });
            let is_back = floor.is_some_and(|floor| revision < floor.revision);
            let returns = floor.is_some_and(|floor| {
                floor.is_deletion && token.is_some() && revision <= floor.revision
            });
            let what = || format!("{item:?} was told after {floor:?}");
            self.check(Promise::NoResurrection, Some(key), returns.then(what));
            let broken = (is_back && !returns).then(what);
            self.check(Promise::NoRollback, Some(key), broken);
        }
        let seen = token.map(|token| SeenValue {
            revision: revision.unwrap_or_default(),
            token,
        });
        self.follower.told[slot] = seen;
        if let Some(seen) = seen {
            let broken = self.index.unexplained(key, seen, self.at);
            self.check(Promise::Explained, Some(key), broken);
            let broken = self.index.spoilt(key, seen);
            self.check(Promise::NoSpoiltValue, Some(key), broken);
        }
    }

    /// A change follows the one before it, and after it the stream has told exactly what there is at its
    /// revision.
    fn check_change(&mut self, message: &StreamMessage, revision: u64) {
        let last = self.follower.last_change;
        let gap = last.filter(|last| revision != last + 1);
        let broken = gap.map(|last| format!("the change {revision} was told after {last}"));
        let key = message.items.first().map(|item| item.key);
        self.check(Promise::EveryChange, key, broken);
        let (Some(era), Some(changed)) = (self.index.era_of(&message.epoch), key) else {
            return;
        };
        let mut keys = DocumentKey::all().filter(|key| key.collection == changed.collection);
        let broken = keys.find_map(|key| {
            let told = self.follower.told[key.slot()];
            let what = (self.index).differs_from((era, revision), key, told, self.at)?;
            Some((key, format!("{what}, after the change {revision}")))
        });
        let (key, what) = broken.unzip();
        self.check(Promise::EveryChange, key, what);
    }

    /// Where a stream tells of one document of a set, it tells of all in its collection at once.
    fn check_set(&mut self, key: DocumentKey) {
        let told = &self.follower.told;
        let Some(seen) = told[key.slot()] else { return };
        let Some(set) = self.index.newest_set(key, self.index.order(seen, key)) else {
            return;
        };
        let is_shown = |other: DocumentKey| other.collection == key.collection;
        let missing = self.index.missing_of_set(set, told, self.at, is_shown);
        let broken = missing.map(|missing| {
            let told = told[missing.key.slot()];
            format!(
                "{key} shows set {set}, but {} is {told:?} and should be at {:?}",
                missing.key, missing.revision
            )
        });
        self.check(Promise::AtomicSet, Some(key), broken);
    }

    /// A folder is later than the one before it, and all of it is of one moment.
    fn folder(&mut self, view: &FolderView) {
        let FolderView {
            epoch, revisions, ..
        } = view;
        let now = (epoch.clone(), *revisions);
        let before = self.follower.last_folder.replace(now);
        let back = before.filter(|(before, older)| {
            before == epoch && older.iter().zip(revisions).any(|(old, new)| new < old)
        });
        let broken = back.map(|(_, older)| format!("a folder of {revisions:?} after {older:?}"));
        self.check(Promise::NoRollback, None, broken);
        let era = self.index.era_of(epoch);
        let Some(era) = era.filter(|_| !self.index.has_ended(epoch, self.at)) else {
            return;
        };
        let broken = DocumentKey::all().find_map(|key| {
            let token = view.tokens.iter().find(|(other, _)| *other == key);
            let token = token.map(|(_, token)| *token);
            let moment = (era, revisions[usize::from(key.collection)]);
            let what = self.index.value_differs_from(moment, key, token, self.at)?;
            Some((key, format!("{what}, in a folder of {revisions:?}")))
        });
        let (key, what) = broken.unzip();
        self.check(Promise::OneMoment, key, what);
        let broken = self.index.divided_set(era, revisions);
        let broken =
            broken.map(|set| format!("the set {set} is in a folder of {revisions:?} in part"));
        self.check(Promise::AtomicSet, None, broken);
    }
}

#[cfg(test)]
mod tests;
