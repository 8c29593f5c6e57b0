//! The process: it opens the port first, then serves requests and keeps the replica in step until it
//! is stopped.
//!
//! All tasks start here and run under one supervisor: when the server or the replica ends, the
//! process ends. No other module spawns a task.

use std::{
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use actix_web::{App as HttpApp, dev::Server};
use anyhow::Context;
use projection::Projection;
use replica::{Config, Events, Replica, SecretUrl, Url};
use service::{
    http::{connections::Connections, guard::warn_when_open, server, stream_slots::StreamSlots},
    runtime::{
        drain::Drain,
        tasks::{Supervisor, on_thread},
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api},
    settings::Settings,
};

/// What a peer can do that reaches the port, without a token of the sidecar.
const PEERS: &str = "every peer can read all documents, and post events, which change what this \
                     replica answers until it compares itself with its publisher";

/// What a program that embeds the subscriber says about its own readiness.
pub trait Readiness: fmt::Debug + Send + Sync {
    /// Whether it can do its work.
    ///
    /// # Errors
    /// Why not, and the remedy: `/readyz` answers 503 with it.
    fn ready(&self) -> Result<(), String>;
}

/// A subscriber with an open port that does not serve yet.
pub struct App {
    address: SocketAddr,
    dapr_api: Option<SocketAddr>,
    scheme: &'static str,
    server: Server,
    supervisor: Supervisor,
    replica: Replica,
    drain: Drain,
}

impl App {
    /// Opens the port. A sidecar can connect from now on; it is answered once [`App::run`] runs.
    ///
    /// # Errors
    /// When the port cannot be opened, or the HTTP client cannot be created.
    pub fn build(settings: Settings) -> anyhow::Result<Self> {
        Self::build_with(settings, None)
    }

    /// As [`App::build`], for a program that is ready only when `readiness` says so as well.
    ///
    /// # Errors
    /// As [`App::build`].
    pub fn with_readiness(
        settings: Settings,
        readiness: Arc<dyn Readiness>,
    ) -> anyhow::Result<Self> {
        Self::build_with(settings, Some(readiness))
    }

    fn build_with(
        settings: Settings,
        readiness: Option<Arc<dyn Readiness>>,
    ) -> anyhow::Result<Self> {
        let listener = server::listen(settings.listen).with_context(|| {
            format!(
                "cannot listen on {} (AURA_CONFIGURATION_LISTEN)",
                settings.listen
            )
        })?;
        let address = listener.local_addr().context("cannot read the port")?;
        let tls = settings.tls.clone();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let instance = match &settings.instance {
            Some(instance) => instance.clone(),
            None => format!("{}:{}", settings.host_name, address.port()),
        };
        let replica = Replica::new(Config {
            instance,
            collections: settings.collections.clone(),
            follow: settings.follow,
            publishers: settings.publishers.clone(),
            base_url: settings
                .base_url
                .clone()
                .or_else(|| reachable_at(scheme, address)),
            check_in: settings.check_in,
            events: settings.events.clone(),
            snapshot_dir: settings.snapshot_dir.clone(),
            event_keys: settings.event_keys.clone(),
            credentials: settings.credentials.clone(),
            sidecar_token: settings.sidecar_token.clone(),
            app_token: settings
                .app_api_token
                .clone()
                .filter(|_token| settings.by_publisher),
        })
        .context("cannot create an HTTP client")?;
        let mut supervisor = Supervisor::default();
        let connections = Connections::new(settings.limits.connections());
        supervisor.spawn("connections", connections.clone().run(supervisor.stop()));
        if let Some(tls) = tls.clone() {
            let stop = supervisor.stop();
            supervisor.spawn("TLS files", async move { Ok(tls.run(stop).await?) });
        }
        let stream_limits = settings.limits.streams(connections.limits());
        let streams = StreamSlots::new(stream_limits, supervisor.stop());
        supervisor.spawn("credentials", {
            let (authenticator, stop) = (settings.authenticator.clone(), supervisor.stop());
            async move {
                let reading = authenticator.keep_up_to_date();
                stop.run_until_cancelled(reading).await;
                Ok(())
            }
        });
        if settings.app_api_token.is_none() && settings.authenticator.is_open() {
            warn_when_open("subscriber", address, PEERS);
        }
        if let Some(unreachable) = unreachable(&settings, address) {
            tracing::warn!("{unreachable}");
        }
        let projection = settings
            .projection
            .clone()
            .map(|config| Projection::new(config, replica.clone()));
        if let Some(projection) = projection.clone() {
            let stop = supervisor.stop();
            supervisor.spawn("projection", async move {
                projection.run(stop).await;
                Ok(())
            });
        }
        let drain = Drain::new(settings.drain);
        let api = Api::new(
            replica.clone(),
            projection,
            &settings,
            streams.clone(),
            drain.clone(),
            readiness,
        );
        let dapr_api = match &settings.dapr_api {
            Some(at) => {
                let config = dapr_api::Config {
                    token: settings.sidecar_token.clone(),
                    sidecar_grpc: at.sidecar_grpc.clone(),
                    sidecar_http: at.sidecar_http.clone(),
                    app: at.app.clone(),
                    app_token: settings.app_api_token.clone(),
                    authenticator: settings.authenticator.clone(),
                    bad_credentials: api.bad_credentials(),
                    guard: settings.guard.clone(),
                    streams,
                    connections: *connections.limits(),
                };
                Some(serve_dapr_api(
                    at.listen,
                    config,
                    &replica,
                    &mut supervisor,
                )?)
            }
            None => None,
        };
        let app = move || HttpApp::new().configure(|config| api::configure(config, &api));
        let server = server::serve(
            listener,
            connections,
            tls,
            drain.clone(),
            supervisor.stop(),
            app,
        )
        .context("cannot serve")?;
        Ok(Self {
            address,
            dapr_api,
            scheme,
            server,
            supervisor,
            replica,
            drain,
        })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of Dapr's Configuration API, if it is served.
    pub fn dapr_api(&self) -> Option<SocketAddr> {
        self.dapr_api
    }

    /// Makes `/readyz` answer 503 and connections end, for the time in the settings: what
    /// [`App::run`] is given as `shutdown` runs it before it resolves.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Cancelled when the process stops.
    pub fn stop(&self) -> CancellationToken {
        self.supervisor.stop()
    }

    /// Adds a task to the process; see [`Supervisor::spawn`].
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.supervisor.spawn(name, task);
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
            dapr_api: _,
            scheme,
            server,
            mut supervisor,
            replica,
            drain: _,
        } = self;
        let instance = &replica.config().instance;
        tracing::info!(instance, %address, "{instance} listens on {scheme}://{address}");
        supervisor.spawn("http server", async move {
            server.await.context("the server failed")
        });
        let stop = supervisor.stop();
        // The load and what the feed brings allocate on one thread: the updates of documents then
        // fill what their older revisions leave, which the allocator keeps by thread.
        let replica = on_thread("replica", async move {
            replica.run(stop.cancelled_owned()).await;
            Ok(())
        });
        supervisor.spawn("replica", replica);
        supervisor.run(shutdown).await
    }
}

