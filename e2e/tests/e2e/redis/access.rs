//! Access to Redis: passwords, users with minimum rights, TLS, and the services that Redis refuses.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use e2e::testbed::{
    COLLECTIONS, FREE, StoreKind, Testbed, Transport,
    redis::{Redis, cluster::RedisCluster, resp::Reply, sentinel::SentinelSetup},
    services::Service,
    wait::eventually,
};

use super::{
    BOTH, Outcome, events_arrive, events_arrive_again, redis_of, until_away, write_quickly,
};

/// A test bed on a running Redis, with the same URL for all services.
async fn testbed_on(redis: Redis, transport: Transport, url: &str) -> anyhow::Result<Testbed> {
    let mut testbed = Testbed::prepare_at(StoreKind::Embedded, transport, url).await?;
    testbed.redis = Some(redis);
    Ok(testbed)
}

async fn start_all(testbed: &mut Testbed) -> Outcome {
    testbed.publisher.start().await?;
    testbed.start_subscribers().await
}

/// Both services run, though Redis refuses them.
async fn start_without_redis(testbed: &mut Testbed) -> Outcome {
    testbed.publisher.start().await?;
    for subscriber in &mut testbed.subscribers {
        subscriber.start().await?;
    }
    write_quickly(&testbed.publisher.api(), "a", 1).await?;
    until_away(testbed, true).await
}

