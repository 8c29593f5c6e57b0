//! A first load whose values do not fit the type of the service is not a success: state, readiness
//! and check-ins say so.

use std::pin::pin;

use futures_util::FutureExt;
use serde::Deserialize;

use super::*;
use crate::{Builder, Collection, FirstLoad, NotReady, Update};

/// Documents of the first load whose values do not fit.
const REFUSED: usize = 1_002;

#[derive(Debug, Deserialize)]
struct Flag {
    v: u64,
}

/// The reports of a replica, in order.
type Reports = Arc<Mutex<Vec<Value>>>;

/// Runs `test` while a replica that reads A as flags follows a publisher with these documents in A,
/// at this revision.
async fn with_flags(
    revision: u64,
    documents: Vec<Document>,
    first_load: FirstLoad,
    test: impl AsyncFnOnce(Replica, Reports),
) {
    let reports = Reports::default();
    let log = Arc::clone(&reports);
    let answer = move |path: &str, body: &[u8]| {
        if path.starts_with("/v1/snapshot") {
            return (200, snapshot_of(EPOCH, revision, &documents));
        }
        let report: Value = serde_json::from_slice(body).expect("a report");
        log.lock().expect("not poisoned").push(report);
        (200, checked_in(revision, &[]))
    };
    with_listener(answer, async |url| {
        // Long enough for a slow machine: a replica is stale after 2.5 intervals.
        let config = Config {
            check_in: Duration::from_secs(2),
            ..settings(vec![url])
        };
        let replica = Builder::new(config)
            .collection::<Flag>("A")
            .and_then(|builder| builder.first_load(first_load).build())
            .expect("a replica");
        following(&replica, test(replica.clone(), reports)).await;
    })
    .await;
}

/// Documents of which none is a flag.
fn no_flags() -> Vec<Document> {
    (1..=REFUSED)
        .map(|number| {
            let number_as_text = json!({"v": number.to_string()});
            document(&format!("x{number:04}"), number as u64, &number_as_text)
        })
        .collect()
}

/// The state of a replica and of its collections A and B.
fn states_of(replica: &Replica) -> (ReplicaState, ReplicaState, ReplicaState) {
    let status = replica.status();
    (
        status.state,
        status.collections[0].state,
        status.collections[1].state,
    )
}

