//! The context of a request: user, organisation, correlation id and trace, which are stored in every
//! change and sent with every event of the request (requirement B2).
//!
//! It is for people and audits. Nothing is decided by it, a missing part stays missing, and a replica
//! ignores it.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::{ids::FormatError, lenient};

/// Header of a request: ties the change to logs elsewhere.
pub const CORRELATION_ID: &str = "X-Correlation-Id";
/// Header of a request: the user who makes the change.
pub const USER_ID: &str = "X-User-Id";
/// Header of a request: the organisation of the user.
pub const ORGANISATION_ID: &str = "X-Organisation-Id";
/// Header of a request: why the change is made.
pub const CHANGE_REASON: &str = "X-Change-Reason";

/// Longest correlation id, user id and organisation id, in bytes.
pub const MAX_LEN: usize = 128;

/// Longest reason of a change, in bytes.
pub const MAX_REASON: usize = 512;

/// The context of a request. Each part is optional. Cloning shares the texts.
///
/// Stored and received contexts are read leniently: a part that is not a text of the right form
/// counts as missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Context {
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_label"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>, min_length = 1, max_length = 128))]
    correlation_id: Option<Arc<str>>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_label"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>, min_length = 1, max_length = 128))]
    user_id: Option<Arc<str>>,
    /// The caller that was authenticated, where it named another user: `userId` and `organisationId`
    /// are its word.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_label"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>, min_length = 1, max_length = 128))]
    via: Option<Arc<str>>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_label"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>, min_length = 1, max_length = 128))]
    organisation_id: Option<Arc<str>>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_traceparent"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>))]
    traceparent: Option<Arc<str>>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_reason"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>, min_length = 1, max_length = 512))]
    reason: Option<Arc<str>>,
}

impl Context {
    /// The same context with a correlation id: 1 to 128 visible ASCII characters.
    ///
    /// # Errors
    /// When it has another form.
    pub fn with_correlation_id(self, text: &str) -> Result<Self, FormatError> {
        Ok(Self {
            correlation_id: Some(checked("correlation id", text)?),
            ..self
        })
    }

    /// The same context with the id of the user: 1 to 128 visible ASCII characters.
    ///
    /// # Errors
    /// When it has another form.
    pub fn with_user_id(self, text: &str) -> Result<Self, FormatError> {
        Ok(Self {
            user_id: Some(checked("user id", text)?),
            ..self
        })
    }

    /// The same context with the id of the organisation: 1 to 128 visible ASCII characters.
    ///
    /// # Errors
    /// When it has another form.
    pub fn with_organisation_id(self, text: &str) -> Result<Self, FormatError> {
        Ok(Self {
            organisation_id: Some(checked("organisation id", text)?),
            ..self
        })
    }

    /// The same context as that of an authenticated caller. `asserts`: the caller names another user
    /// or an organisation; then it is [`Self::via`], and the user only where it names none.
    #[must_use]
    pub fn by(self, caller: &str, asserts: bool) -> Self {
        let caller = label(caller);
        let user_id = if asserts { self.user_id } else { None };
        Self {
            user_id: user_id.or_else(|| Some(caller.clone())),
            via: asserts.then_some(caller),
            ..self
        }
    }

    /// The same context with the reason of the change: 1 to 512 bytes of text without control
    /// characters.
    ///
    /// # Errors
    /// When it has another form.
    pub fn with_reason(self, text: &str) -> Result<Self, FormatError> {
        if !is_reason(text) {
            let expected = "1 to 512 bytes without control characters";
            return Err(FormatError::new("reason", text, expected));
        }
        Ok(Self {
            reason: Some(text.into()),
            ..self
        })
    }

    /// The same context with a trace context (W3C Trace Context section 3.2): `00-<32 hex>-<16 hex>-<2
    /// hex>`, not all zeroes.
    ///
    /// # Errors
    /// When it has another form.
    pub fn with_traceparent(self, text: &str) -> Result<Self, FormatError> {
        text.parse::<TraceParent>()?;
        Ok(Self {
            traceparent: Some(text.into()),
            ..self
        })
    }

    /// The same context without the trace context, which the envelope of an event has as an attribute.
    #[must_use]
    pub fn untraced(&self) -> Self {
        Self {
            traceparent: None,
            ..self.clone()
        }
    }

    /// Links the change to the logs of other services.
    pub fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }

    /// The user who made the request.
    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_deref()
    }

    /// The user in words, with the caller that named it: `ada via token:gateway`.
    pub fn author(&self) -> Option<String> {
        let user = self.user_id()?;
        Some(match self.via() {
            Some(via) => format!("{user} via {via}"),
            None => user.to_owned(),
        })
    }

    /// The authenticated caller that named the user, where that was not the user.
    pub fn via(&self) -> Option<&str> {
        self.via.as_deref()
    }

    /// The organisation of the user.
    pub fn organisation_id(&self) -> Option<&str> {
        self.organisation_id.as_deref()
    }

    /// Why the change was made, in the words of the user.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The trace of the request.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }
}

