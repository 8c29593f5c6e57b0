//! What a folder of generations holds after each step, also when a process was killed in it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use super::*;
use crate::{RenderedFile, generation::Generation};

fn file(path: &str, content: &str) -> RenderedFile {
    RenderedFile {
        path: path.to_owned(),
        content: content.as_bytes().to_vec(),
        has_secrets: path.contains("secret"),
    }
}

/// Writes a generation, and publishes it if it differs.
fn publish(folder: &Arc<Folder>, files: &[RenderedFile]) -> bool {
    let mut generation = Generation::begin(folder).expect("begun");
    for file in files {
        generation.write(file).expect("written");
    }
    let is_changed = generation.is_changed().expect("compared");
    if is_changed {
        generation.publish().expect("published");
    }
    is_changed
}

fn current(folder: &Path, path: &str) -> String {
    fs::read_to_string(folder.join("current").join(path)).expect("a file")
}

#[test]
fn a_generation_is_seen_as_a_whole_and_has_the_modes_that_were_asked_for() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("new/folder");
    let folder = open(&path);
    let mut generation = Generation::begin(&folder).expect("begun");
    generation.write(&file("a/b/c", "1")).expect("written");
    generation.write(&file("a/secret", "2")).expect("written");
    assert!(!path.join("current").exists());
    generation.publish().expect("published");
    assert_eq!(current(&path, "a/b/c"), "1");
    let target = fs::read_link(path.join("current")).expect("a link");
    assert_eq!(
        target,
        Path::new(".generations/0000000001"),
        "relative, so it works in another mount"
    );
    for (name, mode) in [
        ("a/b/c", 0o640),
        ("a/secret", 0o600),
        ("a/b", 0o750),
        ("", 0o750),
    ] {
        let metadata = fs::metadata(path.join("current").join(name)).expect("there");
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{name}");
    }
}

#[test]
fn what_did_not_change_is_neither_written_again_nor_a_new_generation() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path();
    let folder = open(path);
    assert!(publish(&folder, &[file("a", "1"), file("b", "1")]));
    assert!(!publish(&folder, &[file("a", "1"), file("b", "1")]));
    assert_eq!(generations(path), ["0000000001"]);
    assert!(publish(&folder, &[file("a", "1"), file("b", "2")]));
    let inode = |generation: &str, file: &str| {
        let path = path.join(".generations").join(generation).join(file);
        fs::metadata(path).expect("a file").ino()
    };
    assert_eq!(inode("0000000001", "a"), inode("0000000002", "a"));
    assert_ne!(inode("0000000001", "b"), inode("0000000002", "b"));
    // A file fewer is a change, and so is one that somebody has written to.
    assert!(publish(&folder, &[file("b", "2")]));
    fs::write(path.join("current/b"), "x").expect("written");
    assert!(publish(&folder, &[file("b", "2")]));
    assert_eq!(current(path, "b"), "2");
}

#[test]
fn older_generations_are_kept_up_to_a_number_and_nothing_else_is_removed() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path();
    let folder = open(path);
    for number in 0..5 {
        assert!(publish(&folder, &[file("a", &number.to_string())]));
    }
    let inside = path.join(".generations");
    // As a killed process leaves them, and what is none of ours.
    fs::create_dir(inside.join("0000000009.part")).expect("made");
    fs::create_dir(inside.join("notes")).expect("made");
    symlink("/", inside.join("0000000001.link")).expect("made");
    folder.collect(2).expect("collected");
    let kept = [
        "0000000001.link",
        "0000000003",
        "0000000004",
        "0000000005",
        "notes",
    ];
    assert_eq!(generations(path), kept);
    assert_eq!(current(path, "a"), "4");
}

#[test]
fn a_process_that_was_killed_leaves_nothing_that_the_next_one_takes_for_whole() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path();
    let inside = path.join(".generations");
    {
        let folder = open(path);
        assert!(publish(&folder, &[file("a", "1")]));
        // Killed while it wrote.
        fs::create_dir(inside.join("0000000002.part")).expect("made");
        fs::write(inside.join("0000000002.part/a"), "2").expect("written");
        // Killed while a check ran.
        fs::create_dir(inside.join("0000000003.check")).expect("made");
        // Killed between the two renames.
        fs::create_dir(inside.join("0000000007")).expect("made");
        symlink("nowhere", path.join(".current.new")).expect("made");
    }
    assert_eq!(current(path, "a"), "1");
    let folder = open(path);
    assert!(publish(&folder, &[file("a", "3")]));
    assert_eq!(current(path, "a"), "3");
    assert_eq!(
        generations(path),
        ["0000000001", "0000000007", "0000000008"]
    );
}

