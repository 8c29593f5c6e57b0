//! Entity tags: tags of answers, tags in conditions, and the answers 304 and 412 to a read (RFC 9110
//! sections 8.8.3 and 13).
//!
//! Conditions of writes are only read here: a write decides them in its transaction.

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError,
    http::{
        StatusCode,
        header::{ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH},
    },
};
use contract::{
    Head, Problem, ProblemKind,
    listing::{ListFormat, NDJSON},
};

use super::{JSON, accept::preferred, header_text, problem::ProblemError};

/// Entity tag of a list of documents. `version` is different for different content.
///
/// The two formats of a list differ byte by byte, so their strong tags differ.
pub fn of_list(version: &str, format: ListFormat) -> String {
    match format {
        ListFormat::Json => format!("\"{version}\""),
        ListFormat::NdJson => format!("\"{version}-ndjson\""),
    }
}

/// The format of a list that the client prefers.
///
/// # Errors
/// 406 `not-acceptable`.
pub fn list_format(request: &HttpRequest) -> Result<ListFormat, ProblemError> {
    let offers: &[&[&str]] = &[&[JSON], &[NDJSON, "application/ndjson"]];
    Ok(match preferred(request, offers)? {
        0 => ListFormat::Json,
        _ => ListFormat::NdJson,
    })
}

/// Entity tag of the answer with one head. The oldest revision moves without the newest one.
pub fn of_head(head: &Head) -> String {
    let Head {
        epoch,
        revision,
        oldest,
        digest,
        ..
    } = head;
    format!("\"{epoch}-{revision}-{oldest}-{digest}\"")
}

/// Adds `ETag` to an answer, and evaluates the conditions of a read. `Some` is the finished answer:
/// 412 when `If-Match` does not name the tag, 304 when `If-None-Match` does. The tag is in both (RFC
/// 9110 sections 13.2.2 and 15.4.5).
pub fn conditional(
    request: &HttpRequest,
    answer: &mut HttpResponseBuilder,
    etag: &str,
) -> Option<HttpResponse> {
    answer.insert_header((ETAG, etag));
    let expected = match Tags::of(request, IF_MATCH) {
        Ok(expected) => expected,
        Err(malformed) => return Some(malformed.error_response()),
    };
    if expected.is_some_and(|tags| !tags.contains_strongly(etag.trim_matches('"'))) {
        let detail = "What is here has another entity tag";
        let mut problem = Problem::new(ProblemKind::ConditionFailed, detail).field("If-Match");
        problem.etag = Some(etag.to_owned());
        return Some(ProblemError::from(problem).error_response());
    }
    if is_known(request, etag) {
        Some(answer.status(StatusCode::NOT_MODIFIED).finish())
    } else {
        None
    }
}

/// The name of a condition, as problems write it.
pub(super) fn condition_title(name: &HeaderName) -> &'static str {
    if *name == IF_MATCH {
        "If-Match"
    } else {
        "If-None-Match"
    }
}

/// Most entity tags of one condition.
const MAX_TAGS: usize = 64;
/// What compressing proxies add inside of an entity tag.
const CODING_SUFFIXES: [&str; 3] = ["-gzip", "-br", "-zstd"];

/// Entity tags of a condition.
#[derive(Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`.
    Any,
    /// At least one tag.
    Listed(Vec<Tag>),
}

/// One entity tag of a condition.
#[derive(Debug, PartialEq, Eq)]
pub struct Tag {
    /// The text between the quotes, without the suffix that a compressing proxy adds: the content that
    /// it stands for is the same.
    pub opaque: String,
    /// Whether it is a weak tag. It never matches where tags are compared strongly (RFC 9110 section
    /// 8.8.3.2).
    pub is_weak: bool,
}

