//! The body of an answer, read to its end within a limit of its length and above a least rate.

use bytes::Bytes;
use reqwest::{Response, header::HeaderMap};
use serde::de::DeserializeOwned;

use crate::{ClientError, Endpoint, pace::Pace};

/// Longest answer that is held in one piece: a page of the feed, one document, the heads. Bytes.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Longest list that is held in one piece: the documents of an unversioned collection, or the
/// replicas of a publisher. Bytes.
pub const MAX_LIST: usize = 256 * 1024 * 1024;

/// An answer as it came, whatever its status.
#[derive(Debug, Clone)]
pub struct RawAnswer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Endpoint {
    /// Reads a whole body of at most `limit` bytes.
    pub(crate) async fn body(
        &self,
        mut response: Response,
        limit: usize,
    ) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        let mut pace = Pace::new(self.timeouts().period);
        loop {
            // Piece by piece, because the length that a head announces proves nothing.
            let piece = pace.wait(response.chunk()).await;
            let piece = piece.map_err(|slow| self.broken_off(slow))?;
            let Some(piece) = piece.map_err(|cause| self.broken_off(cause))? else {
                return Ok(body);
            };
            pace.arrived(piece.len());
            // Before the piece is kept: the limit is a limit of memory.
            if body.len() + piece.len() > limit {
                return Err(self.unusable(format_args!("it is longer than {limit} bytes")));
            }
            body.extend_from_slice(&piece);
        }
    }

    /// Reads a whole body as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        response: Response,
    ) -> Result<T, ClientError> {
        self.json_within(response, MAX_ANSWER).await
    }

    /// Reads a whole body of at most `limit` bytes as JSON.
    pub(crate) async fn json_within<T: DeserializeOwned>(
        &self,
        response: Response,
        limit: usize,
    ) -> Result<T, ClientError> {
        let body = self.body(response, limit).await?;
        contract::objects::from_slice(&body).map_err(|error| self.unusable(error))
    }
}
