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
/// Its text, with all causes, is shown in status and log; at most 200 characters of it.
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

/// A handler of any type: it gets the notification, and turns it into its own [`Update`].
type Call = Box<dyn Fn(Notification) -> BoxFuture<'static, Result<(), HandlerError>> + Send + Sync>;

/// A registered handler.
pub(crate) struct Handler {
    /// Its name, which ends with its collection. Unique in a replica.
    pub(crate) name: String,
    /// The index of its decoder.
    pub(super) decoder: usize,
    /// The handler itself.
    pub(super) call: Call,
}

impl Handler {
    /// A handler that gets the values of a decoder of `T`.
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

/// A notification as the handler gets it.
fn update<T: Send + Sync + 'static>(notification: Notification, decoder: usize) -> Update<T> {
    match notification {
        Notification::Resync(projection) => Update::Resync(Snapshot::new(projection, decoder)),
        Notification::Changed {
            id,
            previous,
            current,
            watermark,
        } => Update::Changed(DocumentChange {
            // By what the handler knew: it was not notified of the changes in between.
            op: match (&previous, &current) {
                (None, _) => Operation::Create,
                (Some(_), Some(_)) => Operation::Update,
                (Some(_), None) => Operation::Delete,
            },
            id,
            // A deletion leaves no value that could tell its revision.
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
///
/// Their progress is written by the flow of each handler, and read for status and check-in.
#[derive(Debug, Default)]
pub(crate) struct Handlers {
    /// All handlers, in the order of registration.
    pub(super) all: Vec<Handler>,
    /// How long later handlers wait for one that has not tried its resync yet.
    pub(super) patience: Duration,
    /// How far each handler is, by its place in `all`.
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
    /// Handlers that were notified of nothing yet.
    pub(crate) fn new(all: Vec<Handler>, patience: Duration) -> Self {
        Self {
            progress: Mutex::new(vec![Progress::default(); all.len()]),
            tried: watch::Sender::new(vec![None; all.len()]),
            all,
            patience,
        }
    }

    /// How far the handlers are. The lock is never held while a handler is called.
    pub(super) fn progress(&self) -> MutexGuard<'_, Vec<Progress>> {
        self.progress.lock().expect("nothing that holds it panics")
    }
}

impl Typed {
    /// How handlers do, in the order of registration.
    pub(crate) fn handler_statuses(&self) -> Vec<HandlerStatus> {
        let progress = self.handlers.progress();
        let mut statuses = Vec::new();
        for (handler, progress) in self.handlers.all.iter().zip(progress.iter()) {
            // Every handler has a decoder, so this never fails.
            let Some(decoder) = self.decoders.get(handler.decoder) else {
                continue;
            };
            statuses.push(HandlerStatus {
                name: handler.name.clone(),
                collection: decoder.collection.clone(),
                state: match progress {
                    // A failure counts whatever else is true; the next success removes it.
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
