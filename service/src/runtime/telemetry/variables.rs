//! The variables of OpenTelemetry that its SDK reads by itself. It ignores a value that it cannot use, or
//! ends the process at one that is too large, so they are checked before it reads them. Nothing is set here.

use std::{fmt::Display, ops::RangeInclusive};

use reqwest::header::{HeaderName, HeaderValue};

/// Numbers, and which of them are of use. A queue is memory that is taken at the start.
const NUMBERS: [(&str, RangeInclusive<u64>); 5] = [
    ("OTEL_BSP_MAX_QUEUE_SIZE", 1..=65_536),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1..=65_536),
    ("OTEL_BSP_MAX_CONCURRENT_EXPORTS", 1..=64),
    ("OTEL_BSP_SCHEDULE_DELAY", 1..=3_600_000),
    ("OTEL_BSP_EXPORT_TIMEOUT", 1..=3_600_000),
];
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];
const RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";
/// Their values may be credentials, so they are not shown.
const HEADERS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
];

/// Checks the variables. `value` gives that of a name, and an empty text for one that is not set.
///
/// # Errors
/// What is wrong with the first wrong one.
pub(super) fn check(value: impl Fn(&str) -> String) -> Result<(), String> {
    let wrong = |name: &str, expected: &dyn Display| {
        Err(format!("{name}={:?}: expected {expected}", value(name)))
    };
    for (name, range) in NUMBERS {
        let text = value(name);
        let fits = text
            .parse()
            .is_ok_and(|number: u64| range.contains(&number));
        if !text.is_empty() && !fits {
            let (least, most) = range.into_inner();
            let expected = format_args!("a whole number from {least} to {most}");
            return wrong(name, &expected);
        }
    }
    let sampler = value(SAMPLER);
    if !sampler.is_empty() && !SAMPLERS.contains(&&*sampler) {
        return wrong(SAMPLER, &SAMPLERS.join(", "));
    }
    let ratio = value(RATIO);
    let fits = ratio
        .parse()
        .is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio));
    if !ratio.is_empty() && !fits {
        return wrong(RATIO, &"a number from 0 to 1");
    }
    for name in HEADERS {
        if !value(name).split_terminator(',').all(is_header) {
            return Err(format!(
                "{name}=…: expected NAME=VALUE, separated by commas, with %-encoded values"
            ));
        }
    }
    Ok(())
}

fn is_header(text: &str) -> bool {
    let Some((name, value)) = text.split_once('=') else {
        return false;
    };
    let is_name = HeaderName::from_bytes(name.trim().as_bytes()).is_ok();
    is_name && decoded(value.trim()).is_some_and(|value| HeaderValue::from_bytes(&value).is_ok())
}

/// A %-encoded text; `None` where an encoded byte is none.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &str) -> Result<(), String> {
        check(|asked| if asked == name { text } else { "" }.to_owned())
    }

    #[test]
    fn a_value_that_the_sdk_would_ignore_or_end_at_is_named() {
        for (name, text) in [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many"),
            ("OTEL_BSP_SCHEDULE_DELAY", "18446744073709551615"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "-1"),
            ("OTEL_TRACES_SAMPLER", "nonsense"),
            ("OTEL_TRACES_SAMPLER", "xray"),
            ("OTEL_TRACES_SAMPLER_ARG", "7"),
            ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
        ] {
            let wrong = of(name, text).expect_err(text);
            let begin = format!("{name}={text:?}: expected ");
            assert!(wrong.starts_with(&begin), "{wrong}");
        }
        for text in [
            "secret",
            "a b=secret",
            "=secret",
            "a=%0asecret",
            "a=%secret",
            "a=1,,b=2",
        ] {
            let wrong = of("OTEL_EXPORTER_OTLP_HEADERS", text).expect_err(text);
            assert!(!wrong.contains("secret"), "{wrong}");
        }
    }

    #[test]
    fn values_that_are_of_use_pass() {
        for (name, text) in [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "65536"),
            ("OTEL_BSP_SCHEDULE_DELAY", "1000"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "a=1, authorization=Bearer%20x==",
            ),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=1,"),
        ] {
            assert_eq!(of(name, text), Ok(()), "{name}={text}");
        }
    }
}
