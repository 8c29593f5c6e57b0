//! Measure 16: what each protection costs. One service with it, compared with the same service
//! without it, under the same requests of 64 connections.
//!
//! Each figure is given as answers per second and as processor time of the service per answer.
//! Generator and service have one processor each. Events are off. What signatures cost is in
//! measures 1 and 5.

use std::path::Path;

use auth::SecretToken;
use chrono::Utc;
use client::{ClientFiles, CredentialSettings, Credentials, Endpoint, Timeouts};
use contract::{
    access::{Grant, Role},
    token::TokenRecord,
};
use e2e::{
    client::document_path,
    testbed::{
        FREE, process::folder, redis::certificates::Certificates, services::Service,
        wait::eventually,
    },
};
use serde_json::json;

use crate::{
    Bench, documents,
    figures::{Comparison, Row, Unit},
    generator::{self, Compared, Order, Processors, Requests, Run},
    prepare::create_documents,
    values::value,
};

/// Documents, which are read and written in turn.
const DOCUMENTS: usize = 1_000;
/// Bytes of a value.
const BYTES: usize = 300;
/// Prepared requests, which are sent repeatedly. Those that follow each other on a document have
/// different values, because an equal value is no change.
const REQUESTS: usize = 20_500;
/// The collection whose schema has a secret member.
const SEALED: &str = "Sealed";

/// A service under load.
struct Side {
    service: Service,
    url: String,
    requests: Requests,
}

pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let folder = folder()?;
    let folder = folder.path();
    let token = token(folder)?;
    let authorization = format!("Authorization: Bearer {}\r\n", token.expose());
    let certificates = Certificates::make(folder)?;
    let (mut source, _head) = documents::filled(DOCUMENTS, BYTES).await?;
    let subscriber = || documents::subscriber(&source);
    let protected = |service: Service| {
        let records = folder.join("tokens").display().to_string();
        // Callers of a subscriber with credentials include its sidecar.
        let service = service.with("APP_API_TOKEN", "of-the-sidecar");
        service.with("AURA_CONFIGURATION_TOKENS_FILE", records)
    };
    let read = |head: &str| read(bench, head);
    let write = |collection: &str, head: &str| write(bench, collection, head);

    let mut rows = Vec::new();
    let get = "GET of a document of 300 bytes";
    let mut plain = Side::start(subscriber()?, read("")?).await?;
    let mut with_token = Side::start(protected(subscriber()?), read(&authorization)?).await?;
    let mut tls = Side::start_tls(subscriber()?, &certificates, read("")?).await?;
    source.stop().await?;
    let row = format!("{get}, with a bearer token");
    rows.extend(
        compare(
            bench,
            row,
            &mut with_token,
            "the same, anonymous",
            &mut plain,
        )
        .await?,
    );
    rows.extend(
        compare(
            bench,
            format!("{get}, TLS"),
            &mut tls,
            "the same, without TLS",
            &mut plain,
        )
        .await?,
    );

    schema(folder)?;
    let put = "PUT of a document of 300 bytes, embedded store";
    let mut open = Side::start(publisher(folder).await?, write(FREE, "")?).await?;
    let audited = protected(publisher(folder).await?);
    let mut audited = Side::start(audited, write(FREE, &authorization)?).await?;
    let mut sealed = Side::start(publisher(folder).await?, write(SEALED, "")?).await?;
    let row = format!("{put}, with a bearer token and an audit record");
    rows.extend(compare(bench, row, &mut audited, "the same, anonymous", &mut open).await?);
    let row = format!("{put}, its text is a secret");
    rows.extend(compare(bench, row, &mut sealed, "the same, no secret", &mut open).await?);
    Ok(rows)
}

/// A publisher that does not run, with the documents of both collections.
async fn publisher(folder: &Path) -> anyhow::Result<Service> {
    let path = |path: &Path| path.display().to_string();
    let mut publisher = documents::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", format!("{FREE},{SEALED}"))
        .with("AURA_CONFIGURATION_SCHEMAS_DIR", path(folder))
        .with(
            "AURA_CONFIGURATION_SECRET_KEYS_FILE",
            path(&folder.join("keys")),
        );
    publisher.start().await?;
    for collection in [FREE, SEALED] {
        create_documents(&publisher.api(), collection, DOCUMENTS, BYTES).await?;
    }
    publisher.stop().await?;
    Ok(publisher)
}

