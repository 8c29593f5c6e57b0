//! Readers that do not ask a subscriber over HTTP: subscriptions of the Configuration API, of a Dapr component
//! (over its socket, as a sidecar subscribes), and a reader of the folder of `confcast files`.
//!
//! Each follows without end, and begins again when its stream ends. It records and never judges, except
//! that [`same`] compares what all of them have at rest.

mod component;
mod configuration;
mod folder;
mod observed;

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::ensure;
use futures_util::future::join_all;
pub use observed::{FolderView, Followed, MessageKind, StreamItem, StreamMessage};

use super::{
    cluster::Cluster,
    driver::Driver,
    observations::{DocumentTable, SeenValue},
    reader::SnapshotParser,
    record::{DocumentKey, SLOTS},
};
use crate::testbed::SCHEMA_FREE;

/// Pause before a stream that ended is opened again, and between two looks at a folder.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a peer may take to accept a stream; a frozen one does not.
const TIMEOUT: Duration = Duration::from_secs(3);
/// What the component logs when it cannot name deletions of the time before its start.
const DELETIONS_UNKNOWN: &str = "what was deleted in ";

/// One follower.
#[derive(Debug)]
pub struct Follower {
    /// For the report.
    pub name: String,
    way: Way,
    record: Mutex<FollowerRecord>,
}

/// By which way it reads.
#[derive(Debug)]
enum Way {
    /// A collection from the Configuration API at this port.
    Configuration { port: u16, collection: u8 },
    /// A collection from the component with this socket.
    Component {
        socket: PathBuf,
        collection: u8,
        /// Index of the process.
        process: usize,
        /// Whether it ends its streams from time to time, as a sidecar that dies.
        leaves: bool,
    },
    /// The folder, and the status that says of which revisions it is.
    Files { out: PathBuf, status: PathBuf },
}

/// What a follower has seen.
#[derive(Debug)]
pub struct FollowerRecord {
    /// In this round.
    pub observed: Vec<Followed>,
    /// Number of observations since the campaign began.
    pub count: u64,
    /// Streams that were opened.
    pub streams: u64,
    /// What an application would hold now. Files have no revisions.
    held: Box<DocumentTable>,
    /// How often the component could not name deletions, until the round before.
    unknown_deletions: usize,
}

impl Default for FollowerRecord {
    fn default() -> Self {
        Self {
            observed: Vec::new(),
            count: 0,
            streams: 0,
            held: Box::new([None; SLOTS]),
            unknown_deletions: 0,
        }
    }
}

impl Follower {
    /// Of a collection by the Configuration API at a port.
    pub fn configuration(name: String, port: u16, collection: u8) -> Self {
        Self::new(name, Way::Configuration { port, collection })
    }

    /// Of a collection by the component with this socket; `process` is its index in the cluster. One that
    /// `leaves` ends its streams from time to time.
    pub fn component(
        name: String,
        socket: PathBuf,
        collection: u8,
        process: usize,
        leaves: bool,
    ) -> Self {
        let way = Way::Component {
            socket,
            collection,
            process,
            leaves,
        };
        Self::new(name, way)
    }

    /// Of the folder with the link `current`, and of the status file.
    pub fn files(name: String, out: PathBuf, status: PathBuf) -> Self {
        Self::new(name, Way::Files { out, status })
    }

    fn new(name: String, way: Way) -> Self {
        Self {
            name,
            way,
            record: Mutex::default(),
        }
    }

