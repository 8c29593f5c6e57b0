//! The list of replicas.

use chrono::TimeDelta;
use contract::{
    fleet::ReplicaList,
};

use super::*;

#[tokio::test]
async fn the_newest_check_in_is_listed_at_once_and_after_a_restart() {
    let testbed = Testbed::new().await;
    let epoch = testbed.head(FREE).await.epoch;
    for revision in 0..2 {
        testbed
            .check_in("a", report(epoch, revision, Digest::default()))
            .await;
    }
    testbed
        .check_in("b", report(epoch, 0, Digest::default()))
        .await;
    let revisions = |fleet: ReplicaList| -> Vec<_> {
        fleet
            .replicas
            .iter()
            .map(|m| {
                (
                    m.check_in.instance.clone(),
                    m.check_in.collections[&name(FREE)].revision,
                )
            })
            .collect()
    };
    let expected = vec![("a".to_owned(), 1), ("b".to_owned(), 0)];
    assert_eq!(
        revisions(testbed.fleet.list().await.expect("a fleet")),
        expected
    );
    let written = async {
        while testbed.store.members().await.expect("rows").len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written)
        .await
        .expect("written in time");
    let (_file, testbed) = testbed.dump().await;
    assert_eq!(
        revisions(testbed.fleet.list().await.expect("a fleet")),
        expected
    );
    testbed
        .store
        .forget_members(Utc::now() + TimeDelta::seconds(1))
        .await
        .expect("forgotten");
    assert!(testbed.store.members().await.expect("rows").is_empty());
}
