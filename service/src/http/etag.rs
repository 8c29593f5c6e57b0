//! Entity tags: the tag of a list, and the answer 304 for a client that has the content already
//! (RFC 9110 sections 8.8.3 and 13.1.2).
//!
//! Conditions of writes (`If-Match`) are not handled here: a write decides them in its transaction.

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{ETAG, EntityTag, Header, IF_NONE_MATCH, IfNoneMatch},
    },
};
use contract::listing::ListFormat;

/// Entity tag of a list of documents. `version` is different for different content.
///
/// The two formats of a list differ byte by byte, so their strong tags differ.
pub fn of_list(version: &str, format: ListFormat) -> String {
    match format {
        ListFormat::Json => format!("\"{version}\""),
        ListFormat::NdJson => format!("\"{version}-ndjson\""),
    }
}

/// Adds `ETag` to an answer. The tag is in the answer 304 as well (RFC 9110 section 15.4.5). `Some` is the finished answer 304: the client has the content already.
pub fn not_modified(
    request: &HttpRequest,
    answer: &mut HttpResponseBuilder,
    etag: &str,
) -> Option<HttpResponse> {
    answer.insert_header((ETAG, etag));
    if is_known(request, etag) {
        Some(answer.status(StatusCode::NOT_MODIFIED).finish())
    } else {
        None
    }
}

/// Whether `If-None-Match` names the tag, by weak comparison (RFC 9110 section 13.1.2). A condition that cannot be read is no condition.
fn is_known(request: &HttpRequest, etag: &str) -> bool {
    // Most reads have no condition, and need not parse the tag.
    if !request.headers().contains_key(IF_NONE_MATCH) {
        return false;
    }
    match (IfNoneMatch::parse(request), etag.parse::<EntityTag>()) {
        (Ok(IfNoneMatch::Any), _) => true,
        (Ok(IfNoneMatch::Items(tags)), Ok(etag)) => tags.iter().any(|tag| tag.weak_eq(&etag)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_condition_matches_weakly_and_a_malformed_one_does_not() {
        for (condition, known) in [
            ("\"7-a\"", true),
            ("W/\"7-a\"", true),
            ("\"6-a\", W/\"7-a\"", true),
            ("*", true),
            ("\"6-a\"", false),
            ("7-a", false),
            ("", false),
        ] {
            let request = TestRequest::default().insert_header((IF_NONE_MATCH, condition));
            let mut answer = HttpResponse::Ok();
            let found = not_modified(&request.to_http_request(), &mut answer, "\"7-a\"");
            assert_eq!(found.is_some(), known, "{condition}");
        }
    }

    #[test]
    fn the_formats_of_a_list_have_different_tags() {
        assert_eq!(
            of_list("0f86d081-1-7", ListFormat::Json),
            "\"0f86d081-1-7\""
        );
        assert_eq!(
            of_list("0f86d081-1-7", ListFormat::NdJson),
            "\"0f86d081-1-7-ndjson\""
        );
    }
}
