//! A client of the HTTP API for tests, over the crate `client`: it sends exactly what a test gives, and
//! returns the complete answer whatever its status.

use anyhow::{Context, ensure};
use client::{Endpoint, Timeouts};
use contract::{Head, Heads};
use reqwest::{Method, header::HeaderMap};
use serde_json::Value;

/// The API of one service.
#[derive(Debug, Clone)]
pub struct Api {
    endpoint: Endpoint,
}

/// Longest answer to a test, in bytes.
const MAX_ANSWER: usize = 1 << 30;

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{} {:?}", self.status, self.body))
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The answer, if its status is this.
    ///
    /// # Errors
    /// When it is another.
    pub fn expect(self, status: u16) -> anyhow::Result<Self> {
        ensure!(
            self.status == status,
            "expected {status}, got {}: {}",
            self.status,
            self.body
        );
        Ok(self)
    }
}

impl Api {
    /// The API at a base URL.
    pub fn new(base: String) -> Self {
        let base = base.parse().expect("the base URL of a service");
        Self {
            endpoint: Endpoint::new(&base, Timeouts::TEST).expect("an HTTP client"),
        }
    }

    /// Sends a request. A body without a media type is sent as JSON.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> anyhow::Result<Answer> {
        // A service takes a change of state with a media type only.
        let mut headers = headers.to_vec();
        let is_typed = headers
            .iter()
            .any(|(name, _value)| name.eq_ignore_ascii_case("content-type"));
        let changes = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
        if changes && !is_typed {
            let media_type = if method == Method::PATCH {
                "application/merge-patch+json"
            } else {
                "application/json"
            };
            headers.push(("content-type", media_type));
        }
        let answer = self
            .endpoint
            .exchange(method, path, &headers, body.into(), MAX_ANSWER)
            .await?;
        Ok(Answer {
            status: answer.status,
            headers: answer.headers,
            body: String::from_utf8_lossy(&answer.body).into_owned(),
        })
    }

    /// GET.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, &[], "").await
    }

    /// GET with one header.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get_with(&self, path: &str, name: &str, value: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, &[(name, value)], "").await
    }

    /// GET, its body not yet read.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn open(&self, path: &str) -> anyhow::Result<reqwest::Response> {
        Ok(self.endpoint.get(path).await?)
    }

    /// The status of the answer to a GET.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn status_of(&self, path: &str) -> anyhow::Result<u16> {
        Ok(self.get(path).await?.status)
    }

    /// POST of a JSON document to a collection.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn create(&self, collection: &str, document: &Value) -> anyhow::Result<Answer> {
        let path = format!("/v1/collections/{collection}/documents");
        self.send(
            Method::POST,
            &path,
            &[("content-type", "application/json")],
            document.to_string(),
        )
        .await
    }

    /// PUT of a JSON document.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn put(
        &self,
        collection: &str,
        id: &str,
        document: &Value,
    ) -> anyhow::Result<Answer> {
        let headers = [("content-type", "application/json")];
        self.send(
            Method::PUT,
            &document_path(collection, id),
            &headers,
            document.to_string(),
        )
        .await
    }

    /// DELETE of a document.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn delete(&self, collection: &str, id: &str) -> anyhow::Result<Answer> {
        self.send(Method::DELETE, &document_path(collection, id), &[], "")
            .await
    }

    /// GET of a document.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn document(&self, collection: &str, id: &str) -> anyhow::Result<Answer> {
        self.get(&document_path(collection, id)).await
    }

    /// The head of a collection.
    ///
    /// # Errors
    /// When there is no answer, or another one.
    pub async fn head(&self, collection: &str) -> anyhow::Result<Head> {
        let heads = self.get("/v1/collections").await?.expect(200)?;
        let Heads { heads } = serde_json::from_str(&heads.body)?;
        heads
            .into_iter()
            .find(|head| head.collection.as_str() == collection)
            .context("no such head")
    }
}

/// Path of a document.
pub fn document_path(collection: &str, id: &str) -> String {
    format!("/v1/collections/{collection}/documents/{id}")
}
