//! Whether the ports are free: asked before anything is started, because afterwards it is a riddle.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::bail;

/// Tells of every port that is taken before anything is started.
pub(super) fn are_free(ports: &[u16]) -> anyhow::Result<()> {
    // All are held until the end, so that a port given twice is found, too.
    let tried: Vec<_> = ports
        .iter()
        .map(|port| (port, TcpListener::bind((Ipv4Addr::LOCALHOST, *port))))
        .collect();
    let taken: Vec<_> = tried
        .iter()
        .filter_map(|(port, bound)| Some(format!("{port} ({})", bound.as_ref().err()?)))
        .collect();
    if !taken.is_empty() {
        bail!(
            "cannot listen on port {}: stop what uses it or choose others with --publisher-port and --subscriber-port",
            taken.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = taken.local_addr().expect("bound").port();
        let error = are_free(&[port]).expect_err("it is taken").to_string();
        assert!(
            error.contains(&port.to_string()) && error.contains("--publisher-port"),
            "{error}"
        );
        drop(taken);
        are_free(&[port]).expect("free again");
        are_free(&[port, port]).expect_err("given twice");
    }
}
