//! `confcast restore-epoch`: declares that the store of a publisher was replaced. It never changes a
//! document.

mod effect;

use anyhow::ensure;
use client::Endpoint;
use contract::{
    Head,
    fleet::{EpochDeclared, RestoreEpochRequest},
};

use self::effect::Effect;
use super::confirmation;
use crate::{output, target::Target};

/// Begin a new epoch after the database was replaced
///
/// Replicas never go back: while the store holds less than they have seen, they serve their last
/// good values and report it. A new epoch makes every replica load the store as it is now. There
/// are two cases:
///
/// The database was restored from a dump. Publishers detect this themselves when a replica checks
/// in that can prove more than the store holds. Without --adopt this command does the same at once,
/// for instance when no replica is left that could report it. Where no replica can prove an epoch
/// that was lost, --counter says how high its counter may have been.
///
/// The publisher uses another database, or a blank one. Replicas then report `other-store` and keep
/// their values. First check that the store URL is right. If this store is meant to replace what
/// the replicas hold, --adopt makes it a continuation of the history that they follow, so that they
/// load it. A store without documents is refused unless --empty is given: first take what is lost from a
/// replica (`confcast backup create` with the replica as --publisher, then `confcast restore`, which takes
/// over the lineage as well). --adopt names that history by its lineage, the first part of an epoch;
/// --adopt without a name declares nothing and lists the lineages of the replicas.
///
/// A counter may also be near its end, because a clock was wrong or was set by hand. Where no counter
/// is left, --renew begins a new lineage. It records the one that it replaces, so that the replicas
/// that follow it load the store; replicas of other stores still refuse it.
///
/// Without --yes the command first shows the store and which replicas will load it or refuse it, and
/// asks; where there is no terminal it then declares nothing, and the exit code is 1. The publisher
/// refuses while documents and heads do not agree, for instance in the middle of a restore. Try again
/// later.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreEpoch {
    /// Make the replicas that follow this lineage of another store load this one
    #[arg(long, value_name = "LINEAGE", num_args = 0..=1, default_missing_value = "")]
    adopt: Option<String>,
    /// Let --adopt make the replicas load a store without documents: they lose what they hold
    #[arg(long, requires = "adopt")]
    empty: bool,
    /// The highest counter that a lost epoch may have had, at most a day (in milliseconds) after the
    /// clock of the publisher
    #[arg(long, value_name = "COUNTER")]
    counter: Option<u64>,
    /// Begin a new lineage because the counters of this one are near their end; the replicas of the
    /// store follow it
    #[arg(long, conflicts_with_all = ["adopt", "counter"])]
    renew: bool,
    /// Do not ask for confirmation; required where there is no terminal
    #[arg(long)]
    yes: bool,
    /// Print JSON instead of a sentence
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl RestoreEpoch {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let (heads, effect) = gather(&publisher, self.adopt.as_deref()).await?;
        // Without a name nothing is adopted, and the lineages are listed.
        if self.adopt.as_deref() == Some("") {
            for line in effect.lines() {
                output::result(line)?;
            }
            return Ok(());
        }
        if self.adopt.is_some() && !self.empty {
            ensure_not_empty(&heads)?;
        }
        if !self.yes {
            for line in preview(&publisher, &heads, &effect) {
                output::note(line);
            }
            confirmation::ask("declare the epoch")?;
        }
        let request = RestoreEpochRequest {
            adopt: self.adopt,
            counter: self.counter,
            renew: self.renew,
        };
        let declared = declare(&publisher, &request).await?;
        if self.json {
            return output::json(&declared);
        }
        output::result(format_args!("the epoch is now {}", declared.epoch))?;
        for line in effect.lines() {
            output::result(line)?;
        }
        Ok(())
    }
}

/// The heads of the store, and what the new epoch will do to the replicas.
async fn gather(publisher: &Endpoint, adopt: Option<&str>) -> anyhow::Result<(Vec<Head>, Effect)> {
    let heads = publisher.heads().await?;
    // An older publisher does not list its replicas.
    let replicas = publisher.replicas().await?;
    let replicas = replicas.map_or_else(Vec::new, |list| list.replicas);
    let effect = Effect::new(&heads, adopt, &replicas);
    Ok((heads, effect))
}

/// # Errors
/// When the store has no document: the replicas may hold the last copy.
fn ensure_not_empty(heads: &[Head]) -> anyhow::Result<()> {
    ensure!(
        heads.iter().any(|head| head.count > 0),
        "the store has no documents, and the replicas would lose theirs. If they are lost, take them from a \
         replica: run `confcast backup create` with the replica as --publisher, then `confcast restore`. If \
         the replicas are to have none, add --empty"
    );
    Ok(())
}

/// What will be done, and to which replicas.
fn preview(publisher: &Endpoint, heads: &[Head], effect: &Effect) -> Vec<String> {
    let documents: u64 = heads.iter().map(|head| head.count).sum();
    let mut lines = vec![format!(
        "the store of {} has {documents} documents. A new epoch ends its history: positions of the \
         change feed before it are no longer valid, and replicas get exactly these documents",
        publisher.base()
    )];
    lines.extend(effect.lines());
    if effect.shows_no_loss() {
        lines.push(
            "no replica has seen more than this store has: nothing shows that its database was \
             restored or replaced"
                .to_owned(),
        );
    }
    lines
}

async fn declare(
    publisher: &Endpoint,
    request: &RestoreEpochRequest,
) -> anyhow::Result<EpochDeclared> {
    let declared = publisher.declare_epoch(request).await;
    declared.map_err(|error| crate::commands::explained(publisher, error, "POST /v1/epoch"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_publisher::FakePublisher;

    #[tokio::test]
    async fn a_publisher_declares_an_epoch_or_refuses() {
        let publisher = FakePublisher::start().await;
        let adopt = RestoreEpochRequest {
            adopt: Some("1a2b3c4d".to_owned()),
            counter: Some(7),
            renew: false,
        };
        let declared = declare(&publisher.endpoint(), &adopt)
            .await
            .expect("declared");
        assert_eq!(declared.epoch.to_string(), "00000001-2");
        let refused = declare(&publisher.endpoint(), &RestoreEpochRequest::default())
            .await
            .expect_err("too soon")
            .to_string();
        assert!(
            refused.contains("(409): documents and heads do not agree yet"),
            "{refused}"
        );
        assert_eq!(
            publisher.epoch_requests(),
            [adopt, RestoreEpochRequest::default()]
        );
    }

    #[test]
    fn a_store_without_documents_replaces_nothing_unasked() {
        let head = |count| Head {
            count,
            ..Head::empty(
                "A".parse().expect("a name"),
                "00000001-1".parse().expect("an epoch"),
            )
        };
        let refused = ensure_not_empty(&[head(0)]).expect_err("empty").to_string();
        assert!(refused.contains("confcast backup create") && refused.contains("--empty"));
        assert!(ensure_not_empty(&[]).is_err());
        ensure_not_empty(&[head(0), head(1)]).expect("a document");
    }

    #[tokio::test]
    async fn the_preview_says_when_nothing_shows_a_loss() {
        use crate::fake_publisher::replicas::record;
        let publisher = FakePublisher::start().await;
        publisher.has_replicas(vec![record("a", None, 0)]);
        let endpoint = publisher.endpoint();
        let (heads, effect) = gather(&endpoint, None).await.expect("answers");
        let lines = preview(&endpoint, &heads, &effect).join("\n");
        assert!(
            lines.contains("check-in: a") && lines.contains("nothing shows"),
            "{lines}"
        );
        assert_eq!(publisher.epoch_requests(), []);
    }
}
