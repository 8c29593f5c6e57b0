//! The history of documents: which changes were made, the newest first.
//!
//! A page reads a bounded part of the log, whatever is asked for, so it may be empty and still say
//! where the next one begins. The changes of several collections are merged by the time of their
//! commit; within a collection the order is always that of the revisions.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    str::FromStr,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use contract::{
    CanonicalJson, Change, CollectionName, Operation, Revision,
    history::{HistoryFilter, UnreadableChanges},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::store::{
    Store,
    integrity::is_damage,
    past::{PastError, evidence::NextChange},
};

/// Records that are read for one page, at most.
const PAGE_RECORDS: usize = 4_000;
/// Bytes of records that are read for one page, approximately.
const PAGE_READ_BYTES: usize = 4 << 20;
/// Bytes of the values of one page, approximately. One item more may be included.
const PAGE_VALUE_BYTES: usize = 1 << 20;
/// Records that one call of a store reads, at most: writers of MongoDB do not wait for it, but other
/// readers of this process do.
const STEP_RECORDS: usize = 1_000;

/// Ranges of unreadable changes that a page names.
pub const MAX_UNREADABLE: usize = 100;

/// Which history is asked for.
#[derive(Debug, Clone)]
pub struct HistoryQuery {
    /// The collections.
    pub collections: BTreeSet<CollectionName>,
    /// Which of their changes.
    pub filter: HistoryFilter,
    /// Where the page begins; `None` = with the newest change.
    pub before: Option<HistoryCursor>,
    /// Items of the page, at most.
    pub limit: usize,
}

/// Where a page of history begins: for each collection the revision before which it goes on.
///
/// As text it is `A.12,B.7`. A collection that is not named has nothing more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryCursor(BTreeMap<CollectionName, Revision>);

impl fmt::Display for HistoryCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (collection, before)) in self.0.iter().enumerate() {
            let separator = if index > 0 { "," } else { "" };
            write!(f, "{separator}{collection}.{before}")?;
        }
        Ok(())
    }
}

/// A text that is no cursor of a page of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the `next` of a page of history")]
pub struct CursorError;

impl FromStr for HistoryCursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let position = |part: &str| {
            let (collection, before) = part.rsplit_once('.').ok_or(CursorError)?;
            let collection = collection.parse().map_err(|_error| CursorError)?;
            Ok((collection, before.parse().map_err(|_error| CursorError)?))
        };
        text.split(',')
            .map(position)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A page of history, the newest change first.
#[derive(Debug, Default)]
pub struct HistoryPage {
    /// The changes.
    pub items: Vec<HistoryChange>,
    /// Changes that are left out, because their records are damaged or gone: at most
    /// `MAX_UNREADABLE` ranges.
    pub unreadable: Vec<UnreadableChanges>,
    /// Where the next page begins; `None` after the last page.
    pub next: Option<HistoryCursor>,
}

/// A change with the value that it replaced.
#[derive(Debug)]
pub struct HistoryChange {
    /// The change.
    pub change: Change,
    /// What was there before it.
    pub previous: Previous,
}

/// The value of a document before a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Previous {
    /// The document did not exist.
    Absent,
    /// Its value.
    Value(CanonicalJson),
    /// The value is not kept.
    NotKept,
}

/// Newest changes of one collection, as a step reads them.
#[derive(Debug, Default)]
pub(in crate::store) struct Step {
    /// Those that fit the filter, the newest first.
    pub(in crate::store) found: Vec<Change>,
    /// Every record from this revision on was read; 0 = the whole log.
    pub(in crate::store) reached: Revision,
    pub(in crate::store) records: usize,
    pub(in crate::store) bytes: usize,
    /// The first and the last revision of what was left out, because records are damaged or gone.
    pub(in crate::store) unreadable: Vec<(Revision, Revision)>,
}

impl Step {
    /// The next row is of a revision, and every one before `expected` is expected to be there.
    pub(in crate::store) fn pass(&mut self, revision: Revision, expected: Revision) {
        if revision + 1 < expected {
            self.leave_out(revision + 1, expected - 1);
        }
    }

