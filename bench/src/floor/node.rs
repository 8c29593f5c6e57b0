//! The peer of a subscriber in Node.js, as one writes it from the source document:
//! `e2e/dependencies/peer/server.mjs`.

use std::process::Command;

use anyhow::Context;
use e2e::testbed::{dependencies, ports::free_port, process::folder};

use super::server::Server;

/// Starts it: one process, because that is what Node.js is, as in production.
///
/// # Errors
/// When it does not start.
pub(crate) async fn start() -> anyhow::Result<Server> {
    let folder = folder()?;
    let port = free_port()?;
    // Packages are looked for beside the program.
    let modules = dependencies::path_of("PEER_MODULES")?.join("node_modules");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules"))?;
    let program = folder.path().join("server.mjs");
    std::fs::copy(
        dependencies::repository_root().join("e2e/dependencies/peer/server.mjs"),
        &program,
    )
    .context("copying the peer")?;
    let mut command = Command::new("node");
    command
        .arg(program)
        .env("PORT", port.to_string())
        .env("NODE_ENV", "production");
    Server::start("peer", port, folder, &mut command).await
}
