//! One document, and the list of the documents of a collection.

use bytes::BytesMut;
use contract::{
    CanonicalJson, CollectionName, Crc, DocumentId, Expected, Revision, Written, context,
    document::{JSON, MERGE_PATCH},
    listing::NDJSON,
    set::WRITE_HEADER,
    snapshot::SnapshotEnd,
};
use reqwest::{
    Method, RequestBuilder, Response,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;

use crate::{
    ClientError, Endpoint,
    answer::{MAX_ANSWER, MAX_LIST},
    applied::WaitOptions,
    lines::Lines,
};

/// How documents are written through an endpoint.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// A PUT gives the document exactly its body, and does not merge `metadata`.
    pub exact: bool,
    /// The user who writes; visible ASCII.
    pub user: Option<HeaderValue>,
    /// Why.
    pub reason: Option<HeaderValue>,
    /// The replicas that every write waits for. It is sent once all the same: a wait that was in vain
    /// is no error.
    pub wait: Option<WaitOptions>,
}

/// A text as the value of a header, as UTF-8; none when it has control characters.
pub fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

/// A document of a versioned collection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredDocument {
    /// Its id.
    pub id: DocumentId,
    /// The revision that gave it this value.
    pub revision: Revision,
    /// Checksum of `config_data`, as the publisher gives it; not verified.
    pub crc: Crc,
    /// Its value.
    pub config_data: CanonicalJson,
}

/// Path of a document. Neither part has a character that a URL escapes.
pub fn document_path(collection: &CollectionName, id: &DocumentId) -> String {
    format!("/v1/collections/{collection}/documents/{id}")
}

impl Endpoint {
    /// The same endpoint, whose writes of documents have these options.
    #[must_use]
    pub fn writing(mut self, options: WriteOptions) -> Self {
        self.write_options = options;
        self
    }

    /// Whether a PUT gives a document exactly its body.
    pub fn writes_exactly(&self) -> bool {
        self.write_options.exact
    }

    /// One document as the service sends it.
    ///
    /// # Errors
    /// When there is no answer, or the document does not exist.
    pub async fn document_bytes(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> Result<Vec<u8>, ClientError> {
        let response = self.get(&document_path(collection, id)).await?;
        self.body(response, MAX_ANSWER).await
    }

    /// One document of a versioned collection.
    ///
    /// # Errors
    /// When there is no answer, or the document does not exist.
    pub async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> Result<StoredDocument, ClientError> {
        let response = self.get(&document_path(collection, id)).await?;
        self.json(response).await
    }

    /// All documents of a collection in one piece, as the service sends them: for collections of a
    /// publisher that has no revisions.
    ///
    /// # Errors
    /// When there is no answer, or it is longer than [`MAX_LIST`].
    pub async fn list_bytes(&self, collection: &CollectionName) -> Result<Vec<u8>, ClientError> {
        let path = format!("/v1/collections/{collection}/documents");
        self.body(self.get(&path).await?, MAX_LIST).await
    }

    /// The documents of a collection, line by line.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn list(&self, collection: &CollectionName) -> Result<ListReader, ClientError> {
        let path = format!("/v1/collections/{collection}/documents");
        let request = self
            .request(Method::GET, &path)
            .header(ACCEPT, format!("{NDJSON}, */*"));
        let response = self.send_read(request).await?;
        Ok(ListReader {
            lines: Lines::new(self, response),
            received: 0,
        })
    }

    /// Writes the value of a document. The bytes are sent as they are.
    ///
    /// # Errors
    /// When there is no answer, the condition does not hold (412, or 404 for
    /// [`Expected::Any`]), or the publisher refuses the value.
    pub async fn put(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        value: &[u8],
        expected: &Expected,
    ) -> Result<Written, ClientError> {
        let mut request = self
            .write_request(Method::PUT, &document_path(collection, id))
            .header(CONTENT_TYPE, JSON)
            .body(value.to_vec());
        if self.write_options.exact {
            request = request.header(WRITE_HEADER, "exact");
        }
        self.write(request, expected).await
    }

