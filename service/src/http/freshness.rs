//! Reads that ask for freshness: `Confcast-Min-Revision: N` or `?min-revision=N`, and `timeout=5s`.
//!
//! What a request asks for, and the refusal of one that cannot have it. Each service waits in its own
//! way, and `rules` refuses the header where no route evaluates it. Nothing here waits.

use std::{
    future::{Future, Ready, ready},
    time::Duration,
};

use actix_web::{
    Error, HttpRequest,
    http::header::{HeaderMap, HeaderName},
    web::Query,
};
use contract::{Problem, ProblemKind, Revision, applied};
use futures_util::future::{Either, FutureExt as _, LocalBoxFuture};
use serde::Deserialize;

use super::{header_text, problem::ProblemError};

/// The header, as texts write it.
pub const HEADER: &str = "Confcast-Min-Revision";
/// The query parameter of the same meaning.
pub const PARAMETER: &str = "min-revision";
/// The query parameter of the longest wait.
pub const TIMEOUT: &str = "timeout";

const HEADER_NAME: HeaderName = HeaderName::from_static("confcast-min-revision");
/// Digits of the largest revision that a store can hold.
const MAX_DIGITS: usize = 19;

/// The revision that an answer must show, or a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinRevision {
    /// Of the collection that is read.
    pub revision: Revision,
    /// How long the request waits for it.
    pub timeout: Duration,
}

/// An extractor that waits for a revision; a request that asks for none is answered without a box.
pub type Extracting<T> = Either<Ready<Result<T, Error>>, LocalBoxFuture<'static, Result<T, Error>>>;

/// Extracts `at_once` from a request that asks for no revision, and what `until` gives from one that does.
pub fn extract<T, F>(
    request: &HttpRequest,
    at_once: T,
    until: impl FnOnce(HttpRequest, MinRevision) -> F,
) -> Extracting<T>
where
    F: Future<Output = Result<T, Error>> + 'static,
{
    match MinRevision::of(request) {
        Ok(None) => Either::Left(ready(Ok(at_once))),
        Ok(Some(asked)) => Either::Right(until(request.clone(), asked).boxed_local()),
        Err(refused) => Either::Left(ready(Err(refused.into()))),
    }
}

#[derive(Default, Deserialize)]
struct FreshQuery {
    #[serde(rename = "min-revision")]
    revision: Option<String>,
    timeout: Option<String>,
}

impl MinRevision {
    /// What a request asks for; nothing, for most.
    ///
    /// # Errors
    /// 400 `bad-request`, which names the header or the parameter.
    pub fn of(request: &HttpRequest) -> Result<Option<Self>, ProblemError> {
        let is_asked = is_asked(request.headers());
        let query = request.query_string();
        if !is_asked && query.is_empty() {
            return Ok(None);
        }
        let query = Query::<FreshQuery>::from_query(query).map_err(ProblemError::unreadable)?;
        let FreshQuery { revision, timeout } = query.into_inner();
        let header = match is_asked {
            true => header_text(request, HEADER)?,
            false => None,
        };
        let header = header.map(|text| number(HEADER, &text)).transpose()?;
        let revision = revision.map(|text| number(PARAMETER, &text)).transpose()?;
        let timeout = timeout.as_deref().map(applied::timeout).transpose();
        let timeout = timeout.map_err(|error| ProblemError::bad_request(TIMEOUT, error))?;
        if let (Some(header), Some(revision)) = (header, revision)
            && header != revision
        {
            let detail = format!(
                "{revision} is another revision than {header} in {HEADER}: send one of them"
            );
            return Err(ProblemError::bad_request(PARAMETER, detail));
        }
        match header.or(revision) {
            Some(revision) => Ok(Some(Self {
                revision,
                timeout: timeout.unwrap_or(applied::DEFAULT_TIMEOUT),
            })),
            None if timeout.is_some() => {
                let detail =
                    format!("only a read with {PARAMETER} waits: add it, or leave this out");
                Err(ProblemError::bad_request(TIMEOUT, detail))
            }
            None => Ok(None),
        }
    }
}

/// Whether a request has the header.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    headers.contains_key(&HEADER_NAME)
}

fn number(field: &str, text: &str) -> Result<Revision, ProblemError> {
    let is_number = text.len() <= MAX_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| {
        let detail = format!("expected a revision: a number of at most {MAX_DIGITS} digits");
        ProblemError::bad_request(field, detail)
    })
}

/// 504 `not-fresh`: the revision did not arrive in time.
pub fn not_fresh(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::NotFresh, detail).field(PARAMETER)
}

/// 503 `stopping`: the process stops before the revision arrived.
pub fn stopping() -> ProblemError {
    let detail = "This service stops, and the revision has not arrived yet; ask another one";
    Problem::new(ProblemKind::Stopping, detail).into()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn of(header: Option<&str>, query: &str) -> Result<Option<MinRevision>, ProblemError> {
        let request = TestRequest::with_uri(&format!("/v1/collections/A?{query}"));
        let request = header.into_iter().fold(request, |request, value| {
            request.insert_header((HEADER, value))
        });
        MinRevision::of(&request.to_http_request())
    }

    #[test]
    fn a_read_asks_by_header_or_by_query() {
        let asked = |revision, timeout| Ok::<_, String>(Some(MinRevision { revision, timeout }));
        let of = |header, query| of(header, query).map_err(|error| error.to_string());
        let five = applied::DEFAULT_TIMEOUT;
        assert_eq!(of(None, ""), Ok(None));
        assert_eq!(of(None, "at=2026-11-28T09:00:00Z"), Ok(None));
        assert_eq!(of(Some("41"), ""), asked(41, five));
        assert_eq!(of(None, "min-revision=0"), asked(0, five));
        assert_eq!(of(Some("41"), "min-revision=41"), asked(41, five));
        let short = Duration::from_millis(250);
        assert_eq!(of(Some("41"), "timeout=250ms"), asked(41, short));
        let huge = "4611686018427387904";
        assert_eq!(of(Some(huge), ""), asked(1 << 62, five));
    }

    #[test]
    fn what_is_no_revision_or_no_time_is_refused_by_name() {
        for (header, query, field) in [
            (Some("x"), "", HEADER),
            (Some("-1"), "", HEADER),
            (Some("+1"), "", HEADER),
            (Some(""), "", HEADER),
            (Some("1, 2"), "", HEADER),
            (None, "min-revision=", PARAMETER),
            (None, "min-revision=1.0", PARAMETER),
            (None, "min-revision=10000000000000000000", PARAMETER),
            (Some("1"), "min-revision=2", PARAMETER),
            (Some("1"), "timeout=61s", TIMEOUT),
            (Some("1"), "timeout=5", TIMEOUT),
            (None, "timeout=5s", TIMEOUT),
        ] {
            let refused = of(header, query).expect_err(query);
            let problem = refused.problem();
            assert_eq!(problem.status, 400, "{header:?} {query}");
            assert_eq!(problem.field.as_deref(), Some(field), "{header:?} {query}");
        }
    }
}
