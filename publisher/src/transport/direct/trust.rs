//! Which of those who check in get events: anybody can check in and name any URL, and events carry
//! the token of the subscribers.
//!
//! A URL counts when its host is allowed by the settings, or when it is a loopback URL that was
//! named over that very loopback: `127.0.0.1` of another machine is not ours. Where a token is set,
//! it also takes a check-in that carried it.
//!
//! What a publisher heard is kept with the row, so that another publisher can judge it. Loopback
//! rows of others count where the two share their loopback; a token counts as the publisher that
//! heard it found it, because publishers of one store share their `APP_API_TOKEN`. A publisher that
//! does not send by `LOCAL` vouches for nobody.
//!
//! A proxy on the publisher's machine makes everybody seem to be here, unless it says for whom it
//! asks (`Forwarded`, `X-Forwarded-For`): set a token behind one that does not.

use std::{collections::BTreeSet, net::IpAddr};

use reqwest::Url;
use subtle::ConstantTimeEq;

use crate::store::replicas::CheckInSource;

/// Who checks in, as its request tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller<'a> {
    /// The address it comes from, when nobody asks for it.
    pub peer: Option<IpAddr>,
    /// The token that it carries.
    pub token: Option<&'a [u8]>,
}

pub(super) struct Trust {
    allowed: BTreeSet<String>,
    token: Option<String>,
    /// The loopback of this process.
    loopback: String,
}

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
    pub(super) fn new(allowed: BTreeSet<String>, token: Option<String>) -> Self {
        Self {
            allowed,
            token,
            loopback: loopback(),
        }
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// What is to be remembered of a caller.
    pub(super) fn heard(&self, caller: Caller<'_>) -> CheckInSource {
        let here = caller
            .peer
            .is_some_and(|peer| peer.to_canonical().is_loopback());
        let expected = self.token.as_ref().zip(caller.token);
        CheckInSource {
            loopback: here.then(|| self.loopback.clone()),
            token: expected.is_some_and(|(token, given)| token.as_bytes().ct_eq(given).into()),
        }
    }

    /// Whether events, with their token, may go to a URL of which was heard like this.
    pub(super) fn covers(&self, base: &Url, heard: &CheckInSource) -> bool {
        let Some(host) = base.host_str() else {
            return false;
        };
        let bare = host.trim_matches(['[', ']']);
        let port = base.port_or_known_default().unwrap_or_default();
        let allowed = [bare, host, &format!("{host}:{port}")]
            .into_iter()
            .any(|name| self.allowed.contains(name));
        let loopback = bare == "localhost"
            || bare
                .parse()
                .is_ok_and(|address: IpAddr| address.is_loopback());
        let here = loopback && heard.loopback.as_ref() == Some(&self.loopback);
        (allowed || here) && (self.token.is_none() || heard.token)
    }
}

/// A name that all processes have in common which share this loopback, and no other: this boot of
/// the kernel, and the network namespace. Names of hosts are not that, many are called `localhost`.
/// Where it cannot be told, no other process shares it.
fn loopback() -> String {
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

    fn covers(trust: &Trust, base: &str, heard: &CheckInSource) -> bool {
        trust.covers(&base.parse().expect("a URL"), heard)
    }

    fn from(peer: &str) -> Caller<'static> {
        Caller {
            peer: Some(peer.parse().expect("an address")),
            token: None,
        }
    }

    #[test]
    fn a_loopback_url_counts_on_its_own_loopback_only() {
        let trust = Trust::new(BTreeSet::new(), None);
        let elsewhere = Trust {
            loopback: "another machine".to_owned(),
            ..Trust::new(BTreeSet::new(), None)
        };
        let neighbour = Trust::new(BTreeSet::new(), None);
        for base in [
            "http://127.0.0.1:2",
            "http://localhost:3",
            "http://[::1]:4",
            "http://127.9.9.9",
        ] {
            for peer in ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"] {
                let heard = trust.heard(from(peer));
                assert!(
                    covers(&trust, base, &heard) && covers(&neighbour, base, &heard),
                    "{base} from {peer}"
                );
                assert!(
                    !covers(&elsewhere, base, &heard),
                    "{base}: another publisher's own loopback"
                );
            }
            for peer in ["10.0.0.8", "192.168.1.1", "::2"] {
                assert!(
                    !covers(&trust, base, &trust.heard(from(peer))),
                    "{base} from {peer}"
                );
            }
            assert!(
                !covers(&trust, base, &trust.heard(Caller::default())),
                "{base} through a proxy"
            );
            assert!(
                !covers(&trust, base, &CheckInSource::default()),
                "{base} from an old row"
            );
        }
        let here = trust.heard(from("127.0.0.1"));
        for stranger in [
            "http://elsewhere:1",
            "http://10.0.0.8:6",
            "http://0.0.0.0:7",
            "http://localhost.evil:8",
        ] {
            assert!(!covers(&trust, stranger, &here), "{stranger}");
        }
    }

    #[test]
    fn an_allowed_host_counts_at_the_port_that_is_written() {
        let allowed = [
            "any",
            "one:81",
            "plain:80",
            "10.0.0.7",
            "fd00::1",
            "[fd00::2]:5",
        ];
        let trust = Trust::new(allowed.map(str::to_owned).into(), None);
        let heard = trust.heard(from("10.0.0.8"));
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
            assert!(covers(&trust, base, &heard), "{base}");
        }
        for base in [
            "http://one",
            "http://one:82",
            "http://plain:81",
            "http://10.0.0.70",
            "http://[fd00::2]:6",
        ] {
            assert!(!covers(&trust, base, &heard), "{base}");
        }
    }

    #[test]
    fn the_token_goes_to_those_who_have_it() {
        let trust = Trust::new(
            BTreeSet::from(["any".to_owned()]),
            Some("secret".to_owned()),
        );
        for base in ["http://any:1", "http://127.0.0.1:1"] {
            let with = |token| {
                trust.heard(Caller {
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
                .heard(Caller {
                    token: Some(b""),
                    ..from("127.0.0.1")
                })
                .token,
            "it cannot vouch for a token"
        );
        assert!(!format!("{trust:?}").contains("secret"));
    }
}
