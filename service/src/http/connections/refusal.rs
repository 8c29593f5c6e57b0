//! The answers that the HTTP server gives by itself to a request that it cannot read, with a problem
//! as their body.
//!
//! The parser of actix-http answers such a request without a body, before any middleware, and has no
//! hook. Its answer is recognised by its bytes, where no other answer can be under way; everything
//! else is left as it is. Pure.

use std::fmt::Write;

use bytes::Bytes;
use contract::{Problem, ProblemKind, problem::MEDIA_TYPE};

/// The line of an answer without a body, which names the length of the body from now on.
const EMPTY: &str = "content-length: 0\r\n";

/// The same answer with a problem. `None` for any bytes but exactly one answer of the parser.
pub(super) fn with_problem(answer: &[u8]) -> Option<Bytes> {
    let answer = str::from_utf8(answer).ok()?;
    let status = answer.strip_prefix("HTTP/1.1 ")?.get(..4)?;
    let problem = match status {
        "400 " => Problem::new(
            ProblemKind::BadRequest,
            "The request is not of the form of HTTP/1.1 (RFC 9112); the connection is closed",
        ),
        "408 " => Problem::new(
            ProblemKind::HeadLate,
            "The head of the request did not arrive in time; the connection is closed",
        ),
        "431 " => Problem::new(
            ProblemKind::HeadTooLarge,
            "The head of the request is larger than 128 KiB or has more than 96 fields; the \
             connection is closed",
        ),
        _ => return None,
    };
    // One head that ends where the bytes end.
    let (head, rest) = answer.split_once("\r\n\r\n")?;
    if !rest.is_empty() {
        return None;
    }
    let (before, after) = answer[..head.len() + 2].split_once(EMPTY)?;
    let body = serde_json::to_string(&problem).ok()?;
    let mut whole = format!("{before}{after}");
    write!(
        whole,
        "content-length: {}\r\ncontent-type: {MEDIA_TYPE}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    Some(whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\
                        date: Sat, 28 Nov 2026 09:00:00 GMT\r\n\r\n";

    #[test]
    fn an_answer_of_the_parser_gets_a_problem_and_keeps_its_other_lines() {
        let whole = with_problem(BARE.as_bytes()).expect("an answer");
        let whole = str::from_utf8(&whole).expect("text");
        let (head, body) = whole.split_once("\r\n\r\n").expect("a head");
        for line in [
            "HTTP/1.1 400 Bad Request",
            "connection: close",
            "date: Sat, 28 Nov 2026 09:00:00 GMT",
            "content-type: application/problem+json",
            &format!("content-length: {}", body.len()),
        ] {
            assert_eq!(
                head.lines().filter(|known| *known == line).count(),
                1,
                "{head}"
            );
        }
        let problem: Problem = serde_json::from_str(body).expect("a problem");
        assert_eq!(problem.kind, ProblemKind::BadRequest);
        assert_eq!(problem.status, 400);
    }

    #[test]
    fn any_other_bytes_are_left_alone() {
        for other in [
            "".to_owned(),
            BARE[..BARE.len() - 2].to_owned(),
            format!("{BARE}{BARE}"),
            format!("{BARE}x"),
            BARE.replace("400 Bad Request", "200 OK"),
            BARE.replace("400 Bad Request", "100 Continue"),
            BARE.replace("content-length: 0", "content-length: 1"),
        ] {
            assert_eq!(with_problem(other.as_bytes()), None, "{other:?}");
        }
        assert_eq!(with_problem(b"\xff"), None);
    }
}
