//! Who may call an application through the sidecars. The shipped Configuration denies it to all.

use anyhow::{Context, ensure};
use e2e::testbed::{FREE, StoreKind, Testbed, Transport};
use serde_json::json;

use super::Outcome;

/// `PermissionDenied`, one of the status codes of gRPC.
const PERMISSION_DENIED: &str = "7";

/// `dapr run` lets the internal ports of the sidecars listen on all interfaces. A caller that
/// reaches one would get to the routes of a publisher that listens on loopback only. The port is
/// called directly, without the name resolution of Dapr, which needs multicast.
#[tokio::test]
async fn the_internal_port_of_a_sidecar_does_not_reach_its_application() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Dapr).await?;
    let sidecar = testbed.publisher_sidecar.as_ref().context("a sidecar")?;
    let url = format!(
        "http://127.0.0.1:{}/dapr.proto.internals.v1.ServiceInvocation/CallLocal",
        sidecar.internal_port()
    );
    let answer = e2e::http()
        .http2_prior_knowledge()
        .build()?
        .post(url)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(invocation("v1/collections"))
        .send()
        .await?;
    let status = answer.headers().get("grpc-status");
    ensure!(
        status.is_some_and(|status| status == PERMISSION_DENIED),
        "{answer:?}"
    );

    // Events are no invocations: they pass.
    let body = json!({"id": "a"});
    let created = testbed.publisher.api().create(FREE, &body).await?;
    created.expect(201)?;
    testbed.until_same(FREE, "a").await
}

/// A gRPC message with an `InternalInvokeRequest` of Dapr: version 1, and an `InvokeRequest` with
/// this method and the verb GET.
fn invocation(method: &str) -> Vec<u8> {
    let mut request = field(1, method.as_bytes());
    request.extend(field(4, &[0x08, 0x01]));
    let mut message = vec![0x08, 0x01];
    message.extend(field(3, &request));
    let mut framed = vec![0, 0, 0, 0];
    framed.push(u8::try_from(message.len()).expect("it is short"));
    framed.extend(message);
    framed
}

/// A length-delimited field of protobuf, shorter than 128 bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("it is short");
    let mut field = vec![number << 3 | 2, length];
    field.extend(content);
    field
}
