//! The Configuration API over HTTP: the same methods, and their paths of the time before they were
//! stable. What a subscription sends is posted to the application ([`crate::callbacks`]).

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, request::Parts};
use serde::Serialize;
use url::form_urlencoded;

use crate::{
    access::{Caller, connection_of},
    api::{Api, Selection},
    callbacks::Callbacks,
    error::ApiError,
    message::{KeysRequest, UnsubscribeResponse},
};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct HttpApi {
    pub(crate) api: Api,
    /// `None` where no address of an application is configured.
    pub(crate) callbacks: Option<Callbacks>,
}

/// The routes of the methods.
pub(crate) fn routes() -> Router<HttpApi> {
    let mut routes = Router::new();
    for version in ["v1.0", "v1.0-alpha1"] {
        let store = format!("/{version}/configuration/{{store}}");
        routes = routes
            .route(&store, get(values))
            .route(&format!("{store}/subscribe"), get(subscribe))
            .route(&format!("{store}/{{id}}/unsubscribe"), get(unsubscribe));
    }
    routes
}

async fn values(State(http): State<HttpApi>, Path(store): Path<String>, head: Parts) -> Response {
    let values = async {
        let (_caller, _keys, selection) = selected(&http.api, store, &head).await?;
        let place = http.api.answers().place().await?;
        Ok((http.api.values(&selection)?, place))
    };
    match values.await {
        // As Dapr answers it.
        Ok((items, _place)) if items.is_empty() => StatusCode::NO_CONTENT.into_response(),
        Ok((items, place)) => place.hold(Json(items).into_response(), connection_of(&head)),
        Err(refused) => ApiError::answer(&refused, false),
    }
}

#[derive(Serialize)]
struct Subscribed {
    id: String,
}

async fn subscribe(
    State(http): State<HttpApi>,
    Path(store): Path<String>,
    head: Parts,
) -> Response {
    let begun = async {
        let (caller, keys, selection) = selected(&http.api, store, &head).await?;
        let callbacks = http.callbacks.as_ref().ok_or(ApiError::NoApp)?;
        callbacks.begin(keys, selection, caller).await
    };
    match begun.await {
        Ok(id) => Json(Subscribed { id }).into_response(),
        Err(refused) => refused.answer(false),
    }
}

async fn unsubscribe(
    State(http): State<HttpApi>,
    Path((_store, id)): Path<(String, String)>,
    head: Parts,
) -> Response {
    if let Err(refused) = http.api.access().caller(&head).await {
        return refused.answer(false);
    }
    let answer: UnsubscribeResponse = http.api.unsubscribe(&id);
    // As Dapr answers it.
    let status = match answer.ok {
        true => StatusCode::OK,
        false => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(answer)).into_response()
}

/// The caller, what it asks for, and what of that it may read.
async fn selected(
    api: &Api,
    store: String,
    head: &Parts,
) -> Result<(Caller, KeysRequest, Selection), ApiError> {
    let caller = api.access().caller(head).await?;
    let query = head.uri.query().unwrap_or_default();
    let pairs = form_urlencoded::parse(query.as_bytes());
    let keys = pairs.filter(|(name, _value)| name == "key");
    let keys = KeysRequest {
        store_name: store,
        keys: keys.map(|(_name, value)| value.into_owned()).collect(),
        ..KeysRequest::default()
    };
    let selection = api.select(&caller, &keys).await?;
    Ok((caller, keys, selection))
}
