//! A request of a caller that may not send it, over real sockets: it is refused before its body is
//! read, and costs the others nothing.

use std::{net::SocketAddr, time::Duration};

use actix_web::{App, HttpMessage, HttpResponse, dev::ServiceRequest, middleware::from_fn, web};
use contract::access::{
    Grant, Identity, Role,
    routes::{self as at, RouteAccess},
};
use service::{
    http::{
        bodies::{self, Bodies, Body, BodyLimits},
        connections::{ConnectionLimits, Connections},
        openapi::ApiOperation,
        refusals::Refusals,
        routes::{self, ApiRoute},
        server,
    },
    runtime::drain::Drain,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);
const PUT: &str = "PUT /v1/collections/Skills/documents/a HTTP/1.1\r\nHost: x\r\n";
/// Bytes of a body that needs a share of the budget.
const LARGE: usize = 6_000;

async fn length(Body(body): Body) -> HttpResponse {
    HttpResponse::Ok().body(format!("{} bytes", body.len()))
}

fn table() -> Vec<ApiRoute> {
    let described = || ApiOperation::new("x", "x");
    vec![
        ApiRoute::new(at::PUT_DOCUMENT, length, described).body_limit(8_192),
        ApiRoute::new(RouteAccess::open("PUT", "/open"), length, described).body_limit(8_192),
    ]
}

/// The role of a caller is its header `role`, within the collection `Skills`.
fn identify(request: &ServiceRequest) {
    let role = request.headers().get("role");
    let role = role.and_then(|role| role.to_str().ok()?.parse().ok());
    let grants = role.map(|role: Role| Grant {
        role,
        collections: Some(["Skills".parse().expect("a name")].into()),
        id_prefix: None,
    });
    request.extensions_mut().insert(Identity {
        name: "test".into(),
        grants: grants.into_iter().collect(),
    });
}

struct Running {
    address: SocketAddr,
    _stop: tokio_util::sync::DropGuard,
    _tasks: JoinSet<()>,
}

fn start() -> Running {
    let listener = server::listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.local_addr().expect("an address");
    let limits = BodyLimits {
        time: Duration::from_secs(5),
        free: 1_024,
        budget: 8_192,
        wait: Duration::from_millis(100),
        ..BodyLimits::default()
    };
    let received = web::Data::new(Bodies::new(limits, &table(), &[]));
    let refusals = web::Data::new(Refusals::default());
    let stop = CancellationToken::new();
    let connections = Connections::new(ConnectionLimits::with_max(100));
    let server = server::serve(
        listener,
        connections,
        None,
        Drain::default(),
        stop.clone(),
        move || {
            App::new()
                .app_data(received.clone())
                .app_data(refusals.clone())
                .service(
                    routes::add(web::scope(""), table())
                        .wrap(from_fn(bodies::receive))
                        .wrap(from_fn(
                            async |request, next: actix_web::middleware::Next<_>| {
                                identify(&request);
                                next.call(request).await
                            },
                        )),
                )
        },
    )
    .expect("a server");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.await.expect("a clean end") });
    Running {
        address,
        _stop: stop.drop_guard(),
        _tasks: tasks,
    }
}

/// Reads one answer with a `Content-Length`.
async fn answer(peer: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .filter_map(|line| line.split_once(": "))
                    .find(|(name, _value)| name.eq_ignore_ascii_case("content-length"))
                    .and_then(|(_name, value)| value.parse::<usize>().ok());
                if body.len() >= length.unwrap_or_default() {
                    return text;
                }
            }
            if peer.read_buf(&mut bytes).await.expect("an answer") == 0 {
                return text;
            }
        }
    };
    timeout(DEADLINE, read).await.expect("an answer in time")
}

async fn send(server: &Running, text: &str) -> TcpStream {
    let mut peer = TcpStream::connect(server.address).await.expect("connected");
    peer.write_all(text.as_bytes()).await.expect("sent");
    peer
}

fn head(role: &str, length: usize) -> String {
    format!(
        "{PUT}Role: {role}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[actix_web::test]
async fn a_caller_without_the_right_is_refused_before_its_body_is_read_and_takes_no_budget() {
    let server = start();
    let mut held = Vec::new();
    // Each would take the whole budget, and none sends its body.
    for role in ["reader", "reader", "none", "monitor"] {
        let mut peer = send(&server, &head(role, LARGE)).await;
        let refused = answer(&mut peer).await;
        assert!(refused.starts_with("HTTP/1.1 403"), "{role}: {refused}");
        assert!(refused.contains("\"right\":\"write\""), "{role}: {refused}");
        held.push(peer);
    }
    let chunked = format!("{PUT}Role: reader\r\nTransfer-Encoding: chunked\r\n\r\n");
    let refused = answer(&mut send(&server, &chunked).await).await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    // The whole budget is free for a caller that may write.
    let request = head("writer", LARGE) + &"x".repeat(LARGE);
    let taken = answer(&mut send(&server, &request).await).await;
    assert!(taken.ends_with("6000 bytes"), "{taken}");
}

#[actix_web::test]
async fn a_short_body_of_a_refused_request_is_received_and_its_connection_stays() {
    let server = start();
    let mut peer = send(&server, &format!("{}{}", head("reader", 2), "{}")).await;
    let refused = answer(&mut peer).await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    let next = format!("{}{}", head("writer", 2), "{}");
    peer.write_all(next.as_bytes()).await.expect("sent");
    let taken = answer(&mut peer).await;
    assert!(taken.ends_with("2 bytes"), "{taken}");
}

#[actix_web::test]
async fn a_path_that_names_nothing_needs_the_right_for_everything() {
    let server = start();
    for path in [
        "/v1/collections/Agents/documents/a",
        "/v1/collections/%53kills/documents/a",
        "/v1/collections/Sk%2Fills/documents/a",
    ] {
        let request = head("writer", 2).replace("/v1/collections/Skills/documents/a", path) + "{}";
        let answer = answer(&mut send(&server, &request).await).await;
        // What the router decodes to a name is that name.
        let encoded = path.contains("%53");
        let expected = if encoded {
            "HTTP/1.1 200"
        } else {
            "HTTP/1.1 403"
        };
        assert!(answer.starts_with(expected), "{path}: {answer}");
    }
}