/// Opens the port of Dapr's Configuration API and starts to serve it.
fn serve_dapr_api(
    listen: SocketAddr,
    config: dapr_api::Config,
    replica: &Replica,
    supervisor: &mut Supervisor,
) -> anyhow::Result<SocketAddr> {
    let listener = server::listen(listen).with_context(|| {
        format!("cannot listen on {listen} (AURA_CONFIGURATION_DAPR_API_LISTEN)")
    })?;
    let address = listener.local_addr().context("cannot read the port")?;
    tracing::info!(
        %address,
        "the Configuration API of Dapr listens on {address}; other calls go on to the sidecar at {} \
         (gRPC) and {} (HTTP)",
        config.sidecar_grpc,
        config.sidecar_http
    );
    let stop = supervisor.stop();
    let serving = dapr_api::serve(listener, replica.clone(), config, stop);
    supervisor.spawn("Dapr API", serving);
    Ok(address)
}

/// The URL of the address; `None` when it stands for all addresses of the host.
fn reachable_at(scheme: &str, address: SocketAddr) -> Option<Url> {
    if address.ip().is_unspecified() {
        None
    } else {
        Url::parse(&format!("{scheme}://{address}")).ok()
    }
}

/// The reason why no publisher can post events to this subscriber, and the remedy, when the settings
/// and the address show it. An address of this host alone says nothing to a publisher on another.
fn unreachable(settings: &Settings, address: SocketAddr) -> Option<String> {
    if !matches!(settings.events, Events::Local) || settings.base_url.is_some() {
        return None;
    }
    let is_local = |url: &SecretUrl| {
        let host = url.expose().host_str().unwrap_or_default();
        host == "localhost"
            || (host.trim_matches(['[', ']']).parse::<IpAddr>()).is_ok_and(|ip| ip.is_loopback())
    };
    let problem = if address.ip().is_unspecified() {
        "stands for all addresses of the host, so no publisher knows where to post LOCAL events"
    } else if address.ip().is_loopback() && !settings.publishers.iter().any(is_local) {
        "is reached from this host alone, so a publisher on another host cannot post LOCAL events"
    } else {
        return None;
    };
    // The name of the host, where it has one that may be known to others.
    let host = match settings.host_name.as_str() {
        "localhost" => "10.0.0.7",
        name => name,
    };
    let port = address.port();
    Some(format!(
        "the subscriber listens on {address}, which {problem}; changes arrive with its check-ins. Set \
         AURA_CONFIGURATION_BASE_URL to the URL at which the publisher reaches it, for example \
         http://{host}:{port}, and allow that address with AURA_CONFIGURATION_LOCAL_ALLOW of the publisher \
         (or name the URL in its AURA_CONFIGURATION_LOCAL_SUBSCRIBERS)"
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::settings::Options;

    #[test]
    fn a_subscriber_that_no_publisher_can_reach_names_the_setting() {
        let notice = |address: &str, flags: &[&str]| {
            let options = Options::parse_from([&["subscriber"], flags].concat());
            let settings = options.settings().expect("valid settings");
            unreachable(&settings, address.parse().expect("an address"))
        };
        let far = ["--api-url", "http://10.0.0.1:8080"];
        for (address, flags) in [
            ("0.0.0.0:8081", &[][..]),
            ("[::]:8081", &far[..]),
            ("127.0.0.1:8081", &far),
        ] {
            let text = notice(address, flags).unwrap_or_default();
            assert!(
                text.contains(&format!("listens on {address}, "))
                    && text.contains("AURA_CONFIGURATION_BASE_URL")
                    && text.contains(":8081, and allow"),
                "{address}: {text}"
            );
        }
        let named = ["--base-url", "http://10.0.0.7:8081"];
        for (address, flags) in [
            ("127.0.0.1:8081", &[][..]),
            ("[::1]:8081", &["--api-url", "http://[::1]:8080"]),
            ("10.0.0.7:8081", &far),
            ("0.0.0.0:8081", &named),
            ("0.0.0.0:8081", &["--events-manager", "DAPR"]),
            ("0.0.0.0:8081", &["--events-manager", "FEED"]),
            ("0.0.0.0:8081", &["--events-enabled", "false"]),
        ] {
            assert_eq!(notice(address, flags), None, "{address} {flags:?}");
        }
    }
}
