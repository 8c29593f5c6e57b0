//! Who is let in: passwords, users with the least rights, TLS; and what becomes of those who are not.

use anyhow::{Context, ensure};
use e2e::{
    redis::Redis,
    services::Service,
    stage::{COLLECTIONS, FREE, Kind, Stage, Via},
    wait::eventually,
};

use super::{BOTH, Outcome, events_arrive, events_arrive_again, redis_of, until_away, write_quickly};

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
            ensure!(!said.contains("p@ss") && !said.contains("p%40ss"), "a password was shown: {said}");
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
        until_all_say(&stage, &["WRONGPASS", "invalid username-password", "AuthenticationFailed"]).await?;
        // Once the server knows that password, all is well without anybody's help.
        redis_of(&stage)?.tell(&["ACL", "SETUSER", "default", ">hunter2"]).await?;
        stage.until_converged(FREE).await?;
        events_arrive_again(&stage).await.with_context(|| format!("{via:?}"))?;
        for service in stage.subscribers.iter().chain([&stage.publisher]) {
            ensure!(!service.output().contains("hunter2"), "a password was shown: {}", service.output());
        }
    }
    Ok(())
}

/// The least rights that suffice, each of which is needed: those of the publisher, and those of a subscriber.
///
/// Pub/Sub, for the database 0 and the prefix aura-config:
///
/// - publisher: `resetchannels &0__:aura-config:* -@all +publish`
/// - subscriber: `resetchannels -@all +psubscribe +ping`, and `&` before each pattern to the letter, two per collection.
///   Redis compares the text of a pattern with what is allowed, so `&0__:aura-config*` does not allow what it covers.
///
/// Streams:
///
/// - publisher: `%W~{0__:aura-config}:* -@all +xadd`
/// - subscriber: `%R~{0__:aura-config}:* -@all +xread +xrevrange`
///
/// Any other database needs `+select` besides, servers behind Sentinels `+role`, and a cluster `+cluster|slots`.
fn least_rights(via: Via) -> (String, String) {
    if via == Via::Streams {
        let of = |way: &str| format!("%{way}~{{0__:aura-config}}:* -@all");
        return (format!("{} +xadd", of("W")), format!("{} +xread +xrevrange", of("R")));
    }
    let patterns = COLLECTIONS.split(',').map(|name| format!("&0__:aura-config:{name}* &0__:aura-config{name}*"));
    let patterns: Vec<_> = patterns.collect();
    let subscriber = format!("resetchannels {} -@all +psubscribe +ping", patterns.join(" "));
    ("resetchannels &0__:aura-config:* -@all +publish".to_owned(), subscriber)
}

#[tokio::test]
async fn the_least_rights_are_enough_and_needed() -> Outcome {
    for via in BOTH {
        let (publisher, subscriber) = least_rights(via);
        let redis = Redis::new()?
            .with_password("admin")
            .with(format!("user publisher on >sending {publisher}"))
            .with(format!("user subscriber on >hearing {subscriber}"))
            .started()
            .await?;
        let urls = (redis.url_as("publisher", "sending"), redis.url_as("subscriber", "hearing"));
        let mut stage = stage_on(redis, via, &urls.1).await?;
        stage.publisher.set("AURA_REDIS_URL", urls.0);
        up(&mut stage).await?;
        events_arrive(&stage).await.with_context(|| format!("{via:?}"))?;
        until_away(&stage, false).await?;
        let denied = denied(redis_of(&stage)?).await?;
        ensure!(denied.iter().all(|what| what == "client|setinfo"), "{denied:?} are denied as well");

        each_is_needed(&stage, via, &publisher, &subscriber).await.with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

/// Takes one right after the other, sees that it is missed, and gives it back.
async fn each_is_needed(stage: &Stage, via: Via, publisher: &str, subscriber: &str) -> Outcome {
    let redis = redis_of(stage)?;
    let commands =
        |rules: &str| rules.split(' ').filter_map(|rule| rule.strip_prefix('+')).map(str::to_owned).collect();
    let (of_publisher, of_subscriber): (Vec<String>, Vec<String>) = (commands(publisher), commands(subscriber));
    for command in of_subscriber {
        redis.tell(&["ACL", "SETUSER", "subscriber", &format!("-{command}")]).await?;
        redis.cut().await?;
        until_away(stage, true).await.with_context(|| format!("without {command}"))?;
        redis.tell(&["ACL", "SETUSER", "subscriber", &format!("+{command}")]).await?;
        events_arrive_again(stage).await.with_context(|| format!("with {command} again"))?;
    }
    for command in of_publisher {
        redis.tell(&["ACL", "SETUSER", "publisher", &format!("-{command}")]).await?;
        write_quickly(&stage.publisher.api(), "a", 1).await?;
        eventually("the publisher says what it may not do", async || {
            let said = stage.publisher.output();
            ensure!(said.contains("NOPERM") || said.contains("no permissions"), "{via:?}: {said}");
            Ok(())
        })
        .await?;
        redis.tell(&["ACL", "SETUSER", "publisher", &format!("+{command}")]).await?;
        stage.until_converged(FREE).await?;
        events_arrive_again(stage).await?;
    }
    Ok(())
}

/// What Redis has refused to anybody.
async fn denied(redis: &Redis) -> anyhow::Result<Vec<String>> {
    let mut denied = Vec::new();
    for entry in redis.tell(&["ACL", "LOG"]).await?.into_many()? {
        let fields = entry.into_many()?;
        let names = fields.iter().step_by(2).zip(fields.iter().skip(1).step_by(2));
        for (name, value) in names {
            if name.clone().into_text()? == "object" {
                denied.push(value.clone().into_text()?);
            }
        }
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
        events_arrive_again(&stage).await.with_context(|| format!("{via:?}"))?;
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
    for url in ["http://:hunter2@127.0.0.1", "redis-sentinel://:hunter2@127.0.0.1", "127.0.0.1:6379"] {
        let mut publisher = Service::publisher()?;
        for (name, value) in Via::PubSub.redis_settings(url) {
            publisher.set(name, value);
        }
        publisher.launch()?;
        let process = publisher.process()?;
        let ended = process.ended(e2e::wait::PATIENCE).await?;
        let said = process.said();
        ensure!(!ended.success() && said.contains("AURA_REDIS_URL") && !said.contains("hunter2"), "{ended}: {said}");
    }
    Ok(())
}
