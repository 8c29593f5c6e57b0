//! What a backup or a restore refuses, and that it then changes nothing.

use std::process::Stdio;

use anyhow::{Context, ensure};
use e2e::testbed::{FREE, process::folder, services::Service};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    IDENTITY, Outcome, RECIPIENT, change, command, confcast, created, printed, refused, value,
};

async fn publisher(collections: &str) -> anyhow::Result<Service> {
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", collections)
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    Ok(publisher)
}

#[tokio::test]
async fn a_file_that_is_no_whole_backup_changes_nothing() -> Outcome {
    let publisher = publisher(FREE).await?;
    change(&publisher.api(), &[created(FREE, "a", &json!({"n": 1}))]).await?;
    let files = folder()?;
    let path = |name: &str| files.path().join(name).display().to_string();
    let (file, key, other) = (path("a.backup"), path("key"), path("other"));
    std::fs::write(&key, IDENTITY)?;
    std::fs::write(
        &other,
        "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33",
    )?;
    confcast(
        &publisher,
        &["backup", "create", &file, "--recipient", RECIPIENT],
    )
    .await?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file)?.permissions());
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    change(
        &publisher.api(),
        &[json!({"collection": FREE, "op": "Replace", "id": "a", "configData": {"n": 2}})],
    )
    .await?;

    let bytes = std::fs::read(&file)?;
    let mut flipped = bytes.clone();
    let middle = bytes.len() - 40;
    flipped[middle] ^= 1;
    let (damaged, cut) = (path("damaged"), path("cut"));
    std::fs::write(&damaged, flipped)?;
    std::fs::write(&cut, &bytes[..middle])?;
    let export = path("export.ndjson");
    confcast(&publisher, &["export", "-o", &export]).await?;
    for (arguments, reason) in [
        (vec![file.as_str()], "--identity"),
        (vec![&file, "--identity", &other], "other recipients"),
        (vec![&damaged, "--identity", &key], "damaged"),
        (vec![&cut, "--identity", &key], "cut off"),
        (vec![&export], "`confcast import`"),
        (
            vec![&file, "Unknown", "--identity", &key],
            "no collection Unknown",
        ),
    ] {
        let restore = [&["restore", "--yes"], &arguments[..]].concat();
        let refusal = refused(&publisher, &restore).await?;
        ensure!(refusal.contains(reason), "{reason}: {refusal}");
    }
    let unconfirmed = command(&publisher, &["restore", &file, "--identity", &key])?
        .stdin(Stdio::null())
        .output()
        .await?;
    let (_failed, text) = printed(&unconfirmed);
    ensure!(text.contains("takes --yes to create 0, update 1"), "{text}");
    ensure!(value(&publisher, FREE, "a").await? == json!({"n": 2}));
    let snapshots = publisher.api().get("/v1/snapshots").await?.json()?;
    ensure!(snapshots["items"] == json!([]), "{snapshots:#}");
    Ok(())
}

/// The disk that the backup goes to is full: a limit of the size of files is as good.
#[tokio::test]
async fn a_full_disk_leaves_no_backup_and_no_part_of_one() -> Outcome {
    let publisher = publisher(FREE).await?;
    // Texts that do not compress.
    let texts = (0..200_u64).map(|number| {
        let words = (0..40).map(|word| crc32c::crc32c(&(number * 40 + word).to_be_bytes()));
        let text: Vec<String> = words.map(|word| word.to_string()).collect();
        created(FREE, &format!("d{number}"), &json!({ "text": text }))
    });
    change(&publisher.api(), &texts.collect::<Vec<_>>()).await?;
    let files = folder()?;
    let file = files.path().join("full.backup").display().to_string();
    let program = e2e::testbed::dependencies::own_program("confcast")?;
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"])
        .arg(program)
        .args(["backup", "create", &file, "--publisher", &publisher.url()])
        .output()
        .await?;
    let (succeeded, text) = printed(&limited);
    ensure!(!succeeded && text.contains("no backup was made"), "{text}");
    let left: Vec<_> = files.path().read_dir()?.collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// A reader that ends early has no whole backup, and one of the plan of a restore has not read it.
#[tokio::test]
async fn a_pipe_without_a_reader_is_a_failure() -> Outcome {
    let publisher = publisher(FREE).await?;
    change(&publisher.api(), &[created(FREE, "a", &json!({"n": 1}))]).await?;
    let files = folder()?;
    let file = files.path().join("a.backup").display().to_string();
    confcast(&publisher, &["backup", "create", &file]).await?;
    change(&publisher.api(), &[created(FREE, "b", &json!({"n": 1}))]).await?;
    for arguments in [
        &["backup", "create", "-"][..],
        &["restore", "--yes", &file],
        &["rollback", FREE, "--to-revision", "1", "--yes"],
    ] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        // Not by `output()`, which would make a pipe of its own.
        let child = command(&publisher, arguments)?
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()?;
        let (succeeded, text) = printed(&child.wait_with_output().await?);
        let is_named = text.contains(": nothing was ") || text.contains(": no whole backup was ");
        ensure!(!succeeded && is_named, "{arguments:?}: {text}");
    }
    ensure!(value(&publisher, FREE, "b").await? == json!({"n": 1}));
    Ok(())
}

