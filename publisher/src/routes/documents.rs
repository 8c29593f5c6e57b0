//! One document: read it, write it.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::{self, Bytes},
};
use contract::{CanonicalJson, CollectionName, Crc, DocumentId, Operation, document::etag, event};
use serde::Serialize;
use uuid::Uuid;

use super::{Api, BODY_LIMIT, CORRELATION_ID, has_already, header_text, store_failed};
use crate::{
    error::ApiError,
    fold::{Action, Condition, Done, Write},
};

type Place = web::Path<(String, String)>;
type Body = Result<Bytes, actix_web::Error>;

/// Longest `X-Correlation-Id`.
const CORRELATION_ID_LEN: usize = 128;

/// What a write is answered.
#[derive(Serialize)]
struct Written {
    id: DocumentId,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    crc: Option<Crc>,
}

pub(super) async fn get(api: web::Data<Api>, place: Place, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let (collection, id) = api.place(&place)?;
    let document = api.store.document(&collection, &id).await.map_err(store_failed)?;
    let document = document.ok_or_else(|| ApiError::no_data(&collection, &id))?;
    let etag = document.etag();
    if has_already(&request, &etag)? {
        return Ok(HttpResponse::NotModified().insert_header((header::ETAG, etag)).finish());
    }
    let mut response = HttpResponse::Ok();
    response.insert_header((header::ETAG, etag)).content_type(header::ContentType::json());
    Ok(response.body(document.json().clone()))
}

pub(super) async fn create(
    api: web::Data<Api>,
    name: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let collection = api.collection(&name)?;
    let config = document(&request, body)?;
    let id = id_of(&config)?;
    let done = api.write(&request, collection.clone(), id, Action::Create(config), Condition::Any).await?;
    let location = format!("/v1/collections/{collection}/documents/{}", done.id);
    Ok(answer(HttpResponse::Created().insert_header((header::LOCATION, location)), done))
}

pub(super) async fn put(
    api: web::Data<Api>,
    place: Place,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let (collection, id) = api.place(&place)?;
    let config = document(&request, body)?;
    let done = api.write(&request, collection, id, Action::Put(config), condition(&request)?).await?;
    let created = done.op == Some(Operation::Create);
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer(&mut HttpResponse::build(status), done))
}

pub(super) async fn patch(
    api: web::Data<Api>,
    place: Place,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let (collection, id) = api.place(&place)?;
    let patch = parse(&request, body, "application/merge-patch+json")?;
    let patch = serde_json::from_str(patch.as_str()).map_err(|error| ApiError::bad_field("body", error))?;
    let done = api.write(&request, collection, id, Action::Patch(patch), condition(&request)?).await?;
    Ok(answer(&mut HttpResponse::Ok(), done))
}

pub(super) async fn delete(api: web::Data<Api>, place: Place, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let (collection, id) = api.place(&place)?;
    let done = api.write(&request, collection, id, Action::Delete, condition(&request)?).await?;
    Ok(answer(&mut HttpResponse::Ok(), done))
}

impl Api {
    async fn write(
        &self,
        request: &HttpRequest,
        collection: CollectionName,
        id: DocumentId,
        action: Action,
        condition: Condition,
    ) -> Result<Done, ApiError> {
        let (correlation_id, traceparent) = (correlation_id(request)?, traceparent(request)?);
        self.writer.write(Write { collection, id, action, condition, correlation_id, traceparent }).await
    }
}

fn answer(response: &mut actix_web::HttpResponseBuilder, done: Done) -> HttpResponse {
    if let Some(crc) = done.crc {
        response.insert_header((header::ETAG, etag(done.revision, crc)));
    }
    response.json(Written { id: done.id, revision: done.revision, crc: done.crc })
}

fn document(request: &HttpRequest, body: Body) -> Result<CanonicalJson, ApiError> {
    parse(request, body, "application/json")
}

