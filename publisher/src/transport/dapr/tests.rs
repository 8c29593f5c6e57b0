//! A sidecar's gRPC API in this process, with the two calls that publish.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, atomic::AtomicUsize, atomic::Ordering::Relaxed},
    task::{Context as TaskContext, Poll},
};

use contract::{Digest, Epoch, Operation};
use futures_util::future::{BoxFuture, FutureExt, Ready, pending, ready};
use tonic::{
    Response,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, NamedService, UnaryService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

use super::*;
use crate::bench_support;

/// What the sidecar answers to a bulk publish.
#[derive(Debug, Clone, Copy)]
enum Bulk {
    /// All are published, except the last entry.
    AllButLast,
    /// The call fails.
    Refused(Code),
    /// The call is never answered.
    Hangs,
}

/// What was published, and how.
#[derive(Debug, Clone)]
struct FakeSidecar {
    bulk: Bulk,
    bulk_calls: Arc<Mutex<Vec<BulkPublishRequest>>>,
    singles: Arc<AtomicUsize>,
}

impl FakeSidecar {
    /// A sidecar, and a transport that publishes through it.
    async fn start(bulk: Bulk) -> (Self, DaprTransport, impl Future) {
        let sidecar = Self {
            bulk,
            bulk_calls: Arc::default(),
            singles: Arc::default(),
        };
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address"));
        let incoming = incoming.expect("a port");
        let address = incoming.local_addr().expect("an address");
        let server = Server::builder()
            .add_service(sidecar.clone())
            .serve_with_incoming(incoming);
        let settings = crate::Settings::read(&["--collections", "Free"]).expect("settings");
        let encoder = bench_support::envelopes(&settings.events.expect("events"));
        let endpoint = format!("http://{address}");
        let transport = DaprTransport::new(endpoint, None, encoder).expect("a transport");
        (sidecar, transport, server)
    }
}

impl NamedService for FakeSidecar {
    const NAME: &'static str = "dapr.proto.runtime.v1.Dapr";
}

impl Service<http::Request<Body>> for FakeSidecar {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let sidecar = self.clone();
        async move {
            Ok(
                if request.uri().path().ends_with("/BulkPublishEventAlpha1") {
                    let mut grpc = Grpc::new(ProstCodec::default());
                    grpc.unary(BulkPublish(sidecar), request).await
                } else {
                    let mut grpc = Grpc::new(ProstCodec::default());
                    grpc.unary(Publish(sidecar), request).await
                },
            )
        }
        .boxed()
    }
}

struct BulkPublish(FakeSidecar);

impl UnaryService<BulkPublishRequest> for BulkPublish {
    type Response = BulkPublishResponse;
    type Future = BoxFuture<'static, Result<Response<BulkPublishResponse>, Status>>;

    fn call(&mut self, request: Request<BulkPublishRequest>) -> Self::Future {
        let request = request.into_inner();
        let last = request.entries.last().expect("an entry").entry_id.clone();
        self.0.bulk_calls.lock().expect("calls").push(request);
        let answer = match self.0.bulk {
            Bulk::AllButLast => Ok(Response::new(BulkPublishResponse {
                failed_entries: vec![BulkPublishResponseFailedEntry {
                    entry_id: last,
                    error: "the stream is full".to_owned(),
                }],
            })),
            Bulk::Refused(code) => Err(Status::new(code, "refused")),
            Bulk::Hangs => return pending().boxed(),
        };
        ready(answer).boxed()
    }
}

struct Publish(FakeSidecar);

impl UnaryService<PublishEventRequest> for Publish {
    type Response = ();
    type Future = Ready<Result<Response<()>, Status>>;

    /// The event of revision 2 cannot be published.
    fn call(&mut self, request: Request<PublishEventRequest>) -> Self::Future {
        self.0.singles.fetch_add(1, Relaxed);
        let event = String::from_utf8(request.into_inner().data).expect("text");
        ready(if event.contains(r#""revision":2,"#) {
            Err(Status::internal("the stream is full"))
        } else {
            Ok(Response::new(()))
        })
    }
}

/// Changes with the revisions 1 to 3.
fn changes() -> Vec<Change> {
    (1..=3)
        .map(|revision| Change {
            collection: "Free".parse().expect("a name"),
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
            time: chrono::Utc::now(),
            count: 1,
            digest: Digest::default(),
            proof: None,
            context: contract::Context::default(),
        })
        .collect()
}

