//! The process: binds first, then serves and follows until it is told to stop.
//!
//! Only this module starts anything, and all of it runs under one supervisor: if the server or the
//! replica ends, the process ends.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
};

use actix_web::{App as HttpApp, HttpServer, dev::Server};
use anyhow::Context;
use replica::{Config, Replica, Url};
use service::{
    streams::{self, StreamSlots},
    tasks::Supervisor,
};

use crate::{
    routes::{self, AppState},
    settings::Settings,
};

/// Reads come from memory, so a few threads go a long way.
const WORKERS: usize = 2;
/// Seconds that requests under way have to finish; less than the supervisor's own patience.
const SHUTDOWN_SECONDS: u64 = 5;

/// A subscriber that has its port, and has not begun.
pub struct App {
    address: SocketAddr,
    server: Server,
    supervisor: Supervisor,
    replica: Replica,
}

impl App {
    /// Takes the port. From then on a sidecar can connect; it is answered once [`App::run`] runs.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn build(settings: Settings) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(settings.listen).with_context(|| {
            format!(
                "cannot listen on {} (AURA_CONFIGURATION_LISTEN)",
                settings.listen
            )
        })?;
        let address = listener.local_addr().context("cannot tell the port")?;
        let default = || format!("{}:{}", settings.host_name, address.port());
        let replica = Replica::new(Config {
            instance: settings.instance.clone().unwrap_or_else(default),
            collections: settings.collections.clone(),
            publishers: settings.publishers.clone(),
            base_url: settings.base_url.clone().or_else(|| reachable_at(address)),
            check_in: settings.check_in,
            events: settings.events.clone(),
            snapshot_dir: settings.snapshot_dir.clone(),
            sidecar_token: settings.sidecar_token.clone(),
            app_token: settings
                .app_api_token
                .clone()
                .filter(|_token| settings.by_publisher),
        })
        .context("cannot make an HTTP client")?;
        let mut supervisor = Supervisor::default();
        let streams = StreamSlots::new(streams::MOST, supervisor.stop());
        supervisor.spawn("streams", streams.clone().run());
        let state = AppState::new(replica.clone(), &settings, streams);
        let server = HttpServer::new(move || {
            HttpApp::new().configure(|config| routes::configure(config, &state))
        })
        .workers(WORKERS)
        .on_connect(|io, kept| {
            _ = streams::PeerConnection::of(io).map(|connection| kept.insert(connection))
        })
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .shutdown_signal(supervisor.stop().cancelled_owned())
        .listen(listener)
        .context("cannot serve")?
        .run();
        Ok(Self {
            address,
            server,
            supervisor,
            replica,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The replica behind it.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Serves and follows until `shutdown` resolves.
    ///
    /// # Errors
    /// When the server or the replica ended before it was told to, or did not end in time.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self {
            address,
            server,
            mut supervisor,
            replica,
        } = self;
        let instance = &replica.config().instance;
        tracing::info!(instance, %address, "{instance} listens on http://{address}");
        supervisor.spawn("http server", async move {
            server.await.context("the server failed")
        });
        let stop = supervisor.stop();
        supervisor.spawn("replica", async move {
            replica.run(stop.cancelled_owned()).await;
            Ok(())
        });
        supervisor.run(shutdown).await
    }
}

/// An address that stands for all addresses is nobody's.
fn reachable_at(address: SocketAddr) -> Option<Url> {
    if address.ip().is_unspecified() {
        None
    } else {
        Url::parse(&format!("http://{address}")).ok()
    }
}
