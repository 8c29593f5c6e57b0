//! Hosts and origins as clients name them, and patterns of hosts. Nothing is resolved here.

use std::{net::Ipv4Addr, str::FromStr};

use actix_web::http::{Uri, uri::Authority};

/// A host with its port, as `Host` names it: in lower case, without the dot of the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    name: String,
    port: Option<u16>,
}

/// The text is not of its form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NameError(&'static str);

impl Host {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether no name server has a part in how a browser reaches the host: addresses, and the
    /// names that always mean this host (RFC 6761 section 6.3).
    pub(super) fn is_address_or_loopback(&self) -> bool {
        let name = self.name.as_str();
        name == "localhost"
            || name.ends_with(".localhost")
            || name.starts_with('[')
            || name.parse::<Ipv4Addr>().is_ok()
    }
}

impl FromStr for Host {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = NameError("expected HOST or HOST:PORT");
        let Ok(authority) = text.parse::<Authority>() else {
            return Err(wrong);
        };
        let name = authority.host().to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let rest = &text[authority.host().len().min(text.len())..];
        let port = authority.port_u16();
        // A port that is no number is not accepted; an empty one is the default (RFC 9110 section 4.2).
        if text.contains('@') || name.is_empty() || (port.is_none() && !matches!(rest, "" | ":")) {
            return Err(wrong);
        }
        Ok(Self {
            name: name.to_owned(),
            port,
        })
    }
}

/// An origin (RFC 6454): scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    name: String,
    /// The default port of the scheme when none is named.
    port: Option<u16>,
}

impl Origin {
    /// Whether a page of this origin asks for its own host. A proxy may have taken off TLS, so the
    /// scheme is not compared.
    pub(super) fn is_of(&self, host: &Host) -> bool {
        self.name == host.name && self.port == host.port.or_else(|| default_port(&self.scheme))
    }
}

impl FromStr for Origin {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = NameError("expected SCHEME://HOST or SCHEME://HOST:PORT");
        let Ok(uri) = text.parse::<Uri>() else {
            return Err(wrong);
        };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong);
        };
        let Ok(host) = authority.as_str().parse::<Host>() else {
            return Err(wrong);
        };
        // The parser adds a path of one slash.
        if uri.path() != "/" || uri.query().is_some() || text.ends_with('/') || text.contains('#') {
            return Err(wrong);
        }
        Ok(Self {
            port: host.port.or_else(|| default_port(scheme)),
            scheme: scheme.to_ascii_lowercase(),
            name: host.name,
        })
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// A name that a service has: `name`, or `*.domain` for every name below a domain. Ports are not
/// part of it: a port may be forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostPattern {
    Name(String),
    /// With its leading dot.
    Below(String),
}

impl HostPattern {
    pub(super) fn matches(&self, host: &Host) -> bool {
        match self {
            Self::Name(name) => *name == host.name,
            Self::Below(domain) => host
                .name
                .strip_suffix(domain.as_str())
                .is_some_and(|label| !label.is_empty()),
        }
    }
}

impl FromStr for HostPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = NameError("expected host names without a port, `name` or `*.domain`");
        let (below, name) = match text.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, text),
        };
        match name.parse::<Host>() {
            Ok(Host { name, port: None }) if !name.contains(['*', ':']) => Ok(if below {
                Self::Below(format!(".{name}"))
            } else {
                Self::Name(name)
            }),
            _ => Err(wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_as_clients_send_it() {
        for (text, expected) in [
            ("localhost:8080", Some(("localhost", Some(8080)))),
            ("LocalHost.", Some(("localhost", None))),
            ("[::1]:80", Some(("[::1]", Some(80)))),
            ("127.0.0.1:", Some(("127.0.0.1", None))),
            ("", None),
            ("a b", None),
            ("evil@localhost", None),
            ("localhost:99999", None),
            ("localhost:80x", None),
            ("a/b", None),
        ] {
            let host = text.parse::<Host>().ok();
            let parts = host.as_ref().map(|host| (host.name.as_str(), host.port));
            assert_eq!(parts, expected, "{text:?}");
        }
    }

    #[test]
    fn only_addresses_and_loopback_names_need_no_setting() {
        for (text, known) in [
            ("localhost", true),
            ("a.localhost", true),
            ("127.0.0.1", true),
            ("10.1.2.3:80", true),
            ("[fe80::1]", true),
            ("localhost.evil.example", false),
            ("notlocalhost", false),
            ("127.0.0.1.evil.example", false),
            ("0x7f.1", false),
            ("publisher", false),
        ] {
            let host: Host = text.parse().expect("a host");
            assert_eq!(host.is_address_or_loopback(), known, "{text}");
        }
    }

    #[test]
    fn a_pattern_matches_a_name_or_all_names_below_a_domain() {
        let matches = |pattern: &str, host: &str| {
            let pattern: HostPattern = pattern.parse().expect("a pattern");
            pattern.matches(&host.parse().expect("a host"))
        };
        assert!(matches("Publisher", "publisher:8080"));
        assert!(!matches("publisher", "publisher.evil.example"));
        assert!(matches("*.svc", "publisher.confcast.svc."));
        assert!(!matches("*.svc", "svc") && !matches("*.svc", "publisher.notsvc"));
        for wrong in [
            "*",
            "*.",
            "a.*.b",
            "name:80",
            "http://name",
            "[::1]:1",
            "a/b",
        ] {
            wrong.parse::<HostPattern>().expect_err(wrong);
        }
    }

    #[test]
    fn an_origin_has_a_scheme_a_host_and_a_port() {
        let origin = |text: &str| text.parse::<Origin>().ok();
        assert_eq!(
            origin("https://Admin.example"),
            origin("https://admin.example:443")
        );
        assert_ne!(origin("http://a"), origin("https://a"));
        for wrong in [
            "null",
            "*",
            "a.example",
            "http://a/",
            "http://a/b",
            "http://a?b",
            "",
        ] {
            assert_eq!(origin(wrong), None, "{wrong}");
        }
        let host = |text: &str| text.parse::<Host>().expect("a host");
        let own = origin("https://config.example").expect("an origin");
        assert!(own.is_of(&host("config.example")) && own.is_of(&host("config.example:443")));
        assert!(!own.is_of(&host("config.example:8080")) && !own.is_of(&host("example")));
    }
}
