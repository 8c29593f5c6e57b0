//! Events by streams: the newest are kept, and every reader goes through them at its own pace, with no group to leave behind.
//!
//! A stream may vanish or begin anew behind a reader's back (FLUSHALL, a failover to a server that has less). The ids then
//! begin below the reader's place, and it would hear nothing for a long time; so the ends are looked at every five seconds.

use std::time::{Duration, Instant};

use async_stream::try_stream;
use contract::CollectionName;
use futures_util::Stream;
use redis::{
    cmd,
    streams::{StreamId, StreamRangeReply, StreamReadReply},
};

use crate::{ANSWER, Address, Connection, Cursors, Error, Heard, Names, Wanted};

/// The field of an entry with the data of the event.
pub(crate) const FIELD: &str = "data";
/// Before the first entry of any stream.
const BEGINNING: &str = "0-0";
/// How long a reading waits for something to come. It is also how long a dead connection goes unnoticed, nearly.
const BLOCK: Duration = Duration::from_secs(2);
/// Entries of one stream that one reading brings.
const AT_ONCE: usize = 64;
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Begins to read: each collection from its place in `cursors`, or else after what is in it now. The places are given back
/// with the events: whatever is appended after them arrives, until the stream ends with an error.
///
/// # Errors
/// When that fails or takes too long.
pub async fn read(
    address: &Address,
    names: &Names,
    wanted: &Wanted,
    mut cursors: Cursors,
) -> Result<(Cursors, impl Stream<Item = Result<Heard, Error>> + Send + use<>), Error> {
    let mut connection = address.connect(BLOCK + ANSWER).await?;
    let collections = match wanted {
        Wanted::Collections(all) => all.iter().collect(),
        Wanted::Document(collection, _id) => vec![collection],
    };
    let streams: Vec<_> = collections.iter().map(|name| ((*name).clone(), names.stream(name))).collect();
    cursors.retain(|name, cursor| collections.contains(&name) && place(cursor).is_some());
    for (name, stream) in &streams {
        if !cursors.contains_key(name) {
            cursors.insert(name.clone(), end(&mut connection, stream).await?);
        }
    }
    let places = cursors.clone();
    let events = try_stream! {
        let mut looked: Option<Instant> = None;
        loop {
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
                for (name, stream) in &streams {
                    let end = end(&mut connection, stream).await?;
                    if let Some(cursor) = cursors.get_mut(name) && place(&end) < place(cursor) {
                        BEGINNING.clone_into(cursor);
                        yield Heard::Lost { collection: name.clone(), cursor: cursor.clone() };
                    }
                }
                looked = Some(Instant::now());
            }
            for (name, entries) in next(&mut connection, &streams, &cursors).await? {
                for entry in entries {
                    cursors.insert(name.clone(), entry.id.clone());
                    // Whoever else writes into the stream is answered by silence.
                    let body = entry.get(FIELD).unwrap_or_default();
                    yield Heard::Event { collection: name.clone(), id: None, body, cursor: Some(entry.id) };
                }
            }
        }
    };
    Ok((places, events))
}

/// Waits for what comes after the cursors.
async fn next(
    connection: &mut Connection,
    streams: &[(CollectionName, String)],
    cursors: &Cursors,
) -> Result<Vec<(CollectionName, Vec<StreamId>)>, Error> {
    let mut command = cmd("XREAD");
    command.arg("COUNT").arg(AT_ONCE).arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS");
    for (_name, stream) in streams {
        command.arg(stream);
    }
    for (name, _stream) in streams {
        command.arg(cursors.get(name).map_or(BEGINNING, String::as_str));
    }
    let read: Option<StreamReadReply> = connection.ask(&command).await?;
    let read = read.into_iter().flat_map(|read| read.keys).filter_map(|key| {
        let (name, _stream) = streams.iter().find(|(_name, stream)| *stream == key.key)?;
        Some((name.clone(), key.ids))
    });
    Ok(read.collect())
}

/// The id of the last entry; before the first when there is none.
async fn end(connection: &mut Connection, stream: &str) -> Result<String, Error> {
    let mut command = cmd("XREVRANGE");
    let range: StreamRangeReply = connection.ask(command.arg(stream).arg("+").arg("-").arg("COUNT").arg(1)).await?;
    Ok(range.ids.into_iter().next().map_or(BEGINNING.to_owned(), |entry| entry.id))
}

/// An id as two numbers: milliseconds, and a count within them.
fn place(id: &str) -> Option<(u64, u64)> {
    let (milliseconds, count) = id.split_once('-')?;
    Some((milliseconds.parse().ok()?, count.parse().ok()?))
}
