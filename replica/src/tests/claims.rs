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
pub(super) struct Publisher {
    pub(super) revision: AtomicU64,
    pub(super) check_ins: AtomicUsize,
    last: Mutex<Option<CheckIn>>,
    /// Whether it is a subscriber: it has no secret, and checks no proof.
    is_subscriber: bool,
    /// The collections with id-only events, where it names them.
    id_only: Option<BTreeSet<CollectionName>>,
    /// The requests of the feed.
    feed: Mutex<Vec<String>>,
}

impl Publisher {
    pub(super) fn at(revision: u64) -> Arc<Self> {
        Arc::new(Self {
            revision: AtomicU64::new(revision),
            ..Self::default()
        })
    }

    pub(super) fn with_id_only(revision: u64, collections: &[&str]) -> Arc<Self> {
        Arc::new(Self {
            revision: AtomicU64::new(revision),
            id_only: Some(collections.iter().map(|text| name(text)).collect()),
            ..Self::default()
        })
    }

    /// How often the feed of a collection was read.
    pub(super) fn pages_of(&self, collection: &str) -> usize {
        let asked = format!("since={collection}:");
        let feed = self.feed.lock().expect("not poisoned");
        feed.iter().filter(|path| path.contains(&asked)).count()
    }

    fn proven_head(&self) -> Head {
        let revision = self.revision.load(Ordering::Relaxed);
        Head {
            proof: proof(revision as u32),
            ..head("A", EPOCH, revision, &[])
        }
    }

    pub(super) fn answer(&self, path: &str, body: &[u8]) -> (u16, String) {
        if path.starts_with("/v1/replicas/") {
            let check_in: CheckIn = serde_json::from_slice(body).expect("a check-in");
            let head = self.proven_head();
            let row = &check_in.collections[&name("A")];
            // As a publisher answers: a proof that it did not make refutes the revision.
            let wrong = !self.is_subscriber
                && row.known > head.revision
                && row.proof != proof(row.known as u32);
            let resync = wrong.then(|| (name("A"), ResyncReason::Unproven));
            let answer = CheckInAnswer {
                report_after_ms: Some(50),
                heads: vec![head, head_of_b()],
                resync: resync.into_iter().collect(),
                id_only: self.id_only.clone(),
                ..Default::default()
            };
            *self.last.lock().expect("not poisoned") = Some(check_in);
            self.check_ins.fetch_add(1, Ordering::Relaxed);
            return (200, serde_json::to_string(&answer).expect("json"));
        }
        let revision = self.revision.load(Ordering::Relaxed);
        if let Some((_path, since)) = path.split_once("since=") {
            self.feed
                .lock()
                .expect("not poisoned")
                .push(path.to_owned());
            let since: u64 = since
                .split(['&', '%', ':', ';', ','])
                .find_map(|part| part.parse().ok())
                .unwrap_or(0);
            let items = (since + 1..=revision).map(record).collect();
            return (200, feed_of(items, false));
        }
        (200, snapshot_of(EPOCH, revision, &[]))
    }

