//! One base URL of the API: how a request is sent there, and what counts as a success.
//!
//! A base URL may be a Dapr invocation URL: a sidecar answers there and passes the request on. The
//! header `dapr-api-token` then belongs to that sidecar, and every request carries the token of the
//! sidecar. No request to another URL carries it. `Authorization` belongs to the publisher: a sidecar
//! passes it on.

use std::{fmt::Display, time::Duration};

use contract::{
    Problem, ProblemKind, SecretUrl, applied::MAX_TIMEOUT, secret_url, sidecar::TOKEN_HEADER,
    snapshot::INSTANCE,
};
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderValue, RETRY_AFTER},
    redirect,
};
use tls::ClientTls;
use tokio::time::{Instant, timeout};

use crate::{
    BodyError, ClientError, CredentialError, Credentials, RefusedError, Timeouts,
    answer::{MAX_ANSWER, RawAnswer},
    applied::WaitOptions,
    documents::WriteOptions,
    turns::Turns,
};

/// How the path of a Dapr invocation URL begins.
const INVOCATION: &str = "/v1.0/invoke/";
/// Characters of a foreign error body that an error shows.
const EXCERPT: usize = 200;

/// One base URL of the API. Cheap to clone: clones share their connections.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The URL without a slash at its end; it may hold a password.
    base: SecretUrl<String>,
    /// The URL as it may be shown.
    shown: String,
    /// What may be shown of it: no path, no credentials.
    name: String,
    /// Whether a sidecar answers there and passes requests on.
    invoked: bool,
    /// One client per kind of answer.
    clients: Clients,
    /// Limits of every request.
    timeouts: Timeouts,
    /// What is shown at this base URL.
    credentials: Credentials,
    /// Sent only where a sidecar answers.
    sidecar_token: Option<HeaderValue>,
    /// The name of the replica that asks.
    instance: Option<HeaderValue>,
    /// How documents are written.
    pub(crate) write_options: WriteOptions,
    /// Where a request beyond a rate waits; without them the refusal is the answer.
    turns: Option<Turns>,
}

/// The builder of an HTTP client that trusts the authorities of the system. A builder of the library
/// alone does not know which cryptography to use.
pub fn http() -> reqwest::ClientBuilder {
    Client::builder().tls_backend_preconfigured(ClientTls::default().config())
}

/// Connections. Answers of each kind may be silent for another time.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    /// For everything else.
    ordinary: Client,
    /// For answers that may need the whole store to be read first.
    maintenance: Client,
    /// For the reports of repairs.
    repair: Client,
    /// For answers that wait for replicas.
    waiting: Client,
    /// For live feeds, which are silent between two changes.
    streams: Client,
}

impl Clients {
    /// New connections with these limits.
    ///
    /// # Errors
    /// When the system has no resources for an HTTP client.
    pub(crate) fn new(timeouts: &Timeouts, tls: &ClientTls) -> Result<Self, reqwest::Error> {
        let client = |idle| {
            Client::builder()
                .connect_timeout(timeouts.connect)
                .read_timeout(idle)
                .redirect(redirect::Policy::none())
                .no_proxy()
                .tls_backend_preconfigured(tls.config())
                .build()
        };
        Ok(Self {
            ordinary: client(timeouts.idle)?,
            maintenance: client(timeouts.maintenance)?,
            repair: client(timeouts.repair)?,
            // The wait itself is beside what the longest write needs.
            waiting: client(timeouts.maintenance + MAX_TIMEOUT)?,
            streams: client(timeouts.silence)?,
        })
    }
}

impl Endpoint {
    /// The API at a base URL, without a token.
    ///
    /// # Errors
    /// When the system has no resources for an HTTP client.
    pub fn new(base: &Url, timeouts: Timeouts) -> Result<Self, CredentialError> {
        Self::with_credentials(base, timeouts, &Credentials::default())
    }

