//! The address of Redis, in one URL: one server, servers behind Sentinels, or a cluster.
//!
//! `redis://[user:password@]host[:port]`, `redis+unix:///socket`; with TLS `rediss://`. A cluster
//! is `redis-cluster://host:port?node=host:port&node=…`; servers behind Sentinels are
//! `redis-sentinel://host:port?sentinelServiceName=name&node=host:port`, with `sentinelUsername`
//! and `sentinelPassword` for the login at the Sentinels. An address is never formatted with its
//! password, and this module connects to nothing.

use std::{borrow::Cow, fmt, str::FromStr};

use contract::{SecretUrl, secret_url::SecretUrlError};
use redis::{ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use tls::ClientFiles;
use url::Url;

/// A checked address. Parsing it connects to nothing, so a wrong host is found when it connects.
///
/// `Debug` gives the URL without its secrets, so an address can be logged.
#[derive(Clone)]
pub struct Address {
    pub(crate) kind: Topology,
    /// The nodes of the first connection, never none: the server, some nodes of the cluster, or the
    /// Sentinels.
    pub(crate) nodes: Vec<ConnectionInfo>,
    /// Whether connections use TLS; the certificate of the server is then checked.
    pub(crate) tls: bool,
    /// Whom connections trust instead of the authorities of the system, and the certificate that they
    /// show.
    pub(crate) files: ClientFiles,
    /// Login and database for the servers that have the events.
    pub(crate) login: RedisConnectionInfo,
    /// What was given, for logs.
    url: SecretUrl,
}

/// How the servers are found.
#[derive(Clone)]
pub(crate) enum Topology {
    /// One server, which the URL names.
    Server,
    /// A cluster: any node names the others.
    Cluster,
    /// The service name that the Sentinels know.
    Sentinel(String),
}

/// Why a text is not an address. It never contains the text, which may have a password.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The text is not a URL.
    #[error(transparent)]
    NoUrl(#[from] SecretUrlError),
    /// The scheme is unknown.
    #[error(
        "expected redis://, rediss://, redis+unix://, redis-cluster://, rediss-cluster://, redis-sentinel:// or \
         rediss-sentinel://"
    )]
    Scheme,
    /// A parameter is unknown here. Its name is given only if it looks like one: after a password
    /// with a question mark, the rest of the password would be read as parameters.
    #[error("a parameter is not known here{}", .0.as_ref().map(|name| format!(": {name}")).unwrap_or_default())]
    Parameter(Option<String>),
    /// There is no host.
    #[error("expected a host")]
    NoHost,
    /// A further node is not `host:port`.
    #[error("node: expected host:port")]
    Node,
    /// The service name of the Sentinels is missing.
    #[error("expected ?sentinelServiceName= with the name that the Sentinels know")]
    NoService,
    /// The Redis client refuses the URL.
    #[error("{0}")]
    Refused(#[from] redis::RedisError),
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.url, f)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let given: SecretUrl = text.parse()?;
        let url = given.expose().clone();
        let (plain, kind) = match url.scheme() {
            scheme @ ("redis" | "rediss" | "redis+unix") => (scheme.to_owned(), None),
            scheme => match scheme.split_once('-') {
                Some((plain @ ("redis" | "rediss"), kind @ ("cluster" | "sentinel"))) => {
                    (plain.to_owned(), Some(kind == "cluster"))
                }
                _ => return Err(AddressError::Scheme),
            },
        };
        // The Redis client parses the URL of one server itself.
        let Some(cluster) = kind else {
            let node = url.into_connection_info()?;
            let login = node.redis_settings().clone();
            return Ok(Self {
                kind: Topology::Server,
                nodes: vec![node],
                tls: plain == "rediss",
                files: ClientFiles::default(),
                login,
                url: given,
            });
        };
        if url.host_str().is_none_or(str::is_empty) {
            return Err(AddressError::NoHost);
        }
        let mut parameters = Parameters::default();
        for (name, value) in url.query_pairs() {
            parameters.take(&name, value, cluster)?;
        }
        let mut first = url.clone();
        first.set_query(None);
        // The client accepts the plain scheme only, and `Url::set_scheme` cannot change between
        // special and other schemes.
        let first = first.as_str().replacen(url.scheme(), &plain, 1);
        let first: SecretUrl = first.parse()?;
        let first = first.expose();
        let login = first
            .clone()
            .into_connection_info()?
            .redis_settings()
            .clone();
        // Each further node has scheme, login and database of the first one.
        let mut urls = vec![first.clone()];
        for node in &parameters.nodes {
            let (host, port) = node.rsplit_once(':').ok_or(AddressError::Node)?;
            let mut url = first.clone();
            url.set_host(Some(host))
                .map_err(|_no_host| AddressError::Node)?;
            url.set_port(Some(port.parse().map_err(|_no_number| AddressError::Node)?))
                .map_err(|()| AddressError::Node)?;
            urls.push(url);
        }
        // A cluster has database 0 only.
        let own = if cluster {
            login.clone().set_db(0)
        } else {
            parameters.sentinel_login()
        };
        let node = |url: Url| Ok(url.into_connection_info()?.set_redis_settings(own.clone()));
        let nodes = urls
            .into_iter()
            .map(node)
            .collect::<Result<_, redis::RedisError>>()?;
        let kind = if cluster {
            Topology::Cluster
        } else {
            Topology::Sentinel(parameters.service.ok_or(AddressError::NoService)?)
        };
        Ok(Self {
            kind,
            nodes,
            tls: plain == "rediss",
            files: ClientFiles::default(),
            login,
            url: given,
        })
    }
}

