//! Free ports for the servers of tests.
//!
//! It reserves nothing: a port is free when it is handed out, and the range is chosen so that it
//! stays free until its server binds it.

use std::{
    net::TcpListener,
    ops::Range,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::bail;

/// Below the ports that the system gives to outgoing connections (`ip_local_port_range`).
const PORTS: Range<u16> = 10_000..32_000;

/// A free port. This process never hands out the same port twice.
///
/// # Errors
/// When no port of the range is free.
pub fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two test processes that run at once often have neighbouring ids. They begin far apart,
    // because the port of a server that was killed looks free to the other process.
    let first = (std::process::id() as u16).wrapping_mul(991);
    for _attempt in 0..PORTS.len() {
        let offset = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u16;
        let port = PORTS.start + offset;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {PORTS:?} is free")
}
