//! Handlers and typed collections of a replica that runs: which notifications come, when, and in which
//! order.

use serde::Deserialize;
use tokio::sync::{Semaphore, watch};

use super::*;
use crate::{Builder, Collection, HandlerError, Update};

#[derive(Debug, Deserialize)]
struct Flag {
    v: u64,
}

/// The notifications of handlers, in order.
#[derive(Clone, Default)]
struct Notified(Arc<Mutex<Vec<String>>>);

impl Notified {
    fn record(&self, handler: &str, update: &Update<Flag>) {
        let what = match update {
            Update::Resync(all) => {
                let all = all
                    .iter()
                    .map(|(id, flag)| format!("{id}={}", flag.v))
                    .collect::<Vec<_>>()
                    .join(" ");
                format!("all {all}")
            }
            Update::Changed(change) => {
                let value = |value: &Option<Arc<Flag>>| {
                    value
                        .as_ref()
                        .map_or("-".to_owned(), |flag| flag.v.to_string())
                };
                let (before, now) = (value(&change.previous), value(&change.current));
                format!(
                    "{:?} {} {before}>{now} @{}",
                    change.op, change.id, change.revision
                )
            }
        };
        self.0
            .lock()
            .expect("not poisoned")
            .push(format!("{handler}: {what}"));
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("not poisoned").clone()
    }

    fn of(&self, handler: &str) -> Vec<String> {
        let of_it = |line: String| {
            line.strip_prefix(&format!("{handler}: "))
                .map(str::to_owned)
        };
        self.all().into_iter().filter_map(of_it).collect()
    }

    /// A handler that only records its notifications.
    fn listener(
        &self,
        handler: &'static str,
    ) -> impl Fn(Update<Flag>) -> std::future::Ready<Result<(), HandlerError>> + use<> {
        let notified = self.clone();
        move |update| {
            notified.record(handler, &update);
            std::future::ready(Ok(()))
        }
    }
}

/// Runs `test` while a replica with these handlers follows a publisher that has x at revision 7 in
/// the epoch of this number.
async fn with_handlers(
    build: impl FnOnce(Builder) -> Result<Builder, crate::BuildError>,
    test: impl AsyncFnOnce(Replica, Arc<AtomicU64>),
) {
    let epoch = Arc::new(AtomicU64::new(1));
    let now = Arc::clone(&epoch);
    let answer = move |path: &str, _body: &[u8]| {
        let epoch = format!("0f86d081-{}", now.load(Ordering::Relaxed));
        if path.starts_with("/v1/snapshot") {
            return (
                200,
                snapshot_of(&epoch, 7, &[document("x", 7, &json!({"v": 7}))]),
            );
        }
        (200, checked_in(7, &[]).replace(EPOCH, &epoch))
    };
    with_listener(answer, async |url| {
        let replica = build(Builder::new(settings(vec![url])))
            .and_then(Builder::build)
            .expect("a replica");
        following(&replica, test(replica.clone(), epoch)).await;
    })
    .await;
}

async fn send(replica: &Replica, op: &str, text: &str, revision: u64, value: Option<Value>) {
    assert_eq!(
        replica
            .receive(event(op, text, revision, value), None)
            .await,
        EventOutcome::Success
    );
}

async fn update(replica: &Replica, revision: u64) {
    send(
        replica,
        "Update",
        "x",
        revision,
        Some(json!({"v": revision})),
    )
    .await;
}

fn state_of(replica: &Replica, index: usize) -> (&'static str, u64) {
    let row = replica.status().handlers.swap_remove(index);
    let state = match row.state {
        contract::status::HandlerState::Waiting => "waiting",
        contract::status::HandlerState::InStep => "in step",
        contract::status::HandlerState::Failing => "failing",
    };
    (state, row.revision)
}

