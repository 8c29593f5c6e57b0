//! The publisher checks all settings at once, before anything is opened.

use clap::CommandFactory;
use contract::{environment, fleet::MAX_SERVED};

use super::*;

fn mistakes(options: &[&str]) -> Vec<String> {
    let Err(SettingsError(mistakes)) = Settings::read(options) else {
        panic!("{options:?} was taken");
    };
    mistakes
}

#[test]
fn a_store_url_from_a_file_names_the_same_store() {
    let read = Settings::read(&["--store-url", "file:data\n"]).expect("valid settings");
    assert_eq!(format!("{:?}", read.store), "file:data");
    let url = "mongodb://u:p@a:1/conf\r\n";
    let read = Settings::read(&["--store-url", url]).expect("valid settings");
    assert_eq!(format!("{:?}", read.store), "mongodb://…@a:1/conf");
}

#[test]
fn settings_are_shown_without_a_secret() {
    let mut shown = String::new();
    for options in [
        &[
            "--store-url=mongodb://user:hunter2@a:1,b:2/conf",
            "--events-manager=LOCAL",
            "--local-subscribers=https://user:hunter2@host:1/,https://hunter2@other",
            "--app-api-token=hunter2",
        ][..],
        &["--events-manager=DAPR", "--dapr-api-token=hunter2"],
        &[
            "--events-manager=REDIS",
            "--redis-url=redis://user:hunter2@redis:1/0",
        ],
        &[
            "--events-manager=REDIS",
            "--redis-url=rediss-sentinel://a:1?sentinelServiceName=m&sentinelPassword=hunter2",
        ],
    ] {
        let read = Settings::read(options).expect("valid settings");
        shown.push_str(&format!("{read:?}\n"));
    }
    assert!(!shown.contains("hunter"), "{shown}");
    for host in ["a:1,b:2", "redis:1", "rediss-sentinel://a:1"] {
        assert!(shown.contains(host), "{host}: {shown}");
    }
}

#[test]
fn a_probe_is_off_unless_it_names_a_document_of_a_served_collection() {
    let read = Settings::read(&[]).expect("valid settings");
    assert_eq!(read.probe, None);
    let options = ["--collections=A,P", "--probe=P/probe", "--probe-seconds=5"];
    let probe = Settings::read(&options).expect("valid settings").probe;
    let probe = probe.expect("a probe");
    assert_eq!((probe.key.0.as_str(), probe.key.1.as_str()), ("P", "probe"));
    assert_eq!(probe.interval, Duration::from_secs(5));
    for wrong in ["P", "P/", "/x", "P/a b", "Q/probe"] {
        let mistakes = mistakes(&["--collections=A,P", "--probe", wrong]);
        let [mistake] = &mistakes[..] else {
            panic!("{mistakes:?}");
        };
        assert!(
            mistake.starts_with("AURA_CONFIGURATION_PROBE="),
            "{mistake}"
        );
    }
    let schemas = format!("--schemas-dir={}/../schemas", env!("CARGO_MANIFEST_DIR"));
    let refused = mistakes(&[&*schemas, "--probe=ChannelConfiguration/p"]);
    let [refused] = &refused[..] else {
        panic!("{refused:?}");
    };
    assert!(refused.contains("has no schema"), "{refused}");
    let mistakes = mistakes(&["--probe-seconds=0"]);
    assert!(
        mistakes[0].starts_with("AURA_CONFIGURATION_PROBE_SECONDS="),
        "{mistakes:?}"
    );
}

