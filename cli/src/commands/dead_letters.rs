//! `confcast dead-letters`: events that no replica took. The publisher keeps them; this command lists
//! and shows them, and asks the publisher to send one again or to remove some.

mod shown;

use anyhow::ensure;
use clap::Subcommand;
use client::{Endpoint, dead_letters::LetterSelection};
use contract::{
    CollectionName,
    dead_letter::{
        DeadLetterId, DeadLetterList, DeadLetterReason, DeadLetterReplayed, PAGE, Replayed,
    },
};

use self::shown::{document, lines, table};
use crate::{
    commands::{confirmation, explained},
    output,
    target::Target,
};

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
/// fails again, the letter is open again. When no subscriber took the event, the letter stays open and
/// the command fails. Where a broker carries events, sent means that the broker took it.
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

impl Replay {
    async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        if !self.yes {
            confirmation::ask(&format!(
                "send again the events of {}",
                counted(self.ids.len() as u64)
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
                        "{id} ({}): {what}; {}",
                        document(&replayed.letter),
                        taken(&replayed)
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
            "not sent again: {refused} of {}",
            counted(self.ids.len() as u64)
        );
        Ok(())
    }
}

/// Where the event arrived, as far as the publisher knows.
fn taken(replayed: &DeadLetterReplayed) -> String {
    match (replayed.taken_by, replayed.not_taken_by) {
        (Some(taken), Some(0)) => format!("subscribers that took it: {taken}"),
        (Some(taken), not_taken) => format!(
            "subscribers that took it: {taken}, that did not: {}",
            not_taken.unwrap_or_default()
        ),
        (None, _) => "the broker took it".to_owned(),
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
                ids => counted(ids as u64),
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
            "removed: {}",
            counted(removed)
        ))?)
    }
}

fn counted(letters: u64) -> String {
    match letters {
        1 => "1 dead letter".to_owned(),
        number => format!("{number} dead letters"),
    }
}
