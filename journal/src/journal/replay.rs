//! Replay: the state of one aggregate from its own events, page by page. The stream of all events is
//! never read here, and nothing is changed.

use broker::BrokerError;
use redis::{cmd, streams::StreamId, streams::StreamRangeReply};
use tokio::time::Instant;

use crate::{Aggregate, AggregateId, Journal, JournalError, Loaded, Recorded};

/// A part of the events of one aggregate.
pub(crate) struct Page<E> {
    /// The events, without a gap.
    pub(crate) events: Vec<Recorded<E>>,
    /// Why the event after them cannot be read.
    pub(crate) failed: Option<JournalError>,
    /// Whether there may be more.
    pub(crate) more: bool,
}

impl<A: Aggregate> Journal<A> {
    /// The aggregate as it is now; `None` when it does not exist.
    ///
    /// # Errors
    /// When Redis is unavailable, or an event is missing or cannot be read.
    pub async fn load(&self, id: &AggregateId) -> Result<Option<Loaded<A>>, JournalError> {
        let mut loaded = Loaded::absent(id.clone());
        self.refresh(&mut loaded).await?;
        Ok((loaded.version > 0).then_some(loaded))
    }

    /// The aggregate with its first `version` events; `None` when it has fewer.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn load_at(
        &self,
        id: &AggregateId,
        version: u64,
    ) -> Result<Option<Loaded<A>>, JournalError> {
        let mut loaded = Loaded::absent(id.clone());
        while loaded.version < version {
            let page = self.page(id, loaded.version, version).await?;
            if page.events.is_empty() && page.failed.is_none() {
                return Ok(None);
            }
            loaded.advance(&page.events);
            page.failed.map_or(Ok(()), Err)?;
        }
        Ok((version > 0).then_some(loaded))
    }

    /// Brings an aggregate that was loaded before up to date: only newer events are read. This is
    /// what a cache needs (requirement E5).
    ///
    /// # Errors
    /// As [`Self::load`]; what was read until then stays applied.
    pub async fn refresh(&self, loaded: &mut Loaded<A>) -> Result<(), JournalError> {
        self.read_until(loaded, None, |_event| false).await?;
        if loaded.version > 0 {
            return Ok(());
        }
        let Some(expected) = self.listed(&loaded.id).await? else {
            return Ok(());
        };
        // It may have been created since it was read.
        self.read_until(loaded, None, |_event| false).await?;
        require_present(loaded, expected)
    }

    /// Reads the newer events of an aggregate, page by page, until a page has one that `ends` it. The
    /// version of that event; it and its page are not applied. `None` when all events were read.
    ///
    /// # Errors
    /// As [`Self::load`], and when a page would begin after the deadline.
    pub(crate) async fn read_until(
        &self,
        loaded: &mut Loaded<A>,
        deadline: Option<Instant>,
        ends: impl Fn(&Recorded<A::Event>) -> bool,
    ) -> Result<Option<u64>, JournalError> {
        loop {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(JournalError::Unavailable(BrokerError::Timeout));
            }
            let page = self.page(&loaded.id, loaded.version, u64::MAX).await?;
            if let Some(end) = page.events.iter().find(|event| ends(event)) {
                return Ok(Some(end.version));
            }
            loaded.advance(&page.events);
            page.failed.map_or(Ok(()), Err)?;
            if !page.more {
                return Ok(None);
            }
        }
    }

    /// The events after a version, at most one page; none when there are no more. A page ends before
    /// an event that cannot be read.
    ///
    /// # Errors
    /// As [`Self::load`], when the first event cannot be read.
    pub async fn events(
        &self,
        id: &AggregateId,
        after: u64,
    ) -> Result<Vec<Recorded<A::Event>>, JournalError> {
        let page = self.page(id, after, u64::MAX).await?;
        match page.failed {
            Some(failed) if page.events.is_empty() => Err(failed),
            _ => Ok(page.events),
        }
    }

    /// The events after a version, up to another one.
    pub(crate) async fn page(
        &self,
        id: &AggregateId,
        after: u64,
        last: u64,
    ) -> Result<Page<A::Event>, JournalError> {
        let count = self.limits().page;
        let mut command = cmd("XRANGE");
        command.arg(self.keys().aggregate(id));
        // The version is the id of the entry, so Redis finds the first one without a search.
        command.arg(format!("{}-0", after.saturating_add(1)));
        command.arg(format!("{last}-0"));
        command.arg("COUNT").arg(count);
        let answer: StreamRangeReply = self.ask(&command).await?;
        let mut page = Page {
            events: Vec::with_capacity(answer.ids.len()),
            failed: None,
            more: answer.ids.len() >= count,
        };
        for (expected, entry) in (after + 1..).zip(&answer.ids) {
            match recorded(id, expected, entry) {
                Ok(event) => page.events.push(event),
                Err(failed) => {
                    page.failed = Some(failed);
                    break;
                }
            }
        }
        Ok(page)
    }

    /// The version of an aggregate in the list of all aggregates. One that has a version here and no
    /// events was created in between, or its stream was evicted or removed.
    pub(crate) async fn listed(&self, id: &AggregateId) -> Result<Option<u64>, JournalError> {
        let mut command = cmd("HGET");
        command.arg(self.keys().versions()).arg(id.as_str());
        self.ask(&command).await
    }
}

/// The error of an aggregate that is listed and has no events.
pub(crate) fn require_present<A>(loaded: &Loaded<A>, expected: u64) -> Result<(), JournalError> {
    if loaded.version > 0 {
        return Ok(());
    }
    Err(JournalError::Damaged {
        id: loaded.id.clone(),
        expected,
        found: 0,
    })
}

impl<A: Aggregate> Loaded<A> {
    pub(crate) fn advance(&mut self, events: &[Recorded<A::Event>]) {
        for recorded in events {
            self.state.apply(&recorded.event);
            self.version = recorded.version;
        }
    }
}

/// The event of an entry, which must have the expected version.
fn recorded<E: serde::de::DeserializeOwned>(
    id: &AggregateId,
    expected: u64,
    entry: &StreamId,
) -> Result<Recorded<E>, JournalError> {
    let number = entry.id.split_once('-').and_then(|(n, _)| n.parse().ok());
    if number != Some(expected) {
        return Err(JournalError::Damaged {
            id: id.clone(),
            expected,
            found: number.unwrap_or(0),
        });
    }
    let wrong = |reason: String| JournalError::Undecodable {
        id: id.clone(),
        version: expected,
        reason,
    };
    let field = |name: &str| {
        entry
            .get::<String>(name)
            .ok_or_else(|| wrong(format!("it has no field {name:?}")))
    };
    let append = field("append")?;
    let append = append
        .parse()
        .map_err(|it| wrong(format!("append: {it}")))?;
    let event = serde_json::from_str(&field("event")?).map_err(|it| wrong(it.to_string()))?;
    Ok(Recorded {
        version: expected,
        append,
        position: field("position")?,
        event,
    })
}
