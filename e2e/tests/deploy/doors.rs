//! `dapr-config/doors/dapr.yaml` started as the Dapr CLI does it: both applications print a document that is
//! written.
//!
//! Different are the ports, the folder of the sockets, the folders of data, and the build of the programs.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, ensure};
use e2e::{
    client::Api,
    testbed::{
        dependencies::{own_program, repository_root},
        ports::free_port,
        process::{Process, folder},
        sidecar::Sidecar,
        wait::eventually,
    },
};
use serde_json::{Value, json};

use crate::manifests::{at, documents, items, read, text};

const FOLDER: &str = "dapr-config/doors";
const COLLECTION: &str = "SkillConfiguration";

/// The run file with free ports in place of all that it names.
fn with_free_ports(yaml: &str) -> anyhow::Result<Value> {
    let mut free = BTreeMap::new();
    let mut moved = String::new();
    let mut rest = yaml;
    while let Some(start) = rest.find(|letter: char| letter.is_ascii_digit()) {
        let (before, number) = rest.split_at(start);
        let end = number.find(|letter: char| !letter.is_ascii_digit());
        let (number, after) = number.split_at(end.unwrap_or(number.len()));
        moved.push_str(before);
        if number.len() >= 4 {
            let port = match free.get(number) {
                Some(port) => *port,
                None => free_port()?,
            };
            free.insert(number, port);
            moved.push_str(&port.to_string());
        } else {
            moved.push_str(number);
        }
        rest = after;
    }
    moved.push_str(rest);
    let [run] = documents(&moved)?
        .try_into()
        .map_err(|_| anyhow::anyhow!("one document"))?;
    Ok(run)
}

/// An application and its sidecar.
struct App {
    _sidecar: Sidecar,
    process: Process,
}

impl App {
    async fn start(run: &Value, app: &Value, home: &Path) -> anyhow::Result<Self> {
        let id = text(app, "/appID")?;
        let port = |name: &str| -> anyhow::Result<Option<u16>> {
            let port = app.get(name).and_then(Value::as_u64);
            Ok(port.map(u16::try_from).transpose()?)
        };
        let app_port = port("appPort")?;
        let sockets = home.join("sockets");
        let mut sidecar = Sidecar::with_sockets(id, app_port.unwrap_or(0), id, &sockets)?;
        for resources in items(run, "/common/resourcesPaths") {
            let path = repository_root().join(FOLDER).join(text(resources, "")?);
            for entry in path.read_dir()? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                sidecar.add_component(&name, &std::fs::read_to_string(entry.path())?)?;
            }
        }
        // Of a flag that is given twice the later one counts.
        for (flag, name) in [
            ("dapr-http-port", "daprHTTPPort"),
            ("dapr-grpc-port", "daprGRPCPort"),
        ] {
            let port = port(name)?.with_context(|| format!("{id}: no {name}"))?;
            sidecar.add_flag(format!("--{flag}={port}"));
        }
        sidecar.launch()?;

        let mut words = items(app, "/command").filter_map(Value::as_str);
        let program = words.next().context("no command")?;
        let mut command = match program.strip_prefix("target/release/") {
            Some(own) => Command::new(own_program(own)?),
            None => Command::new(program),
        };
        command.args(words);
        // The data of the programs is not that of a person who tries the file.
        let folder = match program.starts_with("target/") {
            true => home.to_owned(),
            false => repository_root()
                .join(FOLDER)
                .join(text(app, "/appDirPath")?),
        };
        command.current_dir(folder);
        command.env("DAPR_COMPONENTS_SOCKETS_FOLDER", &sockets);
        let schemas = repository_root().join("schemas");
        command.env("AURA_CONFIGURATION_SCHEMAS_DIR", schemas);
        command.env("APP_PORT", app_port.unwrap_or(0).to_string());
        for (variable, name) in [
            ("DAPR_HTTP_PORT", "daprHTTPPort"),
            ("DAPR_GRPC_PORT", "daprGRPCPort"),
        ] {
            command.env(variable, port(name)?.unwrap_or(0).to_string());
        }
        // What the file says counts before what the CLI sets.
        for (name, value) in app
            .get("env")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            command.env(name, text(value, "")?);
        }
        let process = Process::start(id, home, &mut command)?;
        if program.ends_with("confcast-component") {
            // The CLI starts four more sidecars before the one that looks for it.
            eventually("the component has its socket", async || {
                ensure!(sockets.join("confcast.sock").exists(), "no socket");
                Ok(())
            })
            .await?;
        }
        Ok(Self {
            _sidecar: sidecar,
            process,
        })
    }
}

