//! `pubsub.confcast`: a subscriber of a topic receives the collection of that name from the replica in this
//! program, and what is published is written at a publisher.
//!
//! Every subscriber receives everything, in order: there is no broker and no group of consumers. A
//! subscription never ends for trouble at the publishers; it waits. Which event comes next is decided
//! in `reader`, and when a message is sent again in `delivery`.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use contract::{CollectionName, Expected, event::MEDIA_TYPE};
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use replica::Replica;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::{
    instances::{Instances, Subscribed},
    proto::{
        BulkPublishRequest, BulkPublishResponse, Empty, FailedEntry, PublishRequest, PullRequest,
        PullResponse,
    },
    publisher::Publisher,
    status::{check_bulk, invalid, of_client, require_followed},
};

use self::{
    delivery::{Delivery, Next},
    message::Event,
    publish::Write,
    reader::TopicReader,
    subscribers::Subscribers,
};

mod delivery;
mod message;
mod positions;
mod publish;
mod reader;
mod subscribers;

/// Most subscriptions at the same time.
const MAX_SUBSCRIPTIONS: usize = 256;
/// Characters of the text of a subscriber that a log line shows.
const MAX_TEXT: usize = 200;
/// How long a sidecar may take to name its topic.
const TOPIC_DEADLINE: Duration = Duration::from_secs(10);

/// The component. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct PubSub {
    replica: Replica,
    publisher: Arc<Publisher>,
    instances: Arc<Instances>,
    subscribers: Subscribers,
    slots: Arc<Semaphore>,
    /// Time to answer a message.
    ack_deadline: Duration,
    stop: CancellationToken,
}

/// One subscription.
struct Subscription {
    pubsub: PubSub,
    /// The name of the component at the sidecar.
    name: String,
    topic: CollectionName,
    reader: TopicReader,
    answers: Streaming<PullRequest>,
    /// The message on its way.
    current: Option<(Event, Delivery)>,
    _subscribed: Subscribed,
    _slot: OwnedSemaphorePermit,
}

impl PubSub {
    /// The component of a replica.
    pub(crate) fn new(
        replica: &Replica,
        publisher: &Arc<Publisher>,
        instances: &Arc<Instances>,
        ack_deadline: Duration,
        stop: CancellationToken,
    ) -> Self {
        Self {
            replica: replica.clone(),
            publisher: Arc::clone(publisher),
            instances: Arc::clone(instances),
            subscribers: Subscribers::new(replica.config().snapshot_dir.clone()),
            slots: Arc::new(Semaphore::new(MAX_SUBSCRIPTIONS)),
            ack_deadline,
            stop,
        }
    }

    /// The collection of a topic.
    ///
    /// # Errors
    /// When the replica does not follow it.
    fn collection(&self, topic: &str) -> Result<CollectionName, Status> {
        let name: CollectionName = topic
            .parse()
            .map_err(|error| invalid("topic", format!("topic: {error}")))?;
        require_followed(self.replica.config(), &name, "topic", || {
            format!("topic {name} is no collection that this component follows")
        })?;
        Ok(name)
    }

