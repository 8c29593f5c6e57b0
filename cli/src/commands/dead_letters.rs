//! `confcast dead-letters`: events that no replica took. The publisher keeps them; this command lists
//! and shows them, and asks the publisher to send one again or to remove some.

use anyhow::ensure;
use chrono::SecondsFormat;
use clap::Subcommand;
use client::{Endpoint, dead_letters::LetterSelection};
use contract::{
    CollectionName,
    dead_letter::{DeadLetter, DeadLetterId, DeadLetterList, DeadLetterReason, PAGE, Replayed},
};

use crate::{
    commands::{confirmation, explained},
    output,
    target::Target,
};

/// Characters of an original that `show` prints on one line.
const LINE: usize = 4_000;

/// List, show, send again or remove events that no replica took
///
/// An event becomes a dead letter when a replica finds that it can never succeed (dropped), when its
/// time to live ends before a replica took it (expired), or when all attempts to deliver it failed
/// (not-taken). The publisher keeps at most 1,000 of them, of at most 16 MiB together.
///
/// A replica is correct in any case where revisions are counted, because it reads the change log. A
/// dead letter shows what is wrong: a program that sends events of another form, a subscriber that was
/// away for too long, or a service that cannot take events.
#[derive(Debug, clap::Args)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Replay(Replay),
    Discard(Discard),
}

