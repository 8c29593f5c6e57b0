//! One process of the campaign, whichever it is: what the nemesis can do to it.
//!
//! It knows no promise and no fault: it starts, kills, freezes and measures.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use tokio::{sync::Mutex, time::timeout};

use crate::testbed::{
    mongod::Mongod, process::Process, redis::Redis, services::Service, sidecar::Sidecar,
    wait::TIMEOUT,
};

/// How often it is looked whether what is waited for has ended.
const LOOK: Duration = Duration::from_secs(1);

/// What runs.
#[derive(Debug)]
pub enum Program {
    /// The database.
    Mongod(Mongod),
    /// The broker.
    Redis(Redis),
    /// A sidecar.
    Sidecar(Sidecar),
    /// A publisher or a subscriber.
    Service(Service),
}

impl Program {
    /// Starts it and does not wait for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Mongod(mongod) => mongod.relaunch(),
            Self::Redis(redis) => redis.launch(),
            Self::Sidecar(sidecar) => sidecar.launch(),
            Self::Service(service) => service.launch(),
        }
    }

    /// Waits until it can do its work.
    ///
    /// # Errors
    /// When it cannot in time.
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Mongod(mongod) => mongod.until_primary().await,
            Self::Redis(redis) => redis.until_ready().await,
            Self::Sidecar(sidecar) => sidecar.until_ready().await,
            Self::Service(service) => service.until_ready().await,
        }
    }

    /// kill -9.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Mongod(mongod) => mongod.kill(),
            Self::Redis(redis) => redis.kill(),
            Self::Sidecar(sidecar) => sidecar.kill(),
            Self::Service(service) => service.kill(),
        }
    }

    /// A publisher or a subscriber.
    ///
    /// # Errors
    /// When it is none.
    pub fn service(&mut self) -> anyhow::Result<&mut Service> {
        let Self::Service(service) = self else {
            bail!("not a service of ours")
        };
        Ok(service)
    }

    /// Its process, if there is one.
    pub fn process(&mut self) -> Option<&mut Process> {
        match self {
            Self::Mongod(mongod) => mongod.process(),
            Self::Redis(redis) => redis.process(),
            Self::Sidecar(sidecar) => sidecar.process(),
            Self::Service(service) => service.process().ok(),
        }
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.process().is_some_and(Process::runs)
    }

    /// Freezes it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.process()
            .context("it does not run")?
            .signal(Signal::SIGSTOP)
    }

    /// Thaws it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.process()
            .context("it does not run")?
            .signal(Signal::SIGCONT)
    }
}

/// A process and its name. The lock is held by whoever disturbs it.
#[derive(Debug)]
pub struct Component {
    /// For logs, the schedule and the report.
    pub name: String,
    /// What it is.
    pub program: Mutex<Program>,
    lives: AtomicU32,
}

impl Component {
    /// A part that runs, or will.
    pub fn new(name: impl Into<String>, program: Program) -> Self {
        Self {
            name: name.into(),
            program: Mutex::new(program),
            lives: AtomicU32::new(0),
        }
    }

    /// How often it was started. An observer that reads the same number before and after saw one
    /// life, or the end of it.
    pub fn lives(&self) -> u32 {
        self.lives.load(Ordering::Acquire)
    }

    /// Starts it and does not wait for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&self, program: &mut Program) -> anyhow::Result<()> {
        self.lives.fetch_add(1, Ordering::AcqRel);
        program
            .launch()
            .with_context(|| format!("starting {}", self.name))
    }

    /// Starts it, unless it runs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(&self) -> anyhow::Result<()> {
        let mut program = self.program.lock().await;
        if program.runs() {
            Ok(())
        } else {
            self.launch(&mut program)
        }
    }

    /// Waits until it can do its work. A sidecar gives up when its broker is late, so one that
    /// ended is started again.
    ///
    /// # Errors
    /// When it cannot in time.
    pub async fn until_ready(&self) -> anyhow::Result<()> {
        let mut program = self.program.lock().await;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if !program.runs() {
                self.launch(&mut program)?;
            }
            match timeout(LOOK, program.until_ready()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if Instant::now() > deadline => return Err(error),
                Err(_elapsed) if Instant::now() > deadline => {
                    let said = program
                        .process()
                        .map(|process| process.tail())
                        .unwrap_or_default();
                    bail!("{} is not ready after {TIMEOUT:?}\n{said}", self.name)
                }
                _ => {}
            }
        }
    }
}
