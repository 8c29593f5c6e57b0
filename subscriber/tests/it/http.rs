//! The subscriber as an HTTP server: the same table as the publisher.

use super::*;

#[tokio::test]
async fn the_reads_keep_to_http() {
    let reads = [
        "/v1/collections",
        "/v1/collections/A",
        "/v1/collections/A/documents",
        "/v1/collections/A/documents/x",
        "/v1/snapshot",
        "/v1/changes?since=A:7",
        "/v1/collections/A/changes?since=7",
        "/v1/status",
        "/openapi.json",
        "/metrics",
        "/healthz",
        "/readyz",
    ];
    check(&[], publisher(7, 200), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let address = subscriber.address.to_string();
        wire::keeps_to_http(&address, &reads, 3)
            .await
            .expect("answers");
    })
    .await;
}

#[tokio::test]
async fn every_400_names_the_field() {
    let feed = "GET /v1/collections/A/changes";
    let cases: &[wire::Refused<'_>] = &[
        (
            "GET /v1/collections/A/documents/a%20b",
            "",
            "",
            ("field", "id"),
        ),
        (
            "GET /v1/collections/A/documents?limit=x",
            "",
            "",
            ("field", "limit"),
        ),
        (
            "GET /v1/snapshot?collections=a&collections=b",
            "",
            "",
            ("field", "collections"),
        ),
        ("GET /v1/status?x=1", "", "", ("field", "x")),
        (feed, "", "", ("field", "since")),
        (
            "GET /v1/collections/A/changes?since=x",
            "",
            "",
            ("field", "since"),
        ),
        (
            "GET /v1/collections/A/changes?since=7&limit=x",
            "",
            "",
            ("field", "limit"),
        ),
        ("GET /v1/changes?since=A", "", "", ("field", "since")),
    ];
    check(&[], publisher(7, 0), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let address = subscriber.address.to_string();
        wire::refusals_name_the_culprit(&address, cases)
            .await
            .expect("answers");
    })
    .await;
}
