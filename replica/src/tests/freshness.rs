//! Waiting for a revision: at once, after an event, after a check-in that it leads to, or in vain.

use super::*;
use crate::{Builder, NotFresh};

/// Long enough that no test waits for it unless it fails.
fn later() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// A publisher of A at a revision that the test moves; it counts check-ins. The feed has all changes.
fn publisher(
    revision: Arc<AtomicU64>,
    check_ins: Arc<AtomicUsize>,
) -> impl Fn(&str, &[u8]) -> (u16, String) + Send + Sync {
    move |path, _body| {
        let now = revision.load(Ordering::SeqCst);
        if path == "/v1/replicas/test" {
            check_ins.fetch_add(1, Ordering::SeqCst);
            return (200, checked_in(now, &[]));
        }
        let since = path
            .strip_prefix("/v1/changes?since=A:")
            .and_then(|rest| rest.split('&').next()?.parse::<u64>().ok());
        if let Some(since) = since {
            let changes = (since + 1..=now).map(|n| change("x", n, Some(json!({"v": n}))));
            return (200, feed_of(changes.collect(), false));
        }
        let documents = [document("x", 1, &json!({"v": 1}))];
        (200, snapshot_of(EPOCH, 1, &documents))
    }
}

/// Runs `test` with a replica at revision 1 whose next check-in is ten minutes away.
async fn at_one(test: impl AsyncFnOnce(&Replica, &AtomicU64, &AtomicUsize)) {
    let revision = Arc::new(AtomicU64::new(1));
    let check_ins = Arc::new(AtomicUsize::new(0));
    let answer = publisher(Arc::clone(&revision), Arc::clone(&check_ins));
    with_listener(answer, async |url| {
        let builder = Builder::new(settings(vec![url]));
        let builder = builder.collection::<Value>("A").expect("a type");
        let replica = builder.build().expect("a replica");
        following(&replica, async {
            replica.ready().await.expect("a load");
            eventually("the first check-in", || {
                check_ins.load(Ordering::SeqCst) > 0
            })
            .await;
            test(&replica, &revision, &check_ins).await;
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_revision_that_is_there_is_not_waited_for() {
    at_one(async |replica, _revision, check_ins| {
        let before = check_ins.load(Ordering::SeqCst);
        for revision in [0, 1] {
            let waited = replica
                .wait_for_revision(&name("A"), revision, Instant::now())
                .await;
            assert_eq!(waited, Ok(()));
        }
        assert_eq!(check_ins.load(Ordering::SeqCst), before, "nobody is asked");
    })
    .await;
}

/// No event comes, so the replica asks; the values follow the documents.
#[tokio::test]
async fn a_replica_that_lacks_the_revision_asks_its_publisher_at_once() {
    at_one(async |replica, revision, _check_ins| {
        let values = replica.collection::<Value>("A").expect("typed");
        for wanted in 2..=4 {
            revision.store(wanted, Ordering::SeqCst);
            let waited = replica.wait_for_revision(&name("A"), wanted, later()).await;
            assert_eq!(waited, Ok(()));
            let value = values.get("x").expect("a value");
            assert_eq!(*value, json!({"v": wanted}));
        }
    })
    .await;
}

#[tokio::test]
async fn a_revision_that_an_event_brings_later_is_waited_for() {
    at_one(async |replica, _revision, _check_ins| {
        let collection = name("A");
        let event = event("Update", "x", 2, Some(json!({"v": 2})));
        let (waited, received) = tokio::join!(
            replica.wait_for_revision(&collection, 2, later()),
            replica.receive(event, None),
        );
        assert_eq!((waited, received), (Ok(()), EventOutcome::Success));
    })
    .await;
}

#[tokio::test]
async fn a_wait_in_vain_says_what_is_there() {
    at_one(async |replica, _revision, _check_ins| {
        let soon = Instant::now() + Duration::from_millis(20);
        let waited = replica.wait_for_revision(&name("A"), 1 << 62, soon).await;
        let late = NotFresh::Late {
            collection: name("A"),
            wanted: 1 << 62,
            held: 1,
            state: ReplicaState::Current,
        };
        assert_eq!(waited, Err(late));
        let waited = replica.wait_for_revision(&name("Other"), 1, later()).await;
        assert_eq!(waited, Err(NotFresh::NotFollowed(name("Other"))));
    })
    .await;
}

#[tokio::test]
async fn many_that_wait_for_a_revision_which_never_comes_cost_two_check_ins_a_second() {
    at_one(async |replica, _revision, check_ins| {
        let before = check_ins.load(Ordering::SeqCst);
        let begun = Instant::now();
        let mut waits = 0;
        while begun.elapsed() < Duration::from_millis(1_500) {
            let soon = Instant::now() + Duration::from_millis(5);
            let collection = name("A");
            let many = (0..50).map(|_| replica.wait_for_revision(&collection, 1 << 62, soon));
            waits += futures_util::future::join_all(many).await.len();
        }
        let asked = check_ins.load(Ordering::SeqCst) - before;
        let halves = usize::try_from(begun.elapsed().as_millis() / 500).expect("few");
        assert!(waits > 100 && asked <= halves + 1, "{asked} for {waits}");
    })
    .await;
}
