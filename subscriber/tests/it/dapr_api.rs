//! Dapr's Configuration API, asked by the client of Dapr's own SDK, and by plain HTTP.

use std::collections::BTreeMap;

use dapr::dapr::proto::runtime::v1::{
    GetConfigurationRequest, GetStateRequest, SubscribeConfigurationRequest,
    SubscribeConfigurationResponse, UnsubscribeConfigurationRequest, dapr_client::DaprClient,
};
use tokio::time::timeout;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::*;

mod callbacks;
mod connections;
mod forwarding;
mod refusals;
mod subscriptions;

const SERVED: &str = "--dapr-api-listen=127.0.0.1:0";
const DEADLINE: Duration = Duration::from_secs(20);

impl Subscriber {
    fn dapr_api(&self) -> SocketAddr {
        self.dapr_api.expect("it is served")
    }

    async fn dapr(&self) -> DaprClient<Channel> {
        let endpoint = Endpoint::try_from(format!("http://{}", self.dapr_api()));
        let endpoint = endpoint.expect("an endpoint");
        // One read message in the window at most.
        let endpoint = endpoint.initial_stream_window_size(65_535);
        DaprClient::new(endpoint.connect().await.expect("a connection"))
    }
}

fn keys(store: &str, keys: &[&str]) -> SubscribeConfigurationRequest {
    SubscribeConfigurationRequest {
        store_name: store.to_owned(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        ..SubscribeConfigurationRequest::default()
    }
}

fn get(store: &str, of: &[&str]) -> GetConfigurationRequest {
    let SubscribeConfigurationRequest {
        store_name, keys, ..
    } = keys(store, of);
    GetConfigurationRequest {
        store_name,
        keys,
        ..GetConfigurationRequest::default()
    }
}

/// The next message, as key, version, value and whether it is a deletion.
async fn next(
    updates: &mut Streaming<SubscribeConfigurationResponse>,
) -> BTreeMap<String, (u64, String, bool)> {
    let message = timeout(DEADLINE, updates.message()).await.expect("in time");
    let message = message.expect("no error").expect("not the end");
    assert!(!message.id.is_empty());
    let items = message.items.into_iter().map(|(key, item)| {
        let is_deleted = item
            .metadata
            .get("deleted")
            .is_some_and(|text| text == "true");
        let version = item.version.parse().expect("a revision");
        (key, (version, item.value, is_deleted))
    });
    items.collect()
}

async fn subscribed(
    client: &mut DaprClient<Channel>,
    request: SubscribeConfigurationRequest,
) -> (String, Streaming<SubscribeConfigurationResponse>) {
    let updates = client.subscribe_configuration(request).await;
    let mut updates = updates.expect("a stream").into_inner();
    let first = updates.message().await.expect("no error").expect("an id");
    assert!(first.items.is_empty(), "the first message has the id alone");
    (first.id, updates)
}

fn one(key: &str, version: u64, value: &str) -> BTreeMap<String, (u64, String, bool)> {
    let item = (version, value.to_owned(), value.is_empty());
    BTreeMap::from([(key.to_owned(), item)])
}
