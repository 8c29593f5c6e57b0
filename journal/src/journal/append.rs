//! The append: one script that checks the version and stores all events, or none.
//!
//! It is sent again with the same id until it is answered, because a repetition is recognised by the
//! script. This module never sends an append without its expected version.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use broker::BrokerError;
use redis::{Cmd, cmd};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{Aggregate, AggregateId, AppendId, Journal, JournalError};

const SCRIPT: &str = include_str!("append.lua");

/// How long an append is repeated while Redis does not answer, for example during a failover.
const REPEAT: Duration = Duration::from_secs(8);

/// What an append stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The version of the aggregate with the last event of the append.
    pub version: u64,
    /// The position of that event among the events of all aggregates.
    pub position: String,
    /// Whether it had been stored before, by an earlier attempt with the same id.
    pub repeated: bool,
}

impl<A: Aggregate> Journal<A> {
    /// Appends events to an aggregate that has `expected` events so far; 0 means that it must not
    /// exist. All events are stored or none, and the n-th event of the aggregate gets version n.
    ///
    /// An append with the id of one that was stored at this version is answered with the result of that
    /// one, and nothing is compared: the caller gives the same id to the same events only.
    ///
    /// # Errors
    /// [`JournalError::Conflict`] when the aggregate has another version; see [`JournalError`].
    pub async fn append(
        &self,
        id: &AggregateId,
        expected: u64,
        append: &AppendId,
        events: &[A::Event],
    ) -> Result<Appended, JournalError> {
        let command = self.command(id, expected, append, events)?;
        self.stored(&command, id, expected, append).await
    }

    /// What the script answered.
    ///
    /// # Errors
    /// What it refused, or when the answer is not of the script.
    fn answered(
        &self,
        id: &AggregateId,
        expected: u64,
        answer: Vec<String>,
    ) -> Result<Appended, JournalError> {
        let [what, version, position] = <[String; 3]>::try_from(answer)
            .map_err(|other| JournalError::Answer(other.join(" ")))?;
        let number = |text: &str| {
            let wrong = || JournalError::Answer(format!("{what} {text}"));
            text.parse::<u64>().map_err(|_no_number| wrong())
        };
        match what.as_str() {
            "appended" | "repeated" => Ok(Appended {
                version: number(&version)?,
                repeated: what == "repeated",
                position,
            }),
            "conflict" => Err(JournalError::Conflict {
                id: id.clone(),
                expected,
                actual: number(&version)?,
            }),
            "too-long" => Err(JournalError::TooLong {
                id: id.clone(),
                version: number(&version)?,
                most: self.limits().versions,
            }),
            "damaged" => Err(JournalError::Damaged {
                id: id.clone(),
                expected: number(&version)?,
                found: number(&position)?,
            }),
            _ => Err(JournalError::Answer(what)),
        }
    }

    /// The command, with events that are within the limits.
    fn command(
        &self,
        id: &AggregateId,
        expected: u64,
        append: &AppendId,
        events: &[A::Event],
    ) -> Result<Cmd, JournalError> {
        let limits = self.limits();
        if !(1..=limits.events).contains(&events.len()) {
            return Err(JournalError::EventCount {
                count: events.len(),
                most: limits.events,
            });
        }
        let keys = self.keys();
        let mut command = cmd("EVAL");
        command.arg(SCRIPT).arg(3);
        command.arg(keys.events()).arg(keys.aggregate(id));
        command.arg(keys.versions()).arg(id.as_str());
        command.arg(expected).arg(append.as_str());
        command.arg(limits.versions);
        for event in events {
            command.arg(encode(event, limits.event_bytes)?);
        }
        Ok(command)
    }

    /// Sends the append until it is answered and the replicas confirmed it.
    async fn stored(
        &self,
        command: &Cmd,
        id: &AggregateId,
        expected: u64,
        append: &AppendId,
    ) -> Result<Appended, JournalError> {
        let deadline = Instant::now() + REPEAT;
        let mut waits = ExponentialBuilder::new()
            .with_jitter()
            .without_max_times()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .build();
        let mut unknown = false;
        loop {
            let error = match self.attempt(command, id, expected).await {
                Ok(appended) => return Ok(appended),
                Err(Failed::NotSent(error)) => error,
                Err(Failed::Sent(error)) => {
                    // A refusal says that this attempt stored nothing; an earlier one may have.
                    unknown |= !error.is_refusal();
                    if error.is_refusal() && !error.ends_the_connection() {
                        return Err(failure(error, unknown, append));
                    }
                    error
                }
                Err(Failed::NotConfirmed(error, version)) => {
                    // The script has answered: whatever follows, events are stored.
                    unknown = true;
                    if error.is_refusal() && !error.ends_the_connection() {
                        return Err(self.not_replicated(id, version, 0, Some(error)));
                    }
                    error
                }
                Err(Failed::Answered(error)) => return Err(error),
            };
            let wait = waits.next().unwrap_or(Duration::from_secs(1));
            if Instant::now() + wait >= deadline {
                return Err(failure(error, unknown, append));
            }
            sleep(wait).await;
        }
    }

    /// Sends the append once, and waits for replicas if the journal asks for them.
    async fn attempt(
        &self,
        command: &Cmd,
        id: &AggregateId,
        expected: u64,
    ) -> Result<Appended, Failed> {
        let confirmation = self.confirmation();
        let link = confirmation.map_or(self.link(), |confirmation| &confirmation.link);
        let mut connection = link.connect().await.map_err(Failed::NotSent)?;
        let answer: Vec<String> = connection.ask(command).await.map_err(Failed::Sent)?;
        let appended = self.answered(id, expected, answer);
        let appended = appended.map_err(Failed::Answered)?;
        if let Some(confirmation) = confirmation {
            // The script writes something in each attempt, so this waits for an earlier one as well.
            let version = appended.version;
            let confirmed = confirmation.confirmed(&mut connection).await;
            let confirmed = confirmed.map_err(|it| Failed::NotConfirmed(it, version))?;
            if confirmed < u64::from(confirmation.replicas.count) {
                let error = self.not_replicated(id, version, confirmed, None);
                return Err(Failed::Answered(error));
            }
        }
        Ok(appended)
    }

    fn not_replicated(
        &self,
        id: &AggregateId,
        version: u64,
        confirmed: u64,
        source: Option<BrokerError>,
    ) -> JournalError {
        JournalError::NotReplicated {
            id: id.clone(),
            version,
            confirmed,
            wanted: self.confirmation().map_or(0, |it| it.replicas.count),
            source,
        }
    }
}

/// Why an attempt failed.
enum Failed {
    /// There is no connection.
    NotSent(BrokerError),
    /// It was sent, and there is no answer, or a refusal.
    Sent(BrokerError),
    /// The script stored this version, and WAIT failed.
    NotConfirmed(BrokerError, u64),
    /// It was answered: the script refused it, too few replicas confirmed it, or the answer is not of
    /// the script.
    Answered(JournalError),
}

/// The error of an append that is given up.
fn failure(error: BrokerError, unknown: bool, append: &AppendId) -> JournalError {
    if unknown {
        JournalError::OutcomeUnknown {
            append: append.clone(),
            source: error,
        }
    } else {
        JournalError::Unavailable(error)
    }
}

/// An event as JSON.
fn encode(event: &impl Serialize, most: usize) -> Result<Vec<u8>, JournalError> {
    let json = serde_json::to_vec(event).map_err(JournalError::Unencodable)?;
    if json.len() > most {
        return Err(JournalError::EventSize {
            bytes: json.len(),
            most,
        });
    }
    Ok(json)
}
