//! `confcast restore-epoch`: tells a publisher that its store is not the one it was. It never
//! touches a document.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, ensure};
use contract::fleet::{EpochDeclared, RestoreEpochRequest};

use crate::{
    client::{Api, Target},
    output,
};

/// Begin a new epoch after the database was replaced
///
/// Replicas never go back: while the store holds less than they have seen, they serve the last good
/// values and say so. A new epoch makes every replica load the store as it is now. Two cases:
///
/// The database was restored from a dump: publishers notice that by themselves when a replica
/// checks in that has seen more than the store holds. Without --adopt this does the same now, for
/// instance when no replica is left that could tell.
///
/// Another database stands in place of the real one, or a blank one: replicas then say
/// `other-store` and keep what they have. Check that it is not just a wrong store URL. If it is
/// really meant to replace what they hold, --adopt takes over the history that they follow, so that
/// they load this store, even if it is empty.
///
/// The publisher refuses (409) while documents and heads do not agree, as in the middle of a
/// restore: try again later.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// Make replicas of another store accept this one; asks before it does
    #[arg(long)]
    adopt: bool,
    /// Do not ask; needed for --adopt where there is no terminal
    #[arg(long, requires = "adopt")]
    yes: bool,
    /// Print JSON instead of a sentence
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Restore {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let api = self.target.api()?;
        if self.adopt && !self.yes {
            let stdin = io::stdin();
            ensure!(
                stdin.is_terminal(),
                "--adopt needs --yes where there is no terminal to ask on"
            );
            confirm(&api, stdin.lock())?;
        }
        let declared = declare(&api, self.adopt).await?;
        if self.json {
            return output::json(&declared);
        }
        Ok(output::say(format_args!(
            "the epoch is {} now; replicas load it at their next check-in",
            declared.epoch
        ))?)
    }
}

fn confirm(api: &Api, mut answer: impl BufRead) -> anyhow::Result<()> {
    output::note(format_args!(
        "Every replica will replace what it holds by the store of {}, whatever that holds. Type yes to go on:",
        api.base()
    ));
    let mut line = String::new();
    answer
        .read_line(&mut line)
        .context("cannot read the answer")?;
    ensure!(line.trim() == "yes", "nothing was done");
    Ok(())
}

async fn declare(api: &Api, adopt: bool) -> anyhow::Result<EpochDeclared> {
    api.post("/v1/epoch", &RestoreEpochRequest { adopt }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::StandIn;

    #[tokio::test]
    async fn a_publisher_is_told_and_may_refuse() {
        let publisher = StandIn::start().await;
        let declared = declare(&publisher.api(), true).await.expect("declared");
        assert_eq!(declared.epoch.to_string(), "00000001-2");
        let refused = declare(&publisher.api(), false)
            .await
            .expect_err("too soon")
            .to_string();
        assert!(
            refused.contains("(409): documents and heads do not agree yet"),
            "{refused}"
        );
        assert_eq!(
            publisher.restored(),
            [
                RestoreEpochRequest { adopt: true },
                RestoreEpochRequest { adopt: false }
            ]
        );
    }

    #[tokio::test]
    async fn only_a_yes_is_a_yes() {
        let api = StandIn::start().await.api();
        confirm(&api, &b"yes\n"[..]).expect("confirmed");
        for answer in ["", "y\n", "no\n"] {
            let error = confirm(&api, answer.as_bytes()).expect_err(answer);
            assert_eq!(error.to_string(), "nothing was done");
        }
    }
}