#[test]
fn a_token_is_trimmed_or_refused() {
    let token = |given: &str| {
        let read = Settings::read(&["--app-api-token", given])?;
        match read.events.map(|events| events.transport) {
            Some(TransportSettings::Local { api_token, .. }) => Ok(api_token),
            _ => panic!("LOCAL is the default"),
        }
    };
    let text = token(" tok\n").map(|token| token.map(|token| token.text));
    assert_eq!(text, Ok(Some("tok".to_owned())));
    assert_eq!(token(""), Ok(None));
    for wrong in ["\n", "a\nb", "sécret", "a\u{200b}b"] {
        let SettingsError(mistakes) = token(wrong).expect_err(wrong);
        assert!(mistakes[0].starts_with("APP_API_TOKEN="), "{mistakes:?}");
        assert!(!mistakes[0].contains("cret"), "{mistakes:?}");
    }
}

#[test]
fn the_token_of_subscribers_goes_to_another_host_inside_of_tls_only_unless_that_is_allowed() {
    let token = "--app-api-token=hunter2";
    let read = |subscribers: &str, more: &[&str]| {
        Settings::read(&[&["--local-subscribers", subscribers], more].concat())
    };
    for base in [
        "https://other:1",
        "http://127.0.0.1:1",
        "http://localhost:1",
    ] {
        read(base, &[token]).expect(base);
    }
    let SettingsError(mistakes) = read("http://other:1", &[token]).expect_err("readable");
    let named = |text: &str| mistakes.iter().any(|mistake| mistake.contains(text));
    assert!(
        named("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS") && named("ALLOW_PLAINTEXT_TOKEN=true"),
        "{mistakes:?}"
    );
    assert!(!named("hunter2"), "{mistakes:?}");
    read("http://other:1", &[token, "--allow-plaintext-token=true"]).expect("allowed");
    read("http://other:1", &[]).expect("no token");
}

#[test]
fn every_mistake_is_found_before_the_store_is_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("A.schema.json"), "[]").expect("a file");
    let schemas = folder.path().to_str().expect("UTF-8");
    let mistakes = mistakes(&[
        "--store-url=mongodb://u:hunter/2@h/db",
        "--collections=,",
        "--schemas-dir",
        schemas,
        "--local-allow=http://host,fine:1",
        "--app-api-token=é",
        "--local-subscribers=http://u:hunter/2@h",
        "--listen=1",
        // Of transports that are not selected.
        "--dapr-grpc-port=x",
        "--redis-database=-1",
        "--redis-stream-max-length=0",
        "--redis-document-channels=a b",
    ]);
    for name in [
        "AURA_CONFIGURATION_STORE_URL",
        "AURA_CONFIGURATION_COLLECTIONS",
        "AURA_CONFIGURATION_SCHEMAS_DIR",
        "AURA_CONFIGURATION_LOCAL_ALLOW",
        "APP_API_TOKEN",
        "AURA_CONFIGURATION_LOCAL_SUBSCRIBERS",
        "AURA_CONFIGURATION_LISTEN",
        "DAPR_GRPC_PORT",
        "AURA_REDIS_DATABASE",
        "AURA_REDIS_STREAM_MAX_LENGTH",
        "AURA_REDIS_DOCUMENT_CHANNELS",
    ] {
        let of_name = |mistake: &&String| mistake.starts_with(&format!("{name}="));
        assert_eq!(
            mistakes.iter().filter(of_name).count(),
            1,
            "{name}: {mistakes:#?}"
        );
    }
    assert!(!mistakes.concat().contains("hunter"), "{mistakes:?}");
}

