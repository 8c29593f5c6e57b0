//! Who is let in: passwords, users with the least rights, TLS; and what becomes of those who are
//! not.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use e2e::{
    redis::{Redis, cluster::Cluster, resp::Reply, sentinel::Watched},
    services::Service,
    stage::{COLLECTIONS, FREE, Kind, Stage, Via},
    wait::eventually,
};

use super::{
    BOTH, Outcome, events_arrive, events_arrive_again, redis_of, until_away, write_quickly,
};

/// A stage on a Redis that runs, where everybody is told the same URL.
async fn stage_on(redis: Redis, via: Via, url: &str) -> anyhow::Result<Stage> {
    let mut stage = Stage::set_at(Kind::Embedded, via, url).await?;
    stage.redis = Some(redis);
    Ok(stage)
}

async fn up(stage: &mut Stage) -> Outcome {
    stage.publisher.start().await?;
    stage.start_subscribers().await
}

/// Both services run, though Redis does not let them in.
async fn up_without_redis(stage: &mut Stage) -> Outcome {
    stage.publisher.start().await?;
    for subscriber in &mut stage.subscribers {
        subscriber.start().await?;
    }
    write_quickly(&stage.publisher.api(), "a", 1).await?;
    until_away(stage, true).await
}

/// All services say why Redis does not let them in.
async fn until_all_say(stage: &Stage, why: &[&str]) -> Outcome {
    for service in stage.subscribers.iter().chain([&stage.publisher]) {
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
async fn a_password_with_signs_of_a_url() -> Outcome {
    for via in BOTH {
        let redis = Redis::new()?.with_password("p@ss:w/rd").started().await?;
        let url = redis.url_as("", "p%40ss%3Aw%2Frd");
        let mut stage = stage_on(redis, via, &url).await?;
        up(&mut stage).await?;
        events_arrive(&stage).await?;
        for service in stage.subscribers.iter().chain([&stage.publisher]) {
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
async fn a_wrong_password_stops_nobody() -> Outcome {
    for via in BOTH {
        let redis = Redis::new()?.with_password("right").started().await?;
        let url = redis.url_as("", "hunter2");
        let mut stage = stage_on(redis, via, &url).await?;
        up_without_redis(&mut stage).await?;
        until_all_say(
            &stage,
            &[
                "WRONGPASS",
                "invalid username-password",
                "AuthenticationFailed",
            ],
        )
        .await?;
        // Once the server knows that password, all is well without anybody's help.
        redis_of(&stage)?
            .tell(&["ACL", "SETUSER", "default", ">hunter2"])
            .await?;
        stage.until_converged(FREE).await?;
        events_arrive_again(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
        for service in stage.subscribers.iter().chain([&stage.publisher]) {
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
fn least_rights(via: Via, database: u32) -> (String, String) {
    if via == Via::Streams {
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
fn more_rights(shape: Shape, via: Via) -> (&'static str, &'static str) {
    match (shape, via) {
        (Shape::Database, _) => ("+select", "+select"),
        (Shape::Sentinel, _) => ("+role", "+role"),
        // By Pub/Sub a subscriber asks one node and never the cluster.
        (Shape::Cluster, Via::PubSub) => ("+cluster|slots +ping", ""),
        (Shape::Cluster, _) => ("+cluster|slots +ping", "+cluster|slots +ping"),
    }
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// One server, another database.
    Database,
    Sentinel,
    Cluster,
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
async fn the_least_rights_in_every_shape() -> Outcome {
    for (via, shape) in BOTH.into_iter().flat_map(|via| {
        [Shape::Database, Shape::Sentinel, Shape::Cluster].map(|shape| (via, shape))
    }) {
        let (least, more) = (
            least_rights(via, u32::from(matches!(shape, Shape::Database))),
            more_rights(shape, via),
        );
        let users = users(&(
            format!("{} {}", least.0, more.0),
            format!("{} {}", least.1, more.1),
        ));
        in_one_shape(via, shape, &users)
            .await
            .with_context(|| format!("{via:?}, {shape:?}"))?;
    }
    Ok(())
}

async fn in_one_shape(via: Via, shape: Shape, users: &[String]) -> Outcome {
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
            let watched = watched.insert(Watched::start_with(users, None, None).await?);
            LOGINS.map(|login| watched.url_as(login))
        }
        Shape::Cluster => {
            let cluster = cluster.insert(Cluster::start_with(users).await?);
            LOGINS.map(|login| cluster.url_as(login))
        }
    };
    let mut stage = Stage::set_at(Kind::Embedded, via, &urls[1]).await?;
    stage.publisher.set("AURA_REDIS_URL", &urls[0]);
    if matches!(shape, Shape::Database) {
        stage.set_all("AURA_REDIS_DATABASE", "1");
    }
    up(&mut stage).await?;
    let arrived = events_arrive_again(&stage).await;
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
    until_away(&stage, false).await
}

#[tokio::test]
async fn the_least_rights_are_enough_and_needed() -> Outcome {
    for via in BOTH {
        let (publisher, subscriber) = least_rights(via, 0);
        let users = users(&(publisher.clone(), subscriber.clone()));
        let redis = Redis::new()?
            .with_password("admin")
            .with(users[0].as_str())
            .with(users[1].as_str())
            .started()
            .await?;
        let urls = LOGINS.map(|login| format!("redis://{login}{}", redis.host()));
        let mut stage = stage_on(redis, via, &urls[1]).await?;
        stage.publisher.set("AURA_REDIS_URL", &urls[0]);
        up(&mut stage).await?;
        events_arrive(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
        until_away(&stage, false).await?;
        let denied = denied(redis_of(&stage)?).await?;
        ensure!(
            denied.iter().all(|what| what.ends_with(" client|setinfo")),
            "{denied:?} are denied as well"
        );

        each_is_needed(&stage, via, &publisher, &subscriber)
            .await
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

/// Takes one right after the other, sees that it is missed, and gives it back.
async fn each_is_needed(stage: &Stage, via: Via, publisher: &str, subscriber: &str) -> Outcome {
    let redis = redis_of(stage)?;
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
            .tell(&["ACL", "SETUSER", "subscriber", &format!("-{command}")])
            .await?;
        redis.cut().await?;
        until_away(stage, true)
            .await
            .with_context(|| format!("without {command}"))?;
        redis
            .tell(&["ACL", "SETUSER", "subscriber", &format!("+{command}")])
            .await?;
        events_arrive_again(stage)
            .await
            .with_context(|| format!("with {command} again"))?;
    }
    for command in of_publisher {
        redis
            .tell(&["ACL", "SETUSER", "publisher", &format!("-{command}")])
            .await?;
        write_quickly(&stage.publisher.api(), "a", 1).await?;
        eventually("the publisher says what it may not do", async || {
            let said = stage.publisher.output();
            ensure!(
                said.contains("NOPERM") || said.contains("no permissions"),
                "{via:?}: {said}"
            );
            Ok(())
        })
        .await?;
        redis
            .tell(&["ACL", "SETUSER", "publisher", &format!("+{command}")])
            .await?;
        stage.until_converged(FREE).await?;
        events_arrive_again(stage).await?;
    }
    Ok(())
}

/// What Redis has refused, and to whom.
async fn denied(redis: &Redis) -> anyhow::Result<Vec<String>> {
    let mut denied = Vec::new();
    for entry in redis.tell(&["ACL", "LOG"]).await?.into_many()? {
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
async fn by_tls() -> Outcome {
    for via in BOTH {
        let redis = Redis::new()?.with_tls()?.started().await?;
        let (url, authority) = redis.tls()?;
        let mut stage = stage_on(redis, via, &url).await?;
        stage.set_all("SSL_CERT_FILE", &authority);
        up(&mut stage).await?;
        events_arrive(&stage).await?;
        redis_of(&stage)?.cut().await?;
        events_arrive_again(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

/// A certificate of an authority that nobody trusts, and a port that speaks no TLS.
#[tokio::test]
async fn whom_nobody_trusts_hears_nothing() -> Outcome {
    let redis = Redis::new()?.with_tls()?.started().await?;
    let (url, _authority) = redis.tls()?;
    let mut stage = stage_on(redis, Via::Streams, &url).await?;
    up_without_redis(&mut stage).await?;
    until_all_say(&stage, &["certificate"]).await?;

    let redis = Redis::start().await?;
    let url = format!("rediss://{}", redis.host());
    let mut stage = stage_on(redis, Via::PubSub, &url).await?;
    up_without_redis(&mut stage).await
}

/// What cannot be meant stops the start, and names the setting without the password.
#[tokio::test]
async fn a_url_that_cannot_be_meant() -> Outcome {
    for url in [
        "http://:hunter2@127.0.0.1",
        "redis-sentinel://:hunter2@127.0.0.1",
        "127.0.0.1:6379",
    ] {
        let mut publisher = Service::publisher()?;
        for (name, value) in Via::PubSub.redis_settings(url) {
            publisher.set(name, value);
        }
        publisher.launch()?;
        let process = publisher.process()?;
        let ended = process.ended(e2e::wait::PATIENCE).await?;
        let said = process.said();
        ensure!(
            !ended.success() && said.contains("AURA_REDIS_URL") && !said.contains("hunter2"),
            "{ended}: {said}"
        );
    }
    Ok(())
}
