//! Which of the replicas that check in get events. Every client can check in and name any URL, and
//! events carry the token of the subscribers. Nothing here sends.
//!
//! A URL is trusted when its host is allowed by the settings, or when it is a loopback URL and the
//! check-in came over the same loopback: `127.0.0.1` of another machine is another host. Where a
//! token is set, the check-in must also have carried it.
//!
//! What decides this is stored with the row of the replica, so that every publisher can decide. A
//! loopback row of another publisher is trusted when both share their loopback. A token is trusted
//! as the publisher that took the check-in found it, because the publishers of one store share
//! their `APP_API_TOKEN`. A publisher with another transport vouches for no replica.
//!
//! Behind a proxy on the machine of the publisher, every caller seems to come over the loopback,
//! unless the proxy sends `Forwarded` or `X-Forwarded-For`. Set a token behind a proxy that sends
//! neither.

use std::{collections::BTreeSet, net::IpAddr};

use contract::secret_url::{is_loopback, is_private};
use reqwest::Url;
use subtle::ConstantTimeEq;

use crate::store::replicas::CheckInSource;

/// The other end of a request that carries a check-in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peer<'a> {
    /// The address of the client; `None` when a proxy sent the request for it.
    pub address: Option<IpAddr>,
    /// The token that the request carries.
    pub token: Option<&'a [u8]>,
}

/// The token that subscribers expect (`APP_API_TOKEN`).
#[derive(Clone, PartialEq, Eq)]
pub struct SubscriberToken {
    /// The token.
    pub text: String,
    /// Whether it may be sent by `http://` to another host, where a mesh encrypts.
    pub allow_plaintext: bool,
}

/// Without the token.
impl std::fmt::Debug for SubscriberToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SubscriberToken(…)")
    }
}

impl SubscriberToken {
    /// Whether it may be sent to a URL: nobody on the way must be able to read it.
    pub fn may_go_to(&self, base: &Url) -> bool {
        self.allow_plaintext || is_private(base)
    }
}

/// The rule by which a URL is trusted.
pub(super) struct Trust {
    /// `host` or `host:port`, in lower case.
    allowed: BTreeSet<String>,
    token: Option<SubscriberToken>,
    /// Names the loopback of this process; see [`loopback_id`].
    loopback: String,
}

/// Without the token.
impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust")
            .field("allowed", &self.allowed)
            .field("loopback", &self.loopback)
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// `allowed` are `host` or `host:port`, in lower case.
    pub(super) fn new(allowed: BTreeSet<String>, token: Option<SubscriberToken>) -> Self {
        Self {
            allowed,
            token,
            loopback: loopback_id(),
        }
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.text.as_str())
    }

    /// What the store keeps about a caller.
    pub(super) fn identify(&self, peer: Peer<'_>) -> CheckInSource {
        let is_local = peer
            .address
            .is_some_and(|address| address.to_canonical().is_loopback());
        // Without a token of its own a publisher cannot say whether the given one is right.
        let has_token = match (self.token(), peer.token) {
            (Some(expected), Some(given)) => expected.as_bytes().ct_eq(given).into(),
            _ => false,
        };
        CheckInSource {
            loopback: is_local.then(|| self.loopback.clone()),
            token: has_token,
            ..CheckInSource::default()
        }
    }

    /// Whether events, with their token, may be sent to a URL that was named in such a check-in.
    pub(super) fn covers(&self, base: &Url, source: &CheckInSource) -> bool {
        self.refusal(base, source).is_none()
    }

    /// Why no events may be sent there, with the remedy; `None` where they may.
    pub(super) fn refusal(&self, base: &Url, source: &CheckInSource) -> Option<Refusal> {
        let Some(host) = base.host_str() else {
            return Some(Refusal::NotAllowed);
        };
        // IPv6 hosts of URLs are in brackets; the settings may have them with or without.
        let bare_host = host.trim_matches(['[', ']']);
        let port = base.port_or_known_default().unwrap_or_default();
        let host_and_port = format!("{host}:{port}");
        let is_allowed = [bare_host, host, &host_and_port]
            .into_iter()
            .any(|name| self.allowed.contains(name));
        let is_loopback = is_loopback(base);
        let is_here = is_loopback && source.loopback.as_ref() == Some(&self.loopback);
        let token_fits = self.token.is_none() || source.token;
        if is_allowed || is_here {
            let is_private = (self.token.as_ref()).is_none_or(|token| token.may_go_to(base));
            if !token_fits {
                Some(Refusal::OtherToken)
            } else {
                (!is_private).then_some(Refusal::Plaintext)
            }
        } else if is_loopback && source.loopback.is_some() {
            Some(Refusal::OtherLoopback)
        } else {
            Some(Refusal::NotAllowed)
        }
    }
}

/// Why a subscriber that checked in gets no events of this publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its host is not of the settings.
    #[error("its host is not in AURA_CONFIGURATION_LOCAL_ALLOW of this publisher")]
    NotAllowed,
    /// It checked in over the loopback of another publisher, which posts to it.
    #[error("it is on the loopback of another publisher")]
    OtherLoopback,
    /// Its check-in did not carry the token.
    #[error("its check-in did not carry the APP_API_TOKEN of this publisher: both need the same")]
    OtherToken,
    /// The token would be readable on the way to it.
    #[error(
        "APP_API_TOKEN is not sent to an http:// URL of another host, because everyone on the way \
         could read it: give the subscriber TLS, or set AURA_CONFIGURATION_ALLOW_PLAINTEXT_TOKEN=true \
         where a mesh encrypts"
    )]
    Plaintext,
}

