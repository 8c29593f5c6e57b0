//! Reads that ask for a revision: answered as ever once it is there, else 504 with what is there.

use std::sync::atomic::{AtomicUsize, Ordering};

use contract::fleet::CheckInAnswer;

use super::*;

const X: &str = "/v1/collections/A/documents/x";

/// A read with the header, of which nothing was read yet.
async fn asked(subscriber: &Subscriber, path: &str, revision: &str) -> Response {
    let request = subscriber
        .get(path)
        .header("Confcast-Min-Revision", revision);
    request.send().await.expect("an answer")
}

#[tokio::test]
async fn a_read_of_a_revision_that_is_there_is_answered_as_ever_and_takes_no_slot() {
    let one = &["--limit-streams=1"];
    check(one, publisher(7, 3), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let stream = subscriber.get("/v1/collections/A/changes");
        let stream = stream.header("accept", "text/event-stream").send().await;
        let stream = stream.expect("a stream");
        assert_eq!(stream.status(), 200);
        for path in [X, "/v1/collections/A/documents", "/v1/collections/A"] {
            let answer = asked(subscriber, path, "7").await;
            assert_eq!(answer.status(), 200, "{path}");
            assert_eq!(header(&answer, "confcast-revision"), "0f86d081-1-7");
            let query = format!("{path}?min-revision=0&timeout=0s");
            assert_eq!(subscriber.fetch(&query).await.status(), 200, "{path}");
        }
        // One that has to wait needs a slot.
        problem(asked(subscriber, X, "8").await, 503, "streams-full").await;
        drop(stream);
    })
    .await;
}

#[tokio::test]
async fn a_revision_that_does_not_come_in_time_is_refused_with_what_is_there() {
    check(&[], publisher(7, 0), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        for path in [X, "/v1/collections/A/documents", "/v1/collections/A"] {
            let path = format!("{path}?min-revision=4611686018427387904&timeout=20ms");
            let answer = subscriber.fetch(&path).await;
            assert_eq!(header(&answer, "confcast-revision"), "0f86d081-1-7");
            assert_eq!(header(&answer, "confcast-state"), "current");
            let problem: Problem = answer.json().await.expect("a problem");
            assert_eq!((problem.status, problem.kind), (504, ProblemKind::NotFresh));
            assert_eq!(problem.field.as_deref(), Some("min-revision"));
            for part in [
                "at revision 7",
                "4611686018427387904",
                "current",
                "ask again",
            ] {
                assert!(problem.detail.contains(part), "{}", problem.detail);
            }
        }
        // What no revision can change is not waited for.
        let unknown = asked(subscriber, "/v1/collections/Unknown/documents/x", "8").await;
        problem(unknown, 404, "unknown-collection").await;
    })
    .await;
}

#[tokio::test]
async fn a_read_waits_for_the_event_and_then_evaluates_its_condition() {
    check(&[], publisher(7, 0), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let tag = header(&subscriber.fetch(X).await, "etag").to_owned();
        let conditional = subscriber.get(&format!("{X}?min-revision=8&timeout=20s"));
        let conditional = conditional.header("if-none-match", tag).send();
        let event = async {
            // A wait that began is not needed: the answer is the same.
            subscriber.event(update("x", 8, &json!({"v": 8}))).await
        };
        let (answer, taken) = tokio::join!(conditional, event);
        assert_eq!(taken, json!({"status": "SUCCESS"}));
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 200, "the tag is no longer that of x");
        let tag = header(&answer, "etag").to_owned();
        let document: Value = answer.json().await.expect("json");
        assert_eq!(document["configData"], json!({"v": 8}));
        let same = subscriber.get(&format!("{X}?min-revision=8"));
        let same = same.header("if-none-match", tag).send().await;
        assert_eq!(same.expect("an answer").status(), 304);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_revision_is_refused_by_name_and_never_ignored() {
    check(&[], publisher(7, 0), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        for (path, revision, field) in [
            (X, "x", "Confcast-Min-Revision"),
            (&format!("{X}?min-revision=2"), "1", "min-revision"),
            (&format!("{X}?timeout=x"), "1", "timeout"),
            ("/v1/snapshot", "1", "Confcast-Min-Revision"),
            ("/v1/collections", "1", "Confcast-Min-Revision"),
            (
                "/v1/collections/A/changes?since=0",
                "1",
                "Confcast-Min-Revision",
            ),
        ] {
            let answer = asked(subscriber, path, revision).await;
            assert_eq!(answer.status(), 400, "{path}");
            let problem: Problem = answer.json().await.expect("a problem");
            assert_eq!(problem.field.as_deref(), Some(field), "{path}");
        }
        let lone = subscriber.fetch(&format!("{X}?timeout=5s")).await;
        problem(lone, 400, "bad-request").await;
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_loads_is_waited_for_and_then_says_that_it_loads() {
    check(
        &[],
        |_path| None,
        async |subscriber| {
            let path = format!("{X}?min-revision=1&timeout=20ms");
            problem(subscriber.fetch(&path).await, 503, "loading").await;
        },
    )
    .await;
}

/// Callers that ask for what never comes cost the publisher no more than events of the same kind.
#[tokio::test]
async fn many_callers_that_ask_for_a_huge_revision_cost_few_check_ins() {
    let check_ins = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&check_ins);
    let reads = publisher(7, 0);
    let answer = move |path: &str| {
        if !path.starts_with("/v1/replicas/") {
            return reads(path);
        }
        counted.fetch_add(1, Ordering::SeqCst);
        let heads: Heads = serde_json::from_str(&reads("/v1/collections")?.1).expect("heads");
        let answer = CheckInAnswer {
            heads: heads.heads,
            ..CheckInAnswer::default()
        };
        Some((200, serde_json::to_string(&answer).expect("json")))
    };
    check(&["--limit-streams=20"], answer, async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let before = check_ins.load(Ordering::SeqCst);
        let begun = Instant::now();
        let path = format!("{X}?min-revision=4611686018427387904&timeout=50ms");
        let mut statuses = Vec::new();
        while begun.elapsed() < Duration::from_millis(1_200) {
            let many = (0..40).map(|_| subscriber.fetch(&path));
            let answers = futures_util::future::join_all(many).await;
            statuses.extend(answers.iter().map(|answer| answer.status().as_u16()));
        }
        let asked = check_ins.load(Ordering::SeqCst) - before;
        let halves = usize::try_from(begun.elapsed().as_millis() / 500).expect("few");
        assert!(asked <= halves + 1, "{asked} in {:?}", begun.elapsed());
        assert!(statuses.iter().all(|status| [503, 504].contains(status)));
        assert!(statuses.contains(&503) && statuses.contains(&504));
    })
    .await;
}
