//! `confcast tail`: changes as they happen, across restarts and lost connections.
//!
//! After a lost connection it continues from its position, so no change is lost or printed twice.
//! When the service cannot continue from there, it reports that and continues from the present. It
//! never needs to know whether the service is a publisher or a subscriber.

mod documents;
mod lines;

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use client::{
    Endpoint, RetryPolicy,
    live_feed::{FeedMessage, FeedStart, LiveFeed},
    retry,
};
use contract::{
    CollectionName, DocumentId, EventData, Operation, SecretUrl,
    feed::{self, FeedScope, Since, StreamEnd},
};
use stop_signals::StopSignals;
use tokio::time::sleep;

use self::{documents::Documents, lines::LinePrinter};
use super::operation;
use crate::{
    credentials::CredentialArgs,
    output,
    target::{Unshown, endpoint, first_url},
};

/// A connection that lasted this long was a good one: the next attempt follows soon.
const GOOD: Duration = Duration::from_secs(5);

/// Print changes as they happen, with the lines that each of them changed
///
/// It follows a publisher or a subscriber, continues after their restarts, and ends with Ctrl-C.
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    /// Collections to follow; all when none is named
    #[arg(value_name = "COLLECTION")]
    collections: Vec<CollectionName>,
    /// Print only changes of this document; may be given several times
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<DocumentId>,
    /// Print only changes of this kind: create, update or delete; may be given several times
    #[arg(long = "op", value_name = "OP", value_parser = operation)]
    ops: Vec<Operation>,
    /// Print each change as one line of JSON, as it is in the feed
    #[arg(long)]
    json: bool,
    /// Begin after these revisions instead of now: 41 of one collection, A:41,B:7 of several, or
    /// the position of an event
    #[arg(long, value_name = "POSITION")]
    since: Option<String>,
    /// Exit with 1 when the feed cannot continue without a gap, instead of continuing from the
    /// present
    #[arg(long)]
    strict: bool,
    /// Base URL of the publisher or subscriber to follow; of a list separated by commas, the first
    #[arg(
        long,
        value_name = "URL",
        env = "AURA_CONFIGURATION_API_URL",
        default_value = "http://127.0.0.1:8080",
        hide_env_values = true,
        value_parser = Unshown(first_url)
    )]
    url: SecretUrl,
    #[command(flatten)]
    credentials: CredentialArgs,
}

/// Where a tail is, and what it knows.
struct Progress {
    /// The position after the last change that was printed.
    position: String,
    documents: Documents,
    /// Whether the service was reported as not available.
    disconnected: bool,
}

