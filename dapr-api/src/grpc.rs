//! The methods of the Configuration API over gRPC, and their names of the time before they were stable.
//!
//! A message that cannot be sent is awaited by the subscription, which holds no more than one, within one
//! budget of bytes for all ([`crate::budget`]): a slow reader makes it send the newest values later. Nothing
//! here decides what is sent.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_stream::stream;
use axum::{Router, body::Body, extract::State, response::Response, routing::post};
use futures_util::Stream;
use http::Request;
use prost::Message;
use tokio::time::timeout;
use tonic::{Status, server::Grpc};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::{
    access::{Caller, connection_of},
    api::{Api, MAX_ANSWER, Subscription},
    error::ApiError,
    message::{GetResponse, KeysRequest, UnsubscribeRequest, Update},
};

const SERVICE: &str = "/dapr.proto.runtime.v1.Dapr";
/// Most bytes of a request: [`crate::api::MAX_KEYS`] keys fit.
const MAX_REQUEST: usize = 256 << 10;
/// Within which a call is complete: its message has arrived, and the first load is waited for.
const REQUEST: Duration = Duration::from_secs(10);

/// The routes of the methods.
pub(crate) fn routes() -> Router<Api> {
    let mut routes = Router::new();
    for version in ["", "Alpha1"] {
        let path = |method: &str| format!("{SERVICE}/{method}{version}");
        routes = routes
            .route(&path("GetConfiguration"), post(get))
            .route(&path("SubscribeConfiguration"), post(subscribe))
            .route(&path("UnsubscribeConfiguration"), post(unsubscribe));
    }
    routes
}

fn codec<Q, A>() -> Grpc<ProstCodec<Q, A>>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_REQUEST)
}

async fn get(State(api): State<Api>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let connection = connection_of(&head);
    let caller = match api.access().caller(&head).await {
        Ok(caller) => Arc::new(caller),
        Err(refused) => return refused.answer(true),
    };
    // Taken when the values are, so that neither a caller that is slow to ask nor the first load holds it.
    let taken = Arc::new(OnceLock::new());
    let place = Arc::clone(&taken);
    let method = service_fn(move |request: tonic::Request<KeysRequest>| {
        let (api, caller, place) = (api.clone(), Arc::clone(&caller), Arc::clone(&place));
        async move {
            let values = async {
                let selection = api.select(&caller, request.get_ref()).await?;
                // One request is one call.
                place.set(api.answers().place().await?).ok();
                api.values(&selection)
            };
            answered(values.await.map(|items| GetResponse { items }))
        }
    });
    let request = Request::from_parts(head, body);
    let answer = match in_time(codec().unary(method, request)).await {
        Ok(answer) => answer.map(Body::new),
        Err(late) => return late.answer(true),
    };
    match Arc::into_inner(taken).and_then(OnceLock::into_inner) {
        Some(place) => place.hold(answer, connection),
        None => answer,
    }
}

async fn subscribe(State(api): State<Api>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let connection = connection_of(&head);
    let answers = api.answers().clone();
    let caller = match api.access().caller(&head).await {
        Ok(caller) => Arc::new(caller),
        Err(refused) => return refused.answer(true),
    };
    let method = service_fn(move |request: tonic::Request<KeysRequest>| {
        let (api, caller) = (api.clone(), Arc::clone(&caller));
        async move {
            let selection = api.select(&caller, request.get_ref()).await;
            let begun = selection.and_then(|selection| {
                let budget = api.stream_budget();
                api.subscribe(&caller, selection, budget)
            });
            answered(begun.map(|subscription| updates(subscription, caller)))
        }
    });
    let request = Request::from_parts(head, body);
    match in_time(codec().server_streaming(method, request)).await {
        Ok(answer) => answers.stream(answer.map(Body::new), connection),
        Err(late) => late.answer(true),
    }
}

async fn unsubscribe(State(api): State<Api>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    if let Err(refused) = api.access().caller(&head).await {
        return refused.answer(true);
    }
    let method = service_fn(move |request: tonic::Request<UnsubscribeRequest>| {
        let answer = api.unsubscribe(&request.get_ref().id);
        std::future::ready(answered(Ok(answer)))
    });
    let request = Request::from_parts(head, body);
    match in_time(codec().unary(method, request)).await {
        Ok(answer) => answer.map(Body::new),
        Err(late) => late.answer(true),
    }
}

/// The head of an answer, which needs the message of the call.
async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, ApiError> {
    let late = |_elapsed| {
        ApiError::BadRequest("the message of the call did not arrive in time".to_owned())
    };
    timeout(REQUEST, answer).await.map_err(late)
}

fn answered<T>(answer: Result<T, ApiError>) -> Result<tonic::Response<T>, Status> {
    answer
        .map(tonic::Response::new)
        .map_err(|refused| refused.status())
}

/// The messages of a subscription: its id alone, then one for each batch. It ends without an error when
/// it was unsubscribed, as at Dapr, and with one in every other case.
fn updates(
    mut subscription: Subscription,
    caller: Arc<Caller>,
) -> impl Stream<Item = Result<Update, Status>> {
    stream! {
        let id = subscription.id.clone();
        // One for the whole stream: each message would begin its time anew.
        let mut credential_ended = pin!(caller.ended());
        yield Ok(Update { id: id.clone(), ..Update::default() });
        loop {
            let ended = tokio::select! {
                biased;
                () = subscription.cancelled.cancelled() => return,
                () = subscription.slot.stopped() => "the subscriber stops; subscribe again",
                () = credential_ended.as_mut() => {
                    yield Err(Status::unauthenticated(
                        "the credential of the caller ended or has other grants; subscribe again",
                    ));
                    return;
                }
                batch = subscription.messages.next() => match batch {
                    // Its memory is free when the next message is asked for.
                    Some((batch, _memory)) => {
                        let items = batch.into_iter().map(|(key, item)| (key.to_string(), item));
                        let update = Update { id: id.clone(), items: items.collect() };
                        if update.encoded_len() > MAX_ANSWER {
                            let keys: Vec<_> = update.items.into_keys().collect();
                            yield Err(ApiError::TooLarge(format!(
                                "the value of {} does not fit into one message of {MAX_ANSWER} bytes",
                                keys.join(", "),
                            )).status());
                            return;
                        }
                        yield Ok(update);
                        continue;
                    }
                    None => "the replica has ended; subscribe again",
                },
            };
            yield Err(Status::unavailable(ended));
            return;
        }
    }
}
