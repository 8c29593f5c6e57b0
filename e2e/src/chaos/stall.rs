//! Readers that stall: they ask for much and take nothing.
//!
//! Requests are sent one after another without reading (RFC 9112, section 9.3.2), so that the answers
//! are more than all buffers between the two processes hold. The live feed is opened as well and
//! left unread; what it holds is judged by the memory and the file of the process. The readers have
//! an address of their own, because slots are shared among addresses.
//!
//! The time of a reader begins when its service is blocked, which the queues of both sockets show
//! (`/proc/net/tcp`). A service that was just started answers 503, or slowly, for a while: it waits
//! for no reader then, and nothing is judged.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use procfs::net::{TcpNetEntry, TcpState};
use tokio::{
    io::AsyncWriteExt,
    net::TcpSocket,
    time::{sleep, timeout},
};

use crate::testbed::FREE;

/// Requests on one connection: their answers are about 10 MiB.
const REQUESTS: usize = 1_024;
/// A service ends a reader that takes nothing for 10 s; a busy machine may need longer.
const DEADLINE: Duration = Duration::from_secs(16);
/// How long the answers may take to fill the buffers.
const FILLED: Duration = Duration::from_secs(20);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Time between two looks at the sockets.
const LOOK: Duration = Duration::from_millis(100);
/// The address of stalled readers.
const ADDRESS: [u8; 4] = [127, 0, 0, 66];
/// Small, so that few answers fill it.
const BUFFER: u32 = 128 << 10;

/// What became of readers that took nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stalled {
    /// The service waited for them and ended their connections.
    Ended,
    /// The service waited for one of them for too long.
    Kept(String),
    /// The service waited for none of them: it answered too little, too slowly, or not at all.
    NeverBlocked,
}

/// Lets readers stall at a service, all at once, until each is ended or judged.
///
/// # Errors
/// When the address is invalid, or the sockets of the machine cannot be listed.
pub async fn stall(port: u16) -> anyhow::Result<Stalled> {
    let service = SocketAddr::from(([127, 0, 0, 1], port));
    let list = format!("/v1/collections/{FREE}/documents");
    let live = format!("/v1/collections/{FREE}/changes?from=0");
    let ended = futures_util::future::join_all([
        one(service, "/v1/snapshot", REQUESTS, DEADLINE, FILLED),
        one(service, "/v1/snapshot", REQUESTS, DEADLINE, FILLED),
        one(service, &list, REQUESTS, DEADLINE, FILLED),
        one(service, &list, REQUESTS, DEADLINE, FILLED),
        // Held while the others stall: one request is never followed by a next one.
        one(service, &live, 1, DEADLINE, FILLED),
        one(service, &live, 1, DEADLINE, FILLED),
    ]);
    let ended: Vec<_> = ended.await.into_iter().collect::<anyhow::Result<_>>()?;
    let kept = ended
        .iter()
        .find(|stalled| matches!(stalled, Stalled::Kept(_)));
    Ok(match kept {
        Some(kept) => kept.clone(),
        None if ended.contains(&Stalled::Ended) => Stalled::Ended,
        None => Stalled::NeverBlocked,
    })
}

async fn one(
    service: SocketAddr,
    path: &str,
    requests: usize,
    deadline: Duration,
    filled: Duration,
) -> anyhow::Result<Stalled> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket
        .bind((ADDRESS, 0).into())
        .context("the address of stalled readers")?;
    // A service that does not answer has no reader to end.
    let Ok(Ok(mut stream)) = timeout(CONNECT, socket.connect(service)).await else {
        return Ok(Stalled::NeverBlocked);
    };
    let ours = stream.local_addr()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: {ACCEPT}\r\n\r\n");
    let requested = request.repeat(requests);
    // A service reads no request while an answer waits, so writing may stall too.
    let asking = async {
        // A service that ends the connection is seen at its socket.
        drop(stream.write_all(requested.as_bytes()).await);
        std::future::pending().await
    };
    let stalled = tokio::select! {
        stalled = watch(ours, service, deadline, filled) => stalled?,
        never = asking => never,
    };
    drop(stream);
    Ok(match stalled {
        Stalled::Kept(queues) => Stalled::Kept(format!(
            "a reader of {path} that took nothing was kept for {} s: {queues}",
            deadline.as_secs()
        )),
        stalled => stalled,
    })
}

