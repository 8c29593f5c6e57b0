//! The consumer group and the projection into MongoDB: each event counts once, whatever is repeated,
//! lost, or stopped in the middle.

use std::{future::pending, time::Duration};

use anyhow::{Context, ensure};
use e2e::testbed::{mongod::Mongod, redis::Redis, wait::eventually};
use futures_util::FutureExt;
use journal::{
    AggregateId, AppendId, Consumer, ConsumerOptions, Delivered, GroupName, Journal,
    MongoProjection, Projection,
};
use mongodb::{
    Database,
    bson::{Document, doc},
};

use crate::{
    Outcome,
    account::{Account, Balance, Command, Event},
    testbed::{append, id, journal},
};

pub(crate) const ROWS: &str = "accountCollection";

pub(crate) type Rows = MongoProjection<Account, Balance>;

pub(crate) fn rows(journal: &Journal<Account>, database: &Database) -> Rows {
    MongoProjection::new(journal.clone(), database, ROWS)
}

pub(crate) fn group(text: &str) -> anyhow::Result<GroupName> {
    text.parse().context("a group")
}

/// What is pending is taken over soon.
pub(crate) fn impatient() -> ConsumerOptions {
    ConsumerOptions {
        take_over_after: Duration::from_millis(100),
        ..ConsumerOptions::default()
    }
}

pub(crate) async fn row(database: &Database, id: &AggregateId) -> anyhow::Result<Option<Document>> {
    let rows = database.collection::<Document>(ROWS);
    Ok(rows.find_one(doc! { "_id": id.as_str() }).await?)
}

/// Whether the row of an account has all events of the journal and their sum.
pub(crate) async fn is_exact(
    journal: &Journal<Account>,
    database: &Database,
    id: &AggregateId,
) -> Outcome {
    let truth = journal.load(id).await?.context("an account")?;
    let row = row(database, id).await?.context("no row yet")?;
    let shown = (row.get_i64("version")?, row.get_i64("funds")?);
    let expected = (truth.version as i64, truth.state.funds as i64);
    ensure!(shown == expected, "{shown:?} instead of {expected:?}");
    Ok(())
}

/// Runs a consumer until a condition is fulfilled; then it ends in the middle of whatever it does.
pub(crate) async fn run_until(
    consumer: &Consumer<Account>,
    rows: &impl Projection<Account>,
    condition: impl Future<Output = Outcome>,
) -> Outcome {
    tokio::select! {
        () = consumer.run(rows, pending()) => anyhow::bail!("a consumer never returns"),
        done = condition => done,
    }
}

/// Gives an account a number of deposits of 1.
async fn deposits(journal: &Journal<Account>, id: &AggregateId, count: u64) -> Outcome {
    for _each in 0..count {
        let any = AppendId::random();
        journal.execute(id, &any, &Command::Deposit(1)).await?;
    }
    Ok(())
}

pub(crate) async fn open(journal: &Journal<Account>, id: &AggregateId, amount: u64) -> Outcome {
    let any = AppendId::random();
    journal.create(id, &any, &Command::Open(amount)).await?;
    Ok(())
}

/// The events of an account as a group delivers them.
async fn delivered(
    journal: &Journal<Account>,
    id: &AggregateId,
) -> anyhow::Result<Vec<Delivered<Event>>> {
    let mut previous = None;
    let events = journal.events(id, 0).await?.into_iter();
    Ok(events
        .map(|recorded| Delivered {
            id: id.clone(),
            version: recorded.version,
            previous: previous.replace(recorded.append.clone()),
            append: recorded.append,
            position: recorded.position,
            event: recorded.event,
        })
        .collect())
}

#[tokio::test]
async fn a_repeated_event_changes_nothing_and_an_early_one_brings_those_before_it() -> Outcome {
    let (redis, mongod) = tokio::try_join!(Redis::start(), Mongod::start())?;
    let (journal, database) = (journal(&redis)?, mongod.database("bank").await?);
    let rows = rows(&journal, &database);
    let alice = id("alice")?;
    open(&journal, &alice, 10).await?;
    deposits(&journal, &alice, 5).await?;
    let events = delivered(&journal, &alice).await?;

    // The fourth event comes first.
    let rejected = rows.project(&events[3..4]).await?;
    ensure!(rejected.is_empty(), "{rejected:?}");
    is_exact(&journal, &database, &alice).await?;
    // Everything again, in another order, and twice.
    for batch in [&events[..], &events[2..4], &events[..1], &events[5..]] {
        let rejected = rows.project(batch).await?;
        ensure!(rejected.is_empty(), "{rejected:?}");
        is_exact(&journal, &database, &alice).await?;
    }
    let mut reversed = events.clone();
    reversed.reverse();
    rows.project(&reversed).await?;
    is_exact(&journal, &database, &alice).await?;

    // Two projectors at once apply the same event: one of them finds that it is there.
    deposits(&journal, &alice, 1).await?;
    let newest = delivered(&journal, &alice).await?.split_off(6);
    let (one, two) = tokio::join!(rows.project(&newest), rows.project(&newest));
    ensure!(one?.is_empty() && two?.is_empty());
    is_exact(&journal, &database, &alice).await?;
    let row = row(&database, &alice).await?.context("a row")?;
    let names: Vec<_> = row.keys().map(String::as_str).collect();
    ensure!(names == ["_id", "version", "append", "funds"], "{row}");
    Ok(())
}

