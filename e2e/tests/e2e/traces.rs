//! A write is one trace, from the request over the transport to the value that a replica applies, as a
//! real collector of OpenTelemetry receives it; and a collector that is away holds up nothing.

use std::{
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use e2e::testbed::{
    FREE, StoreKind, Testbed, Transport, dependencies,
    ports::free_port,
    process::{Process, folder},
    wait::eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

const JSON: (&str, &str) = ("content-type", "application/json");
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";
/// Kinds of spans on the wire.
const INTERNAL: u64 = 1;
const SERVER: u64 = 2;
const PRODUCER: u64 = 4;
const CONSUMER: u64 = 5;

/// A running collector. It writes what it receives to a file.
struct Collector {
    process: Process,
    spans: PathBuf,
    url: String,
    _folder: tempfile::TempDir,
}

/// A span as the collector writes it.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    name: String,
    kind: u64,
    trace: String,
    id: String,
    parent: String,
    attributes: Value,
}

impl Collector {
    async fn start() -> anyhow::Result<Self> {
        let folder = folder()?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let spans = folder.path().join("spans.json");
        let config = json!({
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": address}}}},
            "exporters": {"file": {"path": spans, "flush_interval": "50ms"}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}},
            },
        });
        // JSON is YAML.
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, config.to_string())?;
        let mut command = Command::new(dependencies::path_of("OTEL_COLLECTOR")?);
        command.arg(format!("--config=file:{}", file.display()));
        let process = Process::start("collector", folder.path(), &mut command)?;
        let listens = async || Ok(TcpStream::connect(&address).map(drop)?);
        eventually("the collector listens", listens)
            .await
            .with_context(|| process.output())?;
        Ok(Self {
            process,
            spans,
            url: format!("http://{address}"),
            _folder: folder,
        })
    }

    /// The spans of a trace, as far as they were received.
    fn of_trace(&self, trace: &str) -> anyhow::Result<Vec<Span>> {
        let text = std::fs::read_to_string(&self.spans).unwrap_or_default();
        let mut spans = Vec::new();
        // The last line may not be whole yet.
        for batch in text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            for resource in items(&batch["resourceSpans"]) {
                let service =
                    attributes(&resource["resource"]["attributes"])["service.name"].clone();
                for scope in items(&resource["scopeSpans"]) {
                    for span in items(&scope["spans"]) {
                        let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
                        spans.push(Span {
                            service: service.as_str().unwrap_or_default().to_owned(),
                            name: text("name"),
                            kind: span["kind"].as_u64().context("a kind")?,
                            trace: text("traceId"),
                            id: text("spanId"),
                            parent: text("parentSpanId"),
                            attributes: attributes(&span["attributes"]),
                        });
                    }
                }
            }
        }
        spans.retain(|span| span.trace == trace);
        Ok(spans)
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Attributes as one object; each value is a text.
fn attributes(list: &Value) -> Value {
    let members = items(list).filter_map(|attribute| {
        let value = attribute["value"].as_object()?.values().next()?;
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        Some((attribute["key"].as_str()?.to_owned(), Value::String(text)))
    });
    Value::Object(members.collect())
}

#[tokio::test]
async fn a_write_is_one_trace_to_the_applied_values_local() -> Outcome {
    one_trace(Transport::Local, "confcast").await
}

#[tokio::test]
async fn a_write_is_one_trace_to_the_applied_values_dapr() -> Outcome {
    one_trace(Transport::Dapr, "dapr").await
}

