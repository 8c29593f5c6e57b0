//! Peers that keep a connection or an answer and do nothing with it.

use axum::body::Body;
use hyper_util::rt::TokioExecutor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

#[tokio::test]
async fn a_peer_that_sends_no_request_loses_its_connection() {
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let begin = [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\n", b"GET / HT"];
        let closed = begin.map(async |begin| {
            let mut stream = TcpStream::connect(subscriber.dapr_api())
                .await
                .expect("a port");
            stream.write_all(begin).await.expect("sent");
            let mut rest = Vec::new();
            let closed = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
            closed.expect("in time").expect("an end");
        });
        futures_util::future::join_all(closed).await;
    })
    .await;
}

#[tokio::test]
async fn readers_that_take_nothing_do_not_keep_others_from_their_answers() {
    check(&[SERVED], publisher(7, 300), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http::<Body>();
        let url = format!("http://{}/v1.0/configuration/A", subscriber.dapr_api());
        let url: axum::http::Uri = url.parse().expect("a URL");
        let get = async || client.get(url.clone()).await.expect("an answer");
        // As many as there may be, of 3 MB each, and none is read.
        let mut idle = Vec::new();
        for _answer in 0..32 {
            let answer = get().await;
            assert_eq!(answer.status().as_u16(), 200);
            idle.push(answer);
        }
        assert_eq!(get().await.status().as_u16(), 429);
        // One that is dropped makes place.
        idle.pop();
        let served = async { while get().await.status().as_u16() != 200 {} };
        timeout(DEADLINE, served).await.expect("a place");
    })
    .await;
}

/// Reads until the peer has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    let end = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
    drop(end.expect("closed in time"));
}

/// Over HTTP/2 a peer answers pings, or sends some, and so is never silent.
#[tokio::test]
async fn a_connection_without_a_call_ends_and_one_with_a_subscription_stays() {
    let flags = [SERVED, "--limit-idle-seconds=1"];
    check(&flags, publisher(7, 0), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let (_id, mut updates) = subscribed(&mut client, keys("A", &["x"])).await;
        next(&mut updates).await;
        let mut idle = TcpStream::connect(subscriber.dapr_api())
            .await
            .expect("a port");
        // The preface, no settings, and a call: GET / over http, in the numbers of RFC 7541.
        let mut call = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        call.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        call.extend([0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84]);
        idle.write_all(&call).await.expect("sent");
        let (mut reading, mut writing) = idle.into_split();
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let pings = async {
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            while writing.write_all(&ping).await.is_ok() {
                tick.tick().await;
            }
        };
        let end = async {
            let mut rest = Vec::new();
            drop(reading.read_to_end(&mut rest).await);
        };
        let both = async { tokio::join!(pings, end) };
        timeout(DEADLINE, both).await.expect("closed in time");
        subscriber.event(update("x", 8, &json!({"v": 8}))).await;
        assert_eq!(next(&mut updates).await, one("x", 8, r#"{"v":8}"#));
    })
    .await;
}

#[tokio::test]
async fn one_address_has_no_more_connections_than_the_setting_says() {
    let flags = [SERVED, "--limit-connections-per-address=2"];
    check(&flags, publisher(7, 0), async |subscriber| {
        let mut first = subscriber.dapr().await;
        let (_id, _updates) = subscribed(&mut first, keys("A", &["x"])).await;
        let mut second = subscriber.dapr().await;
        let (_id, updates) = subscribed(&mut second, keys("A", &["x"])).await;
        let third = async || {
            let stream = TcpStream::connect(subscriber.dapr_api()).await;
            stream.expect("it is accepted, and closed")
        };
        closed(&mut third().await).await;
        drop((second, updates));
        let answered = async {
            loop {
                let mut stream = third().await;
                let get = b"GET /v1.0/configuration/A HTTP/1.0\r\n\r\n";
                let mut answer = Vec::new();
                let sent = stream.write_all(get).await;
                let read = stream.read_to_end(&mut answer).await;
                if sent.is_ok() && read.is_ok() && !answer.is_empty() {
                    return answer;
                }
            }
        };
        let answer = timeout(DEADLINE, answered).await.expect("a place");
        assert!(answer.starts_with(b"HTTP/1.0 200"));
    })
    .await;
}
