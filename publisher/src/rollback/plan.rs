//! What a rollback writes, planned from what a document is now and what it was. Pure.

use std::collections::BTreeMap;

use contract::{
    CanonicalJson, CollectionName, Context, Document, Expected, JsonError, Operation, Revision,
    Version,
    history::Diff,
    rollback::{Rollback, RollbackExpected, RollbackItem},
    set::{ChangeSetWritten, MAX_BYTES, MAX_OPERATIONS},
};

use crate::{
    decide::{Action, ChangeSetCommand, DocumentKey, Write, WriteError},
    rollback::RollbackError,
    write::change_set,
};

/// The way of one document back to what it was.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) key: DocumentKey,
    /// The version that it has now; `None` when it does not exist.
    now: Option<Version>,
    /// The revision and the value that it gets; `None` when it is deleted.
    pub(super) then: Option<(Revision, CanonicalJson)>,
}

impl Step {
    /// `None` when the document has the value of then.
    ///
    /// # Errors
    /// When the value of then is no JSON, which a store never gives.
    pub(super) fn between(
        key: DocumentKey,
        now: Option<&Document>,
        then: Option<&Document>,
    ) -> Result<Option<Self>, JsonError> {
        let is_same = match (now, then) {
            (None, None) => true,
            (Some(now), Some(then)) => now.config_data() == then.config_data(),
            _one_of_them => false,
        };
        if is_same {
            return Ok(None);
        }
        let value = |then: &Document| Ok((then.revision(), then.value()?));
        let version = |now: &Document| Version {
            revision: now.revision(),
            crc: Some(now.crc()),
        };
        Ok(Some(Self {
            key,
            now: now.map(version),
            then: then.map(value).transpose()?,
        }))
    }

    fn operation(&self) -> Operation {
        match (&self.now, &self.then) {
            (None, _) => Operation::Create,
            (Some(_), Some(_)) => Operation::Update,
            (Some(_), None) => Operation::Delete,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.then
            .as_ref()
            .map_or(0, |(_revision, value)| value.as_str().len())
    }

    /// The write, on the condition that the document is still what it is now. The value replaces the
    /// whole document: nothing of now is merged into it.
    pub(super) fn write(&self, context: &Context) -> Write {
        let action = match &self.then {
            Some((_revision, value)) => Action::Replace(value.clone()),
            None => Action::Delete,
        };
        let expected = self.now.map_or(Expected::Absent, Expected::Exactly);
        Write::new(self.key.clone(), action, expected, context.clone())
    }
}

/// A rollback that can be written, or shown.
#[derive(Debug, Default)]
pub struct Plan {
    pub(super) to_revision: Option<Revision>,
    pub(super) expected: Option<RollbackExpected>,
    /// The revisions at which collections have to stay until it is written.
    pub(super) expected_heads: BTreeMap<CollectionName, Revision>,
    pub(super) steps: Vec<(Step, Diff)>,
    bytes: usize,
    /// Documents that have another value than then and did not fit.
    left_out: u64,
    /// Whether it is one of several parts: its references may only hold after the others.
    pub(super) one_of_parts: bool,
}

impl Plan {
    /// A plan without steps, back to a revision. `expected` is what a request says that does exactly
    /// this.
    pub(super) fn to(revision: Revision, expected: RollbackExpected) -> Self {
        Self {
            to_revision: Some(revision),
            expected: Some(expected),
            ..Self::default()
        }
    }

    /// Whether a change set with this step too is within its limits. Once one did not fit, none does:
    /// the documents of a plan are the first ones.
    pub(super) fn has_room_for(&self, step: &Step) -> bool {
        self.left_out == 0
            && self.steps.len() < MAX_OPERATIONS
            && self.bytes + step.bytes() <= MAX_BYTES
    }

    pub(super) fn add(&mut self, step: Step, diff: Diff) {
        self.bytes += step.bytes();
        self.steps.push((step, diff));
    }

    pub(super) fn leave_out(&mut self) {
        self.left_out += 1;
    }

    /// How many documents have another value than then.
    pub(super) fn differing(&self) -> u64 {
        self.steps.len() as u64 + self.left_out
    }

    /// Whether documents did not fit.
    pub(super) fn is_partial(&self) -> bool {
        self.left_out > 0
    }

