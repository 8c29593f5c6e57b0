//! The settings of files, given the content of a file instead of its path: no output of a program has
//! a part of it. The tests of each program include this file.

use std::process::{Command, Output};

/// What could be in a file, and a part of it that must not be seen.
const CONTENTS: [(&str, &str); 5] = [
    (
        "cct_XehVyKLvh3pQ9aB2cD4eF6gH8jK0mN1oP3qR5sT7uV9wX2yZ",
        "XehVyKLvh3",
    ),
    (
        "{\"active\": \"a\", \"keys\": {\"a\": \"pXh2R3ZpXh2R3ZaQ4r8uT1w0ZbVnKs7LmEoYdCfGhJk=\"}}",
        "pXh2R3Zp",
    ),
    (
        "-----BEGIN PRIVATE KEY-----MC4CAQAwBQYDK2VwBCIEIJ1hsZ3-----END PRIVATE KEY-----",
        "BCIEIJ1hsZ3",
    ),
    (
        "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g",
        "IEIJ1hsZ3v",
    ),
    (
        "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
        "c2lnbmF0dXJl",
    ),
];

/// Runs a program for each of its settings of files and each content. All other settings of files name
/// a file that can be read, so that this one is the first that cannot. Each line that names the setting
/// says `shown` of it.
pub(crate) fn no_content_is_shown(start: impl Fn() -> Command, settings: &[&str], shown: &str) {
    let readable = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for name in settings {
        for (content, secret) in CONTENTS {
            let mut command = start();
            for other in settings {
                command.env(other, if other == name { content } else { readable });
            }
            let output = text(&command.output().expect("the program runs"));
            assert!(!output.contains(secret), "{name}={content}\n{output}");
            let expected = shown.replace("NAME", name);
            assert!(
                output.contains(&expected) && output.contains("a path is expected"),
                "{expected}\n{output}"
            );
            let help = text(&command.arg("--help").output().expect("the program runs"));
            assert!(help.contains(name) && !help.contains(secret), "{help}");
        }
    }
}

/// The settings of files that the help of a program names.
pub(crate) fn settings(mut program: Command) -> Vec<&'static str> {
    let help = text(&program.arg("--help").output().expect("the program runs"));
    let names = contract::environment::NAMES.iter().copied();
    let known: Vec<_> = names
        .filter(|name| name.ends_with("_FILE") && help.contains(&format!("[env: {name}]")))
        .collect();
    assert!(known.len() > 3, "{help}");
    known
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes))
        .concat()
}
