//! Clients that begin a request and then send nothing: the publisher closes their connections.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::testbed::{FREE, Store, StoreKind, services::Service};
use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

type Outcome = anyhow::Result<()>;

#[tokio::test]
async fn a_stalled_request_does_not_hold_its_connection() -> Outcome {
    let mut publisher = Store::start(StoreKind::Embedded)
        .await?
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    let documents = format!("POST /v1/collections/{FREE}/documents");
    let delete = format!("DELETE /v1/collections/{FREE}/documents/a");
    let length = "content-length: 100\r\n\r\n{\"half\":";
    let chunked = "transfer-encoding: chunked\r\n\r\n8\r\n{\"half\":\r\n";
    let stalled = [
        (documents.as_str(), length, "408"),
        (documents.as_str(), chunked, "408"),
        ("POST /v1/changes", length, "408"),
        // A body that no route reads has the same limits.
        (delete.as_str(), length, "408"),
        ("POST /v1/nothing", length, "408"),
        (delete.as_str(), chunked, "408"),
        ("POST /v1/nothing", chunked, "408"),
        // Not even the headers are complete.
        (documents.as_str(), "content-le", "408"),
    ];
    try_join_all(stalled.map(|(line, rest, status)| let_go(&publisher, line, rest, status)))
        .await?;
    ensure!(
        publisher.api().head(FREE).await?.revision == 0,
        "half a body is no document"
    );
    Ok(())
}

/// Checks that the connection is closed after an answer with this status.
async fn let_go(publisher: &Service, line: &str, rest: &str, status: &str) -> Outcome {
    let began = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", publisher.port())).await?;
    stream
        .write_all(format!("{line} HTTP/1.1\r\nhost: localhost\r\n{rest}").as_bytes())
        .await?;
    let mut answer = Vec::new();
    let closed = timeout(Duration::from_secs(25), stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    // A connection that is reset is closed as well.
    closed
        .with_context(|| format!("{line} {rest:?} still holds its connection after: {answer}"))?
        .ok();
    ensure!(
        answer.starts_with(&format!("HTTP/1.1 {status}")),
        "{line} {rest:?} after {:?}: {answer}",
        began.elapsed()
    );
    Ok(())
}