    /// The API at a base URL, with these credentials.
    ///
    /// # Errors
    /// When the credentials must not be sent there, or the system has no resources for an HTTP client.
    pub fn with_credentials(
        base: &Url,
        timeouts: Timeouts,
        credentials: &Credentials,
    ) -> Result<Self, CredentialError> {
        let clients = Clients::new(&timeouts, &credentials.tls)?;
        Self::with_clients(base, timeouts, clients, credentials.clone(), None)
    }

    /// The API at a base URL, over connections that other endpoints may share.
    ///
    /// # Errors
    /// When the credentials must not be sent there.
    pub(crate) fn with_clients(
        base: &Url,
        timeouts: Timeouts,
        clients: Clients,
        credentials: Credentials,
        sidecar_token: Option<HeaderValue>,
    ) -> Result<Self, CredentialError> {
        credentials.check(base)?;
        let invoked = base.path().starts_with(INVOCATION);
        if invoked && sidecar_token.is_some() {
            credentials.check_privacy(base)?;
        }
        let text = base.as_str().trim_end_matches('/');
        Ok(Self {
            shown: secret_url::redacted(text),
            base: SecretUrl::of_parsed(text.to_owned()),
            name: base.origin().ascii_serialization(),
            invoked,
            clients,
            timeouts,
            credentials,
            sidecar_token,
            instance: None,
            write_options: WriteOptions::default(),
            turns: None,
        })
    }

    /// Whether the base URL has user information, which is sent as a credential.
    fn has_user(&self) -> bool {
        Url::parse(self.base.expose()).is_ok_and(|base| !base.username().is_empty())
    }

    /// The same endpoint, whose requests wait when the service says that they are beyond the rate of
    /// their caller (429), half a minute at most: for commands. A replica has other publishers instead.
    #[must_use]
    pub fn waiting_for_turns(mut self) -> Self {
        self.turns = Some(Turns::default());
        self
    }

    /// A client of another service, which waits if this one does.
    fn waiting_alike(&self, other: Self) -> Self {
        match self.turns {
            Some(_) => other.waiting_for_turns(),
            None => other,
        }
    }

    /// Whether the service knows from credentials who this client is.
    pub fn is_authenticated(&self) -> bool {
        self.credentials.name_the_client()
    }

    /// Another service of the configuration, with the same credentials and connections.
    ///
    /// # Errors
    /// When the credentials must not be sent there.
    pub fn beside(&self, base: &Url) -> Result<Self, CredentialError> {
        let (timeouts, clients) = (self.timeouts, self.clients.clone());
        Self::with_clients(base, timeouts, clients, self.credentials.clone(), None)
            .map(|other| self.waiting_alike(other))
    }

    /// A service whose URL was learned from a peer. It must be trusted by TLS where it is named by
    /// `https://`, and it never gets the token.
    ///
    /// # Errors
    /// Never, as there is no token.
    pub fn learned(&self, base: &Url) -> Result<Self, CredentialError> {
        let (timeouts, clients) = (self.timeouts, self.clients.clone());
        Self::with_clients(
            base,
            timeouts,
            clients,
            self.credentials.without_token(),
            None,
        )
        .map(|other| self.waiting_alike(other))
    }

    /// The same, for requests of the replica with this name: the other side gives each replica its
    /// turn.
    pub(crate) fn named(mut self, instance: HeaderValue) -> Self {
        self.instance = Some(instance);
        self
    }

    /// Whether the host of the URL is this one.
    pub fn is_local(&self) -> bool {
        Url::parse(self.base.expose()).is_ok_and(|base| contract::secret_url::is_loopback(&base))
    }

    /// The base URL without a slash at its end and without user and password: for messages.
    pub fn base(&self) -> &str {
        &self.shown
    }

    /// Scheme, host and port: what messages show.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a sidecar answers at this URL and passes requests on.
    pub fn is_invoked(&self) -> bool {
        self.invoked
    }

