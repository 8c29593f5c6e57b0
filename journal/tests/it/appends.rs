//! The append and the replay: what is stored, what is refused, and what a repetition does.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use anyhow::{Context, ensure};
use e2e::{
    chaos::proxy::{Mode, Proxy},
    testbed::{redis::Redis, wait::eventually},
};
use futures_util::future::try_join_all;
use journal::{AggregateId, AppendId, Journal, JournalError, Limits, Loaded, Replicas};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    Outcome,
    account::{Account, Command, Event},
    testbed::{append, id, journal, journal_at},
};

fn deposit(amount: u64) -> Event {
    Event::Deposit { amount }
}

async fn entries(redis: &Redis, key: &str) -> anyhow::Result<i64> {
    redis.command(&["XLEN", key]).await?.into_integer()
}

#[tokio::test]
async fn the_nth_event_has_version_n_and_its_position_rises() -> Outcome {
    let redis = Redis::start().await?;
    let journal = journal(&redis)?;
    let alice = id("alice")?;
    let first = [Event::Create { amount: 5 }, deposit(1)];
    let stored = journal
        .append(&alice, 0, &AppendId::random(), &first)
        .await?;
    ensure!(stored.version == 2 && !stored.repeated, "{stored:?}");
    journal
        .append(&id("bob")?, 0, &AppendId::random(), &[deposit(7)])
        .await?;
    let stored = journal
        .append(&alice, 2, &AppendId::random(), &[deposit(2)])
        .await?;
    ensure!(stored.version == 3, "{stored:?}");
    let events = journal.events(&alice, 0).await?;
    let versions: Vec<_> = events.iter().map(|event| event.version).collect();
    ensure!(versions == [1, 2, 3], "{versions:?}");
    let position = |text: &str| {
        let (time, number) = text.split_once('-').context("a position")?;
        anyhow::Ok((time.parse::<u64>()?, number.parse::<u64>()?))
    };
    for pair in events.windows(2) {
        ensure!(position(&pair[0].position)? < position(&pair[1].position)?);
    }
    ensure!(events[2].position == stored.position);
    let loaded = journal.load(&alice).await?.context("an account")?;
    ensure!(loaded.version == 3 && loaded.state.funds == 8, "{loaded:?}");
    let earlier = journal.load_at(&alice, 1).await?.context("an account")?;
    ensure!(earlier.state.funds == 5, "{earlier:?}");
    Ok(())
}

