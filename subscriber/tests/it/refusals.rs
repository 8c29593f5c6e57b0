//! What a publisher or a subscriber refuses is named in the log and in the status, in the words of the
//! one that refuses.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use contract::ProblemKind;

use super::*;

/// What all tests of this program have logged so far.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

static LOG: OnceLock<Log> = OnceLock::new();

/// Collects what is logged from now on.
pub(super) fn keep_log() {
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    });
}

/// The first line that contains a text.
fn logged(text: &str) -> Option<String> {
    let Log(bytes) = LOG.get()?;
    let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = String::from_utf8_lossy(&bytes);
    let mut lines = lines.lines().filter(|line| line.contains(text));
    lines.next().map(str::to_owned)
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self(log) = self;
        log.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until the status names an error, at most 10 s.
async fn last_error(subscriber: &Subscriber) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        if let Some(error) = subscriber.status().await.last_error {
            return error;
        }
        assert!(Instant::now() < deadline, "no error in time");
        tick.tick().await;
    }
}

#[tokio::test]
async fn the_reason_of_a_publisher_is_in_the_log_and_in_the_status() {
    for (kind, detail) in [
        (
            ProblemKind::Unauthorized,
            "the proxy wants the token of Monday",
        ),
        (ProblemKind::UnknownCollection, "A is not served on Tuesday"),
        (
            ProblemKind::StoreUnavailable,
            "the disk is full on Wednesday",
        ),
    ] {
        let problem = Problem::new(kind, detail);
        let status = problem.status;
        let body = serde_json::to_string(&problem).expect("json");
        let answer = move |_path: &str| Some((status, body.clone()));
        check(&["--check-in-seconds=1"], answer, async |subscriber| {
            let error = last_error(subscriber).await;
            let line = logged(detail).expect("a line with the reason");
            for text in [&error, &line] {
                assert!(text.contains(detail), "{text}");
                assert!(text.contains(&format!("({status})")), "{text}");
                assert!(
                    text.contains("http://127.0.0.1:"),
                    "which publisher: {text}"
                );
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_sidecar_without_the_token_leaves_a_line_with_the_remedy() {
    let flags = ["--app-api-token=open sesame"];
    check(&flags, publisher(7, 0), async |subscriber| {
        let answer = subscriber.fetch("/dapr/subscribe").await;
        problem(answer, 401, "unauthorized").await;
        let line = logged("was refused with 401").expect("a line");
        assert!(line.contains("APP_API_TOKEN"), "{line}");
        assert!(!line.contains("sesame"), "{line}");
    })
    .await;
}

#[tokio::test]
async fn a_request_that_only_a_publisher_answers_is_told_which_one() {
    check(&[], publisher(7, 0), async |subscriber| {
        for (method, path, status) in [
            (reqwest::Method::PUT, "/v1/collections/A/documents/a", 405),
            (reqwest::Method::POST, "/v1/repair", 404),
        ] {
            let request = subscriber.client.request(method, subscriber.url(path));
            let answer = request.json(&json!({})).send().await.expect("an answer");
            assert_eq!(answer.status(), status, "{path}");
            let problem: Problem = answer.json().await.expect("a problem");
            assert!(
                problem.detail.contains("This is a subscriber")
                    && problem
                        .detail
                        .contains("ask its publisher (http://127.0.0.1:"),
                "{problem:?}"
            );
        }
    })
    .await;
}
