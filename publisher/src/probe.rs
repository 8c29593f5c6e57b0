//! The probe: a document that is written again and again, so that the way of a change to the replicas is
//! measured also when nobody writes. Its changes are changes as any other.
//!
//! Every publisher of a store may have the setting, and one of them writes: each looks at the document
//! once in an interval, and writes only if it is still as it was at the look before. So the last
//! writer goes on, and when it ends another one takes over; no clock is compared. A document that is
//! no probe is never replaced. Nothing is measured here.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use chrono::{SecondsFormat, Utc};
use contract::{
    CanonicalJson, Context, Document, Expected, ProblemKind, Revision, audit, canonical,
};
use serde_json::{Value, json};
use service::runtime::log_rate::LogRate;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    decide::{Action, DocumentKey, Origin, Write},
    metrics::{Metrics, ProbeWrite},
    store::Store,
    write::queue::Writer,
};

/// The only member of the document.
const MEMBER: &str = "confcastProbe";

/// The document, and how often it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeSettings {
    /// Its collection and id.
    pub key: DocumentKey,
    /// Time between two writes.
    pub interval: Duration,
}

/// Writes the probe.
pub struct Probe {
    settings: ProbeSettings,
    store: Store,
    writer: Writer,
    metrics: Arc<Metrics>,
    /// The revision of the document at the last look, 0 where there was none; `None` before the first.
    seen: Option<Revision>,
}

