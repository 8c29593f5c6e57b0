//! One process of the campaign, of any kind, and what the nemesis can do to it.
//!
//! It starts, kills, freezes and measures. It knows neither promises nor faults.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use tokio::{sync::Mutex, time::timeout};

use crate::testbed::{
    files::Files, mongod::Mongod, process::Process, redis::Redis, services::Service,
    sidecar::Sidecar, wait::TIMEOUT,
};

/// How often to check whether a process that must become ready has ended.
const LOOK: Duration = Duration::from_secs(1);

/// The process, by kind.
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
    /// A Dapr component. It is ready for a sidecar, which the campaign is.
    Component(Service),
    /// `confcast files`.
    Files(Files),
}

impl Program {
    /// Starts it and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Mongod(mongod) => mongod.relaunch(),
            Self::Redis(redis) => redis.launch(),
            Self::Sidecar(sidecar) => sidecar.launch(),
            Self::Service(service) | Self::Component(service) => service.launch(),
            Self::Files(files) => files.launch(),
        }
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Mongod(mongod) => mongod.until_primary().await,
            Self::Redis(redis) => redis.until_ready().await,
            Self::Sidecar(sidecar) => sidecar.until_ready().await,
            Self::Service(service) => service.until_ready().await,
            Self::Component(service) => service.until_socket().await,
            Self::Files(files) => files.until_ready().await,
        }
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Mongod(mongod) => mongod.kill(),
            Self::Redis(redis) => redis.kill(),
            Self::Sidecar(sidecar) => sidecar.kill(),
            Self::Service(service) | Self::Component(service) => service.kill(),
            Self::Files(files) => files.kill(),
        }
    }

    /// The publisher or subscriber.
    ///
    /// # Errors
    /// When it is another kind.
    pub fn service(&mut self) -> anyhow::Result<&mut Service> {
        let Self::Service(service) = self else {
            bail!("not a service of ours")
        };
        Ok(service)
    }

    /// The running process, if there is one.
    pub fn process(&mut self) -> Option<&mut Process> {
        match self {
            Self::Mongod(mongod) => mongod.process(),
            Self::Redis(redis) => redis.process(),
            Self::Sidecar(sidecar) => sidecar.process(),
            Self::Service(service) | Self::Component(service) => service.process().ok(),
            Self::Files(files) => files.process(),
        }
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.process().is_some_and(Process::runs)
    }

    /// Freezes it (SIGSTOP).
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.process()
            .context("it does not run")?
            .signal(Signal::SIGSTOP)
    }

    /// Ends the freeze (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.process()
            .context("it does not run")?
            .signal(Signal::SIGCONT)
    }
}

/// A process and its name. Hold the lock while a fault is in effect.
#[derive(Debug)]
pub struct Component {
    /// For logs, the schedule and the report.
    pub name: String,
    /// The process.
    pub program: Mutex<Program>,
    lives: AtomicU32,
}

impl Component {
    /// A component that runs, or will run.
    pub fn new(name: impl Into<String>, program: Program) -> Self {
        Self {
            name: name.into(),
            program: Mutex::new(program),
            lives: AtomicU32::new(0),
        }
    }

    /// How often it was started. If the number is the same before and after an observation, the
    /// observation is of one run.
    pub fn lives(&self) -> u32 {
        self.lives.load(Ordering::Acquire)
    }

    /// Starts it and does not wait.
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

    /// Waits until it is ready. A sidecar gives up when its broker is late, so a process that ended
    /// is started again.
    ///
    /// # Errors
    /// When it is not ready in time.
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
