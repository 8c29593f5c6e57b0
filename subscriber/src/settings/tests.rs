//! The subscriber checks all settings at once, and never prints a secret.

use super::*;

fn check(arguments: &[&str]) -> Result<Settings, Vec<String>> {
    let arguments = std::iter::once("subscriber").chain(arguments.iter().copied());
    Options::try_parse_from(arguments)
        .expect("known flags")
        .settings()
        .map_err(|SettingsError(all)| all)
}

#[test]
fn an_empty_value_counts_as_unset() {
    let settings = check(&[
        "--listen=",
        "--collections=",
        "--api-url=",
        "--check-in-seconds=",
        "--app-api-token=",
    ]);
    let settings = settings.expect("valid settings");
    assert_eq!(
        (
            settings.listen.to_string().as_str(),
            settings.collections.len()
        ),
        (LISTEN, 6)
    );
    assert_eq!(
        (settings.publishers.len(), settings.check_in),
        (1, Duration::from_secs(10))
    );
    assert_eq!(settings.follow, Follow::Served);
    let named = check(&["--collections=A"]).expect("valid settings");
    assert_eq!(named.follow, Follow::Named);
    assert!(settings.by_publisher && matches!(settings.events, Events::Local));
    assert!(
        settings.app_api_token.is_none()
            && settings.base_url.is_none()
            && settings.snapshot_dir.is_none()
    );
    assert!(settings.ready_when_stale);
}

#[test]
fn settings_are_shown_without_a_secret() {
    let settings = check(&[
        "--events-manager=REDIS",
        "--redis-url=redis://user:hunter2@redis:1/0",
        "--api-url=http://user:hunter2@host:1,http://hunter2@other",
        "--app-api-token=hunter2",
        "--dapr-api-token=hunter2",
    ]);
    let shown = format!("{:?}", settings.expect("valid settings"));
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(
        shown.contains("redis:1") && shown.contains("host:1"),
        "{shown}"
    );
}

#[test]
fn all_errors_are_reported_at_once_and_without_secrets() {
    let errors = check(&[
        "--events-enabled=yes",
        "--events-manager=RABBIT",
        "--listen=8081",
        "--api-url=ftp://u:secret@h,http://ok,nonsense",
        "--collections=A,_b",
        "--check-in-seconds=0",
        "--ready-when-stale=maybe",
        "--base-url=ftp://u:secret@h",
        "--instance=a b/c",
    ]);
    let errors = errors.expect_err("all wrong");
    for (error, expected) in errors.iter().zip([
        "EVENTS_ENABLED=\"yes\": expected true or false",
        "EVENTS_MANAGER=\"RABBIT\": expected LOCAL, DAPR, REDIS or FEED",
        "LISTEN=\"8081\"",
        "API_URL=item 1: expected http",
        "API_URL=item 3: ",
        "COLLECTIONS=\"_b\"",
        "CHECK_IN_SECONDS=\"0\"",
        "READY_WHEN_STALE=\"maybe\"",
        "BASE_URL=…: expected http",
        "INSTANCE=\"a b/c\"",
    ]) {
        assert!(
            error.contains(expected),
            "{error} should contain {expected}"
        );
    }
    assert_eq!(errors.len(), 10);
    assert!(!errors.concat().contains("secret"));
    assert!(check(&["--check-in-seconds=3601"]).is_err());
    // Also of a transport that is not selected.
    for source in ["REDIS", "LOCAL", "DAPR", "FEED"] {
        let manager = format!("--events-manager={source}");
        let errors = check(&[
            &manager,
            "--redis-url=http://:secret@h",
            "--redis-delivery=POST",
        ]);
        let errors = errors.expect_err("two are wrong");
        assert!(
            errors.len() == 2 && !errors.concat().contains("secret"),
            "{source}: {errors:?}"
        );
    }
    let settings = check(&[
        "--app-api-token=secret",
        "--events-manager=redis",
        "--redis-url=redis://:secret@h",
    ])
    .expect("valid settings");
    assert!(matches!(settings.events, Events::Redis(_)) && !settings.by_publisher);
    assert!(!format!("{settings:?}").contains("secret"));
}

