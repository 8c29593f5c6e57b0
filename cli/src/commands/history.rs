//! `confcast history`: what was changed, when, by which user, and why.

use anyhow::ensure;
use chrono::{DateTime, Utc};
use client::{Endpoint, history::HistoryScope};
use contract::{
    CollectionName, DocumentId, Operation,
    history::{HistoryFilter, HistoryItem, MAX_PAGE},
};

use super::{differences, operation, point};
use crate::{output, target::Target};

/// Show what was changed, the newest change first: when, by which user, why, and what
///
/// Of one document, of a collection, or of all collections. The options restrict it; all that are
/// given have to fit. The publisher keeps changes as long as its retention says; what they changed is
/// not shown where the value before them is no longer kept.
///
/// Each change is a line, and the first three differences are another one; `rollback --set` takes the
/// set that the line names.
///
/// --json prints each change as one line: `collection`, `id`, `revision`, `epoch`, `op`, `time`,
/// `setId`, `userId`, `via`, `organisationId`, `correlationId`, `reason`, `crc`, and `diff`, the list of
/// JSON pointers with the value before and after.
#[derive(Debug, clap::Args)]
pub(crate) struct History {
    /// Collection whose history is shown; all when none is named
    #[arg(value_name = "COLLECTION")]
    collection: Option<CollectionName>,
    /// Document whose history is shown; all of the collection when none is named
    #[arg(value_name = "ID")]
    id: Option<DocumentId>,
    /// Only changes by this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only changes of this kind: create, update or delete
    #[arg(long, value_name = "OP", value_parser = operation)]
    op: Option<Operation>,
    /// Only changes at this time or later: 2026-11-28T09:00:00Z, 2026-11-28 (0:00 UTC), 15m or '2h 30m ago'
    #[arg(long, value_name = "TIME", value_parser = point::time, allow_hyphen_values = true)]
    from: Option<DateTime<Utc>>,
    /// Only changes before this time
    #[arg(long, value_name = "TIME", value_parser = point::time, allow_hyphen_values = true)]
    to: Option<DateTime<Utc>>,
    /// Only changes whose new value contains this text, letter by letter
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// Only changes of this change set
    #[arg(long, value_name = "SET")]
    set: Option<String>,
    /// Show this number of changes at most; 0 = all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: usize,
    /// Show each difference on a line of its own: pointer, value before and value after
    #[arg(long)]
    diff: bool,
    /// Print each change as one line of JSON
    #[arg(long, conflicts_with = "diff")]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl History {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let (scope, filter) = self.query();
        let mut pages = Pages::new(&publisher, scope.clone(), filter, self.limit);
        let mut is_empty = true;
        while let Some(items) = pages.next().await? {
            for item in items {
                is_empty = false;
                if self.json {
                    output::result(serde_json::to_string(&item)?)?;
                    continue;
                }
                output::result(headline(&item))?;
                for line in lines(&item, self.diff) {
                    output::result(format_args!("    {line}"))?;
                }
            }
        }
        if is_empty {
            return nothing_found(&publisher, &scope).await;
        }
        if pages.has_more() {
            output::note(format_args!(
                "there are older changes: --limit {} shows more, --limit 0 all of them",
                self.limit.saturating_mul(10)
            ));
        } else {
            say_what_is_removed(&publisher, &scope).await?;
        }
        Ok(())
    }

    fn query(&self) -> (HistoryScope, HistoryFilter) {
        let scope = match (&self.collection, &self.id) {
            (None, _) => HistoryScope::Store,
            (Some(collection), None) => HistoryScope::Collection(collection.clone()),
            (Some(collection), Some(id)) => HistoryScope::Document(collection.clone(), id.clone()),
        };
        let filter = HistoryFilter {
            id: None,
            user: self.user.clone(),
            op: self.op,
            from: self.from,
            to: self.to,
            text: self.text.clone(),
            set: self.set.clone(),
        };
        (scope, filter)
    }
}

/// A mistyped id looks like a document without changes, so it is looked for.
async fn nothing_found(publisher: &Endpoint, scope: &HistoryScope) -> anyhow::Result<()> {
    if let HistoryScope::Document(collection, id) = scope {
        ensure_known(publisher, collection, id).await?;
    }
    output::note("no change that the change log keeps fits");
    Ok(())
}

/// The pages of a history, up to a number of changes.
pub(super) struct Pages<'a> {
    publisher: &'a Endpoint,
    scope: HistoryScope,
    filter: HistoryFilter,
    /// Changes that are still wanted.
    left: usize,
    position: Position,
}

/// Where the next page begins.
enum Position {
    Newest,
    Before(String),
    /// There is no next page.
    End,
}

impl<'a> Pages<'a> {
    /// `limit` 0 is all changes.
    pub(super) fn new(
        publisher: &'a Endpoint,
        scope: HistoryScope,
        filter: HistoryFilter,
        limit: usize,
    ) -> Self {
        Self {
            publisher,
            scope,
            filter,
            left: if limit == 0 { usize::MAX } else { limit },
            position: Position::Newest,
        }
    }

