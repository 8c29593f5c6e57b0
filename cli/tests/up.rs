//! `confcast up` and its child processes, which are scripts here: what happens when one child ends,
//! and when all children have to stop.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A folder with `confcast`, and with the given scripts as its services.
fn services_folder(publisher: &str, subscriber: &str) -> TempDir {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    fs::hard_link(
        env!("CARGO_BIN_EXE_confcast"),
        folder.path().join("confcast"),
    )
    .expect("the program");
    for (name, script) in [("publisher", publisher), ("subscriber", subscriber)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/services")
            .join(script);
        assert!(
            path.metadata()
                .is_ok_and(|about| about.permissions().mode() & 0o111 != 0),
            "{script} is executable"
        );
        symlink(path, folder.path().join(name)).expect("a service");
    }
    fs::create_dir(folder.path().join("schemas")).expect("schemas");
    folder
}

fn up(folder: &TempDir) -> Child {
    // The scripts listen on nothing, so the ports need only be free at this moment.
    let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [publisher, one, two] =
        ports.map(|port| port.local_addr().expect("bound").port().to_string());
    Command::new(folder.path().join("confcast"))
        .args([
            "up",
            "--publisher-port",
            &publisher,
            "--subscriber-port",
            &one,
            "--subscriber-port",
            &two,
        ])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("confcast runs")
}

/// Reads lines until all three services have printed their process ids.
fn pids(stderr: &mut impl BufRead) -> Vec<String> {
    let mut pids: Vec<String> = vec![];
    while pids.len() < 3 {
        let mut line = String::new();
        assert!(
            stderr.read_line(&mut line).expect("text") > 0,
            "confcast ended early; {pids:?}"
        );
        pids.extend(
            line.trim()
                .rsplit_once("pid ")
                .map(|(_, pid)| pid.to_owned()),
        );
    }
    pids
}

fn runs(pid: &str) -> bool {
    // A zombie waits for a reaper, it does not run.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{name} {}", child.id())])
        .status();
    assert!(sent.expect("sh runs").success());
}

#[test]
fn children_end_with_confcast_even_when_it_is_killed() {
    let folder = services_folder("runs", "runs");
    let mut confcast = up(&folder);
    let mut stderr = BufReader::new(confcast.stderr.take().expect("piped"));
    let pids = pids(&mut stderr);
    assert!(pids.iter().all(|pid| runs(pid)), "{pids:?}");
    signal(&confcast, "KILL");
    confcast.wait().expect("killed");
    let deadline = Instant::now() + Duration::from_secs(10);
    while pids.iter().any(|pid| runs(pid)) {
        assert!(Instant::now() < deadline, "still there: {pids:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_stop_signal_stops_all_children_and_succeeds() {
    let folder = services_folder("runs", "runs");
    let mut confcast = up(&folder);
    let mut stderr = BufReader::new(confcast.stderr.take().expect("piped"));
    let pids = pids(&mut stderr);
    signal(&confcast, "INT");
    assert!(confcast.wait().expect("ended").success());
    assert!(!pids.iter().any(|pid| runs(pid)), "{pids:?}");
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("text");
    assert!(
        rest.contains("subscriber-2 | finishing"),
        "the services must stop by themselves: {rest}"
    );
}

#[test]
fn a_child_that_ends_stops_all_and_fails() {
    let folder = services_folder("runs", "ends");
    let ended = up(&folder).wait_with_output().expect("ended");
    // Either subscriber may be first; the other may then be stopped before it says anything.
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(" | 2 settings are wrong") && stderr.contains("exit status: 64"),
        "{stderr}"
    );
}

#[test]
fn a_port_in_use_is_reported_before_anything_starts() {
    let folder = services_folder("runs", "runs");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let ended = Command::new(folder.path().join("confcast"))
        .args(["up", "--publisher-port", &port])
        .current_dir(folder.path())
        .output()
        .expect("confcast runs");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(
        !ended.status.success()
            && stderr.contains(&format!("port {port}"))
            && !stderr.contains("pid"),
        "{stderr}"
    );
}