    /// Locks its record.
    pub fn record(&self) -> MutexGuard<'_, FollowerRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow(&self, driver: &Driver) -> Infallible {
        loop {
            // Why a stream ends is in the log of its process.
            match &self.way {
                Way::Configuration { port, collection } => {
                    drop(configuration::follow(self, *port, *collection, driver).await);
                }
                Way::Component {
                    socket,
                    collection,
                    leaves,
                    ..
                } => drop(component::follow(self, socket, *collection, *leaves, driver).await),
                Way::Files { out, status } => folder::look(self, out, status, driver),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Begins another stream and returns its number.
    fn begin(&self) -> u64 {
        let mut record = self.record();
        record.streams += 1;
        record.streams
    }

    /// The collection that it follows; `None`: all of them.
    fn collection(&self) -> Option<u8> {
        match self.way {
            Way::Configuration { collection, .. } | Way::Component { collection, .. } => {
                Some(collection)
            }
            Way::Files { .. } => None,
        }
    }
}

impl FollowerRecord {
    /// Adds an observation.
    fn add(&mut self, followed: Followed) {
        match &followed {
            Followed::Message(message) => {
                if message.kind == MessageKind::All {
                    self.held.fill(None);
                }
                for item in &message.items {
                    let revision = item.revision.unwrap_or_default();
                    self.held[item.key.slot()] =
                        item.token.map(|token| SeenValue { revision, token });
                }
            }
            Followed::Folder(view) => {
                self.held.fill(None);
                for (key, token) in &view.tokens {
                    self.held[key.slot()] = Some(SeenValue {
                        revision: 0,
                        token: *token,
                    });
                }
            }
            Followed::Wrong { .. } => {}
        }
        self.count += 1;
        self.observed.push(followed);
    }
}

/// Lets all of them follow without end.
pub async fn follow_all(cluster: &Cluster, driver: &Driver) -> Infallible {
    join_all((cluster.followers.iter()).map(|follower| follower.follow(driver))).await;
    unreachable!("they follow without end")
}

/// Checks that every follower holds the documents of the publisher, and no others.
///
/// # Errors
/// When one differs, or the publisher does not answer.
pub async fn same(cluster: &Cluster) -> anyhow::Result<()> {
    let truth = cluster.publisher(0).get("/v1/snapshot").await?;
    let truth = SnapshotParser::default().read(&truth.expect(200)?.body)?;
    for follower in &cluster.followers {
        let lost = unknown_deletions(cluster, follower).await?;
        let mut record = follower.record();
        // An application loads its documents again then.
        let reloads = lost > record.unknown_deletions;
        let expected = |key: &DocumentKey| {
            let is_followed = follower.collection().is_none_or(|it| it == key.collection);
            is_followed.then(|| truth.held[key.slot()])
        };
        for key in DocumentKey::all() {
            let Some(expected) = expected(&key) else {
                continue;
            };
            let held = record.held[key.slot()];
            if reloads && expected.is_none() {
                continue;
            }
            ensure!(
                is_same(held, expected, matches!(follower.way, Way::Files { .. })),
                "{} has {held:?} of {key} instead of {expected:?}",
                follower.name
            );
        }
        if reloads {
            record.unknown_deletions = lost;
            *record.held = *truth.held;
        }
    }
    Ok(())
}

/// Whether a follower holds what the publisher has. Files have no revisions.
fn is_same(held: Option<SeenValue>, expected: Option<SeenValue>, is_file: bool) -> bool {
    match (held, expected) {
        (Some(held), Some(expected)) if is_file => held.token == expected.token,
        _ => held == expected,
    }
}

/// How often the component has said that it cannot name what was deleted before it started.
async fn unknown_deletions(cluster: &Cluster, follower: &Follower) -> anyhow::Result<usize> {
    let Way::Component {
        process,
        collection,
        ..
    } = &follower.way
    else {
        return Ok(0);
    };
    let mut program = cluster.components[*process].program.lock().await;
    let output = program.process().map(|process| process.output());
    let said = format!(
        "{DELETIONS_UNKNOWN}{} ",
        SCHEMA_FREE[usize::from(*collection)]
    );
    let output = output.unwrap_or_default();
    Ok(output.lines().filter(|line| line.contains(&said)).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_value_and_a_deleted_document_are_no_equal() {
        let value = |revision, token| Some(SeenValue { revision, token });
        assert!(is_same(value(0, 7), value(3, 7), true));
        assert!(is_same(None, None, true) && is_same(None, None, false));
        for is_file in [false, true] {
            assert!(!is_same(value(3, 6), value(3, 7), is_file));
            assert!(!is_same(value(3, 7), None, is_file));
            assert!(!is_same(None, value(3, 7), is_file));
        }
        assert!(!is_same(value(2, 7), value(3, 7), false));
    }
}