#[tokio::test]
async fn a_first_load_of_which_nothing_fits_is_partial_and_not_ready() {
    let refused = REFUSED as u64;
    with_flags(refused, no_flags(), FirstLoad::Whole, async |replica, reports| {
        let flags: Collection<Flag> = replica.collection("A").expect("it is typed");
        assert_eq!(replica.readiness(), Err(NotReady::Loading));
        let error = replica.ready().await.expect_err("nothing fits");
        assert_eq!(
            (flags.len(), replica.readiness()),
            (0, Err(error.clone())),
            "it is not ready as long as this stays"
        );
        let text = error.to_string();
        assert!(
            text.starts_with("1002 of the loaded documents have no value, because they do not fit their types: \
                 A/x0001 at revision 1, \"/v\": invalid type: string \"1\", expected u64")
                && text.ends_with("; and 999 more"),
            "{text}"
        );
        let mut states = replica.states();
        states
            .wait_for(|state| *state == ReplicaState::Partial)
            .await
            .expect("it runs");
        use ReplicaState::{Current, Partial};
        assert_eq!(
            states_of(&replica),
            (Partial, Partial, Current),
            "B has no type"
        );
        eventually("reported", || {
            let reports = reports.lock().expect("not poisoned");
            reports
                .last()
                .is_some_and(|report| report["collections"]["A"]["state"] == "partial")
        })
        .await;
        let of_a = replica.status().collections.remove(0);
        assert_eq!((of_a.refused_values, of_a.refusals.len()), (refused, 20));
        let reported = reports.lock().expect("not poisoned").last().cloned();
        let of_a = reported.map(|mut report| report["collections"]["A"].take());
        assert!(
            of_a.as_ref().is_some_and(|of_a| of_a["refusedValues"] == refused
                && of_a["refusals"].as_array().is_some_and(|listed| listed.len() == 20)),
            "the number is exact, whatever is listed: {of_a:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn failing_handlers_are_counted_and_listed_first() {
    let reports = Reports::default();
    let log = Arc::clone(&reports);
    let answer = move |path: &str, body: &[u8]| {
        if path.starts_with("/v1/snapshot") {
            return (200, snapshot_of(EPOCH, 7, &[]));
        }
        let report: Value = serde_json::from_slice(body).expect("a report");
        log.lock().expect("not poisoned").push(report);
        (200, checked_in(7, &[]))
    };
    with_listener(answer, async |url| {
        let config = Config {
            check_in: Duration::from_millis(50),
            ..settings(vec![url])
        };
        let mut builder = Builder::new(config);
        // More than a report has room for; the last two fail.
        for number in 0..60 {
            let result = move |_update: Update<Flag>| {
                std::future::ready(if number < 58 {
                    Ok(())
                } else {
                    Err("no".into())
                })
            };
            builder = builder
                .handler(&format!("H{number}A"), result)
                .expect("a handler");
        }
        let replica = builder.build().expect("a replica");
        following(&replica, async {
            eventually("reported", || {
                let reports = reports.lock().expect("not poisoned");
                reports.last().is_some_and(|report| {
                    report["failingHandlers"] == 2
                        && report["handlers"][0]["name"] == "H58A"
                        && report["handlers"][1]["name"] == "H59A"
                        && report["handlers"].as_array().map(Vec::len) == Some(50)
                })
            })
            .await;
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_service_that_goes_on_with_what_fits_is_ready_and_still_partial() {
    let mut documents = no_flags();
    let revision = REFUSED as u64 + 1;
    documents.push(document("good", revision, &json!({"v": 7})));
    with_flags(
        revision,
        documents,
        FirstLoad::Partial,
        async |replica, _reports| {
            let flags: Collection<Flag> = replica.collection("A").expect("it is typed");
            assert_eq!(replica.ready().await, Ok(()));
            assert_eq!(flags.get("good").map(|flag| flag.v), Some(7));
            assert_eq!(states_of(&replica).0, ReplicaState::Partial);
        },
    )
    .await;
}

#[tokio::test]
async fn a_correction_makes_the_replica_ready_and_a_later_refusal_does_not_end_that() {
    let documents = vec![document("x", 7, &json!({"v": "seven"}))];
    with_flags(7, documents, FirstLoad::Whole, async |replica, _reports| {
        assert!(matches!(replica.ready().await, Err(NotReady::Partial(_))));
        let send = async |text: &str, revision: u64, value: Value| {
            let event = event("Update", text, revision, Some(value));
            assert_eq!(replica.receive(event, None).await, EventOutcome::Success);
        };
        send("x", 8, json!({"v": 8})).await;
        eventually("corrected", || {
            replica.readiness().is_ok() && states_of(&replica).0 == ReplicaState::Current
        })
        .await;
        // The document keeps its last good value: nothing is missing.
        send("x", 9, json!({"v": "nine"})).await;
        eventually("refused", || {
            replica.status().collections[0].refusals.len() == 1
        })
        .await;
        assert_eq!(states_of(&replica).0, ReplicaState::Current);
        // Of a new one there has never been a value, and the service has begun to work.
        send("y", 10, json!({"v": "ten"})).await;
        eventually("partial", || states_of(&replica).0 == ReplicaState::Partial).await;
        assert_eq!(
            (replica.readiness(), replica.ready().await),
            (Ok(()), Ok(()))
        );
    })
    .await;
}

#[tokio::test]
async fn no_state_but_loading_is_shown_before_the_values_can_be_read() {
    let documents = vec![document("x", 7, &json!({"v": 7}))];
    with_flags(7, documents, FirstLoad::Whole, async |replica, _reports| {
        let flags: Collection<Flag> = replica.collection("A").expect("it is typed");
        let mut states = replica.states();
        let mut loaded = pin!(states.wait_for(|state| *state != ReplicaState::Loading));
        assert!(loaded.as_mut().now_or_never().is_none());
        loaded.await.expect("it runs");
        assert_eq!(flags.get("x").map(|flag| flag.v), Some(7));
    })
    .await;
}
