//! Entries that no attempt can process: they hold up nothing, and a program that can read them brings
//! the rows up to date.

use std::{
    future::pending,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use anyhow::{Context, ensure};
use e2e::testbed::{mongod::Mongod, redis::Redis, wait::eventually};
use journal::{
    Aggregate, AggregateId, AppendId, Consumer, Delivered, Journal, MongoProjection, Projection,
    ProjectionError, Rejected, View,
};
use mongodb::Database;
use serde::{Deserialize, Serialize};

use crate::{
    Outcome,
    account::{Account, Event},
    projection::{ROWS, Rows, group, impatient, is_exact, open, row, rows, run_until},
    testbed::{id, journal},
};

/// The account of a newer program, which knows one event more.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Newer {
    funds: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum NewerEvent {
    Create { amount: u64 },
    Deposit { amount: u64 },
    Freeze,
}

impl Aggregate for Newer {
    type Event = NewerEvent;
    type Command = ();
    type Error = std::convert::Infallible;

    fn decide(&self, _command: &()) -> Result<Vec<NewerEvent>, Self::Error> {
        Ok(Vec::new())
    }

    fn apply(&mut self, event: &NewerEvent) {
        View::apply(self, event);
    }
}

impl View for Newer {
    type Event = NewerEvent;

    fn apply(&mut self, event: &NewerEvent) {
        match event {
            NewerEvent::Create { amount } | NewerEvent::Deposit { amount } => self.funds += amount,
            NewerEvent::Freeze => {}
        }
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_kept_and_holds_up_nothing() -> Outcome {
    let (redis, mongod) = tokio::try_join!(Redis::start(), Mongod::start())?;
    let (journal, database) = (journal(&redis)?, mongod.database("bank").await?);
    let rows = rows(&journal, &database);
    let key = |what: &str| format!("journal:{{{}}}:{what}", journal.name());
    let (alice, bob) = (id("alice")?, id("bob")?);
    open(&journal, &alice, 1).await?;
    let all = key("events");
    redis.command(&["XADD", &all, "*", "what", "ever"]).await?;
    let forged = "XADD * id mallory version 2 append x previous";
    let mut words: Vec<_> = forged.split(' ').collect();
    words.insert(1, &all);
    words.extend(["w", "event", r#"{"type":"create","amount":1}"#]);
    redis.command(&words).await?;
    // A newer program wrote an event of an unknown type, to the journal as well.
    let unknown = r#"{"type":"freeze"}"#;
    let fields = ["append", "x", "position", "0-0", "event", unknown];
    let of_alice = key("of:alice");
    redis
        .command(&[&["XADD", &of_alice, "2-0"][..], &fields].concat())
        .await?;
    redis
        .command(&["HSET", &key("versions"), "alice", "2"])
        .await?;
    let fields = [
        "id", "alice", "version", "2", "append", "x", "previous", "y",
    ];
    redis
        .command(&[&["XADD", &all, "*"][..], &fields, &["event", unknown]].concat())
        .await?;
    open(&journal, &bob, 7).await?;

    // The same once more, and three good events after it: they are no letters of their own.
    redis
        .command(&[&["XADD", &all, "*"][..], &fields, &["event", unknown]].concat())
        .await?;
    for version in 2..5 {
        let deposit = [Event::Deposit { amount: 1 }];
        let any = AppendId::random();
        journal.append(&alice, version, &any, &deposit).await?;
    }

    let consumer = Consumer::new(journal.clone(), group("rows")?, impatient());
    run_until(&consumer, &rows, async {
        eventually("the other account has its row", async || {
            is_exact(&journal, &database, &bob).await
        })
        .await?;
        eventually("each entry is acknowledged", async || {
            let dead = journal.dead_letters(&group("rows")?, 10).await?;
            ensure!(dead.len() == 3, "{dead:#?}");
            let pending = redis.command(&["XPENDING", &all, "rows"]).await?;
            let count = pending.into_many()?.swap_remove(0).into_integer()?;
            ensure!(count == 0, "{count} events are pending");
            Ok(())
        })
        .await
    })
    .await?;
    let dead = journal.dead_letters(&group("rows")?, 10).await?;
    let reasons: Vec<_> = dead.iter().map(|entry| entry.reason.as_str()).collect();
    ensure!(dead.len() == 3, "{dead:#?}");
    ensure!(reasons[0].contains("freeze"), "{reasons:?}");
    ensure!(
        reasons[1].contains("no event of the aggregate mallory"),
        "{reasons:?}"
    );
    ensure!(reasons[2].contains("no field"), "{reasons:?}");
    ensure!(dead[2].fields == [("what".to_owned(), "ever".to_owned())]);
    // The row ends before what cannot be read.
    let shown = async || row(&database, &alice).await?.context("a row");
    let row = shown().await?;
    ensure!(
        row.get_i64("version")? == 1 && row.get_i64("funds")? == 1,
        "{row}"
    );

    // A program that can read it brings the row up to date when it starts.
    let newer = Journal::<Newer>::new(redis.url().parse()?, journal.name().clone());
    let rows = MongoProjection::<Newer, Newer>::new(newer.clone(), &database, ROWS);
    let consumer = Consumer::new(newer, group("rows")?, impatient());
    let caught_up = eventually("the row has all events", async || {
        let row = shown().await?;
        ensure!(
            row.get_i64("version")? == 5 && row.get_i64("funds")? == 4,
            "{row}"
        );
        Ok(())
    });
    tokio::select! {
        () = consumer.run(&rows, pending()) => anyhow::bail!("a consumer never returns"),
        done = caught_up => done?,
    }
    Ok(())
}

/// Stores an event of a newer program as the second one of an account.
async fn freeze(redis: &Redis, journal: &Journal<Account>, of: &AggregateId) -> Outcome {
    let script = "
        local event = '{\"type\":\"freeze\"}'
        redis.call('XADD', KEYS[1], '2-0', 'append', 'x', 'position', '0-0', 'event', event)
        redis.call('HSET', KEYS[2], ARGV[1], 2)
        redis.call('XADD', KEYS[3], '*', 'id', ARGV[1], 'version', 2, 'append', 'x',
            'previous', 'y', 'event', event)
        return 1";
    let key = |what: &str| format!("journal:{{{}}}:{what}", journal.name());
    let keys = [key(&format!("of:{of}")), key("versions"), key("events")];
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    redis
        .command(&[&["EVAL", script, "3"][..], &keys, &[of.as_str()]].concat())
        .await?;
    Ok(())
}

/// A projection that counts the aggregates that are read as a whole.
struct Counted {
    rows: Rows,
    read: AtomicUsize,
}

impl Projection<Account> for Counted {
    async fn project(&self, events: &[Delivered<Event>]) -> Result<Vec<Rejected>, ProjectionError> {
        self.rows.project(events).await
    }

    async fn catch_up(&self, id: &AggregateId) -> Result<bool, ProjectionError> {
        let complete = self.rows.catch_up(id).await?;
        self.read.fetch_add(1, SeqCst);
        Ok(complete)
    }
}

#[tokio::test]
async fn a_full_list_makes_a_program_read_every_aggregate_once() -> Outcome {
    let (redis, mongod) = tokio::try_join!(Redis::start(), Mongod::start())?;
    let (journal, database) = (journal(&redis)?, mongod.database("bank").await?);
    let (alice, bob) = (id("alice")?, id("bob")?);
    open(&journal, &alice, 1).await?;
    open(&journal, &bob, 1).await?;
    freeze(&redis, &journal, &alice).await?;
    let list = format!("journal:{{{}}}:dead:rows", journal.name());
    let length = async || redis.command(&["XLEN", &list]).await?.into_integer();
    let counted = || Counted {
        rows: rows(&journal, &database),
        read: AtomicUsize::new(0),
    };
    let first = Consumer::new(journal.clone(), group("rows")?, impatient());
    let given_up = eventually("the event of the newer program is given up", async || {
        ensure!(length().await? == 1);
        Ok(())
    });
    run_until(&first, &counted(), given_up).await?;

    // The letters of another aggregate displace this one.
    let script = "
        for _ = 1, 1000 do
            redis.call('XADD', KEYS[1], 'MAXLEN', 1000, '*', 'entry', '1-1', 'reason', 'r',
                'field:id', 'mallory')
        end
        return 1";
    redis.command(&["EVAL", script, "1", &list]).await?;
    let again = counted();
    let consumer = Consumer::new(journal.clone(), group("rows")?, impatient());
    let reconnected = async {
        eventually("every aggregate was read", async || {
            ensure!(again.read.load(SeqCst) == 2);
            Ok(())
        })
        .await?;
        redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await?;
        let deposit = [Event::Deposit { amount: 1 }];
        journal
            .append(&bob, 1, &AppendId::random(), &deposit)
            .await?;
        eventually("the consumer goes on", async || {
            is_exact(&journal, &database, &bob).await
        })
        .await
    };
    run_until(&consumer, &again, reconnected).await?;
    ensure!(again.read.load(SeqCst) == 2, "they were read again");
    ensure!(
        length().await? == 1000,
        "a row is not complete, so a newer program has to try"
    );

    // It has no letter of alice, and brings her row up to date.
    let newer = Journal::<Newer>::new(redis.url().parse()?, journal.name().clone());
    let rows = MongoProjection::<Newer, Newer>::new(newer.clone(), &database, ROWS);
    let consumer = Consumer::new(newer, group("rows")?, impatient());
    let complete = eventually("the row is complete and the list is empty", async || {
        let row = row(&database, &alice).await?.context("a row")?;
        ensure!(row.get_i64("version")? == 2, "{row}");
        ensure!(length().await? == 0);
        Ok(())
    });
    tokio::select! {
        () = consumer.run(&rows, pending()) => anyhow::bail!("a consumer never returns"),
        done = complete => done,
    }
}

/// Runs a consumer until the list has as many letters and nothing waits.
async fn until_letters(
    redis: &Redis,
    (journal, database): (&Journal<Account>, &Database),
    expected: usize,
) -> Outcome {
    let all = format!("journal:{{{}}}:events", journal.name());
    let consumer = Consumer::new(journal.clone(), group("rows")?, impatient());
    let done = eventually("the letters are there", async || {
        let letters = journal.dead_letters(&group("rows")?, 1_000).await?.len();
        ensure!(letters == expected, "{letters} letters");
        let groups = format!("{:?}", redis.command(&["XINFO", "GROUPS", &all]).await?);
        let newest = redis
            .command(&["XREVRANGE", &all, "+", "-", "COUNT", "1"])
            .await?;
        let newest = newest.into_many()?.swap_remove(0).into_many()?;
        let newest = newest.into_iter().next().context("an id")?.into_text()?;
        ensure!(groups.contains(&newest), "{groups} is not at {newest}");
        let pending = redis.command(&["XPENDING", &all, "rows"]).await?;
        let count = pending.into_many()?.swap_remove(0).into_integer()?;
        ensure!(count == 0, "{count} events are pending");
        Ok(())
    });
    run_until(&consumer, &rows(journal, database), done).await
}

#[tokio::test]
async fn an_aggregate_has_one_letter_for_a_reason_while_it_is_in_the_list() -> Outcome {
    let (redis, mongod) = tokio::try_join!(Redis::start(), Mongod::start())?;
    let (journal, database) = (journal(&redis)?, mongod.database("bank").await?);
    let all = format!("journal:{{{}}}:events", journal.name());
    // Entries of as many aggregates in turn, twice.
    let forge = async |aggregates: &str| -> Outcome {
        let script = "
            for entry = 0, 2 * ARGV[1] - 1 do
                redis.call('XADD', KEYS[1], '*', 'id', 'a' .. entry % ARGV[1], 'event', 'none')
            end
            return 1";
        let command = ["EVAL", script, "1", &all, aggregates];
        redis.command(&command).await.map(drop)
    };
    let both = (&journal, &database);
    forge("100").await?;
    until_letters(&redis, both, 100).await?;
    // A letter that was removed may come again.
    let list = format!("journal:{{{}}}:dead:rows", journal.name());
    redis
        .command(&["XTRIM", &list, "MAXLEN", "=", "60"])
        .await?;
    forge("100").await?;
    until_letters(&redis, both, 100).await?;
    redis.command(&["DEL", &list]).await?;
    forge("3").await?;
    until_letters(&redis, both, 3).await
}
