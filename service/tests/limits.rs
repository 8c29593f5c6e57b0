//! A peer that is slow, silent or greedy, over real sockets: its connection ends, what its request
//! holds is dropped, and a regular request is answered.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::{App, HttpResponse, middleware::from_fn, web};
use contract::access::routes::RouteAccess;
use futures_util::stream::{self, StreamExt};
use service::{
    http::{
        bodies::{self, Bodies, Body, BodyLimits},
        connections::{ConnectionLimits, Connections},
        openapi::ApiOperation,
        routes::{self, ApiRoute},
        server,
    },
    runtime::{drain::Drain, limits::max_connections},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// A time that no test waits for unless it fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// A server under test. Dropping it stops it.
struct Running {
    address: SocketAddr,
    connections: Connections,
    /// Answers that are being sent.
    answers: Arc<AtomicUsize>,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Counts an answer while it exists.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &web::Data<Arc<AtomicUsize>>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn endless(count: web::Data<Arc<AtomicUsize>>) -> HttpResponse {
    let counted = Counted::new(&count);
    HttpResponse::Ok().streaming(stream::repeat_with(move || {
        let _until_dropped = &counted;
        Ok::<_, actix_web::Error>(web::Bytes::from_static(&[b'x'; 64 << 10]))
    }))
}

async fn silent(count: web::Data<Arc<AtomicUsize>>) -> HttpResponse {
    let counted = Counted::new(&count);
    HttpResponse::Ok().streaming(stream::once(async move {
        let _until_dropped = &counted;
        std::future::pending::<Result<web::Bytes, actix_web::Error>>().await
    }))
}

async fn large() -> HttpResponse {
    HttpResponse::Ok().body(vec![b'x'; 16 << 20])
}

async fn length(Body(body): Body) -> HttpResponse {
    HttpResponse::Ok().body(body.len().to_string())
}

/// An answer that begins after the time that an idle connection has.
async fn late() -> HttpResponse {
    tokio::time::sleep(short().idle + short().head).await;
    HttpResponse::Ok().body("late")
}

async fn ok() -> HttpResponse {
    HttpResponse::Ok().body("fine")
}

fn table() -> Vec<ApiRoute> {
    let described = || ApiOperation::new("x", "x");
    vec![
        ApiRoute::new(RouteAccess::open("GET", "/ok"), ok, described),
        ApiRoute::new(RouteAccess::open("PUT", "/ok"), ok, described),
        ApiRoute::new(RouteAccess::open("GET", "/endless"), endless, described),
        ApiRoute::new(RouteAccess::open("GET", "/silent"), silent, described),
        ApiRoute::new(RouteAccess::open("GET", "/large"), large, described),
        ApiRoute::new(RouteAccess::open("GET", "/late"), late, described),
        ApiRoute::new(RouteAccess::open("PUT", "/length"), length, described).body_limit(8_192),
        ApiRoute::new(RouteAccess::open("PUT", "/streamed"), streamed, described).body_limit(8_192),
    ]
}

/// A handler that reads its body itself, as the routes of a library do.
async fn streamed(mut payload: web::Payload) -> String {
    let mut length = 0;
    while let Some(piece) = payload.next().await {
        match piece {
            Ok(piece) => length += piece.len(),
            Err(error) => return format!("again: {error:?}"),
        }
    }
    length.to_string()
}

fn short() -> ConnectionLimits {
    ConnectionLimits {
        max: 100,
        per_address: 100,
        // The server counts these two in steps of 0.5 s.
        head: Duration::from_millis(1_000),
        idle: Duration::from_millis(2_000),
        stalled: Duration::from_millis(300),
        rate: 1 << 20,
    }
}

fn short_bodies() -> BodyLimits {
    BodyLimits {
        time: Duration::from_millis(400),
        free: 1_024,
        budget: 8_192,
        wait: Duration::from_millis(100),
        stalled: Duration::from_millis(300),
        rate: 1 << 20,
    }
}

fn start(limits: ConnectionLimits, body_limits: BodyLimits) -> Running {
    let listener = server::listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections = Connections::new(limits);
    let stop = CancellationToken::new();
    let answers = Arc::new(AtomicUsize::new(0));
    let count = web::Data::new(answers.clone());
    let received = web::Data::new(Bodies::new(body_limits, &table(), &["/streamed"]));
    let server = server::serve(
        listener,
        connections.clone(),
        None,
        Drain::default(),
        stop.clone(),
        move || {
            App::new()
                .app_data(count.clone())
                .app_data(received.clone())
                .service(routes::add(web::scope(""), table()).wrap(from_fn(bodies::receive)))
        },
    )
    .expect("a server");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.await.expect("a clean end") });
    Running {
        address,
        connections,
        answers,
        stop,
        _tasks: tasks,
    }
}