impl Probe {
    /// The probe of a store.
    pub fn new(
        settings: ProbeSettings,
        store: Store,
        writer: Writer,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            settings,
            store,
            writer,
            metrics,
            seen: None,
        }
    }

    /// Writes until `stop` is cancelled.
    ///
    /// # Errors
    /// Never; the supervisor expects this signature.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut looks = interval(self.settings.interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            // A write is not dropped in the middle: the writer ends soon after the stop by itself.
            match self.look().await {
                Ok(write) => self.metrics.probe(write),
                Err(error) => {
                    self.metrics.probe(ProbeWrite::Failed);
                    static LINES: LogRate = LogRate::new();
                    if let Some(left_out) = LINES.due() {
                        let (collection, id) = &self.settings.key;
                        warn!(
                            %collection, %id,
                            "the probe {collection}/{id} is not written: {error:#}{left_out}"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at the document, and writes it if nobody has since the last look.
    ///
    /// # Errors
    /// When the store cannot be read, the document is no probe, or the write is refused.
    async fn look(&mut self) -> anyhow::Result<ProbeWrite> {
        let (collection, id) = &self.settings.key;
        let found = self.store.document(collection, id).await?;
        if found.as_ref().is_some_and(|document| !is_probe(document)) {
            bail!(
                "the document exists and is no probe, so it is not replaced: name another id in \
                 AURA_CONFIGURATION_PROBE"
            );
        }
        let revision = found.map_or(0, |document| document.revision());
        if self.seen != Some(revision) {
            self.seen = Some(revision);
            return Ok(ProbeWrite::Elsewhere);
        }
        match self.writer.write(self.write(revision)?).await {
            Ok(outcome) => {
                self.seen = Some(outcome.written.revision);
                Ok(ProbeWrite::Written)
            }
            Err(error) => match error.kind() {
                // Another publisher was faster, or somebody deletes the document.
                ProblemKind::ConditionFailed | ProblemKind::Exists | ProblemKind::NoData => {
                    self.seen = None;
                    Ok(ProbeWrite::Elsewhere)
                }
                _refused => Err(error.into()),
            },
        }
    }

    fn write(&self, revision: Revision) -> anyhow::Result<Write> {
        let value = value().to_string();
        let value = CanonicalJson::parse(value.as_bytes()).context("the value of the probe")?;
        let mut write = Write::new(
            self.settings.key.clone(),
            Action::Replace(value),
            Expected::revision(revision),
            Context::default().with_reason("probe")?,
        );
        write.origin = Origin {
            actor: audit::PUBLISHER.into(),
            ..Origin::default()
        };
        Ok(write)
    }
}

/// The next value of a probe. An equal one would be no change, so it has the time.
pub(crate) fn value() -> Value {
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
    json!({MEMBER: now})
}

/// Whether a document was written by a probe.
fn is_probe(document: &Document) -> bool {
    let value = canonical::value(document.config_data());
    value.is_ok_and(|value| {
        let members = value.as_object();
        members.is_some_and(|members| members.len() == 1 && members.contains_key(MEMBER))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        decide::Rules,
        feed_watch::FeedWatch,
        store::{PublisherPolicy, ServedCollections, StoreUrl},
        write::queue::writer,
    };

    fn key(id: &str) -> DocumentKey {
        let collection = "A".parse().expect("a name");
        (collection, id.parse().expect("an id"))
    }

    /// Runs a test with a store and a writer whose task runs.
    async fn with_store(test: impl AsyncFnOnce(&Store, &Writer)) {
        let folder = tempfile::tempdir().expect("a folder");
        let policy = PublisherPolicy {
            collections: ServedCollections::fixed(BTreeSet::from([key("x").0])),
            rules: Rules {
                schemas: Default::default(),
                document_limit: 1 << 20,
                secrets: Default::default(),
            },
            broadcast: crate::policy::Broadcast::Off,
        };
        let url = StoreUrl::Embedded(folder.path().into());
        let store = Store::open(&url, Arc::new(policy)).await.expect("a store");
        let (relay, _changes) = mpsc::channel(1);
        let (writer, task) = writer(store.clone(), relay, FeedWatch::default(), 20);
        let stop = CancellationToken::new();
        tokio::select! {
            ended = task.run(stop.clone(), stop.clone()) => panic!("{ended:?}"),
            () = test(&store, &writer) => {}
        }
    }

    fn probe(store: &Store, writer: &Writer) -> Probe {
        let settings = ProbeSettings {
            key: key("probe"),
            interval: Duration::from_secs(1),
        };
        Probe::new(settings, store.clone(), writer.clone(), Arc::default())
    }

    #[tokio::test]
    async fn one_of_several_publishers_writes_and_another_takes_over() {
        use ProbeWrite::{Elsewhere, Written};
        with_store(async |store, writer| {
            let [mut first, mut second] = [(); 2].map(|()| probe(store, writer));
            for (turn, expected) in [
                [Elsewhere, Elsewhere],
                [Written, Elsewhere],
                [Written, Elsewhere],
            ]
            .into_iter()
            .enumerate()
            {
                let looks = [first.look().await, second.look().await];
                assert_eq!(looks.map(|look| look.expect("a look")), expected, "{turn}");
            }
            // The first one ends.
            assert_eq!(second.look().await.expect("a look"), Written);
            assert_eq!(first.look().await.expect("a look"), Elsewhere);
            assert_eq!(second.look().await.expect("a look"), Written);
            let (collection, id) = key("probe");
            let document = store.document(&collection, &id).await.expect("a read");
            let document = document.expect("a document");
            assert_eq!((document.revision(), is_probe(&document)), (4, true));
            // Both find it due: one of them writes.
            first.seen = Some(4);
            assert_eq!(second.look().await.expect("a look"), Written);
            first.seen = Some(5);
            let write = first.write(4).expect("a write");
            assert!(writer.write(write).await.is_err(), "it is at revision 5");
        })
        .await;
    }

    #[tokio::test]
    async fn a_document_that_is_no_probe_is_never_replaced() {
        with_store(async |store, writer| {
            let value = CanonicalJson::parse(br#"{"confcastProbe":"x","limit":1}"#).expect("JSON");
            let create = Action::Create(value);
            let write = Write::new(key("probe"), create, Expected::Any, Context::default());
            writer.write(write).await.expect("written");
            let mut probe = probe(store, writer);
            for _turn in 0..3 {
                let error = probe.look().await.expect_err("no probe");
                assert!(error.to_string().contains("is no probe"), "{error}");
            }
        })
        .await;
    }
}
