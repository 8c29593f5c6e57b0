//! Tests of the direct transport: answers of a subscriber, and deliveries that hang.

use std::{
    collections::BTreeSet,
    future::pending,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use contract::Problem;
use contract::ProblemKind;
use futures_util::{FutureExt, StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Barrier, Notify},
};

use super::*;
use crate::{Settings, bench_support::envelopes};

/// A transport to one subscriber, with a token.
fn transport(base: &str) -> DirectTransport {
    let token = Some(trust::SubscriberToken {
        text: "hunter2".to_owned(),
        allow_plaintext: false,
    });
    let open = std::sync::Arc::new(auth::Authenticator::open());
    let base = base.parse().expect("a URL");
    let subscribers = SubscriberRegistry::new(vec![base], BTreeSet::new(), token, open);
    let settings = Settings::read(&[]).expect("the defaults");
    let encoder = envelopes(&settings.events.expect("events"));
    DirectTransport::new(subscribers, encoder, ClientTls::default()).expect("a client")
}

#[tokio::test]
async fn the_reason_of_a_refusal_is_passed_on_without_the_secrets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let problem = Problem::new(ProblemKind::Unauthorized, "APP_API_TOKEN differs");
    let answer = async {
        let (mut connection, _peer) = listener.accept().await.expect("a request");
        let read = connection.read(&mut [0; 4_096]).await.expect("read");
        assert!(read > 0);
        let body = serde_json::to_string(&problem).expect("json");
        let head = format!(
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: {}",
            body.len()
        );
        let whole = format!("{head}\r\n\r\n{body}");
        connection.write_all(whole.as_bytes()).await.expect("sent");
    };
    let transport = transport(&format!("http://user:hunter2@{address}"));
    let subscribers = transport.subscribers();
    let subscriber = &subscribers.all()[0];
    let collection = "A".parse().expect("a name");
    let (route, ()) = tokio::join!(transport.route(subscriber, &collection), answer);
    let error = format!("{:#}", route.expect_err("refused"));
    assert!(
        error.contains("401 Unauthorized to /dapr/subscribe: APP_API_TOKEN differs"),
        "{error}"
    );
    let shown = format!("{error} {subscriber:?} {transport:?}");
    assert!(!shown.contains("hunter"), "{shown}");
}

#[tokio::test]
async fn a_delivery_begins_while_more_than_begin_at_once_hang() {
    let subscribers: Vec<usize> = (0..=AT_ONCE * 2).collect();
    let begun = AtomicUsize::new(0);
    let all_begun = Notify::new();
    // Without a budget of the runtime: all of them are polled at once.
    let deliveries = in_slots(&subscribers, async |_subscriber: &usize| {
        if begun.fetch_add(1, Relaxed) + 1 == subscribers.len() {
            all_begun.notify_one();
        }
        // None ever ends, so no slot becomes free by that.
        pending::<()>().await;
    });
    let mut deliveries = pin!(tokio::task::unconstrained(deliveries));
    assert!(futures_util::poll!(&mut deliveries).is_pending());
    assert_eq!(begun.load(Relaxed), AT_ONCE, "no more at once");
    tokio::select! {
        _ended = deliveries => panic!("a delivery that hangs has ended"),
        in_time = timeout(Duration::from_secs(30), all_begun.notified()) => {
            in_time.expect("all begin in time");
        }
    }
}

#[test]
fn a_reply_with_retry_is_no_success_whatever_its_error_is() {
    for error in ["\"busy\"", "7", "null", "{\"code\": 7}"] {
        let body = format!("{{\"status\": \"RETRY\", \"error\": {error}}}");
        let status = reply_status(body.as_bytes());
        assert_eq!(status, EventReplyStatus::Retry, "{error}");
    }
}

#[test]
fn an_empty_or_unreadable_reply_means_success() {
    for body in ["", "{}", "OK", r#"{"status": ""}"#] {
        let status = reply_status(body.as_bytes());
        assert_eq!(status, EventReplyStatus::Success, "{body}");
    }
}

#[tokio::test]
async fn connections_that_only_a_stall_needed_are_closed_after_it() {
    const BEYOND: usize = 8;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let transport = transport(&format!("http://{address}"));
    let all = KEPT_CONNECTIONS + BEYOND;
    // No request is answered before all of them came, so each has its own connection.
    let stall = Barrier::new(all);
    let serve = async |mut connection: TcpStream| {
        let read = connection.read(&mut [0; 4_096]).await.expect("read");
        assert!(read > 0);
        stall.wait().await;
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        connection.write_all(answer).await.expect("sent");
        let rest = connection.read(&mut [0; 4_096]).await.expect("read");
        assert_eq!(rest, 0, "no other request");
    };
    let served = async {
        let connections = FuturesUnordered::new();
        for _ in 0..all {
            connections.push(listener.accept().then(async |accepted| {
                let (connection, _peer) = accepted.expect("a connection");
                serve(connection).await;
            }));
        }
        connections.take(BEYOND).collect::<Vec<_>>().await.len()
    };
    let sent = join_all((0..all).map(|_request| {
        send(
            transport
                .client
                .get(format!("http://{address}/dapr/subscribe")),
        )
    }));
    let (closed, _answers) = tokio::time::timeout(Duration::from_secs(10), async {
        tokio::join!(served, sent)
    })
    .await
    .expect("connections are closed");
    assert_eq!(closed, BEYOND);
}
