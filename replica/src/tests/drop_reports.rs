//! Dropped events are reported to the publisher, in bounds, and no answer of it changes what becomes of
//! an event.

use contract::dead_letter::{DeadLetterAccepted, DeadLetterReport};

use super::*;

/// Each report that the publisher got.
type Reports = Arc<Mutex<Vec<DeadLetterReport>>>;

const POISON: &str = r#"{"collection":"A","op":"Update","id":{}}"#;

/// Runs `test` with a publisher that keeps reports after it refused the first `refused` of them.
async fn with_reports(refused: usize, test: impl AsyncFnOnce(Replica, Reports)) {
    let reports = Reports::default();
    let asked = AtomicUsize::new(0);
    let kept = Arc::clone(&reports);
    let answer = move |path: &str, body: &[u8]| {
        if path != "/v1/dead-letters" {
            return (503, String::new());
        }
        if asked.fetch_add(1, Ordering::SeqCst) < refused {
            return (503, String::new());
        }
        let report: DeadLetterReport = serde_json::from_slice(body).expect("a report");
        let accepted = DeadLetterAccepted { id: report.id };
        kept.lock().expect("a lock").push(report);
        (200, serde_json::to_string(&accepted).expect("json"))
    };
    with_listener(answer, async |url| {
        test(replica(vec![nobody(), url]), reports).await;
    })
    .await;
}

fn is_dropped(outcome: &EventOutcome) -> bool {
    matches!(outcome, EventOutcome::Drop { .. })
}

#[tokio::test]
async fn a_dropped_event_is_reported_once_with_its_reason_and_its_text() {
    with_reports(0, async |replica, reports| {
        let test = async {
            for _repeated in 0..3 {
                assert!(is_dropped(&replica.receive_text(POISON, None).await));
            }
            let other = r#"{"collection":"A","op":"Update","id":"a/b"}"#;
            assert!(is_dropped(&replica.receive_text(other, None).await));
            eventually("both are reported", || {
                reports.lock().expect("a lock").len() == 2
            })
            .await;
        };
        following(&replica, test).await;
        let reports = reports.lock().expect("a lock");
        assert_eq!(reports[0].cause, "wrong-type");
        assert_eq!(reports[0].instance, "test");
        assert_eq!(reports[0].original.text.as_deref(), Some(POISON));
        assert_eq!(reports[0].event.collection, Some(name("A")));
        assert_eq!(reports[0].bytes, POISON.len() as u64);
    })
    .await;
}

#[tokio::test]
async fn a_report_waits_for_a_publisher_that_does_not_answer() {
    with_reports(1, async |replica, reports| {
        let test = async {
            assert!(is_dropped(&replica.receive_text(POISON, None).await));
            eventually("it is reported", || {
                reports.lock().expect("a lock").len() == 1
            })
            .await;
        };
        following(&replica, test).await;
    })
    .await;
}

/// A report that no publisher took is no report.
#[tokio::test]
async fn an_event_whose_report_was_refused_is_reported_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let answer = move |path: &str, _body: &[u8]| {
        if path == "/v1/dead-letters" {
            counted.fetch_add(1, Ordering::SeqCst);
            return (400, String::new());
        }
        (503, String::new())
    };
    with_listener(answer, async |url| {
        let replica = replica(vec![url]);
        let test = async {
            let deadline = Instant::now() + Duration::from_secs(10);
            while asked.load(Ordering::SeqCst) < 2 {
                assert!(Instant::now() < deadline, "it is not reported again");
                assert!(is_dropped(&replica.receive_text(POISON, None).await));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        following(&replica, test).await;
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_invalid_events_is_answered_and_reported_within_the_rate() {
    with_reports(0, async |replica, reports| {
        let test = async {
            for number in 0..2_000 {
                let text = format!(r#"{{"collection":"A","op":"Update","id":{number}}}"#);
                assert!(is_dropped(&replica.receive_text(&text, None).await));
            }
            eventually("the first ones are reported", || {
                !reports.lock().expect("a lock").is_empty()
            })
            .await;
        };
        following(&replica, test).await;
        assert!(reports.lock().expect("a lock").len() <= 60);
    })
    .await;
}