#[test]
fn every_schema_file_that_is_none_is_named_with_what_it_is() {
    let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).expect("a file");
    };
    let files: [(&str, &[u8], &str); 7] = [
        (
            "Empty.schema.json",
            b"",
            "the file is empty: expected one JSON object",
        ),
        ("Wide.schema.json", &utf16, "in UTF-16: expected UTF-8"),
        ("Yaml.schema.json", b"type: object\n", "looks like YAML"),
        ("Array.schema.json", b"[]", "a JSON array"),
        ("Cut.schema.json", b"{\"type\":", "EOF"),
        (
            "Fine.sample.json",
            b"- a\n",
            "its sample: the file looks like YAML",
        ),
        ("1.schema.json", b"{}", "a letter"),
    ];
    for (name, bytes, _named) in files {
        write(name, bytes);
    }
    write("Fine.schema.json", b"{}");
    let schemas = folder.path().to_str().expect("UTF-8");
    let [mistake] = &mistakes(&["--schemas-dir", schemas])[..] else {
        panic!("one setting is wrong");
    };
    for (name, _bytes, named) in files {
        assert!(mistake.contains(named), "{name}: {mistake}");
    }
    for (name, _bytes, _named) in files {
        std::fs::remove_file(folder.path().join(name)).expect("the file");
    }
    let urn = |bytes: &[u8]| {
        write("Fine.schema.json", bytes);
        let read = crate::schema_folder::read(folder.path()).expect("a folder of schemas");
        read.values()
            .map(|schema| schema.urn.clone())
            .collect::<Vec<_>>()
    };
    let marked = urn(b"\xef\xbb\xbf{\"type\":\"object\"}");
    assert_eq!(
        marked,
        urn(b"{\"type\":\"object\"}"),
        "a byte order mark is taken"
    );
    assert_eq!(marked.len(), 1);
}

#[test]
fn a_folder_of_schemas_that_was_named_must_exist() {
    let mistakes = mistakes(&["--schemas-dir", "/no/such/folder"]);
    assert_eq!(
        mistakes,
        ["AURA_CONFIGURATION_SCHEMAS_DIR=\"/no/such/folder\": there is no such folder"]
    );
}

#[test]
fn every_variable_is_a_known_name() {
    for argument in Args::command().get_arguments() {
        let name = argument
            .get_env()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_own = name.starts_with(environment::PREFIX);
        assert!(!is_own || environment::NAMES.contains(&name), "{name}");
    }
}

#[test]
fn a_collection_that_is_not_served_is_a_mistake_in_the_lists_of_events() {
    for setting in ["id-only", "no-topic"] {
        let option = format!("--{setting}-collections=Skill,Skills");
        let mistakes = mistakes(&["--collections=Skills", "--schemas-dir=", &option]);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        let name = setting.replace('-', "_").to_uppercase();
        let expected = format!("AURA_CONFIGURATION_{name}_COLLECTIONS=\"Skill\": ");
        assert!(mistakes[0].starts_with(&expected), "{mistakes:?}");
        assert!(mistakes[0].contains("Skills"), "{mistakes:?}");
    }
    let both = [
        "--id-only-collections=Skills",
        "--no-topic-collections=Skills",
    ];
    let served = ["--collections=Skills", "--schemas-dir="];
    let found = mistakes(&[served, both].concat());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("name it in one list"), "{found:?}");
    for (option, words) in [
        ("--id-only-collections=Skills,*", "stands alone"),
        ("--no-topic-collections=*", "switches all events off"),
    ] {
        let found = mistakes(&[served[0], served[1], option]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(words), "{found:?}");
    }
    // All others are id-only.
    let all = ["--id-only-collections=*", "--no-topic-collections=Skills"];
    assert!(Settings::read(&[served, all].concat()).is_ok());
    let read = Settings::read(&["--id-only-collections=*"]).expect("valid settings");
    let broadcast = read.events.expect("events").broadcast;
    assert!(broadcast.is_id_only(&"Later".parse().expect("a name")));
}

#[test]
fn more_collections_than_a_publisher_serves_are_a_mistake() {
    let names: Vec<_> = (0..=MAX_SERVED)
        .map(|number| format!("C{number}"))
        .collect();
    let option = format!("--collections={}", names.join(","));
    let found = mistakes(&["--schemas-dir=", &option]);
    assert_eq!(
        found,
        [format!(
            "AURA_CONFIGURATION_COLLECTIONS=…: {} collections are configured or have a schema; a publisher \
             serves at most {MAX_SERVED}",
            names.len()
        )]
    );
    let option = format!("--collections={}", names[1..].join(","));
    assert!(Settings::read(&["--schemas-dir=", &option]).is_ok());
}
