//! Deals the faults of a schedule and takes each back after its time.
//!
//! Who is disturbed is locked meanwhile, so that two faults never meddle with one process or link; up to three last at once.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};

use super::{
    cast::Cast,
    driver::Driver,
    journal::Restore,
    part::{Part, Program},
    proxy::Mode,
    restore::Dump,
    schedule::{Blow, Fault},
};

/// Faults at once.
const AT_ONCE: usize = 3;
/// A broker that is frozen by another fault cannot be flushed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Deals these faults; `dealt` is told when each begins. All are over at the end.
///
/// # Errors
/// When one cannot be dealt.
pub async fn deal(cast: &Cast, driver: &Driver, faults: &[Fault], dealt: impl Fn(&Fault)) -> anyhow::Result<()> {
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
        lasting.push(one(cast, driver, fault));
    }
    while let Some(ended) = lasting.next().await {
        ended?;
    }
    Ok(())
}

async fn one(cast: &Cast, driver: &Driver, fault: &Fault) -> anyhow::Result<()> {
    let mode = match fault.blow {
        Blow::Cut => Some(Mode::Cut),
        Blow::Slow => Some(Mode::Slow(Duration::from_millis(20 + fault.salt % 480))),
        Blow::HalfClose => Some(Mode::HalfClosed),
        Blow::BlackHole => Some(Mode::BlackHole),
        _ => None,
    };
    if let Some(mode) = mode {
        let link = cast.links.iter().find(|link| link.name() == fault.target).context("no such link")?;
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
        Blow::Flush => {
            let Program::Redis(redis) = &*program else { bail!("{} is no broker", part.name) };
            // One that was just started may not answer yet, and is empty then.
            timeout(PATIENCE, redis.ask(&["FLUSHALL"])).await.ok();
            Ok(())
        }
        Blow::Spoil => {
            program.kill()?;
            let replica = cast.replicas.iter().find(|replica| cast.parts[replica.part].name == part.name);
            spoil(&replica.context("no such replica")?.snapshots, fault.salt)?;
            sleep(fault.hold).await;
            part.launch(&mut program)
        }
        _ => Ok(()),
    }
}

/// Truncates or garbles every file of a folder, if there is one.
fn spoil(folder: &Path, salt: u64) -> anyhow::Result<()> {
    let Ok(entries) = folder.read_dir() else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let mut bytes = fs::read(&path)?;
        let at = (salt / 3) as usize % bytes.len().max(1);
        match salt % 3 {
            0 => bytes.truncate(at),
            1 => bytes.iter_mut().skip(at).take(16).for_each(|byte| *byte ^= 0x55),
            _ => bytes.clear(),
        }
        fs::write(&path, bytes)?;
    }
    Ok(())
}

/// Dump, writing goes on, the dump is put back. Nobody writes while that happens, and nothing that publishers have under way
/// is held up on its way, so that it cannot arrive in the middle.
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
    for link in cast.links.iter().filter(|link| link.name().ends_with("mongod")) {
        links.push(link.turn.lock().await);
    }
    let _server = ready(part).await?;
    let _shut = driver.gate.write().await;
    let ended = dump.counter_now().await?;
    dump.restore().await?;
    driver.journal().restores.push(Restore { dumped, restored: driver.now(), ended });
    Ok(())
}

/// The database, when it can be written to, and nobody else's to disturb.
async fn ready(part: &Part) -> anyhow::Result<tokio::sync::MutexGuard<'_, Program>> {
    let mut program = part.program.lock().await;
    program.until_ready().await?;
    Ok(program)
}
