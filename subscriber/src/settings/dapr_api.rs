//! Settings of Dapr's Configuration API: where it is served, and where the sidecar and the application
//! are. The variables of the sidecar are those that the SDKs of Dapr read.

use std::net::SocketAddr;

use dapr_api::Authority;
use service::runtime::settings::{SettingChecks, listen_address, or};

pub(super) const LISTEN: &str = "AURA_CONFIGURATION_DAPR_API_LISTEN";
const APP_URL: &str = "AURA_CONFIGURATION_DAPR_API_APP_URL";
const GRPC_ENDPOINT: &str = "DAPR_GRPC_ENDPOINT";
const GRPC_PORT: (&str, &str) = ("DAPR_GRPC_PORT", "50001");
const HTTP_ENDPOINT: &str = "DAPR_HTTP_ENDPOINT";
const HTTP_PORT: (&str, &str) = ("DAPR_HTTP_PORT", "3500");

/// The texts of the settings, and their help.
#[derive(clap::Args)]
pub(super) struct DaprApiArgs {
    /// Address and port at which applications find Dapr's Configuration API, by gRPC and HTTP on one port.
    ///
    /// Give them this port as `DAPR_GRPC_PORT` and `DAPR_HTTP_PORT`: what is not the Configuration API
    /// goes on to the sidecar. Port 0 takes a free port. When it is not set, the API is not served.
    #[arg(long, env = LISTEN, value_name = "ADDRESS:PORT", default_value = "", hide_default_value = true)]
    dapr_api_listen: String,

    /// URL of the application, `http://HOST:PORT`, to which subscriptions over HTTP post values. By gRPC it
    /// is not needed.
    #[arg(long, env = APP_URL, value_name = "URL", default_value = "", hide_default_value = true)]
    dapr_api_app_url: String,

    /// Address of the gRPC API of the sidecar, `http://HOST:PORT`, for what is passed on to it. Without
    /// one it is this host and `DAPR_GRPC_PORT`.
    #[arg(long, env = GRPC_ENDPOINT, value_name = "URL", default_value = "", hide_default_value = true)]
    dapr_grpc_endpoint: String,

    /// Port of the gRPC API of the sidecar on this host.
    #[arg(long, env = GRPC_PORT.0, value_name = "PORT", default_value = GRPC_PORT.1)]
    dapr_grpc_port: String,

    /// Address of the HTTP API of the sidecar, `http://HOST:PORT`, for what is passed on to it. Without
    /// one it is this host and `DAPR_HTTP_PORT`.
    #[arg(long, env = HTTP_ENDPOINT, value_name = "URL", default_value = "", hide_default_value = true)]
    dapr_http_endpoint: String,

    /// Port of the HTTP API of the sidecar on this host.
    #[arg(long, env = HTTP_PORT.0, value_name = "PORT", default_value = HTTP_PORT.1)]
    dapr_http_port: String,
}

/// Where the API is served, and its neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaprApiSettings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// The application, for subscriptions over HTTP.
    pub app: Option<Authority>,
    /// The gRPC API of the sidecar.
    pub sidecar_grpc: Authority,
    /// The HTTP API of the sidecar.
    pub sidecar_http: Authority,
}

impl DaprApiArgs {
    /// Checks the settings; `None` when an error was recorded. Those of the sidecar count only where the
    /// API is served: other programs use the same variables.
    pub(super) fn check(&self, checks: &mut SettingChecks) -> Option<Option<DaprApiSettings>> {
        if self.dapr_api_listen.is_empty() {
            return Some(None);
        }
        let text = self.dapr_api_listen.as_str();
        let listen = checks.check(LISTEN, text, listen_address(text));
        let app = match self.dapr_api_app_url.as_str() {
            "" => Some(None),
            url => checks.check(APP_URL, url, authority(url)).map(Some),
        };
        let grpc = endpoint(
            checks,
            (GRPC_ENDPOINT, &self.dapr_grpc_endpoint),
            (GRPC_PORT, &self.dapr_grpc_port),
        );
        let http = endpoint(
            checks,
            (HTTP_ENDPOINT, &self.dapr_http_endpoint),
            (HTTP_PORT, &self.dapr_http_port),
        );
        let settings = DaprApiSettings {
            listen: listen?,
            app: app?,
            sidecar_grpc: grpc?,
            sidecar_http: http?,
        };
        for (name, of_sidecar) in [
            (GRPC_PORT.0, &settings.sidecar_grpc),
            (HTTP_PORT.0, &settings.sidecar_http),
        ] {
            if leads_back(settings.listen, of_sidecar) {
                let what = format_args!(
                    "{of_sidecar}: this subscriber itself listens there ({LISTEN}); give the port of the \
                     sidecar here, and that of the subscriber to the application"
                );
                checks.error(name, what);
                return None;
            }
        }
        Some(Some(settings))
    }
}

/// These addresses have no TLS, so a token that is sent there must stay on this host, unless the operator
/// has allowed it.
pub(super) fn check_tokens(
    checks: &mut SettingChecks,
    settings: &DaprApiSettings,
    of_sidecar: bool,
    of_app: bool,
) {
    let app = settings.app.as_ref().map(|app| (APP_URL, app, of_app));
    let sidecar = [
        (GRPC_ENDPOINT, &settings.sidecar_grpc, of_sidecar),
        (HTTP_ENDPOINT, &settings.sidecar_http, of_sidecar),
    ];
    for (name, address, has_token) in sidecar.into_iter().chain(app) {
        if has_token && !is_loopback(address) {
            let what = format_args!(
                "{address}: a token would be sent there in plain text; give an address of this host, or set \
                 AURA_CONFIGURATION_ALLOW_PLAINTEXT_TOKEN=true where the network is trusted"
            );
            checks.error(name, what);
        }
    }
}

fn is_loopback(address: &Authority) -> bool {
    let host = address.host().trim_matches(['[', ']']);
    host == "localhost" || (host.parse::<std::net::IpAddr>()).is_ok_and(|ip| ip.is_loopback())
}

/// The address of a URL, else of a port of this host.
fn endpoint(
    checks: &mut SettingChecks,
    (url_name, url): (&str, &str),
    ((port_name, default), port): ((&str, &str), &str),
) -> Option<Authority> {
    if !url.is_empty() {
        return checks.check(url_name, url, authority(url));
    }
    let port: u16 = checks.parse(port_name, or(port, default))?;
    let address = format!("127.0.0.1:{port}").parse();
    checks.check(port_name, port.to_string().as_str(), address)
}

/// `http://HOST:PORT` or `HOST:PORT`.
fn authority(url: &str) -> Result<Authority, &'static str> {
    let expected = "expected http://HOST:PORT; TLS, a path and a user are not for this address";
    let text = url.strip_prefix("http://").unwrap_or(url);
    let text = text.strip_suffix('/').unwrap_or(text);
    let authority: Authority = text.parse().map_err(|_malformed| expected)?;
    let is_plain = authority.port_u16().is_some() && !text.contains('@');
    is_plain.then_some(authority).ok_or(expected)
}

/// Whether a sidecar would be the subscriber itself.
fn leads_back(listen: SocketAddr, sidecar: &Authority) -> bool {
    let host = sidecar.host().trim_matches(['[', ']']);
    let is_this_host = host == "localhost"
        || (host.parse::<std::net::IpAddr>()).is_ok_and(|ip| ip == listen.ip() || ip.is_loopback());
    listen.port() != 0 && sidecar.port_u16() == Some(listen.port()) && is_this_host
}
