//! Spans of traces go to an OpenTelemetry collector: OTLP over HTTP, as protobuf.
//!
//! It is off unless `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set, and then
//! follows the standard `OTEL_*` variables. Spans wait in a bounded queue, which a thread of its own
//! sends: no request waits for a collector, and a span that finds no place is lost. Metrics are
//! scraped and logs are written; neither is sent.

use std::{env, future::Future, path::PathBuf, pin::Pin, sync::OnceLock, time::Duration};

use contract::SecretUrl;
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::SdkTracerProvider,
};
use tls::{ClientFiles, ClientTls};
use tokio::runtime::Handle;
use tracing::Metadata;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use super::variables;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The rest of a variable, after the part that all signals share.
const SIGNAL: &str = "TRACES_";
/// Longest time for one batch without a setting.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer of a collector that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// How long the end of the process waits for the last spans.
const LAST: Duration = Duration::from_secs(2);

/// Sends the spans of this process.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// The layer that records spans and has them sent; `None` where no endpoint is set.
///
/// # Errors
/// What is wrong with the variables.
pub(super) fn layer<S>(name: &str) -> Result<Option<impl Layer<S> + Send + Sync>, String>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span> + Send + Sync + 'static,
{
    if !is_on() {
        return Ok(None);
    }
    // As the SDK reads them: white space is a part of a value there.
    variables::check(|name| env::var(name).unwrap_or_default())?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client::new()?)
        .build()
        .map_err(|error| format!("{ENDPOINT}: {error}"))?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource(name))
        .build();
    let tracer = provider.tracer("confcast");
    PROVIDER.set(provider).ok();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false);
    Ok(Some(layer.with_filter(filter_fn(is_recorded))))
}

/// Sends what waits, for a short time. Nothing is sent afterwards. It blocks.
pub fn finish() {
    if let Some(provider) = PROVIDER.get() {
        // A failure is a line of the SDK.
        drop(provider.shutdown_with_timeout(LAST));
    }
}

/// Spans of traces, and those of writes. Lines are no part of a trace: they have its ids.
fn is_recorded(metadata: &Metadata<'_>) -> bool {
    let is_write = metadata.name() == "write" && metadata.target().starts_with("publisher");
    metadata.is_span() && (metadata.target() == traces::TARGET || is_write)
}

/// Whether the variables say where spans go, and do not switch them off.
fn is_on() -> bool {
    let is_disabled = variable("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true");
    let has_exporter = matches!(&*variable("OTEL_TRACES_EXPORTER"), "" | "otlp");
    !is_disabled && has_exporter && !of_signal("ENDPOINT").is_empty()
}

fn variable(name: &str) -> String {
    let value = env::var_os(name).unwrap_or_default();
    value.to_string_lossy().trim().to_owned()
}

/// `OTEL_EXPORTER_OTLP_TRACES_...`, else `OTEL_EXPORTER_OTLP_...`.
fn of_signal(rest: &str) -> String {
    let [own, shared] =
        [SIGNAL, ""].map(|signal| variable(&format!("OTEL_EXPORTER_OTLP_{signal}{rest}")));
    if own.is_empty() { shared } else { own }
}

/// What the spans are of. The variables win.
fn resource(name: &str) -> Resource {
    let service = variable("OTEL_SERVICE_NAME");
    let defaults = [
        KeyValue::new("service.name", format!("confcast-{name}")),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let resource = Resource::builder_empty()
        .with_attributes(defaults)
        .with_detectors(&[
            Box::new(TelemetryResourceDetector),
            Box::new(EnvResourceDetector::new()),
        ]);
    match service.is_empty() {
        true => resource.build(),
        false => resource
            .with_attribute(KeyValue::new("service.name", service))
            .build(),
    }
}

/// The HTTP client of the services: the exporter would bring another TLS.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    timeout: Duration,
    /// Its driver of connections and timers.
    runtime: Handle,
}

impl Client {
    /// # Errors
    /// What is wrong with the variables. The URL may hold a password, so it is not shown.
    fn new() -> Result<Self, String> {
        SecretUrl::http_base(&of_signal("ENDPOINT"))
            .map_err(|error| format!("{ENDPOINT}=…: {error}"))?;
        let protocol = of_signal("PROTOCOL");
        if !matches!(&*protocol, "" | "http/protobuf") {
            let name = "OTEL_EXPORTER_OTLP_PROTOCOL";
            return Err(format!("{name}={protocol:?}: expected http/protobuf"));
        }
        let timeout = of_signal("TIMEOUT");
        let timeout = match timeout.parse() {
            Ok(ms) if ms > 0 => Duration::from_millis(ms),
            _ if timeout.is_empty() => TIMEOUT,
            _ => {
                let name = "OTEL_EXPORTER_OTLP_TIMEOUT";
                return Err(format!("{name}={timeout:?}: expected milliseconds from 1"));
            }
        };
        let [ca, certificate, key] =
            ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"].map(|rest| {
                let path = of_signal(rest);
                (!path.is_empty()).then(|| PathBuf::from(path))
            });
        let tls = ClientFiles::new(ca, certificate, key).and_then(ClientTls::open);
        let tls = tls.map_err(|error| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {error}"))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.config())
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| format!("{ENDPOINT}: {error}"))?;
        Ok(Self {
            http,
            timeout,
            runtime: Handle::current(),
        })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let mut answer = self.http.execute(request).await?;
        let status = answer.status();
        let headers = std::mem::take(answer.headers_mut());
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err("the answer of the collector is too long".into());
            }
            body.extend_from_slice(&piece);
        }
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

impl HttpClient for Client {
    fn send_bytes<'this, 'future>(
        &'this self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'future>>
    where
        'this: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            // The thread of the exporter is none of the runtime.
            let sent = self
                .runtime
                .block_on(async { tokio::time::timeout(self.timeout, self.send(request)).await });
            sent.unwrap_or_else(|_elapsed| Err("the collector did not answer in time".into()))
        })
    }
}
