//! Consumer groups: made, cleaned, and the stream of all events trimmed behind them. Each step is one
//! script, so that no entry is read between a check and its effect. The events of an aggregate are
//! never trimmed.

use std::time::Duration;

use redis::cmd;

use crate::{Aggregate, GroupName, Journal, JournalError};

/// A group that exists is no error; every other failure is one. A new group has not caught up.
const CREATE: &str = "
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err then
  if not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
else
  redis.call('SREM', KEYS[2], ARGV[1])
end
return redis.call('SISMEMBER', KEYS[2], ARGV[1])";

/// Removes what all groups have acknowledged; nothing when there is no group. Whole blocks of the
/// stream are removed, and a bounded number of them in one call.
const TRIM: &str = "
local function pairs_of(list)
  local map = {}
  for i = 1, #list, 2 do map[list[i]] = list[i + 1] end
  return map
end
local function less(a, b)
  local am, an = string.match(a, '^(%d+)-(%d+)$')
  local bm, bn = string.match(b, '^(%d+)-(%d+)$')
  if am ~= bm then return tonumber(am) < tonumber(bm) end
  return tonumber(an) < tonumber(bn)
end
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local oldest
for _, each in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = pairs_of(each)
  local needed = group['last-delivered-id']
  if group['pending'] > 0 then needed = redis.call('XPENDING', KEYS[1], group['name'])[2] end
  if not oldest or less(needed, oldest) then oldest = needed end
end
if not oldest then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', '~', oldest)";

/// Removes consumers that have nothing pending and have not asked for entries for a time.
const TIDY: &str = "
local removed = 0
for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local map = {}
  for i = 1, #each, 2 do map[each[i]] = each[i + 1] end
  if map['pending'] == 0 and map['idle'] >= tonumber(ARGV[2]) and map['name'] ~= ARGV[3] then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], map['name'])
    removed = removed + 1
  end
end
return removed";

impl<A: Aggregate> Journal<A> {
    /// Makes a consumer group that begins before the first event (requirement E6), if there is none.
    /// The result says whether its projection was caught up with all aggregates once.
    pub(crate) async fn prepare_group(&self, group: &GroupName) -> Result<bool, JournalError> {
        let mut command = cmd("EVAL");
        command.arg(CREATE).arg(2).arg(self.keys().events());
        command.arg(self.keys().caught_up()).arg(group.as_str());
        self.ask(&command).await
    }

    /// Records that the projection of a group was caught up.
    pub(crate) async fn mark_caught_up(&self, group: &GroupName) -> Result<(), JournalError> {
        let mut command = cmd("SADD");
        command.arg(self.keys().caught_up()).arg(group.as_str());
        self.ask::<u64>(&command).await.map(drop)
    }

    /// Removes events from the stream of all events that every group has acknowledged, and returns
    /// how many. A group that nobody reads keeps all events from its position on: remove it with
    /// [`Self::remove_group`]. The events of each aggregate stay.
    ///
    /// # Errors
    /// When Redis is unavailable.
    pub async fn trim(&self) -> Result<u64, JournalError> {
        let mut command = cmd("EVAL");
        command.arg(TRIM).arg(1).arg(self.keys().events());
        self.ask(&command).await
    }

    /// Removes a group with what is pending in it. Its projection is caught up again if the group is
    /// made again.
    ///
    /// # Errors
    /// When Redis is unavailable.
    pub async fn remove_group(&self, group: &GroupName) -> Result<bool, JournalError> {
        let mut command = cmd("XGROUP");
        command.arg("DESTROY").arg(self.keys().events());
        command.arg(group.as_str());
        self.ask::<u64>(&command).await.map(|removed| removed > 0)
    }

    /// Removes consumers of a group that have nothing pending and have not read for `idle`, except
    /// the one that asks. One that reads again is made again by Redis.
    pub(crate) async fn remove_idle_consumers(
        &self,
        group: &GroupName,
        idle: Duration,
        own: &str,
    ) -> Result<u64, JournalError> {
        let mut command = cmd("EVAL");
        command.arg(TIDY).arg(1).arg(self.keys().events());
        command.arg(group.as_str()).arg(idle.as_millis() as u64);
        self.ask(command.arg(own)).await
    }
}