    /// The error of a step whose value is refused.
    pub(super) fn refused(&self, index: usize, error: WriteError) -> RollbackError {
        let step = self.steps.get(index).map(|(step, _diff)| step);
        match step.and_then(|step| Some((step, step.then.as_ref()?))) {
            Some((step, (revision, _value))) => RollbackError::Refused {
                key: step.key.clone(),
                revision: *revision,
                error,
            },
            None => RollbackError::Failed(error),
        }
    }

    /// The keys of its documents, in order.
    pub(super) fn keys(&self) -> Vec<DocumentKey> {
        self.steps
            .iter()
            .map(|(step, _diff)| step.key.clone())
            .collect()
    }

    /// The change set that does it.
    pub(super) fn command(&self, context: &Context) -> ChangeSetCommand {
        ChangeSetCommand {
            id: change_set::new_id(),
            writes: self
                .steps
                .iter()
                .map(|(step, _diff)| step.write(context))
                .collect(),
            expected_heads: self.expected_heads.clone(),
        }
    }

    /// The answer; `written` is what was committed, `None` for a plan that is only shown.
    pub(super) fn answer(self, written: Option<ChangeSetWritten>) -> Rollback {
        let mut revisions = written.iter().flat_map(|set| &set.items);
        let mut items = Vec::with_capacity(self.steps.len());
        for (step, diff) in self.steps {
            let op = step.operation();
            let (collection, id) = step.key;
            items.push(RollbackItem {
                collection,
                id,
                op,
                replaced: step.now.map(|now| now.revision),
                restored: step.then.map(|(revision, _value)| revision),
                revision: revisions.next().map(|item| item.revision),
                diff: diff.differences,
                diff_truncated: diff.truncated,
            });
        }
        Rollback {
            applied: None,
            // A set with one change is a change like any other: no record has its id.
            id: written.filter(|set| set.items.len() > 1).map(|set| set.id),
            to_revision: self.to_revision,
            expected: self.expected,
            items,
            more: self.left_out > 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> DocumentKey {
        (
            "Skills".parse().expect("a name"),
            "a".parse().expect("an id"),
        )
    }

    fn document(revision: Revision, value: &str) -> Document {
        Document::from_canonical("a".parse().expect("an id"), revision, value)
    }

    fn step(now: Option<&Document>, then: Option<&Document>) -> Option<Step> {
        Step::between(key(), now, then).expect("JSON")
    }

    #[test]
    fn a_step_leads_from_each_state_to_each_other_one() {
        let (one, two) = (document(1, r#"{"n":1}"#), document(2, r#"{"n":2}"#));
        let again = document(3, r#"{"n":1}"#);
        assert!(step(None, None).is_none());
        assert!(step(Some(&again), Some(&one)).is_none(), "the same value");
        for (now, then, operation) in [
            (Some(&two), Some(&one), Operation::Update),
            (None, Some(&one), Operation::Create),
            (Some(&two), None, Operation::Delete),
        ] {
            let step = step(now, then).expect("a step");
            assert_eq!(step.operation(), operation);
            let write = step.write(&Context::default());
            let stored = now.map(|now| (now.revision(), now.crc()));
            assert!(write.expected.holds(stored));
            assert!(!write.expected.holds(Some((9, two.crc()))));
            assert_eq!(write.expected.holds(None), now.is_none());
            assert!(matches!(write.action, Action::Replace(_)) == then.is_some());
        }
    }

    #[test]
    fn a_plan_has_no_more_than_a_change_set() {
        let one = document(1, r#"{"n":1}"#);
        let mut plan = Plan::default();
        for _document in 0..300 {
            let step = step(None, Some(&one)).expect("a step");
            if plan.has_room_for(&step) {
                plan.add(step, Diff::default());
            } else {
                plan.leave_out();
            }
        }
        assert_eq!((plan.steps.len(), plan.differing()), (MAX_OPERATIONS, 300));
        assert!(plan.answer(None).more);

        let large = document(1, &format!(r#"{{"n":"{}"}}"#, "x".repeat(3 << 20)));
        let mut plan = Plan::default();
        let large = step(None, Some(&large)).expect("a step");
        assert!(plan.has_room_for(&large));
        plan.add(large.clone(), Diff::default());
        assert!(!plan.has_room_for(&large));
    }
}