#[tokio::test]
async fn a_resync_comes_first_and_then_each_change() {
    let notified = Notified::default();
    let build = |builder: Builder| {
        builder
            .handler("SecondA", notified.listener("second"))?
            .handler("FirstA", notified.listener("first"))
    };
    with_handlers(build, async |replica, _epoch| {
        eventually("notified", || notified.all().len() == 2).await;
        assert_eq!(
            notified.all(),
            ["second: all x=7", "first: all x=7"],
            "in the order of registration"
        );
        update(&replica, 8).await;
        eventually("notified", || notified.all().len() == 4).await;
        send(&replica, "Create", "y", 9, Some(json!({"v": 9}))).await;
        eventually("notified", || notified.all().len() == 6).await;
        send(&replica, "Delete", "x", 10, None).await;
        eventually("notified", || notified.all().len() == 8).await;
        let expected = [
            "all x=7",
            "Update x 7>8 @8",
            "Create y ->9 @9",
            "Delete x 8>- @10",
        ];
        assert_eq!(
            (notified.of("first"), notified.of("second")),
            (expected.map(str::to_owned).to_vec(), notified.of("first"))
        );
        eventually("in step", || state_of(&replica, 1) == ("in step", 10)).await;
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_fails_gets_a_resync_and_delays_no_other() {
    let (notified, fails) = (Notified::default(), watch::Sender::new(true));
    let failing = {
        let (notified, fails) = (notified.clone(), fails.subscribe());
        move |update: Update<Flag>| {
            notified.record("failing", &update);
            std::future::ready(if *fails.borrow() {
                Err("no room".into())
            } else {
                Ok(())
            })
        }
    };
    let build = |builder: Builder| {
        builder
            .handler("FailingA", failing)?
            .handler("A", notified.listener("good"))
    };
    with_handlers(build, async |replica, _epoch| {
        eventually("notified", || notified.of("good").len() == 1).await;
        eventually("failing", || state_of(&replica, 0) == ("failing", 0)).await;
        assert_eq!(
            replica.status().handlers[0].error.as_deref(),
            Some("no room")
        );
        update(&replica, 8).await;
        eventually("notified", || notified.of("good").len() == 2).await;
        let before = notified.of("failing").len();
        eventually("notified again", || notified.of("failing").len() > before).await;
        assert!(
            notified
                .of("failing")
                .iter()
                .all(|line| line.starts_with("all")),
            "no change before it succeeded"
        );
        fails.send_replace(false);
        eventually("in step", || state_of(&replica, 0) == ("in step", 8)).await;
        let resyncs = notified.of("failing").len();
        assert_eq!(
            notified.of("failing").last().map(String::as_str),
            Some("all x=8")
        );

        fails.send_replace(true);
        update(&replica, 9).await;
        eventually("notified", || notified.of("failing").get(resyncs).is_some()).await;
        assert_eq!(notified.of("failing")[resyncs], "Update x 8>9 @9");
        fails.send_replace(false);
        eventually("in step", || state_of(&replica, 0) == ("in step", 9)).await;
        assert_eq!(
            notified.of("failing").last().map(String::as_str),
            Some("all x=9"),
            "a failed change leads to a resync"
        );
        assert_eq!(
            notified.of("good"),
            ["all x=7", "Update x 7>8 @8", "Update x 8>9 @9"]
        );
        assert_eq!(
            counts(&replica).retried,
            0,
            "the broker does not learn of it"
        );
    })
    .await;
}

#[tokio::test]
async fn a_slow_handler_delays_no_other_and_gets_the_newest_value() {
    let (notified, permits) = (Notified::default(), Arc::new(Semaphore::new(1)));
    let slow = {
        let (notified, permits) = (notified.clone(), Arc::clone(&permits));
        move |update: Update<Flag>| {
            notified.record("slow", &update);
            let permits = Arc::clone(&permits);
            async move {
                permits.acquire().await?.forget();
                Ok(())
            }
        }
    };
    let build = |builder: Builder| {
        builder
            .handler("SlowA", slow)?
            .handler("A", notified.listener("fast"))
    };
    with_handlers(build, async |replica, _epoch| {
        eventually("both are in step", || {
            [0, 1].map(|index| state_of(&replica, index).0) == ["in step"; 2]
        })
        .await;
        let flags: Collection<Flag> = replica.collection("A").expect("it is typed");
        update(&replica, 8).await;
        eventually("its call is under way", || notified.of("slow").len() == 2).await;
        for revision in 9..60 {
            update(&replica, revision).await;
            eventually("read", || {
                flags.get("x").is_some_and(|flag| flag.v == revision)
            })
            .await;
            eventually("notified", || {
                notified.of("fast").last()
                    == Some(&format!("Update x {}>{revision} @{revision}", revision - 1))
            })
            .await;
        }
        assert_eq!(notified.of("slow"), ["all x=7", "Update x 7>8 @8"]);
        permits.add_permits(2);
        eventually("notified", || notified.of("slow").len() == 3).await;
        assert_eq!(
            notified.of("slow")[2],
            "Update x 8>59 @59",
            "the changes in between are left out"
        );
        eventually("in step", || state_of(&replica, 0) == ("in step", 59)).await;
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_panics_fails_alone() {
    let (notified, panics) = (Notified::default(), watch::Sender::new(true));
    let panicking = {
        let (notified, panics) = (notified.clone(), panics.subscribe());
        move |update: Update<Flag>| {
            notified.record("panicking", &update);
            assert!(!*panics.borrow(), "as it is asked to");
            std::future::ready(Ok(()))
        }
    };
    let build = |builder: Builder| {
        builder
            .handler("PanickingA", panicking)?
            .handler("A", notified.listener("good"))
    };
    with_handlers(build, async |replica, _epoch| {
        eventually("notified", || notified.of("good").len() == 1).await;
        assert_eq!(
            replica.status().handlers[0].error.as_deref(),
            Some("it panicked: as it is asked to")
        );
        panics.send_replace(false);
        eventually("in step", || state_of(&replica, 0) == ("in step", 7)).await;
    })
    .await;
}

#[tokio::test]
async fn later_handlers_do_not_wait_for_one_that_hangs() {
    let notified = Notified::default();
    let hang = |_update: Update<Flag>| std::future::pending();
    let build = |builder: Builder| {
        builder
            .patience(Duration::from_millis(20))
            .handler("HangingA", hang)?
            .handler("A", notified.listener("good"))
    };
    with_handlers(build, async |replica, epoch| {
        eventually("notified", || notified.of("good").len() == 1).await;
        assert_eq!(state_of(&replica, 0), ("waiting", 0));
        epoch.store(2, Ordering::Relaxed);
        replica
            .receive(json!({"collection": "A", "op": "Delete", "id": "x"}), None)
            .await;
        eventually("notified of the new history", || {
            notified.of("good").len() == 2
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_new_history_leads_to_resyncs_in_the_order_of_registration() {
    let notified = Notified::default();
    let build = |builder: Builder| {
        builder
            .handler("A", notified.listener("first"))?
            .handler("BothA", notified.listener("second"))
    };
    with_handlers(build, async |replica, epoch| {
        eventually("notified", || notified.all().len() == 2).await;
        update(&replica, 8).await;
        eventually("notified", || notified.all().len() == 4).await;
        epoch.store(2, Ordering::Relaxed);
        replica
            .receive(json!({"collection": "A", "op": "Delete", "id": "x"}), None)
            .await;
        eventually("notified", || notified.all().len() == 6).await;
        assert_eq!(notified.all()[4..], ["first: all x=7", "second: all x=7"]);
    })
    .await;
}

#[tokio::test]
async fn a_call_that_is_under_way_at_the_stop_may_finish() {
    let (permits, finished) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (held, done) = (Arc::clone(&permits), Arc::clone(&finished));
    let handler = move |_update: Update<Flag>| {
        let (permits, finished) = (Arc::clone(&held), Arc::clone(&done));
        async move {
            finished.fetch_add(1, Ordering::Relaxed);
            permits.acquire().await?.forget();
            finished.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    };
    with_listener(
        |_path, _body| (200, snapshot_of(EPOCH, 7, &[])),
        async |url| {
            let builder = Builder::new(settings(vec![url])).handler("A", handler);
            let replica = builder.and_then(Builder::build).expect("a replica");
            let stop = async {
                eventually("its call is under way", || {
                    finished.load(Ordering::Relaxed) == 1
                })
                .await;
                permits.add_permits(1);
            };
            replica.run(stop).await;
            assert_eq!(finished.load(Ordering::Relaxed), 2);
        },
    )
    .await;
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_reported_and_the_last_good_one_stays() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&reports);
    let answer = move |path: &str, body: &[u8]| {
        if path.starts_with("/v1/snapshot") {
            return (
                200,
                snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]),
            );
        }
        let report: Value = serde_json::from_slice(body).expect("a report");
        log.lock().expect("not poisoned").push(report);
        (200, checked_in(7, &[]))
    };
    with_listener(answer, async |url| {
        let config = crate::Config {
            check_in: Duration::from_millis(50),
            ..settings(vec![url])
        };
        let builder = Builder::new(config)
            .collection::<Flag>("A")
            .and_then(|builder| {
                builder.handler("A", |_update: Update<Flag>| {
                    std::future::ready(Err("never".into()))
                })
            });
        let replica = builder.and_then(Builder::build).expect("a replica");
        let flags: Collection<Flag> = replica.collection("A").expect("it is typed");
        following(&replica, async {
            replica.ready().await.expect("every value fits");
            let (pin, snapshot) = (replica.pin(), flags.snapshot());
            send(&replica, "Update", "x", 8, Some(json!({"v": "eight"}))).await;
            let refusals = || replica.status().collections[0].refusals.clone();
            eventually("refused", || refusals().len() == 1).await;
            assert_eq!(
                (refusals()[0].revision, refusals()[0].pointer.as_str()),
                (8, "/v")
            );
            assert_eq!(
                (
                    flags.get("x").map(|flag| flag.v),
                    held(&replica, "x").as_deref()
                ),
                (Some(7), Some(r#"{"v":"eight"}"#))
            );
            eventually("reported", || {
                reports.lock().expect("not poisoned").iter().any(|report| {
                    let refusal = &report["collections"]["A"]["refusals"][0];
                    refusal["id"] == "x"
                        && refusal["pointer"] == "/v"
                        && report["handlers"][0]["state"] == "failing"
                })
            })
            .await;
            send(&replica, "Update", "x", 9, Some(json!({"v": 9}))).await;
            eventually("taken", || {
                flags.get(id("x")).is_some_and(|flag| flag.v == 9)
            })
            .await;
            assert!(refusals().is_empty());
            let pinned = pin.collection::<Flag>("A").expect("it is typed");
            assert_eq!(
                (
                    pinned.get("x").map(|flag| flag.v),
                    pinned.revision(),
                    pinned.len()
                ),
                (Some(7), 7, 1)
            );
            assert_eq!(
                (snapshot.revision(), snapshot.epoch()),
                (7, Some(EPOCH.parse().expect("an epoch")))
            );
            assert_eq!((flags.len(), flags.snapshot().revision()), (1, 9));
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn the_state_can_be_waited_for() {
    let body = snapshot_of(EPOCH, 7, &[]);
    let answer = move |path: &str, _body: &[u8]| {
        if path.starts_with("/v1/snapshot") {
            (200, body.clone())
        } else {
            not_found()
        }
    };
    with_listener(answer, async |url| {
        let config = crate::Config {
            check_in: Duration::from_millis(40),
            ..settings(vec![url])
        };
        let replica = Replica::new(config).expect("a client");
        let mut states = replica.states();
        assert_eq!(*states.borrow(), ReplicaState::Loading);
        following(&replica, async {
            states
                .wait_for(|state| *state == ReplicaState::Current)
                .await
                .expect("it runs");
            // Check-ins get no answer: the replica becomes stale by time alone.
            states
                .wait_for(|state| *state == ReplicaState::Stale)
                .await
                .expect("it runs");
            let gap = event("Update", "x", 9, Some(json!({"v": 9})));
            assert_eq!(replica.receive(gap, None).await, EventOutcome::Success);
            states
                .wait_for(|state| *state == ReplicaState::Behind)
                .await
                .expect("it runs");
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_pin_shows_a_set_whole_or_not_at_all() {
    let build = |builder: Builder| builder.collection::<Flag>("A")?.collection::<Flag>("B");
    with_handlers(build, async |replica, _epoch| {
        // Number n of sets: revision 7 + n of A and n of B.
        let set = async |number: u64, of_b: Value| {
            let parts = json!([
                {"collection": "A", "first": 7 + number, "last": 7 + number},
                {"collection": "B", "first": number, "last": number},
            ]);
            let mut of_a = event("Update", "x", 7 + number, Some(json!({"v": number})));
            let mut of_b = event("Update", "x", number, Some(json!({"v": of_b})));
            of_b["collection"] = json!("B");
            of_a["lastSet"] = json!(if number == 1 { 0 } else { 6 + number });
            of_b["lastSet"] = json!(number - 1);
            for mut part in [of_a, of_b] {
                part["changeSet"] = json!({"id": number.to_string(), "parts": parts});
                assert_eq!(replica.receive(part, None).await, EventOutcome::Success);
            }
        };
        let shown = || {
            let pin = replica.pin();
            let value = |name| {
                pin.collection::<Flag>(name)
                    .expect("it is typed")
                    .get("x")
                    .map(|flag| flag.v)
            };
            (value("A"), value("B"))
        };
        replica.ready().await.expect("every value fits");
        assert_eq!(shown(), (Some(7), None));
        for number in 1..20 {
            set(number, json!(number)).await;
            eventually("shown", || {
                let (a, b) = shown();
                assert!(a == b || number == 1, "half of a set: {a:?} {b:?}");
                b == Some(number)
            })
            .await;
        }
        set(20, json!("twenty")).await;
        eventually("refused", || {
            replica.status().collections[1].refusals.len() == 1
        })
        .await;
        assert_eq!(
            (shown(), held(&replica, "x").as_deref()),
            ((Some(19), Some(19)), Some(r#"{"v":20}"#))
        );
        set(21, json!(21)).await;
        eventually("shown", || shown() == (Some(21), Some(21))).await;
    })
    .await;
}
