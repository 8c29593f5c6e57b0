//! What a service says in its log of callers that have no right, or may have none.

use anyhow::ensure;
use e2e::testbed::{FREE, services::Service, wait::eventually};
use reqwest::{Client, StatusCode};
use serde_json::json;

type Outcome = anyhow::Result<()>;

/// The services, both alone.
fn services() -> anyhow::Result<[Service; 2]> {
    let publisher = Service::publisher()?.with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    let subscriber = Service::subscriber("replica", &[publisher.url()])?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE);
    Ok([publisher, subscriber])
}

#[tokio::test]
async fn a_service_beyond_loopback_says_once_what_a_peer_can_do() -> Outcome {
    let warnings = |service: &Service| {
        let output = service.output();
        let lines = output.lines().filter(|line| line.contains("WARN"));
        lines.filter(|line| line.contains("every peer can")).count()
    };
    for (address, expected) in [("127.0.0.1", 0), ("0.0.0.0", 1)] {
        for mut service in services()? {
            service.set(
                "AURA_CONFIGURATION_LISTEN",
                format!("{address}:{}", service.port()),
            );
            service.launch()?;
            eventually("the service listens", async || {
                let output = service.output();
                ensure!(output.contains("is up") || output.contains("listens on http"));
                ensure!(warnings(&service) == expected, "{address}: {output}");
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_token_of_a_sidecar_leaves_one_line_that_names_both_settings() -> Outcome {
    let [_publisher, subscriber] = services()?;
    let mut subscriber = subscriber.with("APP_API_TOKEN", "sesame");
    subscriber.launch()?;
    let client = Client::new();
    let event = json!({"collection": FREE, "op": "Delete", "id": "a"});
    let refused = async || {
        let answer = client
            .post(format!(
                "{}/dapr/processConfigurationEvents",
                subscriber.url()
            ))
            .header("dapr-api-token", "guessed")
            .json(&event)
            .send()
            .await?;
        ensure!(answer.status() == StatusCode::UNAUTHORIZED, "{answer:?}");
        Ok(())
    };
    eventually("the token is refused", refused).await?;
    for _again in 0..20 {
        refused().await?;
    }
    let output = subscriber.output();
    let lines: Vec<_> = output.lines().filter(|line| line.contains("401")).collect();
    ensure!(lines.len() == 1, "{output}");
    ensure!(
        lines[0].contains("APP_API_TOKEN") && lines[0].contains("dapr-api-token"),
        "{lines:?}"
    );
    ensure!(
        !output.contains("guessed") && !output.contains("sesame"),
        "{output}"
    );
    Ok(())
}
