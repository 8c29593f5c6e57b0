//! The process: it opens the port first, then serves requests and keeps the replica in step until it
//! is stopped.
//!
//! All tasks start here and run under one supervisor: when the server or the replica ends, the
//! process ends. No other module spawns a task.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
};

use actix_web::{App as HttpApp, HttpServer, dev::Server};
use anyhow::Context;
use replica::{Config, Replica, Url};
use service::{
    http::stream_slots::{MAX_STREAMS, PeerConnection, StreamSlots},
    runtime::tasks::Supervisor,
};

use crate::{
    api::{self, Api},
    settings::Settings,
};

/// Threads that serve requests. Reads come from memory, so two are enough.
const WORKERS: usize = 2;
/// Seconds that open requests have to finish at the stop; less than the grace of the supervisor.
const SHUTDOWN_SECONDS: u64 = 5;

/// A subscriber with an open port that does not serve yet.
pub struct App {
    address: SocketAddr,
    server: Server,
    supervisor: Supervisor,
    replica: Replica,
}

impl App {
    /// Opens the port. A sidecar can connect from now on; it is answered once [`App::run`] runs.
    ///
    /// # Errors
    /// When the port cannot be opened, or the HTTP client cannot be created.
    pub fn build(settings: Settings) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(settings.listen).with_context(|| {
            format!(
                "cannot listen on {} (AURA_CONFIGURATION_LISTEN)",
                settings.listen
            )
        })?;
        let address = listener.local_addr().context("cannot read the port")?;
        let instance = match &settings.instance {
            Some(instance) => instance.clone(),
            None => format!("{}:{}", settings.host_name, address.port()),
        };
        let replica = Replica::new(Config {
            instance,
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
        .context("cannot create an HTTP client")?;
        let mut supervisor = Supervisor::default();
        let streams = StreamSlots::new(MAX_STREAMS, supervisor.stop());
        supervisor.spawn("streams", streams.clone().run());
        let api = Api::new(replica.clone(), &settings, streams);
        let server = HttpServer::new(move || {
            HttpApp::new().configure(|config| api::configure(config, &api))
        })
        .workers(WORKERS)
        .on_connect(PeerConnection::remember)
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

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The replica.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Serves requests and keeps the replica in step until `shutdown` resolves.
    ///
    /// # Errors
    /// When the server or the replica ended before the stop, or did not end within 10 s after it.
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

/// The URL of the address; `None` when it stands for all addresses of the host.
fn reachable_at(address: SocketAddr) -> Option<Url> {
    if address.ip().is_unspecified() {
        None
    } else {
        Url::parse(&format!("http://{address}")).ok()
    }
}
