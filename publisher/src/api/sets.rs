//! `POST /v1/changes`: several documents that change together or not at all.
//!
//! The body is read change by change, so that an error names the change that has it. What the caller
//! may do is asked before anything is said of a document. The rules of every set are in
//! [`crate::write::change_set`], the rules of a change in [`crate::decide`].

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use contract::{
    CanonicalJson, CollectionName, DocumentId, Expected, FormatError, JsonError,
    access::{Right, Target},
    objects,
    set::{ChangeRequest, MAX_OPERATIONS, RequestOperation},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use service::{
    http::{bodies::Body, caller::Caller},
    nearest::unknown_collection,
};
use tokio::time::Instant;

use crate::{
    api::{
        Api, audit,
        error::ApiError,
        origin::Author,
        wait::{self, Wait},
    },
    decide::{ChangeSetCommand, Write, WriteError},
    store::PublisherPolicy,
    write::change_set::ChangeSetBuilder,
};

/// [`contract::set::ChangeSetRequest`], its changes not yet read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChangeSet<'a> {
    #[serde(borrow)]
    changes: Vec<&'a RawValue>,
}

/// [`contract::set::ChangeRequest`], not yet checked. Unknown fields are refused: a misspelled
/// `expected` would otherwise be a write without a precondition.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawChangeRequest<'a> {
    collection: String,
    op: RequestOperation,
    id: String,
    #[serde(borrow)]
    config_data: Option<&'a RawValue>,
    #[serde(default)]
    expected: Expected,
}

pub(super) async fn commit(
    api: web::Data<Api>,
    caller: Caller,
    request: HttpRequest,
    Body(json): Body,
) -> Result<HttpResponse, ApiError> {
    let wait = Wait::of(&api, &caller, &request).await?;
    let author = Author::of(caller, &request)?;
    let of_set = author.clone();
    let policy = api.policy.clone();
    let mut set = api
        .writer
        .large_work()
        .run(Instant::now(), json.len(), move || {
            change_set(&policy, &of_set, &json)
        })
        .await??;
    let origin = audit::origin_of(&author.caller);
    for write in &mut set.writes {
        write.origin = origin.clone();
    }
    let keys: Vec<_> = set.writes.iter().map(Write::key).collect();
    match api.writer.write_set(set).await {
        Ok(mut written) => {
            let documents = written.items.iter();
            let documents =
                documents.map(|item| (item.collection.clone(), item.id.clone(), item.revision));
            written.applied = wait.until_applied(&api, documents.collect()).await;
            let status = wait::status(StatusCode::OK, written.applied.as_ref());
            Ok(HttpResponse::build(status).json(written))
        }
        Err(error) => Err(api.refusal(error, &keys, &author.caller).await),
    }
}

fn change_set(
    policy: &PublisherPolicy,
    author: &Author,
    body: &[u8],
) -> Result<ChangeSetCommand, ApiError> {
    let RawChangeSet { changes } = read(body)?;
    if changes.is_empty() {
        let detail = "A set has at least one change";
        return Err(WriteError::invalid_change("/changes", detail).into());
    }
    // Before any change is parsed, so that a set that is too long is refused at low cost.
    if changes.len() > MAX_OPERATIONS {
        let index = MAX_OPERATIONS;
        return Err(WriteError::SetTooLarge { index }.into());
    }
    let changes: Vec<_> = changes
        .into_iter()
        .map(|change| read::<RawChangeRequest<'_>>(change.get().as_bytes()))
        .collect();
    // Before anything is said of a document or a collection.
    for (index, change) in changes.iter().enumerate() {
        let Ok(change) = change else { continue };
        change.require(author).map_err(|mut refused| {
            refused.problem.index = Some(index);
            refused.problem.pointer = Some(format!("/changes/{index}"));
            refused
        })?;
    }
    let mut set = ChangeSetBuilder::default();
    for (index, change) in changes.into_iter().enumerate() {
        let change = change.and_then(|change| change_request(policy, author, change));
        let change = change.map_err(|error| error.in_change_set(index))?;
        set.add(policy, &author.context, change)?;
    }
    Ok(set.build())
}

fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, WriteError> {
    objects::from_slice_located(json)
        .map_err(|JsonError { pointer, reason }| WriteError::invalid_change(pointer, reason))
}

impl RawChangeRequest<'_> {
    /// Whether the author may change this document, in a set. What is the name of no document needs
    /// the right for more.
    fn require(&self, author: &Author) -> Result<(), ApiError> {
        let collection: Option<CollectionName> = self.collection.parse().ok();
        let id: Option<DocumentId> = self.id.parse().ok();
        let target = match (&collection, &id) {
            (Some(collection), Some(id)) => Target::Document(collection, id),
            (Some(collection), None) => Target::Collection(collection),
            (None, _) => Target::Service,
        };
        author.require(&[Right::WriteSet, Right::Write], target)
    }
}

/// Checks one change of a set. Pointers of errors begin at the change.
fn change_request(
    policy: &PublisherPolicy,
    author: &Author,
    RawChangeRequest {
        collection,
        op,
        id,
        config_data,
        expected,
    }: RawChangeRequest<'_>,
) -> Result<ChangeRequest, WriteError> {
    // Checked here and not only in the builder, so that an unknown collection is reported
    // before a fault of the id or of the value.
    let collection = policy.collections.find(&collection).map_err(|unknown| {
        if author.caller.sees_all() {
            unknown
        } else {
            WriteError::UnknownCollection(unknown_collection(&collection, []))
        }
    })?;
    let id = id
        .parse()
        .map_err(|error: FormatError| WriteError::InvalidId(error))?;
    let config_data = config_data
        .map(|config| CanonicalJson::parse(config.get().as_bytes()))
        .transpose()
        .map_err(|error| WriteError::InvalidValue(error).under("/configData"))?;
    Ok(ChangeRequest {
        collection,
        op,
        id,
        config_data,
        expected,
    })
}