#[tokio::test]
async fn consumers_that_end_in_the_middle_count_every_event_once() -> Outcome {
    let (redis, mut mongod) = tokio::try_join!(Redis::start(), Mongod::start())?;
    let (journal, database) = (journal(&redis)?, mongod.database("bank").await?);
    let rows = rows(&journal, &database);
    let accounts: Vec<_> = (0..5)
        .map(|number| id(&format!("account-{number}")))
        .collect::<Result<_, _>>()?;
    for account in &accounts {
        open(&journal, account, 0).await?;
    }
    let newest = accounts.last().context("an account")?;
    for round in 1..=6_i64 {
        for account in &accounts {
            deposits(&journal, account, 20).await?;
        }
        // Two consumers; both end as soon as the newest account has any event of this round.
        let one = Consumer::new(journal.clone(), group("rows")?, impatient());
        let two = Consumer::new(journal.clone(), group("rows")?, impatient());
        let moved = eventually("the row moved", async || {
            let row = row(&database, newest).await?.context("no row yet")?;
            ensure!(row.get_i64("version")? > (round - 1) * 20 + 1);
            Ok(())
        });
        run_until(&one, &rows, async { run_until(&two, &rows, moved).await }).await?;
        if round == 3 {
            // MongoDB dies while events wait.
            deposits(&journal, newest, 10).await?;
            mongod.kill()?;
            let waiting = Consumer::new(journal.clone(), group("rows")?, impatient());
            run_until(&waiting, &rows, mongod.restart()).await?;
        }
    }
    let last = Consumer::new(journal.clone(), group("rows")?, impatient());
    let all = eventually("all rows are exact", async || {
        for account in &accounts {
            is_exact(&journal, &database, account).await?;
        }
        // Nothing waits any more: what the others left was taken over and acknowledged.
        let key = format!("journal:{{{}}}:events", journal.name());
        let pending = redis.command(&["XPENDING", &key, "rows"]).await?;
        let count = pending.into_many()?.swap_remove(0).into_integer()?;
        ensure!(count == 0, "{count} events are pending");
        Ok(())
    });
    run_until(&last, &rows, all).await
}

#[tokio::test]
async fn events_that_redis_lost_in_a_failover_leave_the_row_too() -> Outcome {
    let (redis, mongod) = tokio::try_join!(Redis::start(), Mongod::start())?;
    let before = journal(&redis)?;
    let database = mongod.database("bank").await?;
    let alice = id("alice")?;
    open(&before, &alice, 10).await?;
    let replica = Redis::new()?
        .with(format!("replicaof 127.0.0.1 {}", redis.port()))
        .started()
        .await?;
    let after = Journal::<Account>::new(replica.url().parse()?, before.name().clone());
    eventually("the replica has the event", async || {
        after.load(&alice).await?.context("nothing yet").map(drop)
    })
    .await?;
    // The replica loses its master, and then the master stores and projects two events more.
    replica.command(&["REPLICAOF", "NO", "ONE"]).await?;
    before
        .execute(&alice, &append("lost-1")?, &Command::Deposit(100))
        .await?;
    before
        .execute(&alice, &append("lost-2")?, &Command::Deposit(100))
        .await?;
    let lost = delivered(&before, &alice).await?;
    rows(&before, &database).project(&lost).await?;
    let ahead = row(&database, &alice).await?.context("a row")?;
    ensure!(ahead.get_i64("funds")? == 210, "{ahead}");

    // The replica was promoted; a caller repeats the second one, another change follows.
    let rows = rows(&after, &database);
    after
        .execute(&alice, &append("lost-2")?, &Command::Deposit(100))
        .await?;
    after
        .execute(&alice, &append("new")?, &Command::Withdraw(1))
        .await?;
    let consumer = Consumer::new(after.clone(), group("rows")?, impatient());
    let exact = eventually("the row is the journal's", async || {
        is_exact(&after, &database, &alice).await?;
        let row = row(&database, &alice).await?.context("a row")?;
        ensure!(row.get_i64("funds")? == 109, "{row}");
        Ok(())
    });
    run_until(&consumer, &rows, exact).await
}

