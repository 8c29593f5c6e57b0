//! What the commands write, and what they refuse.

use std::time::Duration;

use super::*;

const AFTER: Duration = Duration::from_secs(600);

fn create(file: &Path) -> anyhow::Result<()> {
    let create = Create {
        file: file.to_owned(),
        id: None,
    };
    create.run(SystemTime::now())
}

fn rotate(file: &Path, later: Duration) -> anyhow::Result<()> {
    let rotate = Rotate {
        file: file.to_owned(),
        id: None,
        after: AFTER.into(),
    };
    rotate.run(SystemTime::now() + later)
}

fn roles(file: &Path) -> Vec<&'static str> {
    let keyring = KeyFile::read(file).and_then(|file| file.keyring());
    let listed = listed(&keyring.expect("a keyring"));
    listed.iter().map(|key| key.role).collect()
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).expect("there").mode() & 0o777
}

#[test]
fn a_new_key_is_added_first_and_used_only_when_services_can_have_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret-keys.json");
    create(&file).expect("created");
    assert_eq!(roles(&file), ["active"]);
    rotate(&file, Duration::ZERO).expect("step 1");
    assert_eq!(roles(&file), ["active", "next"]);
    let before = fs::read(&file).expect("read");
    for early in [Duration::ZERO, AFTER / 2] {
        let error = rotate(&file, early).expect_err("too early").to_string();
        assert!(error.contains("--after"), "{error}");
        assert_eq!(fs::read(&file).expect("read"), before);
    }
    rotate(&file, AFTER * 2).expect("step 2");
    assert_eq!(roles(&file), ["old", "active"]);
    let old = KeyFile::read(&file).and_then(|file| file.keyring());
    let old = old.expect("a keyring").ids().next().cloned();
    let remove = |id: Option<KeyId>, yes| {
        let id = id.expect("a key");
        let file = file.clone();
        Remove { file, id, yes }.run()
    };
    let unconfirmed = remove(old.clone(), false).expect_err("there is no terminal");
    assert!(unconfirmed.to_string().contains("--yes"), "{unconfirmed}");
    remove(old, true).expect("removed");
    assert_eq!(roles(&file), ["active"]);
    let active = KeyFile::read(&file).and_then(|file| file.keyring());
    let active = active.expect("a keyring").active().clone();
    remove(Some(active), true).expect_err("it is in use");
    // The date is the same as that of the key which is there.
    rotate(&file, Duration::ZERO).expect("step 1");
    assert_eq!(roles(&file).len(), 2);
}

#[test]
fn nothing_is_overwritten_and_other_users_never_read_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret-keys.json");
    let missing = format!("{:#}", rotate(&file, AFTER).expect_err("no file"));
    assert!(missing.contains("confcast secret-keys create"), "{missing}");
    create(&file).expect("created");
    assert_eq!(mode(&file), MODE);
    let keys = fs::read(&file).expect("read");
    let error = create(&file).expect_err("there are keys").to_string();
    assert!(error.contains("confcast secret-keys rotate"), "{error}");
    assert_eq!(fs::read(&file).expect("read"), keys);
    for (given, kept) in [(0o600, 0o600), (0o644, 0o640)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(given)).expect("set");
        rotate(&file, AFTER * 2).expect("a step");
        assert_eq!(mode(&file), kept);
    }
    let names = fs::read_dir(folder.path()).expect("read").count();
    assert_eq!(names, 1, "no temporary file is left");
}

#[test]
fn a_file_behind_a_link_is_changed_and_the_link_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let [file, link] = ["keys.json", "link.json"].map(|name| folder.path().join(name));
    create(&file).expect("created");
    std::os::unix::fs::symlink("keys.json", &link).expect("a link");
    rotate(&link, Duration::ZERO).expect("step 1");
    assert_eq!(roles(&file), ["active", "next"]);
    assert!(link.is_symlink());
}
