//! A TCP link that can be cut, slowed, half-closed, or blocked (black hole).
//!
//! It never inspects what it carries and never loses a byte of a connection that continues: after a
//! black hole the delayed bytes arrive late.

use std::time::Duration;

use anyhow::Context;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Mutex, watch},
    task::JoinSet,
    time::sleep,
};

use crate::testbed::ports::free_port;

/// The behaviour of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes.
    Open,
    /// Connections are reset, old and new.
    Cut,
    /// Everything passes, each piece after this delay.
    Slow(Duration),
    /// The half of each connection that sends to the client is closed; the client may still send.
    HalfClosed,
    /// Connections are accepted, nothing passes.
    BlackHole,
}

/// A link to a port of this machine.
#[derive(Debug)]
pub struct Proxy {
    name: String,
    port: u16,
    mode: watch::Sender<Mode>,
    _accepting: JoinSet<()>,
    /// Held while a fault is in effect on the link.
    pub turn: Mutex<()>,
}

impl Proxy {
    /// Listens on a free port and forwards to the port `upstream`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(name: impl Into<String>, upstream: u16) -> anyhow::Result<Self> {
        let port = free_port()?;
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .context("listening for a link")?;
        let (mode, seen) = watch::channel(Mode::Open);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, upstream, seen));
        Ok(Self {
            name: name.into(),
            port,
            mode,
            _accepting: accepting,
            turn: Mutex::default(),
        })
    }

    /// `source→target`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets the behaviour from now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn accept(listener: TcpListener, upstream: u16, mode: watch::Receiver<Mode>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                links.spawn(link(client, upstream, mode.clone()));
            },
            Some(_ended) = links.join_next() => {}
        }
    }
}

/// Forwards one connection until a side or the mode ends it. After a failure the other side sees a
/// reset, as from a network.
async fn link(mut client: TcpStream, upstream: u16, mut mode: watch::Receiver<Mode>) {
    let cut = |mode: &Mode| *mode == Mode::Cut;
    if mode
        .wait_for(|mode| *mode != Mode::BlackHole)
        .await
        .is_ok_and(|mode| cut(&mode))
    {
        client.set_zero_linger().ok();
        return;
    }
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else {
        client.set_zero_linger().ok();
        return;
    };
    client
        .set_nodelay(true)
        .and_then(|()| server.set_nodelay(true))
        .ok();
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let reset = tokio::select! {
        _ = futures_util::future::join(
            carry(from_client, to_server, mode.clone(), false),
            carry(from_server, to_client, mode.clone(), true),
        ) => false,
        _ = mode.wait_for(cut) => true,
    };
    if reset {
        client
            .set_zero_linger()
            .and_then(|()| server.set_zero_linger())
            .ok();
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    homeward: bool,
) {
    let mut closed = mode.clone();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = closed.wait_for(|mode| homeward && *mode == Mode::HalfClosed) => 0,
        };
        // A failure means that the proxy was dropped, so this connection ends too.
        let now = mode
            .wait_for(|mode| *mode != Mode::BlackHole)
            .await
            .map(|mode| *mode);
        if let Ok(Mode::Slow(by)) = now {
            sleep(by).await;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            to.shutdown().await.ok();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::testbed::wait::eventually;

    async fn echo() -> anyhow::Result<(JoinSet<()>, u16)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                open.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await.ok();
                });
            }
        });
        Ok((tasks, port))
    }

    async fn says(stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(b"a").await?;
        stream.read_exact(&mut [0]).await.map(drop)
    }

    #[tokio::test]
    async fn every_proxy_mode_has_its_documented_effect() -> anyhow::Result<()> {
        let (_server, port) = echo().await?;
        let proxy = Proxy::start("test", port).await?;
        let connect = async || TcpStream::connect(("127.0.0.1", proxy.port())).await;
        let mut stream = connect().await?;
        says(&mut stream).await?;

        proxy.set(Mode::BlackHole);
        let mut late = connect().await?;
        let short = Duration::from_millis(50);
        assert!(
            tokio::time::timeout(short, says(&mut late)).await.is_err(),
            "nothing answers"
        );
        proxy.set(Mode::Open);
        late.read_exact(&mut [0]).await?;
        says(&mut stream).await?;

        proxy.set(Mode::HalfClosed);
        assert_eq!(
            stream.read(&mut [0]).await?,
            0,
            "the end of what the server says"
        );
        proxy.set(Mode::Open);
        let mut late = connect().await?;
        says(&mut late).await?;
        proxy.set(Mode::Cut);
        let reset = late.read(&mut [0]).await.map_err(|error| error.kind());
        assert_eq!(reset, Err(ErrorKind::ConnectionReset));
        proxy.set(Mode::Slow(short));
        eventually("it is open again", async || {
            Ok(says(&mut connect().await?).await?)
        })
        .await
    }
}
