//! Who may call: the token of the sidecar, and the rights that the HTTP API of the subscriber asks for.
//!
//! A caller sends `DAPR_API_TOKEN` where the subscriber has one, as Dapr asks for it. Where callers of the
//! subscriber need a credential, they need one here too: a token with the right `read`, in the metadata
//! `authorization`, or instead of `DAPR_API_TOKEN` in `dapr-api-token`, which every SDK can send
//! ([`Credential`]). Crate `auth` decides what a credential is worth, [`contract::access`] what it allows.
//! Web pages are judged by the guard of the services. Nothing here logs a credential.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use auth::{Authenticator, Presented, Refused, Session};
use contract::{
    access::{ANONYMOUS, Identity},
    sidecar::TOKEN_HEADER,
};
use http::{HeaderMap, HeaderValue, request::Parts};
use service::{
    http::{
        guard::GuardSettings,
        rate::BadCredentials,
        source::{Source, is_forwarding, network},
    },
    runtime::log_rate::LogRate,
};
use subtle::ConstantTimeEq;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{connections::Connection, credential::Credential, error::ApiError};

/// Time between two looks at the credential of a subscription.
const INTERVAL: Duration = Duration::from_secs(10);

/// The address of the peer of a connection; an extension of its requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Decides who may call.
pub(crate) struct Access {
    /// `DAPR_API_TOKEN`.
    pub(crate) token: Option<HeaderValue>,
    pub(crate) authenticator: Arc<Authenticator>,
    /// Credentials that were not valid, by address; shared with the HTTP API.
    pub(crate) bad_credentials: BadCredentials,
    pub(crate) guard: GuardSettings,
}

/// A caller that is known.
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    /// As limits count it.
    pub(crate) source: Source,
    session: Session,
}

impl Caller {
    /// Resolves when the credential has ended or is worth something else.
    pub(crate) async fn ended(&self) {
        loop {
            sleep(INTERVAL).await;
            match self.session.check().await {
                Err(Refused::Missing | Refused::Invalid(_)) => return,
                Ok(now) if now != self.identity => return,
                Ok(_) | Err(Refused::Unavailable(_)) => {}
            }
        }
    }
}

impl Access {
    /// The caller of a request for the configuration.
    pub(crate) async fn caller(&self, request: &Parts) -> Result<Caller, ApiError> {
        let headers = &request.headers;
        self.check_page(request)?;
        let credential = Credential::of(headers);
        // A credential of its own says more about the caller than the token that all share.
        if self.authenticator.is_open() || !matches!(credential, Credential::InToken(_)) {
            self.check_token(headers)?;
        }
        let peer = peer_of(request);
        let address = network(peer.ip());
        let session = self.session(credential, headers, peer);
        if session.must_verify() && self.bad_credentials.check(address).is_err() {
            return Err(ApiError::TooManyAttempts);
        }
        let identity = match session.check().await {
            Ok(identity) => identity,
            Err(refused) => return Err(self.refuse(&refused, address)),
        };
        let source = match &*identity.name {
            ANONYMOUS => Source::Address(address),
            name => Source::Named(name.into()),
        };
        Ok(Caller {
            identity,
            source,
            session,
        })
    }

    /// Checks a request that is passed on to the sidecar, which every process of its host can reach. So
    /// it is taken from this host, or with the token of the sidecar.
    pub(crate) fn check_passing(&self, request: &Parts) -> Result<(), ApiError> {
        self.check_page(request)?;
        self.check_token(&request.headers)?;
        let is_local = peer_of(request).ip().to_canonical().is_loopback()
            && !request
                .headers
                .keys()
                .any(|name| is_forwarding(name.as_str()));
        if is_local || self.token.is_some() {
            return Ok(());
        }
        let reason =
            "calls of other hosts are passed on to the sidecar only where DAPR_API_TOKEN is set";
        Err(ApiError::Forbidden(reason.to_owned()))
    }

    /// A web page must not use the port of a host that its browser reaches. No browser speaks HTTP/2
    /// without TLS.
    fn check_page(&self, request: &Parts) -> Result<(), ApiError> {
        if request.version == http::Version::HTTP_2 {
            return Ok(());
        }
        let header = |name: &str| {
            let value = request.headers.get(name)?;
            Some(value.to_str().unwrap_or("\u{fffd}"))
        };
        let authority = request.uri.authority().map(http::uri::Authority::as_str);
        let host = authority.or_else(|| header("host"));
        let is_of_page = header("origin").is_some() || header("sec-fetch-site").is_some();
        if is_of_page {
            return Err(ApiError::Forbidden(
                "web pages may not use this port".to_owned(),
            ));
        }
        match host {
            Some(host) if !self.guard.knows(host) => Err(ApiError::Forbidden(
                "the host is not known as a name of this subscriber; add it to \
                 AURA_CONFIGURATION_ALLOWED_HOSTS"
                    .to_owned(),
            )),
            _known_or_none => Ok(()),
        }
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(token) = &self.token else {
            return Ok(());
        };
        let given = headers.get(TOKEN_HEADER);
        let given = given.map(HeaderValue::as_bytes).unwrap_or_default();
        // In constant time: the duration must not tell where the difference is.
        if token.as_bytes().ct_eq(given).into() {
            return Ok(());
        }
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(
                "a call of the Dapr API was refused: its {TOKEN_HEADER} is missing or is not the \
                 DAPR_API_TOKEN of this subscriber{left_out}"
            );
        }
        Err(ApiError::Token)
    }

    fn session(&self, credential: Credential, headers: &HeaderMap, peer: SocketAddr) -> Session {
        let authorization = match credential {
            Credential::None => None,
            Credential::InToken(text) | Credential::InAuthorization(text) => Some(text),
            // None that is valid.
            Credential::Several => Some(String::new()),
        };
        let is_forwarded = headers.keys().any(|name| is_forwarding(name.as_str()));
        let presented = Presented {
            authorization: authorization.as_deref(),
            certificate: None,
            is_local: peer.ip().to_canonical().is_loopback() && !is_forwarded,
        };
        Session::new(Arc::clone(&self.authenticator), presented)
    }

    fn refuse(&self, refused: &Refused, address: IpAddr) -> ApiError {
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(
                %address,
                "a call of the Dapr API was refused, its caller is not known: {refused}{left_out}"
            );
        }
        match refused {
            Refused::Unavailable(reason) => ApiError::Busy(reason.clone()),
            Refused::Missing => ApiError::Unauthenticated(format!(
                "send a token with the right read in the metadata authorization (Bearer TOKEN) or \
                 {TOKEN_HEADER}"
            )),
            // A missing credential is none that is not valid.
            Refused::Invalid(_) if self.bad_credentials.count(address).is_err() => {
                ApiError::TooManyAttempts
            }
            Refused::Invalid(reason) => ApiError::Unauthenticated(reason.clone()),
        }
    }
}

/// What ends the connection of a request.
pub(crate) fn connection_of(request: &Parts) -> CancellationToken {
    let connection = request.extensions.get::<Connection>();
    connection
        .map(|connection| connection.closed.clone())
        .unwrap_or_default()
}

/// The peer of a request. The server adds it to each; without it, a request is of nobody.
fn peer_of(request: &Parts) -> SocketAddr {
    let peer = request.extensions.get::<Peer>();
    peer.map_or_else(|| ([0, 0, 0, 0], 0).into(), |peer| peer.0)
}
