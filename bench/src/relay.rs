//! A relay of TCP connections that counts the bytes of both directions. It knows nothing of them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

/// A running relay. Its connections end when it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Its port.
    pub(crate) port: u16,
    passed: Arc<AtomicU64>,
    _running: JoinSet<()>,
}

impl Relay {
    /// Starts a relay to a port of the loopback.
    pub(crate) async fn start(to: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let passed = Arc::new(AtomicU64::new(0));
        let counter = passed.clone();
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _address)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                connections.spawn(pass(from_client, to_server, counter.clone()));
                connections.spawn(pass(from_server, to_client, counter.clone()));
            }
        });
        Ok(Self {
            port,
            passed,
            _running: running,
        })
    }

    /// The bytes of both directions so far.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, passed: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        passed.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(bytes).await.is_err() {
            break;
        }
    }
}
