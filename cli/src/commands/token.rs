//! `confcast token`: makes, lists and revokes bearer tokens. A token is printed once, alone on standard
//! output; everything else is a note beside it.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use anyhow::Context;
use auth::SecretToken;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use client::Endpoint;
use contract::{
    CollectionName,
    access::{Grant, Role},
    token::{MAX_LIFE_SECONDS, TokenId, TokenInfo, TokenName, TokenRecord, TokenRequest},
};

use super::{confirmation, explained, point::shown_time};
use crate::{output, target::Target};

/// Make, list and revoke bearer tokens
///
/// A token says who a caller is and what it may do. It is shown once: a publisher keeps only its
/// SHA-256. Programs read theirs from the file in `AURA_CONFIGURATION_TOKEN_FILE`.
#[derive(Debug, clap::Args)]
pub(crate) struct TokenCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Make a token and print it, once
///
/// All roles hold for the same collections and ids.
#[derive(Debug, clap::Args)]
struct Create {
    /// Its holder, as logs and change records name it: 1 to 64 of A-Z a-z 0-9 . _ @ / -
    #[arg(long)]
    name: TokenName,
    /// What it may do; see `confcast auth explain`. Several: --role reader --role operator
    #[arg(long = "role", value_name = "ROLE", required = true)]
    roles: Vec<Role>,
    /// In these collections only, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    collections: Vec<CollectionName>,
    /// Only for documents whose id begins like this
    #[arg(long, value_name = "PREFIX")]
    id_prefix: Option<String>,
    /// When it ends: an age such as 90d or 12h, or never
    #[arg(long, value_name = "AGE", default_value = "90d", value_parser = life)]
    expires: Life,
    /// Ask no publisher: print the token, and beside it the record for a file of tokens
    ///
    /// The record belongs into the file that `AURA_CONFIGURATION_TOKENS_FILE` of a publisher or a
    /// subscriber names. So the first token of an installation comes to be.
    #[arg(long, conflicts_with = "json")]
    offline: bool,
    /// Append the record to this file instead
    #[arg(long, value_name = "FILE", requires = "offline")]
    record_file: Option<PathBuf>,
    /// Print JSON: the token and what is kept of it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// List the tokens of the store that the caller may manage, without the tokens
///
/// Tokens of a file are not in the list: the file has their records.
#[derive(Debug, clap::Args)]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Revoke a token of the store: every publisher of it refuses the token within seconds
///
/// A token of a file is revoked by removing its line from the file.
#[derive(Debug, clap::Args)]
struct Revoke {
    /// Its id, as `confcast token list` shows it
    id: TokenId,
    /// Do not ask for confirmation; required where there is no terminal
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
}

/// The life of a token, in seconds; none for one without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life(Option<u64>);

fn life(text: &str) -> Result<Life, String> {
    if text == "never" {
        return Ok(Life(None));
    }
    let read = humantime::parse_duration(text).ok();
    read.map(|life| life.as_secs())
        .filter(|seconds| (1..=MAX_LIFE_SECONDS).contains(seconds))
        .map(|seconds| Life(Some(seconds)))
        .ok_or_else(|| "expected an age such as 90d or 12h, at most ten years, or never".to_owned())
}

impl TokenCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::Create(command) if command.offline => command.run_offline(),
            Action::Create(command) => command.run().await,
            Action::List(command) => command.run().await,
            Action::Revoke(command) => command.run().await,
        }
    }
}

impl Create {
    fn request(&self) -> TokenRequest {
        let named = self.collections.iter().cloned().collect();
        let collections =
            Some(named).filter(|named: &std::collections::BTreeSet<_>| !named.is_empty());
        let grants = self.roles.iter().map(|role| Grant {
            role: *role,
            collections: collections.clone(),
            id_prefix: self.id_prefix.clone(),
        });
        TokenRequest {
            name: self.name.clone(),
            grants: grants.collect(),
            expires_in_seconds: self.expires.0,
        }
    }