    /// The next changes; none after the last one, or when the number that is wanted was given.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Vec<HistoryItem>>> {
        // A page without changes that has a next one: the work for each page is bounded.
        while self.left > 0 {
            let before = match &self.position {
                Position::Newest => None,
                Position::Before(before) => Some(before.as_str()),
                Position::End => break,
            };
            let limit = Some(self.left.min(MAX_PAGE));
            let page = self
                .publisher
                .history(&self.scope, &self.filter, limit, before);
            let mut page = page
                .await
                .map_err(|error| super::explained(self.publisher, error, "GET /v1/history"))?;
            self.position = page.next.map_or(Position::End, Position::Before);
            page.items.truncate(self.left);
            self.left -= page.items.len();
            for gap in &page.unreadable {
                output::note(format_args!(
                    "revisions {} to {} of {} are damaged or gone, and not listed",
                    gap.first, gap.last, gap.collection
                ));
            }
            if !page.items.is_empty() {
                return Ok(Some(page.items));
            }
        }
        Ok(None)
    }

    /// Whether the number that was wanted was given, and older changes may exist.
    pub(super) fn has_more(&self) -> bool {
        self.left == 0 && matches!(self.position, Position::Before(_))
    }
}

/// The end of a history looks like the first change, also where retention removed what was before.
async fn say_what_is_removed(publisher: &Endpoint, scope: &HistoryScope) -> anyhow::Result<()> {
    for head in publisher.heads().await? {
        let is_shown = match scope {
            HistoryScope::Store => true,
            HistoryScope::Collection(collection) | HistoryScope::Document(collection, _) => {
                *collection == head.collection
            }
        };
        if is_shown && head.oldest > 1 {
            output::note(format_args!(
                "{}: changes before revision {} are no longer kept",
                head.collection, head.oldest
            ));
        }
    }
    Ok(())
}

/// Whether the document exists or has a change in the log.
///
/// # Errors
/// When neither is true, which is a mistyped id more often than not, or there is no answer.
pub(super) async fn ensure_known(
    publisher: &Endpoint,
    collection: &CollectionName,
    id: &DocumentId,
) -> anyhow::Result<()> {
    match publisher.document(collection, id).await {
        Ok(_document) => return Ok(()),
        Err(error) if error.is_no_document() => {}
        Err(error) => return Err(error.into()),
    }
    let scope = HistoryScope::Document(collection.clone(), id.clone());
    let mut pages = Pages::new(publisher, scope, HistoryFilter::default(), 1);
    ensure!(
        pages.next().await?.is_some(),
        "{collection} has no document {id}, and no change of it is kept: is the id right?"
    );
    Ok(())
}

/// The change without its differences, in one line.
fn headline(item: &HistoryItem) -> String {
    let change = &item.change;
    let mut line = format!(
        "{} {}/{} {:?} at revision {}",
        point::shown_time(change.time),
        change.collection,
        change.id,
        change.op,
        change.revision
    );
    if let Some(set) = &change.set_id {
        line += &format!(" in set {set}");
    }
    if let Some(user) = change.context.author() {
        line += &format!(" by {user}");
    }
    if let Some(reason) = change.context.reason() {
        line += &format!(": {reason:?}");
    }
    line
}

/// What it changed: in one line, or each difference in a line of its own.
fn lines(item: &HistoryItem, each: bool) -> Vec<String> {
    match &item.diff {
        Some(diff) if each => differences::lines(diff, item.diff_truncated),
        Some(diff) => vec![differences::in_short(diff, item.diff_truncated)],
        None => vec!["the value before it is not kept".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_publisher::FakePublisher;

    #[tokio::test]
    async fn pages_are_followed_past_empty_ones_up_to_the_limit() {
        let publisher = FakePublisher::start().await;
        publisher.has_history(7);
        let endpoint = publisher.endpoint();
        for (limit, expected, has_more) in [(0, 7, false), (3, 3, true), (7, 7, false)] {
            let mut pages = Pages::new(
                &endpoint,
                HistoryScope::Store,
                HistoryFilter::default(),
                limit,
            );
            let mut revisions = Vec::new();
            while let Some(items) = pages.next().await.expect("a page") {
                revisions.extend(items.iter().map(|item| item.change.revision));
            }
            let newest: Vec<_> = (1..=7).rev().take(expected).collect();
            assert_eq!(revisions, newest, "limit {limit}");
            assert_eq!(pages.has_more(), has_more, "limit {limit}");
        }
    }

    #[test]
    fn a_change_is_shown_with_its_user_its_reason_and_its_differences() {
        let json = r#"{"collection":"A","id":"a","revision":7,"epoch":"00000001-1","op":"Update",
            "time":"2026-11-21T09:00:00Z","setId":"s","userId":"ada","reason":"a test",
            "diff":[{"pointer":"/n","before":1,"after":2}]}"#;
        let item: HistoryItem = serde_json::from_str(json).expect("an item");
        assert_eq!(
            headline(&item),
            "2026-11-21T09:00:00.000Z A/a Update at revision 7 in set s by ada: \"a test\""
        );
        assert_eq!(lines(&item, true), ["/n: 1 → 2"]);
        assert_eq!(lines(&item, false), ["/n 1 → 2"]);
        let unknown = HistoryItem { diff: None, ..item };
        assert_eq!(lines(&unknown, false), ["the value before it is not kept"]);
    }
}