impl Tail {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut signals = StopSignals::install()?;
        tokio::select! {
            followed = self.follow() => followed,
            () = signals.received() => Ok(()),
        }
    }

    async fn follow(&self) -> anyhow::Result<()> {
        let service = endpoint(&self.url, &self.credentials)?;
        let mut progress = Progress {
            position: self.first_position(&service).await?,
            documents: Documents::default(),
            disconnected: false,
        };
        let lines = LinePrinter::new(self.json);
        self.read_documents(&service, &mut progress).await;
        let mut waits = RetryPolicy::FOLLOW.waits();
        loop {
            let began = Instant::now();
            let lost = match service
                .live_feed(FeedStart::Position(&progress.position))
                .await
            {
                Ok(feed) => {
                    self.read_feed(&service, feed, &mut progress, &lines)
                        .await?
                }
                // Another attempt would be refused in the same way.
                Err(error) if !retry::is_transient(&error) => return Err(error.into()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = lost
                && !std::mem::replace(&mut progress.disconnected, true)
            {
                output::note(format_args!(
                    "confcast: no connection to {}, trying again: {reason}",
                    service.base()
                ));
            }
            if began.elapsed() > GOOD {
                waits.reset();
            }
            sleep(waits.next_wait()).await;
        }
    }

    /// Reads one connection until it is lost, and gives the reason; `None` after a message that the
    /// feed cannot continue.
    async fn read_feed(
        &self,
        service: &Endpoint,
        mut feed: LiveFeed,
        progress: &mut Progress,
        lines: &LinePrinter,
    ) -> anyhow::Result<Option<String>> {
        if std::mem::take(&mut progress.disconnected) {
            output::note("confcast: connected again");
        }
        loop {
            let message = match feed.next_message().await {
                // It goes on from the position.
                Err(error) if retry::is_transient(&error) => return Ok(Some(error.to_string())),
                message => message?,
            };
            match message {
                Some(FeedMessage::Change { item, position }) => {
                    self.print_change(&item, lines, &mut progress.documents)?;
                    progress.position = position;
                }
                // It is for replicas.
                Some(FeedMessage::Confirm) => {}
                Some(FeedMessage::End { end, position }) => {
                    self.report_end(&end)?;
                    progress.position = position;
                    self.read_documents(service, progress).await;
                    return Ok(None);
                }
                None => return Ok(Some("the stream ended".to_owned())),
            }
        }
    }

    /// The position to begin after.
    async fn first_position(&self, service: &Endpoint) -> anyhow::Result<String> {
        let heads = service.heads().await?;
        let (epoch, mut present) = feed::at_heads(&heads)
            .with_context(|| format!("{} has no collection with revisions", service.base()))?;
        for name in &self.collections {
            ensure!(
                present.contains_key(name),
                "{} has no collection {name}",
                service.base()
            );
        }
        let (epoch, since) = match self.since.as_deref().map(str::trim) {
            None => (epoch, Since::new()),
            Some(since) => match since.split_once(' ') {
                Some((of, since)) => (of.parse().context("--since")?, self.since(since)?),
                None => (epoch, self.since(since)?),
            },
        };
        if !self.collections.is_empty() {
            present.retain(|name, _revision| self.collections.contains(name));
        } else if !since.is_empty() {
            present.retain(|name, _revision| since.contains_key(name));
        }
        for (name, revision) in since {
            ensure!(
                present.insert(name.clone(), revision).is_some(),
                "--since names {name}, which is not followed"
            );
        }
        Ok(FeedScope::Several.id(epoch, &present))
    }

    fn since(&self, text: &str) -> anyhow::Result<Since> {
        let scope = match &self.collections[..] {
            [only] if !text.contains(':') => FeedScope::One(only.clone()),
            _ => FeedScope::Several,
        };
        scope.since(text).context("--since")
    }

    /// Reads the present values of the documents, to print what a change changes in them. Where
    /// that fails, whole values are printed.
    async fn read_documents(&self, service: &Endpoint, progress: &mut Progress) {
        progress.documents = Documents::default();
        let Ok((_epoch, since)) = FeedScope::Several.position(&progress.position) else {
            return;
        };
        for name in since.keys().filter(|_name| !self.json) {
            if let Err(error) = progress.documents.read(service, name, &self.ids).await {
                output::note(format_args!(
                    "confcast: the first change of each document of {name} is printed as a whole value: {error:#}"
                ));
            }
        }
    }

    fn print_change(
        &self,
        item: &str,
        lines: &LinePrinter,
        documents: &mut Documents,
    ) -> anyhow::Result<()> {
        let data: EventData = serde_json::from_str(item).context("an item of the feed")?;
        if !self.ids.is_empty() && !self.ids.contains(&data.id) {
            return Ok(());
        }
        let before = documents.replace(&data);
        if self.ops.is_empty() || self.ops.contains(&data.op) {
            output::result_lines(&lines.of(item, &data, &before)?)?;
        }
        Ok(())
    }

    /// Reports why the feed cannot continue; an error with `--strict`.
    fn report_end(&self, StreamEnd { reason, heads }: &StreamEnd) -> anyhow::Result<()> {
        let explanation = match reason.as_str() {
            "trimmed" => "the service no longer keeps the next change",
            "epoch" => "the store was restored and has a new history",
            "ahead" => "the service has not reached this revision",
            other => other,
        };
        let revisions: Vec<_> = heads
            .iter()
            .map(|head| format!("{}:{}", head.collection, head.revision))
            .collect();
        let text = format!("the feed cannot continue without a gap ({reason}): {explanation}");
        if self.strict {
            bail!("{text}");
        }
        output::note(format_args!(
            "confcast: resync: {text}; it continues from {}",
            revisions.join(",")
        ));
        Ok(())
    }
}
