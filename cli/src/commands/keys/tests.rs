//! Every mixture of services that have the files of a step and of the step before works.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use contract::{
    Operation,
    signature::{Statement, UnprovenEvent},
};

use super::*;

const AFTER: Duration = Duration::from_secs(600);

fn rotate(directory: &Path, later: Duration) -> anyhow::Result<()> {
    let rotate = Rotate {
        directory: directory.to_owned(),
        after: AFTER.into(),
    };
    rotate.run(SystemTime::now() + later)
}

/// Whether a publisher that has one file and a replica that has the other understand each other.
fn works(keys: &Keys, replica: &Keys) -> Result<(), UnprovenEvent> {
    let (collection, id) = ("A".parse().expect("a name"), "a".parse().expect("an id"));
    let statement = Statement {
        collection: &collection,
        op: Operation::Delete,
        id: &id,
        revision: 1,
        epoch: "0000000a-1".parse().expect("an epoch"),
        last_set: 0,
        value: None,
        change_set: None,
        proof: None,
    };
    let signature = keys.signing.sign(&statement);
    replica.public.verify(&statement, Some(&signature))
}

fn roles(directory: &Path) -> Vec<&'static str> {
    let listed = read(directory).expect("keys").list();
    assert!(listed.iter().all(|key| key.public), "{listed:?}");
    listed.iter().map(|key| key.role).collect()
}

#[test]
fn no_step_of_an_exchange_makes_a_signature_unknown_to_a_replica_one_step_behind_or_ahead() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("keys");
    create(&directory).expect("created");
    let first = read(&directory).expect("keys");
    let mut before = read(&directory).expect("keys");
    let expected = [
        vec!["signing", "next"],
        vec!["signing", "old"],
        vec!["signing"],
        vec!["signing", "next"],
    ];
    for roles_after in expected {
        rotate(&directory, AFTER * 2).expect("a step");
        assert_eq!(roles(&directory), roles_after);
        let now = read(&directory).expect("keys");
        for (publisher, replica) in [(&now, &now), (&now, &before), (&before, &now)] {
            assert_eq!(works(publisher, replica), Ok(()), "{roles_after:?}");
        }
        before = now;
    }
    let last = read(&directory).expect("keys");
    assert_eq!(
        works(&first, &last),
        Err(UnprovenEvent::UnknownKey(first.signing.id()))
    );
}

#[test]
fn a_step_waits_until_the_one_before_it_has_reached_the_services() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path();
    create(directory).expect("created");
    rotate(directory, Duration::ZERO)
        .expect("nothing has to reach a service before the first step");
    for _step in [2, 3] {
        for early in [Duration::ZERO, AFTER / 2] {
            let files = [SIGNING, PUBLIC].map(|name| fs::read(directory.join(name)).expect("read"));
            let error = rotate(directory, early).expect_err("too early").to_string();
            assert!(error.contains("--after"), "{error}");
            let after = [SIGNING, PUBLIC].map(|name| fs::read(directory.join(name)).expect("read"));
            assert_eq!(files, after);
        }
        rotate(directory, AFTER * 2).expect("a step");
    }
    assert_eq!(roles(directory), ["signing"]);
}

/// A call that is cut off between two files is completed by the next one, and never passed over.
#[test]
fn a_step_that_was_cut_off_is_taken_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path();
    create(directory).expect("created");
    let path = |name: &str| directory.join(name);
    let public = fs::read(path(PUBLIC)).expect("read");
    rotate(directory, Duration::ZERO).expect("step 1");
    let next = fs::read(path(NEXT)).expect("read");
    // Step 1 wrote the private key alone.
    fs::write(path(PUBLIC), &public).expect("written");
    rotate(directory, AFTER * 2).expect("step 1 again");
    assert_eq!(fs::read(path(NEXT)).expect("read"), next, "the same key");
    rotate(directory, Duration::ZERO).expect_err("replicas may not have it yet");
    rotate(directory, AFTER * 2).expect("step 2");
    // Step 2 did not remove its source.
    fs::write(path(NEXT), &next).expect("written");
    assert_eq!(roles(directory), ["signing", "old"]);
    rotate(directory, Duration::ZERO).expect_err("publishers may not have it yet");
    rotate(directory, AFTER * 2).expect("step 3");
    assert!(!path(NEXT).exists());
    assert_eq!(roles(directory), ["signing"]);
}

#[test]
fn nothing_is_overwritten_and_only_the_owner_reads_private_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path();
    let missing = rotate(directory, AFTER).expect_err("no keys").to_string();
    assert!(missing.contains("confcast keys create"), "{missing}");
    create(directory).expect("created");
    let key = fs::read(directory.join(SIGNING)).expect("read");
    let error = create(directory).expect_err("there are keys").to_string();
    assert!(error.contains("confcast keys rotate"), "{error}");
    assert_eq!(fs::read(directory.join(SIGNING)).expect("read"), key);
    rotate(directory, AFTER).expect("step 1");
    for (name, mode) in [(SIGNING, 0o600), (NEXT, 0o600), (PUBLIC, 0o644)] {
        let found = fs::metadata(directory.join(name))
            .expect("there")
            .permissions();
        assert_eq!(found.mode() & 0o777, mode, "{name}");
    }
}
