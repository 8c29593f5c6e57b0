//! A write is one span, from its request until its event is published.

use publisher::embed::Context;

use super::{
    Outcome,
    log::log,
    testbed::{AGENTS, SKILLS, create, with_publisher},
};

#[tokio::test]
async fn commit_and_publication_of_a_write_are_inside_its_span() -> Outcome {
    let log = log();
    with_publisher(&[], async |testbed| {
        let mut unit = testbed.changes.unit(Context::default());
        unit.publish(create(SKILLS, "in-a-span")).await?;
        let span = "write{collection=Skills id=in-a-span revision=1}";
        log.line(&[span, "a change is committed"]).await?;
        log.line(&[span, "the event of a change is published"])
            .await?;

        unit.publish_batch_after_commit([create(SKILLS, "a"), create(AGENTS, "b")]);
        let set = unit.commit().await?;
        let span = format!("write{{set=\"{}\" changes=2}}", set.id);
        for id in ["id=a", "id=b"] {
            log.line(&[&span, "a change is committed", id]).await?;
            log.line(&[&span, "the event of a change is published", id])
                .await?;
        }
        Ok(())
    })
    .await
}
