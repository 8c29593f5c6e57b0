//! What a consumer group delivers: entries of the stream of all events, and the list of those that
//! could not be processed. Nothing here reads the events of one aggregate.

use std::collections::BTreeSet;

use redis::{
    Cmd, Value, cmd,
    streams::{StreamId, StreamRangeReply},
};
use serde::de::DeserializeOwned;

use crate::{Aggregate, AggregateId, AppendId, GroupName, Journal, JournalError, names::Keys};

/// Most entries in the list of dead letters of a group; older ones are removed.
pub(super) const DEAD_LETTERS: usize = 1_000;
/// Longest text that is kept of a field of a dead letter, in bytes.
const DEAD_FIELD: usize = 64 << 10;
/// Most letters that are read at a time.
const LETTERS_AT_ONCE: usize = 64;
/// Most fields that are kept of a dead letter.
const DEAD_FIELDS: usize = 16;

/// Acknowledges and keeps in one step, so that no entry is lost or kept twice. An aggregate has one
/// letter for each reason in the list: its events are in the journal, and many of them must not
/// displace the letters of others. The answer is 1 when a letter was kept.
///
/// The sorted set has a member for each of the newest letters, in their order, so it is cut to the
/// length of the list. The letters themselves, which may be large, are not read.
const GIVE_UP: &str = "
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - redis.call('XLEN', KEYS[2]))
local cause = ARGV[2]
if ARGV[4] ~= '' then cause = redis.sha1hex(ARGV[4] .. ' ' .. ARGV[6]) end
if redis.call('ZSCORE', KEYS[3], cause) then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*', 'entry', ARGV[2], unpack(ARGV, 5))
local newest = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')
redis.call('ZADD', KEYS[3], (tonumber(newest[2]) or 0) + 1, cause)
return 1";

/// Removes the entries up to an id from a stream. `MINID` names the oldest one that stays.
const REMOVE: &str = "
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
return redis.call('XDEL', KEYS[1], ARGV[1])";

/// An event as a consumer group delivers it: at least once, in the order of positions unless an
/// entry is delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered<E> {
    /// The aggregate.
    pub id: AggregateId,
    /// The version of the aggregate with this event.
    pub version: u64,
    /// The append that stored it.
    pub append: AppendId,
    /// The append that stored the event before it; `None` for the first event. A reader that has
    /// another one has events that the journal lost.
    pub previous: Option<AppendId>,
    /// Its position among the events of all aggregates.
    pub position: String,
    /// The event.
    pub event: E,
}

/// An entry that a group could not process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The id of the entry in the stream of all events.
    pub position: String,
    /// Why it was not processed.
    pub reason: String,
    /// Its fields; texts are cut at 64 KiB.
    pub fields: Vec<(String, String)>,
}

/// Reads an entry.
///
/// # Errors
/// In words, when it is not an event of this journal or cannot be read.
pub(crate) fn decode<E: DeserializeOwned>(entry: &StreamId) -> Result<Delivered<E>, String> {
    let field = |name: &str| {
        let text = entry.get::<String>(name);
        text.ok_or_else(|| format!("it has no field {name:?}"))
    };
    let previous = match field("previous")?.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|it| format!("previous: {it}"))?),
    };
    Ok(Delivered {
        id: field("id")?.parse().map_err(|it| format!("id: {it}"))?,
        version: field("version")?
            .parse()
            .map_err(|it| format!("version: {it}"))?,
        append: field("append")?
            .parse()
            .map_err(|it| format!("append: {it}"))?,
        previous,
        position: entry.id.clone(),
        event: serde_json::from_str(&field("event")?).map_err(|it| format!("event: {it}"))?,
    })
}

impl<A: Aggregate> Journal<A> {
    /// The entries that a group could not process, newest first, at most `count`. The list keeps the
    /// newest 1,000.
    ///
    /// # Errors
    /// When Redis is unavailable.
    pub async fn dead_letters(
        &self,
        group: &GroupName,
        count: usize,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        let mut command = cmd("XREVRANGE");
        command.arg(self.keys().dead(group)).arg("+").arg("-");
        command.arg("COUNT").arg(count);
        let list: StreamRangeReply = self.ask(&command).await?;
        Ok(list.ids.iter().map(dead_letter).collect())
    }

    /// The letters after one of this id in the list, or from the oldest on.
    pub(super) async fn letters_after(
        &self,
        group: &GroupName,
        last: Option<&str>,
    ) -> Result<Letters, JournalError> {
        let mut letters = Letters {
            count: 0,
            ids: BTreeSet::new(),
            last: last.map(str::to_owned),
        };
        loop {
            let after = letters.last.as_ref().map(|last| format!("({last}"));
            let mut command = cmd("XRANGE");
            command.arg(self.keys().dead(group));
            command.arg(after.as_deref().unwrap_or("-")).arg("+");
            command.arg("COUNT").arg(LETTERS_AT_ONCE);
            let page: StreamRangeReply = self.ask(&command).await?;
            letters.count += page.ids.len();
            for letter in &page.ids {
                let id = letter.get::<String>("field:id");
                letters.ids.extend(id.and_then(|id| id.parse().ok()));
                letters.last = Some(letter.id.clone());
            }
            if page.ids.len() < LETTERS_AT_ONCE || letters.count >= DEAD_LETTERS {
                return Ok(letters);
            }
        }
    }

    /// Lets the next entry that is given up have a letter, whatever letters there are.
    pub(super) async fn repeat_letters(&self, group: &GroupName) -> Result<(), JournalError> {
        let mut command = cmd("DEL");
        command.arg(self.keys().dead_causes(group));
        self.ask::<u64>(&command).await.map(drop)
    }

    /// Removes the letters up to the one of this id.
    pub(super) async fn remove_letters(
        &self,
        group: &GroupName,
        last: &str,
    ) -> Result<(), JournalError> {
        let mut command = cmd("EVAL");
        command.arg(REMOVE).arg(1).arg(self.keys().dead(group));
        self.ask::<u64>(command.arg(last)).await.map(drop)
    }
}

/// What some letters of the list are about.
pub(super) struct Letters {
    /// How many there are.
    pub(super) count: usize,
    /// Their aggregates.
    pub(super) ids: BTreeSet<AggregateId>,
    /// The id of the newest one in the list.
    pub(super) last: Option<String>,
}

fn dead_letter(entry: &StreamId) -> DeadLetter {
    let text = |name: &str| entry.get::<String>(name).unwrap_or_default();
    let fields = entry.map.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("field:")?;
        Some((name.to_owned(), shown(value)))
    });
    let mut fields: Vec<_> = fields.collect();
    fields.sort();
    DeadLetter {
        position: text("entry"),
        reason: text("reason"),
        fields,
    }
}

/// The command that acknowledges an entry and keeps it in the list of dead letters.
pub(crate) fn give_up(keys: &Keys, group: &GroupName, it: &StreamId, why: &str) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(GIVE_UP).arg(3).arg(keys.events());
    command.arg(keys.dead(group)).arg(keys.dead_causes(group));
    command.arg(group.as_str()).arg(&it.id).arg(DEAD_LETTERS);
    command.arg(it.get::<String>("id").unwrap_or_default());
    command.arg("reason").arg(cut(why));
    for (name, value) in it.map.iter().take(DEAD_FIELDS) {
        command.arg(format!("field:{}", cut(name)));
        command.arg(cut(&shown(value)));
    }
    command
}

fn shown(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(DEAD_FIELD)]
}
