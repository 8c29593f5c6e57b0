//! The publisher of a measure with thousands of subscribers, as another process of this program.
//!
//! The program `publisher` reads its subscribers from an environment variable. A variable is
//! limited to 128 KiB, which is enough for a few thousand only. This process uses the same library,
//! with the same threads.

use std::{
    io::Write,
    net::Ipv4Addr,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, ensure};
use e2e::{
    client::Api,
    testbed::{
        ports::free_port,
        process::{Process, folder},
        wait::eventually,
    },
};
use publisher::{Publisher, Settings, TransportSettings};

/// The first argument of its command line.
pub(crate) const WORD: &str = "publisher-of-many";

/// A running publisher with an embedded store in its own folder. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Served {
    /// Its API.
    pub(crate) api: Api,
    /// Its port.
    pub(crate) port: u16,
    process: Process,
    _folder: tempfile::TempDir,
}

impl Served {
    /// Starts a publisher with these options, and waits until it is ready. Where `local` is a
    /// number and a port, it sends to that number of subscribers there ([`address`]).
    pub(crate) async fn start(
        options: &[&str],
        local: Option<(usize, u16)>,
    ) -> anyhow::Result<Self> {
        let folder = folder()?;
        let port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        let (count, at) = local.unwrap_or_default();
        command
            .args([WORD, &count.to_string(), &at.to_string()])
            .args(options)
            .args(common(folder.path(), port));
        let process = Process::start("publisher", folder.path(), &mut command)?;
        let api = Api::new(format!("http://127.0.0.1:{port}"));
        let ready = eventually("the publisher is ready", async || {
            ensure!(api.status_of("/readyz").await? < 300, "not yet");
            Ok(())
        });
        ready.await.with_context(|| process.tail())?;
        Ok(Self {
            api,
            port,
            process,
            _folder: folder,
        })
    }

    /// Its process number.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

fn common(folder: &Path, port: u16) -> Vec<String> {
    let path = |name| folder.join(name).display().to_string();
    let words = [
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--store-url",
        &format!("file:{}", path("data")),
    ];
    // The folder is there and has no schemas.
    let schemas = ["--schemas-dir".to_owned(), folder.display().to_string()];
    words
        .map(str::to_owned)
        .into_iter()
        .chain(schemas)
        .collect()
}

/// The address of a subscriber: each has its own loopback address, and all have one port. Base URLs
/// are distinguished by host and port alone, and one listening socket serves all addresses.
pub(crate) fn address(subscriber: usize) -> anyhow::Result<Ipv4Addr> {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 0));
    Ok(Ipv4Addr::from(first + u32::try_from(subscriber)?))
}

/// The subscriber at an address.
pub(crate) fn subscriber(address: Ipv4Addr) -> Option<usize> {
    u32::from(address)
        .checked_sub(u32::from(Ipv4Addr::new(127, 1, 0, 0)))?
        .try_into()
        .ok()
}

/// Runs the publisher until it is killed, if the command line requests it.
pub(crate) fn run() -> Option<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [word, count, port, options @ ..] = words.as_slice() else {
        return None;
    };
    (word == WORD).then(|| {
        let count = count.parse().unwrap_or(0);
        let port = port.parse().unwrap_or(0);
        match serve(options, count, port) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Its output is the log that a failed measure shows.
                writeln!(std::io::stderr(), "{error:#}").ok();
                ExitCode::FAILURE
            }
        }
    })
}

fn serve(options: &[String], count: usize, port: u16) -> anyhow::Result<()> {
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut settings = Settings::read(&options)?;
    if let Some(TransportSettings::Local { subscribers, .. }) =
        settings.events.as_mut().map(|events| &mut events.transport)
    {
        let url = |one| Ok(format!("http://{}:{port}", address(one)?).parse()?);
        *subscribers = (0..count).map(url).collect::<anyhow::Result<_>>()?;
    }
    // The same setup as in the program `publisher`.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        Publisher::build(settings)
            .await?
            .run(std::future::pending())
            .await
    })
}
