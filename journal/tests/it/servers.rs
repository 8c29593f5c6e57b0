//! Other servers than a single one without users: a cluster, a user with the least rights, a server
//! that refuses writes.

use std::future::pending;

use anyhow::{Context, ensure};
use e2e::testbed::{
    mongod::Mongod,
    redis::{Redis, cluster::RedisCluster},
    wait::eventually,
};
use journal::{
    AppendId, Consumer, ConsumerOptions, Journal, JournalError, MongoProjection, Replicas,
};

use crate::{
    Outcome,
    account::{Account, Balance, Command, Event},
    testbed::{id, journal_at},
};

/// The rights that `docs/journal.md` names, for a journal.
fn rights(name: &str) -> Vec<String> {
    let key = format!("~journal:{{{name}}}:*");
    let commands = "-@all +eval +xlen +hget +hset +hscan +xadd +xrange +xrevrange +xreadgroup \
                    +xautoclaim +xack +xgroup +xinfo +xpending +xtrim +exists +sadd +srem \
                    +sismember +zadd +zscore +zrevrange +zremrangebyrank +xdel +del";
    let mut rights = vec![key];
    rights.extend(commands.split_whitespace().map(str::to_owned));
    rights
}

/// Creates, changes, reads, projects and trims.
async fn everything_works(journal: &Journal<Account>, mongod: &Mongod) -> Outcome {
    let alice = id("alice")?;
    let any = AppendId::random;
    journal.create(&alice, &any(), &Command::Open(5)).await?;
    let again = journal.create(&alice, &any(), &Command::Open(5)).await;
    ensure!(again.is_err(), "it was created twice");
    journal
        .execute(&alice, &any(), &Command::Deposit(2))
        .await?;
    let loaded = journal.load(&alice).await?.context("an account")?;
    ensure!(loaded.version == 2 && loaded.state.funds == 7, "{loaded:?}");
    let database = mongod.database("bank").await?;
    let rows = MongoProjection::<_, Balance>::new(journal.clone(), &database, "rows");
    let consumer = Consumer::new(journal.clone(), "rows".parse()?, ConsumerOptions::default());
    let projected = eventually("the row is there", async || {
        let rows = database.collection::<mongodb::bson::Document>("rows");
        let row = rows.find_one(mongodb::bson::doc! {"_id": "alice"}).await?;
        ensure!(row.context("no row yet")?.get_i64("funds")? == 7);
        Ok(())
    });
    tokio::select! {
        () = consumer.run(&rows, pending()) => anyhow::bail!("a consumer never returns"),
        projected = projected => projected?,
    }
    journal.trim().await?;
    ensure!(journal.dead_letters(&"rows".parse()?, 1).await?.is_empty());
    ensure!(journal.remove_group(&"rows".parse()?).await?);
    Ok(())
}

#[tokio::test]
async fn a_journal_lies_on_one_node_of_a_cluster() -> Outcome {
    let (cluster, mongod) = tokio::try_join!(RedisCluster::start(), Mongod::start())?;
    let journal = journal_at(&cluster.url())?;
    everything_works(&journal, &mongod).await?;
    let replicas = Replicas {
        count: 1,
        within: std::time::Duration::from_millis(100),
    };
    ensure!(journal.with_replicas(replicas).is_err());
    Ok(())
}

#[tokio::test]
async fn a_user_needs_the_documented_rights_only() -> Outcome {
    let (redis, mongod) = tokio::try_join!(Redis::start(), Mongod::start())?;
    let mut words = vec!["ACL", "SETUSER", "bank", "on", ">secret"];
    let rights = rights("account");
    words.extend(rights.iter().map(String::as_str));
    redis.command(&words).await?;
    let address = redis.url_as("bank", "secret").parse()?;
    everything_works(&Journal::new(address, "account".parse()?), &mongod).await
}

#[tokio::test]
async fn a_write_that_redis_refuses_stores_nothing_at_all() -> Outcome {
    let redis = Redis::start().await?;
    let journal = journal_at(&redis.url())?;
    let alice = id("alice")?;
    let any = AppendId::random;
    journal.create(&alice, &any(), &Command::Open(1)).await?;
    let key = |what: &str| format!("journal:{{{}}}:{what}", journal.name());
    for (setting, on, off) in [("min-replicas-to-write", "1", "0"), ("maxmemory", "1", "0")] {
        redis.command(&["CONFIG", "SET", setting, on]).await?;
        let events = [Event::Deposit { amount: 1 }; 3];
        let version = journal.load(&alice).await?.context("an account")?.version;
        let refused = journal.append(&alice, version, &any(), &events).await;
        ensure!(
            matches!(refused, Err(JournalError::Unavailable(_))),
            "{setting}: {refused:?}"
        );
        for stream in ["events", "of:alice"] {
            let length = redis.command(&["XLEN", &key(stream)]).await?;
            ensure!(
                length.into_integer()? == version as i64,
                "{setting}: {stream}"
            );
        }
        redis.command(&["CONFIG", "SET", setting, off]).await?;
        journal.append(&alice, version, &any(), &events).await?;
    }
    let loaded = journal.load(&alice).await?.context("an account")?;
    ensure!(loaded.version == 7 && loaded.state.funds == 7, "{loaded:?}");
    Ok(())
}
