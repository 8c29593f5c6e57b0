//! etcd, one node with its default durability, and the part of its API that a write and a watch
//! need: the package of the operating system, and the newest version where `make bench` built it. Messages have the used fields only; the numbers are those of etcd's `rpc.proto` and
//! `kv.proto`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};
use e2e::testbed::{
    dependencies,
    ports::free_port,
    process::{Process, folder},
    wait::eventually,
};
use futures_util::{StreamExt, stream};
use tempfile::TempDir;
use tonic::{
    Request, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// A running server. Its data is deleted with it.
#[derive(Debug)]
pub(crate) struct Etcd {
    _process: Process,
    /// On the same disk as the stores of our own programs.
    _folder: TempDir,
    url: String,
    /// Its version, as it reports it.
    pub(crate) version: String,
}

impl Etcd {
    /// The programs: that of the operating system, and before it the newest one where the variable
    /// `ETCD_MODULE` names it.
    pub(crate) fn programs() -> anyhow::Result<Vec<PathBuf>> {
        let newest = std::env::var_os("ETCD_MODULE").filter(|path| !path.is_empty());
        Ok(newest
            .map(PathBuf::from)
            .into_iter()
            .chain([dependencies::path_of("ETCD")?])
            .collect())
    }

    /// Starts a server of this program and waits until it takes writes.
    pub(crate) async fn start(program: &Path) -> anyhow::Result<Self> {
        let version = version(program)?;
        let folder = folder()?;
        let client = free_port()?;
        let peer = free_port()?;
        let [url, peer] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = Command::new(program);
        command
            .args(["--name", "bench", "--logger", "zap", "--data-dir"])
            .arg(folder.path().join("data"));
        command.args([
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
        ]);
        command.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        command.args(["--initial-cluster", &format!("bench={peer}")]);
        let process = Process::start("etcd", folder.path(), &mut command)?;
        let server = Self {
            _process: process,
            _folder: folder,
            url,
            version,
        };
        eventually("etcd takes writes", async || {
            server.client().await?.put("ready", b"").await.map(drop)
        })
        .await
        .with_context(|| server._process.tail())?;
        Ok(server)
    }

    /// Creates a client with its own connection.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client(
            Endpoint::from_shared(self.url.clone())?
                .tcp_nodelay(true)
                .connect()
                .await?,
        ))
    }
}

fn version(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("running {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "));
    Ok(version.context("etcd reports no version")?.to_owned())
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client(Channel);

impl Client {
    /// Writes a value, and returns its revision.
    pub(crate) async fn put(&self, key: &str, value: &[u8]) -> anyhow::Result<i64> {
        let request = PutRequest {
            key: key.into(),
            value: value.into(),
        };
        let mut rpc = Grpc::new(self.0.clone());
        rpc.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        let answer = rpc
            .unary(Request::new(request), path, codec)
            .await?
            .into_inner();
        Ok(answer.header.context("no header")?.revision)
    }

    /// Watches all keys with a prefix, from now on.
    pub(crate) async fn watch(&self, prefix: &str) -> anyhow::Result<Watch> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().context("a prefix")? += 1;
        let create = WatchCreateRequest {
            key: prefix.into(),
            range_end: end,
        };
        let request = WatchRequest {
            create_request: Some(create),
        };
        let mut rpc = Grpc::new(self.0.clone());
        rpc.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        // The end of the request stream would end the watch.
        let requests = stream::iter([request]).chain(stream::pending());
        let mut answers = rpc
            .streaming(Request::new(requests), path, codec)
            .await?
            .into_inner();
        let first = answers.message().await?.context("the watch ended")?;
        ensure!(first.created, "etcd does not watch: {first:?}");
        Ok(Watch(answers))
    }
}

/// The events of a watcher.
#[derive(Debug)]
pub(crate) struct Watch(Streaming<WatchResponse>);

impl Watch {
    /// Waits until the watcher received this revision with its value.
    pub(crate) async fn until(&mut self, revision: i64) -> anyhow::Result<()> {
        while let Some(answer) = self.0.message().await? {
            ensure!(!answer.canceled, "the watch was cancelled");
            let mut events = answer.events.iter().filter_map(|event| event.kv.as_ref());
            if events.any(|kv| kv.mod_revision >= revision && !kv.value.is_empty()) {
                return Ok(());
            }
        }
        bail!("the watch ended")
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create_request: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchResponse {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(bool, tag = "4")]
    canceled: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<WatchEvent>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchEvent {
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(int64, tag = "3")]
    mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}
