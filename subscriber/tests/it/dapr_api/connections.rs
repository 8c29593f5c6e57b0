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
