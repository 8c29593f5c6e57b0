//! `confcast rollback`: documents get a value back that they had. It shows first what would change,
//! and then changes exactly that or nothing.

mod parts;
mod undone;

use chrono::{DateTime, Utc};
use client::{ClientError, Endpoint};
use contract::{
    CollectionName, DocumentId, Operation, ProblemKind, Revision,
    history::{Point, SnapshotName},
    rollback::{Rollback, RollbackItem, RollbackRequest, SetRollbackRequest},
};

use super::{confirmation, differences, history::ensure_known, point, wait::WaitArgs};
use crate::{author::Author, output, target::Target};

/// Give documents the values back that they had, or undo a change set
///
/// Of one document, of a collection, or of all documents that a change set changed together. A document
/// that was deleted since is created again, and one that was created since is deleted. `metadata` is
/// not merged. The rollback is a change like any other: it has a revision, reaches every replica, and
/// can be rolled back itself.
///
/// It first shows the documents that would change, with the value of now and the value of then, and
/// whose changes since then that undoes, and asks; where there is no terminal it then changes nothing, and the exit code is 1. It is refused when
/// one of these documents was changed after they were shown, and names the user who did it.
///
/// At most 256 documents change together. More documents of a collection change in several parts, each
/// of them as a whole; the preview says so. Parts whose
/// documents refer to each other are changed in the order that their references need, in smaller parts
/// where that takes it. Any other part that is refused ends the rollback; once the cause is removed,
/// the same command continues it.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("to").required(true))]
pub(crate) struct RollbackCommand {
    /// Collection that is rolled back
    #[arg(
        value_name = "COLLECTION",
        required_unless_present = "set",
        conflicts_with = "set"
    )]
    collection: Option<CollectionName>,
    /// Document that is rolled back; all of the collection when none is named
    #[arg(value_name = "ID")]
    id: Option<DocumentId>,
    /// Back to what was after this revision of the collection
    #[arg(long, alias = "revision", value_name = "REVISION", group = "to")]
    to_revision: Option<Revision>,
    /// Back to what was at this time: 2026-11-28T09:00:00Z, 2026-11-28 (0:00 UTC), 15m or '2h 30m ago'
    #[arg(
        long,
        value_name = "TIME",
        value_parser = point::time,
        allow_hyphen_values = true,
        group = "to"
    )]
    at: Option<DateTime<Utc>>,
    /// Back to what this named snapshot has
    #[arg(long, alias = "snapshot", value_name = "NAME", group = "to")]
    to_snapshot: Option<SnapshotName>,
    /// Undo this change set, whose documents may be in several collections
    #[arg(long, value_name = "SET", group = "to")]
    set: Option<String>,
    /// Only show what would change
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask for confirmation; required where there is no terminal
    #[arg(long)]
    yes: bool,
    /// Print the answer of the publisher as JSON; of a rollback in several parts, one line for each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    author: Author,
    #[command(flatten)]
    target: Target,
}

/// Longest value in the table, in characters; `diff` and `show` print more.
const VALUE_CHARS: usize = 80;

/// What is rolled back.
#[derive(Debug, Clone)]
enum Subject {
    Document(CollectionName, DocumentId, Point),
    /// These documents of a collection; all without a list.
    Collection(CollectionName, Point, Option<Vec<DocumentId>>),
    Set(String),
}

/// A rollback that was shown, and what has to hold for it to do exactly that.
#[derive(Debug)]
struct Preview {
    subject: Subject,
    rollback: Rollback,
}

