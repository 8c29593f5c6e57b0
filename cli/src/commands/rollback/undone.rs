//! Whose changes a rollback undoes, for the preview. It reads the history and decides nothing.

use std::collections::BTreeSet;

use client::{Endpoint, history::HistoryScope};
use contract::{
    Revision,
    history::{HistoryFilter, HistoryItem},
    rollback::RollbackItem,
};

use super::{Preview, Subject};
use crate::commands::{differences, history::Pages};

/// Changes that are looked at, and that are listed.
const LOOKED_AT: usize = 2_000;
const LISTED: usize = 20;

/// The changes after the moment that is gone back to, of the documents that change in any part, the
/// newest first: a line each. No line for a change set: it names its changes itself.
pub(super) async fn changes(
    publisher: &Endpoint,
    previews: &[Preview],
) -> anyhow::Result<Vec<String>> {
    // All parts are of one collection, and go back to one point of it.
    let Some(Preview { subject, rollback }) = previews.first() else {
        return Ok(Vec::new());
    };
    let Some(to) = rollback.to_revision else {
        return Ok(Vec::new());
    };
    let scope = match subject {
        Subject::Document(collection, id, _point) => {
            HistoryScope::Document(collection.clone(), id.clone())
        }
        Subject::Collection(collection, _point, _ids) => {
            HistoryScope::Collection(collection.clone())
        }
        Subject::Set(_set) => return Ok(Vec::new()),
    };
    let mut pages = Pages::new(publisher, scope, HistoryFilter::default(), LOOKED_AT);
    let mut found = Vec::new();
    let mut is_whole = false;
    while let Some(items) = pages.next().await? {
        is_whole = items.last().is_some_and(|last| last.change.revision <= to);
        found.extend(items);
        if is_whole {
            break;
        }
    }
    let items = previews.iter().flat_map(|preview| &preview.rollback.items);
    Ok(lines(items, to, &found, is_whole || !pages.has_more()))
}

/// `is_whole`: all changes after `to` are among those that were found.
fn lines<'a>(
    items: impl IntoIterator<Item = &'a RollbackItem>,
    to: Revision,
    found: &[HistoryItem],
    is_whole: bool,
) -> Vec<String> {
    let changed: BTreeSet<_> = items.into_iter().map(|item| &item.id).collect();
    let undone = found.iter().map(|item| &item.change);
    let undone: Vec<_> = undone
        .filter(|change| change.revision > to && changed.contains(&change.id))
        .collect();
    let listed = undone.iter().take(LISTED).map(|change| {
        let set = change.set_id.as_ref();
        let set = set.map_or_else(String::new, |set| format!(" (with others in set {set})"));
        format!("undoes: {}{set}", differences::author(change))
    });
    let mut lines: Vec<_> = listed.collect();
    let more = undone.len().saturating_sub(LISTED);
    if !is_whole {
        lines.push("undoes: older changes, which are not listed".to_owned());
    } else if more > 0 {
        lines.push(format!("undoes: {more} older changes"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_changes_since_of_the_documents_that_change_are_named() {
        let item = |revision: u64, id: &str, rest: &str| -> HistoryItem {
            let json = format!(
                r#"{{"collection":"A","id":"{id}","revision":{revision},"epoch":"00000001-1",
                "op":"Update","time":"2026-11-21T09:00:00Z"{rest}}}"#
            );
            serde_json::from_str(&json).expect("a change")
        };
        let found = [
            item(9, "a", r#","userId":"bob","reason":"flaky""#),
            item(8, "other", ""),
            item(7, "a", r#","userId":"grace","setId":"s""#),
            item(3, "a", ""),
        ];
        let json =
            r#"{"collection":"A","id":"a","op":"Update","replaced":9,"restored":3,"diff":[]}"#;
        let items: [RollbackItem; 1] = [serde_json::from_str(json).expect("an item")];
        let shown = lines(&items, 3, &found, true);
        assert_eq!(
            shown,
            [
                "undoes: A/a was changed by bob at revision 9 (2026-11-21T09:00:00.000Z): \"flaky\"",
                "undoes: A/a was changed by grace at revision 7 (2026-11-21T09:00:00.000Z) (with \
                 others in set s)",
            ]
        );
        let many: Vec<_> = (4..40).rev().map(|number| item(number, "a", "")).collect();
        let shown = lines(&items, 3, &many, true);
        assert_eq!(shown.len(), LISTED + 1);
        assert_eq!(shown[LISTED], "undoes: 16 older changes");
        let shown = lines(&items, 3, &many[..10], false);
        assert_eq!(shown[10], "undoes: older changes, which are not listed");
    }
}
