//! `confcast token create --offline`: the token alone on standard output, the record beside it.

use std::process::{Command, Output};

use contract::{access::Role, token::TokenRecord};

fn create(more: &[&str]) -> Output {
    let fixed = [
        "token",
        "create",
        "--offline",
        "--name",
        "ops",
        "--role",
        "operator",
        "--role",
        "reader",
        "--collections",
        "A,B",
        "--expires",
        "12h",
    ];
    Command::new(env!("CARGO_BIN_EXE_confcast"))
        .args(fixed)
        .args(more)
        .output()
        .expect("confcast runs")
}

fn check(token: &str, record: &str) {
    let record: TokenRecord = serde_json::from_str(record).expect("a record");
    record.check().expect("a good record");
    assert!(token.starts_with("cct_") && token.len() == 52, "{token}");
    let roles: Vec<_> = record.grants.iter().map(|grant| grant.role).collect();
    assert_eq!(roles, [Role::Operator, Role::Reader]);
    let life = record.expires_at.expect("an end") - record.created_at;
    assert_eq!(life.num_hours(), 12);
}

#[test]
fn a_token_and_its_record_are_apart() {
    let output = create(&[]);
    let token = String::from_utf8(output.stdout).expect("text");
    let beside = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{beside}");
    let token = token.strip_suffix('\n').expect("one line");
    check(token, beside.lines().next().expect("a record"));
    assert!(!beside.contains(token), "{beside}");
}

#[test]
fn records_are_appended_to_a_file_that_only_its_owner_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens");
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let output = create(&["--record-file", &path.display().to_string()]);
        assert!(output.status.success());
        tokens.push(String::from_utf8(output.stdout).expect("text"));
    }
    let records = std::fs::read_to_string(&path).expect("records");
    for (token, record) in tokens.iter().zip(records.lines()) {
        check(token.trim_end(), record);
    }
    assert_eq!(records.lines().count(), 2);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&path).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}