async fn connect(server: &Running) -> TcpStream {
    TcpStream::connect(server.address).await.expect("connected")
}

async fn send(server: &Running, text: &str) -> TcpStream {
    let mut peer = connect(server).await;
    peer.write_all(text.as_bytes()).await.expect("sent");
    peer
}

/// A connection that was answered once, and then sends this much of a request. It has its place when this
/// returns: with several workers the places are not taken in the order of the connections.
async fn admitted(server: &Running, then: &str) -> TcpStream {
    let mut peer = send(server, "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut answer = Vec::new();
    let read = timeout(DEADLINE, async {
        while !answer.ends_with(b"fine") {
            let count = peer.read_buf(&mut answer).await.expect("an answer");
            assert!(count > 0, "the connection ended");
        }
    });
    read.await.expect("an answer in time");
    let sent = peer.write_all(then.as_bytes());
    sent.await.expect("sent");
    peer
}

/// Everything that comes until the connection ends; an end by an error counts as an end.
async fn rest(peer: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(DEADLINE, async {
        let mut piece = [0; 65_536];
        while let Ok(count @ 1..) = peer.read(&mut piece).await {
            text.extend_from_slice(&piece[..count]);
        }
    });
    read.await.expect("the connection ends in time");
    String::from_utf8_lossy(&text).into_owned()
}

/// Whether a regular request is answered.
async fn is_served(server: &Running) -> bool {
    let mut peer = send(
        server,
        "GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    rest(&mut peer).await.ends_with("fine")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_loses_its_connection_and_its_answer() {
    let server = start(short(), short_bodies());
    for path in ["/endless", "/large"] {
        let peer = send(&server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        until("the request begins", || server.connections.count() == 1).await;
        until(path, || server.connections.count() == 0).await;
        assert_eq!(server.answers.load(Ordering::SeqCst), 0, "{path}");
        drop(peer);
    }
}

#[tokio::test]
async fn a_reader_that_takes_a_few_bytes_at_a_time_loses_its_connection() {
    let server = start(short(), short_bodies());
    let mut peer = send(&server, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let trickle = async {
        let mut few = [0; 20];
        while let Ok(1..) = peer.read(&mut few).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = trickle => {}
        () = async {
            until("the answer begins", || server.answers.load(Ordering::SeqCst) == 1).await;
            until("the answer ends", || server.answers.load(Ordering::SeqCst) == 0).await;
        } => {}
    }
}

#[tokio::test]
async fn a_reader_that_reads_and_a_silent_answer_are_not_cut_off() {
    let server = start(short(), short_bodies());
    let _waiting = send(&server, "GET /silent HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut peer = send(&server, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let begun = Instant::now();
    let mut piece = vec![0; 1 << 20];
    while begun.elapsed() < short().stalled * 4 {
        let read = timeout(DEADLINE, peer.read(&mut piece)).await;
        assert!(read.expect("in time").expect("no error") > 0);
    }
    assert_eq!(server.answers.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_slow_head_ends_also_after_a_first_request() {
    let server = start(short(), short_bodies());
    for first in ["", "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut peer = send(&server, first).await;
        let (mut reads, mut writes) = peer.split();
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let more = if first.is_empty() { "G" } else { "GET /ok" };
                if writes.write_all(more.as_bytes()).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let ended = async {
            let mut piece = [0; 1_024];
            while let Ok(1..) = reads.read(&mut piece).await {}
        };
        tokio::select! {
            () = trickle => {}
            ended = timeout(DEADLINE, ended) => ended.expect("the connection ends"),
        }
    }
}

#[tokio::test]
async fn a_connection_without_a_request_ends() {
    let server = start(short(), short_bodies());
    // A connection that never sent one is told why.
    let answer = rest(&mut connect(&server).await).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let mut used = send(&server, "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(rest(&mut used).await.ends_with("fine"));
    // The timer that was set before an answer ends while the answer is awaited.
    let requests = "GET /ok HTTP/1.1\r\nHost: x\r\n\r\nGET /late HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut patient = send(&server, requests).await;
    assert!(rest(&mut patient).await.ends_with("late"));
    until("each has ended", || server.connections.count() == 0).await;
}

/// On every route, also where no handler reads the body and where there is no route.
#[tokio::test]
async fn a_body_that_does_not_arrive_is_answered_408() {
    let server = start(short(), short_bodies());
    for target in ["PUT /length", "PUT /ok", "GET /ok", "POST /nowhere"] {
        for framing in [
            "Content-Length: 100\r\n\r\nabc",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            let request = format!("{target} HTTP/1.1\r\nHost: x\r\n{framing}");
            let mut peer = send(&server, &request).await;
            let answer = rest(&mut peer).await;
            assert!(answer.starts_with("HTTP/1.1 408"), "{request}: {answer}");
        }
    }
    until("all connections end", || server.connections.count() == 0).await;
}

#[tokio::test]
async fn a_body_that_trickles_and_a_body_that_never_ends_are_refused() {
    let server = start(short(), short_bodies());
    let mut peer = send(
        &server,
        "PUT /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    let (mut reads, mut writes) = peer.split();
    let mut answer = [0; 12];
    let trickle = async {
        loop {
            if writes.write_all(b"1\r\nx\r\n").await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = trickle => {}
        read = timeout(DEADLINE, reads.read_exact(&mut answer)) => {
            read.expect("in time").expect("an answer");
        }
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
    let large = "PUT /length HTTP/1.1\r\nHost: x\r\nContent-Length: 8193\r\n\r\n";
    let answer = rest(&mut send(&server, large).await).await;
    assert!(
        answer.starts_with("HTTP/1.1 413"),
        "before it is sent: {answer}"
    );
}

#[tokio::test]
async fn all_bodies_share_one_budget_and_short_ones_need_none_of_it() {
    let server = start(short(), short_bodies());
    let begin = |path: &str| {
        let head = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length";
        format!("PUT {path} {head}: 8000\r\n\r\n{}", "x".repeat(2_000))
    };
    // Also the bodies that their handlers read.
    for paths in [
        ["/length"; 2],
        ["/streamed"; 2],
        ["/length", "/streamed"],
        ["/streamed", "/length"],
    ] {
        let [first, second] = paths;
        let mut first = send(&server, &begin(first)).await;
        // The first has the whole budget, sooner or later; what comes second is refused.
        let mut second = send(&server, &begin(second)).await;
        for path in paths {
            let short_one = format!(
                "PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
            );
            let answer = rest(&mut send(&server, &short_one).await).await;
            assert!(answer.ends_with('3'), "{paths:?}: {answer}");
        }
        let (mut one, mut other) = ([0; 12], [0; 12]);
        let (refused, received) = tokio::select! {
            read = first.read_exact(&mut one) => { read.expect("an answer"); (&mut first, &mut second) }
            read = second.read_exact(&mut other) => { read.expect("an answer"); (&mut second, &mut first) }
        };
        received.write_all(&[b'x'; 6_000]).await.expect("sent");
        let answer = rest(received).await;
        assert!(answer.ends_with("8000"), "{paths:?}: {answer}");
        let answer = rest(refused).await;
        let is_busy = answer.contains("are under way") || answer.contains("Busy");
        assert!(is_busy, "{paths:?}: {answer}");
        // The share is free again, also after a body that broke off.
        let mut third = send(&server, &begin(paths[0])).await;
        third.write_all(&[b'x'; 6_000]).await.expect("sent");
        assert!(rest(&mut third).await.ends_with("8000"), "{paths:?}");
    }
}

/// A share is no place to rest: at a handler that reads its body itself, too.
#[tokio::test]
async fn a_body_with_a_share_that_stalls_is_refused_at_every_route() {
    let limits = BodyLimits {
        time: DEADLINE,
        ..short_bodies()
    };
    let server = start(short(), limits);
    for path in ["/length", "/streamed"] {
        let begin = format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 8000\r\n\r\n{}",
            "x".repeat(2_000)
        );
        let begun = Instant::now();
        let answer = rest(&mut send(&server, &begin).await).await;
        assert!(
            answer.starts_with("HTTP/1.1 408") || answer.contains("again: "),
            "{path}: {answer}"
        );
        assert!(begun.elapsed() < DEADLINE / 2, "{path}");
    }
}

#[tokio::test]
async fn beyond_the_bound_those_that_wait_longest_for_their_peer_are_closed() {
    let limits = ConnectionLimits {
        max: 8,
        idle: DEADLINE,
        head: DEADLINE,
        stalled: DEADLINE,
        ..short()
    };
    let server = start(limits, short_bodies());
    let mut silent = Vec::new();
    for number in 0..40 {
        let text = if number % 2 == 0 { "" } else { "GET /o" };
        silent.push(admitted(&server, text).await);
        assert!(
            is_served(&server).await,
            "after {number} silent connections"
        );
        assert!(server.connections.count() <= 8);
    }
    // Readers that stall count as waiting as well.
    for number in 0..20 {
        silent.push(send(&server, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await);
        until("it stalls or is closed", || server.connections.count() <= 8).await;
        assert!(
            is_served(&server).await,
            "after {number} readers that stall"
        );
    }
}

#[tokio::test]
async fn an_address_has_its_share_of_the_connections_and_others_have_theirs() {
    let limits = ConnectionLimits {
        max: 8,
        per_address: 4,
        idle: DEADLINE,
        head: DEADLINE,
        stalled: DEADLINE,
        ..short()
    };
    let server = start(limits, short_bodies());
    let mut silent = Vec::new();
    for _within in 0..4 {
        silent.push(admitted(&server, "GET /o").await);
    }
    assert_eq!(server.connections.count(), 4, "all four are open");
    for number in 0..20 {
        silent.push(admitted(&server, "GET /o").await);
        assert!(is_served(&server).await, "after {number} more");
        assert!(server.connections.count() <= 5, "the bound of one address");
    }
    let other = TcpSocket::new_v4().expect("a socket");
    other
        .bind("127.0.0.2:0".parse().expect("an address"))
        .expect("bound");
    let mut other = other.connect(server.address).await.expect("connected");
    let request = b"GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    other.write_all(request).await.expect("sent");
    assert!(rest(&mut other).await.ends_with("fine"));
}

/// A server until the process is killed: the part of the next test that needs its own process.
async fn serve_until_killed() {
    let limits = ConnectionLimits::with_max(max_connections());
    let server = start(limits, BodyLimits::default());
    let mut out = std::io::stderr();
    writeln!(out, "listening {}", server.address).expect("written");
    std::future::pending::<()>().await;
}

/// The child process is this test again, with few file descriptors.
#[tokio::test]
async fn with_64_descriptors_a_regular_request_gets_through_a_flood_of_connections() {
    const CHILD: &str = "CONFCAST_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return serve_until_killed().await;
    }
    let name = "with_64_descriptors_a_regular_request_gets_through_a_flood_of_connections";
    let mut child = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture",
        ])
        .arg(std::env::current_exe().expect("this test"))
        .arg(name)
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child process");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(
        child.stderr.take().expect("its output"),
    ));
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("listening ")?.parse::<SocketAddr>().ok())
        .expect("an address");
    let mut flood = Vec::new();
    let mut failed = Vec::new();
    for number in 0..300 {
        let mut peer = TcpStream::connect(address).await.expect("connected");
        // The service may have closed it already.
        peer.write_all(b"GET /o").await.ok();
        flood.push(peer);
        if number % 10 == 0 {
            let asked = async {
                let mut regular = TcpStream::connect(address).await.ok()?;
                let request = b"GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                regular.write_all(request).await.ok()?;
                Some(rest(&mut regular).await)
            };
            let answer = asked.await;
            if !answer.is_some_and(|answer| answer.ends_with("fine")) {
                failed.push(number);
            }
        }
    }
    child.kill().expect("ended");
    child.wait().expect("ended");
    assert_eq!(failed, [] as [i32; 0], "regular requests without an answer");
}
