//! The subscriber as a process: what it says at its start, and how it ends when it is asked to stop.

use std::time::Duration;

use reqwest::Client;

use super::{file_settings, life::Life};

const SUBSCRIBER: &str = env!("CARGO_BIN_EXE_subscriber");
/// Much less than an orderly end may take: nothing has to be finished.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Nothing listens at the URL of its publisher.
fn start(flags: &[&str]) -> Life {
    let fixed = ["--api-url", "http://127.0.0.1:9", "--collections", "A"];
    Life::start(SUBSCRIBER, &[&fixed, flags].concat()).expect("it starts")
}

#[tokio::test]
async fn a_subscriber_that_is_asked_to_stop_while_it_starts_ends_with_success_at_once() {
    for line in ["", "", "", "listens on"] {
        for signal in ["TERM", "INT", "TERM"] {
            let mut subscriber = start(&["--listen", "127.0.0.1:0"]);
            subscriber.until(line).await.expect("a line");
            subscriber.signal(signal).await.expect("it runs");
            let (code, log) = subscriber.ended(AT_ONCE).await.expect("an end in time");
            assert!(
                code == Some(0) && log.contains("the subscriber has stopped"),
                "{signal} after {line:?}: {code:?}\n{log}"
            );
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_drains_says_so_and_closes_connections_until_a_second_signal() {
    let mut subscriber = start(&["--listen", "127.0.0.1:0", "--drain-seconds", "300"]);
    let url = subscriber.url("listens on").await.expect("a URL");
    let client = Client::builder()
        .tls_backend_preconfigured(tls::ClientTls::default().config())
        .build()
        .expect("a client");
    let answer = async |path: &str| {
        let answer = client.get(format!("{url}{path}")).send().await;
        let answer = answer.expect("an answer");
        let connection = answer.headers().get("connection");
        let closes = connection.is_some_and(|value| value == "close");
        let status = answer.status().as_u16();
        (status, closes, answer.text().await.expect("a body"))
    };
    let (status, closes, problem) = answer("/readyz").await;
    assert!(status == 503 && !closes, "{problem}");
    assert!(problem.contains("problem:loading"), "{problem}");
    subscriber.signal("TERM").await.expect("it runs");
    subscriber.until("300 s more").await.expect("a line");
    let (status, closes, problem) = answer("/readyz").await;
    assert!(status == 503 && closes, "{problem}");
    assert!(problem.contains("problem:stopping"), "{problem}");
    assert_eq!(answer("/healthz").await, (204, true, String::new()));
    // Also of what no route answers.
    let (status, closes, _problem) = answer("/nothing").await;
    assert_eq!((status, closes), (404, true));
    subscriber.signal("INT").await.expect("it runs");
    let (code, log) = subscriber.ended(AT_ONCE).await.expect("an end in time");
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test]
async fn a_subscriber_that_others_can_reach_starts_without_credentials_only_when_told_so() {
    let warning = "every peer can read all documents, and post events";
    for (flags, warns) in [
        (["--listen=127.0.0.1:0", "--app-api-token="], false),
        (["--listen=[::1]:0", "--app-api-token="], false),
        (["--listen=0.0.0.0:0", "--app-api-token="], true),
        (["--listen=0.0.0.0:0", "--app-api-token=secret"], false),
    ] {
        if flags[0].contains("0.0.0.0") {
            let (code, log) = start(&flags).ended(AT_ONCE).await.expect("an end");
            assert!(
                code == Some(64) && log.contains("AURA_CONFIGURATION_TOKENS_FILE"),
                "{log}"
            );
        }
        let told = "--allow-anonymous-beyond-loopback=true";
        let mut subscriber = start(&[&flags[..], &[told]].concat());
        let log = subscriber.until("listens on http").await.expect("a line");
        let lines: Vec<_> = log.lines().filter(|line| line.contains(warning)).collect();
        assert_eq!(lines.len(), usize::from(warns), "{flags:?}:\n{log}");
        for line in lines {
            assert!(
                line.contains("WARN")
                    && line.contains("beyond this host")
                    && line.contains("trusted peers"),
                "{line}"
            );
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_asks_for_credentials_needs_a_token_for_events_that_are_posted() {
    /// The first key of RFC 8032 section 7.1.
    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
        -----END PUBLIC KEY-----\n";
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys.pem");
    std::fs::write(&keys, KEY).expect("a file");
    let keys = keys.display();
    for (manager, starts) in [("LOCAL", false), ("DAPR", false), ("FEED", true)] {
        let manager = format!("--events-manager={manager}");
        let flags = ["--listen=0.0.0.0:0", "--anonymous=refused", &manager];
        if starts {
            let mut subscriber = start(&flags);
            subscriber.until("listens on http").await.expect("a line");
            continue;
        }
        let with_keys = format!("--event-keys-file={keys}");
        for flags in [
            &flags[..],
            &[&flags[..], &[with_keys.as_str()]].concat()[..],
        ] {
            let (code, log) = start(flags).ended(AT_ONCE).await.expect("an end");
            let named = log.contains("APP_API_TOKEN is not set");
            assert!(code == Some(64) && named, "{log}");
        }
        let mut subscriber = start(&[&flags[..], &["--app-api-token=secret"]].concat());
        subscriber.until("listens on http").await.expect("a line");
    }
}

#[tokio::test]
async fn wrong_names_and_origins_are_refused_before_the_port_is_opened() {
    let subscriber = start(&["--allowed-hosts=a:80,b", "--cors-origins=admin.example"]);
    let (code, log) = subscriber.ended(AT_ONCE).await.expect("an end");
    assert_eq!(code, Some(64), "{log}");
    for mistake in [
        r#"AURA_CONFIGURATION_ALLOWED_HOSTS="a:80": expected host names without a port"#,
        r#"AURA_CONFIGURATION_CORS_ORIGINS="admin.example": expected SCHEME://HOST"#,
        "2 settings are wrong",
    ] {
        assert!(log.contains(mistake), "{mistake}\n{log}");
    }
    assert!(!log.contains("listens on"), "{log}");
}

/// Lines of a log are shipped and kept, and the content of a file is easily given in place of its path.
#[test]
fn the_content_of_a_file_is_never_shown_where_its_path_is_expected() {
    let start = || {
        let mut subscriber = std::process::Command::new(SUBSCRIBER);
        // With it the start ends after the checks.
        subscriber.env("AURA_CONFIGURATION_LISTEN", "nowhere");
        subscriber
    };
    let settings = file_settings::settings(start());
    file_settings::no_content_is_shown(start, &settings, "wrong setting: NAME=…");
}
