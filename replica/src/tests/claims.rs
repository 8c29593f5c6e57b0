//! What events claim about revisions that no publisher confirmed, and the proofs that a replica
//! hands back.

use contract::{
    Proof,
    fleet::{CheckIn, CheckInAnswer, ResyncReason},
};

use super::*;
use crate::RawCollection as Collection;

fn proof(number: u32) -> Option<Proof> {
    Some(format!("{number:040x}").parse().expect("a proof"))
}

/// A publisher whose head of A can be moved; it counts its check-ins and keeps the last one.
#[derive(Default)]
struct Publisher {
    revision: AtomicU64,
    check_ins: AtomicUsize,
    last: Mutex<Option<CheckIn>>,
}

impl Publisher {
    fn at(revision: u64) -> Arc<Self> {
        Arc::new(Self {
            revision: AtomicU64::new(revision),
            ..Self::default()
        })
    }

    fn proven_head(&self) -> Head {
        let revision = self.revision.load(Ordering::Relaxed);
        Head {
            proof: proof(revision as u32),
            ..head("A", EPOCH, revision, &[])
        }
    }

    fn answer(&self, path: &str, body: &[u8]) -> (u16, String) {
        if path.starts_with("/v1/replicas/") {
            let check_in: CheckIn = serde_json::from_slice(body).expect("a check-in");
            let head = self.proven_head();
            let row = &check_in.collections[&name("A")];
            // As a publisher answers: a proof that it did not make refutes the revision.
            let wrong = row.known > head.revision && row.proof != proof(row.known as u32);
            let resync = wrong.then(|| (name("A"), ResyncReason::Unproven));
            let answer = CheckInAnswer {
                report_after_ms: Some(50),
                heads: vec![head, head_of_b()],
                resync: resync.into_iter().collect(),
                ..Default::default()
            };
            *self.last.lock().expect("not poisoned") = Some(check_in);
            self.check_ins.fetch_add(1, Ordering::Relaxed);
            return (200, serde_json::to_string(&answer).expect("json"));
        }
        let revision = self.revision.load(Ordering::Relaxed);
        if let Some((_path, since)) = path.split_once("since=") {
            let since: u64 = since
                .split(['&', '%', ':', ';', ','])
                .find_map(|part| part.parse().ok())
                .unwrap_or(0);
            let items = (since + 1..=revision).map(record).collect();
            return (200, feed_of(items, false));
        }
        (200, snapshot_of(EPOCH, revision, &[]))
    }

    fn reported(&self) -> Option<CheckIn> {
        self.last.lock().expect("not poisoned").clone()
    }
}

fn head_of_b() -> Head {
    head("B", EPOCH, 0, &[])
}

/// Deletions, so that no digest has to be known.
fn record(revision: u64) -> Change {
    Change {
        proof: proof(revision as u32),
        ..change("x", revision, None)
    }
}

async fn with(publisher: &Arc<Publisher>, test: impl AsyncFnOnce(Replica)) {
    let answers = Arc::clone(publisher);
    with_listener(
        move |path, body| answers.answer(path, body),
        async |url| {
            let replica = replica(vec![url]);
            let running = replica.clone();
            following(&running, test(replica)).await;
        },
    )
    .await;
}

fn watermark(replica: &Replica) -> u64 {
    let view = replica.view();
    let held = view.root().collection(&name("A")).expect("followed");
    held.watermark()
}

/// One forged event named a revision that does not exist, and the replica was behind for ever.
#[tokio::test]
async fn a_far_revision_is_neither_shown_nor_reported() {
    let publisher = Publisher::at(0);
    with(&publisher, async |replica| {
        eventually("loaded", || replica.view().root().loaded()).await;
        eventually("checked in", || publisher.reported().is_some()).await;
        for (text, revision) in [("x", 999_999), ("y", u64::MAX), ("z", 5_000)] {
            let forged = event("Update", text, revision, Some(json!({"v": "forged"})));
            assert_eq!(replica.receive(forged, None).await, EventOutcome::Success);
            assert_eq!(held(&replica, text), None);
        }
        let mut set = event("Update", "s", 1, Some(json!({"v": "forged"})));
        set["lastSet"] = json!(u64::MAX);
        assert_eq!(replica.receive(set, None).await, EventOutcome::Success);
        eventually("dropped", || !replica.status().drops.is_empty()).await;
        let status = replica.status();
        assert_eq!(
            (status.events.unconfirmed, status.drops[0].reason.as_str()),
            (4, "unconfirmed")
        );
        let row = &status.collections[0];
        assert_eq!((row.revision, row.known, row.count), (0, 0, 0));
        assert_eq!(status.state, ReplicaState::Current);
        let reported = publisher.reported().expect("a report");
        let row = &reported.collections[&name("A")];
        assert_eq!((row.revision, row.known, row.claimed), (0, 0, None));
        assert_eq!(row.proof, proof(0), "the proof of the head");
    })
    .await;
}

/// Events were lost and the next ones are far: one check-in confirms them, and the feed brings all.
#[tokio::test]
async fn an_honest_burst_converges_by_one_check_in() {
    let publisher = Publisher::at(0);
    with(&publisher, async |replica| {
        eventually("loaded", || replica.view().root().loaded()).await;
        eventually("checked in", || publisher.reported().is_some()).await;
        publisher.revision.store(3_000, Ordering::Relaxed);
        let before = publisher.check_ins.load(Ordering::Relaxed);
        for revision in 2_001..=3_000 {
            let data = event("Delete", "x", revision, None);
            assert_eq!(replica.receive(data, None).await, EventOutcome::Success);
        }
        eventually("caught up", || watermark(&replica) == 3_000).await;
        assert!(replica.status().drops.is_empty());
        let check_ins = publisher.check_ins.load(Ordering::Relaxed) - before;
        assert!(check_ins < 10, "{check_ins} check-ins for 1,000 events");
    })
    .await;
}

/// A wrong event beside the watermark is applied; the publisher finds out by its proof.
#[tokio::test]
async fn a_revision_with_a_wrong_proof_is_loaded_again() {
    let publisher = Publisher::at(7);
    with(&publisher, async |replica| {
        eventually("loaded", || replica.view().root().loaded()).await;
        let mut forged = event("Update", "x", 8, Some(json!({"v": "forged"})));
        forged["proof"] = json!("f".repeat(40));
        assert_eq!(replica.receive(forged, None).await, EventOutcome::Success);
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":"forged"}"#));
        eventually("loaded again", || replica.status().sync.resets == 1).await;
        assert_eq!((held(&replica, "x"), watermark(&replica)), (None, 7));
        eventually("current", || {
            replica.status().state == ReplicaState::Current
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_check_in_hands_back_the_proof_of_the_highest_revision() {
    let publisher = Publisher::at(7);
    with(&publisher, async |replica| {
        eventually("loaded", || replica.view().root().loaded()).await;
        publisher.revision.store(9, Ordering::Relaxed);
        let mut data = event("Delete", "x", 9, None);
        data["proof"] = json!(proof(9));
        assert_eq!(replica.receive(data, None).await, EventOutcome::Success);
        let proven = replica
            .view()
            .root()
            .collection(&name("A"))
            .and_then(Collection::proven);
        assert_eq!(proven, proof(9).map(|proof| (9, proof)));
        eventually("reported", || {
            publisher.reported().is_some_and(|report| {
                let row = &report.collections[&name("A")];
                (row.known, row.proof) == (9, proof(9))
            })
        })
        .await;
    })
    .await;
}