#[test]
fn one_process_has_a_folder_and_replaces_nothing_of_somebody_else() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path();
    let folder = open(path);
    // Whatever somebody removes in it, the lock stays.
    for name in entries(path) {
        fs::remove_dir_all(path.join(&name)).expect(&name);
    }
    let second = Folder::open(path, ACCESS).expect_err("locked").to_string();
    assert!(second.contains("give each its own folder"), "{second}");
    drop(folder);
    symlink("/etc", path.join("current")).expect("made");
    assert!(matches!(
        Folder::open(path, ACCESS),
        Err(FilesError::NoLink(_))
    ));
    fs::remove_file(path.join("current")).expect("removed");
    fs::create_dir(path.join("current")).expect("made");
    assert!(matches!(
        Folder::open(path, ACCESS),
        Err(FilesError::NoLink(_))
    ));
}

#[test]
fn a_process_whose_folder_was_replaced_writes_to_it_no_more() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("out");
    let first = open(&path);
    let mut generation = Generation::begin(&first).expect("begun");
    generation.write(&file("a", "1")).expect("written");
    fs::rename(&path, home.path().join("elsewhere")).expect("renamed");
    let second = open(&path);
    assert!(publish(&second, &[file("a", "2")]));
    let error = Generation::begin(&first).expect_err("replaced").to_string();
    assert!(error.contains("start this one again"), "{error}");
    // Also one that had begun before, and it removes nothing of the other one.
    fs::create_dir(path.join(".generations/0000000001.part")).expect("made");
    generation.publish().expect_err("replaced");
    assert_eq!(current(&path, "a"), "2");
    assert_eq!(generations(&path), ["0000000001", "0000000001.part"]);
}

#[test]
fn what_a_check_writes_is_neither_published_nor_in_earlier_generations() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path();
    let folder = open(path);
    assert!(publish(&folder, &[file("a/b", "1"), file("secret", "1")]));
    let mut generation = Generation::begin(&folder).expect("begun");
    generation.write(&file("a/b", "1")).expect("linked");
    generation.write(&file("secret", "2")).expect("written");
    let copy = generation.copy().expect("copied");
    for (name, mode) in [("a/b", 0o640), ("secret", 0o600), ("a", 0o750), ("", 0o750)] {
        let found = fs::metadata(copy.path().join(name)).expect("there");
        assert_eq!(found.permissions().mode() & 0o777, mode, "{name}");
    }
    for (name, text) in [("a/b", "1"), ("secret", "2"), ("a/new", "")] {
        let name = copy.path().join(name);
        assert_eq!(fs::read_to_string(&name).unwrap_or_default(), text);
        fs::write(&name, "by a check").expect("written");
    }
    drop(copy);
    generation.publish().expect("published");
    let before = fs::read_to_string(path.join(".generations/0000000001/a/b"));
    assert_eq!(before.expect("a file"), "1");
    assert_eq!([current(path, "a/b"), current(path, "secret")], ["1", "2"]);
    assert!(!path.join("current/a/new").exists());
    assert_eq!(generations(path), ["0000000001", "0000000002"]);
}

#[test]
fn two_names_never_become_one_file() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = open(home.path());
    let mut generation = Generation::begin(&folder).expect("begun");
    generation.write(&file("a", "1")).expect("written");
    let error = generation.write(&file("a", "2")).expect_err("twice");
    assert!(matches!(error, FilesError::SameFile(_)), "{error}");
    let error = generation
        .write(&file("a/b", "2"))
        .expect_err("a file and a folder");
    assert!(matches!(error, FilesError::SameFile(_)), "{error}");
    drop(generation);
    assert_eq!(generations(home.path()), [""; 0]);
}

/// A user that can replace names in the folder would be given files of this process by a link.
#[test]
fn with_an_owner_the_folder_is_out_of_reach_of_others() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("new");
    let own = fs::metadata(home.path()).expect("a folder");
    let access = Access {
        mode: 0o640,
        secret_mode: 0o600,
        owner: Some((own.uid(), own.gid())),
    };
    let refused = |path: &Path| match Folder::open(path, access) {
        Err(error) => error.to_string().contains("with --owner"),
        Ok(_folder) => false,
    };
    drop(Folder::open(&path, access).expect("made by this process"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o775)).expect("set");
    assert!(refused(&path), "a group may replace names");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    let inside = path.join(".generations");
    fs::rename(&inside, path.join("elsewhere")).expect("renamed");
    symlink("elsewhere", &inside).expect("a link");
    assert!(refused(&path), "the generations are elsewhere");
}

