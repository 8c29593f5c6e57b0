//! One command: replay, decide, append, and again after a conflict. Nothing is applied before it is
//! stored, so a conflict leaves nothing to undo (requirement E5).

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::{Instant, sleep};

use crate::{
    Aggregate, AggregateId, AppendId, ExecuteError, Journal, JournalError, Loaded, Recorded,
    journal::replay::require_present,
};

/// How often a command is decided again after a conflict. The caller then gets the conflict.
const RETRIES: usize = 24;
/// Time limit of one command, without the time of the append that is under way when it is reached.
const LIMIT: Duration = Duration::from_secs(20);

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed<A: Aggregate> {
    /// The aggregate after the last event of the command.
    pub aggregate: Loaded<A>,
    /// Its events; none when the command changed nothing.
    pub events: Vec<A::Event>,
    /// Whether it had been executed before, with the same id.
    pub repeated: bool,
}

impl<A: Aggregate> Journal<A> {
    /// Creates an aggregate by its first command.
    ///
    /// # Errors
    /// [`JournalError::AlreadyExists`] when it exists, unless `append` created it.
    pub async fn create(
        &self,
        id: &AggregateId,
        append: &AppendId,
        command: &A::Command,
    ) -> Result<Executed<A>, ExecuteError<A::Error>> {
        let absent = Loaded::<A>::absent(id.clone());
        let events = absent
            .state
            .decide(command)
            .map_err(ExecuteError::Refused)?;
        match self.append(id, 0, append, &events).await {
            Ok(stored) if stored.repeated => self.earlier(id, append, 0).await,
            Ok(_stored) => Ok(applied(absent, events)),
            Err(JournalError::Conflict { id, .. }) => Err(JournalError::AlreadyExists(id).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Executes a command on an aggregate that exists. After a conflict the command is decided again,
    /// a bounded number of times.
    ///
    /// A command with the id of one that was executed before is not executed again: the result is the
    /// aggregate as it was after it.
    ///
    /// # Errors
    /// [`ExecuteError::Refused`] when the aggregate refuses it, [`JournalError::NotFound`], and
    /// [`JournalError::Conflict`] when others were always faster.
    pub async fn execute(
        &self,
        id: &AggregateId,
        append: &AppendId,
        command: &A::Command,
    ) -> Result<Executed<A>, ExecuteError<A::Error>> {
        let deadline = Instant::now() + LIMIT;
        let mut waits = ExponentialBuilder::new()
            .with_jitter()
            .with_max_times(RETRIES)
            .with_min_delay(Duration::from_millis(1))
            .with_max_delay(Duration::from_millis(50))
            .build();
        let mut loaded = Loaded::<A>::absent(id.clone());
        loop {
            let is_own = |event: &Recorded<A::Event>| event.append == *append;
            let own = self.read_until(&mut loaded, Some(deadline), is_own).await?;
            if let Some(first) = own {
                return self.earlier(id, append, first - 1).await;
            }
            if loaded.version == 0 {
                let Some(version) = self.listed(id).await? else {
                    return Err(JournalError::NotFound(id.clone()).into());
                };
                // It may have been created since it was read.
                let own = self.read_until(&mut loaded, Some(deadline), is_own).await?;
                if let Some(first) = own {
                    return self.earlier(id, append, first - 1).await;
                }
                require_present(&loaded, version)?;
            }
            let events = loaded
                .state
                .decide(command)
                .map_err(ExecuteError::Refused)?;
            if events.is_empty() {
                return Ok(applied(loaded, events));
            }
            match self.append(id, loaded.version, append, &events).await {
                Ok(stored) if stored.repeated => {
                    return self.earlier(id, append, loaded.version).await;
                }
                Ok(_stored) => return Ok(applied(loaded, events)),
                Err(error @ JournalError::Conflict { .. }) => match waits.next() {
                    Some(wait) => sleep(wait).await,
                    None => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The result of an append that was stored after version `before`.
    async fn earlier(
        &self,
        id: &AggregateId,
        append: &AppendId,
        before: u64,
    ) -> Result<Executed<A>, ExecuteError<A::Error>> {
        let mut aggregate = match before {
            0 => Loaded::absent(id.clone()),
            _ => {
                let earlier = self.load_at(id, before).await?;
                earlier.ok_or_else(|| JournalError::NotFound(id.clone()))?
            }
        };
        let mut events = Vec::new();
        // An append may be longer than a page.
        loop {
            let page = self.page(id, aggregate.version, u64::MAX).await?;
            let read = page.events.len();
            let same = page.events.into_iter();
            let same: Vec<_> = same.take_while(|event| event.append == *append).collect();
            aggregate.advance(&same);
            let is_all = same.len() < read || !page.more;
            events.extend(same.into_iter().map(|recorded| recorded.event));
            if is_all {
                break;
            }
        }
        Ok(Executed {
            aggregate,
            events,
            repeated: true,
        })
    }
}

/// The aggregate with events that were stored after it.
fn applied<A: Aggregate>(mut aggregate: Loaded<A>, events: Vec<A::Event>) -> Executed<A> {
    for event in &events {
        aggregate.state.apply(event);
        aggregate.version += 1;
    }
    Executed {
        aggregate,
        events,
        repeated: false,
    }
}
