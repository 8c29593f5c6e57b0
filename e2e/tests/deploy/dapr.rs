//! The guarantees of the Dapr files: who receives which events, and within which limits.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use contract::event::DEAD_LETTER_TOPIC;
use e2e::testbed::{
    dependencies::own_program,
    sidecar::{PUBLISHER, SUBSCRIBER},
};
use serde_json::{Value, json};

use crate::manifests::{at, collections, file, items, kustomized, named_values, text, the};

/// The settings of a component that `pubsub.redis` and the runtime read. They ignore unknown
/// settings silently.
const KNOWN_METADATA: [&str; 13] = [
    "redisHost",
    "redisPassword",
    "enableTLS",
    "consumerID",
    "maxLenApprox",
    "concurrency",
    "queueDepth",
    "processingTimeout",
    "redeliverInterval",
    "publishingScopes",
    "subscriptionScopes",
    "allowedTopics",
    "protectedTopics",
];
/// After this time a publisher sends an event again by itself (its Dapr transport).
const PUBLISHER_GIVES_UP: Duration = Duration::from_secs(2);

/// The component for one machine and the one for Kubernetes.
fn components() -> anyhow::Result<[Value; 2]> {
    let here = file("components/pubsub.yaml")?;
    Ok([
        the(&here, "Component", None)?.clone(),
        the(&kustomized()?, "Component", Some("pubsub-config"))?.clone(),
    ])
}

/// The same, with which a publisher's sidecar reads the dead letters.
fn letter_components() -> anyhow::Result<[Value; 2]> {
    let name = Some("pubsub-config-dead-letters");
    let here = file("components/dead-letters.yaml")?;
    Ok([
        the(&here, "Component", name)?.clone(),
        the(&kustomized()?, "Component", name)?.clone(),
    ])
}

pub(crate) fn metadata(component: &Value) -> anyhow::Result<BTreeMap<String, String>> {
    Ok(named_values(at(component, "/spec/metadata")?))
}

#[test]
fn the_dapr_components_differ_between_one_machine_and_kubernetes_in_four_values_only()
-> anyhow::Result<()> {
    let [here, there] = components()?;
    ensure!(
        here["metadata"]["name"] == there["metadata"]["name"] && here["scopes"] == there["scopes"]
    );
    ensure!(
        here["spec"]["type"] == there["spec"]["type"]
            && here["spec"]["version"] == there["spec"]["version"]
    );
    let here = metadata(&here)?;
    let there = metadata(&there)?;
    let names = |of: &BTreeMap<String, String>| of.keys().cloned().collect::<BTreeSet<_>>();
    let known: BTreeSet<String> = KNOWN_METADATA.map(str::to_owned).into();
    ensure!(
        names(&here) == known && names(&there) == known,
        "{:?} and {:?}",
        names(&here),
        names(&there)
    );
    let differ: Vec<_> = known
        .iter()
        .filter(|name| here[*name] != there[*name])
        .collect();
    ensure!(
        differ == ["consumerID", "enableTLS", "redisHost", "redisPassword"],
        "{differ:?} differ"
    );
    ensure!(
        here["consumerID"] == "{uuid}",
        "{}: replicas would share events",
        here["consumerID"]
    );
    Ok(())
}

