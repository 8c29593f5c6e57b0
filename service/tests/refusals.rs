//! Requests that the HTTP server cannot read, over real sockets: each is told why in a problem, and
//! no answer of a handler is touched.

use std::{net::SocketAddr, time::Duration};

use actix_web::{App, HttpResponse, middleware::from_fn, web};
use contract::{Problem, access::routes::RouteAccess};
use service::{
    http::{
        bodies::{self, Bodies, Body, BodyLimits},
        connections::{ConnectionLimits, Connections},
        framing::frame_answers,
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
/// Bytes of a head that actix-http reads.
const MAX_HEAD: usize = 131_072;

/// As the parser would answer.
async fn bare() -> HttpResponse {
    HttpResponse::BadRequest().finish()
}

async fn echo(Body(body): Body) -> HttpResponse {
    HttpResponse::Ok().body(body)
}

fn table() -> Vec<ApiRoute> {
    let described = || ApiOperation::new("x", "x");
    vec![
        ApiRoute::new(RouteAccess::open("GET", "/bare"), bare, described),
        ApiRoute::new(RouteAccess::open("PUT", "/echo"), echo, described).body_limit(8_192),
    ]
}

/// Sends the parts, one write each, and gives everything until the connection ends.
async fn exchange(address: SocketAddr, parts: impl Iterator<Item = &[u8]>) -> String {
    let mut peer = TcpStream::connect(address).await.expect("connected");
    peer.set_nodelay(true).expect("set");
    for part in parts {
        // The server may have answered and closed already.
        if peer.write_all(part).await.is_err() {
            break;
        }
        yield_now().await;
    }
    let mut answers = Vec::new();
    let read = timeout(DEADLINE, peer.read_to_end(&mut answers));
    // An end with a reset is an end as well.
    read.await.expect("the connection ends in time").ok();
    String::from_utf8(answers).expect("text")
}

/// The status of each answer, with the type of its problem, or with its body.
fn answers(mut text: &str) -> Vec<String> {
    let mut answers = Vec::new();
    while let Some((head, rest)) = text.split_once("\r\n\r\n") {
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
        };
        let length = header("content-length").map_or(0, |length| length.parse().expect("a number"));
        let status = head.split(' ').nth(1).expect("a status");
        let what = if header("content-type") == Some("application/problem+json") {
            let problem: Problem = serde_json::from_str(&rest[..length]).expect("a problem");
            assert_eq!(problem.status.to_string(), status);
            problem.kind.as_str().to_owned()
        } else {
            format!("{:?}", &rest[..length])
        };
        answers.push(format!("{status} {what}"));
        text = &rest[length..];
    }
    assert_eq!(text, "", "after {answers:?}");
    answers
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_told_why_and_no_other_answer_changes() {
    let listener = server::listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let received = web::Data::new(Bodies::new(BodyLimits::default(), &table(), &[]));
    let limits = ConnectionLimits {
        head: Duration::from_secs(2),
        ..ConnectionLimits::with_max(100)
    };
    let server = server::serve(
        listener,
        Connections::new(limits),
        None,
        Drain::default(),
        stop.clone(),
        move || {
            App::new().app_data(received.clone()).service(
                routes::add(web::scope(""), table())
                    .wrap(from_fn(bodies::receive))
                    .wrap(from_fn(frame_answers)),
            )
        },
    );
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.expect("a server").await.expect("a clean end") });

    let (bad, bare) = ("400 bad-request", r#"400 """#);
    for (requests, expected) in [
        ("NO HTTP\r\n\r\n".to_owned(), vec![bad]),
        (format!("GET /bare {HOST}no header\r\n\r\n"), vec![bad]),
        (
            format!("GET /bare {HOST}Content-Length: x\r\n\r\n"),
            vec![bad],
        ),
        // The answer to a HEAD has no body.
        (format!("HEAD /bare {HOST}no header\r\n\r\n"), vec![bare]),
        // Answers of a handler stay as they are, also directly before one of the server.
        (
            format!("GET /bare {HOST}\r\nGET /bare {HOST}Connection: close\r\n\r\n"),
            vec![bare, bare],
        ),
        (
            format!(
                "PUT /echo {HOST}Content-Length: 2\r\n\r\nhiGET /bare {HOST}\r\nNO HTTP\r\n\r\n"
            ),
            vec![r#"200 "hi""#, bare, bad],
        ),
    ] {
        for size in [requests.len(), 1, 7] {
            let text = exchange(address, requests.as_bytes().chunks(size)).await;
            assert_eq!(answers(&text), expected, "{size} {requests}\n{text}");
        }
    }
    let mut large = format!("GET /bare {HOST}x: ");
    large.extend(std::iter::repeat_n('x', MAX_HEAD - large.len()));
    let text = exchange(address, large.as_bytes().chunks(4_096)).await;
    assert_eq!(answers(&text), ["431 head-too-large"]);
    let late = exchange(address, ["GET /ba".as_bytes()].into_iter()).await;
    assert_eq!(answers(&late), ["408 head-late"]);
    stop.cancel();
}