impl RollbackCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let subject = self.subject()?;
        // The request has the revision that was shown, so only the reason tells where it is from.
        let author = match subject.point() {
            Some(Point::Snapshot(name)) => {
                let name = name.clone();
                self.author
                    .because(|| format!("rollback to the snapshot {name}"))
            }
            Some(Point::Time(time)) => {
                let time = point::shown_time(*time);
                self.author.because(|| format!("rollback to {time}"))
            }
            _revision_or_set => self.author,
        };
        let publisher = author.writing(self.target.endpoint()?, false);
        let document = match &subject {
            Subject::Document(collection, id, _point) => Some((collection.clone(), id.clone())),
            _several => None,
        };
        let previews = previews(&publisher, subject).await?;
        let documents: usize = previews.iter().map(|it| it.rollback.items.len()).sum();
        if documents == 0
            && let Some((collection, id)) = document
        {
            // A mistyped id looks like a document that has its value already.
            ensure_known(&publisher, &collection, &id).await?;
        }
        // The documents may have these values since a rollback that replicas have not applied yet: the
        // publisher waits for them all the same.
        let is_over = self.dry_run || documents == 0 && !self.wait.is_asked();
        if self.json && is_over {
            return print_json(previews.iter().map(|preview| &preview.rollback));
        }
        let shown = match (self.json, documents) {
            (true, _) => Ok(()),
            (false, 0) => {
                output::result("nothing to roll back: the documents have these values now")
                    .map_err(Into::into)
            }
            (false, _) => show(&previews, undone::changes(&publisher, &previews).await?),
        };
        if previews.len() > 1 {
            output::note(format_args!(
                "{documents} documents change in {} parts, because a change set has at most 256 \
                 documents and 4 MiB; each part is changed as a whole",
                previews.len()
            ));
        }
        if is_over {
            return shown;
        }
        output::required(shown, "nothing was rolled back")?;
        if !self.yes && documents > 0 {
            let items = previews.iter().flat_map(|preview| &preview.rollback.items);
            confirmation::ask(&effects(items))?;
        }
        let done = parts::apply(&publisher, previews, &self.wait).await?;
        if self.json {
            print_json(&done)?;
        } else {
            for rollback in done.iter().filter(|done| !done.items.is_empty()) {
                output::result(written(rollback))?;
            }
        }
        let answers = done.iter().map(|rollback| rollback.applied.as_ref());
        self.wait.finish(&publisher, answers, self.json)
    }

    fn subject(&self) -> anyhow::Result<Subject> {
        if let Some(set) = &self.set {
            return Ok(Subject::Set(set.clone()));
        }
        let revision = self.to_revision.map(Point::Revision);
        let point = revision
            .or_else(|| self.at.map(Point::Time))
            .or_else(|| self.to_snapshot.clone().map(Point::Snapshot));
        // The parser has required both.
        match (&self.collection, point, &self.id) {
            (Some(collection), Some(point), Some(id)) => {
                Ok(Subject::Document(collection.clone(), id.clone(), point))
            }
            (Some(collection), Some(point), None) => {
                Ok(Subject::Collection(collection.clone(), point, None))
            }
            _missing => anyhow::bail!("give a collection and a point of its past, or --set"),
        }
    }
}

impl Subject {
    /// The point of the past; a change set has none.
    fn point(&self) -> Option<&Point> {
        match self {
            Self::Document(_, _, point) | Self::Collection(_, point, _) => Some(point),
            Self::Set(_set) => None,
        }
    }

    /// Shows what the rollback would do (`expected` is none), or does it.
    async fn send(
        &self,
        publisher: &Endpoint,
        shown: Option<&Rollback>,
    ) -> Result<Rollback, ClientError> {
        match self {
            Self::Document(collection, id, point) => {
                let request = request(point, None, shown);
                publisher.rollback_document(collection, id, &request).await
            }
            Self::Collection(collection, point, ids) => {
                let request = request(point, ids.clone(), shown);
                publisher.rollback_collection(collection, &request).await
            }
            Self::Set(set) => {
                let dry_run = shown.is_none();
                let request = SetRollbackRequest { dry_run };
                publisher.rollback_set(set, &request).await
            }
        }
    }
}

/// The request that shows a rollback, or the one that does what was shown.
fn request(
    point: &Point,
    ids: Option<Vec<DocumentId>>,
    shown: Option<&Rollback>,
) -> RollbackRequest {
    // A snapshot of that name may be another one by now, so what was shown is named by its revision.
    let revision = shown.and_then(|shown| shown.to_revision);
    let point = revision.map_or_else(|| point.clone(), Point::Revision);
    RollbackRequest {
        expected: shown.and_then(|shown| shown.expected),
        // The references of a part may hold only after the other parts.
        partial: ids.is_some() && shown.is_none(),
        ids,
        dry_run: shown.is_none(),
        ..RollbackRequest::to(point)
    }
}

/// What would change, in one part if a change set can have it all.
async fn previews(publisher: &Endpoint, subject: Subject) -> anyhow::Result<Vec<Preview>> {
    match subject.send(publisher, None).await {
        Ok(rollback) => Ok(vec![Preview { subject, rollback }]),
        Err(error) => match subject {
            Subject::Collection(collection, point, None)
                if error.kind() == Some(ProblemKind::SetTooLarge) =>
            {
                parts::divided(publisher, &collection, &point).await
            }
            Subject::Set(set) if error.kind() == Some(ProblemKind::ChangedSince) => {
                Err(anyhow::Error::new(error).context(one_by_one(&set)))
            }
            // The rules that it breaks follow; the detail says which document breaks them.
            _subject if error.problem().is_some_and(|it| !it.errors.is_empty()) => {
                let detail = error.problem().map(|problem| problem.detail.clone());
                Err(anyhow::Error::new(error).context(detail.unwrap_or_default()))
            }
            _subject => Err(super::explained(publisher, error, "POST …/rollback")),
        },
    }
}

/// The remedy for a change set of which a document was changed since.
fn one_by_one(set: &str) -> String {
    format!(
        "the change set {set} cannot be undone as a whole. `confcast history --set {set}` shows its \
         documents; `confcast rollback COLLECTION ID --to-revision N` undoes one of them and what \
         came after, where N is one less than its revision in the set"
    )
}

fn print_json<'a>(answers: impl IntoIterator<Item = &'a Rollback>) -> anyhow::Result<()> {
    for answer in answers {
        output::result(serde_json::to_string(answer)?)?;
    }
    Ok(())
}

