//! One HTTP server for thousands of replicas of this process, each at its own address, and a proxy
//! to their publisher that keeps no connection open. It decides nothing: the routes of each replica
//! answer.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::{Server, Service, ServiceRequest},
    http::{
        KeepAlive, StatusCode, Uri,
        header::{CONTENT_TYPE, HOST, HeaderMap},
    },
    web,
};
use anyhow::Context;
use e2e::testbed::ports::free_port;
use replica::Replica;
use reqwest::{Method, RequestBuilder};
use tokio::net::TcpSocket;

use super::publisher::subscriber;
use crate::pair::NEVER;

/// Routes are tried one after the other, so they form a tree with this number of branches.
const BRANCHES: usize = 100;
/// Connections that may wait to be accepted; the system has its own limit.
const BACKLOG: u32 = 20_000;

/// The listening socket of all replicas: one for all loopback addresses, and for no other
/// interface.
pub(super) struct Socket {
    /// The port.
    pub(super) port: u16,
    listener: TcpListener,
}

impl Socket {
    /// Opens the socket. Connections wait until the server runs.
    pub(super) fn open() -> anyhow::Result<Self> {
        let port = free_port()?;
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket
            .bind_device(Some(b"lo"))
            .context("a socket for the loopback alone")?;
        socket.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
        Ok(Self {
            port,
            listener: socket.listen(BACKLOG)?.into_std()?,
        })
    }

    /// Serves these replicas.
    pub(super) fn serve(self, replicas: &[Replica]) -> anyhow::Result<Server> {
        let replicas: Arc<[Replica]> = replicas.into();
        let server = HttpServer::new(move || {
            let mut app = App::new().wrap_fn(|mut request, next| {
                lead(&mut request);
                next.call(request)
            });
            for (branch, replicas) in replicas.chunks(BRANCHES).enumerate() {
                let leaf = |(leaf, replica): (usize, &Replica)| {
                    let routes =
                        replica::actix::scope(replica, &replica::actix::Options::default());
                    web::scope(&format!("/{leaf}")).service(routes)
                };
                let all = replicas.iter().enumerate().map(leaf);
                app = app.service(all.fold(web::scope(&format!("/{branch}")), |scope, leaf| {
                    scope.service(leaf)
                }));
            }
            app
        });
        let server = server
            .workers(2)
            .disable_signals()
            .keep_alive(NEVER)
            .listen(self.listener)?;
        Ok(server.run())
    }
}

/// Adds the replica of the requested host to the path.
fn lead(request: &mut ServiceRequest) {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let address: Option<Ipv4Addr> = host
        .split(':')
        .next()
        .and_then(|address| address.parse().ok());
    let Some(replica) = address.and_then(subscriber) else {
        return;
    };
    let path = format!(
        "/{}/{}{}",
        replica / BRANCHES,
        replica % BRANCHES,
        request.path()
    );
    if let Ok(uri) = path.parse::<Uri>() {
        request.match_info_mut().get_mut().update(&uri);
        request.head_mut().uri = uri;
    }
}

/// The part of a publisher's answer that a replica reads.
async fn answer(request: RequestBuilder) -> HttpResponse {
    let whole = async {
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        reqwest::Result::Ok((status, headers, answer.bytes().await?))
    };
    let Ok((status, headers, body)) = whole.await else {
        return HttpResponse::BadGateway().finish();
    };
    let mut answer =
        HttpResponse::build(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY));
    for name in ["content-type", "retry-after"] {
        if let Some(value) = headers.get(name) {
            answer.insert_header((name, value.as_bytes()));
        }
    }
    answer.force_close().body(body)
}

/// Forwards requests to a publisher and closes each connection after its answer. Every replica has
/// two clients that would keep theirs open, and a process may not have that many open files.
pub(super) fn door(publisher: u16) -> anyhow::Result<(u16, Server)> {
    let client = e2e::http().no_proxy().build()?;
    let port = free_port()?;
    let server = HttpServer::new(move || {
        let client = client.clone();
        let pass = move |request: HttpRequest, body: web::Bytes| {
            let url = format!("http://127.0.0.1:{publisher}{}", request.uri());
            let method =
                Method::from_bytes(request.method().as_str().as_bytes()).unwrap_or_default();
            let onward = client.request(method, url);
            let kind = |headers: &HeaderMap| {
                headers
                    .get(CONTENT_TYPE)
                    .map(|kind| kind.as_bytes().to_vec())
            };
            let onward = match kind(request.headers()) {
                Some(kind) => onward.header("content-type", kind),
                None => onward,
            };
            answer(onward.body(body))
        };
        App::new().default_service(web::to(pass))
    });
    let server = server
        .workers(1)
        .disable_signals()
        .keep_alive(KeepAlive::Disabled);
    Ok((port, server.bind(("127.0.0.1", port))?.run()))
}