    pub(super) fn reported(&self) -> Option<CheckIn> {
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

pub(super) fn watermark(replica: &Replica) -> u64 {
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
async fn a_committed_burst_converges_by_one_check_in() {
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

/// A wrong event beside the watermark is applied; the publisher finds out by its proof, or because it
/// has none.
#[tokio::test]
async fn a_wrong_event_beside_the_watermark_is_corrected_by_the_next_check_in() {
    for wrong in [None, Some("f".repeat(40))] {
        let publisher = Publisher::at(7);
        with(&publisher, async |replica| {
            eventually("loaded", || replica.view().root().loaded()).await;
            eventually("checked in", || publisher.reported().is_some()).await;
            let mut forged = event("Update", "x", 8, Some(json!({"v": "forged"})));
            forged["proof"] = json!(wrong);
            let before = publisher.check_ins.load(Ordering::Relaxed);
            assert_eq!(replica.receive(forged, None).await, EventOutcome::Success);
            assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":"forged"}"#));
            eventually("loaded again", || replica.status().sync.resets == 1).await;
            // One may have been under way.
            let check_ins = publisher.check_ins.load(Ordering::Relaxed) - before;
            assert!(check_ins <= 2, "{check_ins} check-ins for one event");
            assert_eq!((held(&replica, "x"), watermark(&replica)), (None, 7));
            let drops = replica.status().drops;
            assert_eq!(drops.len(), 1, "{drops:?}");
            assert_eq!(drops[0].reason, "unconfirmed");
            assert_eq!(
                drops[0].error,
                "an event of A up to revision 8 was never committed; the newest came from: the \
                 service itself"
            );
            eventually("current", || {
                replica.status().state == ReplicaState::Current
            })
            .await;
        })
        .await;
    }
}

/// What a client of the broker can make a replica keep, where events are not signed.
#[tokio::test]
async fn wrong_events_of_every_kind_in_series_cost_bounded_memory_and_few_check_ins() {
    let publisher = Publisher::at(7);
    with(&publisher, async |replica| {
        eventually("loaded", || replica.view().root().loaded()).await;
        eventually("checked in", || publisher.reported().is_some()).await;
        let before = publisher.check_ins.load(Ordering::Relaxed);
        let value = json!({"v": "x".repeat(10_000)});
        for number in 0..2_000_u64 {
            let id = format!("x-{number}");
            let forged = |revision| event("Update", &id, revision, Some(value.clone()));
            let mut epoch = forged(8);
            epoch["epoch"] = json!(format!("{number:08x}-{}", u64::MAX));
            let mut last_set = forged(8 + number);
            last_set["lastSet"] = json!(u64::MAX - number);
            let mut set = forged(1_500 + number);
            let part = json!({"collection": "A", "first": 1, "last": u64::MAX});
            set["changeSet"] = json!({"id": "s", "parts": [part]});
            for data in [forged(u64::MAX - number), epoch, last_set, set] {
                assert_eq!(replica.receive(data, None).await, EventOutcome::Success);
                assert_eq!(held(&replica, &id), None);
            }
        }
        let status = replica.status();
        // 8,000 events with 80 MB of values: none is kept.
        let row = &status.collections[0];
        assert_eq!(
            (row.revision, row.known, row.staged, row.count),
            (7, 7, 0, 0)
        );
        assert!(status.drops.len() <= 32);
        let check_ins = publisher.check_ins.load(Ordering::Relaxed) - before;
        assert!(check_ins <= 20, "{check_ins} check-ins for 8,000 events");
    })
    .await;
}

/// Each wrong event made the replica load all documents.
#[tokio::test]
async fn wrong_events_in_series_lead_to_one_load_and_true_ones_still_arrive() {
    let publisher = Publisher::at(7);
    with(&publisher, async |replica| {
        eventually("loaded", || replica.view().root().loaded()).await;
        eventually("checked in", || publisher.reported().is_some()).await;
        let forged = |revision| event("Update", "x", revision, Some(json!({"v": "forged"})));
        assert_eq!(
            replica.receive(forged(8), None).await,
            EventOutcome::Success
        );
        eventually("loaded again", || replica.status().sync.resets == 1).await;
        let before = publisher.check_ins.load(Ordering::Relaxed);
        for revision in 8..108 {
            let sent = forged(revision);
            assert_eq!(replica.receive(sent, None).await, EventOutcome::Success);
            assert_eq!(held(&replica, "x"), None, "shown before it is confirmed");
        }
        assert_eq!(replica.status().events.unconfirmed, 100);
        eventually("dropped", || replica.status().drops.len() > 1).await;
        let check_ins = publisher.check_ins.load(Ordering::Relaxed) - before;
        assert!(check_ins < 10, "{check_ins} check-ins for 100 events");
        publisher.revision.store(9, Ordering::Relaxed);
        for revision in [8, 9] {
            let data = event("Delete", "x", revision, None);
            assert_eq!(replica.receive(data, None).await, EventOutcome::Success);
        }
        eventually("caught up", || watermark(&replica) == 9).await;
        assert_eq!(
            (replica.status().sync.resets, held(&replica, "x")),
            (1, None)
        );
    })
    .await;
}

/// A subscriber finds nothing out by a proof, and its digest is compared at the same revision only.
#[tokio::test]
async fn behind_a_subscriber_the_next_committed_change_corrects_a_wrong_event() {
    let subscriber = Arc::new(Publisher {
        revision: AtomicU64::new(7),
        is_subscriber: true,
        ..Publisher::default()
    });
    with(&subscriber, async |replica| {
        eventually("loaded", || replica.view().root().loaded()).await;
        eventually("checked in", || subscriber.reported().is_some()).await;
        let forged = event("Update", "x", 8, Some(json!({"v": "forged"})));
        assert_eq!(replica.receive(forged, None).await, EventOutcome::Success);
        eventually("the check-in fails", || {
            replica.status().last_error.is_some()
        })
        .await;
        assert_eq!(replica.status().sync.resets, 0);
        subscriber.revision.store(8, Ordering::Relaxed);
        eventually("loaded again", || replica.status().sync.resets == 1).await;
        assert_eq!((held(&replica, "x"), watermark(&replica)), (None, 8));
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