/// The name of a caller as a label: `%` and bytes that are no visible ASCII are percent-encoded, and
/// a long name is cut before a hash of the whole, so that two names stay two.
fn label(name: &str) -> Arc<str> {
    if is_label(name) && !name.contains('%') {
        return name.into();
    }
    let encode = |byte: u8| match byte {
        b'%' => "%25".to_owned(),
        b'!'..=b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    let encoded: String = name.bytes().map(encode).collect();
    if (1..=MAX_LEN).contains(&encoded.len()) {
        return encoded.into();
    }
    let start = encoded.get(..MAX_LEN - 33).unwrap_or(&encoded);
    format!("{start}~{:032x}", xxh3_128(name.as_bytes())).into()
}

fn checked(what: &'static str, text: &str) -> Result<Arc<str>, FormatError> {
    if is_label(text) {
        Ok(text.into())
    } else {
        Err(FormatError::new(
            what,
            text,
            "1 to 128 visible ASCII characters",
        ))
    }
}

fn is_label(text: &str) -> bool {
    (1..=MAX_LEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_reason(text: &str) -> bool {
    (1..=MAX_REASON).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn is_traceparent(text: &str) -> bool {
    text.parse::<TraceParent>().is_ok()
}

/// A trace context (W3C Trace Context section 3.2): the trace, and the span in it that is the parent of
/// what follows. Both are not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: u128,
    /// The span.
    pub parent_id: u64,
    /// Flags; the lowest bit says that the trace is recorded.
    pub flags: u8,
}

impl FromStr for TraceParent {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let read = || {
            let (version, rest) = text.split_once('-')?;
            let (trace, rest) = rest.split_once('-')?;
            let (parent, flags) = rest.split_once('-')?;
            let is_hex = |part: &str, digits| {
                part.len() == digits
                    && part
                        .bytes()
                        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            };
            let is_form =
                version == "00" && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
            let read = Self {
                trace_id: u128::from_str_radix(trace, 16).ok()?,
                parent_id: u64::from_str_radix(parent, 16).ok()?,
                flags: u8::from_str_radix(flags, 16).ok()?,
            };
            (is_form && read.trace_id != 0 && read.parent_id != 0).then_some(read)
        };
        read().ok_or_else(|| FormatError::new("traceparent", text, "00-<32 hex>-<16 hex>-<2 hex>"))
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            parent_id,
            flags,
        } = self;
        write!(f, "00-{trace_id:032x}-{parent_id:016x}-{flags:02x}")
    }
}

fn valid<'de, D: Deserializer<'de>>(
    deserializer: D,
    is_valid: fn(&str) -> bool,
) -> Result<Option<Arc<str>>, D::Error> {
    lenient::matching(deserializer, |text| is_valid(text).then(|| text.into()))
}

fn lenient_label<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
    valid(deserializer, is_label)
}

fn lenient_reason<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Arc<str>>, D::Error> {
    valid(deserializer, is_reason)
}

fn lenient_traceparent<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Arc<str>>, D::Error> {
    valid(deserializer, is_traceparent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_reason_is_a_text_of_one_line() {
        for good in ["x", "Rückbau nach Störung 7", &"x".repeat(512)] {
            let context = Context::default().with_reason(good).expect(good);
            assert_eq!(context.reason(), Some(good));
        }
        for bad in ["", "a\nb", "\u{1b}[1m", &"x".repeat(513)] {
            assert!(Context::default().with_reason(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn labels_are_accepted_up_to_their_limits() {
        type With = fn(Context, &str) -> Result<Context, FormatError>;
        let all: [With; 3] = [
            Context::with_correlation_id,
            Context::with_user_id,
            Context::with_organisation_id,
        ];
        for with in all {
            for good in ["a", "!~\"\\", &"x".repeat(128)] {
                assert!(with(Context::default(), good).is_ok(), "{good}");
            }
            for bad in ["", "a b", "ü", "a\n", &"x".repeat(129)] {
                assert!(with(Context::default(), bad).is_err(), "{bad}");
            }
        }
    }

    #[test]
    fn the_authenticated_caller_is_the_user_or_the_one_that_named_the_user() {
        let sent = Context::default().with_user_id("ada").expect("a label");
        let of = |context: &Context| {
            (
                context.user_id().map(str::to_owned),
                context.via().map(str::to_owned),
            )
        };
        let text = |text: &str| Some(text.to_owned());
        let own = sent.clone().by("token:ci", false);
        assert_eq!(of(&own), (text("token:ci"), None));
        let asserted = sent.by("token:gateway", true);
        assert_eq!(of(&asserted), (text("ada"), text("token:gateway")));
        assert_eq!(asserted.author(), text("ada via token:gateway"));
        assert_eq!(own.author(), text("token:ci"));
        let nobody = Context::default().by("token:gateway", true);
        assert_eq!(of(&nobody), (text("token:gateway"), text("token:gateway")));
        let json = serde_json::to_string(&asserted).expect("JSON");
        assert_eq!(serde_json::from_str::<Context>(&json).ok(), Some(asserted));
    }

    #[test]
    fn every_name_of_a_caller_is_a_label_and_two_names_stay_two() {
        let long = "x".repeat(200);
        let other = format!("{}y", "x".repeat(199));
        let names = ["jwt:a b", "jwt:a%20b", "jwt:ü", "", &long, &other, "jwt:a"];
        let labels: std::collections::BTreeSet<_> = names.into_iter().map(label).collect();
        assert_eq!(labels.len(), names.len());
        assert!(labels.iter().all(|label| is_label(label)), "{labels:?}");
    }

    #[test]
    fn only_valid_trace_contexts_are_accepted() {
        assert!(Context::default().with_traceparent(TRACE).is_ok());
        let read = TRACE.parse::<TraceParent>().map(|read| read.to_string());
        assert_eq!(read.as_deref().ok(), Some(TRACE));
        for bad in [
            "",
            "00-0-0-0",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(Context::default().with_traceparent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_part_of_another_form_counts_as_missing() {
        let given = r#"{"correlationId": 7, "userId": null, "organisationId": "a b", "traceparent": {"a": [1]}}"#;
        assert_eq!(
            serde_json::from_str::<Context>(given).expect("read"),
            Context::default()
        );
        assert_eq!(
            serde_json::from_str::<Context>("{}").expect("read"),
            Context::default()
        );
    }
}