/// Publishes the changes. Returns whether each was published, and the numbers of calls.
async fn publish(bulk: Bulk, times: usize) -> (Vec<bool>, usize, usize, FakeSidecar) {
    let (sidecar, transport, server) = FakeSidecar::start(bulk).await;
    let changes = changes();
    let changes: Vec<_> = changes.iter().collect();
    let published = async {
        let mut published = Vec::new();
        for _time in 0..times {
            published = transport.publish_all(&changes).await;
        }
        published
    };
    let published = tokio::select! {
        published = published => published,
        _ended = server => unreachable!("the server ended"),
    };
    let calls = sidecar.bulk_calls.lock().expect("calls").len();
    let singles = sidecar.singles.load(Relaxed);
    let published = published.iter().map(Result::is_ok).collect();
    (published, calls, singles, sidecar)
}

#[tokio::test]
async fn a_backlog_goes_in_one_call_and_only_the_entries_that_failed_have_failed() {
    let (published, calls, singles, sidecar) = publish(Bulk::AllButLast, 1).await;
    assert_eq!(published, [true, true, false]);
    assert_eq!((calls, singles), (1, 0));
    let calls = sidecar.bulk_calls.lock().expect("calls");
    for entry in &calls[0].entries {
        assert!(
            entry.metadata.contains_key(event::TTL),
            "the metadata of a call is not applied to its entries"
        );
    }
}

#[tokio::test]
async fn a_bulk_that_fails_without_naming_an_entry_is_published_one_by_one() {
    let (published, calls, singles, _sidecar) = publish(Bulk::Refused(Code::Internal), 2).await;
    assert_eq!(published, [true, false, true]);
    assert_eq!((calls, singles), (2, 6));
}

/// One of its events may be why: the others must not wait for it.
#[tokio::test]
async fn a_bulk_that_is_refused_for_one_of_its_events_is_published_one_by_one() {
    for code in [Code::InvalidArgument, Code::ResourceExhausted] {
        let (published, calls, singles, _sidecar) = publish(Bulk::Refused(code), 1).await;
        assert_eq!(published, [true, false, true], "{code:?}");
        assert_eq!((calls, singles), (1, 3), "{code:?}");
    }
}

#[tokio::test]
async fn a_sidecar_that_is_not_there_or_refuses_the_caller_is_not_asked_one_by_one() {
    for code in [
        Code::Unavailable,
        Code::Unauthenticated,
        Code::PermissionDenied,
    ] {
        let (published, calls, singles, _sidecar) = publish(Bulk::Refused(code), 1).await;
        assert_eq!(published, [false; 3], "{code:?}");
        assert_eq!((calls, singles), (1, 0), "{code:?}");
    }
}

/// A broker that is too slow for 64 events in the time of one call may be fast enough for one.
#[tokio::test]
async fn after_a_bulk_that_is_late_events_go_one_by_one() {
    for late in [Bulk::Hangs, Bulk::Refused(Code::DeadlineExceeded)] {
        let (published, calls, singles, _sidecar) = publish(late, 2).await;
        assert_eq!(published, [true, false, true], "{late:?}");
        assert_eq!((calls, singles), (1, 3), "{late:?}");
    }
}

#[tokio::test]
async fn a_sidecar_without_bulk_publish_gets_single_events_and_is_not_asked_each_time() {
    let refused = Bulk::Refused(Code::Unimplemented);
    let (published, calls, singles, _sidecar) = publish(refused, 3).await;
    assert_eq!(published, [true, false, true]);
    assert_eq!((calls, singles), (1, 9));
}

#[tokio::test]
async fn a_sidecar_that_had_no_bulk_publish_is_asked_again_later() {
    let (sidecar, transport, server) = FakeSidecar::start(Bulk::AllButLast).await;
    *transport.without_bulk.lock().expect("a time") = Some(Instant::now());
    let changes = changes();
    let changes: Vec<_> = changes.iter().collect();
    tokio::select! {
        _published = transport.publish_all(&changes) => {}
        _ended = server => unreachable!("the server ended"),
    }
    assert_eq!(sidecar.bulk_calls.lock().expect("calls").len(), 1);
}

#[test]
fn an_unknown_entry_makes_all_fail() {
    let failed = |id: &str| BulkPublishResponse {
        failed_entries: vec![BulkPublishResponseFailedEntry {
            entry_id: id.to_owned(),
            error: String::new(),
        }],
    };
    let all = |id: &str| results(&failed(id), 2).iter().all(Result::is_err);
    assert!(all("2") && all("x") && all(""));
    assert!(!all("1"));
}
