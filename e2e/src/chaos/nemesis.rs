//! Injects the faults of a schedule and ends each after its time.
//!
//! The target is locked meanwhile, so that two faults never hit one process or link. Up to three
//! faults are in effect at once.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};

use super::{
    actions::{self, Actions, Stall, Stop},
    clock,
    cluster::Cluster,
    component::{Component, Program},
    damage,
    driver::Driver,
    forge,
    proxy::Mode,
    record::Restore,
    restore::Dump,
    schedule::{Fault, FaultKind},
    stall::{self, Stalled},
};

/// Faults in effect at once.
const AT_ONCE: usize = 3;
/// A broker that was just started may not answer yet.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a fault works on, and where it is noted.
#[derive(Debug, Clone, Copy)]
pub struct FaultContext<'a> {
    /// All processes and links.
    pub cluster: &'a Cluster,
    /// The writing clients.
    pub driver: &'a Driver,
    /// The actions so far.
    pub actions: &'a Mutex<Actions>,
}

/// Injects these faults; `dealt` is called when each begins. All have ended when it returns.
///
/// # Errors
/// When a fault cannot be injected.
pub async fn deal(
    context: FaultContext<'_>,
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
        lasting.push(one(context, fault));
    }
    while let Some(ended) = lasting.next().await {
        ended?;
    }
    Ok(())
}

async fn one(context: FaultContext<'_>, fault: &Fault) -> anyhow::Result<()> {
    let FaultContext {
        cluster,
        driver,
        actions,
    } = context;
    let actions = || actions.lock().unwrap_or_else(PoisonError::into_inner);
    let mode = match fault.kind {
        FaultKind::Cut => Some(Mode::Cut),
        FaultKind::Slow => Some(Mode::Slow(Duration::from_millis(20 + fault.salt % 480))),
        FaultKind::HalfClose => Some(Mode::HalfClosed),
        FaultKind::BlackHole => Some(Mode::BlackHole),
        _ => None,
    };
    if let Some(mode) = mode {
        let link = cluster
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
    let component = cluster.find(&fault.target)?;
    if fault.kind == FaultKind::Restore {
        return restore(cluster, driver, component, fault.hold).await;
    }
    if matches!(
        fault.kind,
        FaultKind::ForgedEvent | FaultKind::ForgedCheckIn
    ) {
        return forge::send(cluster, fault).await;
    }
    if fault.kind == FaultKind::SpoiltRow {
        return if component.name == "mongod" {
            damage::in_database(cluster, driver, component, fault).await
        } else {
            damage::in_file(cluster, driver, component, fault).await
        };
    }
    let mut program = component.program.lock().await;
    match fault.kind {
        FaultKind::StalledReaders if program.runs() => {
            let port = program.service()?.port();
            let at = driver.now();
            let wrong = match stall::stall(port).await? {
                Stalled::Ended => None,
                Stalled::Kept(wrong) => Some(wrong),
                Stalled::NeverBlocked => return Ok(()),
            };
            let who = component.name.clone();
            actions().stalls.push(Stall { who, at, wrong });
            Ok(())
        }
        FaultKind::Kill => {
            program.kill()?;
            sleep(fault.hold).await;
            component.launch(&mut program)
        }
        // A process that has just ended by itself is restarted by the watcher.
        FaultKind::Freeze if program.runs() => {
            program.freeze()?;
            sleep(fault.hold).await;
            program.thaw()
        }
        FaultKind::Flush => send_command(&program, &["FLUSHALL"]).await,
        FaultKind::HangUp => {
            // A connection that waits for events is of one type or the other.
            send_command(&program, &["CLIENT", "KILL", "TYPE", "normal"]).await?;
            send_command(&program, &["CLIENT", "KILL", "TYPE", "pubsub"]).await
        }
        FaultKind::Hush if program.runs() => {
            send_command(
                &program,
                &[
                    "CLIENT",
                    "PAUSE",
                    &fault.hold.as_millis().to_string(),
                    "ALL",
                ],
            )
            .await?;
            // The pause ends by itself, and the broker answers no command before. This command is
            // answered when the pause is over.
            program.until_ready().await
        }
        FaultKind::Spoil => {
            program.kill()?;
            let replica = cluster
                .replicas
                .iter()
                .find(|replica| cluster.components[replica.component].name == component.name);
            let spoilt =
                actions::spoil(&replica.context("no such replica")?.snapshots, fault.salt)?;
            actions().spoilt += usize::from(spoilt);
            sleep(fault.hold).await;
            component.launch(&mut program)
        }
        // As above: a process that has just ended by itself gets no signal.
        FaultKind::Stop if program.runs() => {
            context.stop(component, &mut program).await?;
            sleep(fault.hold).await;
            component.launch(&mut program)
        }
        FaultKind::Clock => {
            program.kill()?;
            clock::shift(program.service()?, fault.salt.is_multiple_of(2));
            actions().shifted += 1;
            component.launch(&mut program)?;
            sleep(fault.hold).await;
            // An orderly stop still writes the file that the next run, with another clock, begins
            // with.
            if fault.salt % 4 < 2 && program.runs() {
                context.stop(component, &mut program).await?;
            } else {
                program.kill()?;
            }
            clock::restore(program.service()?);
            component.launch(&mut program)
        }
        _ => Ok(()),
    }
}

/// Sends a command to the broker. A broker that was just started and does not answer yet has
/// neither data nor connections, so a failure is ignored.
async fn send_command(program: &Program, command: &[&str]) -> anyhow::Result<()> {
    let Program::Redis(redis) = program else {
        bail!("not a broker")
    };
    if let Ok(Ok(answer)) = timeout(TIMEOUT, redis.command_text(command)).await {
        ensure!(
            !answer.starts_with('-'),
            "{command:?} was answered {answer:?}"
        );
    }
    Ok(())
}

impl FaultContext<'_> {
    /// Stops a process in order and notes the result.
    async fn stop(&self, component: &Component, program: &mut Program) -> anyhow::Result<()> {
        let asked = self.driver.now();
        let since = Instant::now();
        let wrong = actions::stop(program.process().context("it does not run")?).await?;
        let stop = Stop {
            who: component.name.clone(),
            asked,
            took: since.elapsed(),
            wrong,
        };
        self.actions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stops
            .push(stop);
        Ok(())
    }
}

/// Takes a dump, lets writes continue, and restores the dump. Writes are paused during the restore,
/// and no request of a publisher is delayed on a link, so that none arrives in the middle.
async fn restore(
    cluster: &Cluster,
    driver: &Driver,
    component: &Component,
    hold: Duration,
) -> anyhow::Result<()> {
    let (dumped, dump) = {
        let program = ready(component).await?;
        (driver.now(), Dump::take(&program).await?)
    };
    sleep(hold).await;
    let mut publishers = Vec::new();
    for publisher in &cluster.publishers {
        publishers.push(cluster.components[publisher.component].program.lock().await);
    }
    let mut links = Vec::new();
    for link in cluster
        .links
        .iter()
        .filter(|link| link.name().ends_with("mongod"))
    {
        links.push(link.turn.lock().await);
    }
    let _server = ready(component).await?;
    let _shut = driver.gate.write().await;
    let ended = dump.counter_now().await?;
    dump.restore().await?;
    driver.record().restores.push(Restore {
        dumped,
        restored: driver.now(),
        ended,
    });
    Ok(())
}

/// Locks the database and waits until it takes writes.
async fn ready(component: &Component) -> anyhow::Result<tokio::sync::MutexGuard<'_, Program>> {
    let mut program = component.program.lock().await;
    program.until_ready().await?;
    Ok(program)
}
