//! Who is let in: passwords, users with the least rights, TLS; and what becomes of those who are
//! not.

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

/// A stage on a Redis that runs, where everybody is told the same URL.
async fn testbed_on(redis: Redis, transport: Transport, url: &str) -> anyhow::Result<Testbed> {
    let mut testbed = Testbed::prepare_at(StoreKind::Embedded, transport, url).await?;
    testbed.redis = Some(redis);
    Ok(testbed)
}

async fn up(testbed: &mut Testbed) -> Outcome {
    testbed.publisher.start().await?;
    testbed.start_subscribers().await
}

/// Both services run, though Redis does not let them in.
async fn up_without_redis(testbed: &mut Testbed) -> Outcome {
    testbed.publisher.start().await?;
    for subscriber in &mut testbed.subscribers {
        subscriber.start().await?;
    }
    write_quickly(&testbed.publisher.api(), "a", 1).await?;
    until_away(testbed, true).await
}

/// All services say why Redis does not let them in.
async fn until_all_say(testbed: &Testbed, why: &[&str]) -> Outcome {
    for service in testbed.subscribers.iter().chain([&testbed.publisher]) {
        eventually("the log says why", async || {
            let said = service.output();
            ensure!(why.iter().any(|why| said.contains(why)), "{said}");
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
        up(&mut testbed).await?;
        events_arrive(&testbed).await?;
        for service in testbed.subscribers.iter().chain([&testbed.publisher]) {
            let said = service.output();
            ensure!(
                !said.contains("p@ss") && !said.contains("p%40ss"),
                "a password was shown: {said}"
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
        up_without_redis(&mut testbed).await?;
        until_all_say(
            &testbed,
            &[
                "WRONGPASS",
                "invalid username-password",
                "AuthenticationFailed",
            ],
        )
        .await?;
        // Once the server knows that password, all is well without anybody's help.
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
                "a password was shown: {}",
                service.output()
            );
        }
    }
    Ok(())
}

/// The least rights that suffice, each of which is needed: those of the publisher, and those of a
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

/// What publisher and subscriber need besides. In a cluster `+ping` is for the health of
/// connections: events arrive without, but Redis refuses something every time.
fn more_rights(shape: Shape, transport: Transport) -> (&'static str, &'static str) {
    match (shape, transport) {
        (Shape::Database, _) => ("+select", "+select"),
        (Shape::Sentinel, _) => ("+role", "+role"),
        // By Pub/Sub a subscriber asks one node and never the cluster.
        (Shape::RedisCluster, Transport::PubSub) => ("+cluster|slots +ping", ""),
        (Shape::RedisCluster, _) => ("+cluster|slots +ping", "+cluster|slots +ping"),
    }
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// One server, another database.
    Database,
    Sentinel,
    RedisCluster,
}

/// The lines that make both users.
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
        let (least, more) = (
            least_rights(transport, u32::from(matches!(shape, Shape::Database))),
            more_rights(shape, transport),
        );
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
    let (mut watched, mut cluster, mut alone) = (None, None, None);
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
    up(&mut testbed).await?;
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
        up(&mut testbed).await?;
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

/// Takes one right after the other, sees that it is missed, and gives it back.
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
        eventually("the publisher says what it may not do", async || {
            let said = testbed.publisher.output();
            ensure!(
                said.contains("NOPERM") || said.contains("no permissions"),
                "{transport:?}: {said}"
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

/// What Redis has refused, and to whom.
async fn denied(redis: &Redis) -> anyhow::Result<Vec<String>> {
    let mut denied = Vec::new();
    for entry in redis.command(&["ACL", "LOG"]).await?.into_many()? {
        let fields = entry.into_many()?;
        let mut told = fields.chunks_exact(2).map(|pair| (&pair[0], &pair[1]));
        let mut field = |name: &str| {
            let found = told.find(|(field, _value)| **field == Reply::Text(name.to_owned()));
            found
                .context("a field of ACL LOG")
                .and_then(|(_field, value)| value.clone().into_text())
        };
        let (object, user) = (field("object")?, field("username")?);
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
        up(&mut testbed).await?;
        events_arrive(&testbed).await?;
        redis_of(&testbed)?.close_connections().await?;
        events_arrive_again(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// A certificate of an authority that nobody trusts, and a port that speaks no TLS.
#[tokio::test]
async fn services_do_not_connect_to_an_untrusted_or_plain_port_by_tls() -> Outcome {
    let redis = Redis::new()?.with_tls()?.started().await?;
    let (url, _authority) = redis.tls()?;
    let mut testbed = testbed_on(redis, Transport::Streams, &url).await?;
    up_without_redis(&mut testbed).await?;
    until_all_say(&testbed, &["certificate"]).await?;

    let redis = Redis::start().await?;
    let url = format!("rediss://{}", redis.host());
    let mut testbed = testbed_on(redis, Transport::PubSub, &url).await?;
    up_without_redis(&mut testbed).await
}

/// What cannot be meant stops the start, and names the setting without the password.
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
        let said = process.run_output();
        ensure!(
            !ended.success() && said.contains("AURA_REDIS_URL") && !said.contains("hunter2"),
            "{ended}: {said}"
        );
    }
    Ok(())
}
