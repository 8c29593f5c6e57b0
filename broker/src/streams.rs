//! Events by streams: the newest entries are kept, and every reader reads at its own pace, without
//! a consumer group.
//!
//! A stream may vanish or begin again (FLUSHALL, a failover to a server that has less). Its ids
//! then begin below the position of the reader, which would receive nothing for a long time. So the
//! last id of each stream is checked every five seconds.

use std::time::{Duration, Instant};

use async_stream::try_stream;
use contract::CollectionName;
use futures_util::Stream as Streamed;
use redis::{
    cmd,
    streams::{StreamId, StreamRangeReply, StreamReadReply},
};

use crate::{
    ANSWER, Address, BrokerError, Connection, Cursors, Names, ReceivedEvent, Subscription,
};

/// The field of an entry that has the data of the event.
pub(crate) const FIELD: &str = "data";
/// The position before the first entry of any stream.
const BEGINNING: &str = "0-0";
/// How long a read waits for entries. A dead connection is noticed after about the same time.
const BLOCK: Duration = Duration::from_secs(2);
/// Largest number of entries of one stream per read.
const AT_ONCE: usize = 64;
/// Interval at which the last id of each stream is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Starts to read: each collection from its position in `cursors`, or else after its present last
/// entry. Positions are returned with the events: every entry after them arrives, until the stream
/// ends with an error.
///
/// # Errors
/// When it fails or takes too long.
pub async fn read(
    address: &Address,
    names: &Names,
    subscription: &Subscription,
    mut cursors: Cursors,
) -> Result<
    (
        Cursors,
        impl Streamed<Item = Result<ReceivedEvent, BrokerError>> + Send + use<>,
    ),
    BrokerError,
> {
    let mut connection = address.connect(BLOCK + ANSWER).await?;
    let collections = match subscription {
        Subscription::Collections(all) => all.iter().collect(),
        Subscription::Document(collection, _id) => vec![collection],
    };
    let mut streams: Vec<_> = collections
        .iter()
        .map(|name| Stream::new(name, names))
        .collect();
    cursors.retain(|name, cursor| collections.contains(&name) && parse_id(cursor).is_some());
    // A stream that cannot be read is found before the listener reports that it is connected.
    let lost = check_streams(&mut connection, &mut streams, &mut cursors).await?;
    let mut checked_at = Instant::now();
    // The first read does not block: it proves that reading works before the caller is told so.
    let mut read = next(&mut connection, &streams, &cursors, None).await?;
    let positions = cursors.clone();
    let events = try_stream! {
        // Losses first: a reader must know them before it gets entries after them.
        for received in lost {
            yield received;
        }
        loop {
            for (name, entries) in read.drain(..) {
                for entry in entries {
                    cursors.insert(name.clone(), entry.id.clone());
                    // Entries without this field are not events of ours.
                    if let Some(body) = entry.get(FIELD) {
                        yield ReceivedEvent::Event { collection: name.clone(), id: None, body, cursor: Some(entry.id) };
                    }
                }
            }
            if checked_at.elapsed() >= CHECK_INTERVAL {
                for received in check_streams(&mut connection, &mut streams, &mut cursors).await? {
                    yield received;
                }
                checked_at = Instant::now();
            }
            read = next(&mut connection, &streams, &cursors, Some(BLOCK)).await?;
        }
    };
    Ok((positions, events))
}

/// The stream of a collection, and whether it can be read.
struct Stream {
    collection: CollectionName,
    /// Its key in Redis.
    key: String,
    /// Whether it can be read. A key of another type or a missing right must not silence the other
    /// streams.
    readable: bool,
}

impl Stream {
    /// The stream of a collection, and whether it can be read. It counts as readable until Redis refuses to read it.
    fn new(collection: &CollectionName, names: &Names) -> Self {
        Self {
            collection: collection.clone(),
            key: names.stream(collection),
            readable: true,
        }
    }
}

/// Finds the streams that began again below their positions, or cannot be read any more. A stream
/// without a position gets its present end as position.
///
/// # Errors
/// When the connection is lost, or when no stream can be read.
async fn check_streams(
    connection: &mut Connection,
    streams: &mut [Stream],
    cursors: &mut Cursors,
) -> Result<Vec<ReceivedEvent>, BrokerError> {
    let mut received = Vec::new();
    let mut refused = None;
    for stream in streams.iter_mut() {
        let Stream {
            collection,
            key,
            readable,
        } = stream;
        let end = match end(connection, key).await {
            Err(error) if !error.ends_the_connection() => {
                // Reported once, when it becomes unreadable; the next checks only try again.
                if std::mem::replace(readable, false) {
                    received.push(ReceivedEvent::Refused {
                        collection: collection.clone(),
                        error: error.to_string(),
                    });
                }
                refused = Some(error);
                continue;
            }
            end => end?,
        };
        // For a stream that could not be read, nothing is known about missed entries.
        let unknown = !std::mem::replace(readable, true) && !cursors.contains_key(collection);
        let cursor = cursors
            .entry(collection.clone())
            .or_insert_with(|| end.clone());
        let restarted = parse_id(&end) < parse_id(cursor);
        if restarted {
            BEGINNING.clone_into(cursor);
        }
        if restarted || unknown {
            received.push(ReceivedEvent::Lost {
                collection: collection.clone(),
                cursor: cursor.clone(),
            });
        }
    }
    match refused {
        Some(error) if streams.iter().all(|stream| !stream.readable) => Err(error),
        // While one stream can be read, the connection is worth keeping.
        _ => Ok(received),
    }
}

/// The entries after the positions; waits as long as `block` says.
async fn next(
    connection: &mut Connection,
    streams: &[Stream],
    cursors: &Cursors,
    block: Option<Duration>,
) -> Result<Vec<(CollectionName, Vec<StreamId>)>, BrokerError> {
    let readable = || streams.iter().filter(|stream| stream.readable);
    let mut command = cmd("XREAD");
    command.arg("COUNT").arg(AT_ONCE);
    if let Some(block) = block {
        command.arg("BLOCK").arg(block.as_millis() as u64);
    }
    command.arg("STREAMS");
    for stream in readable() {
        command.arg(&stream.key);
    }
    for stream in readable() {
        command.arg(
            cursors
                .get(&stream.collection)
                .map_or(BEGINNING, String::as_str),
        );
    }
    let read: Option<StreamReadReply> = connection.ask(&command).await?;
    let read = read
        .into_iter()
        .flat_map(|read| read.keys)
        .filter_map(|key| {
            let stream = streams.iter().find(|stream| stream.key == key.key)?;
            Some((stream.collection.clone(), key.ids))
        });
    Ok(read.collect())
}

/// The id of the last entry, or the position before the first when there is none.
async fn end(connection: &mut Connection, stream: &str) -> Result<String, BrokerError> {
    let mut command = cmd("XREVRANGE");
    let range: StreamRangeReply = connection
        .ask(command.arg(stream).arg("+").arg("-").arg("COUNT").arg(1))
        .await?;
    Ok(range
        .ids
        .into_iter()
        .next()
        .map_or(BEGINNING.to_owned(), |entry| entry.id))
}

/// An id as two numbers: milliseconds, and a counter within them.
fn parse_id(id: &str) -> Option<(u64, u64)> {
    let (milliseconds, count) = id.split_once('-')?;
    Some((milliseconds.parse().ok()?, count.parse().ok()?))
}