#[test]
fn each_app_has_only_the_access_that_it_needs() -> anyhow::Result<()> {
    let topics = collections()?;
    ensure!(topics.len() == 6, "{topics:?}");
    let dead_letters = BTreeSet::from([DEAD_LETTER_TOPIC.to_owned()]);
    let all: BTreeSet<String> = topics.union(&dead_letters).cloned().collect();
    for component in components()? {
        ensure!(
            component["scopes"] == json!([PUBLISHER, SUBSCRIBER]),
            "others load it"
        );
        let metadata = metadata(&component)?;
        let publishing = scopes(&metadata["publishingScopes"])?;
        let expected = [
            (PUBLISHER, topics.clone()),
            (SUBSCRIBER, dead_letters.clone()),
        ];
        ensure!(
            publishing
                == expected
                    .map(|(app, topics)| (app.to_owned(), topics))
                    .into(),
            "{publishing:?}"
        );
        let subscription = scopes(&metadata["subscriptionScopes"])?;
        let expected = [(PUBLISHER, BTreeSet::new()), (SUBSCRIBER, topics.clone())];
        ensure!(
            subscription
                == expected
                    .map(|(app, topics)| (app.to_owned(), topics))
                    .into(),
            "{subscription:?}"
        );
        // Protected: an app that no list names has no access.
        ensure!(
            list(&metadata["allowedTopics"]) == all && list(&metadata["protectedTopics"]) == all
        );
    }
    Ok(())
}

/// A new group would read the whole topic again at each start, and bring back what was discarded.
#[test]
fn publishers_share_one_group_of_dead_letters_and_no_other_app_reads_them() -> anyhow::Result<()> {
    let [here, there] = letter_components()?;
    let own = ["redisHost", "redisPassword", "enableTLS"];
    let shared = |component: &Value| -> anyhow::Result<BTreeMap<String, String>> {
        let mut metadata = metadata(component)?;
        metadata.retain(|name, _value| !own.contains(&name.as_str()));
        Ok(metadata)
    };
    ensure!(shared(&here)? == shared(&there)?, "they differ");
    let topic = BTreeSet::from([DEAD_LETTER_TOPIC.to_owned()]);
    for component in [here, there] {
        ensure!(component["scopes"] == json!([PUBLISHER]), "others load it");
        let metadata = metadata(&component)?;
        ensure!(
            (metadata.keys()).all(|name| KNOWN_METADATA.contains(&name.as_str())),
            "{metadata:?}"
        );
        ensure!(metadata["consumerID"] == PUBLISHER, "another group");
        ensure!(
            scopes(&metadata["subscriptionScopes"])?
                == BTreeMap::from([(PUBLISHER.to_owned(), topic.clone())])
        );
        ensure!(
            scopes(&metadata["publishingScopes"])?
                == BTreeMap::from([(PUBLISHER.to_owned(), BTreeSet::new())])
        );
        ensure!(
            list(&metadata["allowedTopics"]) == topic
                && list(&metadata["protectedTopics"]) == topic
        );
    }
    Ok(())
}

#[test]
fn redis_streams_have_a_maximum_length() -> anyhow::Result<()> {
    for component in components()? {
        let entries: u64 = metadata(&component)?["maxLenApprox"].parse()?;
        ensure!(
            (1..=100_000).contains(&entries),
            "{entries} entries per stream"
        );
    }
    Ok(())
}

/// Otherwise Redis would redeliver an event that is still being delivered or is still queued.
#[test]
fn delivery_attempts_end_before_redis_redelivers_an_event() -> anyhow::Result<()> {
    let resiliency = file("dapr-config/resiliency.yaml")?;
    let resiliency = the(&resiliency, "Resiliency", None)?;
    for component in components()?.into_iter().chain(letter_components()?) {
        let worst = worst(resiliency, &component, "inbound")?;
        let metadata = metadata(&component)?;
        // Bare milliseconds: Dapr ignores a duration with a unit in one of the settings.
        let processing = Duration::from_millis(metadata["processingTimeout"].parse()?);
        let redeliver = Duration::from_millis(metadata["redeliverInterval"].parse()?);
        ensure!(
            !redeliver.is_zero() && redeliver < processing,
            "redelivery is off"
        );
        ensure!(
            worst < processing,
            "{worst:?} for a delivery, handed out again after {processing:?}"
        );
        let depth: u32 = metadata["queueDepth"].parse()?;
        let workers: u32 = metadata["concurrency"].parse()?;
        let wait = worst * depth / workers;
        ensure!(
            wait < processing,
            "{wait:?} until the last in the queue is done, handed out again after {processing:?}"
        );
        // Nothing is published through the component of the dead letters.
        if !metadata.contains_key("maxLenApprox") {
            continue;
        }
        let outbound = self::worst(resiliency, &component, "outbound")?;
        ensure!(outbound < PUBLISHER_GIVES_UP, "{outbound:?} for publishing");
    }
    Ok(())
}