/// List the dead letters, the one that arrived last first
#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    filter: Filter,
    /// Print at most this many
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Show one dead letter with its original
#[derive(Debug, clap::Args)]
struct Show {
    /// Name of the dead letter
    #[arg(value_name = "ID")]
    id: DeadLetterId,
    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Send the events of dead letters again, with a new time to live
///
/// An event with a revision is read from the change log of the publisher; a replica that has the
/// revision ignores it. An event without a revision is sent as it was. What no replica could read is
/// refused, with the reason. A letter stays in the list and says when it was sent again; when its event
/// fails again, the letter is open again.
#[derive(Debug, clap::Args)]
struct Replay {
    /// Names of the dead letters
    #[arg(value_name = "ID", required = true)]
    ids: Vec<DeadLetterId>,
    /// Do not ask for confirmation; required where there is no terminal
    #[arg(long)]
    yes: bool,
    /// Print JSON instead of sentences
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Remove dead letters: those named, or all that the filters select
#[derive(Debug, clap::Args)]
struct Discard {
    /// Names of the dead letters
    #[arg(value_name = "ID", conflicts_with_all = ["collection", "reason", "replayed", "open", "all"])]
    ids: Vec<DeadLetterId>,
    #[command(flatten)]
    filter: Filter,
    /// Remove all of them
    #[arg(long, conflicts_with_all = ["collection", "reason", "replayed", "open"])]
    all: bool,
    /// Do not ask for confirmation; required where there is no terminal
    #[arg(long)]
    yes: bool,
    /// Print JSON instead of a sentence
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Filter {
    /// Only letters whose event names this collection
    #[arg(long)]
    collection: Option<CollectionName>,
    /// Only letters with this reason: dropped, expired or not-taken
    #[arg(long)]
    reason: Option<DeadLetterReason>,
    /// Only letters that were sent again
    #[arg(long, conflicts_with = "open")]
    replayed: bool,
    /// Only letters that were not sent again
    #[arg(long)]
    open: bool,
}

impl Filter {
    fn selection(self) -> LetterSelection {
        LetterSelection {
            collection: self.collection,
            reason: self.reason,
            replayed: match (self.replayed, self.open) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            },
        }
    }
}

impl DeadLetters {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::List(command) => command.run().await,
            Command::Show(command) => command.run().await,
            Command::Replay(command) => command.run().await,
            Command::Discard(command) => command.run().await,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let list = letters(&publisher, &self.filter.selection(), self.limit).await?;
        if self.json {
            return output::json(&list);
        }
        if !list.items.is_empty() {
            output::result_table(&table(&list.items))?;
        }
        let more = if list.next.is_some() {
            "; not all of them are shown"
        } else {
            ""
        };
        Ok(output::result(format_args!(
            "{} dead letters are kept, {} of them open{more}",
            list.kept, list.open
        ))?)
    }
}

/// Up to `limit` letters, of as many pages as needed.
async fn letters(
    publisher: &Endpoint,
    selection: &LetterSelection,
    limit: usize,
) -> anyhow::Result<DeadLetterList> {
    let route = "GET /v1/dead-letters";
    let page = async |before: Option<&str>, left: usize| {
        let page = publisher
            .dead_letters(selection, before, left.min(PAGE))
            .await;
        page.map_err(|error| explained(publisher, error, route))
    };
    let mut list = page(None, limit.max(1)).await?;
    while list.items.len() < limit
        && let Some(before) = list.next.take()
    {
        let further = page(Some(&before), limit - list.items.len()).await?;
        ensure!(
            !further.items.is_empty() || further.next.is_none(),
            "the list of dead letters of {} has no end",
            publisher.base()
        );
        list.items.extend(further.items);
        list.next = further.next;
    }
    Ok(list)
}

fn table(letters: &[DeadLetter]) -> output::Table {
    let mut table = output::wrapping_table([
        "id", "last", "count", "reason", "document", "state", "detail",
    ]);
    for letter in letters {
        table.add_row([
            letter.id.to_string(),
            time(letter.last),
            letter.count.to_string(),
            reason(letter),
            document(letter),
            state(letter),
            letter.detail.clone().unwrap_or_default(),
        ]);
    }
    table.align_right([2]);
    table
}

fn time(time: chrono::DateTime<chrono::Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn reason(letter: &DeadLetter) -> String {
    let reason = letter.reason.as_str();
    match &letter.cause {
        Some(cause) => format!("{reason} ({cause})"),
        None => reason.to_owned(),
    }
}

fn document(letter: &DeadLetter) -> String {
    let event = &letter.event;
    let collection = event.collection.as_ref().map(CollectionName::as_str);
    let id = event.document.as_ref().map(|id| id.as_str());
    match (collection, id, event.revision) {
        (Some(collection), Some(id), Some(revision)) => format!("{collection}/{id} at {revision}"),
        (Some(collection), Some(id), None) => format!("{collection}/{id}"),
        (Some(collection), None, _) => collection.to_owned(),
        (None, ..) => event.topic.clone().unwrap_or_default(),
    }
}

fn state(letter: &DeadLetter) -> String {
    match letter.replayed {
        Some(replayed) if !letter.is_open() => format!("replayed {}", time(replayed)),
        Some(_) => "open again".to_owned(),
        None => "open".to_owned(),
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let letter = publisher.dead_letter(self.id).await;
        let letter =
            letter.map_err(|error| explained(&publisher, error, "GET /v1/dead-letters/{id}"))?;
        if self.json {
            return output::json(&letter);
        }
        for line in lines(&letter) {
            output::result(line)?;
        }
        Ok(())
    }
}

fn lines(letter: &DeadLetter) -> Vec<String> {
    let event = &letter.event;
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut lines = vec![
        format!("id          {}", letter.id),
        format!("reason      {}", reason(letter)),
        format!("detail      {}", text(&letter.detail)),
        format!(
            "arrived     {} times, first {}, last {}",
            letter.count,
            time(letter.first),
            time(letter.last)
        ),
        format!("state       {}", state(letter)),
        format!("document    {}", document(letter)),
        format!(
            "event       {} of {}",
            text(&event.event_id),
            text(&event.source)
        ),
        format!("topic       {}", text(&event.topic)),
    ];
    if let Some(expiration) = event.expiration {
        lines.push(format!("expiration  {}", time(expiration)));
    }
    if !letter.replicas.is_empty() {
        lines.push(format!("replicas    {}", letter.replicas.join(", ")));
    }
    let kept = match (&letter.original.text, &letter.original.base64) {
        (Some(text), _) => text.chars().take(LINE).collect(),
        (None, Some(base64)) => {
            format!("(base64) {}", base64.chars().take(LINE).collect::<String>())
        }
        (None, None) => "-".to_owned(),
    };
    let cut = if letter.truncated {
        ", of which the first part is kept"
    } else {
        ""
    };
    lines.push(format!(
        "original    {} bytes{cut}; --json has all that is kept",
        letter.bytes
    ));
    lines.push(kept);
    lines
}

impl Replay {
    async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        if !self.yes {
            confirmation::ask(&format!(
                "send the events of {} dead letters again",
                self.ids.len()
            ))?;
        }
        let mut refused = 0;
        for id in &self.ids {
            match publisher.replay_dead_letter(*id).await {
                Ok(replayed) if self.json => output::json(&replayed)?,
                Ok(replayed) => {
                    let what = match replayed.sent {
                        Replayed::Change => "the change of the change log was sent again",
                        Replayed::Original | Replayed::Other => "the original was sent again",
                    };
                    output::result(format_args!(
                        "{id} ({}): {what}",
                        document(&replayed.letter)
                    ))?;
                }
                // The others may be sent.
                Err(error) => {
                    refused += 1;
                    let route = "POST /v1/dead-letters/{id}/replay";
                    let error = explained(&publisher, error, route);
                    output::note(format_args!("{id}: {error:#}"));
                }
            }
        }
        ensure!(
            refused == 0,
            "{refused} of {} dead letters were not sent again",
            self.ids.len()
        );
        Ok(())
    }
}

impl Discard {
    async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let selection = self.filter.selection();
        ensure!(
            !self.ids.is_empty() || self.all || !selection.is_all(),
            "nothing was removed: name dead letters, give a filter, or --all"
        );
        if !self.yes {
            let what = match self.ids.len() {
                0 if self.all => "all dead letters".to_owned(),
                0 => "all dead letters that the filters select".to_owned(),
                ids => format!("{ids} dead letters"),
            };
            confirmation::ask(&format!("remove {what}"))?;
        }
        let mut removed = 0;
        if self.ids.is_empty() {
            let discarded = publisher.discard_dead_letters(&selection).await;
            let route = "DELETE /v1/dead-letters";
            removed = discarded
                .map_err(|error| explained(&publisher, error, route))?
                .discarded;
        }
        for id in &self.ids {
            let discarded = publisher.discard_dead_letter(*id).await;
            let route = "DELETE /v1/dead-letters/{id}";
            discarded.map_err(|error| explained(&publisher, error, route))?;
            removed += 1;
        }
        if self.json {
            return output::json(&serde_json::json!({"discarded": removed}));
        }
        Ok(output::result(format_args!(
            "{removed} dead letters were removed"
        ))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(replayed: bool) -> DeadLetter {
        let replayed = if replayed {
            r#","replayed":"2026-01-01T00:00:02Z","replays":1"#
        } else {
            ""
        };
        let text = format!(
            r#"{{"id":"9f86d081884c7d659a2feaa0c55ad015","reason":"dropped","cause":"wrong-type",
            "detail":"bad \u001b[2J","first":"2026-01-01T00:00:00Z","last":"2026-01-01T00:00:01Z","count":3,
            "replicas":["r-1"],"event":{{"collection":"A","document":"a","revision":7}},"bytes":9,
            "original":{{"text":"{{}}\n"}}{replayed}}}"#
        );
        serde_json::from_str(&text).expect("a letter")
    }

    #[test]
    fn a_letter_is_shown_with_its_reason_document_and_state() {
        let text = table(&[letter(false), letter(true)]).text();
        for part in [
            "dropped (wrong-type)",
            "A/a at 7",
            "open",
            "replayed 2026-01-01T00:00:02Z",
            "bad \\u001b[2J",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let lines = lines(&letter(true)).join("\n");
        for part in ["3 times", "replicas    r-1", "9 bytes", "{}"] {
            assert!(lines.contains(part), "{part}: {lines}");
        }
    }
}
