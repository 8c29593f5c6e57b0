//! A subscription of the Configuration API at a subscriber, as an SDK of Dapr opens it.
//!
//! The first message has the id alone, the second one all values: a subscription that follows another one
//! replaces what that had told.

use anyhow::{Context, ensure};
use dapr_api::message::{Item, KeysRequest, Update};
use serde_json::Value;
use tokio::time::timeout;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;

use super::{
    super::{driver::Driver, record::DocumentKey},
    Followed, Follower, MessageKind, StreamItem, StreamMessage, TIMEOUT,
};
use crate::testbed::SCHEMA_FREE;

const SUBSCRIBE: &str = "/dapr.proto.runtime.v1.Dapr/SubscribeConfiguration";

/// One subscription, to its end.
///
/// # Errors
/// When it cannot be opened, or ended with an error.
pub(super) async fn follow(
    follower: &Follower,
    port: u16,
    collection: u8,
    driver: &Driver,
) -> anyhow::Result<()> {
    let endpoint = Endpoint::try_from(format!("http://127.0.0.1:{port}"))?;
    let channel = timeout(TIMEOUT, endpoint.connect()).await??;
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let store = SCHEMA_FREE[usize::from(collection)];
    let request = KeysRequest {
        store_name: store.to_owned(),
        ..KeysRequest::default()
    };
    let opened = client.server_streaming(
        Request::new(request),
        PathAndQuery::from_static(SUBSCRIBE),
        ProstCodec::<KeysRequest, Update>::default(),
    );
    let mut updates = timeout(TIMEOUT, opened).await??.into_inner();
    let stream = follower.begin();
    let mut kind = MessageKind::All;
    while let Some(update) = updates.message().await? {
        if update.items.is_empty() {
            continue;
        }
        let at = driver.now();
        let followed = match read(store, &update) {
            Ok((epoch, items)) => Followed::Message(StreamMessage {
                at,
                stream,
                epoch,
                kind,
                items,
            }),
            Err(error) => Followed::Wrong {
                at,
                what: format!("{error:#}: {update:?}"),
            },
        };
        follower.record().add(followed);
        kind = MessageKind::Together;
    }
    Ok(())
}

/// The epoch and the documents of a message.
fn read(store: &str, update: &Update) -> anyhow::Result<(String, Vec<StreamItem>)> {
    let mut epochs = update.items.values().map(|item| item.metadata.get("epoch"));
    let epoch = epochs.next().flatten().context("no epoch")?;
    ensure!(epochs.all(|it| it == Some(epoch)), "two epochs");
    let items = update
        .items
        .iter()
        .map(|(id, item)| read_item(store, id, item));
    Ok((epoch.clone(), items.collect::<anyhow::Result<_>>()?))
}

fn read_item(store: &str, id: &str, item: &Item) -> anyhow::Result<StreamItem> {
    let deleted = item.metadata.get("deleted").is_some_and(|it| it == "true");
    let token = if deleted {
        ensure!(item.value.is_empty(), "a deletion with a value");
        None
    } else {
        let value: Value = serde_json::from_str(&item.value)?;
        Some(value["token"].as_u64().context("no token")?)
    };
    Ok(StreamItem {
        key: DocumentKey::parse(store, id).context("nobody writes this document")?,
        revision: Some(item.version.parse().context("the version")?),
        token,
    })
}
