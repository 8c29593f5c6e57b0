//! Where a request has its credential, and which fields of it stay at the subscriber.
//!
//! Nothing here knows what a credential is worth.

use contract::{sidecar::TOKEN_HEADER, token::PREFIX};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, Entry},
};

/// The credential of a request, as the text of `authorization`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    None,
    InAuthorization(String),
    /// A token of Confcast in `dapr-api-token`.
    InToken(String),
    /// Which of several decides is not defined, so none does.
    Several,
}

impl Credential {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let in_authorization = headers.get_all(AUTHORIZATION).iter();
        let in_token = headers.get_all(TOKEN_HEADER).iter();
        let in_token = in_token.filter(|value| is_confcast_token(value.as_bytes()));
        let mut all = in_authorization
            .map(|value| Self::InAuthorization(text(value)))
            .chain(in_token.map(|value| Self::InToken(format!("Bearer {}", text(value)))));
        match (all.next(), all.next()) {
            (None, _) => Self::None,
            (Some(one), None) => one,
            (Some(_), Some(_)) => Self::Several,
        }
    }
}

/// Removes the tokens of Confcast from a request that goes on to the sidecar, which is not their audience.
pub(crate) fn remove_credentials(headers: &mut HeaderMap) {
    for name in [AUTHORIZATION, HeaderName::from_static(TOKEN_HEADER)] {
        let Entry::Occupied(given) = headers.entry(&name) else {
            continue;
        };
        let is_other = |value: &HeaderValue| !has_confcast_token(value.as_bytes());
        let (_name, values) = given.remove_entry_mult();
        let others: Vec<_> = values.filter(is_other).collect();
        for value in others {
            headers.append(&name, value);
        }
    }
}

fn is_confcast_token(value: &[u8]) -> bool {
    value.starts_with(PREFIX.as_bytes())
}

/// Whether a token of Confcast is one of the words of a value, whatever its scheme.
fn has_confcast_token(value: &[u8]) -> bool {
    value
        .split(|byte| b" \t,".contains(byte))
        .any(is_confcast_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let all = all.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        all.fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
    }

    #[test]
    fn one_credential_decides_and_of_several_none() {
        let bearer = || "Bearer cct_a".to_owned();
        for (given, expected) in [
            (vec![], Credential::None),
            (vec![("dapr-api-token", "secret")], Credential::None),
            (
                vec![("dapr-api-token", "cct_a")],
                Credential::InToken(bearer()),
            ),
            (
                vec![
                    ("authorization", "Bearer cct_a"),
                    ("dapr-api-token", "secret"),
                ],
                Credential::InAuthorization(bearer()),
            ),
            (
                vec![
                    ("authorization", "Bearer cct_a"),
                    ("dapr-api-token", "cct_garbage"),
                ],
                Credential::Several,
            ),
            (
                vec![("authorization", "Bearer cct_a"), ("authorization", "")],
                Credential::Several,
            ),
            (
                vec![("dapr-api-token", "cct_a"), ("dapr-api-token", "cct_b")],
                Credential::Several,
            ),
        ] {
            assert_eq!(Credential::of(&headers(&given)), expected, "{given:?}");
        }
    }

    #[test]
    fn tokens_of_confcast_are_removed_and_nothing_else() {
        let mut given = headers(&[
            ("authorization", "bearer   cct_a"),
            ("authorization", "Basic of-callee"),
            ("dapr-api-token", "cct_a"),
            ("dapr-api-token", "secret"),
            ("mine", "cct_a"),
        ]);
        remove_credentials(&mut given);
        let expected = headers(&[
            ("authorization", "Basic of-callee"),
            ("dapr-api-token", "secret"),
            ("mine", "cct_a"),
        ]);
        assert_eq!(given, expected);
    }
}