/// References from one change set into later ones, and in a circle; secrets that another store seals again.
#[tokio::test]
async fn references_and_secrets_come_back_and_schemas_of_today_decide() -> Outcome {
    let files = folder()?;
    let path = |name: &str| files.path().join(name).display().to_string();
    let text = json!({"type": "string"});
    let schema = |ids: Value| {
        json!({"type": "object", "properties": {
            "to": {"type": "string", "x-ref": "B"},
            "back": {"type": "string", "x-ref": "A"},
            "password": {"type": "string", "x-secret": true},
            "name": ids,
        }})
    };
    for name in ["A", "B"] {
        std::fs::write(
            path(&format!("{name}.schema.json")),
            schema(text.clone()).to_string(),
        )?;
    }
    let keys =
        json!({"active": "a", "keys": {"a": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}});
    std::fs::write(path("keys"), keys.to_string())?;
    let with_schemas = |publisher: Service| {
        publisher
            .with("AURA_CONFIGURATION_COLLECTIONS", "A,B")
            .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false")
            .with(
                "AURA_CONFIGURATION_SCHEMAS_DIR",
                files.path().display().to_string(),
            )
    };
    let with_keys =
        |publisher: Service| publisher.with("AURA_CONFIGURATION_SECRET_KEYS_FILE", path("keys"));
    let mut publisher = with_keys(with_schemas(Service::publisher()?));
    publisher.start().await?;
    let api = publisher.api();
    // 300 documents of A refer to 300 of B, and the first two to each other.
    for first in [0, 150] {
        let pairs = (first..first + 150_usize).flat_map(|number| {
            let id = format!("d{number:03}");
            let mut b = json!({"name": "x", "password": format!("secret {number}")});
            if number == 0 {
                b["back"] = json!(id);
            }
            [
                created("A", &id, &json!({ "to": id })),
                created("B", &id, &b),
            ]
        });
        let pairs: Vec<_> = pairs.collect();
        // A set has 256 changes at most.
        for part in pairs.chunks(150) {
            change(&api, part).await?;
        }
    }
    let file = path("all.backup");
    confcast(&publisher, &["backup", "create", &file]).await?;

    let restore = ["restore", &file, "--yes"];
    let mut keyless = with_schemas(Service::publisher()?);
    keyless.start().await?;
    let refusal = refused(&keyless, &restore).await?;
    ensure!(refusal.contains("not finished"), "{refusal}");

    let mut other = with_keys(with_schemas(Service::publisher()?));
    other.start().await?;
    confcast(&other, &restore).await?;
    for id in ["d000", "d299"] {
        let path = format!("/v1/collections/B/documents/{id}?reveal=true");
        let [here, there] = [
            publisher.api().get(&path).await?,
            other.api().get(&path).await?,
        ];
        let [here, there] = [here.expect(200)?.json()?, there.expect(200)?.json()?];
        ensure!(
            here["configData"] == there["configData"],
            "{here:#} {there:#}"
        );
    }
    let count = other.api().head("A").await?.count;
    ensure!(count == 300, "{count}");
    // Nothing changes: the publisher opens each secret, and finds the same one.
    let revision = other.api().head("B").await?.revision;
    confcast(&other, &restore).await?;
    ensure!(
        other.api().head("B").await?.revision == revision,
        "{revision}"
    );

    let narrow = schema(json!({"type": "string", "maxLength": 0}));
    std::fs::write(path("B.schema.json"), narrow.to_string())?;
    let mut strict = with_keys(with_schemas(Service::publisher()?));
    strict.start().await?;
    let refusal = refused(&strict, &restore).await?;
    ensure!(
        refusal.contains("B/d000") && refusal.contains("not finished"),
        "{refusal}"
    );
    let status = refused(&strict, &["status"]).await?;
    let mark = status.find("unfinished-restore-").context("the mark")?;
    let mark = &status[mark..mark + 27];
    confcast(&strict, &["snapshot", "delete", mark, "--yes"]).await?;
    Ok(())
}
