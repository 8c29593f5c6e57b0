//! Publisher, subscriber and command line with TLS and client certificates everywhere; stores and
//! brokers with TLS.

use std::{path::Path, process::Command};

use anyhow::ensure;
use client::{ClientFiles, CredentialSettings, Credentials, Endpoint, Timeouts};
use e2e::testbed::{
    dependencies, mongod::Mongod, process::folder, redis::certificates::Certificates,
    services::Service, wait::eventually,
};
use mongodb::bson::doc;
use reqwest::Method;

type Outcome = anyhow::Result<()>;

const DOCUMENT: &str = "/v1/collections/FreeForm/documents/tls";

/// The settings with which a program serves and connects.
fn settings(files: &Certificates) -> [(&'static str, String); 7] {
    let text = |path: &Path| path.display().to_string();
    let (ca, certificate, key) = (
        text(&files.authority),
        text(&files.certificate),
        text(&files.key),
    );
    [
        ("AURA_CONFIGURATION_TLS_CERT_FILE", certificate.clone()),
        ("AURA_CONFIGURATION_TLS_KEY_FILE", key.clone()),
        ("AURA_CONFIGURATION_TLS_CLIENT_CA_FILE", ca.clone()),
        ("AURA_CONFIGURATION_TLS_CLIENT_CERT", "required".to_owned()),
        ("AURA_CONFIGURATION_CA_FILE", ca),
        ("AURA_CONFIGURATION_CLIENT_CERT_FILE", certificate),
        ("AURA_CONFIGURATION_CLIENT_KEY_FILE", key),
    ]
}

fn endpoint(service: &Service, files: &Certificates, known: bool) -> anyhow::Result<Endpoint> {
    let identity = known.then(|| (files.certificate.clone(), files.key.clone()));
    let credentials = Credentials::open(CredentialSettings {
        tls: ClientFiles {
            ca: Some(files.authority.clone()),
            identity,
        },
        ..CredentialSettings::default()
    })?;
    let base = format!("https://127.0.0.1:{}", service.port()).parse()?;
    Ok(Endpoint::with_credentials(
        &base,
        Timeouts::TEST,
        &credentials,
    )?)
}

#[tokio::test]
async fn changes_arrive_where_every_connection_shows_a_certificate() -> Outcome {
    let folder = folder()?;
    let files = Certificates::make(folder.path())?;
    let mut publisher = Service::publisher()?;
    publisher.set("AURA_CONFIGURATION_EVENTS_MANAGER", "LOCAL");
    publisher.set("AURA_CONFIGURATION_COLLECTIONS", "FreeForm");
    let url = format!("https://127.0.0.1:{}", publisher.port());
    let mut subscriber = Service::subscriber("tls-1", std::slice::from_ref(&url))?;
    subscriber.set("AURA_CONFIGURATION_EVENTS_MANAGER", "LOCAL");
    subscriber.set("AURA_CONFIGURATION_COLLECTIONS", "FreeForm");
    // So rare that a change arrives by an event.
    subscriber.set("AURA_CONFIGURATION_CHECK_IN_SECONDS", "3600");
    for (name, value) in settings(&files) {
        publisher.set(name, value.clone());
        subscriber.set(name, value);
    }
    publisher.launch()?;
    let api = endpoint(&publisher, &files, true)?;
    eventually("the publisher is ready", async || Ok(api.ready().await?)).await?;
    subscriber.launch()?;
    let replica = endpoint(&subscriber, &files, true)?;
    eventually("the subscriber is loaded", async || {
        Ok(replica.ready().await?)
    })
    .await?;
    eventually("the publisher knows the subscriber", async || {
        ensure!(publisher.output().contains("checked in and gets events"));
        Ok(())
    })
    .await?;

    let headers = [("content-type", "application/json")];
    let body = br#"{"id":"tls"}"#.to_vec();
    let written = api
        .exchange(Method::PUT, DOCUMENT, &headers, body, 1 << 20)
        .await?;
    ensure!(
        [200, 201, 404, 412, 428].contains(&written.status),
        "{}",
        written.status
    );
    if written.status > 201 {
        let headers = [headers[0], ("if-none-match", "*")];
        let body = br#"{"id":"tls"}"#.to_vec();
        let written = api
            .exchange(Method::PUT, DOCUMENT, &headers, body, 1 << 20)
            .await?;
        ensure!(written.status == 201, "{}", written.status);
    }
    eventually("the event arrives", async || {
        let read = replica
            .exchange(Method::GET, DOCUMENT, &[], Vec::new(), 1 << 20)
            .await?;
        ensure!(read.status == 200, "{}", read.status);
        Ok(())
    })
    .await?;

    let unknown = endpoint(&publisher, &files, false)?;
    ensure!(unknown.ready().await.is_err(), "no certificate was shown");
    for (known, expected) in [(true, true), (false, false)] {
        let mut command = Command::new(dependencies::own_program("confcast")?);
        command.args(["list", "ChannelConfiguration", "--publisher", &url]);
        command.arg("--ca-file").arg(&files.authority);
        if known {
            command
                .arg("--client-cert-file")
                .arg(&files.certificate)
                .arg("--client-key-file")
                .arg(&files.key);
        }
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        ensure!(output.status.success() == expected, "{output:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_publisher_shows_mongodb_a_certificate_and_trusts_its_authority_alone() -> Outcome {
    let folder = folder()?;
    let files = Certificates::make(folder.path())?;
    let both = folder.path().join("both.pem");
    let parts = [&files.certificate, &files.key].map(std::fs::read);
    let [certificate, key] = parts;
    std::fs::write(&both, [certificate?, key?].concat())?;
    let (both, ca) = (
        both.display().to_string(),
        files.authority.display().to_string(),
    );
    // The test itself connects without TLS.
    let mongod = Mongod::start_standalone(&[
        "--replSet",
        "rs0",
        "--tlsMode",
        "preferTLS",
        "--tlsCertificateKeyFile",
        &both,
        "--tlsCAFile",
        &ca,
    ])
    .await?;
    let host = format!("127.0.0.1:{}", mongod.port());
    let direct = format!("mongodb://{host}/?directConnection=true");
    let admin = mongodb::Client::with_uri_str(direct)
        .await?
        .database("admin");
    let members = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": &host }] };
    admin
        .run_command(doc! { "replSetInitiate": members })
        .await?;
    mongod.until_primary().await?;

    let secure =
        format!("mongodb://{host}/confcast?replicaSet=rs0&tls=true&tlsCertificateKeyFile={both}");
    let mut publisher = Service::publisher()?;
    publisher.set(
        "AURA_CONFIGURATION_STORE_URL",
        format!("{secure}&tlsCAFile={ca}"),
    );
    publisher.start().await?;
    let mut unsure = Service::publisher()?;
    unsure.set("AURA_CONFIGURATION_STORE_URL", secure);
    unsure.launch()?;
    eventually("the authority is not trusted", async || {
        let output = unsure.output();
        ensure!(output.to_lowercase().contains("certificate"), "{output}");
        Ok(())
    })
    .await
}
