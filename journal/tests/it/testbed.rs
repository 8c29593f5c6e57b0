//! What the tests share: a server for all tests of a file, journals that do not touch each other.

use anyhow::Context;
use e2e::testbed::redis::Redis;
use journal::{AggregateId, AppendId, Journal};

use crate::account::Account;

/// A journal of accounts with a name of its own.
pub(crate) fn journal_at(url: &str) -> anyhow::Result<Journal<Account>> {
    let name = AppendId::random();
    Ok(Journal::new(url.parse()?, name.as_str().parse()?))
}

/// A journal in a server.
pub(crate) fn journal(redis: &Redis) -> anyhow::Result<Journal<Account>> {
    journal_at(&redis.url())
}

pub(crate) fn id(text: &str) -> anyhow::Result<AggregateId> {
    text.parse().context("an id")
}

pub(crate) fn append(text: &str) -> anyhow::Result<AppendId> {
    text.parse().context("an id of an append")
}
