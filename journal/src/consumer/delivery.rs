//! What a consumer group delivers: entries of the stream of all events, and the list of those that
//! could not be processed. Nothing here reads the events of one aggregate.

use redis::{
    Cmd, Value, cmd,
    streams::{StreamId, StreamRangeReply},
};
use serde::de::DeserializeOwned;

use crate::{Aggregate, AggregateId, AppendId, GroupName, Journal, JournalError};

/// Most entries in the list of dead letters of a group; older ones are removed.
pub(super) const DEAD_LETTERS: usize = 1_000;
/// Longest text that is kept of a field of a dead letter, in bytes.
const DEAD_FIELD: usize = 64 << 10;
/// Most fields that are kept of a dead letter.
const DEAD_FIELDS: usize = 16;

/// Acknowledges and keeps in one step, so that no entry is lost or kept twice. An aggregate has one
/// letter for each reason among the newest ones: its events are in the journal, and many of them must
/// not displace the letters of others. The answer is 1 when a letter was kept.
const GIVE_UP: &str = "
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
local id, reason = ARGV[4], ARGV[6]
if id ~= '' then
  for _, letter in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 64)) do
    local same = 0
    for i = 1, #letter[2], 2 do
      local name, value = letter[2][i], letter[2][i + 1]
      if name == 'reason' and value == reason or name == 'field:id' and value == id then
        same = same + 1
      end
    end
    if same == 2 then return 0 end
  end
end
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*', 'entry', ARGV[2], unpack(ARGV, 5))
return 1";

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
pub(crate) fn give_up(
    events: &str,
    dead: &str,
    group: &GroupName,
    it: &StreamId,
    why: &str,
) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(GIVE_UP).arg(2).arg(events).arg(dead);
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