    /// Writes the value of a document, whether it exists or not.
    ///
    /// # Errors
    /// When there is no answer, or the publisher refuses the value.
    pub async fn put_or_create(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        value: &[u8],
    ) -> Result<Written, ClientError> {
        match self.put(collection, id, value, &Expected::Any).await {
            Err(error) if error.status() == Some(404) => {}
            result => return result,
        }
        match self.put(collection, id, value, &Expected::Absent).await {
            // Another client created it between the two requests.
            Err(error) if error.status() == Some(412) => {}
            result => return result,
        }
        self.put(collection, id, value, &Expected::Any).await
    }

    /// Applies a merge patch (RFC 7396) to a document.
    ///
    /// # Errors
    /// When there is no answer, the condition does not hold, or the publisher refuses the result.
    pub async fn patch(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        patch: &[u8],
        expected: &Expected,
    ) -> Result<Written, ClientError> {
        let request = self
            .write_request(Method::PATCH, &document_path(collection, id))
            .header(CONTENT_TYPE, MERGE_PATCH)
            .body(patch.to_vec());
        self.write(request, expected).await
    }

    /// Deletes a document.
    ///
    /// # Errors
    /// When there is no answer, or the condition does not hold.
    pub async fn delete(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        expected: &Expected,
    ) -> Result<Written, ClientError> {
        let request = self.write_request(Method::DELETE, &document_path(collection, id));
        self.write(request, expected).await
    }

    /// Sends a write under a condition.
    async fn write(
        &self,
        request: RequestBuilder,
        expected: &Expected,
    ) -> Result<Written, ClientError> {
        let mut request = self.authored(request);
        for (name, value) in expected.fields() {
            request = request.header(name, value);
        }
        self.json(self.send_write(request).await?).await
    }

    /// The same request, with the user and the reason of the write.
    pub(crate) fn authored(&self, mut request: RequestBuilder) -> RequestBuilder {
        let WriteOptions { user, reason, .. } = &self.write_options;
        for (name, value) in [(context::USER_ID, user), (context::CHANGE_REASON, reason)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request
    }
}

/// A list that is read line by line: `{"head":…}` (absent for an unversioned collection), a line
/// per document, and an end line that counts them.
#[derive(Debug)]
pub struct ListReader {
    /// The lines that were not read yet.
    lines: Lines,
    /// Documents so far; the end line must say the same number.
    received: u64,
}

impl ListReader {
    /// A list that the service makes of its history while it sends it.
    pub(crate) fn of_past(endpoint: &Endpoint, response: Response) -> Self {
        let period = endpoint.timeouts().maintenance;
        Self {
            lines: Lines::new(endpoint, response).paced(period),
            received: 0,
        }
    }

    /// The line of the next document; `None` after an end line that counts all that arrived.
    ///
    /// # Errors
    /// When the answer breaks off, or is cut off, or its count disagrees.
    pub async fn next_document(&mut self) -> Result<Option<BytesMut>, ClientError> {
        while let Some(line) = self.lines.next_line().await? {
            // Absent for an unversioned collection, so it is not required.
            if line.starts_with(br#"{"head""#) {
                continue;
            }
            if line.starts_with(br#"{"end""#) {
                let endpoint = self.lines.endpoint();
                let SnapshotEnd { count, .. } = contract::objects::from_slice(&line)
                    .map_err(|error| endpoint.unusable(error))?;
                return if count == self.received {
                    Ok(None)
                } else {
                    Err(endpoint.unusable(format_args!(
                        "the end line counts {count} documents, but {} arrived",
                        self.received
                    )))
                };
            }
            self.received += 1;
            return Ok(Some(line));
        }
        // A body that ends early looks like a shorter list; only the end line tells.
        let reason = format!(
            "the list is cut off after {} documents: it has no end line",
            self.received
        );
        Err(self.lines.endpoint().unusable(reason))
    }
}