#[tokio::test]
async fn an_id_is_created_once_and_an_absent_aggregate_skips_no_check() -> Outcome {
    let redis = Redis::start().await?;
    let journal = journal(&redis)?;
    let alice = id("alice")?;
    let open = Command::Open(10);
    journal.create(&alice, &append("first")?, &open).await?;
    let again = journal.create(&alice, &append("second")?, &open).await;
    ensure!(
        matches!(&again, Err(journal::ExecuteError::Journal(JournalError::AlreadyExists(id))) if *id == alice),
        "{again:?}"
    );
    // The same request once more is answered as the first time.
    let repeated = journal.create(&alice, &append("first")?, &open).await?;
    ensure!(repeated.repeated && repeated.aggregate.version == 1);
    let absent = id("bob")?;
    let early = journal
        .append(&absent, 1, &AppendId::random(), &[deposit(1)])
        .await;
    ensure!(
        matches!(early, Err(JournalError::Conflict { actual: 0, .. })),
        "{early:?}"
    );
    let missing = journal
        .execute(&absent, &AppendId::random(), &Command::Deposit(1))
        .await;
    ensure!(
        matches!(
            &missing,
            Err(journal::ExecuteError::Journal(JournalError::NotFound(_)))
        ),
        "{missing:?}"
    );
    ensure!(journal.load(&absent).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn replay_reads_the_events_of_one_aggregate_only() -> Outcome {
    let redis = Redis::start().await?;
    let limits = Limits {
        page: 3,
        ..Limits::default()
    };
    let journal = journal(&redis)?.with_limits(limits);
    let alice = id("alice")?;
    for version in 0..10 {
        journal
            .append(&alice, version, &AppendId::random(), &[deposit(1)])
            .await?;
    }
    // The stream of all events is not needed.
    let all = format!("journal:{{{}}}:events", journal.name());
    ensure!(entries(&redis, &all).await? == 10);
    redis.command(&["DEL", &all]).await?;
    let mut loaded = journal.load(&alice).await?.context("an account")?;
    ensure!(
        loaded.version == 10 && loaded.state.funds == 10,
        "{loaded:?}"
    );
    journal
        .append(&alice, 10, &AppendId::random(), &[deposit(5)])
        .await?;
    journal.refresh(&mut loaded).await?;
    ensure!(
        loaded.version == 11 && loaded.state.funds == 15,
        "{loaded:?}"
    );
    Ok(())
}

#[tokio::test]
async fn limits_are_checked_before_anything_is_stored() -> Outcome {
    let redis = Redis::start().await?;
    let limits = Limits {
        event_bytes: 40,
        events: 2,
        versions: 3,
        page: 100,
    };
    let journal = journal(&redis)?.with_limits(limits);
    let alice = id("alice")?;
    let any = AppendId::random;
    let too_many = journal.append(&alice, 0, &any(), &[deposit(1); 3]).await;
    ensure!(matches!(
        too_many,
        Err(JournalError::EventCount { count: 3, most: 2 })
    ));
    let none = journal.append(&alice, 0, &any(), &[]).await;
    ensure!(matches!(
        none,
        Err(JournalError::EventCount { count: 0, .. })
    ));
    let large = [deposit(u64::MAX)];
    let too_large = journal.append(&alice, 0, &any(), &large).await;
    ensure!(
        matches!(too_large, Err(JournalError::EventSize { .. })),
        "{too_large:?}"
    );
    journal.append(&alice, 0, &any(), &[deposit(1); 2]).await?;
    let too_long = journal.append(&alice, 2, &any(), &[deposit(1); 2]).await;
    ensure!(matches!(
        too_long,
        Err(JournalError::TooLong { version: 2, .. })
    ));
    let loaded = journal.load(&alice).await?.context("an account")?;
    ensure!(loaded.version == 2);
    Ok(())
}

#[tokio::test]
async fn an_aggregate_whose_key_vanished_is_damaged_and_never_begins_again() -> Outcome {
    let redis = Redis::start().await?;
    let journal = journal(&redis)?;
    let alice = id("alice")?;
    let create = [Event::Create { amount: 5 }];
    journal
        .append(&alice, 0, &AppendId::random(), &create)
        .await?;
    let key = |what: &str| format!("journal:{{{}}}:{what}", journal.name());
    let damaged =
        |result: Result<_, JournalError>| matches!(result, Err(JournalError::Damaged { .. }));
    redis.command(&["DEL", &key("of:alice")]).await?;
    ensure!(damaged(journal.load(&alice).await.map(drop)));
    let create_again = journal
        .append(&alice, 0, &AppendId::random(), &create)
        .await;
    ensure!(damaged(create_again.map(drop)));

    let bob = id("bob")?;
    journal
        .append(&bob, 0, &AppendId::random(), &create)
        .await?;
    redis.command(&["DEL", &key("versions")]).await?;
    let create_again = journal.append(&bob, 0, &AppendId::random(), &create).await;
    ensure!(damaged(create_again.map(drop)));

    // A key of another type is refused before anything is written.
    redis.command(&["DEL", &key("events")]).await?;
    redis.command(&["SET", &key("events"), "x"]).await?;
    let carol = id("carol")?;
    let refused = journal
        .append(&carol, 0, &AppendId::random(), &create)
        .await;
    ensure!(
        matches!(refused, Err(JournalError::Unavailable(_))),
        "{refused:?}"
    );
    ensure!(journal.load(&carol).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn an_append_whose_answer_was_lost_is_stored_once() -> Outcome {
    let redis = Redis::start().await?;
    let link = Proxy::start("journal→redis", redis.port()).await?;
    let journal = journal_at(&format!("redis://127.0.0.1:{}", link.port()))?;
    let alice = id("alice")?;
    journal
        .create(&alice, &AppendId::random(), &Command::Open(0))
        .await?;
    let all = format!("journal:{{{}}}:events", journal.name());
    for round in 1..=3 {
        // The request arrives; the answer is still under way when the link is cut.
        link.set(Mode::Slow(Duration::from_millis(700)));
        let key = AppendId::random();
        let deposits = journal.execute(&alice, &key, &Command::Deposit(10));
        let cut = async {
            eventually("the deposit is stored", async || {
                ensure!(entries(&redis, &all).await? == round + 1);
                Ok(())
            })
            .await?;
            link.set(Mode::Cut);
            // Opened at once, the link would not notice that it was cut.
            eventually("the connection is lost", async || {
                let clients = redis.command(&["CLIENT", "LIST"]).await?.into_text()?;
                ensure!(clients.lines().count() == 1, "{clients}");
                Ok(())
            })
            .await?;
            link.set(Mode::Open);
            anyhow::Ok(())
        };
        let (executed, cut) = futures_util::future::join(deposits, cut).await;
        cut?;
        let executed = executed?;
        ensure!(
            executed.aggregate.state.funds == 10 * round as u64,
            "{executed:?}"
        );
        ensure!(entries(&redis, &all).await? == round + 1);
        // A client that repeats its request gets the same answer.
        let again = journal.execute(&alice, &key, &Command::Deposit(10)).await?;
        ensure!(again.repeated && again.aggregate == executed.aggregate);
    }
    let loaded = journal.load(&alice).await?.context("an account")?;
    ensure!(
        loaded.version == 4 && loaded.state.funds == 30,
        "{loaded:?}"
    );
    Ok(())
}

/// How often events of an aggregate were read.
async fn reads(redis: &Redis) -> anyhow::Result<u64> {
    let stats = redis
        .command(&["INFO", "commandstats"])
        .await?
        .into_text()?;
    let calls = stats.split_once("cmdstat_xrange:calls=");
    let calls = calls.and_then(|(_, rest)| rest.split_once(','));
    Ok(calls.map_or(Ok(0), |(calls, _)| calls.parse())?)
}

#[tokio::test]
async fn an_aggregate_that_is_created_while_it_is_read_is_not_damaged() -> Outcome {
    let redis = Redis::start().await?;
    let link = Proxy::start("reader→redis", redis.port()).await?;
    let writer = journal(&redis)?;
    let address = format!("redis://127.0.0.1:{}", link.port()).parse()?;
    let reader = Journal::<Account>::new(address, writer.name().clone());
    // Opens the connection before the link is slow.
    ensure!(reader.load(&id("nobody")?).await?.is_none());
    link.set(Mode::Slow(Duration::from_millis(150)));
    for round in 0..2 {
        let alice = id(&format!("alice-{round}"))?;
        let before = reads(&redis).await?;
        let create = async {
            eventually("the reader found no event", async || {
                ensure!(reads(&redis).await? > before);
                Ok(())
            })
            .await?;
            writer
                .create(&alice, &append("first")?, &Command::Open(1))
                .await?;
            anyhow::Ok(())
        };
        // Both ways of reading.
        let read = async {
            if round == 0 {
                return Ok(reader.load(&alice).await?.context("an account")?.version);
            }
            let any = AppendId::random();
            let executed = reader.execute(&alice, &any, &Command::Deposit(1)).await?;
            anyhow::Ok(executed.aggregate.version)
        };
        let (read, created) = futures_util::future::join(read, create).await;
        created?;
        ensure!(read? == 1 + round, "round {round}");
    }
    Ok(())
}

#[tokio::test]
async fn an_append_that_no_replica_confirmed_is_reported_as_stored() -> Outcome {
    let redis = Redis::start().await?;
    let replicas = Replicas {
        count: 1,
        within: Duration::from_millis(20),
    };
    let journal = journal(&redis)?.with_replicas(replicas)?;
    let alice = id("alice")?;
    let stored = |result: Result<_, JournalError>, refused: bool| match result {
        Err(JournalError::NotReplicated {
            version: 1,
            confirmed: 0,
            wanted: 1,
            source,
            ..
        }) => source.is_some() == refused,
        _ => false,
    };
    let first = append("first")?;
    let result = journal.append(&alice, 0, &first, &[deposit(1)]).await;
    ensure!(stored(result.map(drop), false));

    // The user has no right to WAIT: the events are stored all the same.
    redis
        .command(&[
            "ACL", "SETUSER", "bank", "on", ">secret", "~*", "+@all", "-wait",
        ])
        .await?;
    let address = redis.url_as("bank", "secret").parse()?;
    let journal = Journal::<Account>::new(address, journal.name().clone());
    let journal = journal.with_replicas(replicas)?;
    let bob = id("bob")?;
    let result = journal.append(&bob, 0, &first, &[deposit(1)]).await;
    ensure!(stored(result.map(drop), true));
    let loaded = journal.load(&bob).await?.context("an account")?;
    ensure!(loaded.version == 1, "{loaded:?}");
    Ok(())
}

#[tokio::test]
async fn commands_at_the_same_time_are_all_counted() -> Outcome {
    let redis = Redis::start().await?;
    let name: journal::JournalName = "account".parse()?;
    let open = || anyhow::Ok(Journal::<Account>::new(redis.url().parse()?, name.clone()));
    let alice = id("alice")?;
    open()?
        .create(&alice, &AppendId::random(), &Command::Open(100))
        .await?;
    let handles = [open()?, open()?, open()?, open()?];
    let work = handles.iter().map(async |journal| {
        for _round in 0..25 {
            let any = AppendId::random();
            journal.execute(&alice, &any, &Command::Deposit(3)).await?;
            let any = AppendId::random();
            journal.execute(&alice, &any, &Command::Withdraw(2)).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(work).await?;
    let loaded = handles[0].load(&alice).await?.context("an account")?;
    ensure!(
        loaded.version == 201 && loaded.state.funds == 200,
        "{loaded:?}"
    );
    Ok(())
}

/// One call of the property test.
#[derive(Debug, Clone)]
struct Call {
    aggregate: usize,
    /// Added to the version that the aggregate has.
    off: i64,
    events: Vec<u64>,
    /// The append of an earlier call is sent again instead.
    repeats: Option<prop::sample::Index>,
}

fn call() -> impl Strategy<Value = Call> {
    let off = prop_oneof![4 => Just(0_i64), 1 => -3..=3_i64];
    let events = vec(0..1_000_u64, 1..4);
    let repeats = prop::option::weighted(0.25, any::<prop::sample::Index>());
    (0..2_usize, off, events, repeats).prop_map(|(aggregate, off, events, repeats)| Call {
        aggregate,
        off,
        events,
        repeats,
    })
}

/// What the journal should hold: the events of each aggregate with their appends.
#[derive(Default)]
struct Model(BTreeMap<AggregateId, Vec<(AppendId, u64)>>);

impl Model {
    /// The result of an append: the new version and whether it is a repetition, or the version that
    /// conflicts.
    fn append(
        &mut self,
        id: &AggregateId,
        expected: u64,
        append: &AppendId,
        amounts: &[u64],
    ) -> Result<(u64, bool), u64> {
        let events = self.0.entry(id.clone()).or_default();
        let same = |(stored, _amount): &&(AppendId, u64)| stored == append;
        let after = events.iter().skip(expected as usize);
        let stored = after.take(amounts.len()).take_while(same).count();
        if stored > 0 {
            return Ok((expected + stored as u64, true));
        }
        if events.len() as u64 != expected {
            return Err(events.len() as u64);
        }
        events.extend(amounts.iter().map(|amount| (append.clone(), *amount)));
        Ok((events.len() as u64, false))
    }
}

async fn like_the_model(redis: &Redis, calls: Vec<Call>) -> Outcome {
    let journal = journal(redis)?;
    let ids = [id("a")?, id("b")?];
    let mut model = Model::default();
    let mut sent = Vec::<(AggregateId, u64, AppendId, Vec<u64>)>::new();
    let mut positions = Vec::new();
    for call in calls {
        let repeated = call.repeats.filter(|_| !sent.is_empty());
        let (id, expected, append, amounts) = if let Some(index) = repeated {
            index.get(&sent).clone()
        } else {
            let id = ids[call.aggregate].clone();
            let version = model.0.get(&id).map_or(0, Vec::len) as i64;
            let expected = (version + call.off).max(0) as u64;
            (id, expected, AppendId::random(), call.events)
        };
        let events: Vec<_> = amounts.iter().copied().map(deposit).collect();
        let result = journal.append(&id, expected, &append, &events).await;
        let shown = match result {
            Ok(stored) => {
                if !stored.repeated {
                    positions.push(stored.position);
                }
                Ok((stored.version, stored.repeated))
            }
            Err(JournalError::Conflict { actual, .. }) => Err(actual),
            Err(other) => return Err(other.into()),
        };
        let modelled = model.append(&id, expected, &append, &amounts);
        ensure!(
            shown == modelled,
            "{shown:?}, and the model says {modelled:?}"
        );
        sent.push((id, expected, append, amounts));
    }
    for id in &ids {
        let modelled = model.0.remove(id).unwrap_or_default();
        let stored = journal.events(id, 0).await?;
        let stored: Vec<_> = stored.into_iter().map(|it| (it.append, it.event)).collect();
        let modelled: Vec<_> = modelled
            .into_iter()
            .map(|(append, amount)| (append, deposit(amount)))
            .collect();
        ensure!(stored == modelled, "{id}: {stored:?}, not {modelled:?}");
        let loaded = journal.load(id).await?;
        let version = loaded.map_or(0, |Loaded { version, .. }| version);
        ensure!(version == modelled.len() as u64);
    }
    ensure!(positions.is_sorted_by_key(|position| {
        let (time, number) = position.split_once('-').unwrap_or_default();
        (time.parse::<u64>().ok(), number.parse::<u64>().ok())
    }));
    Ok(())
}

#[test]
fn the_script_does_what_the_model_does_in_any_history() -> Outcome {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Runtime::new().expect("a runtime"));
    let redis = RUNTIME.block_on(Redis::start())?;
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(60)
    });
    runner.run(&vec(call(), 1..30), |calls| {
        RUNTIME
            .block_on(like_the_model(&redis, calls))
            .map_err(|error| TestCaseError::fail(format!("{error:#}")))
    })?;
    Ok(())
}
