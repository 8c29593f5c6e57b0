//! One document, from memory. This is the most frequent read: it copies no document.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CONTENT_TYPE, HeaderValue},
    web,
};
use contract::DocumentId;
use service::http::{
    JSON,
    caller::Caller,
    etag,
    problem::{ProblemError, respond},
};

use super::{Api, collections::followed, error, fresh::Fresh, headers};

/// `GET /v1/collections/{collection}/documents/{id}`.
///
/// A 404 has the headers of a read as well: a reader learns which revision says so.
///
/// # Errors
/// 503 `loading`, 404 `unknown-collection`, 400 `bad-request`.
pub async fn get(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    path: web::Path<(String, String)>,
    _fresh: Fresh,
) -> Result<HttpResponse, ProblemError> {
    let view = api.replica.view_guard();
    let read = followed(&view, &caller, &path.0);
    // Another collection may be loading.
    if !matches!(&read, Ok((name, _held)) if view.loaded_of(name)) && !view.loaded_as_served() {
        return Err(error::loading());
    }
    let (name, held) = read?;
    let id: DocumentId = path
        .1
        .parse()
        .map_err(|error| ProblemError::bad_request("id", error))?;
    let mut answer = headers::of_collection(&view, &name, held);
    let Some(document) = held.get(&id) else {
        return Ok(respond(answer, ProblemError::no_data(&name, &id).problem()));
    };
    if let Some(answered) = etag::conditional(&request, &mut answer, &document.etag()) {
        return Ok(answered);
    }
    answer.insert_header((CONTENT_TYPE, HeaderValue::from_static(JSON)));
    Ok(answer.body(document.body()))
}
