//! The options of files: what they are given is shown only when it can be a path.

use std::process::Command;

#[path = "../../service/tests/file_settings/mod.rs"]
mod file_settings;

fn whoami() -> Command {
    let mut confcast = Command::new(env!("CARGO_BIN_EXE_confcast"));
    confcast.args(["auth", "whoami"]);
    confcast
}

#[test]
fn the_content_of_a_file_is_never_shown_where_its_path_is_expected() {
    let settings = file_settings::settings(whoami());
    let (token, tls): (Vec<_>, Vec<_>) = settings
        .into_iter()
        .partition(|name| *name == "AURA_CONFIGURATION_TOKEN_FILE");
    assert_eq!(token.len(), 1);
    for settings in [token, tls] {
        file_settings::no_content_is_shown(whoami, &settings, "(NAME): …");
    }
}

#[test]
fn a_token_that_is_none_names_its_setting() {
    for (token, said) in [
        ("Bearer cct_hunter2", "without the word Bearer"),
        ("two hunter2", "visible ASCII"),
        ("{\"id\": \"hunter2\"}", "records of tokens"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, token).expect("a file");
        for (name, value) in [
            ("AURA_CONFIGURATION_TOKEN", token.to_owned()),
            ("AURA_CONFIGURATION_TOKEN_FILE", file.display().to_string()),
        ] {
            let output = whoami().env(name, value).output().expect("confcast runs");
            let error = String::from_utf8(output.stderr).expect("text");
            assert!(
                error.contains(name) && error.contains(said) && !error.contains("hunter2"),
                "{error}"
            );
        }
    }
}
