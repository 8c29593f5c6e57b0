//! The past: the history of changes, and documents as they were.

use contract::{
    CollectionName, DocumentId, Operation,
    history::{DIGEST_HEADER, HistoryFilter, HistoryPage, Point, REVISION_HEADER},
    listing::NDJSON,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, Response, header::ACCEPT};

use crate::{
    ClientError, Endpoint,
    answer::MAX_ANSWER,
    documents::{ListReader, StoredDocument, document_path},
};

/// Whose history is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryScope {
    /// All collections.
    Store,
    /// One collection.
    Collection(CollectionName),
    /// One document.
    Document(CollectionName, DocumentId),
}

impl HistoryScope {
    fn path(&self) -> String {
        match self {
            Self::Store => "/v1/history".to_owned(),
            Self::Collection(collection) => format!("/v1/collections/{collection}/history"),
            Self::Document(collection, id) => format!("{}/history", document_path(collection, id)),
        }
    }
}

impl Endpoint {
    /// A page of history, the newest change first: at most `limit` changes, before the position
    /// `before`, which is `next` of the page before. A page may be empty and have `next`.
    ///
    /// # Errors
    /// When there is no answer, or the publisher refuses a filter.
    pub async fn history(
        &self,
        scope: &HistoryScope,
        filter: &HistoryFilter,
        limit: Option<usize>,
        before: Option<&str>,
    ) -> Result<HistoryPage, ClientError> {
        let mut parameters = parameters(filter);
        parameters.extend(limit.map(|limit| ("limit", limit.to_string())));
        parameters.extend(before.map(|before| ("before", before.to_owned())));
        let path = format!("{}{}", scope.path(), query(&parameters));
        let response = self
            .send_maintenance(self.maintenance_request(Method::GET, &path))
            .await?;
        self.json(response).await
    }

    /// One document as it was.
    ///
    /// # Errors
    /// When there is no answer, the document did not exist (404), or its past is not kept (410).
    pub async fn document_at(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        point: &Point,
    ) -> Result<StoredDocument, ClientError> {
        let response = self.get(&document_at_path(collection, id, point)).await?;
        self.json(self.of_past(response, REVISION_HEADER)?).await
    }

    /// One document as it was, as the service sends it.
    ///
    /// # Errors
    /// As [`Endpoint::document_at`].
    pub async fn document_bytes_at(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        point: &Point,
    ) -> Result<Vec<u8>, ClientError> {
        let response = self.get(&document_at_path(collection, id, point)).await?;
        self.body(self.of_past(response, REVISION_HEADER)?, MAX_ANSWER)
            .await
    }

    /// The documents of a collection as they were, line by line.
    ///
    /// # Errors
    /// When there is no answer, or the past is not kept (410).
    pub async fn list_at(
        &self,
        collection: &CollectionName,
        point: &Point,
    ) -> Result<ListReader, ClientError> {
        let path = format!(
            "/v1/collections/{collection}/documents{}",
            query(&[point.parameter()])
        );
        let request = self
            .maintenance_request(Method::GET, &path)
            .header(ACCEPT, format!("{NDJSON}, */*"));
        let response = self.send_maintenance(request).await?;
        Ok(ListReader::of_past(
            self,
            self.of_past(response, DIGEST_HEADER)?,
        ))
    }

    /// An answer about the past, if it says in this header of which state it is. A service that ignores
    /// the parameters of the request answers the present.
    fn of_past(&self, response: Response, header: &str) -> Result<Response, ClientError> {
        if response.headers().contains_key(header) {
            return Ok(response);
        }
        Err(self.unusable(format_args!(
            "it has no {header}, so it may be the present instead of the past"
        )))
    }
}

fn document_at_path(collection: &CollectionName, id: &DocumentId, point: &Point) -> String {
    format!(
        "{}{}",
        document_path(collection, id),
        query(&[point.parameter()])
    )
}

/// The parameters of a filter.
fn parameters(filter: &HistoryFilter) -> Vec<(&'static str, String)> {
    let HistoryFilter {
        id,
        user,
        op,
        from,
        to,
        text,
        set,
    } = filter;
    let op = op.map(|op| match op {
        Operation::Create => "Create",
        Operation::Update => "Update",
        Operation::Delete => "Delete",
    });
    let members = [
        ("id", id.as_ref().map(ToString::to_string)),
        ("user", user.clone()),
        ("op", op.map(str::to_owned)),
        ("from", from.map(|time| time.to_rfc3339())),
        ("to", to.map(|time| time.to_rfc3339())),
        ("text", text.clone()),
        ("set", set.clone()),
    ];
    let given = members.into_iter();
    given
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// A query with its question mark; empty without parameters.
pub(crate) fn query(parameters: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_becomes_a_query_that_survives_any_text() {
        let filter = HistoryFilter {
            op: Some(Operation::Delete),
            text: Some("a&b=ü +".to_owned()),
            ..HistoryFilter::default()
        };
        assert_eq!(
            query(&parameters(&filter)),
            "?op=Delete&text=a%26b%3D%C3%BC%20%2B"
        );
        assert_eq!(query(&[]), "");
    }
}
