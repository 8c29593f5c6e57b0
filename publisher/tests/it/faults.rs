//! Units of work that meet each other, are let go half-way, come in a flood, or come too late.

use std::{
    future::Future,
    pin::pin,
    task::{Context as Poller, Poll, Waker},
};

use futures_util::future::join_all;
use publisher::embed::{Change, ChangeSetWritten, Changes, Context, Failure, Reason, Unit};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    Outcome,
    stage::{AGENTS, SKILLS, create, with_publisher},
};

fn pair(changes: &Changes, id: &str) -> Unit {
    let mut unit = changes.unit(Context::default());
    unit.publish_batch_after_commit([create(SKILLS, id), create(AGENTS, id)]);
    unit
}

#[tokio::test]
async fn of_two_units_that_expect_the_same_one_wins() -> Outcome {
    with_publisher(&[], async |stage| {
        pair(&stage.changes, "a").commit().await?;
        for revision in 1..=20 {
            let contender = |name: &str| -> anyhow::Result<Unit> {
                let mut unit = stage.changes.unit(Context::default());
                for collection in [SKILLS, AGENTS] {
                    let value = json!({"by": name, "revision": revision});
                    unit.publish_after_commit(
                        Change::update(collection, "a", &value)?.expecting(revision),
                    );
                }
                Ok(unit)
            };
            let (one, two) = tokio::join!(contender("one")?.commit(), contender("two")?.commit());
            let (winner, lost) = match (one, two) {
                (Ok(_done), Err(lost)) => ("one", lost),
                (Err(lost), Ok(_done)) => ("two", lost),
                (one, two) => anyhow::bail!("{one:?} {two:?}"),
            };
            assert_eq!(
                (lost.reason, lost.index()),
                (Reason::ConditionFailed, Some(0))
            );
            for collection in [SKILLS, AGENTS] {
                let held = stage.read(collection, "a").await?.unwrap_or_default();
                assert_eq!(held["configData"]["by"], winner);
            }
        }
        Ok(())
    })
    .await
}

/// Polls a commit so many times, and lets it go.
async fn let_go(commit: impl Future<Output = Result<ChangeSetWritten, Failure>>, polls: usize) {
    let mut commit = pin!(commit);
    for _poll in 0..polls {
        if commit
            .as_mut()
            .poll(&mut Poller::from_waker(Waker::noop()))
            .is_ready()
        {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_commit_that_is_let_go_happens_whole_or_not_at_all() -> Outcome {
    with_publisher(&[], async |stage| {
        let_go(pair(&stage.changes, "never-begun").commit(), 0).await;
        for polls in 1..=20 {
            let_go(
                pair(&stage.changes, &format!("polled-{polls}")).commit(),
                polls,
            )
            .await;
        }
        let mut handlers = JoinSet::new();
        let (before, after) = (
            pair(&stage.changes, "before-a-panic"),
            pair(&stage.changes, "amid-a-panic"),
        );
        handlers.spawn(async move {
            let _held = before;
            panic!("on purpose");
        });
        handlers.spawn(async move {
            let mut commit = pin!(after.commit());
            let begun = commit.as_mut().poll(&mut Poller::from_waker(Waker::noop()));
            assert!(begun == Poll::Pending, "on purpose");
            panic!("on purpose");
        });
        while handlers.join_next().await.is_some() {}

        // The queue is one: what comes now is decided after all that began before.
        pair(&stage.changes, "last").commit().await?;
        let ids = |log: Vec<contract::Change>| {
            log.into_iter()
                .map(|change| change.id.to_string())
                .collect::<Vec<_>>()
        };
        let (skills, agents) = (ids(stage.log(SKILLS).await?), ids(stage.log(AGENTS).await?));
        assert_eq!(skills, agents, "no half of any");
        let mut expected: Vec<_> = (1..=20).map(|polls| format!("polled-{polls}")).collect();
        expected.extend(["amid-a-panic".to_owned(), "last".to_owned()]);
        assert_eq!(skills, expected);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_flood_is_told_to_come_back_and_nothing_is_lost() -> Outcome {
    with_publisher(&["--events-enabled", "false"], async |stage| {
        let unit = stage.changes.unit(Context::default());
        let ids: Vec<_> = (0..4_200).map(|n| n.to_string()).collect();
        let done = join_all(ids.iter().map(|id| unit.publish(create(SKILLS, id)))).await;
        let refused: Vec<_> = done.iter().filter_map(|done| done.as_ref().err()).collect();
        assert!(
            !refused.is_empty() && refused.len() < 1_000,
            "{} of {}",
            refused.len(),
            done.len()
        );
        assert!(
            refused.iter().all(|failure| failure.reason == Reason::Busy),
            "{:?}",
            refused[0]
        );
        for (id, done) in ids.iter().zip(&done).rev().take(300) {
            assert_eq!(
                stage.read(SKILLS, id).await?.is_some(),
                done.is_ok(),
                "{id}"
            );
        }
        let next = unit.publish(create(SKILLS, "next")).await?;
        assert_eq!(
            next.revision,
            (done.len() - refused.len()) as u64 + 1,
            "all others, and once"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_unit_that_outlives_its_publisher_is_told_so() -> Outcome {
    let mut kept = None;
    with_publisher(&[], async |stage| {
        kept = Some(pair(&stage.changes, "late"));
        Ok(())
    })
    .await?;
    let late = kept
        .expect("a unit")
        .commit()
        .await
        .expect_err("it has ended");
    assert_eq!(late.reason, Reason::Stopping);
    Ok(())
}
