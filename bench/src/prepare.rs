//! Creates the documents that must exist before a measure starts, in change sets: the fastest path
//! over HTTP.

use anyhow::Context;
use contract::set::{ChangeRequest, ChangeSetRequest, MAX_OPERATIONS};
use e2e::client::Api;
use reqwest::Method;

use crate::values::value;

/// Creates documents with values of `bytes` bytes. Their ids are [`id`] of the numbers from 0.
pub(crate) async fn create_documents(
    publisher: &Api,
    collection: &str,
    documents: usize,
    bytes: usize,
) -> anyhow::Result<()> {
    let numbers: Vec<u64> = (0..documents as u64).collect();
    for set in numbers.chunks(MAX_OPERATIONS) {
        let members = set
            .iter()
            .map(|number| ChangeRequest::create(collection, &id(*number), &value(*number, bytes)));
        let set = ChangeSetRequest {
            changes: members.collect::<Result<_, _>>()?,
        };
        let headers = [("content-type", "application/json")];
        let answer = publisher
            .send(
                Method::POST,
                "/v1/changes",
                &headers,
                serde_json::to_vec(&set)?,
            )
            .await?;
        answer
            .expect(200)
            .with_context(|| format!("filling {collection}"))?;
    }
    Ok(())
}

/// The id of a document.
pub(crate) fn id(number: u64) -> String {
    format!("document-{number:06}")
}