/// Shows what a rollback changes, before it does.
fn show(previews: &[Preview], undone: Vec<String>) -> anyhow::Result<()> {
    for preview in previews {
        output::result_table(&table(&preview.rollback.items))?;
    }
    for line in undone {
        output::result(line)?;
    }
    Ok(())
}

/// The documents that change, with a row for each place that is different.
fn table(items: &[RollbackItem]) -> output::Table {
    let mut table = output::wrapping_table(["document", "effect", "at", "now", "then"]);
    for item in items {
        let mut document = format!("{}/{}", item.collection, item.id);
        let mut effect = format!("{:?}", item.op);
        for difference in &item.diff {
            let [now, then] = differences::values(difference, VALUE_CHARS);
            let at = differences::place(&difference.pointer).to_owned();
            // A document is named in its first row.
            table.add_row([
                std::mem::take(&mut document),
                std::mem::take(&mut effect),
                at,
                now,
                then,
            ]);
        }
        if item.diff_truncated || item.diff.is_empty() {
            let more = "and more, which is not listed".to_owned();
            table.add_row([document, effect, more, String::new(), String::new()]);
        }
    }
    table
}

/// What a rollback did, in one line.
fn written(rollback: &Rollback) -> String {
    let what = match rollback.items.as_slice() {
        [item] => format!(
            "{}/{} was rolled back at revision {}",
            item.collection,
            item.id,
            item.revision.unwrap_or_default()
        ),
        items => format!("{} were rolled back", counted(items.len())),
    };
    match (&rollback.id, rollback.items.as_slice()) {
        (Some(set), _) => format!("{what}; `confcast rollback --set {set}` undoes that"),
        // The rollback of one document is no change set. Just before it, all was as it was.
        (None, [item]) => format!(
            "{what}; `confcast rollback {} {} --to-revision {}` undoes that",
            item.collection,
            item.id,
            item.revision.unwrap_or_default().saturating_sub(1)
        ),
        (None, _) => what,
    }
}

/// What a rollback does, in few words: `update 2 documents, delete 1 document`.
fn effects<'a>(items: impl IntoIterator<Item = &'a RollbackItem>) -> String {
    let mut numbers = [
        (Operation::Create, "create", 0),
        (Operation::Update, "update", 0),
        (Operation::Delete, "delete", 0),
    ];
    for item in items {
        let of_op = numbers.iter_mut().filter(|(op, ..)| *op == item.op);
        of_op.for_each(|(_op, _word, number)| *number += 1);
    }
    let effects = numbers.iter().filter(|(.., number)| *number > 0);
    let effects: Vec<_> = effects
        .map(|(_op, word, number)| format!("{word} {}", counted(*number)))
        .collect();
    effects.join(", ")
}

fn counted(documents: usize) -> String {
    match documents {
        1 => "1 document".to_owned(),
        number => format!("{number} documents"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_names_each_document_once_and_each_difference() {
        let json = r#"{"toRevision":3,"expected":7,"items":[
            {"collection":"A","id":"a","op":"Update","replaced":7,"restored":2,"diff":[
                {"pointer":"/level","before":9,"after":3},{"pointer":"/name","before":"x"}]},
            {"collection":"A","id":"b","op":"Delete","replaced":6,"diff":[
                {"pointer":"","before":{}}]}]}"#;
        let rollback: Rollback = serde_json::from_str(json).expect("an answer");
        let text = table(&rollback.items).text();
        for (shown, times) in [("A/a", 1), ("/level", 1), ("\"x\"", 1), ("(document)", 1)] {
            assert_eq!(text.matches(shown).count(), times, "{shown}: {text}");
        }
        assert!(text.contains("Delete"), "{text}");
        assert_eq!(
            effects(&rollback.items),
            "update 1 document, delete 1 document"
        );
    }

    #[test]
    fn what_was_shown_is_what_is_asked_for() {
        let shown = r#"{"toRevision":3,"expected":"00000001-1-7","items":[]}"#;
        let shown: Rollback = serde_json::from_str(shown).expect("an answer");
        let named = Point::Snapshot("monday".parse().expect("a name"));
        let first = request(&named, None, None);
        assert_eq!((first.point(), first.dry_run), (Some(named.clone()), true));
        // Another snapshot may have the name meanwhile.
        let second = request(&named, None, Some(&shown));
        assert_eq!(second.point(), Some(Point::Revision(3)));
        assert_eq!((second.expected, second.dry_run), (shown.expected, false));
    }

    #[test]
    fn a_rollback_names_the_command_that_undoes_it() {
        let answer = |id: &str| {
            let json = format!(
                r#"{{{id}"toRevision":3,"items":[{{"collection":"A","id":"a","op":"Update",
                "replaced":7,"restored":2,"revision":8,"diff":[]}}]}}"#
            );
            serde_json::from_str(&json).expect("an answer")
        };
        assert_eq!(
            written(&answer("")),
            "A/a was rolled back at revision 8; `confcast rollback A a --to-revision 7` undoes that"
        );
        let set = written(&answer(r#""id":"s","#));
        assert!(
            set.ends_with("`confcast rollback --set s` undoes that"),
            "{set}"
        );
    }
}
