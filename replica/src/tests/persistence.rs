//! The last known good configuration: what a replica serves when everything is down, and what it
//! does not trust.

use super::*;

fn with_directory(publishers: Vec<Url>, directory: &std::path::Path) -> Replica {
    Replica::new(Config {
        snapshot_dir: Some(directory.to_owned()),
        ..settings(publishers)
    })
    .expect("a client")
}

/// A directory with the image of a replica at revision 7.
async fn saved_image() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let body = snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]);
    with_listener(
        move |_path, _body| (200, body.clone()),
        async |url| {
            let replica = with_directory(vec![url], directory.path());
            following(&replica, eventually("loaded", || replica.view().loaded())).await;
        },
    )
    .await;
    directory
}

#[tokio::test]
async fn with_no_publisher_the_image_is_served_with_its_age() {
    let directory = saved_image().await;
    let replica = with_directory(vec![nobody()], directory.path());
    assert!(!replica.view().loaded());
    following(&replica, async {
        eventually("it serves", || replica.view().loaded()).await;
        let status = replica.status();
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":7}"#));
        assert_eq!(
            (status.state, status.collections[0].reason.as_deref()),
            (ReplicaState::Stale, Some("from-disk"))
        );
        assert!(
            status.confirmed_ms_ago.is_some_and(|ago| ago < 60_000),
            "{:?}",
            status.confirmed_ms_ago
        );
    })
    .await;
}

#[tokio::test]
async fn an_image_catches_up_by_the_feed_before_readers_see_it() {
    let directory = saved_image().await;
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    let answer = move |path: &str, _body: &[u8]| match path {
        "/v1/replicas/test" => (200, checked_in(8, &[])),
        "/v1/changes?since=A:7&epoch=0f86d081-1" => (
            200,
            feed_of(vec![change("x", 8, Some(json!({"v": 8})))], false),
        ),
        _ => {
            counted.fetch_add(1, Ordering::Relaxed);
            (503, String::new())
        }
    };
    with_listener(answer, async |url| {
        let replica = with_directory(vec![url], directory.path());
        following(&replica, async {
            eventually("it serves", || replica.view().loaded()).await;
            assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":8}"#));
            assert_eq!(replica.status().state, ReplicaState::Current);
        })
        .await;
        assert_eq!(loads.load(Ordering::Relaxed), 0, "no full load was needed");
    })
    .await;
}

#[tokio::test]
async fn only_the_user_of_the_process_reads_the_file() {
    use std::os::unix::fs::PermissionsExt;

    let directory = saved_image().await;
    let file = std::fs::metadata(directory.path().join("last-known-good")).expect("a file");
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside_and_not_used() {
    let directory = saved_image().await;
    let file = directory.path().join("last-known-good");
    let mut bytes = std::fs::read(&file).expect("a file");
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&file, &bytes).expect("written");
    let replica = with_directory(vec![nobody()], directory.path());
    following(
        &replica,
        eventually("it tried", || replica.status().last_error.is_some()),
    )
    .await;
    assert_eq!(replica.status().state, ReplicaState::Loading);
    assert!(!file.exists());
    assert_eq!(
        std::fs::read(directory.path().join("last-known-good.damaged")).expect("kept"),
        bytes
    );
}

#[tokio::test]
async fn a_blank_store_does_not_replace_the_image() {
    let directory = saved_image().await;
    let blank = "11111111-1";
    let answer = move |path: &str, _body: &[u8]| match path {
        "/v1/replicas/test" => {
            let heads = vec![head("A", blank, 0, &[]), head("B", blank, 0, &[])];
            (200, json!({"heads": heads, "age": 0}).to_string())
        }
        _ => (200, snapshot_of(blank, 0, &[])),
    };
    with_listener(answer, async |url| {
        let replica = with_directory(vec![url], directory.path());
        following(&replica, async {
            eventually("it serves", || replica.view().loaded()).await;
            eventually("it asked", || replica.status().last_error.is_some()).await;
            let status = replica.status();
            assert_eq!(
                (status.state, status.collections[0].reason.as_deref()),
                (ReplicaState::Stale, Some("other-store"))
            );
            assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":7}"#));
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_copy_that_cannot_be_written_is_reported_until_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().join("copies");
    std::fs::write(&folder, "no folder").expect("written");
    with_listener(
        |_path, _body| (200, snapshot_of(EPOCH, 7, &[])),
        async |url| {
            let replica = with_directory(vec![url], &folder);
            assert_eq!(replica.copy_on_disk(), Some(crate::CopyOnDisk::default()));
            // It writes at the end.
            following(
                &replica,
                eventually("it is loaded", || replica.view().loaded()),
            )
            .await;
            let copy = replica.copy_on_disk().expect("there is a directory");
            assert_eq!((copy.age, copy.failed), (None, true));
            std::fs::remove_file(&folder).expect("removed");
            replica.persistence().save_last().await;
            let copy = replica.copy_on_disk().expect("there is a directory");
            assert!(copy.age.is_some() && !copy.failed, "{copy:?}");
        },
    )
    .await;
    let without = Replica::new(settings(vec![nobody()])).expect("a client");
    assert_eq!(without.copy_on_disk(), None);
}
