//! Which files may name a library or a clock, where a rule for the whole crate is too coarse.
//! Comments do not count.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use e2e::testbed::dependencies::repository_root;

/// A text that only some files below a folder may hold.
struct Rule {
    /// Folders in which the rule holds.
    folders: &'static [&'static str],
    /// Texts that are searched for. A name of a longer path or identifier does not count.
    texts: &'static [&'static str],
    /// Beginnings of the paths that may hold one.
    allowed: &'static [&'static str],
    /// What to do about a failure.
    advice: &'static str,
}

const PRODUCT: &[&str] = &[
    "contract/src",
    "state/src",
    "broker/src",
    "journal/src",
    "client/src",
    "service/src",
    "replica/src",
    "projection/src",
    "mongo-json/src",
    "publisher/src",
    "dapr-api/src",
    "subscriber/src",
    "files/src",
    "cli/src",
    "tls/src",
    "auth/src",
];

const RULES: [Rule; 5] = [
    Rule {
        folders: &["publisher/src", "journal/src"],
        texts: &["mongodb::"],
        allowed: &["publisher/src/store/mongo", "journal/src/mongo"],
        advice: "add what you need to the store's own interface",
    },
    Rule {
        folders: &["publisher/src"],
        texts: &["dapr::dapr::"],
        allowed: &["publisher/src/transport/dapr.rs"],
        advice: "send through the transport",
    },
    Rule {
        folders: &["journal/src"],
        texts: &["Client", "ConnectionManager", "ConnectionInfo"],
        allowed: &[],
        advice: "connect through `broker`, which knows addresses, TLS and Sentinels",
    },
    Rule {
        folders: &["contract/src", "state/src"],
        texts: &["Instant", "SystemTime", "Utc::now", "Local::now"],
        allowed: &[],
        advice: "let the caller pass the time",
    },
    Rule {
        folders: PRODUCT,
        texts: &[
            "tokio::spawn",
            "task::spawn",
            "rt::spawn",
            "thread::spawn",
            "thread::Builder",
        ],
        allowed: &["service/src/runtime/tasks.rs", "mongo-json/src/tests.rs"],
        advice: "give the task to the supervisor of `service`, which awaits it",
    },
];

/// Every Rust file below a folder that exists; paths are relative to the repository.
fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![repository_root().join(folder)];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        for entry in
            fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(repository_root())?.to_owned());
            }
        }
    }
    Ok(files)
}

/// Whether a line of code holds a text that is not the middle of a longer identifier. A crate
/// (`name::`) must also begin its path: `crate::mongodb::` is a module.
fn names(line: &str, text: &str) -> bool {
    let is_identifier = |character: char| character.is_alphanumeric() || character == '_';
    let is_crate = text.ends_with("::");
    let code = line.trim_start();
    !code.starts_with("//")
        && code.match_indices(text).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            let after = code[at + text.len()..].chars().next();
            before.is_none_or(|before| !(is_identifier(before) || is_crate && before == ':'))
                && (is_crate || after.is_none_or(|after| !is_identifier(after)))
        })
}

#[test]
fn a_library_is_used_only_where_the_list_allows_it() -> anyhow::Result<()> {
    for rule in RULES {
        for folder in rule.folders {
            for file in rust_files(Path::new(folder))? {
                let path = file.display().to_string();
                if rule.allowed.iter().any(|allowed| path.starts_with(allowed)) {
                    continue;
                }
                let source = fs::read_to_string(repository_root().join(&file))?;
                for (number, line) in (1..).zip(source.lines()) {
                    for text in rule.texts {
                        ensure!(
                            !names(line, text),
                            "{path}:{number} names `{text}`, which only {:?} may: {}",
                            rule.allowed,
                            rule.advice
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_library_name_matches_only_as_a_whole_word() {
    assert!(names("use mongodb::bson;", "mongodb::"));
    assert!(names("    let at = std::time::Instant::now();", "Instant"));
    assert!(names("std::thread::spawn(work);", "thread::spawn"));
    assert!(!names("// mongodb::bson", "mongodb::"));
    assert!(!names("use crate::mongodb::Store;", "mongodb::"));
    assert!(!names("struct Instantly;", "Instant"));
    assert!(!names("task::spawn_blocking(work)", "task::spawn"));
}
