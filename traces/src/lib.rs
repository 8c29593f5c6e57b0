//! Spans of distributed traces (OpenTelemetry), and the W3C trace context that ties them together over
//! HTTP and events.
//!
//! Such a span is a span of `tracing` with the target [`TARGET`] and the level TRACE: it costs a
//! comparison while no layer records it, and logs do not show it. Whether and where spans are sent is
//! decided by the process that installs a layer of `tracing-opentelemetry`; nothing here does. Nothing
//! is decided by a trace.

use contract::TraceParent;
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of every span of a trace.
pub const TARGET: &str = "otel";

/// Whether spans of traces are recorded in this process.
#[macro_export]
macro_rules! enabled {
    () => {
        $crate::__enabled!(target: $crate::TARGET, $crate::Level::TRACE)
    };
}

#[doc(hidden)]
pub use tracing::{Level, span_enabled as __enabled};

/// Makes a span the child of a span of another process. It must not have been entered yet.
pub fn continue_from(span: &Span, parent: TraceParent) {
    if !span.is_disabled() {
        let parent = Context::new().with_remote_span_context(span_context(parent));
        // Without a layer there is nothing to continue.
        drop(span.set_parent(parent));
    }
}

/// Links a span to a span of another trace.
pub fn link(span: &Span, other: TraceParent) {
    if !span.is_disabled() {
        span.add_link(span_context(other));
    }
}

/// Gives a span that has begun another name.
pub fn rename(span: &Span, name: String) {
    if !span.is_disabled() {
        span.context().span().update_name(name);
    }
}

/// The trace context of a span, for its children in other processes; `None` where the span is not
/// recorded.
pub fn traceparent(span: &Span) -> Option<TraceParent> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| TraceParent {
        trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
        parent_id: u64::from_be_bytes(context.span_id().to_bytes()),
        flags: (context.trace_flags() & TraceFlags::SAMPLED).to_u8(),
    })
}

/// Trace and span of what this thread does now, for its log lines.
pub fn current() -> Option<(TraceId, SpanId)> {
    Context::map_current(|context| {
        let context = context.span().span_context().clone();
        context
            .is_valid()
            .then(|| (context.trace_id(), context.span_id()))
    })
}

fn span_context(of: TraceParent) -> SpanContext {
    SpanContext::new(
        of.trace_id.into(),
        of.parent_id.into(),
        TraceFlags::new(of.flags) & TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    )
}

#[cfg(test)]
#[path = "../tests/collected/mod.rs"]
mod collected;

#[cfg(test)]
mod tests {
    use tracing::trace_span;

    use super::*;
    use crate::collected::Collected;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn trace() -> TraceParent {
        TRACE.parse().expect("a trace context")
    }

    #[test]
    fn a_span_continues_a_trace_and_names_itself_to_its_children() {
        let collected = Collected::default();
        let collecting = collected.during();
        assert!(enabled!());
        let span = trace_span!(target: TARGET, "a");
        continue_from(&span, trace());
        link(
            &span,
            TraceParent {
                trace_id: 7,
                parent_id: 7,
                flags: 0,
            },
        );
        let own = traceparent(&span).expect("it is recorded").to_string();
        assert!(
            own.starts_with(&TRACE[..36]) && own.ends_with("-01"),
            "{own}"
        );
        assert_ne!(own, TRACE);
        let (trace, id) = span.in_scope(current).expect("a span");
        assert_eq!(own, format!("00-{trace}-{id}-01"));
        rename(&span, "b".to_owned());
        drop(span);
        drop(collecting);
        let spans = collected.spans();
        let [span] = &spans[..] else {
            panic!("{spans:?}");
        };
        assert_eq!(span.parent_span_id.to_string(), "00f067aa0ba902b7");
        assert!(span.parent_span_is_remote);
        assert_eq!(span.name, "b");
        assert_eq!(span.links.links.len(), 1);
        assert_eq!(current(), None);
    }

    #[test]
    fn without_a_layer_nothing_is_recorded() {
        assert!(!enabled!());
        let span = trace_span!(target: TARGET, "a");
        continue_from(&span, trace());
        assert_eq!(traceparent(&span), None);
    }
}