    pub(in crate::store) fn leave_out(&mut self, first: Revision, last: Revision) {
        if self.unreadable.len() < MAX_UNREADABLE {
            self.unreadable.push((first, last));
        }
    }
}

/// What a step may read.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct StepLimits {
    pub(in crate::store) records: usize,
    pub(in crate::store) bytes: usize,
    /// Changes that fit.
    pub(in crate::store) found: usize,
}

impl StepLimits {
    pub(in crate::store) fn reached_by(&self, step: &Step) -> bool {
        step.records >= self.records || step.bytes >= self.bytes || step.found.len() >= self.found
    }
}

/// The members of a record that the filter needs; the value is not parsed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filtered<'a> {
    op: Operation,
    time: DateTime<Utc>,
    #[serde(borrow)]
    config_data: Option<&'a RawValue>,
    #[serde(default)]
    user_id: Option<String>,
}

/// Whether a record, by its text, is one that is asked for. The document and the change set are
/// looked up by an index and not compared here.
///
/// # Errors
/// When the text is no record.
pub(in crate::store) fn fits(filter: &HistoryFilter, record: &str) -> serde_json::Result<bool> {
    let HistoryFilter {
        id: _,
        user,
        op,
        from,
        to,
        text,
        set: _,
    } = filter;
    if user.is_none() && op.is_none() && from.is_none() && to.is_none() && text.is_none() {
        return Ok(true);
    }
    let read: Filtered<'_> = serde_json::from_str(record)?;
    let has_text = |text: &String| {
        let value = read.config_data.map(RawValue::get);
        value.is_some_and(|value| value.contains(text.as_str()))
    };
    Ok((user.is_none() || *user == read.user_id)
        && op.is_none_or(|op| op == read.op)
        && from.is_none_or(|from| read.time >= from)
        && to.is_none_or(|to| read.time < to)
        && text.as_ref().is_none_or(has_text))
}

/// One collection while a page is read.
struct Source {
    collection: CollectionName,
    /// The next step reads before this revision; 0 = nothing is left.
    before: Revision,
    /// Changes that were read and are not part of the page yet.
    ahead: VecDeque<Change>,
    /// What was left out.
    unreadable: Vec<(Revision, Revision)>,
}

impl Source {
    /// Where the next page begins.
    fn position(&self) -> Revision {
        self.ahead
            .front()
            .map_or(self.before, |next| next.revision + 1)
    }

    fn has_ended(&self) -> bool {
        self.ahead.is_empty() && self.before == 0
    }
}

