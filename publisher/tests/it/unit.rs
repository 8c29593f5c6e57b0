//! What a unit of work leaves behind, and when.

use publisher::embed::{Change, ChangeSetWritten, Context, Failure, Reason, Unit};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    Outcome,
    stage::{AGENTS, SKILLS, context, create, with_publisher},
};

#[tokio::test]
async fn what_is_queued_leaves_with_the_commit_alone() -> Outcome {
    with_publisher(&[], async |stage| {
        let mut forgotten = stage.changes.unit(context());
        forgotten.publish_batch_after_commit([create(SKILLS, "a"), create(AGENTS, "a")]);
        forgotten.rollback();
        let mut dropped = stage.changes.unit(context());
        dropped.publish_after_commit(create(SKILLS, "b"));
        drop(dropped);

        let mut unit = stage.changes.unit(context());
        unit.publish_after_commit(create(SKILLS, "z"));
        unit.publish_batch_after_commit([create(AGENTS, "y"), create(SKILLS, "x")]);
        assert_eq!(stage.log(SKILLS).await?.len(), 0, "nothing leaves before");
        let done = unit.commit().await?;
        let items: Vec<_> = done
            .items
            .iter()
            .map(|item| (item.id.as_str(), item.revision))
            .collect();
        assert_eq!(items, [("z", 1), ("y", 1), ("x", 2)]);

        let (skills, agents) = (stage.log(SKILLS).await?, stage.log(AGENTS).await?);
        let ids: Vec<_> = skills
            .iter()
            .chain(&agents)
            .map(|change| change.id.as_str())
            .collect();
        assert_eq!(ids, ["z", "x", "y"], "in order, and nothing of the others");
        for change in skills.iter().chain(&agents) {
            assert_eq!(change.context, context());
            assert_eq!(
                change.change_set.as_ref().map(|set| &set.id),
                Some(&done.id)
            );
        }
        let mut told = [
            stage.event().await?,
            stage.event().await?,
            stage.event().await?,
        ];
        told.sort_by_key(|event| event["id"].to_string());
        let ids: Vec<_> = told.iter().map(|event| &event["data"]["id"]).collect();
        assert_eq!(ids, [&json!("y"), &json!("z"), &json!("x")]);
        for event in &told {
            let data = &event["data"];
            let said = [
                &event["correlationid"],
                &data["correlationId"],
                &data["userId"],
                &data["organisationId"],
            ];
            assert_eq!(said, ["order-66", "order-66", "ada", "hectare"]);
        }
        assert_eq!(stage.another_event(), None);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_published_now_is_there_when_it_returns() -> Outcome {
    with_publisher(&[], async |stage| {
        let mut unit = stage.changes.unit(Context::default());
        unit.publish_after_commit(create(SKILLS, "later"));
        let item = unit.publish(create(SKILLS, "a")).await?;
        assert_eq!((item.id.as_str(), item.revision), ("a", 1));
        assert_eq!(
            stage
                .read(SKILLS, "a")
                .await?
                .map(|held| held["revision"].clone()),
            Some(json!(1))
        );
        let batch = [
            Change::update(SKILLS, "a", &json!({"metadata": {"one": 1}}))?.expecting(1),
            Change::update(AGENTS, "new", &json!({}))?.expecting(0),
        ];
        assert_eq!(unit.publish_batch(batch).await?.items.len(), 2);
        unit.publish(Change::patch(
            SKILLS,
            "a",
            &json!({"metadata": {"two": 2}}),
        )?)
        .await?;
        let held = stage.read(SKILLS, "a").await?.unwrap_or_default();
        assert_eq!(
            held["configData"],
            json!({"metadata": {"one": 1, "two": 2}})
        );
        unit.publish(Change::delete(SKILLS, "a")?).await?;
        assert_eq!(stage.read(SKILLS, "a").await?, None);
        unit.rollback();
        assert_eq!(
            stage.read(SKILLS, "later").await?,
            None,
            "what was now is there, what was queued is not"
        );
        assert_eq!(stage.log(SKILLS).await?.len(), 4);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_failing_member_leaves_nothing_and_is_named() -> Outcome {
    with_publisher(&["--document-limit-bytes", "1000"], async |stage| {
        let unit = stage.changes.unit(Context::default());
        unit.publish(create(SKILLS, "there")).await?;
        let faults = [
            (create(SKILLS, "there"), Reason::Exists),
            (
                Change::update(SKILLS, "absent", &json!({}))?,
                Reason::NoData,
            ),
            (
                Change::delete(SKILLS, "there")?.expecting(7),
                Reason::ConditionFailed,
            ),
            (
                Change::update(SKILLS, "there", &json!([]))?,
                Reason::BadValue,
            ),
            (
                Change::update(SKILLS, "there", &json!({"x": "x".repeat(1_000)}))?,
                Reason::TooLarge,
            ),
            (create("Unknown", "a"), Reason::UnknownCollection),
            (create(SKILLS, "first"), Reason::BadChange),
        ];
        for (fault, reason) in faults {
            let batch = [create(SKILLS, "first"), create(AGENTS, "second"), fault];
            let now = unit
                .publish_batch(batch.clone())
                .await
                .expect_err("a fault");
            let mut later = stage.changes.unit(Context::default());
            later.publish_batch_after_commit(batch);
            later.publish_after_commit(create(SKILLS, "after-it"));
            let later = later.commit().await.expect_err("a fault");
            assert_eq!((now.reason, now.index()), (reason, Some(2)), "{now}");
            assert_eq!(later, now, "told the same, now or later");
        }
        let alone = unit
            .publish(create(SKILLS, "there"))
            .await
            .expect_err("it exists");
        assert_eq!(
            (alone.reason, alone.index(), alone.problem.status),
            (Reason::Exists, None, 409)
        );
        assert!(alone.problem.etag.is_some(), "with what HTTP says besides");
        let no_document = Change::update(SKILLS, "there", &json!([]))?;
        let no_document = unit.publish(no_document).await.expect_err("an array");
        assert_eq!(
            no_document.problem.pointer.as_deref(),
            Some("/configData"),
            "one pointer, wherever it shows"
        );
        assert_eq!(
            (
                stage.log(SKILLS).await?.len(),
                stage.log(AGENTS).await?.len()
            ),
            (1, 0)
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_unit_has_the_limits_of_a_set() -> Outcome {
    with_publisher(&[], async |stage| {
        let numbered = |count: usize| (0..count).map(|n| create(SKILLS, &n.to_string()));
        let mut many = stage.changes.unit(Context::default());
        many.publish_batch_after_commit(numbered(257));
        let many = many.commit().await.expect_err("too many");
        assert_eq!(
            (many.reason, many.index()),
            (Reason::SetTooLarge, Some(256))
        );

        let half_a_mebibyte = json!({"x": "x".repeat(1 << 19)});
        let mut large = stage.changes.unit(Context::default());
        for n in 0..9 {
            large.publish_after_commit(Change::create(SKILLS, &n.to_string(), &half_a_mebibyte)?);
        }
        let large = large.commit().await.expect_err("too large");
        assert_eq!(
            (large.reason, large.index()),
            (Reason::SetTooLarge, Some(7))
        );
        assert_eq!(
            stage.log(SKILLS).await?.len(),
            0,
            "nothing of it was written"
        );

        let mut fits = stage.changes.unit(Context::default());
        fits.publish_batch_after_commit(numbered(256));
        assert_eq!(fits.commit().await?.items.len(), 256);
        assert_eq!(
            stage.changes.unit(Context::default()).commit().await?.items,
            []
        );
        Ok(())
    })
    .await
}

#[test]
fn what_can_never_be_a_change_is_told_as_http_tells_it() {
    let nan_as_key = std::collections::BTreeMap::from([((1, 2), 3)]);
    for (made, reason, field) in [
        (
            Change::delete("a b", "a"),
            Reason::UnknownCollection,
            Some("collection"),
        ),
        (Change::delete(SKILLS, "a/b"), Reason::BadId, Some("id")),
        (
            Change::create(SKILLS, "a", &json!({"a": {"b": u64::MAX}})),
            Reason::BadValue,
            None,
        ),
        (
            Change::create(SKILLS, "a", &nan_as_key),
            Reason::BadValue,
            None,
        ),
    ] {
        let failure = Failure::from(made.expect_err("unfit"));
        assert_eq!(
            (failure.reason, failure.problem.field.as_deref()),
            (reason, field),
            "{failure}"
        );
    }
    let unfit = Change::create(SKILLS, "a", &json!({"a": {"b": u64::MAX}})).expect_err("unfit");
    assert_eq!(
        Failure::from(unfit).problem.pointer.as_deref(),
        Some("/configData/a/b")
    );
}

/// Handlers of a service run on many threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_go_from_thread_to_thread() -> Outcome {
    async fn handler(mut unit: Unit, id: String) -> Result<ChangeSetWritten, Failure> {
        unit.publish_after_commit(create(AGENTS, &id));
        unit.publish(create(SKILLS, &id)).await?;
        unit.commit().await
    }
    with_publisher(&[], async |stage| {
        let mut handlers = JoinSet::new();
        for n in 0..50 {
            handlers.spawn(handler(stage.changes.unit(context()), n.to_string()));
        }
        while let Some(done) = handlers.join_next().await {
            assert_eq!(done??.items.len(), 1);
        }
        assert_eq!(
            (
                stage.log(SKILLS).await?.len(),
                stage.log(AGENTS).await?.len()
            ),
            (50, 50)
        );
        Ok(())
    })
    .await
}
