//! Entity tags: what an answer is called, and whether the caller has it already.

use actix_web::{
    HttpRequest,
    http::header::{EntityTag, Header, IF_NONE_MATCH, IfNoneMatch},
};
use contract::{Head, listing::ListFormat};
use replica::RawCollection as Collection;

use super::read::UNVERSIONED;

/// The same tag means the same list, byte by byte: so it names the form too (RFC 9110 section
/// 8.8.3). Beyond a gap, or without revisions, only the digest tells.
pub(super) fn of_list(head: Option<&Head>, held: &Collection, form: ListFormat) -> String {
    let digest = held.digest();
    let moment = match head {
        Some(head) if held.settled() => format!("{}-{}", head.epoch, head.revision),
        Some(head) => format!("{}-{}-{digest}", head.epoch, head.revision),
        None => format!("{UNVERSIONED}-{digest}"),
    };
    match form {
        ListFormat::Json => format!("\"{moment}\""),
        ListFormat::NdJson => format!("\"{moment}-ndjson\""),
    }
}

/// Whether the caller has this already. A condition that cannot be read is none.
pub(super) fn unchanged(request: &HttpRequest, etag: &str) -> bool {
    if !request.headers().contains_key(IF_NONE_MATCH) {
        return false;
    }
    let held = IfNoneMatch::parse(request);
    match (held, etag.parse::<EntityTag>()) {
        (Ok(IfNoneMatch::Any), _) => true,
        (Ok(IfNoneMatch::Items(tags)), Ok(etag)) => tags.iter().any(|tag| tag.weak_eq(&etag)),
        _ => false,
    }
}