    async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        note_unserved(&publisher, &self.collections).await;
        let created = publisher.create_token(&self.request()).await;
        let created = created.map_err(|error| explained(&publisher, error, "POST /v1/tokens"))?;
        if self.json {
            output::json(&created)?;
        } else {
            output::result(&created.token)?;
            output::note(created_note(&created.info));
        }
        if !created.enforced {
            output::note(
                "the publisher asks for no credentials yet: every caller has every right. Set \
                 AURA_CONFIGURATION_ANONYMOUS=refused, or a file with credentials",
            );
        }
        Ok(())
    }

    fn run_offline(self) -> anyhow::Result<()> {
        let request = self.request();
        request.check()?;
        let now = Utc::now();
        let token = SecretToken::generate();
        let record = TokenRecord {
            id: token.hash().id(),
            name: request.name,
            hash: token.hash(),
            grants: request.grants,
            created_at: now,
            created_by: "offline".to_owned(),
            expires_at: expiry(now, request.expires_in_seconds),
            revoked_at: None,
        };
        let line = serde_json::to_string(&record)?;
        // The record first: a token without one is of no use, and it is shown once.
        match &self.record_file {
            Some(path) => append(path, &line)
                .with_context(|| format!("cannot write the record to {}", path.display()))?,
            None => output::note(&line),
        }
        output::result(token.expose())?;
        output::note(created_note(&record.info()));
        Ok(())
    }
}

/// Names collections that the publisher does not serve: they may be misspelt. It is no error, as a
/// token may be made before its collection.
async fn note_unserved(publisher: &Endpoint, collections: &[CollectionName]) {
    if collections.is_empty() {
        return;
    }
    // A caller may make tokens and see no collection; the answer to its request says what is wrong.
    let Ok(served) = publisher.heads().await else {
        return;
    };
    for name in collections {
        if !served.iter().any(|head| head.collection == *name) {
            output::note(format_args!(
                "the publisher serves no collection {name} that you may read"
            ));
        }
    }
}

fn expiry(now: DateTime<Utc>, seconds: Option<u64>) -> Option<DateTime<Utc>> {
    let seconds = i64::try_from(seconds?).ok()?;
    now.checked_add_signed(TimeDelta::try_seconds(seconds)?)
}

/// Appends a line to a file that only its owner may read.
fn append(path: &PathBuf, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_all()
}

fn created_note(info: &TokenInfo) -> String {
    let end = match info.expires_at {
        Some(end) => format!("ends at {}", shown_time(end)),
        None => "has no end".to_owned(),
    };
    format!(
        "the token {} of {} {end} and gives: {}. It is not shown again",
        info.id,
        info.name,
        grants(&info.grants)
    )
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let tokens = publisher.tokens().await;
        let tokens = tokens.map_err(|error| explained(&publisher, error, "GET /v1/tokens"))?;
        if self.json {
            return output::json(&tokens);
        }
        let now = Utc::now();
        let mut table = output::table(["id", "name", "grants", "created", "by", "ends", "state"]);
        for token in tokens {
            table.add_row([
                token.id.to_string(),
                token.name.clone(),
                grants(&token.grants),
                shown_time(token.created_at),
                token.created_by.clone(),
                token
                    .expires_at
                    .map_or_else(|| "never".to_owned(), shown_time),
                state(&token, now).to_owned(),
            ]);
        }
        Ok(output::result_table(&table)?)
    }
}

fn state(token: &TokenInfo, now: DateTime<Utc>) -> &'static str {
    if token.revoked_at.is_some() {
        "revoked"
    } else if token.expires_at.is_some_and(|end| end <= now) {
        "expired"
    } else {
        "valid"
    }
}

fn grants(grants: &[Grant]) -> String {
    let shown = grants.iter().map(|grant| {
        let mut text = grant.role.to_string();
        if let Some(collections) = &grant.collections {
            let names: Vec<_> = collections.iter().map(CollectionName::as_str).collect();
            text.push_str(&format!(" in {}", names.join(" and ")));
        }
        if let Some(prefix) = &grant.id_prefix {
            text.push_str(&format!(" for {prefix}…"));
        }
        text
    });
    shown.collect::<Vec<_>>().join(", ")
}

impl Revoke {
    async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        if !self.yes {
            confirmation::ask(&format!("revoke the token {}", self.id))?;
        }
        let revoked = publisher.revoke_token(&self.id).await;
        revoked.map_err(|error| explained(&publisher, error, "DELETE /v1/tokens/ID"))?;
        Ok(output::result(format_args!(
            "the token {} was revoked",
            self.id
        ))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_an_age_or_never() {
        assert_eq!(life("90d"), Ok(Life(Some(90 * 86_400))));
        assert_eq!(life("never"), Ok(Life(None)));
        for wrong in ["", "0s", "11y", "-1d", "tomorrow"] {
            assert!(life(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn grants_are_shown_with_their_part() {
        let grant = Grant {
            role: Role::Writer,
            collections: Some(["A", "B"].map(|name| name.parse().expect("a name")).into()),
            id_prefix: Some("eu-".to_owned()),
        };
        assert_eq!(
            grants(&[grant, Grant::everywhere(Role::Reader)]),
            "writer in A and B for eu-…, reader"
        );
    }
}
