//! What is told of changes inside a service: everything once, then each change, in order.
//!
//! A handler has no queue. It holds the moment that it has handled, and when there is a newer one
//! it is told the difference (`flow`). So one that is slow is told less often and of more at once;
//! nothing overflows, and neither reads, nor the intake, nor other handlers wait for it. What it
//! makes of a change is never told to a broker: an error leads to a new beginning of that handler
//! alone.

mod flow;

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

use crate::{
    Replica,
    typed::{Held, Projection, Snapshot},
};

/// Why a handler failed.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// What a handler is told.
#[derive(Debug)]
pub enum Event<T> {
    /// Everything, at one moment. It comes first, and again after a failure and in a new history:
    /// what a handler knows from before counts no more.
    Resync(Snapshot<T>),
    /// One change after the last that it was told. It comes only after a resync that succeeded.
    Change(Change<T>),
}

/// What became of a document since the handler was last told. What happened in between is left out:
/// `previous` is what it was last told, `current` is the newest.
#[derive(Debug)]
pub struct Change<T> {
    /// Create when there was no value, Delete when there is none, else Update.
    pub op: Operation,
    /// The document.
    pub id: DocumentId,
    /// Its value until now.
    pub previous: Option<Arc<T>>,
    /// Its value from now on.
    pub current: Option<Arc<T>>,
    /// The revision that brought the value. For a deletion, the watermark at which the document
    /// was seen to be gone: that is the revision of the deletion or a later one.
    pub revision: Revision,
}

/// What is told, before its type is known.
pub(crate) enum Told {
    Everything(Arc<Projection>),
    Change {
        id: DocumentId,
        previous: Option<Held>,
        current: Option<Held>,
        watermark: Revision,
    },
}

type Call = Box<dyn Fn(Told) -> BoxFuture<'static, Result<(), HandlerError>> + Send + Sync>;

/// A registered handler.
pub(crate) struct Handler {
    pub(crate) name: String,
    lens: usize,
    call: Call,
}

impl Handler {
    pub(crate) fn new<T, F, R>(name: String, lens: usize, handle: F) -> Self
    where
        T: Send + Sync + 'static,
        F: Fn(Event<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let call = move |told| -> BoxFuture<'static, _> { Box::pin(handle(told_as(told, lens))) };
        Self {
            name,
            lens,
            call: Box::new(call),
        }
    }
}

fn told_as<T: Send + Sync + 'static>(told: Told, lens: usize) -> Event<T> {
    match told {
        Told::Everything(projection) => Event::Resync(Snapshot::new(projection, lens)),
        Told::Change {
            id,
            previous,
            current,
            watermark,
        } => {
            let op = match (&previous, &current) {
                (None, _) => Operation::Create,
                (Some(_), Some(_)) => Operation::Update,
                (Some(_), None) => Operation::Delete,
            };
            let revision = current.as_ref().map_or(watermark, |held| held.revision);
            let value = |held: Option<Held>| held.and_then(|held| held.value());
            Event::Change(Change {
                op,
                id,
                previous: value(previous),
                current: value(current),
                revision,
            })
        }
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
    all: Vec<Handler>,
    /// How long others wait for one that has not tried its resync yet.
    patience: Duration,
    rows: Mutex<Vec<Row>>,
    /// The newest generation whose resync each has tried, or that others have waited for long
    /// enough.
    tried: watch::Sender<Vec<Option<u64>>>,
}

/// How a handler does.
#[derive(Debug, Clone, Default)]
struct Row {
    told: bool,
    revision: Revision,
    error: Option<String>,
}

impl Handlers {
    pub(crate) fn new(all: Vec<Handler>, patience: Duration) -> Self {
        let rows = Mutex::new(vec![Row::default(); all.len()]);
        let tried = watch::Sender::new(vec![None; all.len()]);
        Self {
            all,
            patience,
            rows,
            tried,
        }
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().expect("nothing that holds it panics")
    }
}

impl Replica {
    /// How handlers do.
    pub(crate) fn handlers(&self, most: usize) -> Vec<HandlerStatus> {
        let typed = self.typed();
        let rows = typed.handlers.rows();
        let named = typed.handlers.all.iter().zip(rows.iter()).take(most);
        let status = |(handler, row): (&Handler, &Row)| {
            let state = match row {
                Row { error: Some(_), .. } => HandlerState::Failing,
                Row { told: true, .. } => HandlerState::InStep,
                Row { told: false, .. } => HandlerState::Waiting,
            };
            let collection = typed.lenses.get(handler.lens)?.collection.clone();
            let Row {
                revision, error, ..
            } = row.clone();
            Some(HandlerStatus {
                name: handler.name.clone(),
                collection,
                state,
                revision,
                error,
            })
        };
        named.filter_map(status).collect()
    }
}
