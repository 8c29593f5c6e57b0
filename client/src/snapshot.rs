//! A snapshot: all documents of some collections at one moment, read line by line.
//!
//! [`SnapshotLines`] gives the lines as they are, for a caller that has its own proof, as a replica
//! has. [`SnapshotReader`] adds the completeness proof of the contract: it ends without an error
//! only after an end line that proves that nothing is missing or damaged.

use bytes::BytesMut;
use contract::{
    CollectionName, Head,
    listing::NDJSON,
    snapshot::{SETTLED, SnapshotItem, SnapshotLine, SnapshotProof, SnapshotStart},
};
use reqwest::{
    Method,
    header::{ACCEPT, ACCEPT_ENCODING},
};

use crate::{
    ClientError, Endpoint,
    lines::{CODING, Lines},
};

/// A snapshot whose first line was read.
#[derive(Debug)]
pub struct SnapshotLines {
    /// The first line: epoch and heads.
    pub start: SnapshotStart,
    /// Whether a subscriber says that its snapshot is of one moment; absent at a publisher, whose
    /// snapshots always are.
    pub settled: Option<bool>,
    /// The first line as it came.
    first: BytesMut,
    /// The lines that were not read yet.
    lines: Lines,
}

impl Endpoint {
    /// Begins to read a snapshot of these collections; of all when none is named.
    ///
    /// # Errors
    /// When there is no answer, or its first line is not the start of a snapshot.
    pub async fn snapshot<'a>(
        &self,
        collections: impl IntoIterator<Item = &'a CollectionName>,
    ) -> Result<SnapshotLines, ClientError> {
        let names: Vec<&str> = collections
            .into_iter()
            .map(CollectionName::as_str)
            .collect();
        // Without the parameter a service gives all its collections.
        let path = if names.is_empty() {
            "/v1/snapshot".to_owned()
        } else {
            format!("/v1/snapshot?collections={}", names.join(","))
        };
        let request = self
            .request(Method::GET, &path)
            .header(ACCEPT, format!("{NDJSON}, */*"))
            .header(ACCEPT_ENCODING, CODING);
        let response = self.send_read(request).await?;
        // Before the body is read: the head is gone then.
        let settled = response.headers().get(SETTLED).map(|value| value == "true");
        let mut lines = Lines::new(self, response);
        let first = lines.next_line().await?;
        let first = first.ok_or_else(|| self.unusable("the snapshot is empty"))?;
        let start = contract::objects::from_slice(&first)
            .map_err(|error| self.unusable(format_args!("the first line: {error}")))?;
        Ok(SnapshotLines {
            start,
            settled,
            first,
            lines,
        })
    }
}

impl SnapshotLines {
    /// The next line, parsed, and its bytes; `None` at the end of the body, which proves nothing.
    ///
    /// # Errors
    /// When the answer breaks off, or a line is neither an item nor the end.
    pub async fn next_line(&mut self) -> Result<Option<(SnapshotLine, BytesMut)>, ClientError> {
        let Some(line) = self.lines.next_line().await? else {
            return Ok(None);
        };
        let parsed =
            SnapshotLine::parse(&line).map_err(|error| self.lines.endpoint().unusable(error))?;
        Ok(Some((parsed, line)))
    }

    /// Adds the proof of completeness.
    pub fn proven(self) -> SnapshotReader {
        SnapshotReader {
            proof: Some(SnapshotProof::begin(self.start)),
            first: self.first,
            lines: self.lines,
            complete: None,
        }
    }
}

/// A snapshot that is proven complete while it is read.
#[derive(Debug)]
pub struct SnapshotReader {
    /// Absent after the end line.
    proof: Option<SnapshotProof>,
    first: BytesMut,
    lines: Lines,
    /// Present after the end line.
    complete: Option<CompleteSnapshot>,
}

/// One document of a snapshot.
#[derive(Debug)]
pub struct SnapshotRecord {
    /// The document; its checksum matches.
    pub item: SnapshotItem,
    /// The line as the service sent it, without its line feed.
    pub line: BytesMut,
}

/// What the end line proved.
#[derive(Debug, Clone)]
pub struct CompleteSnapshot {
    /// The heads that the documents add up to.
    pub heads: Vec<Head>,
    /// The number of documents.
    pub documents: u64,
    /// The end line as the service sent it, without its line feed.
    pub line: BytesMut,
}

impl SnapshotReader {
    /// The first line as the service sent it, without its line feed.
    pub fn first_line(&self) -> &[u8] {
        &self.first
    }

    /// The number of documents that the first line announces.
    pub fn announced(&self) -> u64 {
        self.proof.as_ref().map_or(0, SnapshotProof::announced)
    }

    /// The next document; `None` after the end line proved that all arrived. A caller that keeps
    /// documents uses none of them before that.
    ///
    /// # Errors
    /// When the answer breaks off or is cut off, or a document is damaged or missing.
    pub async fn next_record(&mut self) -> Result<Option<SnapshotRecord>, ClientError> {
        let Some(proof) = &mut self.proof else {
            return Ok(None);
        };
        let line = self.lines.next_line().await?;
        let endpoint = self.lines.endpoint();
        let Some(line) = line else {
            return Err(endpoint.unusable(format_args!(
                "the snapshot is cut off after {} documents: it has no end line",
                proof.received()
            )));
        };
        let parsed = SnapshotLine::parse(&line).map_err(|error| {
            endpoint.unusable(format_args!("item {}: {error}", proof.received() + 1))
        })?;
        let end = match parsed {
            SnapshotLine::Item(item) => {
                proof
                    .item(&item)
                    .map_err(|error| endpoint.unusable(error))?;
                return Ok(Some(SnapshotRecord { item, line }));
            }
            SnapshotLine::End(end) => end,
        };
        // More after the end would be neither counted nor proven.
        if self.lines.next_line().await?.is_some() {
            let endpoint = self.lines.endpoint();
            return Err(endpoint.unusable("a line follows the end line"));
        }
        if let Some(proof) = self.proof.take() {
            let start = proof
                .finish(&end)
                .map_err(|error| self.lines.endpoint().unusable(error))?;
            self.complete = Some(CompleteSnapshot {
                heads: start.heads,
                documents: end.count,
                line,
            });
        }
        Ok(None)
    }

    /// What was proven. Only a snapshot that was read to its end has a proof.
    ///
    /// # Errors
    /// When it was not read to its end.
    pub fn finish(self) -> Result<CompleteSnapshot, ClientError> {
        let endpoint = self.lines.endpoint();
        self.complete
            .ok_or_else(|| endpoint.unusable("the snapshot was not read to its end"))
    }
}
