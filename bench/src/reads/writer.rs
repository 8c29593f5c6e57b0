//! The thread beside a reader: everything that the replica does is done there, and so are the
//! changes that it is given.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use anyhow::{Context, ensure};
use contract::{EventData, Head};
use replica::{EventOutcome, Replica};
use tokio::{sync::watch, task::yield_now};

use crate::documents;

/// Changes that are made ready. Only their revisions are new when they come again.
const READY: usize = 10_000;
/// Largest value in an event, as a publisher has it.
const DATA_LIMIT: usize = 49_152;
/// Events between two looks at what is to be done.
const STRETCH: usize = 64;

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// Nothing but what the replica does by itself.
    Rest,
    /// Gives the replica one change after the other, each of which readers see before the next
    /// comes.
    Write,
    /// As busy with memory and text, at nothing that readers see.
    Other,
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    does: watch::Sender<Does>,
    applied: Arc<AtomicU64>,
    replica: Replica,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Writer {
    /// Runs the replica from now on.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(
        replica: &Replica,
        head: &Head,
        documents: usize,
        bytes: usize,
    ) -> anyhow::Result<Self> {
        let event = |(number, place)| {
            anyhow::Ok(EventData::new(
                &documents::update(head, number, place, bytes)?,
                DATA_LIMIT,
            ))
        };
        let ready = documents::places(documents, READY)
            .enumerate()
            .map(event)
            .collect::<Result<Vec<_>, _>>()?;
        let (does, told) = watch::channel(Does::Rest);
        let applied = Arc::<AtomicU64>::default();
        // One thread for all of it: with two, the reader would share its processor with one of
        // them.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let ours = replica.clone();
        let count = Arc::clone(&applied);
        let first = head.revision + 1;
        let run = move || {
            let write = write(&ours, &ready, first, told, &count);
            runtime.block_on(async { ours.run(write).await })
        };
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(run)?;
        Ok(Self {
            does,
            applied,
            replica: replica.clone(),
            thread,
        })
    }

    /// From now on it does something else.
    pub(super) fn does(&self, what: Does) {
        self.does.send_replace(what);
    }

    /// Changes that were given to the replica.
    pub(super) fn applied(&self) -> u64 {
        self.applied.load(Relaxed)
    }

    /// Ends it, and tells whether every change was applied.
    ///
    /// # Errors
    /// When one was not.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        let Self {
            does,
            applied,
            replica,
            thread,
        } = self;
        drop(does);
        let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
        ended.map_err(|_panic| anyhow::anyhow!("the writer panicked"))??;
        let given = applied.load(Relaxed);
        let events = replica.status().events;
        ensure!(
            events.applied == given,
            "{given} changes were given: {events:?}"
        );
        Ok(())
    }
}

async fn write(
    replica: &Replica,
    ready: &[EventData],
    first: u64,
    mut told: watch::Receiver<Does>,
    applied: &AtomicU64,
) -> anyhow::Result<()> {
    let mut events = ready.iter().cycle();
    let mut revision = first;
    // It fails when nobody can tell any more.
    while told.has_changed().is_ok() {
        let does = *told.borrow_and_update();
        if does == Does::Rest {
            told.changed().await.ok();
            continue;
        }
        for event in events.by_ref().take(STRETCH) {
            if does == Does::Write {
                let answer = replica
                    .receive_event(
                        EventData {
                            revision: Some(revision),
                            ..event.clone()
                        },
                        None,
                    )
                    .await;
                ensure!(
                    answer == EventOutcome::Success,
                    "revision {revision}: {answer:?}"
                );
                revision += 1;
                applied.fetch_add(1, Relaxed);
            } else {
                let text = serde_json::to_vec(event).context("an event")?;
                std::hint::black_box(serde_json::from_slice::<EventData>(&text)?);
            }
            yield_now().await;
        }
    }
    Ok(())
}
