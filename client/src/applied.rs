//! Waiting until replicas have applied a write: as part of the write itself, or in a request of its own.
//!
//! The limits of a request do not cut a wait off: the time of the wait is added to them.

use std::time::Duration;

use contract::{
    CollectionName, DocumentId, Revision,
    applied::{Applied, WaitFor},
};
use reqwest::{Method, RequestBuilder};

use crate::{ClientError, Endpoint, documents::WriteOptions};

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitOptions {
    /// How many replicas.
    pub wait: WaitFor,
    /// How long at most; no service waits longer than [`contract::applied::MAX_TIMEOUT`].
    pub timeout: Duration,
}

impl WaitOptions {
    /// A path of the API with the query of this wait.
    fn on(self, path: &str) -> String {
        // A percent sign of a URL begins an escaped character.
        let wait = self.wait.to_string().replace('%', "%25");
        format!("{path}?wait={wait}&timeout={}ms", self.timeout.as_millis())
    }
}

impl WriteOptions {
    /// The time that a write waits for replicas.
    pub(crate) fn waiting_time(&self) -> Duration {
        self.wait.map_or(Duration::ZERO, |wait| wait.timeout)
    }
}

impl Endpoint {
    /// The same endpoint, whose writes wait for replicas.
    #[must_use]
    pub fn waiting(mut self, wait: Option<WaitOptions>) -> Self {
        self.write_options.wait = wait;
        self
    }

    /// How many live replicas have applied a revision, as soon as they are enough or the time is over.
    /// With the `id` of its document only a refusal of that value counts, else one of any value up to
    /// the revision.
    ///
    /// # Errors
    /// When there is no answer, or the collection has no such revision (404).
    pub async fn applied(
        &self,
        collection: &CollectionName,
        revision: Revision,
        id: Option<&DocumentId>,
        wait: WaitOptions,
    ) -> Result<Applied, ClientError> {
        let mut path = wait.on(&format!("/v1/collections/{collection}/applied"));
        path += &format!("&revision={revision}");
        if let Some(id) = id {
            path += &format!("&id={id}");
        }
        let request = self.waiting_request(Method::GET, &path);
        self.json(self.send_waiting_read(request, wait).await?)
            .await
    }

    /// A request that writes one document.
    pub(crate) fn write_request(&self, method: Method, path: &str) -> RequestBuilder {
        match self.write_options.wait {
            Some(wait) => self.waiting_request(method, &wait.on(path)),
            None => self.request(method, path),
        }
    }

    /// A request that writes several documents.
    pub(crate) fn set_request(&self, path: &str) -> RequestBuilder {
        match self.write_options.wait {
            Some(wait) => self.waiting_request(Method::POST, &wait.on(path)),
            None => self.maintenance_request(Method::POST, path),
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::Expected;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{Timeouts, Url};

    /// Takes a connection, and reads its request up to the end of its head.
    async fn request(listener: &TcpListener) -> (TcpStream, String) {
        let (mut connection, _peer) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let byte = connection.read_u8().await.expect("a request");
            head.push(byte);
        }
        let head = String::from_utf8(head).expect("text");
        (
            connection,
            head.lines().next().unwrap_or_default().to_owned(),
        )
    }

    #[tokio::test]
    async fn the_limits_of_other_requests_do_not_cut_a_wait_off() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let base = Url::parse(&format!("http://{address}")).expect("a URL");
        let short = Duration::from_millis(20);
        let timeouts = Timeouts {
            idle: short,
            read: short,
            write: short,
            ..Timeouts::TEST
        };
        let endpoint = Endpoint::new(&base, timeouts).expect("an endpoint");
        let waiting = endpoint.clone().waiting(Some(WaitOptions {
            wait: WaitFor::Percent(90),
            timeout: Duration::from_secs(60),
        }));
        let collection: CollectionName = "A".parse().expect("a name");
        let id: DocumentId = "a".parse().expect("an id");
        let service = async {
            let (mut write, line) = request(&listener).await;
            // A request without a wait begins later, and has ended before the write is answered.
            endpoint.get("/readyz").await.expect_err("no answer");
            let body = r#"{"id":"a","revision":7,"applied":{"wait":"90%","reached":true,"replicas":3,
                "applied":3,"waitedMs":7}}"#;
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            write.write_all(answer.as_bytes()).await.expect("answered");
            line
        };
        let (written, line) = tokio::join!(
            waiting.put(&collection, &id, b"{}", &Expected::Any),
            service
        );
        let applied = written.expect("written").applied.expect("its replicas");
        assert_eq!((applied.reached, applied.waited_ms), (true, 7));
        let path = "/v1/collections/A/documents/a";
        let expected = format!("PUT {path}?wait=90%25&timeout=60000ms HTTP/1.1");
        assert_eq!(line, expected);
    }
}
