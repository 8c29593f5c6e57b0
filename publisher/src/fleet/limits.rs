//! What a check-in may hold: whoever can reach the API can send one, so all of it is bounded before
//! any of it is used.

use contract::{
    Problem,
    fleet::CheckIn,
    status::{HandlerStatus, MAX_REFUSALS},
};
use reqwest::Url;

use crate::api::{body::object, error::ApiError};

/// Collections in one check-in.
const COLLECTIONS: usize = 256;
/// Longest name, mark or reason, in bytes.
const WORD: usize = contract::fleet::MAX_INSTANCE;
const REASON: usize = 256;
const BASE_URL: usize = 256;
/// Handlers in one check-in.
const HANDLERS: usize = 64;
/// Longest name, pointer or error of what is refused or handled, in bytes.
const TEXT: usize = 1_024;

/// Reads a check-in of the replica that the path names.
///
/// # Errors
/// 400 with the pointer at fault.
pub(super) fn read(instance: &str, body: &[u8]) -> Result<CheckIn, ApiError> {
    let check_in: CheckIn = object(body).map_err(|error| bad("", error))?;
    if !is_word(instance) {
        return Err(ApiError::bad_field(
            "instance",
            "expected 1 to 128 visible ASCII characters",
        ));
    }
    if check_in.instance != instance {
        return Err(bad("/instance", "expected the name that is in the path"));
    }
    if !is_word(&check_in.boot_id) {
        return Err(bad("/bootId", "expected 1 to 128 visible ASCII characters"));
    }
    if let Some(url) = &check_in.base_url {
        base_url(url).map_err(|what| bad("/baseUrl", what))?;
    }
    if check_in.collections.len() > COLLECTIONS {
        return Err(bad(
            "/collections",
            format_args!("expected at most {COLLECTIONS} collections"),
        ));
    }
    for (name, report) in &check_in.collections {
        if report
            .reason
            .as_ref()
            .is_some_and(|reason| reason.len() > REASON)
        {
            return Err(bad(
                &format!("/collections/{name}/reason"),
                format_args!("expected at most {REASON} bytes"),
            ));
        }
        let fits = report
            .refusals
            .iter()
            .all(|refusal| is_short(&refusal.pointer) && is_short(&refusal.error));
        if report.refusals.len() > MAX_REFUSALS || !fits {
            let what =
                format_args!("expected at most {MAX_REFUSALS} with texts of at most {TEXT} bytes");
            return Err(bad(&format!("/collections/{name}/refusals"), what));
        }
    }
    let fits = |handler: &HandlerStatus| {
        is_short(&handler.name) && handler.error.as_deref().is_none_or(is_short)
    };
    if check_in.handlers.len() > HANDLERS || !check_in.handlers.iter().all(fits) {
        return Err(bad(
            "/handlers",
            format_args!("expected at most {HANDLERS} with texts of at most {TEXT} bytes"),
        ));
    }
    Ok(check_in)
}

/// The root of a replica's URL. It is shown to whoever asks for the fleet, so it may hold no
/// password.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    if text.len() > BASE_URL {
        return Err(format!("expected at most {BASE_URL} bytes"));
    }
    let mut url = Url::parse(text).map_err(|error| error.to_string())?;
    if url.scheme() != "http" || !url.has_host() {
        return Err("expected http://HOST:PORT (there is no TLS here, a mesh adds it)".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("expected no user and no password".to_owned());
    }
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn is_short(text: &str) -> bool {
    text.len() <= TEXT
}

fn is_word(text: &str) -> bool {
    (1..=WORD).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn bad(pointer: &str, what: impl std::fmt::Display) -> ApiError {
    Problem::new(contract::ProblemKind::BadBody, what.to_string())
        .at(pointer)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_where_it_is() {
        let good = r#"{"instance":"a","bootId":"b","baseUrl":"http://h:1/x?y","intervalMs":1,"collections":{}}"#;
        assert!(read("a", good.as_bytes()).is_ok());
        let long = "x".repeat(129);
        for (from, to, pointer) in [
            (r#""a""#, r#""b""#, "/instance"),
            (r#""b""#, r#""""#, "/bootId"),
            (r#""b""#, &format!("{long:?}") as &str, "/bootId"),
            ("http://h:1", "https://h:1", "/baseUrl"),
            ("http://h:1", "http://u:p@h:1", "/baseUrl"),
            (
                "http://h:1",
                &format!("http://{}:1", "h".repeat(256)),
                "/baseUrl",
            ),
            ("1,", "-1,", ""),
        ] {
            let error = read("a", good.replacen(from, to, 1).as_bytes()).expect_err(to);
            assert_eq!(error.problem.pointer.as_deref(), Some(pointer), "{to}");
        }
        let handler = |size: usize| {
            let error = "x".repeat(size);
            format!(
                r#"{{"name":"A","collection":"A","state":"failing","revision":1,"error":"{error}"}}"#
            )
        };
        for (count, size, fits) in [(64, 1_024, true), (65, 1, false), (1, 1_025, false)] {
            let handlers = vec![handler(size); count].join(",");
            let told = good.replace(
                r#""intervalMs""#,
                &format!(r#""handlers":[{handlers}],"intervalMs""#),
            );
            assert_eq!(
                read("a", told.as_bytes()).is_ok(),
                fits,
                "{count} of {size}"
            );
        }
        for (count, size, fits) in [(20, 1_024, true), (21, 1, false), (1, 1_025, false)] {
            let refusal = format!(
                r#"{{"id":"x","revision":1,"pointer":"","error":"{}"}}"#,
                "x".repeat(size)
            );
            let refusals = vec![refusal; count].join(",");
            let report =
                format!(r#"{{"revision":1,"known":1,"state":"current","refusals":[{refusals}]}}"#);
            let told = good.replace(
                r#""collections":{}"#,
                &format!(r#""collections":{{"A":{report}}}"#),
            );
            assert_eq!(
                read("a", told.as_bytes()).is_ok(),
                fits,
                "{count} of {size}"
            );
        }
        // Its members in their order, as an array.
        assert!(read("a", br#"["a","b",null,1,null,{}]"#).is_err());
        assert!(
            read(
                &long,
                good.replacen("\"a\"", &format!("{long:?}"), 1).as_bytes()
            )
            .is_err()
        );
        assert_eq!(
            base_url("http://h:1/x?y#z").expect("valid").as_str(),
            "http://h:1/"
        );
    }
}
