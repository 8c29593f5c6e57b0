//! The arguments of `confcast files` that have a form of their own.

use std::time::Duration;

use files::{CommandLine, SignalName};

/// Longest time that an option takes: more is a mistake.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn command(text: &str) -> Result<CommandLine, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// A time as `100ms`, `2s` or `1m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}"))?;
    match time <= MAX_TIME {
        true => Ok(time),
        false => Err("expected at most 1 day".to_owned()),
    }
}

/// The mode of a file, which its owner can read at least.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| mode & 0o400 != 0 && *mode <= 0o777)
        .ok_or_else(|| {
            "expected an octal mode like 0644, at most 0777, readable for the owner".to_owned()
        })
}

pub(super) fn owner(text: &str) -> Result<(u32, u32), String> {
    let expected = || "expected USER:GROUP as numbers, for example 101:101".to_owned();
    let (user, group) = text.split_once(':').ok_or_else(expected)?;
    let number = |text: &str| text.parse().map_err(|_error| expected());
    Ok((number(user)?, number(group)?))
}

pub(super) fn signal(text: &str) -> Result<SignalName, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let all = SignalName::ALL.into_iter();
    let mut named = all.filter(|signal| signal.name() == name);
    named.next().ok_or_else(|| {
        let names = SignalName::ALL.map(SignalName::name);
        format!("expected one of {}", names.join(", "))
    })
}
