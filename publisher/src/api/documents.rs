//! One document: read it, write it.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use contract::{
    CanonicalJson, CollectionName, Document, DocumentId, Expected, Operation, Version,
    access::{Right, Target},
    audit::AuditEvent,
    canonical::PlainValue,
    document,
    text::Escaped,
};
use service::http::{
    bodies::Body,
    caller::Caller,
    etag::{self, Tag, Tags},
    header_text,
    problem::ProblemError,
};
use uuid::Uuid;

use crate::{
    api::{
        Api, audit,
        error::ApiError,
        fresh::Fresh,
        origin::Author,
        past, store_failed,
        wait::{self, Wait},
    },
    decide::{Action, Write, WriteOutcome},
};

type KeyPath = web::Path<(String, String)>;

/// Whether secrets are asked for in plain text.
#[derive(serde::Deserialize)]
pub(super) struct RevealQuery {
    reveal: Option<String>,
}

impl RevealQuery {
    /// # Errors
    /// 400 `bad-request`.
    fn is_asked(&self) -> Result<bool, ApiError> {
        match self.reveal.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_other) => {
                Err(ProblemError::bad_request("reveal", "expected true or false").into())
            }
        }
    }
}

pub(super) async fn get(
    api: web::Data<Api>,
    caller: Caller,
    key: KeyPath,
    point: web::Query<past::PointQuery>,
    reveal: web::Query<RevealQuery>,
    request: HttpRequest,
    _fresh: Fresh,
) -> Result<HttpResponse, ApiError> {
    let (collection, id) = api.document_key(&caller, &key)?;
    let reveal = reveal.is_asked()?;
    if reveal && point.point()?.is_some() {
        let detail = "secrets of the past are not revealed";
        return Err(ProblemError::bad_request("reveal", detail).into());
    }
    let author = if reveal {
        let author = Author::of(caller.clone(), &request)?;
        author.require(&[Right::ReadSecrets], Target::Document(&collection, &id))?;
        Some(author)
    } else {
        None
    };
    if let Some(point) = point.point()? {
        return past::document(&api, &caller, &request, (collection, id), &point).await;
    }
    let document = api
        .store
        .document(&collection, &id)
        .await
        .map_err(store_failed)?;
    let document = document.ok_or_else(|| ProblemError::no_data(&collection, &id))?;
    if let Some(author) = author {
        return revealed(&api, &author, &collection, &document).await;
    }
    let mut response = HttpResponse::Ok();
    if let Some(answered) = etag::conditional(&request, &mut response, &document.etag()) {
        return Ok(answered);
    }
    response.content_type(header::ContentType::json());
    Ok(response.body(document.body()))
}

/// A document with its secrets in plain text. It has no entity tag, because the tag of the document
/// stands for its stored form, and nothing on the way may keep it.
async fn revealed(
    api: &Api,
    author: &Author,
    collection: &CollectionName,
    document: &Document,
) -> Result<HttpResponse, ApiError> {
    let value = api.policy.rules.revealed(collection, document)?;
    let event = AuditEvent::SecretRevealed {
        collection: collection.clone(),
        id: document.id().clone(),
        revision: Some(document.revision()),
    };
    audit::before(api, author, event).await?;
    tracing::info!(
        %collection, id = %document.id(), revision = document.revision(),
        "the secrets of {collection}/{} were revealed to {}",
        document.id(),
        Escaped(&author.caller.identity().name)
    );
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    response.content_type(header::ContentType::json());
    // As the stored document: the id and the revision, with the plain value.
    let shown = Document::new(document.id().clone(), document.revision(), &value);
    Ok(response.body(shown.body()))
}

pub(super) async fn create(
    api: web::Data<Api>,
    caller: Caller,
    name: web::Path<String>,
    request: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let collection = api.collection(&caller, &name)?;
    let config = api.canonical(body).await?;
    let id = id_of(&config)?;
    let wait = Wait::of(&api, &caller, &request).await?;
    let outcome = api
        .write(
            Author::of(caller, &request)?,
            collection.clone(),
            id,
            Action::Create(config),
            Expected::Any,
        )
        .await?;
    Ok(answer(&api, wait, StatusCode::CREATED, collection, outcome).await)
}

pub(super) async fn put(
    api: web::Data<Api>,
    caller: Caller,
    key: KeyPath,
    request: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let (collection, id) = api.document_key(&caller, &key)?;
    let config = api.canonical(body).await?;
    let action = if is_exact(&request)? {
        Action::Replace(config)
    } else {
        Action::Put(config)
    };
    let wait = Wait::of(&api, &caller, &request).await?;
    let outcome = api
        .write(
            Author::of(caller, &request)?,
            collection.clone(),
            id,
            action,
            expected(&request)?,
        )
        .await?;
    let created = outcome.operation == Some(Operation::Create);
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(answer(&api, wait, status, collection, outcome).await)
}