/// A name that all processes with the same loopback share, and no other process: the boot of the
/// kernel and the network namespace. The host name is not enough, many hosts are called
/// `localhost`. Where the system does not provide it, the name is random and no other process shares it.
fn loopback_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = std::fs::read_link("/proc/self/ns/net");
    match (boot, namespace) {
        (Ok(boot), Ok(namespace)) => format!("{} {}", boot.trim(), namespace.display()),
        _ => uuid::Uuid::new_v4().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(trust: &Trust, base: &str, source: &CheckInSource) -> bool {
        trust.covers(&base.parse().expect("a URL"), source)
    }

    fn token(allow_plaintext: bool) -> SubscriberToken {
        SubscriberToken {
            text: "secret".to_owned(),
            allow_plaintext,
        }
    }

    fn from(peer: &str) -> Peer<'static> {
        Peer {
            address: Some(peer.parse().expect("an address")),
            token: None,
        }
    }

    #[test]
    fn a_loopback_url_is_trusted_on_its_own_loopback_only() {
        let trust = Trust::new(BTreeSet::new(), None);
        let elsewhere = Trust {
            loopback: "another machine".to_owned(),
            ..Trust::new(BTreeSet::new(), None)
        };
        let same_machine = Trust::new(BTreeSet::new(), None);
        for base in [
            "http://127.0.0.1:2",
            "http://localhost:3",
            "http://[::1]:4",
            "http://127.9.9.9",
        ] {
            for peer in ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"] {
                let source = trust.identify(from(peer));
                assert!(
                    covers(&trust, base, &source) && covers(&same_machine, base, &source),
                    "{base} from {peer}"
                );
                assert!(
                    !covers(&elsewhere, base, &source),
                    "{base}: the loopback of another publisher"
                );
            }
            for peer in ["10.0.0.8", "192.168.1.1", "::2"] {
                assert!(
                    !covers(&trust, base, &trust.identify(from(peer))),
                    "{base} from {peer}"
                );
            }
            assert!(
                !covers(&trust, base, &trust.identify(Peer::default())),
                "{base} through a proxy"
            );
            assert!(
                !covers(&trust, base, &CheckInSource::default()),
                "{base} from an old row"
            );
        }
        let here = trust.identify(from("127.0.0.1"));
        for untrusted in [
            "http://elsewhere:1",
            "http://10.0.0.8:6",
            "http://0.0.0.0:7",
            "http://localhost.evil:8",
        ] {
            assert!(!covers(&trust, untrusted, &here), "{untrusted}");
        }
    }

    #[test]
    fn an_allowed_host_is_trusted_at_the_port_of_the_settings() {
        let allowed = [
            "any",
            "one:81",
            "plain:80",
            "10.0.0.7",
            "fd00::1",
            "[fd00::2]:5",
        ];
        let trust = Trust::new(allowed.map(str::to_owned).into(), None);
        let source = trust.identify(from("10.0.0.8"));
        for base in [
            "http://any",
            "http://any:9",
            "http://ANY:9",
            "http://one:81",
            "http://plain",
            "http://10.0.0.7:1",
            "http://[fd00::1]:7",
            "http://[fd00::2]:5",
        ] {
            assert!(covers(&trust, base, &source), "{base}");
        }
        for base in [
            "http://one",
            "http://one:82",
            "http://plain:81",
            "http://10.0.0.70",
            "http://[fd00::2]:6",
        ] {
            assert!(!covers(&trust, base, &source), "{base}");
        }
    }

    #[test]
    fn the_token_is_sent_only_to_a_replica_that_has_it() {
        let trust = Trust::new(BTreeSet::from(["any".to_owned()]), Some(token(false)));
        for base in ["https://any:1", "http://127.0.0.1:1"] {
            let with = |token| {
                trust.identify(Peer {
                    token,
                    ..from("127.0.0.1")
                })
            };
            assert!(covers(&trust, base, &with(Some(b"secret"))), "{base}");
            for wrong in [
                None,
                Some(b"".as_slice()),
                Some(b"secre"),
                Some(b"secret!"),
                Some(b"Secret"),
            ] {
                assert!(!covers(&trust, base, &with(wrong)), "{base} with {wrong:?}");
            }
        }
        let open = Trust::new(BTreeSet::new(), None);
        assert!(
            !open
                .identify(Peer {
                    token: Some(b""),
                    ..from("127.0.0.1")
                })
                .token,
            "a publisher without a token cannot check one"
        );
        assert!(!format!("{trust:?}").contains("secret"));
    }

    #[test]
    fn the_token_is_sent_to_another_host_inside_of_tls_only_unless_that_is_allowed() {
        let refusal = |allow_plaintext, base: &str| {
            let allowed = ["any", "127.0.0.1"].map(str::to_owned);
            let trust = Trust::new(allowed.into(), Some(token(allow_plaintext)));
            let source = trust.identify(Peer {
                token: Some(b"secret"),
                ..from("10.0.0.8")
            });
            trust.refusal(&base.parse().expect("a URL"), &source)
        };
        for base in ["https://any:1", "http://127.0.0.1:1"] {
            assert_eq!(refusal(false, base), None, "{base}");
        }
        assert_eq!(refusal(false, "http://any:1"), Some(Refusal::Plaintext));
        assert_eq!(refusal(true, "http://any:1"), None);
    }
}