    /// `PullMessages`: the messages of a topic until the sidecar ends the stream.
    ///
    /// # Errors
    /// When the first request names no topic that can be followed.
    pub(crate) async fn pull(
        self,
        name: String,
        mut answers: Streaming<PullRequest>,
    ) -> Result<BoxStream<'static, Result<PullResponse, Status>>, Status> {
        let first = timeout(TOPIC_DEADLINE, answers.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first request did not come in time"))??;
        let topic = first.and_then(|first| first.topic);
        let topic = topic.ok_or_else(|| invalid("topic", "the first request names no topic"))?;
        let topic = self.collection(&topic.name).inspect_err(|refusal| {
            tracing::warn!(
                topic = topic.name,
                "the sidecar cannot subscribe: {}",
                refusal.message()
            );
        })?;
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "there are {MAX_SUBSCRIPTIONS} subscriptions already"
            ))
        })?;
        tracing::info!(%topic, "the sidecar subscribes to {topic} as {name}");
        let view = self.replica.view();
        if view.loaded_as_served() && !view.loaded_of(&topic) {
            tracing::warn!(%topic, "no publisher serves a collection {topic}: its subscriber waits for one that does");
        }
        let subscription = Subscription {
            _subscribed: self.instances.subscribed(&topic),
            reader: TopicReader::new(
                self.replica.clone(),
                Arc::clone(&self.publisher),
                topic.clone(),
                &self.subscribers,
            ),
            pubsub: self,
            name,
            topic,
            answers,
            current: None,
            _slot: slot,
        };
        Ok(subscription.messages().boxed())
    }

    /// `Publish`: writes a document.
    ///
    /// # Errors
    /// When the message is no write, or a publisher refuses it.
    pub(crate) async fn publish(&self, request: PublishRequest) -> Result<Empty, Status> {
        let collection = self.collection(&request.topic)?;
        let Write { id, value } = Write::read(&collection, &request.data, &request.metadata)?;
        let document = (&collection, &id);
        let any = &Expected::Any;
        let written = match &value {
            Some(value) => {
                let written = self
                    .publisher
                    .put(document, value.as_str().as_bytes(), any, false);
                written.await.map(drop)
            }
            None => self.publisher.delete(document, any).await.map(drop),
        };
        written.map_err(|error| of_client(&error))?;
        Ok(Empty {})
    }

    /// `BulkPublish`: writes documents one after the other, in their order.
    ///
    /// # Errors
    /// When there are too many. What is wrong with one message is said of it alone.
    pub(crate) async fn bulk_publish(
        &self,
        request: BulkPublishRequest,
    ) -> Result<BulkPublishResponse, Status> {
        check_bulk("entries", request.entries.len())?;
        let mut failed_entries: Vec<FailedEntry> = Vec::new();
        let mut unreachable = None;
        for entry in request.entries {
            // Each would wait as long.
            if let Some(error) = &unreachable {
                failed_entries.push(FailedEntry {
                    entry_id: entry.entry_id,
                    error: String::clone(error),
                });
                continue;
            }
            let mut metadata = request.metadata.clone();
            metadata.extend(entry.metadata);
            let single = PublishRequest {
                data: entry.event,
                pubsub_name: request.pubsub_name.clone(),
                topic: request.topic.clone(),
                metadata,
            };
            if let Err(refusal) = self.publish(single).await {
                if refusal.code() == Code::Unavailable {
                    unreachable = Some(refusal.message().to_owned());
                }
                failed_entries.push(FailedEntry {
                    entry_id: entry.entry_id,
                    error: refusal.message().to_owned(),
                });
            }
        }
        Ok(BulkPublishResponse { failed_entries })
    }
}

impl Subscription {
    fn messages(self) -> impl Stream<Item = Result<PullResponse, Status>> {
        stream::unfold(self, |mut subscription| async move {
            let message = subscription.next().await?;
            Some((Ok(message), subscription))
        })
    }

    /// The next attempt; `None` when the sidecar ended the stream or the program stops.
    async fn next(&mut self) -> Option<PullResponse> {
        loop {
            let stop = self.pubsub.stop.clone();
            let wake = self.current.as_ref().map(|(_, delivery)| delivery.wake);
            let next = tokio::select! {
                () = stop.cancelled() => return None,
                answer = self.answers.message() => match answer {
                    Ok(Some(answer)) => self.answered(&answer),
                    Ok(None) | Err(_) => return None,
                },
                event = self.reader.next(), if wake.is_none() => {
                    let delivery = Delivery::new(self.pubsub.ack_deadline, Instant::now());
                    self.current = Some((event, delivery));
                    Next::Send
                }
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    self.woke()
                }
            };
            match next {
                Next::Wait => {}
                Next::Send => return self.attempt(),
                Next::Done => {
                    if let Some((event, _)) = self.current.take() {
                        self.reader.taken(&event);
                    }
                }
            }
        }
    }

    /// The message of another attempt.
    fn attempt(&mut self) -> Option<PullResponse> {
        let (event, delivery) = self.current.as_mut()?;
        let attempt = delivery.sent(Instant::now());
        Some(PullResponse {
            data: event.encode(&self.name, Utc::now()),
            topic_name: self.topic.to_string(),
            metadata: Default::default(),
            content_type: MEDIA_TYPE.to_owned(),
            id: format!("{}/{attempt}", event.id),
        })
    }

    fn answered(&mut self, answer: &PullRequest) -> Next {
        let Some((event, delivery)) = &mut self.current else {
            return Next::Wait;
        };
        let Some((id, attempt)) = answer.ack_message_id.rsplit_once('/') else {
            return Next::Wait;
        };
        let Some(attempt) = attempt.parse().ok().filter(|_| id == event.id) else {
            return Next::Wait;
        };
        if let Some(error) = &answer.ack_error
            && delivery.is_worth_a_line()
        {
            tracing::warn!(
                collection = %self.topic, id = %event.data.id, attempts = delivery.attempts(),
                "the subscriber refused the event of {} in {}, and gets it again: {}",
                event.data.id, self.topic, error.message.chars().take(MAX_TEXT).collect::<String>()
            );
        }
        delivery.answered(attempt, answer.ack_error.is_none(), Instant::now())
    }

    fn woke(&mut self) -> Next {
        let Some((event, delivery)) = &mut self.current else {
            return Next::Wait;
        };
        if delivery.is_unanswered() && delivery.is_worth_a_line() {
            tracing::warn!(
                collection = %self.topic, id = %event.data.id, attempts = delivery.attempts(),
                "the subscriber did not answer the event of {} in {} in time",
                event.data.id, self.topic
            );
        }
        delivery.woke()
    }
}
