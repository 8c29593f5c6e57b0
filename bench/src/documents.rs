//! A publisher process with documents in it, and a subscriber of it that hears nothing but what a
//! measure tells it.

use chrono::Utc;
use contract::{CanonicalJson, Change, Context, Digest, Head, Operation};
use e2e::{
    client::Api,
    testbed::{FREE, services::Service},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Method;

/// Most changes of a set.
const SET: usize = 256;
/// Sets that are under way at once, so that the client is not what filling waits for.
const AT_ONCE: usize = 4;
/// What fills a document up. No escapes, because most text needs none.
const TEXT: &str = "Greet whoever calls by name, say what you can do in one sentence, and ask what they would like to know. ";

/// A publisher on an embedded store. It sends no events: measures that want some make them.
///
/// # Errors
/// When no port or folder can be had.
pub(crate) fn publisher() -> anyhow::Result<Service> {
    let publisher = Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", FREE);
    Ok(publisher.with("AURA_CONFIGURATION_EVENTS_ENABLED", "false"))
}

/// A started one with so many documents of so many bytes, and where it stands.
///
/// # Errors
/// When something of that fails.
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

/// Writes documents in sets.
///
/// # Errors
/// When the publisher refuses one.
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

/// A subscriber of it whose events are posted by whoever likes, and who asks for nothing after its
/// load: a revision that the publisher never gave would look like a restored database to it.
///
/// # Errors
/// When no port or folder can be had.
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

/// The value of a document, in so many bytes of canonical JSON, or as few as it takes.
pub(crate) fn config(number: usize, bytes: usize) -> String {
    let begin = format!(
        r#"{{"active":true,"labels":["bench","eu-west"],"limits":{{"perMinute":120,"ratio":0.25}},"number":{number},"text":""#
    );
    let room = bytes.saturating_sub(begin.len() + 2);
    let text: String = TEXT.chars().cycle().take(room).collect();
    format!(r#"{begin}{text}"}}"#)
}

/// A change that no publisher made: the update of a document, so many after a head, by a request
/// that said all that one can say of itself.
///
/// # Errors
/// When it cannot be put together.
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
        context,
    })
}

/// So many of the numbers below `documents`, in no order, and the same ones each time (splitmix64).
pub(crate) fn places(documents: usize, count: usize) -> impl Iterator<Item = usize> {
    (1..=count as u64).map(move |step| {
        let mut mixed = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % documents as u64) as usize
    })
}
