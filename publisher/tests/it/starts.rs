//! The publisher as a process: what it says at its start, and how it ends when it is asked to stop.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use reqwest::Response;
use serde_json::json;
use tokio::process::Command;

use super::{Outcome, file_settings, life::Life};

const PUBLISHER: &str = env!("CARGO_BIN_EXE_publisher");
/// Much less than an orderly end may take: nothing has to be finished.
const AT_ONCE: Duration = Duration::from_secs(5);

fn start(store: &str, flags: &[&str]) -> anyhow::Result<Life> {
    let fixed = ["--store-url", store, "--collections", "Skills"];
    Life::start(PUBLISHER, &[&fixed, flags].concat())
}

#[tokio::test]
async fn a_publisher_that_is_asked_to_stop_while_it_starts_ends_with_success_at_once() -> Outcome {
    let folder = tempfile::tempdir()?;
    let embedded = format!("file:{}", folder.path().display());
    // Accepts connections and never answers, as a frozen server does.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let frozen = format!("mongodb://{}/c?replicaSet=rs0", silent.local_addr()?);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        format!("mongodb://{}/c?replicaSet=rs0", listener.local_addr()?)
    };
    for (store, line) in [
        (&embedded, ""),
        (&frozen, ""),
        (&frozen, "these collections have schemas"),
        (&frozen, "waits for MongoDB"),
        (&closed, ""),
        (&closed, "waits for MongoDB"),
        (&embedded, "is up"),
    ] {
        for signal in ["TERM", "INT", "TERM"] {
            let mut publisher = start(store, &["--listen", "127.0.0.1:0"])?;
            publisher.until(line).await?;
            publisher.signal(signal).await?;
            let (code, log) = publisher.ended(AT_ONCE).await?;
            ensure!(
                code == Some(0) && log.contains("the publisher has stopped"),
                "{signal} after {line:?}: {code:?}\n{log}"
            );
        }
    }
    // What a stopped start left can be opened.
    let mut publisher = start(&embedded, &["--listen", "127.0.0.1:0"])?;
    publisher.until("is up").await?;
    Ok(())
}

/// A load balancer learns that it ends, and it still does everything.
#[tokio::test]
async fn a_publisher_that_drains_is_not_ready_and_serves_until_a_second_signal() -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = format!("file:{}", folder.path().display());
    let flags = ["--listen=127.0.0.1:0", "--drain-seconds=300"];
    let mut publisher = start(&store, &flags)?;
    let url = publisher.url("is up").await?;
    let documents = &format!("{url}/v1/collections/Skills/documents");
    let client = &e2e::http().build()?;
    let closes = |answer: &Response| {
        let connection = answer.headers().get("connection");
        connection.is_some_and(|value| value == "close")
    };
    let create = async |id: &str| {
        let request = client.post(documents).json(&json!({"id": id}));
        let answer = request.send().await?;
        ensure!(answer.status() == 201, "{answer:?}");
        Ok(closes(&answer))
    };
    let ready = async || {
        let answer = client.get(format!("{url}/readyz")).send().await?;
        anyhow::Ok((answer.status().as_u16(), answer.text().await?))
    };
    ensure!(ready().await? == (204, String::new()));
    ensure!(!create("a").await?, "a connection that is kept");
    // Two that last: a reader of the feed, and one that waits for what does not come.
    let feed = client.get(format!("{url}/v1/changes"));
    let mut feed = feed.header("accept", "text/event-stream").send().await?;
    ensure!(feed.chunk().await?.is_some(), "the first frame");
    let waits = client.get(format!("{documents}/a?min-revision=100&timeout=60s"));
    let waits = async { anyhow::Ok(waits.send().await?) };

    let stopped = async {
        publisher.signal("TERM").await?;
        publisher.until("serves for 300 s more").await?;
        let (status, problem) = ready().await?;
        ensure!(
            status == 503 && problem.contains("urn:confcast:problem:stopping"),
            "{status} {problem}"
        );
        let healthy = client.get(format!("{url}/healthz")).send().await?;
        ensure!(healthy.status() == 204, "the process is well");
        for id in ["b", "c"] {
            ensure!(create(id).await?, "the connection is not closed");
        }
        // Its reader gets the changes of the drain as well.
        let mut read = String::new();
        while !read.contains(r#""id":"c""#) {
            let chunk = feed.chunk().await?.context("the feed goes on")?;
            read += std::str::from_utf8(&chunk)?;
        }
        publisher.signal("TERM").await?;
        let asked = Instant::now();
        // The end of the stream is an end, so that its reader knows where to continue.
        while feed.chunk().await?.is_some() {}
        let (code, log) = publisher.ended(AT_ONCE).await?;
        ensure!(
            code == Some(0) && log.contains("asked to stop again"),
            "{code:?}\n{log}"
        );
        anyhow::Ok(asked.elapsed())
    };
    let (waited, took) = futures_util::future::join(waits, stopped).await;
    let (waited, took) = (waited?, took?);
    ensure!(took < AT_ONCE, "{took:?}");
    ensure!(waited.status() == 503, "{waited:?}");
    let problem = waited.text().await?;
    ensure!(
        problem.contains("urn:confcast:problem:stopping"),
        "{problem}"
    );
    Ok(())
}

