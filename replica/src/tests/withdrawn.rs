//! Collections that a publisher served and serves no more, perhaps for a moment.

use contract::{ProblemKind, fleet::CheckInAnswer};

use super::*;

/// What a publisher serves: A with the document x, and B with y, or without B.
#[derive(Clone)]
struct Served {
    epoch: &'static str,
    /// The revision of A, and of x.
    a: u64,
    /// The revision of B, and of y; at 0 it is empty.
    b: Option<u64>,
}

impl Served {
    fn parts(&self) -> Vec<(Head, Vec<Document>)> {
        let part = |collection, text, revision| {
            let document = document(text, revision, &json!({"v": revision}));
            let documents = if revision == 0 {
                vec![]
            } else {
                vec![document]
            };
            (
                head(collection, self.epoch, revision, &documents),
                documents,
            )
        };
        let b = self.b.map(|revision| part("B", "y", revision));
        std::iter::once(part("A", "x", self.a)).chain(b).collect()
    }

    fn heads(&self) -> Vec<Head> {
        self.parts()
            .into_iter()
            .map(|(head, _documents)| head)
            .collect()
    }

    fn answer(&self, path: &str) -> (u16, String) {
        let heads = self.heads();
        let known = |name: &str| heads.iter().any(|head| head.collection.as_str() == name);
        let (route, query) = path.split_once('?').unwrap_or((path, ""));
        let names = query.trim_start_matches("collections=").split(',');
        let problem =
            |status, problem: &Problem| (status, serde_json::to_string(problem).expect("json"));
        match route {
            "/v1/collections" => (200, serde_json::to_string(&Heads { heads }).expect("json")),
            "/v1/snapshot" if !names.clone().all(known) => problem(
                404,
                &Problem::new(
                    ProblemKind::UnknownCollection,
                    "There is no collection B here",
                ),
            ),
            "/v1/snapshot" => (200, self.snapshot(&names.collect::<Vec<_>>())),
            "/v1/changes" => {
                let mut gone = Problem::new(ProblemKind::FeedGone, "It is trimmed");
                gone.reason = Some("trimmed".to_owned());
                problem(410, &gone)
            }
            _ => {
                let answer = CheckInAnswer {
                    served: heads.iter().map(|head| head.collection.clone()).collect(),
                    heads,
                    ..Default::default()
                };
                (200, serde_json::to_string(&answer).expect("json"))
            }
        }
    }

    fn snapshot(&self, names: &[&str]) -> String {
        let mut parts = self.parts();
        parts.retain(|(head, _documents)| names.contains(&head.collection.as_str()));
        let heads = parts
            .iter()
            .map(|(head, _documents)| head.clone())
            .collect();
        let epoch = self.epoch.parse().expect("an epoch");
        let mut out = Vec::new();
        listing::start_line(&snapshot::SnapshotStart { epoch, heads }, &mut out);
        let mut count = 0;
        for (head, documents) in &parts {
            for document in documents {
                document.snapshot_line(&head.collection, &mut out);
                count += 1;
            }
        }
        listing::end_line(count, &mut out);
        String::from_utf8(out).expect("text")
    }
}

/// A publisher whose collections a test changes.
#[derive(Clone)]
struct Publisher(Arc<Mutex<(Served, u64)>>);

impl Publisher {
    fn new(served: Served) -> Self {
        Self(Arc::new(Mutex::new((served, 0))))
    }

    fn now_serves(&self, served: Served) {
        self.0.lock().expect("unharmed").0 = served;
    }

    fn check_ins(&self) -> u64 {
        self.0.lock().expect("unharmed").1
    }

    fn answers(&self) -> impl Fn(&str, &[u8]) -> (u16, String) + Send + Sync + use<> {
        let state = Arc::clone(&self.0);
        move |path, _body| {
            let mut state = state.lock().expect("unharmed");
            state.1 += u64::from(path.starts_with("/v1/replicas/"));
            state.0.answer(path)
        }
    }
}

fn config_of(follow: crate::Follow, publishers: Vec<Url>) -> Config {
    Config {
        follow,
        check_in: Duration::from_millis(50),
        ..settings(publishers)
    }
}

fn row(replica: &Replica, of: &str) -> (ReplicaState, Option<String>) {
    let status = replica.status();
    let mut rows = status.collections.into_iter();
    let row = rows.find(|row| row.collection.as_str() == of);
    // Before the first answer nothing is followed.
    row.map_or((ReplicaState::Loading, None), |row| (row.state, row.reason))
}

fn value(replica: &Replica, collection: &str, text: &str) -> Option<String> {
    let view = replica.view();
    let document = view.root().get(&name(collection), &id(text))?;
    Some(String::from_utf8_lossy(document.config_data()).into_owned())
}

const CURRENT: (ReplicaState, Option<String>) = (ReplicaState::Current, None);

fn withdrawn() -> (ReplicaState, Option<String>) {
    (ReplicaState::Stale, Some("unknown-collection".to_owned()))
}

