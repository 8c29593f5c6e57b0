//! Content negotiation: which of the media types of a route a client prefers (RFC 9110 section
//! 12.5.1). No body is made here.

use actix_web::{HttpRequest, http::header::ACCEPT};
use contract::{Problem, ProblemKind, problem::MEDIA_TYPE};

use super::{header_text, problem::ProblemError};

/// The position of the offered media type that the client prefers. Each offer is a media type and
/// its other names; the first offer is the default.
///
/// The quality counts first, then whether the client names the type, then the order of the offers.
///
/// # Errors
/// 406 `not-acceptable` when the client accepts none, 400 `bad-request` when the header is not
/// ASCII.
pub fn preferred(request: &HttpRequest, offers: &[&[&str]]) -> Result<usize, ProblemError> {
    match header_text(request, ACCEPT)? {
        // A generated client names the type of problems alone where it has no type for an answer.
        Some(accept) if accept.contains(MEDIA_TYPE) => Ok(choose(&accept, offers).unwrap_or(0)),
        Some(accept) if !accept.trim().is_empty() => choose(&accept, offers).ok_or_else(|| {
            let names: Vec<_> = offers.iter().filter_map(|names| names.first()).collect();
            let names: Vec<&str> = names.into_iter().copied().collect();
            let detail = format!("This route answers {}", names.join(" or "));
            Problem::new(ProblemKind::NotAcceptable, detail)
                .field("Accept")
                .into()
        }),
        _ => Ok(0),
    }
}

fn choose(accept: &str, offers: &[&[&str]]) -> Option<usize> {
    let ranges: Vec<_> = accept.split(',').map(range).collect();
    let rated = offers.iter().enumerate().map(|(index, names)| {
        let matching = ranges
            .iter()
            .filter_map(|(range, quality)| Some((specificity(range, names)?, *quality)));
        // The most specific range decides, also when it forbids what a wider one allows.
        let (specificity, quality) = matching.max_by_key(|rating| *rating).unwrap_or_default();
        (quality, specificity == 2, index)
    });
    rated
        .filter(|(quality, ..)| *quality > 0)
        .max_by_key(|(quality, named, index)| (*quality, *named, usize::MAX - index))
        .map(|(.., index)| index)
}

/// The range in lower case without parameters, and its quality in thousandths. A quality that cannot
/// be read is 0: the client meant to restrict something.
fn range(text: &str) -> (String, u16) {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default().to_ascii_lowercase();
    let quality = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let quality = quality.map_or(1_000, |text| match text.parse::<f32>() {
        Ok(quality) if (0.0..=1.0).contains(&quality) => (quality * 1_000.0).round() as u16,
        _ => 0,
    });
    (range, quality)
}

fn specificity(range: &str, names: &[&str]) -> Option<u8> {
    let kind = |name: &str| name.split('/').next().map(|kind| format!("{kind}/*"));
    if names.contains(&range) {
        Some(2)
    } else if names
        .iter()
        .any(|name| kind(name).as_deref() == Some(range))
    {
        Some(1)
    } else {
        (range == "*/*").then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERS: &[&[&str]] = &[
        &["application/json"],
        &["application/x-ndjson", "application/ndjson"],
    ];

    #[test]
    fn the_quality_decides_and_zero_forbids() {
        for (accept, expected) in [
            ("*/*", Some(0)),
            ("application/*", Some(0)),
            ("Application/X-NDJSON", Some(1)),
            ("application/ndjson", Some(1)),
            ("application/json, application/x-ndjson", Some(0)),
            ("*/*, application/x-ndjson", Some(1)),
            ("application/x-ndjson;q=0.5, application/json", Some(0)),
            ("application/x-ndjson;q=0, */*", Some(0)),
            ("application/json;q=0, */*", Some(1)),
            ("application/json; q=0", None),
            ("application/x-ndjson;q=0", None),
            ("application/x-ndjson;q=two", None),
            ("text/html", None),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Some(0)),
        ] {
            assert_eq!(choose(accept, OFFERS), expected, "{accept}");
        }
    }
}
