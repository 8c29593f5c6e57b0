//! Dead letters of a store, on both backends: `letters_of` is what each must do.

use std::{collections::BTreeSet, sync::Arc};

use contract::{
    CollectionName,
    dead_letter::{DeadLetterId, DeadLetterReason, DeadLetterReport, EventSummary, Original},
};
use serde_json::{Value, json};

use service::http::{limits::StreamLimits, stream_slots::StreamSlots};

use super::*;
use crate::{
    decide::{Rules, schemas::Schemas},
    metrics::Scrape,
    store::{PublisherPolicy, ServedCollections, StoreUrl, dead_letters as bounds},
};

fn policy() -> Arc<PublisherPolicy> {
    let name: CollectionName = "A".parse().expect("a name");
    Arc::new(PublisherPolicy {
        collections: ServedCollections::fixed(BTreeSet::from([name])),
        rules: Rules {
            schemas: Schemas::default(),
            document_limit: 1 << 20,
            secrets: Default::default(),
        },
        broadcast: crate::policy::Broadcast::all(),
    })
}

fn event(id: &str, data: &Value) -> Vec<u8> {
    let event = json!({"specversion": "1.0", "source": "s", "id": id, "type": "t", "data": data});
    event.to_string().into_bytes()
}

fn report(original: &[u8], cause: &str) -> Reported {
    let event = EventSummary::of(original);
    let report = DeadLetterReport {
        id: DeadLetterId::of(&event, original),
        instance: "replica-1".to_owned(),
        cause: cause.to_owned(),
        detail: "the id is a number".to_owned(),
        event,
        bytes: original.len() as u64,
        original: Original::of(original),
    };
    Reported::read(report).expect("valid")
}