#[tokio::test]
async fn the_run_file_brings_a_document_to_both_applications() -> anyhow::Result<()> {
    let run = with_free_ports(&read(format!("{FOLDER}/dapr.yaml"))?)?;
    let home = folder()?;
    let mut apps = BTreeMap::new();
    for app in items(&run, "/apps") {
        let started = App::start(&run, app, home.path()).await?;
        apps.insert(text(app, "/appID")?, started);
    }
    let publisher = items(&run, "/apps").find(|app| app["appID"] == "aura-configuration-api");
    let listen = text(
        publisher.context("no publisher")?,
        "/env/AURA_CONFIGURATION_LISTEN",
    )?;
    let publisher = Api::new(format!("http://{listen}"));
    eventually("the publisher is ready", async || {
        publisher.get("/readyz").await?.expect(204).map(drop)
    })
    .await?;
    let printed = async |name: &str, marker: &str| {
        eventually(&format!("{name} prints {marker}"), async || {
            let process = &apps.get(name).context("no such application")?.process;
            ensure!(process.output().contains(marker), "{}", process.tail());
            Ok(())
        })
        .await
    };
    let sample = read(format!("schemas/{COLLECTION}.sample.json"))?;
    let mut document: Value = serde_json::from_str(&sample)?;
    let id = text(&document, "/id")?.to_owned();
    for (version, is_new) in [("5.0.1", true), ("5.0.2", false)] {
        document["version"] = json!(version);
        if is_new {
            let created = publisher.create(COLLECTION, &document).await?;
            created.expect(201)?;
        } else {
            let written = publisher.put(COLLECTION, &id, &document).await?;
            written.expect(200)?;
        }
        for application in ["configuration-reader", "aura-configuration-subscriber"] {
            printed(application, version).await?;
        }
    }
    publisher.delete(COLLECTION, &id).await?.expect(200)?;
    printed("configuration-reader", ": deleted").await?;
    let deleted = format!("Delete of {COLLECTION}/{id}");
    printed("aura-configuration-subscriber", &deleted).await
}

/// Each port is taken once, and each program finds the others.
#[test]
fn the_ports_of_the_run_file_are_of_one_piece() -> anyhow::Result<()> {
    let run = with_free_ports(&read(format!("{FOLDER}/dapr.yaml"))?)?;
    let mut ports = std::collections::BTreeSet::new();
    for app in items(&run, "/apps") {
        let listen = app
            .pointer("/env/AURA_CONFIGURATION_LISTEN")
            .and_then(Value::as_str);
        let listen = listen.and_then(|listen| listen.rsplit(':').next()?.parse().ok());
        let names = ["appPort", "daprHTTPPort", "daprGRPCPort", "metricsPort"];
        let named = names.iter().filter_map(|name| app[*name].as_u64());
        for port in named.chain(listen) {
            ensure!(ports.insert(port), "port {port} twice: {app}");
        }
    }
    let app = |id: &str| {
        let found = items(&run, "/apps").find(|app| app["appID"] == id);
        found.with_context(|| format!("no {id}"))
    };
    let subscriber = at(app("confcast-subscriber")?, "/env")?;
    let reader = app("configuration-reader")?;
    for (port, own) in [
        ("DAPR_HTTP_PORT", "daprHTTPPort"),
        ("DAPR_GRPC_PORT", "daprGRPCPort"),
    ] {
        let own = reader[own].to_string();
        ensure!(subscriber[port] == own, "{port}");
        let api = format!("127.0.0.1:{}", text(reader, &format!("/env/{port}"))?);
        ensure!(
            subscriber["AURA_CONFIGURATION_DAPR_API_LISTEN"] == api,
            "{api}"
        );
    }
    let url = format!("http://127.0.0.1:{}", reader["appPort"]);
    ensure!(
        subscriber["AURA_CONFIGURATION_DAPR_API_APP_URL"] == url,
        "{url}"
    );
    Ok(())
}
