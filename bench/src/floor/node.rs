//! The peer of a subscriber in Node.js, as the source document suggests it:
//! `e2e/dependencies/peer/server.mjs`.

use std::process::Command;

use anyhow::Context;
use e2e::testbed::{dependencies, ports::free_port, process::folder};

use super::server::Server;

/// Starts the peer: one process, as in production.
///
/// # Errors
/// When the peer does not start.
pub(crate) async fn start() -> anyhow::Result<Server> {
    let folder = folder()?;
    let port = free_port()?;
    // Node.js searches packages in the folder of the program.
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
