//! What a unit of work publishes, and when.

use publisher::embed::{ChangeRequest, ChangeSetWritten, Context, ProblemKind, Unit, WriteError};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    Outcome,
    testbed::{AGENTS, SKILLS, context, create, with_publisher},
};

#[tokio::test]
async fn queued_changes_are_published_by_the_commit_only() -> Outcome {
    with_publisher(&[], async |testbed| {
        let mut rolled_back = testbed.changes.unit(context());
        rolled_back.publish_batch_after_commit([create(SKILLS, "a"), create(AGENTS, "a")]);
        rolled_back.rollback();
        let mut dropped = testbed.changes.unit(context());
        dropped.publish_after_commit(create(SKILLS, "b"));
        drop(dropped);

        let mut unit = testbed.changes.unit(context());
        unit.publish_after_commit(create(SKILLS, "z"));
        unit.publish_batch_after_commit([create(AGENTS, "y"), create(SKILLS, "x")]);
        assert_eq!(
            testbed.log(SKILLS).await?.len(),
            0,
            "nothing is published before the commit"
        );
        let written = unit.commit().await?;
        let items: Vec<_> = written
            .items
            .iter()
            .map(|item| (item.id.as_str(), item.revision))
            .collect();
        assert_eq!(items, [("z", 1), ("y", 1), ("x", 2)]);

        let (skills, agents) = (testbed.log(SKILLS).await?, testbed.log(AGENTS).await?);
        let ids: Vec<_> = skills
            .iter()
            .chain(&agents)
            .map(|change| change.id.as_str())
            .collect();
        assert_eq!(
            ids,
            ["z", "x", "y"],
            "in order, and nothing of the other units"
        );
        for change in skills.iter().chain(&agents) {
            assert_eq!(change.context, context());
            assert_eq!(
                change.change_set.as_ref().map(|set| &set.id),
                Some(&written.id)
            );
        }
        let mut events = [
            testbed.event().await?,
            testbed.event().await?,
            testbed.event().await?,
        ];
        events.sort_by_key(|event| event["id"].to_string());
        let ids: Vec<_> = events.iter().map(|event| &event["data"]["id"]).collect();
        assert_eq!(ids, [&json!("y"), &json!("z"), &json!("x")]);
        for event in &events {
            let data = &event["data"];
            let members = [
                &event["correlationid"],
                &data["correlationId"],
                &data["userId"],
                &data["organisationId"],
            ];
            assert_eq!(members, ["order-66", "order-66", "ada", "hectare"]);
        }
        assert_eq!(testbed.another_event(), None);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_change_that_is_published_now_is_committed_when_the_call_returns() -> Outcome {
    with_publisher(&[], async |testbed| {
        let mut unit = testbed.changes.unit(Context::default());
        unit.publish_after_commit(create(SKILLS, "later"));
        let item = unit.publish(create(SKILLS, "a")).await?;
        assert_eq!((item.id.as_str(), item.revision), ("a", 1));
        assert_eq!(
            testbed
                .read(SKILLS, "a")
                .await?
                .map(|held| held["revision"].clone()),
            Some(json!(1))
        );
        let batch = [
            ChangeRequest::update(SKILLS, "a", &json!({"metadata": {"one": 1}}))?.expecting(1),
            ChangeRequest::update(AGENTS, "new", &json!({}))?.expecting(0),
        ];
        assert_eq!(unit.publish_batch(batch).await?.items.len(), 2);
        unit.publish(ChangeRequest::patch(
            SKILLS,
            "a",
            &json!({"metadata": {"two": 2}}),
        )?)
        .await?;
        let held = testbed.read(SKILLS, "a").await?.unwrap_or_default();
        assert_eq!(
            held["configData"],
            json!({"metadata": {"one": 1, "two": 2}})
        );
        unit.publish(ChangeRequest::delete(SKILLS, "a")?).await?;
        assert_eq!(testbed.read(SKILLS, "a").await?, None);
        unit.rollback();
        assert_eq!(
            testbed.read(SKILLS, "later").await?,
            None,
            "queued changes are dropped by the rollback"
        );
        assert_eq!(testbed.log(SKILLS).await?.len(), 4);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_refused_change_refuses_its_set_and_is_named() -> Outcome {
    with_publisher(&["--document-limit-bytes", "1000"], async |testbed| {
        let unit = testbed.changes.unit(Context::default());
        unit.publish(create(SKILLS, "present")).await?;
        let faults = [
            (create(SKILLS, "present"), ProblemKind::Exists),
            (
                ChangeRequest::update(SKILLS, "absent", &json!({}))?,
                ProblemKind::NoData,
            ),
            (
                ChangeRequest::delete(SKILLS, "present")?.expecting(7),
                ProblemKind::ConditionFailed,
            ),
            (
                ChangeRequest::update(SKILLS, "present", &json!([]))?,
                ProblemKind::BadBody,
            ),
            (
                ChangeRequest::update(SKILLS, "present", &json!({"x": "x".repeat(1_000)}))?,
                ProblemKind::TooLarge,
            ),
            (create("Unknown", "a"), ProblemKind::UnknownCollection),
            (create(SKILLS, "first"), ProblemKind::BadSet),
        ];
        for (fault, kind) in faults {
            let batch = [create(SKILLS, "first"), create(AGENTS, "second"), fault];
            let now = unit
                .publish_batch(batch.clone())
                .await
                .expect_err("a fault");
            let mut later = testbed.changes.unit(Context::default());
            later.publish_batch_after_commit(batch);
            later.publish_after_commit(create(SKILLS, "after-it"));
            let later = later.commit().await.expect_err("a fault");
            assert_eq!((now.kind(), now.index()), (kind, Some(2)), "{now}");
            assert_eq!(later, now, "the error is the same, now or later");
        }
        let alone = unit
            .publish(create(SKILLS, "present"))
            .await
            .expect_err("it exists");
        assert_eq!(
            (alone.kind(), alone.index(), alone.kind().status()),
            (ProblemKind::Exists, None, 409)
        );
        assert!(
            alone.etag().is_some(),
            "the revision of the present document"
        );
        let no_document = ChangeRequest::update(SKILLS, "present", &json!([]))?;
        let no_document = unit.publish(no_document).await.expect_err("an array");
        assert_eq!(
            no_document.pointer().as_deref(),
            Some("/configData"),
            "the pointer begins at the change request"
        );
        assert_eq!(
            (
                testbed.log(SKILLS).await?.len(),
                testbed.log(AGENTS).await?.len()
            ),
            (1, 0)
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_unit_has_the_limits_of_a_change_set() -> Outcome {
    with_publisher(&[], async |testbed| {
        let numbered = |count: usize| (0..count).map(|n| create(SKILLS, &n.to_string()));
        let mut many = testbed.changes.unit(Context::default());
        many.publish_batch_after_commit(numbered(257));
        let many = many.commit().await.expect_err("too many");
        assert_eq!(
            (many.kind(), many.index()),
            (ProblemKind::SetTooLarge, Some(256))
        );

        let half_a_mebibyte = json!({"x": "x".repeat(1 << 19)});
        let mut large = testbed.changes.unit(Context::default());
        for n in 0..9 {
            large.publish_after_commit(ChangeRequest::create(
                SKILLS,
                &n.to_string(),
                &half_a_mebibyte,
            )?);
        }
        let large = large.commit().await.expect_err("too large");
        assert_eq!(
            (large.kind(), large.index()),
            (ProblemKind::SetTooLarge, Some(7))
        );
        assert_eq!(
            testbed.log(SKILLS).await?.len(),
            0,
            "nothing of the set was written"
        );

        let mut fits = testbed.changes.unit(Context::default());
        fits.publish_batch_after_commit(numbered(256));
        assert_eq!(fits.commit().await?.items.len(), 256);
        assert_eq!(
            testbed
                .changes
                .unit(Context::default())
                .commit()
                .await?
                .items,
            []
        );
        Ok(())
    })
    .await
}

#[test]
fn the_pointer_of_a_change_that_cannot_be_built_begins_at_the_change_request() {
    let too_large_a_number = json!({"a": {"b": u64::MAX}});
    let error = ChangeRequest::create(SKILLS, "a", &too_large_a_number).expect_err("invalid");
    let error = WriteError::from(error);
    assert_eq!(error.pointer().as_deref(), Some("/configData/a/b"));
}

/// The request handlers of a service run on many threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_move_between_threads() -> Outcome {
    async fn handler(mut unit: Unit, id: String) -> Result<ChangeSetWritten, WriteError> {
        unit.publish_after_commit(create(AGENTS, &id));
        unit.publish(create(SKILLS, &id)).await?;
        unit.commit().await
    }
    with_publisher(&[], async |testbed| {
        let mut handlers = JoinSet::new();
        for n in 0..50 {
            handlers.spawn(handler(testbed.changes.unit(context()), n.to_string()));
        }
        while let Some(outcome) = handlers.join_next().await {
            assert_eq!(outcome??.items.len(), 1);
        }
        assert_eq!(
            (
                testbed.log(SKILLS).await?.len(),
                testbed.log(AGENTS).await?.len()
            ),
            (50, 50)
        );
        Ok(())
    })
    .await
}
