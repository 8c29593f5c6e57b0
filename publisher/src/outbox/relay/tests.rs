//! The results of a call, on a relay whose transport is never asked.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use anyhow::anyhow;
use contract::{Context, Digest, Epoch, Operation};
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::{
    bench_support,
    store::StoreUrl,
    transport::direct::{DirectTransport, SubscriberRegistry},
};

fn name() -> CollectionName {
    "A".parse().expect("a name")
}

async fn relay(folder: &tempfile::TempDir) -> Relay {
    let url = StoreUrl::Embedded(folder.path().into());
    let store = bench_support::open(&url, &name()).await.expect("a store");
    let open = Arc::new(auth::Authenticator::open());
    let nobody = SubscriberRegistry::new(Vec::new(), BTreeSet::new(), None, open);
    let settings = crate::Settings::read(&[]).expect("the defaults");
    let encoder = bench_support::envelopes(&settings.events.expect("events"));
    let transport = DirectTransport::new(nobody, encoder, tls::ClientTls::default());
    let transport = Arc::new(Transport::Direct(transport.expect("a client")));
    let (_sender, changes) = mpsc::channel(1);
    Relay::new(store, transport, changes, Arc::default()).expect("a relay")
}

/// Puts the revisions in flight, and takes them for one call.
fn call(relay: &mut Relay, revisions: std::ops::RangeInclusive<Revision>) -> Vec<TakenChange> {
    let mut changes = Vec::new();
    for revision in revisions {
        let change = Change {
            collection: name(),
            op: Operation::Delete,
            id: "a".parse().expect("an id"),
            revision,
            epoch: Epoch {
                lineage: 1,
                counter: 1,
            },
            last_set: 0,
            crc: None,
            config_data: None,
            change_set: None,
            time: Utc::now(),
            count: 1,
            digest: Digest::default(),
            proof: None,
            context: Context::default(),
        };
        relay.gather(change, Span::none(), false);
        let (_collection, taken) = relay.gathered.next_call().expect("a call");
        changes.extend(taken);
    }
    changes
}

/// The log lines of `work`.
fn lines(work: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            io::Write::write(&mut *lines, bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = lines.0.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(str::to_owned).collect()
}

/// The results of a call of which every other event was published.
fn mixed(count: usize) -> Vec<anyhow::Result<()>> {
    let result = |number| match number % 2 {
        0 => Ok(()),
        _odd => Err(anyhow!("refused")),
    };
    (0..count).map(result).collect()
}

#[tokio::test]
async fn a_call_with_mixed_results_is_one_log_line_until_a_whole_call_is_published() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut relay = relay(&folder).await;
    let (first, second) = (call(&mut relay, 1..=6), call(&mut relay, 7..=9));
    let third = call(&mut relay, 10..=12);
    let logged = lines(|| {
        relay.finish_publish(&name(), first, mixed(6));
        relay.finish_publish(&name(), second, mixed(3));
        relay.finish_publish(&name(), third, vec![Ok(()), Ok(()), Ok(())]);
    });
    assert_eq!(logged.len(), 2, "{logged:#?}");
    assert!(logged[0].contains("cannot be published") && logged[0].contains("refused"));
    assert!(logged[1].contains("published again"));
    assert!(relay.failing.is_empty());
}

#[tokio::test]
async fn a_change_without_a_result_stays_pending() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut relay = relay(&folder).await;
    let changes = call(&mut relay, 1..=3);
    relay.finish_publish(&name(), changes, vec![Ok(())]);
    assert_eq!(relay.in_flight, 0, "none is in flight any more");
    let known = HashSet::from([(name(), 1)]);
    assert_eq!(relay.known, known, "the sweep may find the others again");
}
