//! How long a client waits for a service. Every request has these limits; none waits indefinitely.

use std::time::Duration;

/// Limits of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection is established.
    pub connect: Duration,
    /// Between two pieces of the body of an answer.
    pub idle: Duration,
    /// Until the head of an answer to a read arrives.
    pub read: Duration,
    /// Until the head of an answer to a write arrives. A publisher may need 5 s until it gives up a
    /// commit, and answers only then.
    pub write: Duration,
    /// Until the answer arrives to a request that may make the publisher read its whole store.
    pub maintenance: Duration,
    /// Until the report of a repair arrives, which reads all rows and the whole log, and writes each
    /// row that it restores on its own.
    pub repair: Duration,
    /// Longest silence of a live feed, which sends a keep-alive every 5 s.
    pub silence: Duration,
    /// In which a body that may be long brings 16 KiB for each second, or its end. The whole of an answer
    /// that is always short arrives within the time of its head.
    pub period: Duration,
}

impl Timeouts {
    /// The limits of a replica. It has other publishers to ask, so it gives up early.
    pub const REPLICA: Self = Self {
        connect: Duration::from_secs(1),
        idle: Duration::from_secs(2),
        read: Duration::from_secs(2),
        write: Duration::from_secs(2),
        maintenance: Duration::from_secs(60),
        repair: Duration::from_secs(1_800),
        silence: Duration::from_secs(12),
        period: Duration::from_secs(5),
    };

    /// The limits of a command that a person waits for. A publisher waits 5 s for its store, and says then
    /// what is wrong with it.
    pub const COMMAND: Self = Self {
        connect: Duration::from_secs(1),
        idle: Duration::from_secs(8),
        read: Duration::from_secs(6),
        write: Duration::from_secs(8),
        maintenance: Duration::from_secs(60),
        repair: Duration::from_secs(1_800),
        silence: Duration::from_secs(15),
        period: Duration::from_secs(10),
    };

    /// The limits of a test on a busy machine: an answer that is late is reported by the test
    /// itself.
    pub const TEST: Self = Self {
        connect: Duration::from_secs(10),
        idle: Duration::from_secs(120),
        read: Duration::from_secs(120),
        write: Duration::from_secs(120),
        maintenance: Duration::from_secs(120),
        repair: Duration::from_secs(120),
        silence: Duration::from_secs(120),
        period: Duration::from_secs(120),
    };
}
