//! The trace of a write goes on where its event is applied and where a handler is called for it.

use opentelemetry::trace::Status;

use self::collected::Collected;
use super::*;
use crate::{Builder, HandlerError, Update};

#[path = "../../../traces/tests/collected/mod.rs"]
mod collected;

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENT_BY: &str = "00f067aa0ba902b7";

/// Ends when the handler was called for this many changes of documents. It fails for those of `y`.
fn handler(
    called: Arc<AtomicUsize>,
) -> impl Fn(Update<Value>) -> std::future::Ready<Result<(), HandlerError>> {
    move |update| {
        let result = match &update {
            Update::Changed(change) => {
                called.fetch_add(1, Ordering::Relaxed);
                match change.id.as_str() {
                    "y" => Err("on purpose".into()),
                    _other => Ok(()),
                }
            }
            Update::Resync(_all) => Ok(()),
        };
        std::future::ready(result)
    }
}

#[tokio::test]
async fn the_spans_of_an_event_and_of_a_handler_are_in_the_trace_of_the_write() {
    let answer = |path: &str, _body: &[u8]| match path.starts_with("/v1/snapshot") {
        true => (
            200,
            snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]),
        ),
        false => (200, checked_in(7, &[])),
    };
    let collected = Collected::default();
    let called = Arc::<AtomicUsize>::default();
    with_listener(answer, async |url| {
        let _collecting = collected.during();
        let replica = Builder::new(settings(vec![url]))
            .handler("A", handler(Arc::clone(&called)))
            .and_then(Builder::build)
            .expect("a replica");
        let test = async {
            replica.ready().await.expect("loaded");
            let in_step = || replica.status().handlers[0].revision == 7;
            eventually("the handler is in step", in_step).await;
            for (number, text, traced) in [(8, "x", true), (9, "z", false), (10, "y", true)] {
                let mut event = event("Update", text, number, Some(json!({"v": number})));
                if traced {
                    event["traceparent"] = json!(format!("00-{TRACE_ID}-{SENT_BY}-01"));
                }
                let text = event.to_string();
                let outcome = replica.receive_text(&text, None).await;
                assert_eq!(outcome, EventOutcome::Success);
                let calls = number as usize - 7;
                eventually("called", || called.load(Ordering::Relaxed) == calls).await;
            }
            eventually("failed", || replica.status().handlers[0].is_failing()).await;
        };
        following(&replica, test).await;
    })
    .await;

    let spans = collected.spans();
    let named = |name: &str| -> Vec<_> { spans.iter().filter(|span| span.name == name).collect() };
    let (processed, handled) = (named("process A"), named("handle A"));
    assert_eq!((processed.len(), handled.len()), (2, 2), "{spans:#?}");
    for (process, handle) in processed.iter().zip(&handled) {
        assert_eq!(process.span_context.trace_id().to_string(), TRACE_ID);
        assert_eq!(process.parent_span_id.to_string(), SENT_BY);
        assert_eq!(handle.span_context.trace_id().to_string(), TRACE_ID);
        assert_eq!(handle.parent_span_id, process.span_context.span_id());
        let decision = process
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == "confcast.decision");
        assert_eq!(
            decision.map(|found| found.value.to_string()).as_deref(),
            Some("Applied")
        );
    }
    assert_eq!(handled[0].status, Status::Unset);
    assert!(
        matches!(handled[1].status, Status::Error { .. }),
        "{handled:#?}"
    );
}

#[tokio::test]
async fn a_page_of_the_feed_is_linked_to_the_writes_that_have_a_trace() {
    let collected = Collected::default();
    let _collecting = collected.during();
    let traces = crate::change_traces::ChangeTraces::default();
    let change = |text: &str, revision| {
        let mut change = state::ReceivedChange::from_change(change(text, revision, None));
        change.origin.trace = format!("00-{TRACE_ID}-{revision:016x}-01").parse().ok();
        change
    };
    let mut page = vec![change("x", 1), change("y", 2), change("z", 3)];
    page[1].origin.trace = None;
    drop(traces.of_page(&page));
    drop(traces.of_page(&page[1..2]));
    let spans = collected.spans();
    let [span] = &spans[..] else {
        panic!("{spans:#?}");
    };
    let links = span
        .links
        .iter()
        .map(|link| link.span_context.span_id().to_string());
    assert_eq!(
        links.collect::<Vec<_>>(),
        [format!("{:016x}", 1), format!("{:016x}", 3)]
    );
    // A handler that is called for one of them continues the page.
    drop(traces.of_handler("A", &name("A"), &id("z"), 3));
    assert!(traces.of_handler("A", &name("A"), &id("y"), 2).is_none());
    let handled = collected.spans().pop().expect("a span");
    assert_eq!(handled.parent_span_id, span.span_context.span_id());
}