/// A token of a writer, whose record is in the file `tokens` of the folder.
fn token(folder: &Path) -> anyhow::Result<SecretToken> {
    let token = SecretToken::generate();
    let hash = token.hash();
    let grant = Grant {
        role: Role::Writer,
        collections: None,
        id_prefix: None,
    };
    let record = TokenRecord {
        id: hash.id(),
        name: "bench".parse()?,
        hash,
        grants: vec![grant],
        created_at: Utc::now(),
        created_by: "bench".to_owned(),
        expires_at: None,
        revoked_at: None,
    };
    std::fs::write(folder.join("tokens"), serde_json::to_string(&record)?)?;
    Ok(token)
}

/// The schema of [`SEALED`], and the file of the key.
fn schema(folder: &Path) -> anyhow::Result<()> {
    let schema = json!({"type": "object", "properties": {"prompt": {"x-secret": true}}});
    std::fs::write(
        folder.join(format!("{SEALED}.schema.json")),
        schema.to_string(),
    )?;
    let keys = json!({"active": "a", "keys": {"a": format!("{}=", "A".repeat(43))}});
    Ok(std::fs::write(folder.join("keys"), keys.to_string())?)
}

fn read(bench: &Bench, head: &str) -> anyhow::Result<Requests> {
    let places = documents::places(DOCUMENTS, bench.sized(REQUESTS));
    Requests::write(places.map(|place| {
        let path = document_path(FREE, &documents::id(place));
        Ok(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n").into_bytes())
    }))
}

fn write(bench: &Bench, collection: &str, head: &str) -> anyhow::Result<Requests> {
    Requests::write((0..bench.sized(REQUESTS)).map(|number| {
        let path = document_path(collection, &documents::id(number % DOCUMENTS));
        let body = value(number as u64, BYTES).to_string();
        Ok(format!(
            "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{head}\r\n{body}",
            body.len()
        )
        .into_bytes())
    }))
}

impl Side {
    async fn start(mut service: Service, requests: Requests) -> anyhow::Result<Self> {
        service.start().await?;
        let url = service.url();
        Ok(Self {
            service,
            url,
            requests,
        })
    }

    async fn start_tls(
        mut service: Service,
        files: &Certificates,
        requests: Requests,
    ) -> anyhow::Result<Self> {
        let text = |path: &Path| path.display().to_string();
        service.set("AURA_CONFIGURATION_TLS_CERT_FILE", text(&files.certificate));
        service.set("AURA_CONFIGURATION_TLS_KEY_FILE", text(&files.key));
        service.launch()?;
        let credentials = Credentials::open(CredentialSettings {
            tls: ClientFiles {
                ca: Some(files.authority.clone()),
                identity: None,
            },
            ..CredentialSettings::default()
        })?;
        let url = format!("https://127.0.0.1:{}", service.port());
        let api = Endpoint::with_credentials(&url.parse()?, Timeouts::TEST, &credentials)?;
        eventually("the service with TLS is ready", async || {
            Ok(api.ready().await?)
        })
        .await?;
        Ok(Self {
            service,
            url,
            requests,
        })
    }

    async fn run(&mut self, bench: &Bench) -> anyhow::Result<Run> {
        let id = self.service.process()?.id();
        let requests = (&self.requests, Order::Again);
        generator::run(bench, (&self.url, id), requests, Processors::Apart).await
    }
}

/// The rate, and the processor time of an answer.
async fn compare(
    bench: &Bench,
    row: String,
    protected: &mut Side,
    beside: &str,
    plain: &mut Side,
) -> anyhow::Result<Vec<Row>> {
    let processor = format!("{row}, processor time");
    let mut compared = Compared::new(
        Comparison::new(16, Unit::PerSecond, row.as_str(), beside),
        Comparison::new(16, Unit::Seconds, processor, beside),
    );
    bench.say(&row);
    plain.run(bench).await?;
    protected.run(bench).await?;
    for round in 0..bench.rounds {
        let (ours, floor) = if round % 2 == 0 {
            (protected.run(bench).await?, plain.run(bench).await?)
        } else {
            let floor = plain.run(bench).await?;
            (protected.run(bench).await?, floor)
        };
        compared.round(&ours, &floor);
    }
    Ok(compared.rows())
}
