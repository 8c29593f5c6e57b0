//! Requests that arrive while an earlier one is being answered, over real sockets: each answer is
//! whole, has the form that its own request needs, and comes in order (RFC 9112 section 9.3.2).

use std::{net::SocketAddr, time::Duration};

use actix_web::{App, Error, HttpResponse, middleware::from_fn, web};
use contract::access::routes::RouteAccess;
use futures_util::stream;
use service::{
    http::{
        bodies::{self, Bodies, Body, BodyLimits},
        connections::{ConnectionLimits, Connections},
        framing::frame_answers,
        methods::answer_methods,
        openapi::ApiOperation,
        routes::{self, ApiRoute},
        server,
    },
    runtime::drain::Drain,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, yield_now},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// A time that no test waits for unless it fails.
const DEADLINE: Duration = Duration::from_secs(20);
const HOST: &str = "HTTP/1.1\r\nHost: x\r\n";

/// Answers late, in two pieces.
async fn late() -> HttpResponse {
    for _turn in 0..20 {
        yield_now().await;
    }
    let pieces = stream::unfold(0, |turn| async move {
        yield_now().await;
        (turn < 2).then(|| (Ok::<_, Error>(web::Bytes::from_static(b"late")), turn + 1))
    });
    HttpResponse::Ok().streaming(pieces)
}

async fn echo(Body(body): Body) -> HttpResponse {
    yield_now().await;
    HttpResponse::Ok().body(body)
}

fn table() -> Vec<ApiRoute> {
    let described = || ApiOperation::new("x", "x");
    vec![
        ApiRoute::new(RouteAccess::open("GET", "/late"), late, described),
        ApiRoute::new(RouteAccess::open("PUT", "/echo"), echo, described).body_limit(8_192),
    ]
}

/// Sends the parts, one write each, and gives everything until the connection ends.
async fn exchange(address: SocketAddr, parts: impl Iterator<Item = &[u8]>) -> String {
    let mut peer = TcpStream::connect(address).await.expect("connected");
    peer.set_nodelay(true).expect("set");
    for part in parts {
        peer.write_all(part).await.expect("sent");
        yield_now().await;
    }
    let mut answers = Vec::new();
    timeout(DEADLINE, peer.read_to_end(&mut answers))
        .await
        .expect("the connection ends in time")
        .expect("read");
    String::from_utf8(answers).expect("text")
}

/// The first lines and the bodies of answers; a body in chunks is given as it is framed.
fn answers(mut text: &str) -> Vec<String> {
    let mut answers = Vec::new();
    while let Some((head, rest)) = text.split_once("\r\n\r\n") {
        let has = |name: &str| head.lines().any(|line| line.eq_ignore_ascii_case(name));
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then_some(value)
        });
        let body = match length {
            Some(length) => length.parse().expect("a number"),
            None if has("transfer-encoding: chunked") => {
                rest.find("0\r\n\r\n").expect("an end") + 5
            }
            None => 0,
        };
        let close = if has("connection: close") {
            " close"
        } else {
            ""
        };
        let line = head.lines().next().unwrap_or_default();
        answers.push(format!("{line}{close}: {:?}", &rest[..body]));
        text = &rest[body..];
    }
    assert_eq!(text, "", "after {answers:?}");
    answers
}

#[tokio::test]
async fn each_answer_is_whole_and_in_order_however_the_requests_arrive() {
    let listener = server::listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let received = web::Data::new(Bodies::new(BodyLimits::default(), &table(), &[]));
    let connections = Connections::new(ConnectionLimits::with_max(100));
    let server = server::serve(
        listener,
        connections,
        None,
        Drain::default(),
        stop.clone(),
        move || {
            App::new().app_data(received.clone()).service(
                routes::add(web::scope(""), table())
                    .wrap(from_fn(answer_methods))
                    .wrap(from_fn(bodies::receive))
                    .wrap(from_fn(frame_answers)),
            )
        },
    );
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.expect("a server").await.expect("a clean end") });

    let late = r#"HTTP/1.1 200 OK: "4\r\nlate\r\n4\r\nlate\r\n0\r\n\r\n""#;
    let head = r#"HTTP/1.1 200 OK: """#;
    let get = format!("GET /late {HOST}\r\n");
    for (requests, expected) in [
        (
            format!("{get}HEAD /late {HOST}\r\n{get}HEAD /late {HOST}Connection: close\r\n\r\n"),
            vec![late, head, late, r#"HTTP/1.1 200 OK close: """#],
        ),
        // The version and the connection of a later request change nothing.
        (
            format!("{get}{get}HEAD /late HTTP/1.0\r\n\r\n"),
            vec![late, late, r#"HTTP/1.0 200 OK: """#],
        ),
        // Bodies of both kinds, with blank lines and a request in them.
        (
            format!(
                "PUT /echo {HOST}Content-Length: 12\r\n\r\nHEAD /\r\n\r\n\r\n\
                 PUT /echo {HOST}Transfer-Encoding: chunked\r\n\r\n\
                 6\r\nG\r\n\r\nx\r\n0\r\n\r\n\r\n\
                 {get}HEAD /late {HOST}Connection: close\r\n\r\n"
            ),
            vec![
                r#"HTTP/1.1 200 OK: "HEAD /\r\n\r\n\r\n""#,
                r#"HTTP/1.1 200 OK: "G\r\n\r\nx""#,
                late,
                r#"HTTP/1.1 200 OK close: """#,
            ],
        ),
    ] {
        for size in [requests.len(), 1, 7, 40] {
            let text = exchange(address, requests.as_bytes().chunks(size)).await;
            assert_eq!(answers(&text), expected, "{size} {requests}");
        }
    }
    // A peer that closes its end has gone: what it did not read is dropped, and its connection ends.
    let mut peer = TcpStream::connect(address).await.expect("connected");
    peer.write_all(format!("{get}{get}").as_bytes())
        .await
        .expect("sent");
    peer.shutdown().await.expect("closed");
    let mut rest = Vec::new();
    timeout(DEADLINE, peer.read_to_end(&mut rest))
        .await
        .expect("in time")
        .expect("read");
    stop.cancel();
}
