//! Readers that stall: they ask for much and take nothing.
//!
//! Requests are sent one after another without reading (RFC 9112, section 9.3.2), so that the answers
//! are more than all buffers between the two processes hold. The live feed is opened as well and
//! left unread; what it holds is judged by the memory and the file of the process. The readers have
//! an address of their own, because slots are shared among addresses.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::testbed::FREE;

/// Requests on one connection: their answers are about 10 MiB.
pub const REQUESTS: usize = 1_024;
/// A service ends a reader that takes nothing for 10 s.
pub const DEADLINE: Duration = Duration::from_secs(16);
/// How long what is left in buffers may take to arrive.
const DRAIN: Duration = Duration::from_secs(5);
/// The address of stalled readers.
const ADDRESS: [u8; 4] = [127, 0, 0, 66];
/// Small, and large enough that what is left afterwards arrives without the timers of TCP.
const BUFFER: u32 = 128 << 10;
/// The beginning of an answer.
const ANSWER: &[u8] = b"HTTP/1.1 ";

/// Lets readers stall at a service for `hold`, all at once. Returns what is wrong with the end of
/// the first that was not ended.
///
/// # Errors
/// When the address is invalid.
pub async fn stall(port: u16, hold: Duration) -> anyhow::Result<Option<String>> {
    let service = SocketAddr::from(([127, 0, 0, 1], port));
    let list = format!("/v1/collections/{FREE}/documents");
    let live = format!("/v1/collections/{FREE}/changes?from=0");
    let ended = futures_util::future::join_all([
        one(service, "/v1/snapshot", REQUESTS, hold),
        one(service, "/v1/snapshot", REQUESTS, hold),
        one(service, &list, REQUESTS, hold),
        one(service, &list, REQUESTS, hold),
        one(service, &live, 1, hold),
        one(service, &live, 1, hold),
    ]);
    let ended = ended.await.into_iter();
    Ok(ended
        .collect::<anyhow::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .next())
}

async fn one(
    service: SocketAddr,
    path: &str,
    requests: usize,
    hold: Duration,
) -> anyhow::Result<Option<String>> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket
        .bind((ADDRESS, 0).into())
        .context("the address of stalled readers")?;
    // A service that does not answer has no reader to end.
    let Ok(Ok(mut stream)) = timeout(DRAIN, socket.connect(service)).await else {
        return Ok(None);
    };
    let began = Instant::now();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: {ACCEPT}\r\n\r\n");
    let requested = request.repeat(requests);
    let asked = stream.write_all(requested.as_bytes());
    // A service reads no request while an answer waits, so writing may stall too.
    drop(timeout(hold, asked).await);
    sleep(hold.saturating_sub(began.elapsed())).await;
    if requests == 1 {
        return Ok(None);
    }
    let (answers, closed) = drain(&mut stream, requests).await;
    Ok(wrong(path, requests, answers, closed))
}

const ACCEPT: &str = "text/event-stream, application/x-ndjson;q=0.9, application/json;q=0.8";

/// Reads what is left: the number of answers, and whether the service had ended the connection.
async fn drain(stream: &mut TcpStream, requests: usize) -> (usize, bool) {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    let count = |bytes: &[u8]| {
        bytes
            .windows(ANSWER.len())
            .filter(|at| *at == ANSWER)
            .count()
    };
    let mut answers = 0;
    let ended = timeout(DRAIN, async {
        loop {
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return true,
                Ok(length) => bytes.extend_from_slice(&piece[..length]),
            }
            answers += count(&bytes);
            if answers >= requests {
                return false;
            }
            // The beginning of an answer may be cut.
            let keep = bytes.len().min(ANSWER.len() - 1);
            bytes.drain(..bytes.len() - keep);
        }
    });
    let ended = ended.await.unwrap_or(false);
    (answers, ended)
}

/// What is wrong with the end of a reader that stalled until its deadline.
fn wrong(path: &str, requests: usize, answers: usize, closed: bool) -> Option<String> {
    let ended = closed && answers < requests;
    (!ended).then(|| {
        format!("a reader of {path} that stalled was kept: {answers} of {requests} answers, closed: {closed}")
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const HOLD: Duration = Duration::from_millis(500);

    /// A service that answers one connection without end, or ends it after `patience` without
    /// progress.
    async fn serve(listener: TcpListener, patience: Duration) -> std::io::Result<()> {
        let (mut stream, _peer) = listener.accept().await?;
        let answer = [ANSWER, &vec![b'x'; 16 << 10][..]].concat();
        loop {
            match timeout(patience, stream.write_all(&answer)).await {
                Ok(written) => written?,
                Err(_elapsed) => return Ok(()),
            }
        }
    }

    async fn stalled_at(patience: Duration) -> anyhow::Result<Option<String>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let service = listener.local_addr()?;
        let (served, found) = tokio::join!(
            timeout(Duration::from_secs(10), serve(listener, patience)),
            one(service, "/v1/snapshot", REQUESTS, HOLD)
        );
        drop(served);
        found
    }

    #[tokio::test]
    async fn a_service_that_keeps_stalled_readers_is_detected() -> anyhow::Result<()> {
        let ends = stalled_at(HOLD / 5).await?;
        assert_eq!(ends, None, "it ends them");
        assert!(stalled_at(HOLD * 8).await?.is_some(), "it keeps them");
        Ok(())
    }
}