pub(super) async fn patch(
    api: web::Data<Api>,
    caller: Caller,
    key: KeyPath,
    request: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let (collection, id) = api.document_key(&caller, &key)?;
    let patch = api.canonical(body).await?;
    let wait = Wait::of(&api, &caller, &request).await?;
    let outcome = api
        .write(
            Author::of(caller, &request)?,
            collection.clone(),
            id,
            Action::Patch(patch),
            expected(&request)?,
        )
        .await?;
    Ok(answer(&api, wait, StatusCode::OK, collection, outcome).await)
}

pub(super) async fn delete(
    api: web::Data<Api>,
    caller: Caller,
    key: KeyPath,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (collection, id) = api.document_key(&caller, &key)?;
    let wait = Wait::of(&api, &caller, &request).await?;
    let outcome = api
        .write(
            Author::of(caller, &request)?,
            collection.clone(),
            id,
            Action::Delete,
            expected(&request)?,
        )
        .await?;
    Ok(answer(&api, wait, StatusCode::OK, collection, outcome).await)
}

impl Api {
    async fn write(
        &self,
        author: Author,
        collection: CollectionName,
        id: DocumentId,
        action: Action,
        expected: Expected,
    ) -> Result<WriteOutcome, ApiError> {
        let key = (collection, id);
        // The rule of the route knows the collection, and not always the id.
        author.require_write(&key)?;
        let mut write = Write::new(key.clone(), action, expected, author.context);
        write.origin = audit::origin_of(&author.caller);
        match self.writer.write(write).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(self.refusal(error, &[key], &author.caller).await),
        }
    }
}

/// The answer to a write, after what its request waits for.
async fn answer(
    api: &Api,
    wait: Wait,
    status: StatusCode,
    collection: CollectionName,
    outcome: WriteOutcome,
) -> HttpResponse {
    let mut written = outcome.written;
    let location = (outcome.operation == Some(Operation::Create))
        .then(|| format!("/v1/collections/{collection}/documents/{}", written.id));
    let document = (collection, written.id.clone(), written.revision);
    written.applied = wait.until_applied(api, vec![document]).await;
    let mut response = HttpResponse::build(wait::status(status, written.applied.as_ref()));
    // A deleted document has no checksum and so no entity tag.
    if let Some(crc) = written.crc {
        response.insert_header((header::ETAG, document::etag(written.revision, crc)));
    }
    if let Some(location) = location {
        response.insert_header((header::LOCATION, location));
    }
    response.json(written)
}

/// The `id` member of a new document, or a generated id. A generated id is not added to the document.
fn id_of(config: &CanonicalJson) -> Result<DocumentId, ApiError> {
    #[derive(serde::Deserialize)]
    struct Identified {
        id: Option<PlainValue>,
    }
    let wrong = |detail: String| {
        contract::Problem::new(contract::ProblemKind::BadBody, detail)
            .at("/id")
            .into()
    };
    let id = serde_json::from_str::<Identified>(config.as_str()).map_or(None, |body| body.id);
    match id {
        // Version 7 (RFC 9562): generated ids sort by time.
        None => Uuid::now_v7()
            .to_string()
            .parse()
            .map_err(|error: contract::FormatError| wrong(error.to_string())),
        Some(PlainValue(serde_json::Value::String(id))) => id
            .parse()
            .map_err(|error: contract::FormatError| wrong(error.to_string())),
        Some(_other) => Err(wrong("An id is a string".to_owned())),
    }
}

/// Whether a PUT replaces the document exactly, and does not merge its `metadata`.
fn is_exact(request: &HttpRequest) -> Result<bool, ApiError> {
    match header_text(request, contract::set::WRITE_HEADER)?.as_deref() {
        None | Some("merge") => Ok(false),
        Some("exact") => Ok(true),
        Some(_other) => Err(ProblemError::bad_request(
            contract::set::WRITE_HEADER,
            "expected exact or merge",
        )
        .into()),
    }
}

/// The expected state of `If-Match` and `If-None-Match`: entity tags, `"<revision>"`, or `*` (RFC 9110
/// section 13.1); where both are sent both must hold (section 13.2.2). A tag that is none of a
/// document matches nothing.
fn expected(request: &HttpRequest) -> Result<Expected, ApiError> {
    let matched = Tags::of(request, header::IF_MATCH)?.map(|tags| match tags {
        Tags::Any => Expected::Present,
        // Compared strongly (section 13.1.1): a weak tag matches nothing.
        Tags::Listed(tags) => Expected::OneOf(versions(tags.iter().filter(|tag| !tag.is_weak))),
    });
    let known = Tags::of(request, header::IF_NONE_MATCH)?.map(|tags| match tags {
        Tags::Any => Expected::Absent,
        Tags::Listed(tags) => Expected::NoneOf(versions(&tags)),
    });
    Ok(match (matched, known) {
        (Some(matched), Some(known)) => Expected::Both(Box::new([matched, known])),
        (one, other) => one.or(other).unwrap_or_default(),
    })
}

fn versions<'a>(tags: impl IntoIterator<Item = &'a Tag>) -> Vec<Version> {
    let tags = tags.into_iter();
    tags.filter_map(|tag| tag.opaque.parse().ok()).collect()
}