#[tokio::test]
async fn what_is_served_no_more_stays_and_holds_up_no_other_collection() {
    for follow in [crate::Follow::Served, crate::Follow::Named] {
        let both = Served {
            epoch: EPOCH,
            a: 1,
            b: Some(1),
        };
        let publisher = Publisher::new(both.clone());
        with_listener(publisher.answers(), async |url| {
            let replica = Replica::new(config_of(follow, vec![url])).expect("a client");
            following(&replica, async {
                eventually("B is current", || row(&replica, "B") == CURRENT).await;
                publisher.now_serves(Served {
                    a: 2,
                    b: None,
                    ..both
                });
                eventually("B is named", || row(&replica, "B") == withdrawn()).await;
                // A goes on, also by a load.
                eventually("A has its change", || {
                    value(&replica, "A", "x").as_deref() == Some(r#"{"v":2}"#)
                        && row(&replica, "A") == CURRENT
                })
                .await;
                let check_ins = publisher.check_ins();
                eventually("more check-ins", || publisher.check_ins() > check_ins + 5).await;
                assert_eq!(
                    (row(&replica, "A"), row(&replica, "B")),
                    (CURRENT, withdrawn())
                );
                assert_eq!(value(&replica, "B", "y").as_deref(), Some(r#"{"v":1}"#));
                let error = replica.status().last_error.expect("an error");
                assert!(error.contains("no publisher serves B"), "{error}");

                publisher.now_serves(Served {
                    a: 2,
                    b: Some(3),
                    ..both
                });
                eventually("B has its change", || {
                    value(&replica, "B", "y").as_deref() == Some(r#"{"v":3}"#)
                        && row(&replica, "B") == CURRENT
                })
                .await;
                eventually("no error", || replica.status().last_error.is_none()).await;
                assert_eq!(replica.status().state, ReplicaState::Current);
            })
            .await;
        })
        .await;
    }
}

/// Publishers of one store get a new collection one after the other.
#[tokio::test]
async fn a_replica_keeps_to_the_publisher_that_serves_what_it_holds() {
    let both = Served {
        epoch: EPOCH,
        a: 1,
        b: Some(1),
    };
    let lacks_b = Publisher::new(Served {
        b: None,
        ..both.clone()
    });
    let whole = Publisher::new(both);
    with_listener(lacks_b.answers(), async |first| {
        with_listener(whole.answers(), async |second| {
            let config = config_of(crate::Follow::Served, vec![first, second]);
            let replica = Replica::new(config).expect("a client");
            // The first serves A alone, so B joins at a check-in with the second.
            following(&replica, async {
                eventually("A is loaded", || replica.view().loaded()).await;
                lacks_b.now_serves(whole.0.lock().expect("unharmed").0.clone());
                eventually("B is loaded", || {
                    value(&replica, "B", "y").is_some() && row(&replica, "B") == CURRENT
                })
                .await;
                lacks_b.now_serves(Served {
                    b: None,
                    epoch: EPOCH,
                    a: 1,
                });
                let check_ins = whole.check_ins();
                eventually("check-ins with the second", || {
                    assert_eq!((row(&replica, "A"), row(&replica, "B")), (CURRENT, CURRENT));
                    whole.check_ins() > check_ins + 5
                })
                .await;
            })
            .await;
        })
        .await;
    })
    .await;
}

/// What outlives its history is replaced by the first load of the new one, at whatever revision.
#[tokio::test]
async fn a_withdrawn_collection_does_not_keep_a_replica_out_of_a_new_epoch() {
    let before = Served {
        epoch: EPOCH,
        a: 5,
        b: Some(5),
    };
    let after = "0f86d081-2";
    let publisher = Publisher::new(before.clone());
    with_listener(publisher.answers(), async |url| {
        let config = config_of(crate::Follow::Served, vec![url]);
        let replica = Replica::new(config).expect("a client");
        following(&replica, async {
            eventually("B is current", || row(&replica, "B") == CURRENT).await;
            publisher.now_serves(Served { b: None, ..before });
            eventually("B is named", || row(&replica, "B") == withdrawn()).await;
            publisher.now_serves(Served {
                epoch: after,
                a: 2,
                b: None,
            });
            eventually("A is of the new epoch", || {
                value(&replica, "A", "x").as_deref() == Some(r#"{"v":2}"#)
                    && row(&replica, "A") == CURRENT
            })
            .await;
            assert_eq!(value(&replica, "B", "y").as_deref(), Some(r#"{"v":5}"#));
            assert_eq!(row(&replica, "B"), withdrawn());
            publisher.now_serves(Served {
                epoch: after,
                a: 2,
                b: Some(0),
            });
            eventually("B is that of the new epoch", || {
                value(&replica, "B", "y").is_none() && row(&replica, "B") == CURRENT
            })
            .await;
        })
        .await;
    })
    .await;
}