const ACCEPT: &str = "text/event-stream, application/x-ndjson;q=0.9, application/json;q=0.8";

/// Watches the sockets of a connection until the service has ended it, has been blocked for
/// `deadline`, or was not blocked for `filled`.
async fn watch(
    ours: SocketAddr,
    service: SocketAddr,
    deadline: Duration,
    filled: Duration,
) -> anyhow::Result<Stalled> {
    let mut last = None;
    let mut since = Instant::now();
    let mut was_blocked = false;
    loop {
        sleep(LOOK).await;
        let Some(queues) = Queues::of(ours, service)? else {
            return Ok(if was_blocked {
                Stalled::Ended
            } else {
                Stalled::NeverBlocked
            });
        };
        let moved = last.replace(queues) != Some(queues);
        let blocked = !moved && queues.blocked();
        if blocked != was_blocked {
            was_blocked = blocked;
            since = Instant::now();
        }
        if blocked && since.elapsed() >= deadline {
            return Ok(Stalled::Kept(format!("{queues:?}")));
        }
        if !blocked && since.elapsed() >= filled {
            return Ok(Stalled::NeverBlocked);
        }
    }
}

/// Bytes that wait in the sockets of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Queues {
    /// Requests that the service has not read.
    requests: u32,
    /// Answers that the service has given and the reader has no capacity for.
    waiting: u32,
    /// Answers that have arrived at the reader.
    arrived: u32,
}

impl Queues {
    /// Those of a connection; `None` when the service has ended it.
    fn of(ours: SocketAddr, service: SocketAddr) -> anyhow::Result<Option<Self>> {
        let sockets = procfs::net::tcp().context("the sockets of the machine")?;
        let open = |local, remote| {
            sockets.iter().find(|socket: &&TcpNetEntry| {
                (socket.local_address, socket.remote_address) == (local, remote)
                    && socket.state == TcpState::Established
            })
        };
        let arrived = open(ours, service).map_or(0, |socket| socket.rx_queue);
        Ok(open(service, ours).map(|socket| Self {
            requests: socket.rx_queue,
            waiting: socket.tx_queue,
            arrived,
        }))
    }

    /// Whether the service can only wait for the reader: it would read the next request if the
    /// answers had capacity.
    fn blocked(self) -> bool {
        self.requests > 0 && self.waiting > 0
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const HOLD: Duration = Duration::from_millis(1_500);

    /// A service that answers one connection without end after `delay`, and ends it after `patience`
    /// without progress. It keeps the connection after `answers` of 16 KiB.
    async fn serve(
        listener: TcpListener,
        delay: Duration,
        patience: Duration,
        answers: usize,
    ) -> std::io::Result<()> {
        let (mut stream, _peer) = listener.accept().await?;
        sleep(delay).await;
        let answer = vec![b'x'; 16 << 10];
        for _answer in 0..answers {
            match timeout(patience, stream.write_all(&answer)).await {
                Ok(written) => written?,
                Err(_elapsed) => return Ok(()),
            }
        }
        std::future::pending().await
    }

    async fn stalled_at(
        delay: Duration,
        patience: Duration,
        answers: usize,
    ) -> anyhow::Result<Stalled> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let service = listener.local_addr()?;
        tokio::select! {
            stalled = one(service, "/v1/snapshot", REQUESTS, HOLD, HOLD * 2) => stalled,
            never = async {
                serve(listener, delay, patience, answers).await.ok();
                std::future::pending().await
            } => never,
        }
    }

    #[tokio::test]
    async fn a_service_that_keeps_stalled_readers_is_detected() -> anyhow::Result<()> {
        let [none, soon, late, never] = [0, 5, 12, 100].map(|tenths| HOLD * tenths / 10);
        let endless = usize::MAX;
        let ends = stalled_at(none, soon, endless).await?;
        assert_eq!(ends, Stalled::Ended, "it ends them");
        let slow = stalled_at(late, soon, endless).await?;
        assert_eq!(slow, Stalled::Ended, "its time begins when it is blocked");
        let keeps = stalled_at(none, never, endless).await?;
        assert!(
            matches!(keeps, Stalled::Kept(_)),
            "it keeps them: {keeps:?}"
        );
        let little = stalled_at(none, soon, 2).await?;
        assert_eq!(little, Stalled::NeverBlocked, "it waits for nobody");
        Ok(())
    }
}
