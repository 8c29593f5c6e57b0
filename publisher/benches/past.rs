//! The cost of the past over 100,000 changes, in processor time of the whole process: a document at a
//! revision, a state by time, a page of history, and the first documents of a state.
//!
//! In `updates` 1,000 documents change in turn; in `churn` 50,000 documents are created and deleted
//! one after the other, so that a state has hardly a document.
//!
//! `cargo bench -p publisher --bench past`; with `MONGODB_URL` also in MongoDB, whose own processor
//! time is not counted.

#![expect(clippy::print_stdout, reason = "the sizes are a result too")]

use std::{
    collections::BTreeSet,
    env,
    future::Future,
    time::{Duration, Instant},
};

use contract::{
    CanonicalJson, CollectionName, DocumentId,
    history::{HistoryFilter, Point},
};
use criterion::Criterion;
use nix::time::{ClockId, clock_gettime};
use publisher::{
    StoreUrl,
    bench_support::{Action, HistoryQuery, Store, open, write},
};
use tokio::runtime::Runtime;

const CHANGES: u64 = 100_000;
const GROUP: u64 = 250;

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(200))
        .configure_from_args();
    let runtime = Runtime::new()?;
    for workload in ["updates", "churn"] {
        let folder = tempfile::TempDir::new()?;
        let mut stores = vec![("embedded", StoreUrl::Embedded(folder.path().into()))];
        if let Ok(url) = env::var("MONGODB_URL") {
            let url = StoreUrl::Mongo {
                url: url.parse()?,
                database: format!("past-{workload}-{}", std::process::id()),
            };
            stores.push(("mongodb", url));
        }
        for (name, url) in stores {
            let store = runtime.block_on(filled(&url, workload))?;
            if name == "embedded" {
                let file = folder.path().join("confcast.sqlite");
                let bytes = file.metadata().map_or(0, |file| file.len());
                println!(
                    "{workload}: {} bytes of file for each change",
                    bytes / CHANGES
                );
            }
            measure(
                &mut criterion,
                &runtime,
                &format!("{name}, {workload}"),
                &store,
            );
        }
    }
    criterion.final_summary();
    Ok(())
}

fn collection() -> CollectionName {
    "Skills".parse().expect("a name")
}

fn id(number: u64) -> DocumentId {
    format!("document-{number:06}").parse().expect("an id")
}

/// A value of 512 bytes.
fn value(number: u64) -> CanonicalJson {
    let text = format!(r#"{{"n":{number},"text":"{}"}}"#, "x".repeat(490));
    CanonicalJson::parse(text.as_bytes()).expect("json")
}

async fn filled(url: &StoreUrl, workload: &str) -> anyhow::Result<Store> {
    let store = open(url, &collection()).await?;
    let start = Instant::now();
    for first in (0..CHANGES).step_by(GROUP as usize) {
        let change = |number: u64| match workload {
            "updates" if number < 1_000 => (id(number * 7 % 1_000), Action::Create(value(number))),
            "updates" => (id(number * 7 % 1_000), Action::Replace(value(number))),
            // Not in the order of their ids.
            _ => {
                let document = id(number / 2 * 7_919 % CHANGES);
                match number % 2 {
                    0 => (document, Action::Create(value(number))),
                    _ => (document, Action::Delete),
                }
            }
        };
        write(
            &store,
            &collection(),
            (first..first + GROUP).map(change).collect(),
        )
        .await?;
    }
    println!("{workload}: {CHANGES} changes in {:?}", start.elapsed());
    Ok(store)
}

/// The processor time that this process used.
fn used() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock"))
}

type Boxed = std::pin::Pin<Box<dyn Future<Output = ()>>>;

fn measure(criterion: &mut Criterion, runtime: &Runtime, of: &str, store: &Store) {
    let head = runtime.block_on(store.heads(&BTreeSet::from([collection()])));
    let newest = head.expect("heads")[0].revision;
    let time = chrono::Utc::now() - chrono::TimeDelta::seconds(1);
    let mut group = criterion.benchmark_group(of);
    let mut number = 0;
    let mut run = |name: &str, call: &dyn Fn(u64) -> Boxed| {
        group.bench_function(name, |bench| {
            bench.iter_custom(|times| {
                let start = used();
                for _ in 0..times {
                    number = (number + 48_271) % newest;
                    runtime.block_on(call(number + 1));
                }
                used() - start
            });
        });
    };
    run("a document at a revision", &|revision| {
        let store = store.clone();
        Box::pin(async move {
            let point = store
                .resolve(&collection(), &Point::Revision(revision))
                .await;
            let (point, id) = (point.expect("kept"), id(revision * 7 % 1_000));
            let document = store.document_at(&point, &id);
            document.await.expect("kept");
        })
    });
    run("a revision at a time", &|_revision| {
        let store = store.clone();
        Box::pin(async move {
            let point = store.resolve(&collection(), &Point::Time(time)).await;
            point.expect("kept");
        })
    });
    run("the first documents of a state", &|revision| {
        let store = store.clone();
        Box::pin(async move {
            let point = store
                .resolve(&collection(), &Point::Revision(revision))
                .await;
            let mut cursor = store
                .documents_at(&point.expect("kept"))
                .await
                .expect("kept");
            cursor.next().await.expect("kept");
        })
    });
    let filters = [
        ("a page of history", HistoryFilter::default()),
        (
            "a page of the history of a document",
            HistoryFilter {
                id: Some(id(7)),
                ..HistoryFilter::default()
            },
        ),
        (
            "a page of history that searches a text which is nowhere",
            HistoryFilter {
                text: Some("nowhere".to_owned()),
                ..HistoryFilter::default()
            },
        ),
    ];
    for (name, filter) in &filters {
        run(name, &|revision| {
            let query = HistoryQuery {
                collections: BTreeSet::from([collection()]),
                filter: filter.clone(),
                before: format!("{}.{revision}", collection()).parse().ok(),
                limit: 64,
            };
            let store = store.clone();
            Box::pin(async move {
                store.history(&query).await.expect("a page");
            })
        });
    }
    group.finish();
}
