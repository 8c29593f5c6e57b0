//! Limits of streams: the number of open streams, and how long a reader may read nothing.

use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::testbed::{
    FREE, StoreKind,
    feed_reader::{FeedEvent, FeedReader},
    numbered,
    services::Service,
    wait::{eventually, within},
};
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{Outcome, of, of_path, publisher};

/// The number of streams is limited, and none of them delays the end of the process.
#[tokio::test]
async fn feed_streams_are_limited_and_end_with_the_process() -> Outcome {
    let (_store, mut publisher) = publisher(StoreKind::Embedded).await?;
    let url = publisher.url();
    let mut streams = Vec::new();
    for _batch in 0..16 {
        let path = of(FREE);
        streams.extend(try_join_all((0..64).map(|_stream| FeedReader::from(&url, &path))).await?);
    }
    let refused = publisher
        .api()
        .get_with(&of(FREE), "accept", "text/event-stream")
        .await?
        .expect(503)?;
    ensure!(
        refused.header("retry-after") == "1" && refused.body.contains("streams-full"),
        "{refused:?}"
    );
    streams.truncate(1_000);
    eventually("a slot is free", async || {
        FeedReader::from(&url, &of(FREE)).await.map(drop)
    })
    .await?;
    publisher
        .api()
        .create(FREE, &numbered(1))
        .await?
        .expect(201)?;
    try_join_all(streams.iter_mut().map(FeedReader::change)).await?;

    let stalled = open_stream(&publisher, &of_path("?since=0")).await?;
    let began = Instant::now();
    publisher.stop().await?;
    ensure!(
        began.elapsed() < Duration::from_secs(2),
        "the end took {:?}",
        began.elapsed()
    );
    let ended = try_join_all(streams.iter_mut().map(FeedReader::next)).await?;
    ensure!(
        ended.iter().all(|event| matches!(event, FeedEvent::End)),
        "a stream ended without its end"
    );
    drop(stalled);
    Ok(())
}

/// A reader with a small buffer that reads nothing.
async fn open_stream(publisher: &Service, path: &str) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut stream = socket
        .connect(([127, 0, 0, 1], publisher.port()).into())
        .await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// A reader that reads nothing loses its connection; a slow reader keeps it. Neither delays the
/// writers.
#[tokio::test]
async fn a_feed_reader_that_does_not_read_is_disconnected() -> Outcome {
    let (_store, mut publisher) = publisher(StoreKind::Embedded).await?;
    let api = publisher.api();
    let large = json!({"text": "x".repeat(500_000)});
    for _document in 0..40 {
        api.create(FREE, &large).await?.expect(201)?;
    }
    let mut stalled = open_stream(&publisher, &of_path("?since=0")).await?;
    let mut quiet = FeedReader::from(&publisher.url(), &of(FREE)).await?;
    within(
        Duration::from_secs(60),
        "the reader is disconnected",
        async || {
            let output = publisher.output();
            ensure!(output.contains("1 took an answer too slowly"), "{output}");
            Ok(())
        },
    )
    .await?;
    let mut rest = Vec::new();
    // First the data that the system had buffered, then the end or a reset.
    stalled.read_to_end(&mut rest).await.ok();
    ensure!(
        rest.len() < 20_000_000 && !rest.ends_with(b"0\r\n\r\n"),
        "{} bytes came",
        rest.len()
    );
    api.create(FREE, &json!({"id": "next"}))
        .await?
        .expect(201)?;
    ensure!(
        quiet.change().await?.1.revision == Some(41),
        "the slow reader continues"
    );
    let began = Instant::now();
    let _again = open_stream(&publisher, &of_path("?since=0")).await?;
    publisher.stop().await?;
    ensure!(
        began.elapsed() < Duration::from_secs(3),
        "the end took {:?}",
        began.elapsed()
    );
    Ok(())
}