/// All services log why Redis refuses them.
async fn until_all_log(testbed: &Testbed, why: &[&str]) -> Outcome {
    for service in testbed.subscribers.iter().chain([&testbed.publisher]) {
        eventually("the log says why", async || {
            let output = service.output();
            ensure!(why.iter().any(|why| output.contains(why)), "{output}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_percent_encoded_password_is_accepted_and_never_logged() -> Outcome {
    for transport in BOTH {
        let redis = Redis::new()?.with_password("p@ss:w/rd").started().await?;
        let url = redis.url_as("", "p%40ss%3Aw%2Frd");
        let mut testbed = testbed_on(redis, transport, &url).await?;
        start_all(&mut testbed).await?;
        events_arrive(&testbed).await?;
        for service in testbed.subscribers.iter().chain([&testbed.publisher]) {
            let output = service.output();
            ensure!(
                !output.contains("p@ss") && !output.contains("p%40ss"),
                "the log shows a password: {output}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn services_run_with_a_wrong_password_and_recover() -> Outcome {
    for transport in BOTH {
        let redis = Redis::new()?.with_password("right").started().await?;
        let url = redis.url_as("", "hunter2");
        let mut testbed = testbed_on(redis, transport, &url).await?;
        start_without_redis(&mut testbed).await?;
        until_all_log(
            &testbed,
            &[
                "WRONGPASS",
                "invalid username-password",
                "AuthenticationFailed",
            ],
        )
        .await?;
        // Once the server accepts that password, the services recover without help.
        redis_of(&testbed)?
            .command(&["ACL", "SETUSER", "default", ">hunter2"])
            .await?;
        testbed.until_converged(FREE).await?;
        events_arrive_again(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
        for service in testbed.subscribers.iter().chain([&testbed.publisher]) {
            ensure!(
                !service.output().contains("hunter2"),
                "the log shows a password: {}",
                service.output()
            );
        }
    }
    Ok(())
}

/// The minimum rights that suffice, each of which is needed: those of the publisher, and those of a
/// subscriber.
///
/// Pub/Sub, for the database 0 and the prefix aura-config:
///
/// - publisher: `resetchannels &0__:aura-config:* -@all +publish`
/// - subscriber: `resetchannels -@all +psubscribe +ping`, and two patterns per collection, such as
///   `&0__:aura-config:FreeForm* &0__:aura-configFreeForm*`. Redis compares a pattern with what is
///   allowed letter by letter, escapes and all: `&0__:aura-config*` does not allow what it covers.
///   Who finds that too long says `&*`.
///
/// Streams:
///
/// - publisher: `%W~{0__:aura-config}:* -@all +xadd`
/// - subscriber: `%R~{0__:aura-config}:* -@all +xread +xrevrange`
///
/// Where Redis is more than one server, or not in database 0, these need [`more_rights`].
fn least_rights(transport: Transport, database: u32) -> (String, String) {
    if transport == Transport::Streams {
        let of = |way: &str| format!("%{way}~{{{database}__:aura-config}}:* -@all");
        return (
            format!("{} +xadd", of("W")),
            format!("{} +xread +xrevrange", of("R")),
        );
    }
    let pattern =
        |name| format!("&{database}__:aura-config:{name}* &{database}__:aura-config{name}*");
    let patterns: Vec<_> = COLLECTIONS.split(',').map(pattern).collect();
    let subscriber = format!(
        "resetchannels {} -@all +psubscribe +ping",
        patterns.join(" ")
    );
    (
        format!("resetchannels &{database}__:aura-config:* -@all +publish"),
        subscriber,
    )
}

/// The additional rights of publisher and subscriber. In a cluster `+ping` is for the health check
/// of connections: events arrive without it, but Redis refuses each check.
fn more_rights(shape: Shape, transport: Transport) -> (&'static str, &'static str) {
    match (shape, transport) {
        (Shape::Database, _) => ("+select", "+select"),
        (Shape::Sentinel, _) => ("+role", "+role"),
        // With Pub/Sub a subscriber contacts one node and never the cluster.
        (Shape::RedisCluster, Transport::PubSub) => ("+cluster|slots +ping", ""),
        (Shape::RedisCluster, _) => ("+cluster|slots +ping", "+cluster|slots +ping"),
    }
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// One server, with another database.
    Database,
    Sentinel,
    RedisCluster,
}

/// The configuration lines that define both users.
fn users(rights: &(String, String)) -> [String; 2] {
    [
        format!("user publisher on >sending {}", rights.0),
        format!("user subscriber on >hearing {}", rights.1),
    ]
}

const LOGINS: [&str; 2] = ["publisher:sending@", "subscriber:hearing@"];

#[tokio::test]
async fn the_documented_minimum_rights_suffice_in_every_topology() -> Outcome {
    for (transport, shape) in BOTH.into_iter().flat_map(|transport| {
        [Shape::Database, Shape::Sentinel, Shape::RedisCluster].map(|shape| (transport, shape))
    }) {
        let least = least_rights(transport, u32::from(matches!(shape, Shape::Database)));
        let more = more_rights(shape, transport);
        let users = users(&(
            format!("{} {}", least.0, more.0),
            format!("{} {}", least.1, more.1),
        ));
        in_one_shape(transport, shape, &users)
            .await
            .with_context(|| format!("{transport:?}, {shape:?}"))?;
    }
    Ok(())
}

async fn in_one_shape(transport: Transport, shape: Shape, users: &[String]) -> Outcome {
    let mut watched = None;
    let mut cluster = None;
    let mut alone = None;
    let urls = match shape {
        Shape::Database => {
            let redis = users
                .iter()
                .fold(Redis::new()?, |redis, user| redis.with(user))
                .started()
                .await?;
            let host = redis.host();
            alone = Some(redis);
            LOGINS.map(|login| format!("redis://{login}{host}"))
        }
        Shape::Sentinel => {
            let watched = watched.insert(SentinelSetup::start_with(users, None, None).await?);
            LOGINS.map(|login| watched.url_as(login))
        }
        Shape::RedisCluster => {
            let cluster = cluster.insert(RedisCluster::start_with(users).await?);
            LOGINS.map(|login| cluster.url_as(login))
        }
    };
    let mut testbed = Testbed::prepare_at(StoreKind::Embedded, transport, &urls[1]).await?;
    testbed.publisher.set("AURA_REDIS_URL", &urls[0]);
    if matches!(shape, Shape::Database) {
        testbed.set_all("AURA_REDIS_DATABASE", "1");
    }
    start_all(&mut testbed).await?;
    let arrived = events_arrive_again(&testbed).await;
    let mut refused = BTreeSet::new();
    let nodes = cluster.iter().flat_map(|cluster| &cluster.nodes);
    for node in nodes
        .chain(watched.iter().map(|watched| &watched.master))
        .chain(&alone)
    {
        refused.extend(denied(node).await?);
    }
    ensure!(
        refused.iter().all(|what| what.ends_with(" client|setinfo")),
        "denied: {refused:?}, {arrived:?}"
    );
    arrived?;
    until_away(&testbed, false).await
}

#[tokio::test]
async fn each_documented_minimum_right_is_sufficient_and_necessary() -> Outcome {
    for transport in BOTH {
        let (publisher, subscriber) = least_rights(transport, 0);
        let users = users(&(publisher.clone(), subscriber.clone()));
        let redis = Redis::new()?
            .with_password("admin")
            .with(users[0].as_str())
            .with(users[1].as_str())
            .started()
            .await?;
        let urls = LOGINS.map(|login| format!("redis://{login}{}", redis.host()));
        let mut testbed = testbed_on(redis, transport, &urls[1]).await?;
        testbed.publisher.set("AURA_REDIS_URL", &urls[0]);
        start_all(&mut testbed).await?;
        events_arrive(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
        until_away(&testbed, false).await?;
        let denied = denied(redis_of(&testbed)?).await?;
        ensure!(
            denied.iter().all(|what| what.ends_with(" client|setinfo")),
            "{denied:?} are denied as well"
        );

        each_is_needed(&testbed, transport, &publisher, &subscriber)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// Removes one right after the other, checks that it is missed, and restores it.
async fn each_is_needed(
    testbed: &Testbed,
    transport: Transport,
    publisher: &str,
    subscriber: &str,
) -> Outcome {
    let redis = redis_of(testbed)?;
    let commands = |rules: &str| {
        rules
            .split(' ')
            .filter_map(|rule| rule.strip_prefix('+'))
            .map(str::to_owned)
            .collect()
    };
    let (of_publisher, of_subscriber): (Vec<String>, Vec<String>) =
        (commands(publisher), commands(subscriber));
    for command in of_subscriber {
        redis
            .command(&["ACL", "SETUSER", "subscriber", &format!("-{command}")])
            .await?;
        redis.close_connections().await?;
        until_away(testbed, true)
            .await
            .with_context(|| format!("without {command}"))?;
        redis
            .command(&["ACL", "SETUSER", "subscriber", &format!("+{command}")])
            .await?;
        events_arrive_again(testbed)
            .await
            .with_context(|| format!("with {command} again"))?;
    }
    for command in of_publisher {
        redis
            .command(&["ACL", "SETUSER", "publisher", &format!("-{command}")])
            .await?;
        write_quickly(&testbed.publisher.api(), "a", 1).await?;
        eventually("the publisher logs the denied command", async || {
            let output = testbed.publisher.output();
            ensure!(
                output.contains("NOPERM") || output.contains("no permissions"),
                "{transport:?}: {output}"
            );
            Ok(())
        })
        .await?;
        redis
            .command(&["ACL", "SETUSER", "publisher", &format!("+{command}")])
            .await?;
        testbed.until_converged(FREE).await?;
        events_arrive_again(testbed).await?;
    }
    Ok(())
}

/// The commands that Redis has refused, with their users.
async fn denied(redis: &Redis) -> anyhow::Result<Vec<String>> {
    let mut denied = Vec::new();
    for entry in redis.command(&["ACL", "LOG"]).await?.into_many()? {
        let fields = entry.into_many()?;
        let mut pairs = fields.chunks_exact(2).map(|pair| (&pair[0], &pair[1]));
        let mut field = |name: &str| {
            let found = pairs.find(|(field, _value)| **field == Reply::Text(name.to_owned()));
            found
                .context("a field of ACL LOG")
                .and_then(|(_field, value)| value.clone().into_text())
        };
        let object = field("object")?;
        let user = field("username")?;
        denied.push(format!("{user} {object}"));
    }
    Ok(denied)
}

#[tokio::test]
async fn events_arrive_over_tls() -> Outcome {
    for transport in BOTH {
        let redis = Redis::new()?.with_tls()?.started().await?;
        let (url, authority) = redis.tls()?;
        let mut testbed = testbed_on(redis, transport, &url).await?;
        testbed.set_all("SSL_CERT_FILE", &authority);
        start_all(&mut testbed).await?;
        events_arrive(&testbed).await?;
        redis_of(&testbed)?.close_connections().await?;
        events_arrive_again(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn redis_with_an_own_authority_gets_a_client_certificate() -> Outcome {
    for transport in BOTH {
        let redis = Redis::new()?
            .with_tls()?
            .with("tls-auth-clients yes")
            .started()
            .await?;
        let (url, authority) = redis.tls()?;
        let folder = std::path::Path::new(&authority)
            .parent()
            .context("a folder")?;
        let file = |name: &str| folder.join(name).display().to_string();
        let (certificate, key) = (file("server.crt"), file("server.key"));
        let mut testbed = testbed_on(redis, transport, &url).await?;
        testbed.set_all("AURA_REDIS_CA_FILE", &authority);
        testbed.set_all("AURA_REDIS_CERT_FILE", &certificate);
        testbed.set_all("AURA_REDIS_KEY_FILE", &key);
        start_all(&mut testbed).await?;
        events_arrive(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// A certificate of an untrusted authority, and a port without TLS.
#[tokio::test]
async fn services_do_not_connect_to_an_untrusted_or_plain_port_by_tls() -> Outcome {
    let redis = Redis::new()?.with_tls()?.started().await?;
    let (url, _authority) = redis.tls()?;
    let mut testbed = testbed_on(redis, Transport::Streams, &url).await?;
    start_without_redis(&mut testbed).await?;
    until_all_log(&testbed, &["certificate"]).await?;

    let redis = Redis::start().await?;
    let url = format!("rediss://{}", redis.host());
    let mut testbed = testbed_on(redis, Transport::PubSub, &url).await?;
    start_without_redis(&mut testbed).await
}

/// An invalid URL stops the start. The error names the setting and not the password.
#[tokio::test]
async fn an_invalid_redis_url_stops_the_start() -> Outcome {
    for url in [
        "http://:hunter2@127.0.0.1",
        "redis-sentinel://:hunter2@127.0.0.1",
        "127.0.0.1:6379",
    ] {
        let mut publisher = Service::publisher()?;
        for (name, value) in Transport::PubSub.redis_settings(url) {
            publisher.set(name, value);
        }
        publisher.launch()?;
        let process = publisher.process()?;
        let ended = process.ended(e2e::testbed::wait::TIMEOUT).await?;
        let output = process.run_output();
        ensure!(
            !ended.success() && output.contains("AURA_REDIS_URL") && !output.contains("hunter2"),
            "{ended}: {output}"
        );
    }
    Ok(())
}