/// The time that the policies allow for a call through a component: attempts × (timeout + pause).
pub(crate) fn worst(
    resiliency: &Value,
    component: &Value,
    direction: &str,
) -> anyhow::Result<Duration> {
    let name = text(component, "/metadata/name")?;
    let target = at(
        resiliency,
        &format!("/spec/targets/components/{name}/{direction}"),
    )?;
    ensure!(
        target.get("circuitBreaker").is_none(),
        "an open breaker ends retries at once"
    );
    let timeout = text(target, "/timeout")?;
    let retry = text(target, "/retry")?;
    let retry = at(resiliency, &format!("/spec/policies/retries/{retry}"))?;
    ensure!(
        retry["policy"] == "constant",
        "how long does it take at worst?"
    );
    let timeout = duration(text(
        resiliency,
        &format!("/spec/policies/timeouts/{timeout}"),
    )?)?;
    let retries = at(retry, "/maxRetries")?
        .as_u64()
        .context("retries without limit")?;
    Ok((timeout + duration(text(retry, "/duration")?)?) * (1 + u32::try_from(retries)?))
}

#[test]
fn the_run_file_starts_a_publisher_and_two_replicas() -> anyhow::Result<()> {
    let [run]: [Value; 1] = file("dapr-config/dapr.yaml")?
        .try_into()
        .map_err(|_| anyhow::anyhow!("one document"))?;
    ensure!(
        run["common"]["env"]["AURA_CONFIGURATION_EVENTS_MANAGER"] == "DAPR",
        "the sidecars are not used for events"
    );
    let apps: Vec<_> = items(&run, "/apps").collect();
    let ids: Vec<_> = apps
        .iter()
        .filter_map(|app| app["appID"].as_str())
        .collect();
    ensure!(ids == [PUBLISHER, SUBSCRIBER, SUBSCRIBER], "{ids:?}");
    let mut ports = BTreeSet::new();
    for app in &apps {
        for port in ["appPort", "daprHTTPPort", "daprGRPCPort", "metricsPort"] {
            let port = app[port].as_u64().with_context(|| format!("no {port}"))?;
            ensure!(ports.insert(port), "port {port} twice");
        }
        let program = text(app, "/command/0")?
            .strip_prefix("target/release/")
            .context("the program is elsewhere")?;
        own_program(program)?;
        ensure!(
            app["env"]["AURA_CONFIGURATION_LISTEN"] == format!("127.0.0.1:{}", app["appPort"]),
            "it listens elsewhere"
        );
        if app["appID"] == SUBSCRIBER {
            let url = &app["env"]["AURA_CONFIGURATION_API_URL"];
            ensure!(
                *url == format!("http://127.0.0.1:{}", apps[0]["appPort"]),
                "{url} is not the publisher"
            );
        }
    }
    Ok(())
}

/// `app=topic,topic;app=topic`
fn scopes(text: &str) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let scope = |scope: &str| {
        let (app, topics) = scope
            .split_once('=')
            .with_context(|| format!("{scope:?} is no scope"))?;
        Ok((app.trim().to_owned(), list(topics)))
    };
    text.split(';').map(scope).collect()
}

fn list(text: &str) -> BTreeSet<String> {
    text.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `3s` or `800ms`.
pub(crate) fn duration(text: &str) -> anyhow::Result<Duration> {
    if let Some(number) = text.strip_suffix("ms") {
        return Ok(Duration::from_millis(number.parse()?));
    }
    match text.strip_suffix('s') {
        Some(number) => Ok(Duration::from_secs(number.parse()?)),
        None => bail!("{text:?} is no duration"),
    }
}