#[tokio::test]
async fn events_are_trimmed_behind_all_groups_and_a_new_group_still_gets_all() -> Outcome {
    let (redis, mongod) = tokio::try_join!(Redis::start(), Mongod::start())?;
    let journal = journal(&redis)?;
    let [first, second, third] = ["first", "second", "third"];
    let (alice, bob) = (id("alice")?, id("bob")?);
    let all = format!("journal:{{{}}}:events", journal.name());
    let length = async || redis.command(&["XLEN", &all]).await?.into_integer();
    ensure!(journal.trim().await? == 0, "there is nothing yet");
    open(&journal, &alice, 3).await?;
    open(&journal, &bob, 0).await?;
    deposits(&journal, &bob, 500).await?;
    ensure!(
        journal.trim().await? == 0,
        "no group needs anything, and nothing is removed"
    );
    // A group that has read nothing needs everything.
    redis
        .command(&["XGROUP", "CREATE", &all, second, "0"])
        .await?;
    let exact = async |group_name: &str| -> Outcome {
        let database = mongod.database(group_name).await?;
        let rows = rows(&journal, &database);
        let consumer = Consumer::new(journal.clone(), group(group_name)?, impatient());
        let exact = eventually("the rows are exact", async || {
            is_exact(&journal, &database, &alice).await?;
            is_exact(&journal, &database, &bob).await?;
            let groups = redis.command(&["XINFO", "GROUPS", &all]).await?;
            let shown = format!("{groups:?}");
            ensure!(shown.contains(group_name), "{shown}");
            Ok(())
        });
        run_until(&consumer, &rows, exact).await?;
        // It has read all entries, and acknowledged them.
        let read = eventually("all entries are acknowledged", async || {
            let pending = redis.command(&["XPENDING", &all, group_name]).await?;
            let count = pending.into_many()?.swap_remove(0).into_integer()?;
            let rest = ["XREADGROUP", "GROUP", group_name, "test", "COUNT", "1"];
            let rest = [&rest[..], &["STREAMS", &all, ">"]].concat();
            ensure!(count == 0, "{count} are pending");
            ensure!(redis.command(&rest).await? == e2e::testbed::redis::resp::Reply::Nothing);
            Ok(())
        });
        run_until(&consumer, &rows, read).await
    };
    exact(first).await?;
    ensure!(length().await? == 502, "the second group has not read them");
    exact(second).await?;
    journal.trim().await?;
    let left = length().await?;
    ensure!(left < 200, "{left} events are left");
    // The events of alice are not in the stream any more.
    exact(third).await?;
    Ok(())
}

#[tokio::test]
async fn consumers_that_ended_leave_the_group() -> Outcome {
    let (redis, mongod) = tokio::try_join!(Redis::start(), Mongod::start())?;
    let (journal, database) = (journal(&redis)?, mongod.database("bank").await?);
    let rows = rows(&journal, &database);
    let alice = id("alice")?;
    open(&journal, &alice, 1).await?;
    let options = ConsumerOptions {
        remove_after: Duration::from_millis(300),
        ..impatient()
    };
    let all = format!("journal:{{{}}}:events", journal.name());
    let mut names = Vec::new();
    for _round in 0..3 {
        let ended = Consumer::new(journal.clone(), group("rows")?, options);
        deposits(&journal, &alice, 1).await?;
        let exact = eventually("the row is exact", async || {
            is_exact(&journal, &database, &alice).await
        });
        run_until(&ended, &rows, exact).await?;
        names.push(ended.name().to_owned());
    }
    let last = Consumer::new(journal.clone(), group("rows")?, options);
    let alone = eventually("the ended consumers are removed", async || {
        // Before Redis 7.2 a consumer that waits for its first entry is not listed.
        let consumers = redis.command(&["XINFO", "CONSUMERS", &all, "rows"]).await?;
        let shown = format!("{consumers:?}");
        ensure!(
            !names.iter().any(|name| shown.contains(name.as_str())),
            "{shown}"
        );
        Ok(())
    });
    run_until(&last, &rows, alone).await
}

#[tokio::test]
async fn a_consumer_that_is_stopped_finishes_what_it_has_read() -> Outcome {
    let (redis, mongod) = tokio::try_join!(Redis::start(), Mongod::start())?;
    let (journal, database) = (journal(&redis)?, mongod.database("bank").await?);
    let rows = rows(&journal, &database);
    let alice = id("alice")?;
    open(&journal, &alice, 1).await?;
    let all = format!("journal:{{{}}}:events", journal.name());
    // Stopped before it has read every aggregate, it begins with that the next time.
    let early = Consumer::new(journal.clone(), group("rows")?, impatient());
    early.run(&rows, async {}).await;
    ensure!(row(&database, &alice).await?.is_none());
    for round in 1..=3 {
        deposits(&journal, &alice, 50).await?;
        let consumer = Consumer::new(journal.clone(), group("rows")?, ConsumerOptions::default());
        let stop = eventually("the row moves", async || {
            let row = row(&database, &alice).await?.context("no row yet")?;
            ensure!(row.get_i64("version")? > (round - 1) * 50 + 1);
            Ok(())
        });
        consumer.run(&rows, stop.map(drop)).await;
        let pending = redis.command(&["XPENDING", &all, "rows"]).await?;
        let count = pending.into_many()?.swap_remove(0).into_integer()?;
        ensure!(count == 0, "{count} events are pending");
    }
    is_exact(&journal, &database, &alice).await
}
