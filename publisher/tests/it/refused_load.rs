//! Refused requests leave nothing behind in memory: a publisher in a process of its own, whose memory
//! is read while it refuses requests of each kind, with names that never repeat.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use publisher::{Publisher, Settings};
use reqwest::{Body, Client, RequestBuilder};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::Outcome;

const NAME: &str = "refused_load::memory_stays_flat_while_requests_are_refused";
const CHILD: &str = "CONFCAST_TEST_REFUSED_LOAD";
/// Requests of each kind; a longer run sets it.
const REQUESTS: &str = "CONFCAST_TEST_REFUSED_REQUESTS";
/// Growth that is noise of the allocator, in KiB. A leak of a kilobyte for each request exceeds it.
const NOISE_KIB: u64 = 8 << 10;
const LIMITS: [&str; 8] = [
    "--limit-writes-per-second",
    "1",
    "--limit-streams",
    "1",
    "--limit-connections",
    "64",
    "--anonymous",
    "loopback",
];

/// The publisher, until the process is killed.
async fn serve() -> Outcome {
    let folder = tempfile::tempdir()?;
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, "")?;
    let tokens = tokens.display().to_string();
    let store = format!("file:{}", folder.path().join("store").display());
    let mut options = vec!["--listen", "127.0.0.1:0", "--events-enabled", "false"];
    options.extend(["--collections", "Skills", "--store-url", &store]);
    options.extend(["--tokens-file", &tokens]);
    options.extend(LIMITS);
    let publisher = Publisher::build(Settings::read(&options)?).await?;
    let address = publisher.address().context("an address")?;
    writeln!(std::io::stderr(), "listening {address}")?;
    publisher.run(std::future::pending()).await
}

struct Server {
    child: Child,
    address: String,
    client: Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", NAME, "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stderr.take().context("its output")?).lines();
        let mut lines = lines.map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.strip_prefix("listening ")?.to_owned()));
        // What it logs is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let server = Self {
            child,
            address: address.context("it did not start")?,
            client: e2e::http().build()?,
        };
        Ok(server)
    }

    fn memory_kib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("VmRSS")?.parse()?)
    }

    fn put(&self, path: &str, body: impl Into<Body>) -> RequestBuilder {
        let request = self.client.put(self.url(path)).body(body);
        request.header("content-type", "application/json")
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request of each kind, and the statuses that refuse it.
    fn kinds(&self, number: usize) -> [(RequestBuilder, &'static [u16]); 8] {
        let feed = self
            .get("/v1/changes")
            .header("accept", "text/event-stream");
        [
            (self.get(&format!("/nothing/{number}")), &[404]),
            (
                self.get(&format!("/v1/collections/C{number}/documents")),
                &[404],
            ),
            (
                self.get("/v1/collections")
                    .bearer_auth(format!("cct_{number}")),
                &[401, 429],
            ),
            (
                self.put(&format!("/v1/replicas/r-{number}"), "{\"a\":["),
                &[400],
            ),
            (
                self.put(&format!("/v1/replicas/r-{number}"), vec![b'x'; 300 << 10]),
                &[413],
            ),
            (
                self.put(
                    &format!("/v1/collections/Skills/documents/d-{number}"),
                    "{\"a\":",
                ),
                &[400, 429],
            ),
            (
                self.get(&format!(
                    "/v1/collections/Skills/documents/d-{number}?x={number}"
                )),
                &[400],
            ),
            (feed, &[503]),
        ]
    }

    async fn refused(&self, from: usize, count: usize) -> Outcome {
        let mut silent = VecDeque::new();
        for number in from..from + count {
            for (request, statuses) in self.kinds(number) {
                // A body that is refused before it is read may break its connection.
                let Ok(answer) = request.send().await else {
                    continue;
                };
                let status = answer.status().as_u16();
                ensure!(statuses.contains(&status), "{status} for {}", answer.url());
                answer.bytes().await.ok();
            }
            if number % 4 == 0 {
                // Beyond the bound the connections that wait are closed.
                let mut connection = TcpStream::connect(&self.address).await?;
                connection.write_all(b"GET /").await.ok();
                silent.push_front(connection);
                silent.truncate(100);
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn memory_stays_flat_while_requests_are_refused() -> Outcome {
    if std::env::var_os(CHILD).is_some() {
        return serve().await;
    }
    let count = std::env::var(REQUESTS)
        .ok()
        .and_then(|count| count.parse().ok());
    let count = count.unwrap_or(500);
    let server = Server::start()?;
    let fresh = server.memory_kib()?;
    let _stream = server
        .get("/v1/changes")
        .header("accept", "text/event-stream")
        .send()
        .await?;
    server.refused(0, count).await?;
    let warm = server.memory_kib()?;
    server.refused(count, 2 * count).await?;
    let after = server.memory_kib()?;
    writeln!(
        std::io::stderr(),
        "{fresh} KiB; after {} requests {warm} KiB, after {} {after} KiB",
        8 * count,
        24 * count
    )?;
    ensure!(after <= warm + NOISE_KIB, "{warm} KiB became {after} KiB");
    Ok(())
}
