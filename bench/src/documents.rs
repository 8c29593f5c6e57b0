//! A publisher process with documents, and a subscriber that receives only the events that a
//! measure sends.

use chrono::Utc;
use contract::{CanonicalJson, Change, Context, Digest, Head, Operation};
use e2e::{
    client::Api,
    testbed::{FREE, services::Service},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Method;

/// The largest number of changes in a set.
const SET: usize = 256;
/// Concurrent sets, so that the client does not limit the speed.
const AT_ONCE: usize = 4;
/// The text of documents. It has no characters to escape, like most text.
const TEXT: &str = "Greet whoever calls by name, say what you can do in one sentence, and ask what they would like to know. ";

/// A publisher with an embedded store. It sends no events: a measure that needs events makes them.
///
/// # Errors
/// When there is no free port or no folder.
pub(crate) fn publisher() -> anyhow::Result<Service> {
    let publisher = Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", FREE);
    Ok(publisher.with("AURA_CONFIGURATION_EVENTS_ENABLED", "false"))
}

/// Starts a publisher with `documents` documents of `bytes` bytes each, and returns its head.
///
/// # Errors
/// When one of these steps fails.
pub(crate) async fn filled(count: usize, bytes: usize) -> anyhow::Result<(Service, Head)> {
    let text = config(0, bytes);
    let mut publisher = publisher()?;
    anyhow::ensure!(
        CanonicalJson::parse(text.as_bytes())?.as_str() == text,
        "a document would be stored as another one"
    );
    publisher.start().await?;
    write(&publisher.api(), "Create", 0..count, |number| {
        config(number, bytes)
    })
    .await?;
    let head = publisher.api().head(FREE).await?;
    anyhow::ensure!(
        head.count == count as u64,
        "{} documents instead of {count}",
        head.count
    );
    Ok((publisher, head))
}

/// Writes documents in change sets.
///
/// # Errors
/// When the publisher refuses a set.
pub(crate) async fn write(
    api: &Api,
    op: &str,
    numbers: std::ops::Range<usize>,
    config: impl Fn(usize) -> String,
) -> anyhow::Result<()> {
    let member = |number| {
        let id = id(number);
        let config = config(number);
        format!(r#"{{"collection":"{FREE}","op":"{op}","id":"{id}","configData":{config}}}"#)
    };
    let set = |first: usize| {
        let members: Vec<String> = (first..numbers.end.min(first + SET)).map(member).collect();
        format!(r#"{{"changes":[{}]}}"#, members.join(","))
    };
    let headers = [("content-type", "application/json")];
    let send = async |body| {
        api.send(Method::POST, "/v1/changes", &headers, body)
            .await?
            .expect(200)
            .map(drop)
    };
    let firsts = stream::iter(numbers.clone().step_by(SET));
    firsts
        .map(set)
        .map(send)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// A subscriber that accepts events from any sender and does not check in after its load: a
/// revision that the publisher never assigned would look like a restored database.
///
/// # Errors
/// When there is no free port or no folder.
pub(crate) fn subscriber(publisher: &Service) -> anyhow::Result<Service> {
    let subscriber = Service::subscriber("bench", &[publisher.url()])?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE);
    let subscriber = subscriber.with("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR");
    Ok(subscriber.with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "3600"))
}

/// The id of a document.
pub(crate) fn id(number: usize) -> String {
    format!("document-{number:06}")
}

/// The value of a document with this many bytes of canonical JSON, or the minimum.
pub(crate) fn config(number: usize, bytes: usize) -> String {
    let begin = format!(
        r#"{{"active":true,"labels":["bench","eu-west"],"limits":{{"perMinute":120,"ratio":0.25}},"number":{number},"text":""#
    );
    let room = bytes.saturating_sub(begin.len() + 2);
    let text: String = TEXT.chars().cycle().take(room).collect();
    format!(r#"{begin}{text}"}}"#)
}

/// A change that no publisher made: the update of a document, a number of revisions after a head,
/// with a complete context.
///
/// # Errors
/// When the change cannot be built.
pub(crate) fn update(
    head: &Head,
    number: usize,
    place: usize,
    bytes: usize,
) -> anyhow::Result<Change> {
    let config = CanonicalJson::parse(config(number, bytes).as_bytes())?;
    let trace = number + 1;
    let context = Context::default()
        .with_correlation_id(&format!("order-{number:08}"))?
        .with_user_id("ada")?
        .with_organisation_id("hectare")?
        .with_traceparent(&format!("00-{trace:032x}-{trace:016x}-01"))?;
    Ok(Change {
        collection: head.collection.clone(),
        op: Operation::Update,
        id: id(place).parse()?,
        revision: head.revision + 1 + number as u64,
        epoch: head.epoch,
        last_set: head.last_set,
        crc: Some(config.crc()),
        config_data: Some(config),
        change_set: None,
        time: Utc::now(),
        count: head.count,
        digest: Digest::default(),
        proof: None,
        context,
    })
}

/// Returns `count` of the numbers below `documents` in a pseudorandom order, always the same ones
/// (splitmix64).
pub(crate) fn places(documents: usize, count: usize) -> impl Iterator<Item = usize> {
    (1..=count as u64).map(move |step| {
        let mut mixed = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % documents as u64) as usize
    })
}
