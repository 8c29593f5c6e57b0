//! The handle of a journal: where it is, under which names and within which limits. It connects when
//! it is first used.

mod append;
mod confirmation;
mod execute;
mod replay;

use std::{marker::PhantomData, sync::Arc, time::Duration};

use broker::{ANSWER, Address, BrokerError, Lease, Link};
use redis::{Cmd, FromRedisValue};

pub use append::Appended;
pub use execute::Executed;

use confirmation::Confirmation;

use crate::{Aggregate, JournalError, JournalName, names::Keys};

/// The limits of a journal. Every program that writes to it should have the same.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest event as JSON, in bytes.
    pub event_bytes: usize,
    /// Most events in one append.
    pub events: usize,
    /// Most events of one aggregate. A replay reads all of them.
    pub versions: u64,
    /// Most events in one answer of Redis during a replay.
    pub page: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event_bytes: 64 << 10,
            events: 64,
            versions: 100_000,
            page: 256,
        }
    }
}

/// The replicas of Redis that must have an append before it is reported as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// The number of replicas.
    pub count: u32,
    /// How long to wait for them, 1 ms to 1 s. Other appends wait meanwhile, reads do not.
    pub within: Duration,
}

/// Why a journal cannot wait for replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplicasError {
    /// A cluster sends WAIT to a node of its own choice.
    #[error("waiting for replicas is not supported in a cluster")]
    Cluster,
    /// A wait without an end would hold up every other command.
    #[error("expected a wait of 1 ms to 1 s")]
    Wait,
}

/// A journal: all aggregates of one kind. Cloning shares the connection.
#[derive(Debug)]
pub struct Journal<A> {
    link: Arc<Link>,
    keys: Keys,
    limits: Limits,
    confirmation: Option<Arc<Confirmation>>,
    aggregate: PhantomData<fn() -> A>,
}

impl<A> Clone for Journal<A> {
    fn clone(&self) -> Self {
        Self {
            link: Arc::clone(&self.link),
            keys: self.keys.clone(),
            limits: self.limits,
            confirmation: self.confirmation.clone(),
            aggregate: PhantomData,
        }
    }
}

impl<A: Aggregate> Journal<A> {
    /// A journal in a Redis that need not be available yet.
    pub fn new(address: Address, name: JournalName) -> Self {
        Self {
            link: Arc::new(Link::new(address)),
            keys: Keys::new(name),
            limits: Limits::default(),
            confirmation: None,
            aggregate: PhantomData,
        }
    }

    /// The same journal with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The same journal, whose appends wait for replicas (Redis command WAIT), so that a failover to
    /// one of them does not lose what was reported as stored.
    ///
    /// # Errors
    /// In a cluster, or when the wait is longer than 1 s.
    pub fn with_replicas(mut self, replicas: Replicas) -> Result<Self, ReplicasError> {
        if self.link.address().is_cluster() {
            return Err(ReplicasError::Cluster);
        }
        // A wait as long as the time limit of an answer would end the connection.
        let allowed = Duration::from_millis(1)..=ANSWER / 2;
        if !allowed.contains(&replicas.within) {
            return Err(ReplicasError::Wait);
        }
        let address = self.link.address().clone();
        self.confirmation = Some(Arc::new(Confirmation::new(address, replicas)));
        Ok(self)
    }

    /// The name of the journal.
    pub fn name(&self) -> &JournalName {
        self.keys.journal()
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn confirmation(&self) -> Option<&Confirmation> {
        self.confirmation.as_deref()
    }

    /// Sends a command that may be repeated. A connection that broke while idle costs the first
    /// command after it, so that command is sent again once.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, JournalError> {
        let once = async || -> Result<T, BrokerError> {
            let mut lease: Lease<'_> = self.link.connect().await?;
            lease.ask(command).await
        };
        match once().await {
            Err(BrokerError::Redis(error)) if error.is_connection_dropped() => once().await,
            answer => answer,
        }
        .map_err(JournalError::Unavailable)
    }
}
