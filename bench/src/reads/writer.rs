//! The thread beside a reader. It does all the work of the replica, and applies the changes.

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

/// Prepared changes. Repetitions differ in their revisions only.
const READY: usize = 10_000;
/// The largest value in an event, as in a publisher.
const DATA_LIMIT: usize = 49_152;
/// Events between two checks for a new activity.
const STRETCH: usize = 64;

/// The activity of the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    /// Only the work that the replica does by itself.
    Rest,
    /// Gives the replica one change after the other. Readers see each before the next one comes.
    Write,
    /// Equally busy with memory and text, without effect on readers.
    Other,
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    activity: watch::Sender<Activity>,
    applied: Arc<AtomicU64>,
    replica: Replica,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Writer {
    /// Runs the replica from now on.
    ///
    /// # Errors
    /// When the system refuses a thread.
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
        let (activity, commands) = watch::channel(Activity::Rest);
        let applied = Arc::<AtomicU64>::default();
        // One thread for everything: with two, the reader would share its processor with one of
        // them.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let ours = replica.clone();
        let count = Arc::clone(&applied);
        let first = head.revision + 1;
        let run = move || {
            let write = write(&ours, &ready, first, commands, &count);
            runtime.block_on(async { ours.run(write).await })
        };
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(run)?;
        Ok(Self {
            activity,
            applied,
            replica: replica.clone(),
            thread,
        })
    }

    /// Changes the activity of the thread.
    pub(super) fn set_activity(&self, what: Activity) {
        self.activity.send_replace(what);
    }

    /// The number of changes given to the replica.
    pub(super) fn applied(&self) -> u64 {
        self.applied.load(Relaxed)
    }

    /// Ends the thread, and checks that every change was applied.
    ///
    /// # Errors
    /// When a change was not applied.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        let Self {
            activity,
            applied,
            replica,
            thread,
        } = self;
        drop(activity);
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
    mut commands: watch::Receiver<Activity>,
    applied: &AtomicU64,
) -> anyhow::Result<()> {
    let mut events = ready.iter().cycle();
    let mut revision = first;
    // Fails when the sender is dropped.
    while commands.has_changed().is_ok() {
        let activity = *commands.borrow_and_update();
        if activity == Activity::Rest {
            commands.changed().await.ok();
            continue;
        }
        for event in events.by_ref().take(STRETCH) {
            if activity == Activity::Write {
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