/// A client of the broker sends events that no replica takes, so that true letters go for them.
#[tokio::test]
async fn where_events_are_signed_only_those_are_kept() {
    use contract::signature::SigningKey;

    let folder = tempfile::tempdir().expect("a folder");
    let url = StoreUrl::Embedded(folder.path().into());
    let store = Store::open(&url, policy()).await.expect("a store");
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("signing-key.pem");
    let [key, other] = [1, 2].map(|byte| SigningKey::from_seed(&[byte; 32]));
    std::fs::write(&path, key.to_pem().expect("pem")).expect("written");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("a mode");
    let signer = EventSigner::from_file(&path).expect("a key");
    let metrics = Arc::<Metrics>::default();
    let letters =
        DeadLetters::new(store.clone(), None, metrics.clone()).of_signed_events(Some(signer));
    let change: contract::Change = serde_json::from_value(json!({
        "collection": "A", "op": "Create", "id": "a", "revision": 1, "epoch": "0000000a-1", "lastSet": 0,
        "configData": {"n": 1}, "time": "2026-11-28T09:00:00Z", "count": 1, "digest": "0000000000000000"
    }))
    .expect("a change");
    let data = |key: &SigningKey| {
        let data = contract::EventData::new(&change, 1_000).signed(&change, key);
        serde_json::to_value(data).expect("json")
    };
    // As a sidecar delivers it: the envelope has the name of the change.
    let moved = |data: &Value| {
        let part = |name: &str| data[name].to_string().replace('"', "");
        let id = [part("collection"), part("epoch"), part("revision")].join(":");
        let source = contract::event::SOURCE;
        json!({"specversion": "1.0", "source": source, "id": id, "type": "t", "data": data})
            .to_string()
            .into_bytes()
    };
    let kept = letters.add_moved(&moved(&data(&key))).await.expect("kept");
    let bare = data(&key).to_string().into_bytes();
    letters
        .add_reported(report(&bare, "wrong-type"))
        .await
        .expect("kept");
    let mut forged = data(&key);
    forged["revision"] = json!(2);
    for original in [
        moved(&data(&other)),
        moved(&forged),
        // One signed event under another name would be another letter.
        event("3", &data(&key)),
        event("4", &json!({"id": "a"})),
        b"x".to_vec(),
    ] {
        letters.add_moved(&original).await.expect("answered");
        let reported = letters.add_reported(report(&original, "wrong-type")).await;
        assert!(
            reported
                .expect_err("refused")
                .to_string()
                .contains("signed")
        );
    }
    assert_eq!(letters.counts().await.map(|counts| counts.kept), Some(2));
    letters.get(kept).await.expect("kept");
    let limits = StreamLimits {
        max: 0,
        per_credential: 0,
        per_address: 0,
    };
    let scrape = Scrape {
        store_ready: true,
        store: &store,
        streams: &StreamSlots::new(limits, Default::default()),
        replicas: None,
        heads: None,
        letters: None,
        backlog: None,
    };
    let text = metrics.text(scrape).expect("text");
    for (cause, count) in [("unsigned", 6), ("unknown-key", 2), ("wrong-signature", 2)] {
        let line = format!("dead_letters_unproven_total{{cause=\"{cause}\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}

/// What holds for a store, whichever backend it has. The store has no letters yet.
async fn letters_of(store: Store) {
    let letters = DeadLetters::new(store.clone(), None, Arc::default());
    let all = LetterFilter::default();
    assert_eq!(letters.counts().await, Some(LetterCounts::default()));

    // The report and the moved event are one letter, which has the reason of the replica.
    let poison = event("1", &json!({"collection": "A", "op": "Create", "id": 7}));
    let id = letters.add_moved(&poison).await.expect("kept");
    assert_eq!(
        letters.get(id).await.expect("there").reason,
        DeadLetterReason::NotTaken
    );
    for _repeated in 0..2 {
        let reported = letters.add_reported(report(&poison, "wrong-type")).await;
        assert_eq!(reported.expect("kept"), id);
    }
    let letter = letters.get(id).await.expect("there");
    assert_eq!(
        (letter.reason, letter.cause.as_deref(), letter.count),
        (DeadLetterReason::Dropped, Some("wrong-type"), 3)
    );
    assert_eq!(letter.replicas, ["replica-1"]);
    assert_eq!(letter.original.bytes().expect("bytes"), poison);

    // Bytes that are no text are kept as they are.
    let binary = letters.add_moved(b"\xff\x00").await.expect("kept");
    let kept = letters.get(binary).await.expect("there").original;
    assert_eq!(kept.bytes().expect("bytes"), b"\xff\x00");

    // Pages, filters and counts.
    for number in 0..5 {
        let data = json!({"collection": "B", "op": "Create", "id": "a"});
        letters
            .add_moved(&event(&format!("b{number}"), &data))
            .await
            .expect("kept");
    }
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = letters.page(&all, before, 3).await.expect("a page");
        assert_eq!((page.kept, page.open), (7, 7));
        assert!(
            page.items
                .iter()
                .all(|item| item.original == Original::default())
        );
        seen.extend(page.items.iter().map(|item| item.id));
        match page.next {
            Some(next) => before = LetterCursor::parse(&next),
            None => break,
        }
    }
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (7, 7));
    let of_b = LetterFilter {
        collection: "B".parse().ok(),
        ..LetterFilter::default()
    };
    let page = letters.page(&of_b, None, 100).await.expect("a page");
    assert_eq!(page.items.len(), 5);
    let dropped = LetterFilter {
        reason: Some(DeadLetterReason::Dropped),
        ..LetterFilter::default()
    };
    let page = letters.page(&dropped, None, 100).await.expect("a page");
    assert_eq!(page.items.len(), 1);

    // Without a transport nothing is sent, and the letter stays open.
    let refused = letters.replay(id, ReplayRequest::default()).await;
    assert!(
        matches!(refused, Err(DeadLetterError::NotReplayable(_))),
        "{refused:?}"
    );

    // One is discarded, then those of a filter, then all.
    letters.discard(binary).await.expect("discarded");
    assert!(matches!(
        letters.discard(binary).await,
        Err(DeadLetterError::Unknown(_))
    ));
    assert_eq!(letters.discard_all(&of_b).await.expect("discarded"), 5);
    assert_eq!(
        letters.counts().await,
        Some(LetterCounts { kept: 1, open: 1 })
    );
    assert_eq!(letters.discard_all(&all).await.expect("discarded"), 1);

    // Several publishers add the same letter at the same time: each arrival is counted.
    let adds = (0..8).map(|_| letters.add_moved(&poison));
    for added in futures_util::future::join_all(adds).await {
        added.expect("kept");
    }
    assert_eq!(letters.get(id).await.expect("there").count, 8);

    // The store keeps no more than its bound, and drops a letter that was sent again first.
    let mark = |stored: Option<StoredLetter>| {
        let mut stored = stored?;
        stored.letter.replayed = Some(stored.letter.last);
        Some(stored)
    };
    let durability = LetterDurability::Now;
    let marked = store.change_dead_letter(id, durability, mark).await;
    marked.expect("marked");
    let counts = letters.counts().await;
    assert_eq!(counts, Some(LetterCounts { kept: 1, open: 0 }));
    let first = event("first", &json!(null));
    let first = letters.add_moved(&first).await.expect("kept");
    let large = bounds::MAX_BYTES / contract::dead_letter::MAX_ORIGINAL as u64;
    for number in 0..large {
        let data = json!("x".repeat(70_000));
        letters
            .add_moved(&event(&format!("l{number}"), &data))
            .await
            .expect("kept");
    }
    let counts = letters.counts().await.expect("counts");
    assert!(
        counts.kept <= large && counts.kept > large - 20,
        "{counts:?}"
    );
    for gone in [id, first] {
        assert!(matches!(
            letters.get(gone).await,
            Err(DeadLetterError::Unknown(_))
        ));
    }
    letters.discard_all(&all).await.expect("discarded");
}

#[tokio::test]
async fn the_embedded_store_keeps_letters_within_its_bounds() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let url = StoreUrl::Embedded(folder.path().into());
    let open = || Store::open(&url, policy());
    letters_of(open().await.expect("a store")).await;
    // More letters than are kept, of few bytes. They stay over a restart.
    let letters = DeadLetters::new(open().await.expect("a store"), None, Arc::default());
    for number in 0..bounds::MAX_LETTERS + 3 {
        letters
            .add_moved(&event(&number.to_string(), &json!(1)))
            .await
            .expect("kept");
    }
    drop(letters);
    let letters = DeadLetters::new(open().await.expect("a store"), None, Arc::default());
    let counts = letters.counts().await.expect("counts");
    assert_eq!(counts.kept, bounds::MAX_LETTERS as u64);
    // Letters of one moment are ordered by their ids, which are hashes.
    let page = letters.page(&LetterFilter::default(), None, 50).await;
    let newest = page.expect("a page").items;
    let mut ids = newest.iter().map(|it| it.event.event_id.as_deref());
    assert!(ids.any(|id| id == Some("1002")));
}

#[tokio::test]
async fn mongodb_keeps_letters_within_its_bounds() {
    let server = e2e::testbed::mongod::Mongod::start().await.expect("mongod");
    let url: StoreUrl = server.url("letters").parse().expect("a URL");
    letters_of(Store::open(&url, policy()).await.expect("a store")).await;
}
