//! Deals the faults of a schedule and takes each back after its time.
//!
//! Who is disturbed is locked meanwhile, so that two faults never meddle with one process or link;
//! up to three last at once.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};

use super::{
    cast::Cast,
    clock,
    deeds::{self, Deeds, Stop},
    driver::Driver,
    journal::Restore,
    part::{Part, Program},
    proxy::Mode,
    restore::Dump,
    schedule::{Blow, Fault},
};

/// Faults at once.
const AT_ONCE: usize = 3;
/// A broker that was just started may not answer yet.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who is disturbed, and what becomes of it.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// Everything that runs.
    pub cast: &'a Cast,
    /// Who writes.
    pub driver: &'a Driver,
    /// What was done.
    pub deeds: &'a Mutex<Deeds>,
}

/// Deals these faults; `dealt` is told when each begins. All are over at the end.
///
/// # Errors
/// When one cannot be dealt.
pub async fn deal(
    scene: Scene<'_>,
    faults: &[Fault],
    dealt: impl Fn(&Fault),
) -> anyhow::Result<()> {
    let mut lasting = FuturesUnordered::new();
    for fault in faults {
        let mut gap = std::pin::pin!(sleep(fault.gap));
        loop {
            tokio::select! {
                Some(ended) = lasting.next() => ended?,
                () = &mut gap => break,
            }
        }
        while lasting.len() >= AT_ONCE {
            lasting.next().await.transpose()?;
        }
        dealt(fault);
        lasting.push(one(scene, fault));
    }
    while let Some(ended) = lasting.next().await {
        ended?;
    }
    Ok(())
}

async fn one(scene: Scene<'_>, fault: &Fault) -> anyhow::Result<()> {
    let Scene {
        cast,
        driver,
        deeds,
    } = scene;
    let deeds = || deeds.lock().unwrap_or_else(PoisonError::into_inner);
    let mode = match fault.blow {
        Blow::Cut => Some(Mode::Cut),
        Blow::Slow => Some(Mode::Slow(Duration::from_millis(20 + fault.salt % 480))),
        Blow::HalfClose => Some(Mode::HalfClosed),
        Blow::BlackHole => Some(Mode::BlackHole),
        _ => None,
    };
    if let Some(mode) = mode {
        let link = cast
            .links
            .iter()
            .find(|link| link.name() == fault.target)
            .context("no such link")?;
        let _ours = link.turn.lock().await;
        link.set(mode);
        sleep(fault.hold).await;
        link.set(Mode::Open);
        return Ok(());
    }
    let part = cast.find(&fault.target)?;
    if fault.blow == Blow::Restore {
        return restore(cast, driver, part, fault.hold).await;
    }
    let mut program = part.program.lock().await;
    match fault.blow {
        Blow::Kill => {
            program.kill()?;
            sleep(fault.hold).await;
            part.launch(&mut program)
        }
        // One that ended by itself a moment ago is started again by whoever watches.
        Blow::Freeze if program.runs() => {
            program.freeze()?;
            sleep(fault.hold).await;
            program.thaw()
        }
        Blow::Flush => tell(&program, &["FLUSHALL"]).await,
        Blow::HangUp => {
            // Who waits for what comes is of the one type or of the other.
            tell(&program, &["CLIENT", "KILL", "TYPE", "normal"]).await?;
            tell(&program, &["CLIENT", "KILL", "TYPE", "pubsub"]).await
        }
        Blow::Hush if program.runs() => {
            tell(
                &program,
                &[
                    "CLIENT",
                    "PAUSE",
                    &fault.hold.as_millis().to_string(),
                    "ALL",
                ],
            )
            .await?;
            // It ends by itself and takes no command before: what is asked now is answered when it
            // is over.
            program.until_ready().await
        }
        Blow::Spoil => {
            program.kill()?;
            let replica = cast
                .replicas
                .iter()
                .find(|replica| cast.parts[replica.part].name == part.name);
            let spoilt = deeds::spoil(&replica.context("no such replica")?.snapshots, fault.salt)?;
            deeds().spoilt += usize::from(spoilt);
            sleep(fault.hold).await;
            part.launch(&mut program)
        }
        // As above: nobody can be asked who has just ended by itself.
        Blow::Stop if program.runs() => {
            scene.stop(part, &mut program).await?;
            sleep(fault.hold).await;
            part.launch(&mut program)
        }
        Blow::Clock => {
            program.kill()?;
            clock::shift(program.service()?, fault.salt.is_multiple_of(2));
            deeds().shifted += 1;
            part.launch(&mut program)?;
            sleep(fault.hold).await;
            // In an orderly end it still writes what the next life, in another hour, begins with.
            if fault.salt % 4 < 2 && program.runs() {
                scene.stop(part, &mut program).await?;
            } else {
                program.kill()?;
            }
            clock::restore(program.service()?);
            part.launch(&mut program)
        }
        _ => Ok(()),
    }
}

/// Gives a broker a command. One that was just started and does not answer yet is without anything
/// and anybody anyway.
async fn tell(program: &Program, command: &[&str]) -> anyhow::Result<()> {
    let Program::Redis(redis) = program else {
        bail!("not a broker")
    };
    if let Ok(Ok(answer)) = timeout(PATIENCE, redis.ask(command)).await {
        ensure!(
            !answer.starts_with('-'),
            "{command:?} was answered {answer:?}"
        );
    }
    Ok(())
}

impl Scene<'_> {
    /// Asks for an orderly end, and notes what came of it.
    async fn stop(&self, part: &Part, program: &mut Program) -> anyhow::Result<()> {
        let (asked, since) = (self.driver.now(), Instant::now());
        let wrong = deeds::stop(program.process().context("it does not run")?).await?;
        let stop = Stop {
            who: part.name.clone(),
            asked,
            took: since.elapsed(),
            wrong,
        };
        self.deeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stops
            .push(stop);
        Ok(())
    }
}

/// Dump, writing goes on, the dump is put back. Nobody writes while that happens, and nothing that
/// publishers have under way is held up on its way, so that it cannot arrive in the middle.
async fn restore(cast: &Cast, driver: &Driver, part: &Part, hold: Duration) -> anyhow::Result<()> {
    let (dumped, dump) = {
        let program = ready(part).await?;
        (driver.now(), Dump::take(&program).await?)
    };
    sleep(hold).await;
    let mut publishers = Vec::new();
    for publisher in &cast.publishers {
        publishers.push(cast.parts[publisher.part].program.lock().await);
    }
    let mut links = Vec::new();
    for link in cast
        .links
        .iter()
        .filter(|link| link.name().ends_with("mongod"))
    {
        links.push(link.turn.lock().await);
    }
    let _server = ready(part).await?;
    let _shut = driver.gate.write().await;
    let ended = dump.counter_now().await?;
    dump.restore().await?;
    driver.journal().restores.push(Restore {
        dumped,
        restored: driver.now(),
        ended,
    });
    Ok(())
}

/// The database, when it can be written to, and nobody else's to disturb.
async fn ready(part: &Part) -> anyhow::Result<tokio::sync::MutexGuard<'_, Program>> {
    let mut program = part.program.lock().await;
    program.until_ready().await?;
    Ok(program)
}
