//! Units of work that conflict, are dropped before they end, are too many, or come too late.

use std::{
    future::Future,
    pin::pin,
    task::{Context as Poller, Poll, Waker},
};

use futures_util::future::join_all;
use publisher::embed::{
    ChangeRequest, ChangeSetWritten, Changes, Context, ProblemKind, Unit, WriteError,
};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    Outcome,
    testbed::{AGENTS, SKILLS, create, with_publisher},
};

fn pair(changes: &Changes, id: &str) -> Unit {
    let mut unit = changes.unit(Context::default());
    unit.publish_batch_after_commit([create(SKILLS, id), create(AGENTS, id)]);
    unit
}

#[tokio::test]
async fn of_two_units_that_expect_the_same_revision_one_wins() -> Outcome {
    with_publisher(&[], async |testbed| {
        pair(&testbed.changes, "a").commit().await?;
        for revision in 1..=20 {
            let contender = |name: &str| -> anyhow::Result<Unit> {
                let mut unit = testbed.changes.unit(Context::default());
                for collection in [SKILLS, AGENTS] {
                    let value = json!({"by": name, "revision": revision});
                    unit.publish_after_commit(
                        ChangeRequest::update(collection, "a", &value)?.expecting(revision),
                    );
                }
                Ok(unit)
            };
            let (one, two) = tokio::join!(contender("one")?.commit(), contender("two")?.commit());
            let (winner, lost) = match (one, two) {
                (Ok(_), Err(lost)) => ("one", lost),
                (Err(lost), Ok(_)) => ("two", lost),
                (one, two) => anyhow::bail!("{one:?} {two:?}"),
            };
            assert_eq!(
                (lost.kind(), lost.index()),
                (ProblemKind::ConditionFailed, Some(0))
            );
            for collection in [SKILLS, AGENTS] {
                let stored = testbed.read(collection, "a").await?.unwrap_or_default();
                assert_eq!(stored["configData"]["by"], winner);
            }
        }
        Ok(())
    })
    .await
}

/// Polls a commit up to `polls` times and drops it.
async fn poll_and_drop(
    commit: impl Future<Output = Result<ChangeSetWritten, WriteError>>,
    polls: usize,
) {
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
async fn a_dropped_commit_happens_as_a_whole_or_not_at_all() -> Outcome {
    with_publisher(&[], async |testbed| {
        poll_and_drop(pair(&testbed.changes, "never-begun").commit(), 0).await;
        for polls in 1..=20 {
            poll_and_drop(
                pair(&testbed.changes, &format!("polled-{polls}")).commit(),
                polls,
            )
            .await;
        }
        let mut handlers = JoinSet::new();
        let before = pair(&testbed.changes, "before-a-panic");
        let during = pair(&testbed.changes, "during-a-panic");
        handlers.spawn(async move {
            let _held = before;
            panic!("on purpose");
        });
        handlers.spawn(async move {
            let mut commit = pin!(during.commit());
            let first_poll = commit.as_mut().poll(&mut Poller::from_waker(Waker::noop()));
            assert!(first_poll == Poll::Pending, "on purpose");
            panic!("on purpose");
        });
        while handlers.join_next().await.is_some() {}

        // There is one queue, so this commit is decided after all that were queued before.
        pair(&testbed.changes, "last").commit().await?;
        let ids = |log: Vec<contract::Change>| {
            log.into_iter()
                .map(|change| change.id.to_string())
                .collect::<Vec<_>>()
        };
        let skills = ids(testbed.log(SKILLS).await?);
        let agents = ids(testbed.log(AGENTS).await?);
        assert_eq!(skills, agents, "no set is written in part");
        let mut expected: Vec<_> = (1..=20).map(|polls| format!("polled-{polls}")).collect();
        expected.extend(["during-a-panic".to_owned(), "last".to_owned()]);
        assert_eq!(skills, expected);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn too_many_writes_are_refused_and_accepted_ones_are_not_lost() -> Outcome {
    with_publisher(&["--events-enabled", "false"], async |testbed| {
        let unit = testbed.changes.unit(Context::default());
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
            refused
                .iter()
                .all(|error| error.kind() == ProblemKind::Busy),
            "{:?}",
            refused[0]
        );
        for (id, done) in ids.iter().zip(&done).rev().take(300) {
            assert_eq!(
                testbed.read(SKILLS, id).await?.is_some(),
                done.is_ok(),
                "{id}"
            );
        }
        let next = unit.publish(create(SKILLS, "next")).await?;
        assert_eq!(
            next.revision,
            (done.len() - refused.len()) as u64 + 1,
            "all accepted writes, each once"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_unit_that_outlives_its_publisher_fails_with_stopping() -> Outcome {
    let mut kept = None;
    with_publisher(&[], async |testbed| {
        kept = Some(pair(&testbed.changes, "late"));
        Ok(())
    })
    .await?;
    let late = kept
        .expect("a unit")
        .commit()
        .await
        .expect_err("the publisher has stopped");
    assert_eq!(late, WriteError::Stopping);
    Ok(())
}
