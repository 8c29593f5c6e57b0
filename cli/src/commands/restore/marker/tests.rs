use contract::Epoch;

use super::*;
use crate::{backup_file::Header, fake_publisher::FakePublisher};

/// Restores of all collections of a store with documents.
struct Restores {
    fake: FakePublisher,
    heads: Vec<Head>,
}

impl Restores {
    async fn new() -> Self {
        let epoch: Epoch = "9f86d081-7".parse().expect("an epoch");
        let head = Head {
            count: 3,
            ..Head::empty("Skills".parse().expect("a name"), epoch)
        };
        Self {
            fake: FakePublisher::start().await,
            heads: vec![head],
        }
    }

    /// One of the backup with this checksum.
    async fn find(&self, backup: &[u8], changes: bool) -> Marker {
        let backup = Backup {
            header: Header::now(self.heads[0].epoch, self.heads.clone(), None),
            documents: 3,
            sha256: Sha256::of(&[backup]),
            encrypted: false,
        };
        let selection = backup.header.collections().cloned().collect();
        let publisher = self.fake.endpoint();
        let found = Marker::find(&publisher, &backup, &selection, &self.heads, changes);
        found.await.expect("an answer")
    }

    async fn begin(&self, marker: &Marker) -> Option<String> {
        let begun = marker.begin(&self.fake.endpoint()).await;
        begun.expect("begun")
    }

    async fn end(&self, marker: &Marker) -> anyhow::Result<()> {
        marker.end(&self.fake.endpoint()).await
    }

    async fn snapshots(&self, prefix: &str) -> Vec<String> {
        let snapshots = self.fake.endpoint().snapshots().await.expect("an answer");
        let names = snapshots.iter().map(|snapshot| snapshot.name.to_string());
        names.filter(|name| name.starts_with(prefix)).collect()
    }
}

#[tokio::test]
async fn a_restore_of_the_same_backup_keeps_every_way_back() {
    let restores = Restores::new().await;
    let mut kept = Vec::new();
    for _again in 0..2 {
        let restore = restores.find(b"one", true).await;
        let before = restores.begin(&restore).await.expect("a state before");
        // It is killed, and given again.
        let again = restores.find(b"one", true).await;
        assert_eq!(restores.begin(&again).await, Some(before.clone()));
        restores.end(&again).await.expect("ended");
        kept.push(before);
        assert_eq!(restores.snapshots("").await, kept);
    }
    // A restore that changes no document, and only declares an epoch, has no state to go back to.
    let nothing = restores.find(b"one", false).await;
    assert_eq!(restores.begin(&nothing).await, None);
    restores.end(&nothing).await.expect("ended");
    assert_eq!(restores.snapshots("").await, kept);
}

#[tokio::test]
async fn of_two_restores_at_once_none_removes_a_mark() {
    let restores = Restores::new().await;
    let one = restores.find(b"one", true).await;
    let two = restores.find(b"two", true).await;
    for restore in [&one, &two] {
        restores.begin(restore).await;
    }
    for restore in [&one, &two] {
        let refused = restores
            .end(restore)
            .await
            .expect_err("the other")
            .to_string();
        assert!(refused.contains("another restore began"), "{refused}");
        assert_eq!(restores.snapshots(UNFINISHED).await.len(), 2);
    }
    // The next one replaces both.
    let last = restores.find(b"two", true).await;
    restores.begin(&last).await;
    restores.end(&last).await.expect("alone");
    assert!(restores.snapshots(UNFINISHED).await.is_empty());
    let refused = restores.end(&one).await.expect_err("ended").to_string();
    assert!(refused.contains("another restore ended"), "{refused}");
}
