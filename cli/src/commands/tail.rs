//! `confcast tail`: changes as they happen, over whatever happens to the connection.
//!
//! It goes on where it was when a service starts anew or a link is cut, so nothing is lost or told
//! twice. When the service cannot go on from there it says so and goes on from the present. What a
//! service is, publisher or subscriber, it never asks.

mod documents;
mod lines;
mod stream;

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use backon::{BackoffBuilder, ExponentialBuilder};
use contract::{
    CollectionName, DocumentId, EventData, Operation,
    feed::{self, FeedScope, Since, StreamEnd},
};
use reqwest::Url;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use self::{
    documents::Documents,
    lines::Lines,
    stream::{Broken, Said, Stream},
};
use crate::{
    client::{Api, first_url},
    output,
};

/// Waits between two attempts to connect.
const BACKOFF: std::ops::Range<Duration> = Duration::from_millis(200)..Duration::from_secs(5);

/// Follow changes as they happen, with what each of them changed
///
/// It follows a publisher or a subscriber, survives their restarts, and ends with Ctrl-C.
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    /// Collections; all when none is named
    #[arg(value_name = "COLLECTION")]
    collections: Vec<CollectionName>,
    /// Only changes of this document; may be given several times
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<DocumentId>,
    /// Only changes of this kind: create, update or delete; may be given several times
    #[arg(long = "op", value_name = "OP", value_parser = operation)]
    ops: Vec<Operation>,
    /// Print each change as one line of JSON, as the feed has it
    #[arg(long)]
    json: bool,
    /// Begin after these revisions instead of now: 41 of one collection, A:41,B:7 of several, or
    /// the position of an event
    #[arg(long, value_name = "POSITION")]
    since: Option<String>,
    /// Exit with 1 when the feed cannot go on without a gap, instead of going on from the present
    #[arg(long)]
    strict: bool,
    /// Publisher or subscriber to follow; of a comma list, the first
    #[arg(
        long,
        value_name = "URL",
        env = "AURA_CONFIGURATION_API_URL",
        default_value = "http://127.0.0.1:8080",
        value_parser = first_url
    )]
    url: Url,
}

fn operation(text: &str) -> Result<Operation, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "create" => Ok(Operation::Create),
        "update" => Ok(Operation::Update),
        "delete" => Ok(Operation::Delete),
        _ => Err("expected create, update or delete"),
    }
}

impl Tail {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        tokio::select! {
            followed = self.follow() => followed,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    }

    async fn follow(&self) -> anyhow::Result<()> {
        let api = Api::new(self.url.clone())?;
        let mut position = self.begin(&api).await?;
        let mut documents = Documents::default();
        let lines = Lines::new(self.json);
        self.read(&api, &position, &mut documents).await;
        let delays = || ExponentialBuilder::new().with_jitter().without_max_times();
        let delays = || {
            delays()
                .with_min_delay(BACKOFF.start)
                .with_max_delay(BACKOFF.end)
                .build()
        };
        let mut waits = delays();
        let mut away = false;
        loop {
            let began = Instant::now();
            match self
                .listen(&api, &mut position, &lines, &mut documents, &mut away)
                .await
            {
                Err(Broken::Refused(refused)) => return Err(refused),
                Err(Broken::Passing(error)) if !std::mem::replace(&mut away, true) => {
                    output::note(format_args!(
                        "confcast: {} is away, trying again: {error:#}",
                        api.base()
                    ));
                }
                Err(Broken::Passing(_)) | Ok(()) => {}
            }
            if began.elapsed() > BACKOFF.end {
                waits = delays();
            }
            sleep(waits.next().unwrap_or(BACKOFF.end)).await;
        }
    }

    /// One connection, from the position on to where it breaks or cannot go on.
    async fn listen(
        &self,
        api: &Api,
        position: &mut String,
        lines: &Lines,
        documents: &mut Documents,
        away: &mut bool,
    ) -> Result<(), Broken> {
        let mut stream = Stream::open(api, position).await?;
        if std::mem::take(away) {
            output::note("confcast: it goes on");
        }
        loop {
            match stream.next().await? {
                Said::Change { item, id } => {
                    self.change(&item, lines, documents)
                        .map_err(Broken::Refused)?;
                    *position = id;
                }
                Said::Resync { resync, id } => {
                    self.resync(&resync).map_err(Broken::Refused)?;
                    *position = id;
                    self.read(api, position, documents).await;
                    return Ok(());
                }
            }
        }
    }

    /// The position to begin at.
    async fn begin(&self, api: &Api) -> anyhow::Result<String> {
        let heads = api.heads().await?.heads;
        let (epoch, mut present) = feed::at_heads(&heads)
            .with_context(|| format!("{} has no collection that counts revisions", api.base()))?;
        for name in &self.collections {
            ensure!(
                present.contains_key(name),
                "{} has no collection {name}",
                api.base()
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

    /// Reads what documents are now, to show what changes of them. Without it whole values are
    /// shown.
    async fn read(&self, api: &Api, position: &str, documents: &mut Documents) {
        *documents = Documents::default();
        let Ok((_epoch, since)) = FeedScope::Several.position(position) else {
            return;
        };
        for name in since.keys().filter(|_name| !self.json) {
            if let Err(error) = documents.read(api, name, &self.ids).await {
                output::note(format_args!(
                    "confcast: changes of {name} are shown whole at first: {error:#}"
                ));
            }
        }
    }

    fn change(&self, item: &str, lines: &Lines, documents: &mut Documents) -> anyhow::Result<()> {
        let data: EventData = serde_json::from_str(item).context("an item of the feed")?;
        if !self.ids.is_empty() && !self.ids.contains(&data.id) {
            return Ok(());
        }
        let before = documents.replace(&data);
        if self.ops.is_empty() || self.ops.contains(&data.op) {
            output::say(lines.of(item, &data, &before)?)?;
        }
        Ok(())
    }

    fn resync(&self, StreamEnd { reason, heads }: &StreamEnd) -> anyhow::Result<()> {
        let why = match reason.as_str() {
            "trimmed" => "what came next is no longer kept there",
            "epoch" => "the store was restored and has a new history",
            "ahead" => "it has not got as far as that",
            other => other,
        };
        let at: Vec<_> = heads
            .iter()
            .map(|head| format!("{}:{}", head.collection, head.revision))
            .collect();
        let told = format!("the feed cannot go on without a gap ({reason}): {why}");
        if self.strict {
            bail!("{told}");
        }
        output::note(format_args!(
            "confcast: resync: {told}; it goes on from {}",
            at.join(",")
        ));
        Ok(())
    }
}
