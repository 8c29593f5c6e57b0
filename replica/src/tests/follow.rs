//! A replica that follows what its publishers serve.

use crate::Follow;

use super::*;

/// A publisher that serves A, and B from the moment that `also_b` says.
fn publisher(also_b: Arc<AtomicUsize>) -> impl Fn(&str, &[u8]) -> (u16, String) + Send + Sync {
    move |path, _body| {
        let heads = |revision| {
            let a = head("A", EPOCH, 1, &[document("x", 1, &json!({"v": 1}))]);
            let b = (also_b.load(Ordering::SeqCst) > 0).then(|| head("B", EPOCH, revision, &[]));
            std::iter::once(a).chain(b).collect::<Vec<Head>>()
        };
        match path {
            "/v1/collections" => (
                200,
                serde_json::to_string(&Heads { heads: heads(0) }).expect("json"),
            ),
            "/v1/replicas/test" => {
                let answer = contract::fleet::CheckInAnswer {
                    served: heads(0).into_iter().map(|head| head.collection).collect(),
                    heads: heads(0),
                    ..Default::default()
                };
                (200, serde_json::to_string(&answer).expect("json"))
            }
            "/v1/snapshot?collections=A" => (200, snapshot(&heads(0)[..1])),
            // Once B is served its snapshot still fails once: readers of A must not notice.
            "/v1/snapshot?collections=A,B" if also_b.fetch_add(1, Ordering::SeqCst) > 1 => {
                (200, snapshot(&heads(0)))
            }
            _ => (503, String::new()),
        }
    }
}

/// A snapshot with these heads; A has the document x.
fn snapshot(heads: &[Head]) -> String {
    let mut out = Vec::new();
    let epoch = EPOCH.parse().expect("an epoch");
    let heads = heads.to_vec();
    listing::start_line(&snapshot::SnapshotStart { epoch, heads }, &mut out);
    document("x", 1, &json!({"v": 1})).snapshot_line(&name("A"), &mut out);
    listing::end_line(1, &mut out);
    String::from_utf8(out).expect("text")
}

fn following_served(publishers: Vec<Url>) -> Config {
    Config {
        collections: BTreeSet::from([name("Other")]),
        follow: Follow::Served,
        check_in: Duration::from_millis(50),
        ..settings(publishers)
    }
}

fn followed(replica: &Replica) -> Vec<String> {
    let view = replica.view();
    let names = view.root().collections().map(|(name, _held)| name);
    names.map(ToString::to_string).collect()
}

#[tokio::test]
async fn what_the_publisher_serves_is_followed_also_when_it_comes_later() {
    let also_b = Arc::new(AtomicUsize::new(0));
    with_listener(publisher(Arc::clone(&also_b)), async |url| {
        let replica = Replica::new(following_served(vec![url])).expect("a client");
        assert_eq!(replica.status().state, ReplicaState::Loading);
        assert!(!replica.view().loaded());
        following(&replica, async {
            eventually("A is loaded", || replica.view().loaded()).await;
            assert_eq!(followed(&replica), ["A"]);
            also_b.store(1, Ordering::SeqCst);
            let b = name("B");
            eventually("B joins and is loaded", || {
                // Meanwhile A can be read.
                assert!(replica.view().loaded() && held(&replica, "x").is_some());
                let view = replica.view();
                view.root()
                    .collection(&b)
                    .is_some_and(|held| held.loaded() && !held.joining())
            })
            .await;
            eventually("current", || {
                replica.status().state == ReplicaState::Current
            })
            .await;
            // What was loaded stays when the publisher no longer names it.
            also_b.store(0, Ordering::SeqCst);
            let last = replica.status().sync;
            eventually("another answer", || {
                replica.status().last_error.is_some() || replica.status().sync != last
            })
            .await;
            assert_eq!(followed(&replica), ["A", "B"]);
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_named_collection_is_all_that_is_followed() {
    let also_b = Arc::new(AtomicUsize::new(2));
    with_listener(publisher(Arc::clone(&also_b)), async |url| {
        let config = Config {
            collections: BTreeSet::from([name("A")]),
            follow: Follow::Named,
            ..following_served(vec![url])
        };
        let replica = Replica::new(config).expect("a client");
        following(
            &replica,
            eventually("confirmed", || {
                replica.status().state == ReplicaState::Current
                    && replica.status().confirmed_ms_ago.is_some()
            }),
        )
        .await;
        assert_eq!(followed(&replica), ["A"]);
    })
    .await;
}

#[tokio::test]
async fn a_collection_of_an_image_is_followed_while_no_publisher_answers() {
    let dir = std::env::temp_dir().join(format!("replica-follow-{:x}", rand::random::<u64>()));
    let config = |urls| Config {
        snapshot_dir: Some(dir.clone()),
        ..following_served(urls)
    };
    with_listener(publisher(Arc::new(AtomicUsize::new(0))), async |url| {
        let replica = Replica::new(config(vec![url])).expect("a client");
        following(&replica, eventually("loaded", || replica.view().loaded())).await;
    })
    .await;
    let replica = Replica::new(config(vec![nobody()])).expect("a client");
    following(&replica, eventually("restored", || replica.view().loaded())).await;
    assert_eq!(followed(&replica), ["A"]);
    assert!(held(&replica, "x").is_some());
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[cfg(feature = "actix")]
#[actix_web::test]
async fn a_topic_that_came_after_the_subscriptions_is_named() {
    for (events, late_topics) in [(Events::Dapr, &["B"][..]), (Events::Local, &[])] {
        late_topics_are(events, late_topics).await;
    }
}

/// A publisher (transport `LOCAL`) asks again by itself, so nothing is late for it.
#[cfg(feature = "actix")]
async fn late_topics_are(events: Events, late_topics: &[&str]) {
    use actix_web::test::{TestRequest, call_and_read_body_json, init_service};
    let also_b = Arc::new(AtomicUsize::new(0));
    with_listener(publisher(Arc::clone(&also_b)), async |url| {
        let config = Config {
            events,
            ..following_served(vec![url])
        };
        let replica = Replica::new(config).expect("a client");
        let options = crate::actix::Options::default();
        let routes = crate::actix::scope(&replica, &options);
        let app = init_service(App::new().service(routes)).await;
        let topics = async || -> Vec<Value> {
            let request = TestRequest::get().uri("/dapr/subscribe").to_request();
            let answer: Vec<Value> = call_and_read_body_json(&app, request).await;
            answer
                .into_iter()
                .map(|topic| topic["topic"].clone())
                .collect()
        };
        following(&replica, async {
            // Asked before a publisher answered: it waits for that.
            assert_eq!(topics().await, ["A"]);
            also_b.store(1, Ordering::SeqCst);
            let late = || replica.status().topics_not_subscribed;
            eventually("B is followed", || followed(&replica) == ["A", "B"]).await;
            let expected: BTreeSet<_> = late_topics.iter().map(|topic| name(topic)).collect();
            assert_eq!(late(), expected);
            // The sidecar was restarted.
            assert_eq!(topics().await, ["A", "B"]);
            assert!(late().is_empty());
        })
        .await;
    })
    .await;
}