    /// Sends a request and gives the answer as it came, whatever its status: for health checks and
    /// tests. The body of the answer has at most `limit` bytes.
    ///
    /// # Errors
    /// When there is no answer, or it breaks off or is longer.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        limit: usize,
    ) -> Result<RawAnswer, ClientError> {
        let mut request = self.request(method, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // An empty body is no body: some routes take none.
        if !body.is_empty() {
            request = request.body(body);
        }
        let response = self.answer(request, self.timeouts.write).await?;
        Ok(RawAnswer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: self.body(response, limit).await?.into(),
        })
    }

    /// Sends a GET whose answer is short, and gives the answer before its body is read. The whole of it
    /// arrives within the time of its head.
    ///
    /// # Errors
    /// When there is no answer, or it is not a success.
    pub(crate) async fn get_short(&self, path: &str) -> Result<Response, ClientError> {
        let request = self.request(Method::GET, path);
        self.send_read(request.timeout(self.timeouts.read)).await
    }

    /// Sends a GET and gives the answer before its body is read.
    ///
    /// # Errors
    /// When there is no answer, or it is not a success.
    pub async fn get(&self, path: &str) -> Result<Response, ClientError> {
        self.send_read(self.request(Method::GET, path)).await
    }

    /// Whether the service says at `/readyz` that it is ready to serve.
    ///
    /// # Errors
    /// When it does not answer, or says that it is not.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.get_short("/readyz").await.map(drop)
    }

    /// A request of the API; `path` begins with a slash. Nothing is sent yet.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.clients.ordinary.request(method, self.url(path));
        match &self.instance {
            Some(instance) => request.header(INSTANCE, instance),
            None => request,
        }
    }

    /// A request that may make the publisher read its whole store.
    pub(crate) fn maintenance_request(&self, method: Method, path: &str) -> RequestBuilder {
        self.clients.maintenance.request(method, self.url(path))
    }

    /// A request for a repair.
    pub(crate) fn repair_request(&self, method: Method, path: &str) -> RequestBuilder {
        self.clients.repair.request(method, self.url(path))
    }

    /// A request whose answer waits for replicas.
    pub(crate) fn waiting_request(&self, method: Method, path: &str) -> RequestBuilder {
        self.clients.waiting.request(method, self.url(path))
    }

    /// A request for a live feed.
    pub(crate) fn stream_request(&self, path: &str) -> RequestBuilder {
        self.clients.streams.get(self.url(path))
    }

    /// The URL of a path, with the credentials of the base URL.
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base.expose())
    }

    /// Sends a request that changes nothing, and gives the answer if it is a success.
    pub(crate) async fn send_read(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        self.success(request, self.timeouts.read).await
    }

    /// Sends a request that changes nothing and waits for replicas, and gives the answer if it is a
    /// success. The whole of it arrives in time.
    pub(crate) async fn send_waiting_read(
        &self,
        request: RequestBuilder,
        wait: WaitOptions,
    ) -> Result<Response, ClientError> {
        let limit = self.timeouts.read + wait.timeout;
        self.success(request.timeout(limit), limit).await
    }

    /// Sends a request that writes, and gives the answer if it is a success. It is short: the whole of it
    /// arrives in time.
    pub(crate) async fn send_write(
        &self,
        request: RequestBuilder,
    ) -> Result<Response, ClientError> {
        let limit = self.timeouts.write + self.write_options.waiting_time();
        self.success(request.timeout(limit), limit).await
    }

    /// Sends a request that may take long, and gives the answer if it is a success.
    pub(crate) async fn send_maintenance(
        &self,
        request: RequestBuilder,
    ) -> Result<Response, ClientError> {
        let limit = self.timeouts.maintenance + self.write_options.waiting_time();
        self.success(request, limit).await
    }

    /// Sends a request for a repair, and gives the answer if it is a success.
    pub(crate) async fn send_repair(
        &self,
        request: RequestBuilder,
    ) -> Result<Response, ClientError> {
        self.success(request, self.timeouts.repair).await
    }

    /// Sends a request, and gives the answer if it is a success. Its head arrives within `limit`.
    async fn success(
        &self,
        request: RequestBuilder,
        limit: Duration,
    ) -> Result<Response, ClientError> {
        let response = self.answer(request, limit).await?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refused(response).await)
        }
    }

    /// Sends a request, in its turn, and gives the answer whatever its status. The head of each answer
    /// arrives within `limit`.
    async fn answer(
        &self,
        request: RequestBuilder,
        limit: Duration,
    ) -> Result<Response, ClientError> {
        let Some(turns) = &self.turns else {
            return self.attempt(request, limit).await;
        };
        let attempt = || {
            let copy = request.try_clone();
            async move {
                let copy = copy.ok_or_else(|| self.unusable("a body that is a stream has no turn"));
                self.attempt(copy?, limit).await
            }
        };
        turns.send(attempt, due).await
    }

    /// Sends a request once.
    async fn attempt(
        &self,
        mut request: RequestBuilder,
        limit: Duration,
    ) -> Result<Response, ClientError> {
        // The header belongs to the sidecar. Another service must never see its token.
        if self.invoked
            && let Some(token) = &self.sidecar_token
        {
            request = request.header(TOKEN_HEADER, token);
        }
        if let Some(token) = self.credentials.fresh().await {
            request = request.header(AUTHORIZATION, token);
        }
        match timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            // The limit of the whole answer may end first.
            Ok(Err(cause)) if !cause.is_timeout() || cause.is_connect() => {
                Err(ClientError::Unreachable {
                    publisher: self.name.clone(),
                    // The URL may contain credentials.
                    cause: cause.without_url(),
                })
            }
            // The publisher may still do it: a write must not be taken as not done.
            Ok(Err(_)) | Err(_) => Err(ClientError::NoAnswer {
                publisher: self.name.clone(),
                after: limit,
            }),
        }
    }

    /// The error of an answer that is not a success. It reads the body for the problem in it.
    async fn refused(&self, response: Response) -> ClientError {
        let status = response.status().as_u16();
        let retry_after = retry_after(&response);
        // A body that cannot be read says nothing, and the status is known already.
        let body = timeout(self.timeouts.period, self.body(response, MAX_ANSWER)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let mut problem: Option<Problem> = contract::objects::from_slice(&body).ok();
        if let Some(problem) = &mut problem
            && problem.kind == ProblemKind::Unauthenticated
            && !self.has_user()
            && let Some(remedy) = self.credentials.missing()
        {
            // The service cannot know where the user of this program names a token.
            remedy.clone_into(&mut problem.detail);
            problem.field = None;
        }
        // A problem has a text of its own; any other body may be the page of a proxy.
        let excerpt = match &problem {
            Some(_) => String::new(),
            None => String::from_utf8_lossy(&body)
                .chars()
                .take(EXCERPT)
                .collect(),
        };
        ClientError::Refused(Box::new(RefusedError {
            publisher: self.name.clone(),
            status,
            retry_after,
            problem,
            excerpt,
        }))
    }

    /// The error of an answer that is not what was asked for. Public, because a caller may require
    /// more of an answer than this crate does.
    pub fn unusable(&self, reason: impl Display) -> ClientError {
        ClientError::Unusable {
            publisher: self.name.clone(),
            reason: reason.to_string(),
        }
    }

    /// The error of a body that stopped before its end. It shows no URL.
    pub(crate) fn broken_off(&self, cause: impl Into<BodyError>) -> ClientError {
        ClientError::BrokenOff {
            publisher: self.name.clone(),
            cause: cause.into(),
        }
    }

    /// The limits of every request.
    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }
}

/// The time that an answer asks to wait. The other form of the header is a date, which this API never
/// sends.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?;
    Some(Duration::from_secs(value.to_str().ok()?.parse().ok()?))
}

/// When a request may be sent again that was beyond the rate of its caller; `None` for any other
/// answer.
fn due(response: &Response) -> Option<Instant> {
    if response.status() != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let wait = retry_after(response).unwrap_or(Duration::from_secs(1));
    // A time beyond all clocks is one that no turn waits for.
    Some(Instant::now() + wait.min(Duration::from_secs(3600)))
}
