//! Another wall clock for one process, by libfaketime. Its monotonic clock is unchanged, as on a
//! machine whose time is set.

use std::{env, path::PathBuf};

use crate::testbed::services::Service;

/// One hour: longer than any retry, time to live or staleness limit of the campaign.
const SHIFT: &str = "3600";
/// Environment variables of the library.
const SETTINGS: [&str; 4] = [
    "LD_PRELOAD",
    "FAKETIME",
    "DONT_FAKE_MONOTONIC",
    "FAKETIME_DISABLE_SHM",
];

/// The path of the library: `LIBFAKETIME`, or the file of Debian's package `faketime`.
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

/// Shifts the wall clock of a service by one hour, from its next start.
pub fn shift(service: &mut Service, ahead: bool) {
    let Some(library) = library() else { return };
    let sign = if ahead { '+' } else { '-' };
    // Without shared memory, which a killed process would not remove.
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

/// Removes the shift, from the next start of the service.
pub fn restore(service: &mut Service) {
    SETTINGS.iter().for_each(|name| service.unset(name));
}
