//! A load balancer for tests: one port in front of services that come and go.
//!
//! It balances connections and not requests, as a Service of Kubernetes does: a new connection goes to
//! one of the services that are ready, and an open one stays where it is. It learns of a service that is
//! not ready any more a moment later. It never repeats a connection or a request.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    client::Api,
    testbed::{ports::free_port, wait::eventually},
};

/// Time between two looks at the readiness of all services.
const PERIOD: Duration = Duration::from_millis(100);
/// Looks in a row that find a service not ready, before it gets no connection any more.
const MISSES: u32 = 2;

/// A load balancer. It ends with its connections when it is dropped.
#[derive(Debug)]
pub struct Balancer {
    port: u16,
    targets: Targets,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Clone, Default)]
struct Targets(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    all: Vec<Target>,
    /// Whose turn it is.
    next: usize,
}

#[derive(Debug)]
struct Target {
    port: u16,
    ready: bool,
    misses: u32,
}

impl Balancer {
    /// Listens on a free port, for no service yet.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> anyhow::Result<Self> {
        let port = free_port()?;
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .context("listening for a load balancer")?;
        let targets = Targets::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, targets.clone()));
        tasks.spawn(look(targets.clone()));
        Ok(Self {
            port,
            targets,
            _tasks: tasks,
        })
    }

    /// The base URL of the services behind it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Adds the service at this port, and waits until it gets connections.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn add(&self, port: u16) -> anyhow::Result<()> {
        self.targets.lock().all.push(Target {
            port,
            ready: false,
            misses: 0,
        });
        eventually("the load balancer sees the service", async || {
            let state = self.targets.lock();
            ensure!(state.all.iter().any(|one| one.port == port && one.ready));
            Ok(())
        })
        .await
    }

    /// Forgets the service at this port.
    pub fn remove(&self, port: u16) {
        self.targets.lock().all.retain(|one| one.port != port);
    }
}

impl Targets {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port of the next connection.
    fn next(&self) -> Option<u16> {
        let mut state = self.lock();
        let ready = || state.all.iter().filter(|one| one.ready);
        let turn = state.next.checked_rem(ready().count())?;
        let port = ready().nth(turn)?.port;
        state.next += 1;
        Some(port)
    }
}

/// Looks at the readiness of all services, indefinitely.
async fn look(targets: Targets) {
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        let ports: Vec<_> = targets.lock().all.iter().map(|one| one.port).collect();
        for port in ports {
            // A connection of its own, as a health check has.
            let api = Api::new(format!("http://127.0.0.1:{port}"));
            let status = api.status_of("/readyz").await;
            let ready = status.is_ok_and(|status| status < 300);
            let mut state = targets.lock();
            if let Some(target) = state.all.iter_mut().find(|one| one.port == port) {
                target.misses = if ready { 0 } else { target.misses + 1 };
                target.ready = ready || (target.ready && target.misses < MISSES);
            }
        }
    }
}

async fn accept(listener: TcpListener, targets: Targets) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                open.spawn(carry(client, targets.next()));
            },
            Some(_ended) = open.join_next() => {}
        }
    }
}

/// Carries one connection to its end. A failure of one side is a reset of the other.
async fn carry(mut client: TcpStream, port: Option<u16>) {
    let carried = async {
        let port = port.context("no service is ready")?;
        let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let carried = copy_bidirectional(&mut client, &mut server).await;
        if carried.is_err() {
            server.set_zero_linger().ok();
        }
        anyhow::Ok(carried?)
    };
    if carried.await.is_err() {
        client.set_zero_linger().ok();
    }
}
