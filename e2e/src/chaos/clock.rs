//! Another wall clock for one process, by libfaketime. Its monotonic clock stays what it is, as on
//! a machine whose time is set.

use std::{env, path::PathBuf};

use crate::testbed::services::Service;

/// An hour: longer than any retry, time to live or staleness that is counted here.
const SHIFT: &str = "3600";
/// What the library reads.
const SETTINGS: [&str; 4] = [
    "LD_PRELOAD",
    "FAKETIME",
    "DONT_FAKE_MONOTONIC",
    "FAKETIME_DISABLE_SHM",
];

/// Where the library is: where `LIBFAKETIME` says, or where Debian's package `faketime` puts it.
pub fn library() -> Option<PathBuf> {
    let debian = || {
        format!(
            "/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1",
            env::consts::ARCH
        )
        .into()
    };
    Some(env::var_os("LIBFAKETIME").map_or_else(debian, PathBuf::from))
        .filter(|library| library.is_file())
}

/// From its next start on a service has an hour more or less.
pub fn shift(service: &mut Service, ahead: bool) {
    let Some(library) = library() else { return };
    let sign = if ahead { '+' } else { '-' };
    // Without shared memory, which a killed process would leave behind.
    let values = [
        library.display().to_string(),
        format!("{sign}{SHIFT}"),
        "1".to_owned(),
        "1".to_owned(),
    ];
    for (name, value) in SETTINGS.into_iter().zip(values) {
        service.set(name, value);
    }
}

/// From its next start on a service has the machine's time again.
pub fn restore(service: &mut Service) {
    SETTINGS.iter().for_each(|name| service.unset(name));
}
