//! The source of a request, as limits count it: the name of a credential, else an address.
//!
//! Nothing here proves a name: authentication did.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use actix_web::{
    HttpMessage, HttpRequest,
    http::header::{HeaderMap, HeaderName},
};
use contract::access::{ANONYMOUS, Identity};

/// One source. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The name of a credential.
    Named(Arc<str>),
    /// The address of a caller without a credential; see [`network`].
    Address(IpAddr),
}

impl Source {
    /// The source of a request.
    pub fn of(request: &HttpRequest) -> Self {
        let extensions = request.extensions();
        match extensions.get::<Identity>() {
            Some(identity) if &*identity.name != ANONYMOUS => Self::Named(identity.name.clone()),
            _anonymous => Self::Address(address(request)),
        }
    }
}

/// The address from which a request comes, as limits count it.
pub fn address(request: &HttpRequest) -> IpAddr {
    let peer = request.peer_addr().map(|peer| peer.ip());
    network(peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

/// Headers that a proxy or a sidecar adds, and how others of them begin.
const FORWARDING: [&str; 4] = ["forwarded", "via", "x-real-ip", "true-client-ip"];
const FORWARDING_PREFIXES: [&str; 3] = ["x-forwarded-", "x-envoy-", "dapr-call"];

/// Whether a proxy forwarded the request: the peer of the connection is not the caller then.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().map(HeaderName::as_str).any(is_forwarding)
}

/// Whether a proxy or a sidecar adds a header of this name, in lower case.
pub fn is_forwarding(name: &str) -> bool {
    let mut prefixes = FORWARDING_PREFIXES.iter();
    FORWARDING.contains(&name) || prefixes.any(|prefix| name.starts_with(prefix))
}

/// What limits count as one address: an IPv4 address, or 64 bits of an IPv6 address, because a host
/// may use all addresses of its /64 (RFC 4291 section 2.5.4).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = address.to_bits() & !u128::from(u64::MAX);
            // Loopback stays what it is.
            if address.is_loopback() {
                IpAddr::V6(address)
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            }
        }
        address => address,
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_adds_shows_that_it_forwarded_the_request() {
        let with = |name: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), "x".parse().expect("a value"));
            is_forwarded(&headers)
        };
        for name in ["via", "x-real-ip", "x-forwarded-host", "dapr-caller-app-id"] {
            assert!(with(name), "{name}");
        }
        assert!(
            !with("dapr-api-token"),
            "a sidecar shows it to the service that it belongs to"
        );
        assert!(!with("traceparent"));
    }

    #[test]
    fn a_host_with_many_addresses_of_one_network_is_one_caller() {
        let same = |a: &str, b: &str| {
            network(a.parse().expect("an address")) == network(b.parse().expect("an address"))
        };
        assert!(same("2001:db8::1", "2001:db8::ffff:1:2:3"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(!same("10.0.0.2", "10.0.0.1"));
        assert!(!same("::1", "::2"));
    }
}