/// A publisher with `LOCAL` asks for the topics like a sidecar, and no resource declares them to it.
#[test]
fn topics_are_declared_to_sidecars_alone() {
    let declared = |manager: &str| {
        let settings = check(&[
            &format!("--events-manager={manager}"),
            "--dapr-declarative-subscriptions=true",
        ]);
        settings.expect("valid settings").declared
    };
    assert!(declared("DAPR") && declared("dapr") && !declared("LOCAL"));
    assert!(check(&["--dapr-declarative-subscriptions=on"]).is_err());
}

#[test]
fn every_variable_is_a_known_name() {
    use clap::CommandFactory;
    use contract::environment;

    for argument in Options::command().get_arguments() {
        let name = argument
            .get_env()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_own = name.starts_with(environment::PREFIX);
        assert!(!is_own || environment::NAMES.contains(&name), "{name}");
    }
}

#[test]
fn no_form_of_the_settings_shows_the_password_of_a_publisher() {
    let settings = check(&["--api-url=http://u:hunter2@h:1/v1.0/invoke/a/method"]);
    let shown = format!("{:?}", settings.expect("valid"));
    assert!(
        shown.contains("http://…@h:1/v1.0") && !shown.contains("hunter2"),
        "{shown}"
    );
    for wrong in [
        "http://u:hunter/2@h",
        "http://u:hunter?2@h",
        "http://u:hunter2@",
        "u:hunter2@h",
    ] {
        let errors = check(&["--api-url", wrong]).expect_err(wrong).concat();
        assert!(!errors.contains("hunter"), "{errors}");
    }
}

#[test]
fn credentials_are_checked_with_all_other_settings() {
    let errors = check(&[
        "--api-url=https://a,http://192.0.2.2:1",
        "--token=hunter2",
        "--tls-key-file=/no/key",
        "--ca-file=/no/file",
        "--certificates-file=/no/names",
        "--loads=0",
    ]);
    let errors = errors.expect_err("five are wrong");
    for begin in [
        "AURA_CONFIGURATION_CERTIFICATES_FILE=/no/names: ",
        "AURA_CONFIGURATION_TLS_CERT_FILE is not set: ",
        "AURA_CONFIGURATION_CA_FILE=/no/file: ",
        "AURA_CONFIGURATION_API_URL=http://192.0.2.2:1/: a token is not sent",
        "AURA_CONFIGURATION_LOADS=",
    ] {
        let named = errors.iter().filter(|error| error.starts_with(begin));
        assert_eq!(named.count(), 1, "{begin}: {errors:?}");
    }
    assert_eq!(errors.len(), 5, "{errors:?}");
    assert!(!format!("{errors:?}").contains("hunter2"));
    for (flags, begin) in [
        (
            &["--token-file=/no/token"][..],
            "AURA_CONFIGURATION_TOKEN_FILE=/no/token: ",
        ),
        (
            &["--token=Bearer hunter2"],
            "AURA_CONFIGURATION_TOKEN=…: expected the token alone",
        ),
        (
            &["--token=a", "--token-file=b"],
            "AURA_CONFIGURATION_TOKEN=…: ",
        ),
    ] {
        let errors = check(flags).expect_err(begin);
        assert!(
            errors.len() == 1 && errors[0].starts_with(begin),
            "{errors:?}"
        );
        assert!(!errors[0].contains("hunter2"), "{errors:?}");
    }
}