#[tokio::test]
async fn a_publisher_that_others_can_reach_starts_without_credentials_only_when_told_so() -> Outcome
{
    let warning = "every peer can read and change all documents, and declare a new epoch";
    for (listen, warns) in [
        ("127.0.0.1:0", false),
        ("[::1]:0", false),
        ("0.0.0.0:0", true),
    ] {
        let folder = tempfile::tempdir()?;
        let store = format!("file:{}", folder.path().display());
        if warns {
            let (code, log) = start(&store, &["--listen", listen])?.ended(AT_ONCE).await?;
            let ways_out = [
                "AURA_CONFIGURATION_TOKENS_FILE",
                "AURA_CONFIGURATION_ALLOW_ANONYMOUS_BEYOND_LOOPBACK=true",
                "Listen on 127.0.0.1",
            ];
            ensure!(
                code == Some(64) && ways_out.iter().all(|way| log.contains(way)),
                "{log}"
            );
        }
        let told = ["--listen", listen, "--allow-anonymous-beyond-loopback=true"];
        let mut publisher = start(&store, &told)?;
        let log = publisher.until("the publisher is up").await?;
        let lines: Vec<_> = log.lines().filter(|line| line.contains(warning)).collect();
        ensure!(lines.len() == usize::from(warns), "{listen}:\n{log}");
        let is_complete = |line: &&str| {
            line.contains("WARN")
                && line.contains("beyond this host")
                && line.contains("trusted peers")
        };
        ensure!(lines.iter().all(is_complete), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_publisher_that_asks_for_credentials_needs_the_token_of_its_sidecar() -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = format!("file:{}", folder.path().display());
    let dapr = [
        "--listen=0.0.0.0:0",
        "--anonymous=refused",
        "--events-manager=DAPR",
    ];
    let (code, log) = start(&store, &dapr)?.ended(AT_ONCE).await?;
    ensure!(
        code == Some(64) && log.contains("APP_API_TOKEN is not set"),
        "{log}"
    );
    for more in ["--app-api-token=secret", "--anonymous=loopback"] {
        let flags = [&dapr[..1], &dapr[2..], &["--anonymous=refused"][..]].concat();
        let flags: Vec<_> = match more {
            "--anonymous=loopback" => [&dapr[..1], &dapr[2..], &[more]].concat(),
            _ => [&flags[..], &[more]].concat(),
        };
        let mut publisher = start(&store, &flags)?;
        publisher.until("the publisher is up").await?;
    }
    Ok(())
}

#[tokio::test]
async fn wrong_names_and_origins_are_refused_before_the_store_is_opened() -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = folder.path().join("store");
    let url = format!("file:{}", store.display());
    let flags = [
        "--allowed-hosts=config.example,*.svc,https://a.example,b:80",
        "--cors-origins=https://good.example,admin.example,https://c.example/,*",
    ];
    let (code, log) = start(&url, &flags)?.ended(AT_ONCE).await?;
    ensure!(code == Some(64), "{code:?}\n{log}");
    let mistakes = [
        r#"AURA_CONFIGURATION_ALLOWED_HOSTS="https://a.example": expected host names without a port"#,
        r#"AURA_CONFIGURATION_ALLOWED_HOSTS="b:80": expected host names without a port"#,
        r#"AURA_CONFIGURATION_CORS_ORIGINS="admin.example": expected SCHEME://HOST"#,
        r#"AURA_CONFIGURATION_CORS_ORIGINS="https://c.example/": expected SCHEME://HOST"#,
        r#"AURA_CONFIGURATION_CORS_ORIGINS="*": expected SCHEME://HOST"#,
    ];
    for mistake in mistakes {
        ensure!(log.contains(mistake), "{mistake}\n{log}");
    }
    ensure!(log.contains("5 settings are wrong"), "{log}");
    ensure!(!store.exists(), "the store was opened");
    Ok(())
}

/// The look at the folder waited for ever without a log line, and the process did not end.
#[tokio::test]
async fn a_named_pipe_among_the_schemas_is_named_and_delays_no_end() -> Outcome {
    let folder = tempfile::tempdir()?;
    let schemas = folder.path().join("schemas");
    std::fs::create_dir(&schemas)?;
    let store = format!("file:{}", folder.path().join("data").display());
    let of_schemas = ["--schemas-dir", schemas.to_str().context("UTF-8")?];
    let flags = [&["--listen", "127.0.0.1:0"], &of_schemas[..]].concat();
    let mut publisher = start(&store, &flags)?;
    publisher.until("is up").await?;
    let pipe = schemas.join("Pipe.schema.json");
    let made = Command::new("mkfifo").arg(&pipe).status().await?;
    ensure!(made.success(), "no pipe");
    let log = publisher.until("Pipe.schema.json").await?;
    ensure!(log.contains("no regular file"), "{log}");
    publisher.signal("TERM").await?;
    let (code, log) = publisher.ended(Duration::from_secs(15)).await?;
    ensure!(code == Some(0), "{code:?}\n{log}");
    Ok(())
}

/// The signal that the limit for the size of a file sends ended the process.
#[tokio::test]
async fn the_signal_of_a_limit_of_file_sizes_ends_no_publisher() -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = format!("file:{}", folder.path().display());
    let mut publisher = start(&store, &["--listen", "127.0.0.1:0"])?;
    publisher.until("is up").await?;
    publisher.signal("XFSZ").await?;
    publisher.signal("TERM").await?;
    let (code, log) = publisher.ended(Duration::from_secs(15)).await?;
    ensure!(
        code == Some(0) && log.contains("the publisher has stopped"),
        "{code:?}\n{log}"
    );
    Ok(())
}

/// Lines of a log are shipped and kept, and the content of a file is easily given in place of its path.
#[test]
fn the_content_of_a_file_is_never_shown_where_its_path_is_expected() {
    let start = || {
        let mut publisher = std::process::Command::new(PUBLISHER);
        // With it the start ends after the checks.
        publisher.env("AURA_CONFIGURATION_LISTEN", "nowhere");
        publisher
    };
    let settings = file_settings::settings(start());
    file_settings::no_content_is_shown(start, &settings, "wrong setting: NAME=…");
}
