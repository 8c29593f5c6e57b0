//! A subscription of the Dapr component, as a sidecar opens it: over its socket, with an answer to each
//! message.
//!
//! Some messages are refused once, as by an application that fails; they must come again before any other.
//! One of the followers also leaves from time to time, and must be told what is gone when it comes back.

use std::{path::Path, time::Duration};

use anyhow::Context;
use component::proto::{AckError, PullRequest, PullResponse, Topic};
use futures_util::stream;
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;

use super::{
    super::{driver::Driver, record::DocumentKey},
    Followed, Follower, MessageKind, StreamItem, StreamMessage, TIMEOUT,
};
use crate::testbed::SCHEMA_FREE;

const INIT: &str = "/dapr.proto.components.v1.PubSub/Init";
const PULL: &str = "/dapr.proto.components.v1.PubSub/PullMessages";
/// Every message of this number is refused once.
const REFUSED: u64 = 16;
/// Messages after which a follower that leaves ends its stream: the documents of the beginning, and some
/// changes.
const LEAVES_AFTER: u64 = 80;
/// How long it is away.
const AWAY: Duration = Duration::from_secs(1);

/// One subscription, to its end.
///
/// # Errors
/// When it cannot be opened, or ended with an error.
pub(super) async fn follow(
    follower: &Follower,
    socket: &Path,
    collection: u8,
    leaves: bool,
    driver: &Driver,
) -> anyhow::Result<()> {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()))?;
    let channel = timeout(TIMEOUT, endpoint.connect()).await??;
    let mut client = Grpc::new(channel);
    client.ready().await?;
    // A component without settings: both messages are empty.
    let empty = ProstCodec::<(), ()>::default();
    let init = client.unary(Request::new(()), PathAndQuery::from_static(INIT), empty);
    timeout(TIMEOUT, init).await??;

    let topic = SCHEMA_FREE[usize::from(collection)];
    let (answers, queue) = mpsc::channel(1);
    let subscribe = PullRequest {
        topic: Some(Topic {
            name: topic.to_owned(),
        }),
        ..PullRequest::default()
    };
    answers.send(subscribe).await?;
    let queue = stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
    client.ready().await?;
    let opened = client.streaming(
        Request::new(queue),
        PathAndQuery::from_static(PULL),
        ProstCodec::<PullRequest, PullResponse>::default(),
    );
    let mut messages = timeout(TIMEOUT, opened).await??.into_inner();
    let stream = follower.begin();
    let mut taken = 0;
    let mut has_refused = false;
    while let Some(message) = messages.message().await? {
        let refuses = taken % REFUSED == REFUSED - 1 && !has_refused;
        has_refused = refuses;
        let ack_error = refuses.then(|| AckError {
            message: "the campaign refuses it".to_owned(),
        });
        if !refuses {
            taken += 1;
            let at = driver.now();
            let followed = match read(topic, &message.data) {
                Ok((epoch, kind, item)) => Followed::Message(StreamMessage {
                    at,
                    stream,
                    epoch,
                    kind,
                    items: vec![item],
                }),
                Err(error) => Followed::Wrong {
                    at,
                    what: format!("{error:#}: {}", String::from_utf8_lossy(&message.data)),
                },
            };
            follower.record().add(followed);
        }
        let answer = PullRequest {
            topic: None,
            ack_message_id: message.id,
            ack_error,
        };
        answers.send(answer).await?;
        if leaves && taken == LEAVES_AFTER {
            drop((answers, messages));
            sleep(AWAY).await;
            break;
        }
    }
    Ok(())
}

/// The members of an event that the campaign needs.
#[derive(Deserialize)]
struct Event {
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    op: String,
    id: String,
    epoch: String,
    revision: Option<u64>,
    /// Of changes alone.
    last_set: Option<u64>,
    config_data: Option<Token>,
}

#[derive(Deserialize)]
struct Token {
    token: u64,
}

fn read(topic: &str, event: &[u8]) -> anyhow::Result<(String, MessageKind, StreamItem)> {
    let Event { data } = serde_json::from_slice(event)?;
    let is_deletion = data.op == "Delete";
    let token = match data.config_data {
        _ if is_deletion => None,
        value => Some(value.context("no value")?.token),
    };
    let kind = match (data.last_set, data.revision) {
        (Some(_), Some(revision)) => MessageKind::Change(revision),
        _ => MessageKind::State,
    };
    let item = StreamItem {
        key: DocumentKey::parse(topic, &data.id).context("nobody writes this document")?,
        revision: data.revision,
        token,
    };
    Ok((data.epoch, kind, item))
}
