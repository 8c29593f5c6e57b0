//! Waits for replicas: arguments, what is printed, and waits at a fake publisher.

use clap::Parser;
use contract::{
    ProblemKind,
    applied::{NotApplied, NotAppliedReason},
};

use super::*;
use crate::fake_publisher::{FakePublisher, collection};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    wait: WaitArgs,
    file: Option<String>,
}

fn parsed(line: &str) -> Result<WaitArgs, clap::Error> {
    Line::try_parse_from(format!("put {line}").split_whitespace()).map(|line| line.wait)
}

/// An answer for three replicas.
fn answer(applied: u64, waited_ms: u64) -> Applied {
    let json = serde_json::json!({
        "wait": "all", "reached": applied == 3, "replicas": 3, "applied": applied, "waitedMs": waited_ms,
    });
    serde_json::from_value(json).expect("an answer")
}

/// The answer to the write of a document, with what it says of replicas.
fn written(applied: Option<Applied>) -> Written {
    Written {
        id: "a".parse().expect("an id"),
        revision: 42,
        crc: None,
        changed: true,
        applied,
    }
}

fn behind(instance: &str) -> NotApplied {
    NotApplied {
        instance: instance.to_owned(),
        reason: NotAppliedReason::Behind,
        revision: 41,
        detail: "its last check-in reports 41".to_owned(),
    }
}

#[test]
fn a_wait_without_a_value_is_for_all_and_has_a_bound() {
    for (line, wait, timeout) in [
        ("file", None, 5_000),
        ("file --wait", Some(WaitFor::All), 5_000),
        ("--wait=all file", Some(WaitFor::All), 5_000),
        ("--wait file", Some(WaitFor::All), 5_000),
        ("--wait=3 file", Some(WaitFor::Replicas(3)), 5_000),
        (
            "file --wait=90% --timeout 60s",
            Some(WaitFor::Percent(90)),
            60_000,
        ),
        ("file --wait --timeout 250ms", Some(WaitFor::All), 250),
    ] {
        let args = parsed(line).expect(line);
        let found = (args.wait, args.timeout);
        assert_eq!(found, (wait, Duration::from_millis(timeout)), "{line}");
    }
    for (line, reason) in [
        ("file --wait=0", "a number of replicas"),
        ("file --wait=101%", "1% to 100%"),
        ("--wait=file", "a number of replicas"),
        ("file --wait --timeout 61s", "up to 60 s"),
        ("file --wait --timeout 5", "5s, 500ms"),
        ("file --timeout 5s", "--wait"),
    ] {
        let error = parsed(line).expect_err(line).to_string();
        assert!(error.contains(reason), "{line}: {error}");
    }
}

#[test]
fn the_result_says_how_many_replicas_and_after_which_time() {
    assert_eq!(
        reached(&answer(3, 7)),
        "applied by 3 of 3 replicas after 7 ms"
    );
    let none = Applied {
        replicas: 0,
        applied: 0,
        ..answer(3, 0)
    };
    assert!(reached(&none).contains("no live replica"));
    let late = Applied {
        missing: vec![behind("r-1"), behind("r-2")],
        ..answer(1, 5_000)
    };
    assert_eq!(
        not_reached(&late, "A: "),
        "A: the write is committed and stays, but it is applied by 1 of 3 replicas after 5000 ms, and \
         --wait=all asks for more"
    );
    assert!(not_reached(&answer(1, 0), "").ends_with("takes the right observe"));
    let unlisted = Applied {
        reached: false,
        unlisted: 2,
        ..answer(3, 0)
    };
    assert!(
        not_reached(&unlisted, "")
            .ends_with("of 2 more nothing is known, because the list of the publisher is full")
    );
    let shortened = Applied {
        replicas: 200,
        ..late.clone()
    };
    assert!(not_reached(&shortened, "").ends_with("197 more are not listed"));
    let gone = Applied {
        gone: 2,
        ..answer(3, 7)
    };
    assert!(reached(&gone).ends_with("; 2 replicas are gone and were not counted"));
    let few = Applied {
        reached: false,
        wait: WaitFor::Replicas(4),
        ..answer(3, 7)
    };
    assert!(not_reached(&few, "").ends_with("; no more than 3 are live"));
    let shown = table(&late.missing).text();
    for text in ["r-1", "r-2", "behind", "41", "its last check-in"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}

#[tokio::test]
async fn the_first_answer_of_several_that_was_in_vain_is_the_result() {
    let fake = FakePublisher::start().await;
    let publisher = fake.endpoint();
    let (good, late) = (answer(3, 7), answer(1, 9));
    let args = parsed("--wait").expect("valid");
    let finish = |answers: Vec<Option<&Applied>>, json| args.finish(&publisher, answers, json);
    finish(vec![Some(&good), Some(&good)], false).expect("all reached");
    for json in [false, true] {
        let error = finish(vec![Some(&good), Some(&late)], json).expect_err("one is late");
        assert!(error.to_string().contains("after 16 ms"), "{error}");
    }
    let error = finish(vec![Some(&good), None], false).expect_err("one is unknown");
    assert!(error.to_string().contains("is committed"), "{error}");
    let without = parsed("").expect("valid");
    without
        .finish(&publisher, [None], false)
        .expect("not asked");
}

#[tokio::test]
async fn a_wait_goes_on_after_its_write_until_it_is_reached() {
    let fake = FakePublisher::start().await;
    let publisher = fake.endpoint();
    let collection = collection();
    let args = parsed("--wait=90% --timeout 60s").expect("valid");
    // The write has waited long enough for all: nothing is asked.
    args.follow(&publisher, &collection, written(Some(answer(3, 7))))
        .await
        .expect("reached");
    assert_eq!(fake.applied_queries(), [""; 0]);
    fake.will_answer_applied([
        Ok(answer(1, 1_000)),
        Err(ProblemKind::StreamsFull),
        Ok(answer(3, 10)),
    ]);
    args.follow(&publisher, &collection, written(Some(answer(1, 1_000))))
        .await
        .expect("reached in the end");
    let queries = fake.applied_queries();
    assert_eq!(
        queries, ["wait=90%25&timeout=1000ms&revision=42&id=a"; 3],
        "{queries:?}"
    );
}

#[tokio::test]
async fn a_wait_that_fails_says_that_the_write_stays() {
    let fake = FakePublisher::start().await;
    let publisher = fake.endpoint();
    let collection = collection();
    let args = parsed("--wait --timeout 100ms").expect("valid");
    // Its write has used up the time.
    let error = args
        .follow(&publisher, &collection, written(Some(answer(1, 100))))
        .await;
    let error = error.expect_err("not reached").to_string();
    assert!(error.contains("is committed and stays"), "{error}");
    let error = args.follow(&publisher, &collection, written(None)).await;
    let error = error.expect_err("not known").to_string();
    assert!(error.contains("is committed and stays"), "{error}");

    fake.will_answer_applied([Ok(answer(2, 0))]);
    let late = parsed("--wait --timeout 0s").expect("valid");
    let error = late.until_applied(&publisher, [(&collection, &42)]).await;
    let error = error.expect_err("not reached").to_string();
    assert!(error.starts_with("ChannelConfiguration: "), "{error}");

    fake.will_answer_applied([Err(ProblemKind::Forbidden)]);
    let error = args
        .follow(&publisher, &collection, written(Some(answer(1, 0))))
        .await;
    let error = error.expect_err("not allowed").to_string();
    assert!(error.contains("revision 42 of"), "{error}");
}