impl Address {
    /// Whether it is the address of a cluster.
    pub fn is_cluster(&self) -> bool {
        matches!(self.kind, Topology::Cluster)
    }

    /// The same address with these files for TLS. They are read for each connection.
    ///
    /// # Errors
    /// When the address has no TLS, or is one of Sentinels, where the Redis client trusts the authorities
    /// of the system alone.
    pub fn with_files(mut self, files: ClientFiles) -> Result<Self, &'static str> {
        if files != ClientFiles::default() {
            if !self.tls {
                return Err("authorities and certificates need rediss:// or rediss-cluster://");
            }
            if matches!(self.kind, Topology::Sentinel(_)) {
                return Err(
                    "with Sentinels the authorities of the system are trusted alone: add yours to them",
                );
            }
        }
        self.files = files;
        Ok(self)
    }

    /// The same address with this database, for `AURA_REDIS_DATABASE`. The URL may repeat the number. A cluster has database 0 only; there the number is a
    /// part of the names only.
    ///
    /// # Errors
    /// When the URL names another database.
    pub fn in_database(mut self, database: u32) -> Result<Self, String> {
        let database = i64::from(database);
        let named = self.login.db();
        if named != 0 && named != database {
            return Err(format!(
                "it names database {named}, AURA_REDIS_DATABASE {database}"
            ));
        }
        if matches!(self.kind, Topology::Cluster) {
            return Ok(self);
        }
        self.login = self.login.set_db(database);
        // Sentinels have no databases: there only the login at the servers names one.
        if matches!(self.kind, Topology::Server) {
            let login = &self.login;
            self.nodes = self
                .nodes
                .into_iter()
                .map(|node| node.set_redis_settings(login.clone()))
                .collect();
        }
        Ok(self)
    }
}

