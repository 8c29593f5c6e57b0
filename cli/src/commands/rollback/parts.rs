//! A rollback of more documents than a change set can have: in several parts, one after the other.

use std::{collections::VecDeque, time::Duration};

use client::{ClientError, Endpoint};
use contract::{
    CollectionName, DocumentId, ProblemKind, history::Point, rollback::Rollback,
    set::MAX_OPERATIONS,
};

use super::{Preview, Subject};
use crate::{
    commands::{
        diff::{changed_ids, documents},
        outcome::of_write,
        wait::WaitArgs,
    },
    progress::ProgressLine,
};

/// What each part would change. The documents are compared here, because no answer of the publisher
/// has all of them.
pub(super) async fn divided(
    publisher: &Endpoint,
    collection: &CollectionName,
    point: &Point,
) -> anyhow::Result<Vec<Preview>> {
    let then = documents(publisher, collection, Some(point)).await?;
    let now = documents(publisher, collection, None).await?;
    let ids: Vec<DocumentId> = changed_ids(&then, &now).cloned().collect();
    let mut parts: VecDeque<_> = ids.chunks(MAX_OPERATIONS).map(<[_]>::to_vec).collect();
    let mut previews = Vec::new();
    while let Some(ids) = parts.pop_front() {
        let subject = Subject::Collection(collection.clone(), point.clone(), Some(ids.clone()));
        match subject.send(publisher, None).await {
            // Few documents may have too many bytes.
            Ok(rollback) if rollback.more && ids.len() > 1 => {
                let (first, second) = ids.split_at(ids.len() / 2);
                parts.push_front(second.to_vec());
                parts.push_front(first.to_vec());
            }
            Ok(rollback) => previews.push(Preview { subject, rollback }),
            Err(error) => return Err(error.into()),
        }
    }
    previews.retain(|preview| !preview.rollback.items.is_empty());
    Ok(previews)
}

/// Does what was shown, part by part. A part that is refused because of a reference to or from another
/// part is tried again after the others, and in halves once none of them could be changed. Any other
/// refusal ends it. All parts together wait for replicas no longer than one would.
pub(super) async fn apply(
    publisher: &Endpoint,
    previews: Vec<Preview>,
    wait: &WaitArgs,
) -> anyhow::Result<Vec<Rollback>> {
    let progress = ProgressLine::counted();
    for preview in &previews {
        progress.announce(preview.rollback.items.len() as u64);
    }
    let mut done = Vec::with_capacity(previews.len());
    let mut left = previews;
    while !left.is_empty() {
        let parts = done.len() + left.len();
        let before = done.len();
        let mut refused = Vec::new();
        let mut reason = None;
        for part in left {
            let publisher = wait.rest(publisher, waited(&done));
            match part.subject.send(&publisher, Some(&part.rollback)).await {
                Ok(written) => {
                    progress.inc(written.items.len() as u64);
                    done.push(written);
                    if parts > 1 {
                        let number = done.len();
                        progress.report(format!("{number} of {parts} parts were rolled back"));
                    }
                }
                Err(error) if error.kind() == Some(ProblemKind::DanglingReference) => {
                    refused.push(part);
                    reason = Some(error);
                }
                Err(error) => {
                    progress.finish();
                    return Err(ended(error, done.len(), parts));
                }
            }
        }
        if let Some(error) = reason.filter(|_error| done.len() == before) {
            if !refused.iter().any(Preview::has_halves) {
                progress.finish();
                return Err(ended(error, done.len(), parts));
            }
            refused = refused.into_iter().flat_map(Preview::halves).collect();
        }
        left = refused;
    }
    progress.finish();
    Ok(done)
}

/// The time that parts have waited for replicas.
fn waited(done: &[Rollback]) -> Duration {
    let waits = done.iter().filter_map(|rollback| rollback.applied.as_ref());
    Duration::from_millis(waits.map(|applied| applied.waited_ms).sum())
}

/// Why it ended early, with what was done.
fn ended(error: ClientError, done: usize, parts: usize) -> anyhow::Error {
    let remedy = remedy(&error);
    let error = of_write(error);
    if parts == 1 {
        return error;
    }
    error.context(format!(
        "{done} of {parts} parts were rolled back; {remedy}"
    ))
}

/// What to do about a part that was refused.
fn remedy(error: &ClientError) -> &'static str {
    if error.kind() == Some(ProblemKind::DanglingReference) {
        "roll back, or change, the document that the reference names first, and give the same command \
         again"
    } else {
        "once the cause is removed, the same command continues"
    }
}

impl Preview {
    fn has_halves(&self) -> bool {
        matches!(&self.subject, Subject::Collection(_, _, Some(ids)) if ids.len() > 1)
    }

    /// The part as two smaller ones, if it has several documents. `expected` holds for both: no named
    /// document was changed after that revision.
    fn halves(self) -> Vec<Self> {
        let Subject::Collection(collection, point, Some(ids)) = &self.subject else {
            return vec![self];
        };
        if ids.len() < 2 {
            return vec![self];
        }
        let (first, second) = ids.split_at(ids.len() / 2);
        let part = |ids: &[DocumentId]| {
            let items = self.rollback.items.iter();
            let items = items.filter(|item| ids.contains(&item.id)).cloned();
            Self {
                subject: Subject::Collection(collection.clone(), point.clone(), Some(ids.to_vec())),
                rollback: Rollback {
                    items: items.collect(),
                    ..self.rollback.clone()
                },
            }
        };
        vec![part(first), part(second)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_halved_down_to_its_documents() {
        let ids: Vec<DocumentId> = ["a", "b", "c"].map(|id| id.parse().expect("an id")).into();
        let json = r#"{"toRevision":3,"expected":"00000001-1-7","items":[
            {"collection":"A","id":"a","op":"Create","restored":1,"diff":[]},
            {"collection":"A","id":"b","op":"Create","restored":2,"diff":[]},
            {"collection":"A","id":"c","op":"Create","restored":3,"diff":[]}]}"#;
        let whole = Preview {
            subject: Subject::Collection(
                "A".parse().expect("a name"),
                Point::Revision(3),
                Some(ids.clone()),
            ),
            rollback: serde_json::from_str(json).expect("an answer"),
        };
        let expected = whole.rollback.expected;
        let mut parts = vec![whole];
        while parts.iter().any(Preview::has_halves) {
            parts = parts.into_iter().flat_map(Preview::halves).collect();
        }
        let found: Vec<_> = parts
            .iter()
            .flat_map(|part| {
                assert_eq!(part.rollback.expected, expected);
                part.rollback.items.iter().map(|item| item.id.clone())
            })
            .collect();
        assert_eq!((parts.len(), found), (3, ids));
    }
}