/// Its owner could move the folder away while files are written, and put a link in its place.
#[test]
fn with_an_owner_the_folders_above_are_out_of_reach_of_others() {
    let home = tempfile::tempdir().expect("a folder");
    let shared = home.path().join("shared");
    fs::create_dir(&shared).expect("made");
    let own = fs::metadata(&shared).expect("a folder");
    let access = Access {
        owner: Some((own.uid(), own.gid())),
        ..ACCESS
    };
    let path = shared.join("one/two");
    let set_mode = |mode| fs::set_permissions(&shared, fs::Permissions::from_mode(mode));
    let refused = || {
        let error = Folder::open(&path, access)
            .expect_err("in reach")
            .to_string();
        assert!(
            error.contains(&format!("{}: with --owner", shared.display())),
            "{error}"
        );
    };
    set_mode(0o777).expect("set");
    refused();
    assert_eq!(entries(&shared), [""; 0], "nothing is made in it");
    set_mode(0o1777).expect("set");
    drop(Folder::open(&path, access).expect("others replace only their own names"));
    // Also where the folder is there already.
    set_mode(0o770).expect("set");
    refused();
    if rustix::process::geteuid().is_root() {
        set_mode(0o755).expect("set");
        chown(&shared, Some(101), None).expect("given away");
        refused();
    }
}

#[test]
fn with_an_owner_files_are_given_away_and_the_folder_is_not() {
    let home = tempfile::tempdir().expect("a folder");
    let own = fs::metadata(home.path()).expect("a folder");
    // Only root gives files away.
    let owner = match rustix::process::geteuid().is_root() {
        true => (101, 102),
        false => (own.uid(), own.gid()),
    };
    let access = Access {
        mode: 0o664,
        secret_mode: 0o600,
        owner: Some(owner),
    };
    let path = home.path().join("out");
    // A mode that lets a group write is that of the files, and not of the folder.
    drop(Folder::open(&path, access).expect("made"));
    let folder = Arc::new(Folder::open(&path, access).expect("there"));
    assert!(publish(&folder, &[file("a/b", "1"), file("c", "1")]));
    assert!(
        publish(&folder, &[file("a/b", "1"), file("c", "2")]),
        "one is linked"
    );
    assert!(!publish(&folder, &[file("a/b", "1"), file("c", "2")]));
    for (name, mode) in [("", 0o775), ("a", 0o775), ("a/b", 0o664), ("c", 0o664)] {
        let found = fs::metadata(path.join("current").join(name)).expect("there");
        assert_eq!((found.uid(), found.gid()), owner, "{name}");
        assert_eq!(found.mode() & 0o777, mode, "{name}");
    }
    for name in ["", ".generations", ".generations/.lock"] {
        let found = fs::metadata(path.join(name)).expect("there");
        assert_eq!(
            (found.uid(), found.mode() & 0o022),
            (own.uid(), 0),
            "{name}"
        );
    }
}

/// A link of the owner in place of a file is neither followed nor kept.
#[test]
fn a_file_that_became_a_link_is_written_again() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path();
    let folder = open(path);
    assert!(publish(&folder, &[file("a", "1")]));
    fs::rename(path.join("current/a"), path.join("elsewhere")).expect("moved");
    symlink(path.join("elsewhere"), path.join("current/a")).expect("a link");
    assert!(publish(&folder, &[file("a", "1")]));
    let found = fs::symlink_metadata(path.join("current/a")).expect("there");
    assert!(found.is_file());
}

/// A lock of a folder is not seen by other hosts of NFS and SMB.
#[test]
fn the_file_in_the_folder_is_locked_too_and_its_loss_is_noticed() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path();
    let folder = open(path);
    let lock = path.join(".generations/.lock");
    let other = fs::File::open(&lock).expect("there");
    assert!(matches!(
        other.try_lock(),
        Err(fs::TryLockError::WouldBlock)
    ));
    fs::remove_file(&lock).expect("removed");
    let error = Generation::begin(&folder)
        .expect_err("the lock is lost")
        .to_string();
    assert!(error.contains("start this one again"), "{error}");
    drop(folder);
    let _other_host = fs::File::create(&lock).and_then(|file| {
        file.try_lock()?;
        Ok(file)
    });
    let error = Folder::open(path, ACCESS).expect_err("locked").to_string();
    assert!(error.contains("give each its own folder"), "{error}");
}

/// Such as on a file system without links: another device has none of this one.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_linked_is_no_change() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path();
    let folder = open(path);
    assert!(publish(&folder, &[file("a", "1")]));
    let elsewhere = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let (first, moved) = (path.join(".generations/0000000001"), elsewhere.path());
    fs::copy(first.join("a"), moved.join("a")).expect("copied");
    fs::remove_dir_all(&first).expect("removed");
    symlink(moved, &first).expect("a link");
    assert!(!publish(&folder, &[file("a", "1")]));
    assert!(publish(&folder, &[file("a", "2")]));
}

#[test]
fn what_is_no_generation_is_in_nobodys_way() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = open(home.path());
    let inside = home.path().join(".generations");
    fs::write(inside.join("0000000009.part"), "a file").expect("written");
    assert!(publish(&folder, &[file("a", "1")]));
    fs::create_dir(inside.join(u64::MAX.to_string())).expect("made");
    let error = Generation::begin(&folder).expect_err("no number is left");
    assert!(error.to_string().contains("highest number"), "{error}");
}
