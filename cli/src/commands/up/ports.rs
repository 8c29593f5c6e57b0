//! Whether the ports are free. This is checked before anything is started, because the error of a
//! service that cannot listen is hard to understand.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::bail;

/// Requires that all ports are free; the error names every port that is not.
pub(super) fn are_free(ports: &[u16]) -> anyhow::Result<()> {
    // All are held until the end, so that a port that is given twice is found as well.
    let attempts: Vec<_> = ports
        .iter()
        .map(|port| (port, TcpListener::bind((Ipv4Addr::LOCALHOST, *port))))
        .collect();
    let taken: Vec<_> = attempts
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
    fn a_port_in_use_is_named() {
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