impl Store {
    /// A page of the history of documents.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn history(&self, query: &HistoryQuery) -> Result<HistoryPage, PastError> {
        let mut sources = Vec::new();
        for collection in &query.collections {
            let before = match &query.before {
                Some(cursor) => cursor.0.get(collection).copied().unwrap_or(0),
                None => Revision::MAX,
            };
            sources.push(Source {
                collection: collection.clone(),
                before,
                ahead: VecDeque::new(),
                unreadable: Vec::new(),
            });
        }
        let items = self.merge(&mut sources, query).await?;
        let positions = sources.iter().filter(|source| !source.has_ended());
        let positions: BTreeMap<_, _> = positions
            .map(|source| (source.collection.clone(), source.position()))
            .collect();
        let unreadable = sources.iter().flat_map(|source| {
            let ranges = source.unreadable.iter();
            ranges.map(|(first, last)| UnreadableChanges {
                collection: source.collection.clone(),
                first: *first,
                last: *last,
            })
        });
        Ok(HistoryPage {
            items,
            unreadable: unreadable.take(MAX_UNREADABLE).collect(),
            next: (!positions.is_empty()).then_some(HistoryCursor(positions)),
        })
    }

    /// The next changes of all sources, by the time of their commit, each with the value before it:
    /// as many as fit into one page.
    async fn merge(
        &self,
        sources: &mut [Source],
        query: &HistoryQuery,
    ) -> Result<Vec<HistoryChange>, PastError> {
        let filter = Arc::new(query.filter.clone());
        let mut left = StepLimits {
            records: PAGE_RECORDS,
            bytes: PAGE_READ_BYTES,
            found: query.limit.max(1),
        };
        if let Some(set) = &filter.set {
            self.read_set(sources, &filter, set).await?;
        }
        // Each source is read once at least, whatever the others take: so each page goes on.
        let count = sources.len();
        for (index, source) in sources
            .iter_mut()
            .enumerate()
            .filter(|(_, it)| it.before > 0)
        {
            self.read_ahead(source, &filter, &mut left, count - index)
                .await?;
        }
        let mut merged = Vec::new();
        let mut bytes = 0;
        'page: while merged.len() < left.found && bytes < PAGE_VALUE_BYTES {
            for source in sources.iter_mut() {
                while source.ahead.is_empty() && source.before > 0 {
                    if left.records == 0 || left.bytes == 0 {
                        break 'page;
                    }
                    self.read_ahead(source, &filter, &mut left, 1).await?;
                }
            }
            let newest = sources
                .iter_mut()
                .filter_map(|source| {
                    let next = source.ahead.front()?;
                    Some(((next.time, next.collection.clone(), next.revision), source))
                })
                .max_by(|(a, _), (b, _)| a.cmp(b));
            let Some(change) = newest.and_then(|(_key, source)| source.ahead.pop_front()) else {
                break;
            };
            let previous = self.previous(&change).await?;
            bytes += change
                .config_data
                .as_ref()
                .map_or(0, |it| it.as_str().len());
            if let Previous::Value(value) = &previous {
                bytes += value.as_str().len();
            }
            merged.push(HistoryChange { change, previous });
        }
        Ok(merged)
    }

    /// Reads the next changes of a source, with its share of what is left of the page.
    async fn read_ahead(
        &self,
        source: &mut Source,
        filter: &Arc<HistoryFilter>,
        left: &mut StepLimits,
        share: usize,
    ) -> anyhow::Result<()> {
        let limits = StepLimits {
            records: (left.records / share).clamp(1, STEP_RECORDS),
            bytes: (left.bytes / share).max(1),
            // A little at a time: most of what is read ahead belongs to later pages.
            found: (left.found / share).max(4),
        };
        let step = self.step(source, filter, limits).await?;
        left.records = left.records.saturating_sub(step.records);
        left.bytes = left.bytes.saturating_sub(step.bytes);
        source.before = step.reached;
        source.unreadable.extend(step.unreadable);
        source.ahead = step.found.into();
        Ok(())
    }

    async fn step(
        &self,
        source: &Source,
        filter: &Arc<HistoryFilter>,
        limits: StepLimits,
    ) -> anyhow::Result<Step> {
        let (collection, before) = (&source.collection, source.before);
        match self {
            Self::Embedded(store) => store.history_step(collection, before, filter, limits).await,
            Self::Mongo(store) => {
                let store = store.opened()?;
                store.history_step(collection, before, filter, limits).await
            }
        }
    }

    /// Reads the changes of a set for all sources: a set is small, so nothing is left after that.
    async fn read_set(
        &self,
        sources: &mut [Source],
        filter: &HistoryFilter,
        set: &str,
    ) -> anyhow::Result<()> {
        let mut changes = self.records_of_set(set).await?;
        changes.sort_by_key(|change| std::cmp::Reverse(change.revision));
        for change in changes {
            let source = sources.iter_mut().find(|source| {
                change.collection == source.collection && change.revision < source.before
            });
            let Some(source) = source else { continue };
            let is_asked = filter.id.as_ref().is_none_or(|id| *id == change.id);
            if is_asked && fits(filter, &serde_json::to_string(&change)?)? {
                source.ahead.push_back(change);
            }
        }
        for source in sources {
            source.before = 0;
        }
        Ok(())
    }

    /// The value of the document of a change before that change.
    async fn previous(&self, change: &Change) -> Result<Previous, PastError> {
        // Its record says it: no older one has to be kept for this.
        if change.op == Operation::Create {
            return Ok(Previous::Absent);
        }
        let found = match self {
            Self::Embedded(store) => store.before_change(change).await,
            Self::Mongo(store) => store.opened()?.before_change(change).await,
        };
        match found.map_err(PastError::from) {
            Ok((Some(record), before)) => {
                let next = NextChange {
                    change: change.clone(),
                    before,
                };
                // Otherwise the change that made that value may be gone, and another one came between.
                let is_replaced = next.replaced(Some(&record)) == Some(true);
                let value = record.config_data.filter(|_value| is_replaced);
                Ok(value.map_or(Previous::NotKept, Previous::Value))
            }
            // The change says that there was a value.
            Ok((None, _)) | Err(PastError::NotKept { .. }) => Ok(Previous::NotKept),
            // A damaged record is reported, and must not hide the changes around it.
            Err(PastError::Store(error)) if is_damage(&error) => Ok(Previous::NotKept),
            Err(error) => Err(error),
        }
    }

    /// All changes of a change set, ordered by collection and revision; none when no record of it is
    /// in the log.
    ///
    /// # Errors
    /// `PastError::NotKept` when only some of them are in the log.
    pub async fn set(&self, set: &str) -> Result<Vec<Change>, PastError> {
        let mut changes = self.records_of_set(set).await?;
        changes.sort_by(|a, b| (&a.collection, a.revision).cmp(&(&b.collection, b.revision)));
        let Some(parts) = changes.first().and_then(|first| first.change_set.clone()) else {
            return Ok(changes);
        };
        for part in parts.parts {
            let found = changes.iter().filter(|it| it.collection == part.collection);
            if found.count() as u64 != (part.last + 1).saturating_sub(part.first) {
                return Err(self.past_view(&part.collection).await?.not_kept());
            }
        }
        Ok(changes)
    }

    /// The records of a change set that are in the log.
    async fn records_of_set(&self, set: &str) -> anyhow::Result<Vec<Change>> {
        match self {
            Self::Embedded(store) => store.records_of_set(set).await,
            Self::Mongo(store) => store.opened()?.records_of_set(set).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written_and_anything_else_is_refused() {
        let text = "Agents.12,Skills.7";
        let cursor: HistoryCursor = text.parse().expect("a cursor");
        assert_eq!(cursor.to_string(), text);
        for bad in [
            "",
            "Skills",
            "Skills.",
            ".7",
            "Skills.-1",
            "Skills.7,",
            "a b.7",
        ] {
            assert_eq!(bad.parse::<HistoryCursor>(), Err(CursorError), "{bad}");
        }
    }

    #[test]
    fn a_filter_reads_members_of_the_record_and_not_of_the_value() {
        let record = r#"{"collection":"A","op":"Update","id":"a","revision":7,"epoch":"00000001-1","lastSet":0,"configData":{"op":"Create","text":"red","userId":"u-2"},"crc":"00000000","time":"2026-11-21T09:00:00Z","count":1,"digest":"0000000000000000","userId":"u-1"}"#;
        let time = |text: &str| Some(text.parse().expect("a time"));
        let none = HistoryFilter::default();
        for (filter, expected) in [
            (
                HistoryFilter {
                    user: Some("u-1".into()),
                    ..none.clone()
                },
                true,
            ),
            (
                HistoryFilter {
                    user: Some("u-2".into()),
                    ..none.clone()
                },
                false,
            ),
            (
                HistoryFilter {
                    op: Some(Operation::Update),
                    ..none.clone()
                },
                true,
            ),
            (
                HistoryFilter {
                    op: Some(Operation::Create),
                    ..none.clone()
                },
                false,
            ),
            (
                HistoryFilter {
                    text: Some("red".into()),
                    ..none.clone()
                },
                true,
            ),
            (
                HistoryFilter {
                    text: Some("u-1".into()),
                    ..none.clone()
                },
                false,
            ),
            (
                HistoryFilter {
                    from: time("2026-11-21T09:00:00Z"),
                    ..none.clone()
                },
                true,
            ),
            (
                HistoryFilter {
                    to: time("2026-11-21T09:00:00Z"),
                    ..none.clone()
                },
                false,
            ),
            (none, true),
        ] {
            assert_eq!(
                fits(&filter, record).expect("a record"),
                expected,
                "{filter:?}"
            );
        }
    }
}
