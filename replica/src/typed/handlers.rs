//! What handlers inside a service are notified of: everything once, then each change, in order.
//!
//! A handler has no queue. It has handled the configuration of one moment, and when there is a newer
//! moment it is notified of the difference (`flow`). So a slow handler is notified less often, of
//! more at once; nothing overflows, and neither reads, nor the intake, nor other handlers wait for
//! it. A broker never learns whether a handler succeeded: an error leads to a resync of that handler
//! alone.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use contract::{
    DocumentId, Operation, Revision,
    status::{HandlerState, HandlerStatus},
};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{Projection, Snapshot, Typed, TypedValue};

/// Why a handler failed.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// What a handler is notified of.
#[derive(Debug)]
pub enum Update<T> {
    /// The whole collection at one moment. It comes first, and again after a failure and in a new
    /// history: what a handler knows from before is no longer valid.
    Resync(Snapshot<T>),
    /// One document that changed after the last notification. It comes only after a resync that
    /// succeeded.
    Changed(DocumentChange<T>),
}

/// What became of a document since the last notification. The changes in between are left out:
/// `previous` is the value of the last notification, `current` is the newest.
#[derive(Debug)]
pub struct DocumentChange<T> {
    /// Create when there was no value, Delete when there is none, else Update.
    pub op: Operation,
    /// The document.
    pub id: DocumentId,
    /// Its value until now.
    pub previous: Option<Arc<T>>,
    /// Its value from now on.
    pub current: Option<Arc<T>>,
    /// The revision of the value. For a deletion, the watermark at which the deletion was seen:
    /// that is the revision of the deletion or a later one.
    pub revision: Revision,
}

/// An [`Update`] before its type is known.
pub(super) enum Notification {
    Resync(Arc<Projection>),
    Changed {
        id: DocumentId,
        previous: Option<TypedValue>,
        current: Option<TypedValue>,
        watermark: Revision,
    },
}

type Call = Box<dyn Fn(Notification) -> BoxFuture<'static, Result<(), HandlerError>> + Send + Sync>;

/// A registered handler.
pub(crate) struct Handler {
    pub(crate) name: String,
    /// The index of its decoder.
    pub(super) decoder: usize,
    pub(super) call: Call,
}

impl Handler {
    pub(crate) fn new<T, F, R>(name: String, decoder: usize, handle: F) -> Self
    where
        T: Send + Sync + 'static,
        F: Fn(Update<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let call = move |notification| -> BoxFuture<'static, _> {
            Box::pin(handle(update(notification, decoder)))
        };
        Self {
            name,
            decoder,
            call: Box::new(call),
        }
    }
}

fn update<T: Send + Sync + 'static>(notification: Notification, decoder: usize) -> Update<T> {
    match notification {
        Notification::Resync(projection) => Update::Resync(Snapshot::new(projection, decoder)),
        Notification::Changed {
            id,
            previous,
            current,
            watermark,
        } => Update::Changed(DocumentChange {
            op: match (&previous, &current) {
                (None, _) => Operation::Create,
                (Some(_), Some(_)) => Operation::Update,
                (Some(_), None) => Operation::Delete,
            },
            id,
            revision: current.as_ref().map_or(watermark, |value| value.revision),
            previous: previous.and_then(|value| value.value()),
            current: current.and_then(|value| value.value()),
        }),
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// All handlers of a replica, in the order of registration.
#[derive(Debug, Default)]
pub(crate) struct Handlers {
    pub(super) all: Vec<Handler>,
    /// How long later handlers wait for one that has not tried its resync yet.
    pub(super) patience: Duration,
    progress: Mutex<Vec<Progress>>,
    /// By handler: the newest generation whose resync it has tried, or that later handlers have
    /// waited for long enough.
    pub(super) tried: watch::Sender<Vec<Option<u64>>>,
}

/// How far a handler is.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// Whether its last notification succeeded.
    pub(super) in_step: bool,
    /// The watermark of the newest moment that it has handled whole.
    pub(super) revision: Revision,
    /// Why its last notification failed.
    pub(super) error: Option<String>,
}

impl Handlers {
    pub(crate) fn new(all: Vec<Handler>, patience: Duration) -> Self {
        Self {
            progress: Mutex::new(vec![Progress::default(); all.len()]),
            tried: watch::Sender::new(vec![None; all.len()]),
            all,
            patience,
        }
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Vec<Progress>> {
        self.progress.lock().expect("nothing that holds it panics")
    }
}

impl Typed {
    /// How handlers do, for at most `max` of them.
    pub(crate) fn handler_statuses(&self, max: usize) -> Vec<HandlerStatus> {
        let progress = self.handlers.progress();
        let mut statuses = Vec::new();
        for (handler, progress) in self.handlers.all.iter().zip(progress.iter()).take(max) {
            let Some(decoder) = self.decoders.get(handler.decoder) else {
                continue;
            };
            statuses.push(HandlerStatus {
                name: handler.name.clone(),
                collection: decoder.collection.clone(),
                state: match progress {
                    Progress { error: Some(_), .. } => HandlerState::Failing,
                    Progress { in_step: true, .. } => HandlerState::InStep,
                    Progress { in_step: false, .. } => HandlerState::Waiting,
                },
                revision: progress.revision,
                error: progress.error.clone(),
            });
        }
        statuses
    }
}
