//! A rollback of more documents than a change set can have: in several parts, one after the other.

use std::collections::VecDeque;

use anyhow::Context;
use client::Endpoint;
use contract::{
    CollectionName, DocumentId, ProblemKind, history::Point, rollback::Rollback,
    set::MAX_OPERATIONS,
};

use super::{Preview, Subject};
use crate::{
    commands::diff::{changed_ids, documents},
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
            Ok(rollback) => previews.push(Preview { subject, rollback }),
            // Few documents may have too many bytes.
            Err(error) if error.kind() == Some(ProblemKind::SetTooLarge) && ids.len() > 1 => {
                let (first, second) = ids.split_at(ids.len() / 2);
                parts.push_front(second.to_vec());
                parts.push_front(first.to_vec());
            }
            Err(error) => return Err(error.into()),
        }
    }
    previews.retain(|preview| !preview.rollback.items.is_empty());
    Ok(previews)
}

/// Does what was shown, part by part. The first part that is refused ends it.
pub(super) async fn apply(
    publisher: &Endpoint,
    previews: Vec<Preview>,
) -> anyhow::Result<Vec<Rollback>> {
    let parts = previews.len();
    let progress = ProgressLine::documents();
    for preview in &previews {
        progress.announce(preview.rollback.items.len() as u64);
    }
    let mut done: Vec<Rollback> = Vec::with_capacity(parts);
    for Preview { subject, rollback } in previews {
        let sent = subject.send(publisher, Some(&rollback)).await;
        let sent = sent.map_err(anyhow::Error::new);
        let written = if parts == 1 {
            sent
        } else {
            sent.with_context(|| {
                format!(
                    "{} of {parts} parts were rolled back; the same command continues",
                    done.len()
                )
            })
        };
        let written = written.inspect_err(|_error| progress.finish())?;
        progress.inc(written.items.len() as u64);
        if parts > 1 {
            let number = done.len() + 1;
            progress.report(format!("{number} of {parts} parts were rolled back"));
        }
        done.push(written);
    }
    progress.finish();
    Ok(done)
}