async fn one_trace(transport: Transport, system: &str) -> Outcome {
    let collector = Collector::start().await?;
    let mut testbed = Testbed::prepare(StoreKind::Embedded, transport).await?;
    testbed.set_all("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    testbed.set_all("OTEL_BSP_SCHEDULE_DELAY", "50");
    testbed.set_all("AURA_CONFIGURATION_LOG_FORMAT", "json");
    testbed.set_all("RUST_LOG", "debug");
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    if let Some(sidecar) = &mut testbed.publisher_sidecar {
        sidecar.start().await?;
    }
    let path = format!("/v1/collections/{FREE}/documents");
    let traceparent = format!("00-{TRACE_ID}-{CLIENT}-01");
    let headers = [JSON, ("traceparent", &traceparent)];
    let body = json!({"id": "a"}).to_string();
    let api = testbed.publisher.api();
    api.send(Method::POST, &path, &headers, body)
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "a").await?;

    let spans = eventually("the whole trace arrives", async || {
        let spans = collector.of_trace(TRACE_ID)?;
        ensure!(spans.len() >= 5, "{spans:#?}");
        Ok(spans)
    })
    .await
    .with_context(|| {
        format!(
            "{}\n{}",
            testbed.publisher.output(),
            collector.process.output()
        )
    })?;
    let named = |name: &str, count: usize| {
        let named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        ensure!(named.len() == count, "{name}: {spans:#?}");
        Ok(named)
    };
    let request = named("POST /v1/collections/{collection}/documents", 1)?[0];
    let write = named("write", 1)?[0];
    let send = named(&format!("send {FREE}"), 1)?[0];
    let processed = named(&format!("process {FREE}"), 2)?;
    let chain = [
        (request, CLIENT, SERVER),
        (write, &*request.id, INTERNAL),
        (send, &write.id, PRODUCER),
    ];
    for (span, parent, kind) in chain {
        ensure!((&*span.parent, span.kind) == (parent, kind), "{span:#?}");
        ensure!(span.service == "confcast-publisher", "{span:#?}");
    }
    for span in &processed {
        ensure!(
            (&*span.parent, span.kind) == (&*send.id, CONSUMER),
            "{span:#?}"
        );
        ensure!(span.service == "confcast-subscriber", "{span:#?}");
        ensure!(
            span.attributes["confcast.decision"] == "Applied",
            "{span:#?}"
        );
    }
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.response.status_code", "201"),
        ("http.route", "/v1/collections/{collection}/documents"),
        ("url.path", &path),
        ("url.scheme", "http"),
    ] {
        ensure!(request.attributes[name] == value, "{name}: {request:#?}");
    }
    for (span, operation) in [
        (send, "send"),
        (processed[0], "process"),
        (processed[1], "process"),
    ] {
        ensure!(span.attributes["messaging.system"] == system, "{span:#?}");
        ensure!(
            span.attributes["messaging.operation.type"] == operation,
            "{span:#?}"
        );
        ensure!(
            span.attributes["messaging.destination.name"] == FREE,
            "{span:#?}"
        );
        ensure!(span.attributes["confcast.revision"] == "1", "{span:#?}");
        let message = span.attributes["messaging.message.id"]
            .as_str()
            .context("an id")?;
        ensure!(
            message.starts_with(FREE) && message.ends_with(":1"),
            "{span:#?}"
        );
    }

    // A line about the commit has the ids of the span of the write.
    let output = testbed.publisher.output();
    let mut lines = output.lines().map(serde_json::from_str::<Value>);
    let committed = lines.find(|line| {
        let line = line.as_ref();
        line.is_ok_and(|line| line["message"] == "a change is committed")
    });
    let committed = committed.context("a line about the commit")??;
    ensure!(
        committed["trace_id"] == TRACE_ID && committed["span_id"] == *write.id,
        "{committed}"
    );
    // Every line is an object.
    let wrong = output
        .lines()
        .find(|line| serde_json::from_str::<Value>(line).is_err());
    ensure!(wrong.is_none(), "{wrong:?}");
    Ok(())
}

#[tokio::test]
async fn a_collector_that_is_away_or_hangs_holds_up_nothing() -> Outcome {
    // It accepts and never answers.
    let hanging = TcpListener::bind("127.0.0.1:0")?;
    for address in [
        hanging.local_addr()?.to_string(),
        format!("127.0.0.1:{}", free_port()?),
    ] {
        let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Local).await?;
        testbed.set_all("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"));
        testbed.set_all("OTEL_BSP_SCHEDULE_DELAY", "1");
        testbed.set_all("OTEL_BSP_MAX_QUEUE_SIZE", "8");
        testbed.publisher.start().await?;
        testbed.start_subscribers().await?;
        let api = testbed.publisher.api();
        for number in 0..200 {
            let id = format!("d{number}");
            api.create(FREE, &json!({"id": id})).await?.expect(201)?;
        }
        testbed.until_converged(FREE).await?;
        let stopped = Instant::now();
        testbed.publisher.stop().await?;
        ensure!(
            stopped.elapsed() < Duration::from_secs(10),
            "{:?}",
            stopped.elapsed()
        );
    }
    Ok(())
}
