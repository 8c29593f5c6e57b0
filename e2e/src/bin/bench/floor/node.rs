//! The peer of a subscriber in Node.js, as one writes it from the source document:
//! `e2e/parts/peer/server.mjs`.

use std::process::Command;

use anyhow::Context;
use e2e::{
    parts,
    process::{folder, free_port},
};

use super::server::Server;

/// Starts it: one process, because that is what Node.js is, as in production.
///
/// # Errors
/// When it does not start.
pub(crate) async fn start() -> anyhow::Result<Server> {
    let (folder, port) = (folder()?, free_port()?);
    // Packages are looked for beside the program.
    let modules = parts::part("PEER_MODULES")?.join("node_modules");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules"))?;
    let program = folder.path().join("server.mjs");
    std::fs::copy(parts::root().join("e2e/parts/peer/server.mjs"), &program)
        .context("copying the peer")?;
    let mut command = Command::new("node");
    command
        .arg(program)
        .env("PORT", port.to_string())
        .env("NODE_ENV", "production");
    Server::start("peer", port, folder, &mut command).await
}
