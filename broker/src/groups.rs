//! The consumer groups of a Redis stream: list, progress, removal. This module knows nothing about
//! replicas, and never removes a group that was read from after it was listed.

use std::time::Duration;

use redis::{
    cmd,
    streams::{StreamInfoConsumersReply, StreamInfoGroupsReply, StreamRangeReply},
};

use crate::{BrokerError, Connection};

/// The clock that gives entries their ids: each node of a cluster has its own, and a script runs on
/// the node of its key.
const NOW: &str =
    "local time = redis.call('TIME') return time[1] * 1000 + math.floor(time[2] / 1000)";

/// Checks and removes in one step, so that nothing is read in between. Replies inside a script are
/// flat lists of pairs.
const DESTROY: &str = "
local function pairs_of(list)
  local map = {}
  for i = 1, #list, 2 do map[list[i]] = list[i + 1] end
  return map
end
for _, each in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = pairs_of(each)
  if group['name'] == ARGV[1] then
    if group['last-delivered-id'] ~= ARGV[2] then return -1 end
    for _, one in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
      if pairs_of(one)['idle'] < tonumber(ARGV[3]) then return -1 end
    end
    redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
    return group['pending']
  end
end
return -2";

/// A consumer group of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, the same in all streams of a sidecar.
    pub name: String,
    /// The consumers that have read. Before Redis 7.2 a consumer that waits for its first entry is
    /// not listed.
    pub consumers: Vec<Consumer>,
    /// Entries that were read and not acknowledged.
    pub pending: u64,
    /// The newest entry that was read.
    pub last_delivered: String,
    /// Age of the oldest entry that was not read; trimmed entries do not count.
    pub unread: Option<Duration>,
}

/// A consumer of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Its name; the consumer of a Dapr sidecar has the name of the group.
    pub name: String,
    /// Time since it last read or claimed entries. A consumer in a blocking read does not ask
    /// again, so this grows meanwhile.
    pub idle: Duration,
}

/// The result of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupRemoval {
    /// The group was removed, with this number of pending entries.
    Yes(u64),
    /// The group was read from in between, and still exists.
    Read,
    /// The group did not exist any more.
    Absent,
}

/// The groups of a stream; none when the stream does not exist. A group that is removed meanwhile is
/// omitted.
///
/// `stream` is the key of a stream of Dapr, which is the name of the topic.
///
/// # Errors
/// When Redis refuses or does not answer.
pub async fn list(redis: &mut Connection, stream: &str) -> Result<Vec<Group>, BrokerError> {
    let listed: StreamInfoGroupsReply =
        match redis.ask(cmd("XINFO").arg("GROUPS").arg(stream)).await {
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            listed => listed?,
        };
    let mut groups = Vec::new();
    // The answers come one after another, so a group may vanish meanwhile.
    for group in listed.groups {
        let consumers = redis
            .ask(cmd("XINFO").arg("CONSUMERS").arg(stream).arg(&group.name))
            .await;
        let consumers: StreamInfoConsumersReply = match consumers {
            // Another client removed it in between.
            Err(error) if is_absent(&error) => continue,
            consumers => consumers?,
        };
        let mut range = cmd("XRANGE");
        range
            .arg(stream)
            .arg(after(&group.last_delivered_id))
            .arg("+")
            .arg("COUNT")
            .arg(1);
        let rest: StreamRangeReply = redis.ask(&range).await?;
        let now: u64 = redis.ask(cmd("EVAL").arg(NOW).arg(1).arg(stream)).await?;
        // One entry after the last that was delivered is enough: the oldest unread one.
        let unread = rest
            .ids
            .first()
            .map(|entry| Duration::from_millis(now.saturating_sub(milliseconds(&entry.id))));
        let consumers = consumers.consumers.into_iter();
        groups.push(Group {
            name: group.name,
            consumers: consumers
                .map(|each| Consumer {
                    name: each.name,
                    idle: Duration::from_millis(each.idle as u64),
                })
                .collect(),
            pending: group.pending as u64,
            last_delivered: group.last_delivered_id,
            unread,
        });
    }
    Ok(groups)
}

/// Removes a group that is still at `last_delivered` and whose consumers have not asked for entries
/// for `idle`. Both are checked by Redis in the same step as the removal, so a group that a sidecar
/// begins to read again is never removed.
///
/// # Errors
/// When the result is unknown.
pub async fn destroy(
    redis: &mut Connection,
    stream: &str,
    name: &str,
    last_delivered: &str,
    idle: Duration,
) -> Result<GroupRemoval, BrokerError> {
    let mut script = cmd("EVAL");
    script
        .arg(DESTROY)
        .arg(1)
        .arg(stream)
        .arg(name)
        .arg(last_delivered)
        .arg(idle.as_millis() as u64);
    match redis.ask::<i64>(&script).await {
        Ok(-1) => Ok(GroupRemoval::Read),
        Ok(-2) => Ok(GroupRemoval::Absent),
        Ok(pending) => Ok(GroupRemoval::Yes(pending.unsigned_abs())),
        Err(error) if is_absent(&error) => Ok(GroupRemoval::Absent),
        Err(error) => Err(error),
    }
}

/// Whether the error says that the stream or the group does not exist.
fn is_absent(error: &BrokerError) -> bool {
    let BrokerError::Redis(error) = error else {
        return false;
    };
    error.code() == Some("NOGROUP") || error.to_string().contains("no such key")
}

/// The id after the id of an entry. The prefix `(` would do, but only since Redis 6.2.
fn after(id: &str) -> String {
    match id
        .split_once('-')
        .map(|(time, number)| (time, number.parse::<u64>()))
    {
        Some((time, Ok(number))) if number < u64::MAX => format!("{time}-{}", number + 1),
        _ => format!("{}-0", milliseconds(id).saturating_add(1)),
    }
}

/// The time in the id of an entry, in milliseconds since 1970; the highest number when the id has
/// none, so that such an entry is never old.
fn milliseconds(id: &str) -> u64 {
    id.split('-')
        .next()
        .and_then(|time| time.parse().ok())
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_after_an_id_has_the_next_number() {
        assert_eq!(after("0-0"), "0-1");
        assert_eq!(after("1795272624559-9"), "1795272624559-10");
        assert_eq!(after(&format!("5-{}", u64::MAX)), "6-0");
        assert_eq!(milliseconds("1795272624559-9"), 1_795_272_624_559);
    }
}
