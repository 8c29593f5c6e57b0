//! The server with TLS, over real sockets: who gets a connection, how long a handshake may take, and
//! new files while requests come in.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{App, HttpRequest, HttpResponse, web};
use contract::Problem;
use service::{
    http::{
        connections::{ConnectionLimits, Connections, PeerCertificate},
        server,
    },
    runtime::drain::Drain,
};
use tls::{
    ClientCertificates, ClientFiles, ClientTls, ServerFiles, ServerTls,
    testing::{Authority, client_files, server_files},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{error::Elapsed, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};
use tokio_util::sync::CancellationToken;

/// A time that no test waits for unless it fails.
const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    tls: ServerTls,
    connections: Connections,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    /// A connection of a client that shows no certificate.
    async fn connected(&self, folder: &Path) -> TlsStream<TcpStream> {
        let files = client_files(folder, false);
        let stream = connect(self.address, files, "localhost").await;
        stream.expect("connected")
    }

    /// Waits until every connection has ended.
    async fn no_connections(&self) -> Result<(), Elapsed> {
        timeout(DEADLINE, async {
            while self.connections.count() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

async fn name(request: HttpRequest) -> HttpResponse {
    let certificate = request.conn_data::<PeerCertificate>().expect("always");
    let name = certificate.0.as_deref().unwrap_or("nobody");
    HttpResponse::Ok().body(name.to_owned())
}

fn start(files: ServerFiles, limits: ConnectionLimits) -> Running {
    let listener = server::listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections = Connections::new(limits);
    let stop = CancellationToken::new();
    let tls = ServerTls::open(files).expect("usable files");
    let server = server::serve(
        listener,
        connections.clone(),
        Some(tls.clone()),
        Drain::default(),
        stop.clone(),
        || {
            App::new()
                .route("/name", web::get().to(name))
                .route("/large", web::get().to(|| async { "x".repeat(32 << 20) }))
                .route(
                    "/length",
                    web::post().to(|body: web::Bytes| async move { body.len().to_string() }),
                )
        },
    )
    .expect("a server");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.await.expect("a clean end") });
    Running {
        address,
        tls,
        connections,
        stop,
        _tasks: tasks,
    }
}

fn limits() -> ConnectionLimits {
    ConnectionLimits {
        head: Duration::from_millis(600),
        stalled: Duration::from_millis(600),
        ..ConnectionLimits::with_max(4_000)
    }
}

/// A folder with the files of a new authority.
fn folder() -> (tempfile::TempDir, Authority) {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    authority.write_to(folder.path());
    (folder, authority)
}

/// Makes a handshake as a client with these files.
async fn connect(
    address: SocketAddr,
    files: ClientFiles,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tls = ClientTls::open(files).expect("usable files");
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name).expect("a name");
    TlsConnector::from(Arc::new(tls.config()))
        .connect(name, stream)
        .await
}

/// The answers to a request until the connection ends. With TLS 1.3 a refused client certificate shows
/// only here.
async fn ask(stream: &mut TlsStream<TcpStream>, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const NAME: &str = "GET /name HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// The name that the server sees, or why there is no answer.
async fn seen(address: SocketAddr, files: ClientFiles) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = connect(address, files, "127.0.0.1").await.map_err(text)?;
    let answer = ask(&mut stream, NAME).await.map_err(text)?;
    let body = answer.split_once("\r\n\r\n").map(|(_head, body)| body);
    Ok(body.ok_or("no answer")?.to_owned())
}

#[tokio::test]
async fn a_request_has_the_name_of_the_verified_client_certificate() {
    let (folder, authority) = folder();
    let ca = folder.path().join("ca.crt");
    let foreign = Authority::new();
    for (mode, without) in [
        (ClientCertificates::None, true),
        (ClientCertificates::Optional(ca.clone()), true),
        (ClientCertificates::Required(ca.clone()), false),
    ] {
        let asks = mode != ClientCertificates::None;
        let mut files = server_files(folder.path());
        files.clients = mode;
        let server = start(files, limits());
        let nobody = seen(server.address, client_files(folder.path(), false)).await;
        assert_eq!(nobody.is_ok(), without, "{nobody:?}");
        let shows = |issued: tls::testing::Issued| {
            issued.write_to(folder.path(), "shown");
            ClientFiles {
                identity: Some((
                    folder.path().join("shown.crt"),
                    folder.path().join("shown.key"),
                )),
                ..client_files(folder.path(), false)
            }
        };
        for (issued, expected) in [
            (
                authority.issue(&["a.test", "spiffe://test/a"]),
                "spiffe://test/a",
            ),
            (authority.issue(&["10.0.0.1", "a.test"]), "a.test"),
            (authority.issue_common_name("a person"), "a person"),
            (authority.issue_common_name("spiffe://test/a"), "nobody"),
        ] {
            let expected = if asks { expected } else { "nobody" };
            let name = seen(server.address, shows(issued)).await;
            assert_eq!(name.as_deref(), Ok(expected));
        }
        for refused in [
            foreign.issue(&["spiffe://test/a"]),
            authority.issue_expired(),
        ] {
            let name = seen(server.address, shows(refused)).await;
            assert_eq!(name.is_err(), asks, "{name:?}");
        }
    }
}

#[tokio::test]
async fn a_client_refuses_a_server_that_it_cannot_verify() {
    let (folder, authority) = folder();
    let known = client_files(folder.path(), false);
    let server = start(server_files(folder.path()), limits());
    let wrong_name = connect(server.address, known.clone(), "other.test").await;
    assert!(wrong_name.is_err());
    let other = self::folder();
    let wrong_authority = seen(server.address, client_files(other.0.path(), false)).await;
    assert!(wrong_authority.is_err_and(|error| error.contains("invalid peer certificate")));
    let of_the_system = seen(server.address, ClientFiles::default()).await;
    assert!(of_the_system.is_err());
    authority.issue_expired().write_to(folder.path(), "server");
    server.tls.reload();
    let expired = seen(server.address, known).await;
    assert!(expired.is_err_and(|error| error.contains("expired")));
}

#[tokio::test]
async fn a_request_without_tls_is_told_so() {
    let (folder, _authority) = folder();
    let server = start(server_files(folder.path()), limits());
    let mut peer = TcpStream::connect(server.address).await.expect("connected");
    peer.write_all(NAME.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let read = timeout(DEADLINE, peer.read_to_string(&mut answer)).await;
    read.expect("in time").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    let problem: Problem = serde_json::from_str(body).expect("a problem");
    assert!(problem.detail.contains("https://"), "{body}");
}

#[tokio::test]
async fn half_open_handshakes_end_in_time_and_delay_nobody() {
    let (folder, _authority) = folder();
    let server = start(
        server_files(folder.path()),
        ConnectionLimits {
            head: Duration::from_secs(2),
            ..limits()
        },
    );
    let mut silent = Vec::new();
    for index in 0..1_000 {
        let mut peer = TcpStream::connect(server.address).await.expect("connected");
        // A half of them begin a record and never end it.
        if index % 2 == 0 {
            peer.write_all(&[0x16, 3, 1, 1, 0]).await.expect("sent");
        }
        silent.push(peer);
    }
    let name = timeout(
        DEADLINE,
        seen(server.address, client_files(folder.path(), false)),
    );
    assert_eq!(name.await.expect("in time").as_deref(), Ok("nobody"));
    let begun = Instant::now();
    for mut peer in silent {
        let mut nothing = Vec::new();
        let ended = timeout(DEADLINE, peer.read_to_end(&mut nothing)).await;
        assert!(ended.is_ok(), "after {:?}", begun.elapsed());
    }
    server
        .no_connections()
        .await
        .expect("every place is free again");
}

#[tokio::test]
async fn handshakes_beyond_the_bound_of_connections_give_way() {
    let (folder, _authority) = folder();
    let server = start(
        server_files(folder.path()),
        ConnectionLimits {
            max: 32,
            head: DEADLINE,
            ..limits()
        },
    );
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(server.address).await.expect("connected"));
    }
    // A place of a connection that was closed is free a moment later.
    let answered = timeout(DEADLINE, async {
        while seen(server.address, client_files(folder.path(), false)).await != Ok("nobody".into())
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    answered.await.expect("one is answered in time");
    assert!(server.connections.count() <= 33);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_disconnected() {
    let (folder, _authority) = folder();
    let server = start(server_files(folder.path()), limits());
    let mut peer = server.connected(folder.path()).await;
    peer.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("sent");
    server
        .no_connections()
        .await
        .expect("the connection ends while its reader waits");
    drop(peer);
}

#[tokio::test]
async fn pipelined_and_large_requests_keep_their_order() {
    let (folder, _authority) = folder();
    let server = start(server_files(folder.path()), limits());
    let mut peer = server.connected(folder.path()).await;
    let body = "x".repeat(200_000);
    let post = format!(
        "POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let get = "GET /name HTTP/1.1\r\nHost: x\r\n\r\n";
    let answers = ask(&mut peer, &format!("{get}{post}{get}{post}{NAME}")).await;
    let answers = answers.expect("answers");
    let bodies: Vec<_> = answers
        .split("HTTP/1.1 200 OK\r\n")
        .filter_map(|answer| Some(answer.split_once("\r\n\r\n")?.1))
        .collect();
    assert_eq!(bodies, ["nobody", "200000", "nobody", "200000", "nobody"]);
}

/// Swaps the files as Kubernetes does: a link names another folder.
fn point_to(folder: &Path, version: &str) {
    let next = folder.join("..data_tmp");
    std::os::unix::fs::symlink(version, &next).expect("a link");
    std::fs::rename(next, folder.join("..data")).expect("renamed");
}

#[tokio::test]
async fn new_files_are_used_while_requests_come_in_and_wrong_ones_are_not() {
    let (folder, authority) = folder();
    let root = folder.path();
    let new = Authority::new();
    for (version, authority) in [("1", &authority), ("2", &new)] {
        std::fs::create_dir(root.join(version)).expect("a folder");
        authority.write_to(&root.join(version));
    }
    point_to(root, "1");
    let both = format!("{}{}", authority.pem(), new.pem());
    std::fs::write(root.join("ca.crt"), both).expect("written");
    let data = root.join("..data");
    let server = start(server_files(&data), limits());

    let stop = CancellationToken::new();
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (address, stop, files) = (server.address, stop.clone(), client_files(root, false));
        load.spawn(async move {
            let mut requests = 0;
            while !stop.is_cancelled() {
                seen(address, files.clone()).await.expect("an answer");
                requests += 1;
            }
            requests
        });
    }
    let new_only = |known| ClientFiles {
        ca: Some(root.join("2/ca.crt")),
        ..client_files(root, known)
    };
    assert!(seen(server.address, new_only(false)).await.is_err());
    // A certificate with the key of another one, and half of a file.
    let key = std::fs::read(root.join("1/server.key")).expect("read");
    std::fs::create_dir(root.join("3")).expect("a folder");
    new.write_to(&root.join("3"));
    std::fs::write(root.join("3/server.key"), &key[..key.len() / 2]).expect("written");
    point_to(root, "3");
    server.tls.reload();
    server.tls.reload();
    std::fs::write(root.join("3/server.key"), &key).expect("written");
    server.tls.reload();
    assert!(seen(server.address, new_only(false)).await.is_err());
    point_to(root, "2");
    server.tls.reload();
    assert_eq!(
        seen(server.address, new_only(false)).await.as_deref(),
        Ok("nobody")
    );
    for version in ["1", "2"].repeat(20) {
        point_to(root, version);
        server.tls.reload();
    }
    stop.cancel();
    let requests: u32 = load.join_all().await.into_iter().sum();
    assert!(requests > 0);
}

/// `openssl s_client` with these options; whether it made a handshake. `None` where it is not installed.
fn openssl(address: SocketAddr, options: &[&str]) -> Option<bool> {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.contains("Cipher is ") && !text.contains("Cipher is (NONE)"))
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_below_1_2_are_refused() {
    let (folder, _authority) = folder();
    let server = start(server_files(folder.path()), limits());
    for (version, expected) in [
        ("-tls1_3", true),
        ("-tls1_2", true),
        ("-tls1_1", false),
        ("-tls1", false),
    ] {
        let address = server.address;
        // Without this level the client itself refuses old versions.
        let options = [version, "-cipher", "DEFAULT@SECLEVEL=0"];
        let made = tokio::task::spawn_blocking(move || openssl(address, &options));
        let made = made.await.expect("it ended").expect("openssl is installed");
        assert_eq!(made, expected, "{version}");
    }
}