#[test]
fn names_in_client_certificates_need_a_port_that_asks_for_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("names.json");
    std::fs::write(&path, "{\"certificates\": []}").expect("a file");
    let errors = check(&[
        "--app-api-token=a",
        "--certificates-file",
        path.to_str().expect("UTF-8"),
    ]);
    let errors = errors.expect_err("no certificate can come");
    assert!(
        errors.len() == 1
            && errors[0].starts_with("AURA_CONFIGURATION_TLS_CLIENT_CA_FILE is not set: "),
        "{errors:?}"
    );
}

#[test]
fn a_subscriber_with_tls_names_no_url_without_it() {
    let named = |url: &str| {
        let settings = check(&["--tls-cert-file=/none/c", "--tls-key-file=/none/k", url]);
        let errors = settings.err().unwrap_or_default();
        errors
            .iter()
            .any(|error| error.starts_with("AURA_CONFIGURATION_BASE_URL=…: this subscriber takes"))
    };
    assert!(named("--base-url=http://host:1"));
    assert!(!named("--base-url=https://host:1"));
    // A proxy may add TLS.
    assert!(check(&["--base-url=https://host:1"]).is_ok());
}

#[test]
fn the_api_of_dapr_is_off_until_it_has_an_address_and_never_passes_calls_to_itself() {
    let settings = check(&["--dapr-grpc-port=none"]).expect("not looked at");
    assert_eq!(settings.dapr_api, None);
    let api = |flags: &[&str]| {
        let all = [&["--dapr-api-listen=127.0.0.1:50100"], flags].concat();
        check(&all).map(|settings| settings.dapr_api.expect("it is served"))
    };
    let settings = api(&[]).expect("valid settings");
    assert_eq!(settings.sidecar_grpc, "127.0.0.1:50001");
    assert_eq!(settings.sidecar_http, "127.0.0.1:3500");
    assert_eq!(settings.app, None);
    let flags = ["--dapr-grpc-endpoint=http://[::1]:7/", "--dapr-http-port=8"];
    let settings = api(&flags).expect("valid settings");
    assert_eq!(settings.sidecar_grpc, "[::1]:7");
    assert_eq!(settings.sidecar_http, "127.0.0.1:8");
    for (flag, name) in [
        (
            "--dapr-api-app-url=https://h:1",
            "AURA_CONFIGURATION_DAPR_API_APP_URL",
        ),
        (
            "--dapr-api-app-url=http://h:1/a",
            "AURA_CONFIGURATION_DAPR_API_APP_URL",
        ),
        ("--dapr-grpc-endpoint=https://h:1", "DAPR_GRPC_ENDPOINT"),
        ("--dapr-http-endpoint=h", "DAPR_HTTP_ENDPOINT"),
        ("--dapr-grpc-port=x", "DAPR_GRPC_PORT"),
        ("--dapr-grpc-port=50100", "DAPR_GRPC_PORT"),
        ("--dapr-http-endpoint=localhost:50100", "DAPR_HTTP_PORT"),
    ] {
        let errors = api(&[flag]).expect_err(flag);
        assert!(
            errors.len() == 1 && errors[0].starts_with(name),
            "{flag}: {errors:?}"
        );
    }
    // A token stays on this host.
    let app = "--dapr-api-app-url=http://app:1";
    api(&[app]).expect("no token is sent");
    let errors = api(&[app, "--app-api-token=secret"]).expect_err("in plain text");
    assert!(
        errors.len() == 1 && errors[0].starts_with("AURA_CONFIGURATION_DAPR_API_APP_URL"),
        "{errors:?}"
    );
    let allowed = "--allow-plaintext-token=true";
    api(&[app, "--app-api-token=secret", allowed]).expect("it is allowed");
    let beyond = ["--dapr-api-listen=0.0.0.0:50100"];
    let errors = check(&beyond).expect_err("nobody is asked for a credential");
    assert!(
        errors[0].starts_with("AURA_CONFIGURATION_DAPR_API_LISTEN"),
        "{errors:?}"
    );
    check(&[beyond[0], "--dapr-api-token=secret"]).expect("callers need the token");
}