impl Tags {
    /// The tags of a header; `None` when the request does not have it.
    ///
    /// # Errors
    /// 400 `bad-request` when it is no list of entity tags (RFC 9110 section 8.8.3), or too long a
    /// one.
    pub fn of(request: &HttpRequest, name: HeaderName) -> Result<Option<Self>, ProblemError> {
        let Some(text) = header_text(request, &name)? else {
            return Ok(None);
        };
        let tags = Self::parse(&text).ok_or_else(|| {
            let detail = format!("expected * or at most {MAX_TAGS} entity tags in quotes");
            ProblemError::bad_request(condition_title(&name), detail)
        })?;
        Ok(Some(tags))
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "*" {
            return Some(Self::Any);
        }
        let mut listed = Vec::new();
        // Empty elements of a list are skipped (RFC 9110 section 5.6.1.2).
        let mut rest = text.trim_start_matches([',', ' ', '\t']);
        loop {
            let weak = rest.strip_prefix("W/");
            let quoted = weak.unwrap_or(rest).strip_prefix('"')?;
            let (opaque, after) = quoted.split_once('"')?;
            let suffix = CODING_SUFFIXES
                .iter()
                .find_map(|suffix| opaque.strip_suffix(suffix));
            listed.push(Tag {
                opaque: suffix.unwrap_or(opaque).to_owned(),
                is_weak: weak.is_some(),
            });
            let after = after.trim_start();
            if listed.len() > MAX_TAGS {
                return None;
            }
            if after.is_empty() {
                return Some(Self::Listed(listed));
            }
            rest = after
                .strip_prefix(',')?
                .trim_start_matches([',', ' ', '\t']);
            if rest.is_empty() {
                return Some(Self::Listed(listed));
            }
        }
    }

    /// The weak comparison, for `If-None-Match` (RFC 9110 section 13.1.2).
    fn contains_weakly(&self, opaque: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(tags) => tags.iter().any(|tag| tag.opaque == opaque),
        }
    }

    /// The strong comparison, for `If-Match` (RFC 9110 section 13.1.1). Every tag of this API is
    /// strong.
    fn contains_strongly(&self, opaque: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(tags) => tags.iter().any(|tag| !tag.is_weak && tag.opaque == opaque),
        }
    }
}

/// Whether `If-None-Match` names the tag. A condition that cannot be read is no condition: the whole
/// answer is right for every client.
fn is_known(request: &HttpRequest, etag: &str) -> bool {
    let known = Tags::of(request, IF_NONE_MATCH).ok().flatten();
    known.is_some_and(|tags| tags.contains_weakly(etag.trim_matches('"')))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn if_none_match_compares_weakly_and_a_malformed_one_does_not_match() {
        for (condition, known) in [
            ("\"7-a\"", true),
            ("W/\"7-a\"", true),
            ("\"6-a\", W/\"7-a\"", true),
            ("*", true),
            ("\"6-a\"", false),
            ("\"7-a-gzip\"", true),
            ("W/\"6-a\" ,, \"7-a\",", true),
            (", \"7-a\"", true),
            ("7-a", false),
            ("\"7-a\" \"7-a\"", false),
            ("", false),
        ] {
            let request = TestRequest::default().insert_header((IF_NONE_MATCH, condition));
            let mut answer = HttpResponse::Ok();
            let found = conditional(&request.to_http_request(), &mut answer, "\"7-a\"");
            assert_eq!(found.is_some(), known, "{condition}");
        }
    }

    #[test]
    fn a_read_whose_expected_tags_do_not_match_strongly_is_refused() {
        for (condition, status) in [
            ("\"7-a\"", None),
            ("*", None),
            ("\"6-a\", \"7-a-gzip\"", None),
            ("\"6-a\", W/\"7-a\"", Some(StatusCode::PRECONDITION_FAILED)),
            ("\"6-a\"", Some(StatusCode::PRECONDITION_FAILED)),
            ("7-a", Some(StatusCode::BAD_REQUEST)),
        ] {
            let request = TestRequest::default().insert_header((IF_MATCH, condition));
            let mut answer = HttpResponse::Ok();
            let found = conditional(&request.to_http_request(), &mut answer, "\"7-a\"");
            assert_eq!(found.map(|found| found.status()), status, "{condition}");
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
