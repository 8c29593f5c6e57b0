//! The spans in which a replica applies changes and calls handlers, in the traces of their writes
//! (feature `traces`). Without the feature, and for a change without a trace context, there are none.
//!
//! The span of an event is the child of the span that sent it. A handler is called later, on another
//! task, so the newest spans are remembered by document. Nothing is decided by a trace.

use contract::{CollectionName, DocumentId, Revision, fleet::Transport};
use state::{Decision, ReceivedChange};
use tracing::Span;

#[cfg(feature = "traces")]
pub(crate) use remembered::ChangeTraces;

/// Nothing is remembered.
#[cfg(not(feature = "traces"))]
#[derive(Debug, Default)]
pub(crate) struct ChangeTraces;

#[cfg(not(feature = "traces"))]
impl ChangeTraces {
    /// No span.
    pub(crate) fn of_event(&self, _transport: Option<Transport>, _change: &ReceivedChange) -> Span {
        Span::none()
    }

    /// No span.
    pub(crate) fn of_page(&self, _changes: &[ReceivedChange]) -> Span {
        Span::none()
    }

    /// No span.
    pub(crate) fn of_handler(
        &self,
        _handler: &str,
        _collection: &CollectionName,
        _id: &DocumentId,
        _revision: Revision,
    ) -> Span {
        Span::none()
    }
}

/// Notes what became of the change of a span.
pub(crate) fn record_decision(span: &Span, decision: Decision) {
    if !span.is_disabled() {
        span.record("confcast.decision", tracing::field::debug(decision));
    }
}

/// Notes that the handler of a span failed.
pub(crate) fn record_failure(span: &Span) {
    if !span.is_disabled() {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", "handler");
    }
}

#[cfg(feature = "traces")]
mod remembered {
    use std::{
        collections::VecDeque,
        sync::{Mutex, MutexGuard, PoisonError},
    };

    use contract::{TraceParent, event::event_id_at};
    use tracing::{field::Empty, trace_span};

    use super::*;

    /// Spans that are remembered for handlers.
    const REMEMBERED: usize = 256;
    /// Changes of a page that its span is linked to, at most.
    const LINKS: usize = 64;

    /// The newest spans of changes, by document.
    #[derive(Debug, Default)]
    pub(crate) struct ChangeTraces(Mutex<VecDeque<Applying>>);

    /// A span that applies the change of a document.
    #[derive(Debug)]
    struct Applying {
        collection: CollectionName,
        id: DocumentId,
        revision: Revision,
        span: TraceParent,
    }

    impl ChangeTraces {
        /// The span in which an event is applied, by the semantic conventions of messaging.
        pub(crate) fn of_event(
            &self,
            transport: Option<Transport>,
            change: &ReceivedChange,
        ) -> Span {
            let Some(parent) = change.origin.trace else {
                return Span::none();
            };
            let span = trace_span!(
                target: traces::TARGET,
                "process",
                otel.name = %format_args!("process {}", change.collection),
                otel.kind = "consumer",
                // A service may hand events over its own way.
                messaging.system = transport.map_or("confcast", Transport::messaging_system),
                messaging.operation.name = "process",
                messaging.operation.r#type = "process",
                messaging.destination.name = %change.collection,
                messaging.message.id =
                    event_id_at(&change.collection, change.epoch, change.revision),
                confcast.document.id = %change.id,
                confcast.revision = change.revision,
                confcast.decision = Empty,
            );
            traces::continue_from(&span, parent);
            self.remember(&span, [change]);
            span
        }

        /// The span in which a page of the feed is applied. It belongs to no single write, so it is
        /// linked to those that have a trace.
        pub(crate) fn of_page(&self, changes: &[ReceivedChange]) -> Span {
            let traced = || {
                changes
                    .iter()
                    .filter(|change| change.origin.trace.is_some())
            };
            if traced().next().is_none() {
                return Span::none();
            }
            let span = trace_span!(
                target: traces::TARGET,
                parent: None,
                "catch up",
                otel.kind = "consumer",
                messaging.system = Transport::Feed.messaging_system(),
                messaging.operation.name = "process",
                messaging.operation.r#type = "process",
                messaging.batch.message_count = changes.len(),
            );
            for change in traced().take(LINKS) {
                if let Some(trace) = change.origin.trace {
                    traces::link(&span, trace);
                }
            }
            self.remember(&span, traced());
            span
        }

        /// The span of a call of a handler: in the trace of the change, while that is remembered.
        /// `revision` is that of the document, or of a later watermark after its deletion.
        pub(crate) fn of_handler(
            &self,
            handler: &str,
            collection: &CollectionName,
            id: &DocumentId,
            revision: Revision,
        ) -> Span {
            if !traces::enabled!() {
                return Span::none();
            }
            let of_document = |known: &&Applying| {
                known.collection == *collection && known.id == *id && known.revision <= revision
            };
            let newest = self
                .lock()
                .iter()
                .rev()
                .find(of_document)
                .map(|known| known.span);
            let Some(parent) = newest else {
                return Span::none();
            };
            let span = trace_span!(
                target: traces::TARGET,
                parent: None,
                "handle",
                otel.name = %format_args!("handle {handler}"),
                otel.status_code = Empty,
                error.r#type = Empty,
                confcast.handler = handler,
                confcast.collection = %collection,
                confcast.document.id = %id,
                confcast.revision = revision,
            );
            traces::continue_from(&span, parent);
            span
        }

        fn remember<'a>(&self, span: &Span, changes: impl IntoIterator<Item = &'a ReceivedChange>) {
            let Some(context) = traces::traceparent(span) else {
                return;
            };
            let mut remembered = self.lock();
            for change in changes {
                if remembered.len() == REMEMBERED {
                    remembered.pop_front();
                }
                remembered.push_back(Applying {
                    collection: change.collection.clone(),
                    id: change.id.clone(),
                    revision: change.revision,
                    span: context,
                });
            }
        }

        fn lock(&self) -> MutexGuard<'_, VecDeque<Applying>> {
            // It is whole at any time.
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
