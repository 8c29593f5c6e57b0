//! The process: it opens the port first, then serves requests and keeps the replica in step until it
//! is stopped.
//!
//! All tasks start here and run under one supervisor: when the server or the replica ends, the
//! process ends. No other module spawns a task.

use std::{future::Future, net::SocketAddr};

use actix_web::{App as HttpApp, dev::Server};
use anyhow::Context;
use replica::{Config, Replica, Url};
use service::{
    http::{
        connections::{ConnectionLimits, Connections},
        guard::warn_when_open,
        server,
        stream_slots::{MAX_STREAMS, StreamSlots},
    },
    runtime::{limits::max_connections, tasks::Supervisor},
};

use crate::{
    api::{self, Api},
    settings::Settings,
};

/// What a peer can do that reaches the port, without a token of the sidecar.
const PEERS: &str = "every peer can read all documents, and post events, which change what this \
                     replica answers until it compares itself with its publisher";

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
        let listener = server::listen(settings.listen).with_context(|| {
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
            follow: settings.follow,
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
        let connections = Connections::new(ConnectionLimits::with_max(max_connections()));
        supervisor.spawn("connections", connections.clone().run(supervisor.stop()));
        // Streams never take the last connections.
        let max_streams = MAX_STREAMS.min(connections.limits().max / 2);
        let streams = StreamSlots::new(max_streams, supervisor.stop());
        if settings.app_api_token.is_none() {
            warn_when_open("subscriber", address, PEERS);
        }
        let api = Api::new(replica.clone(), &settings, streams);
        let app = move || HttpApp::new().configure(|config| api::configure(config, &api));
        let server =
            server::serve(listener, connections, supervisor.stop(), app).context("cannot serve")?;
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