/// The body, if it is of the media type or says nothing of it.
fn parse(request: &HttpRequest, body: Body, media_type: &str) -> Result<CanonicalJson, ApiError> {
    let given = header_text(request, header::CONTENT_TYPE)?;
    let given = given.as_deref().and_then(|given| given.split(';').next()).map(str::trim);
    // curl names this one for every body, and nobody means it.
    let unsaid = |given: &str| given.eq_ignore_ascii_case("application/x-www-form-urlencoded");
    if given.is_some_and(|given| !given.eq_ignore_ascii_case(media_type) && !unsaid(given)) {
        return Err(ApiError::media_type(media_type));
    }
    let body = body.map_err(|error| match error.as_response_error().status_code().as_u16() {
        413 => ApiError::too_large(BODY_LIMIT),
        _ => ApiError::bad_field("body", error),
    })?;
    CanonicalJson::parse(&body).map_err(ApiError::bad_body)
}

/// The `id` member of a new document, or one that nobody else has. It is not put into the document.
fn id_of(config: &CanonicalJson) -> Result<DocumentId, ApiError> {
    #[derive(serde::Deserialize)]
    struct Identified {
        id: Option<serde_json::Value>,
    }
    let wrong =
        |detail: String| contract::Problem::new(400, "bad-body", "The id cannot be used", detail).at("/id").into();
    let id = serde_json::from_str::<Identified>(config.as_str()).map_or(None, |body| body.id);
    match id {
        None => Uuid::now_v7().to_string().parse().map_err(|error: contract::Malformed| wrong(error.to_string())),
        Some(serde_json::Value::String(id)) => {
            id.parse().map_err(|error: contract::Malformed| wrong(error.to_string()))
        }
        Some(_other) => Err(wrong("An id is a string".to_owned())),
    }
}

/// `If-Match: "<revision>"`, `"<revision>-<crc>"` or `*`; `If-None-Match: *` (RFC 9110 section 13.1).
fn condition(request: &HttpRequest) -> Result<Condition, ApiError> {
    match (header_text(request, header::IF_MATCH)?.as_deref(), header_text(request, header::IF_NONE_MATCH)?.as_deref())
    {
        (None, None) => Ok(Condition::Any),
        (None, Some("*")) => Ok(Condition::Absent),
        (None, Some(_)) => Err(ApiError::bad_field("If-None-Match", "a write understands * only")),
        (Some(_), Some(_)) => Err(ApiError::bad_field("If-Match", "send If-Match or If-None-Match, not both")),
        (Some("*"), None) => Ok(Condition::Present),
        (Some(tag), None) => {
            let expected =
                || ApiError::bad_field("If-Match", "expected one \"<revision>\", one \"<revision>-<crc>\", or *");
            let tag = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).ok_or_else(expected)?;
            let (revision, crc) = tag.split_once('-').map_or((tag, None), |(revision, crc)| (revision, Some(crc)));
            let crc = crc.map(str::parse).transpose().map_err(|_malformed| expected())?;
            Ok(Condition::At(revision.parse().map_err(|_malformed| expected())?, crc))
        }
    }
}

fn correlation_id(request: &HttpRequest) -> Result<Option<String>, ApiError> {
    let Some(text) = header_text(request, CORRELATION_ID)? else { return Ok(None) };
    if (1..=CORRELATION_ID_LEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Some(text))
    } else {
        Err(ApiError::bad_field("X-Correlation-Id", "expected 1 to 128 visible ASCII characters"))
    }
}

/// `traceparent` of the request when it has the W3C form; another one is not ours to refuse a write for.
fn traceparent(request: &HttpRequest) -> Result<Option<String>, ApiError> {
    let text = request.headers().get(event::TRACEPARENT).and_then(|value| value.to_str().ok());
    Ok(text.filter(|text| is_traceparent(text)).map(str::to_owned))
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, not all zeroes (W3C Trace Context section 3.2).
fn is_traceparent(text: &str) -> bool {
    let lower_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let not_zero = |part: &str| part.bytes().any(|byte| byte != b'0');
    let parts: Vec<_> = text.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else { return false };
    version == "00"
        && (trace.len(), parent.len(), flags.len()) == (32, 16, 2)
        && [trace, parent, flags].iter().all(|part| lower_hex(part))
        && not_zero(trace)
        && not_zero(parent)
}

#[cfg(test)]
mod tests {
    use super::is_traceparent;

    #[test]
    fn only_valid_trace_contexts_travel() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for bad in [
            "",
            "00-0-0-0",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
