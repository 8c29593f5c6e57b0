//! `confcast restore-epoch`: declares that the store of a publisher was replaced. It never changes a
//! document.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, ensure};
use client::Endpoint;
use contract::fleet::{EpochDeclared, RestoreEpochRequest};

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
/// load it, even if it is empty. It names that history by its lineage, the first part of the epoch
/// that `confcast status` shows for them; without a name the lineages are listed.
///
/// A counter may also be near its end, because a clock was wrong or was set by hand. Where no counter
/// is left, --renew begins a new lineage. It records the one that it replaces, so that the replicas
/// that follow it load the store; replicas of other stores still refuse it.
///
/// The publisher refuses while documents and heads do not agree, for instance in the middle
/// of a restore. Try again later.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreEpoch {
    /// Make the replicas that follow this lineage of another store load this one; asks for
    /// confirmation
    #[arg(long, value_name = "LINEAGE", num_args = 0..=1, default_missing_value = "")]
    adopt: Option<String>,
    /// The highest counter that a lost epoch may have had, at most a day (in milliseconds) after the
    /// clock of the publisher
    #[arg(long, value_name = "COUNTER")]
    counter: Option<u64>,
    /// Begin a new lineage because the counters of this one are near their end; the replicas of the
    /// store follow it
    #[arg(long, conflicts_with_all = ["adopt", "counter"])]
    renew: bool,
    /// Do not ask for confirmation; required with --adopt where there is no terminal
    #[arg(long, requires = "adopt")]
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
        // Without a name nothing is adopted: the publisher answers with the lineages.
        if self
            .adopt
            .as_deref()
            .is_some_and(|lineage| !lineage.is_empty())
            && !self.yes
        {
            let stdin = io::stdin();
            ensure!(
                stdin.is_terminal(),
                "--adopt requires --yes where there is no terminal for the confirmation"
            );
            confirm(&publisher, stdin.lock())?;
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
        Ok(output::result(format_args!(
            "the epoch is now {}; each replica loads the store at its next check-in",
            declared.epoch
        ))?)
    }
}

fn confirm(publisher: &Endpoint, mut answer: impl BufRead) -> anyhow::Result<()> {
    output::note(format_args!(
        "Every replica will replace its documents with those in the store of {}. Type yes to continue:",
        publisher.base()
    ));
    let mut line = String::new();
    answer
        .read_line(&mut line)
        .context("cannot read the answer")?;
    ensure!(line.trim() == "yes", "nothing was done");
    Ok(())
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

    #[tokio::test]
    async fn only_yes_confirms() {
        let endpoint = FakePublisher::start().await.endpoint();
        confirm(&endpoint, &b"yes\n"[..]).expect("confirmed");
        for answer in ["", "y\n", "no\n"] {
            let error = confirm(&endpoint, answer.as_bytes()).expect_err(answer);
            assert_eq!(error.to_string(), "nothing was done");
        }
    }
}