/// The parameters of the URL. The Redis client knows none of them, so they are removed before it
/// parses the URL.
#[derive(Default)]
struct Parameters {
    nodes: Vec<String>,
    service: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl Parameters {
    /// Takes one parameter. The parameters of the Sentinels are unknown in the URL of a cluster.
    fn take(&mut self, name: &str, value: Cow<'_, str>, cluster: bool) -> Result<(), AddressError> {
        match name {
            "node" => self.nodes.push(value.into_owned()),
            "sentinelServiceName" if !cluster => self.service = Some(value.into_owned()),
            "sentinelUsername" if !cluster => self.username = Some(value.into_owned()),
            "sentinelPassword" if !cluster => self.password = Some(value.into_owned()),
            other => {
                // A name with other characters may be the rest of a password.
                let plain = other.bytes().all(|byte| byte.is_ascii_alphabetic());
                return Err(AddressError::Parameter(plain.then(|| other.to_owned())));
            }
        }
        Ok(())
    }

    /// The login at the Sentinels, which is another one than that at the servers.
    fn sentinel_login(&self) -> RedisConnectionInfo {
        let mut login = RedisConnectionInfo::default();
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        login
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(text: &str) -> Vec<String> {
        let address: Address = text.parse().expect(text);
        address
            .nodes
            .iter()
            .map(|node| node.addr().to_string())
            .collect()
    }

    #[test]
    fn all_kinds_of_addresses_are_read() {
        assert_eq!(nodes("redis://127.0.0.1"), ["127.0.0.1:6379"]);
        assert_eq!(
            nodes("rediss://user:secret@redis.example:7000/3"),
            ["redis.example:7000"]
        );
        assert_eq!(nodes("redis+unix:///run/redis.sock"), ["/run/redis.sock"]);
        assert_eq!(
            nodes("redis-cluster://a:1?node=b:2&node=c:3"),
            ["a:1", "b:2", "c:3"]
        );
        let sentinel = "rediss-sentinel://user:secret@a:1?node=b:2&sentinelServiceName=main&sentinelPassword=other";
        assert_eq!(nodes(sentinel), ["a:1", "b:2"]);
        let address: Address = sentinel.parse().expect("an address");
        assert!(address.tls && matches!(&address.kind, Topology::Sentinel(name) if name == "main"));
        assert_eq!(
            (address.login.username(), address.login.password()),
            (Some("user"), Some("secret"))
        );
        let own = address.nodes[1].redis_settings();
        assert_eq!((own.username(), own.password()), (None, Some("other")));
    }

    #[test]
    fn an_error_names_the_cause_without_the_password() {
        for (wrong, why) in [
            ("127.0.0.1:6379", "expected a url"),
            ("http://:secret@127.0.0.1", "expected redis://"),
            (
                "redis-cluster://:secret@a:1?nodes=b:2",
                "not known here: nodes",
            ),
            ("redis-cluster://user:1?secret@a:1", "%3f"),
            ("redis-cluster://:secret@a:1?node=b", "host:port"),
            (
                "redis-cluster://:secret@a:1?sentinelServiceName=main",
                "not known",
            ),
            ("redis-sentinel://:secret@a:1", "sentinelServiceName"),
            ("redis://:secret@a:1/x", "database"),
            ("redis://user:se/secret@a:1", "%2f"),
            ("redis://user:secret @a:1", "%20"),
            ("redis://user:secret@a:port", "port"),
        ] {
            let error = wrong.parse::<Address>().expect_err(wrong).to_string();
            assert!(
                error.to_lowercase().contains(why) || error.contains(why),
                "{wrong}: {error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
        let address: Address = "redis://user:secret@a:1/2".parse().expect("an address");
        assert_eq!(format!("{address:?}"), "redis://…@a:1/2");
        let address: Address =
            "redis-sentinel://a:1?sentinelServiceName=main&sentinelPassword=secret"
                .parse()
                .expect("an address");
        assert_eq!(format!("{address:?}"), "redis-sentinel://a:1");
    }

    #[test]
    fn two_different_databases_are_refused() {
        let address = || "redis://a:1/2".parse::<Address>().expect("an address");
        assert!(address().in_database(1).is_err());
        assert_eq!(
            address().in_database(2).expect("the same").nodes[0]
                .redis_settings()
                .db(),
            2
        );
        for cluster in ["redis-cluster://a:1", "redis-cluster://a:1/7"] {
            let cluster: Address = cluster.parse().expect("an address");
            let cluster = cluster.in_database(7).expect("only in names");
            assert_eq!(cluster.nodes[0].redis_settings().db(), 0);
        }
    }
}
