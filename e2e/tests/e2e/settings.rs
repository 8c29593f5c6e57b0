//! Wrong settings end a process before it does anything, and say all that is wrong.

use std::time::Duration;

use anyhow::ensure;
use e2e::{mongod::Mongod, services::Service};

type Outcome = anyhow::Result<()>;

async fn refusal(mut service: Service) -> anyhow::Result<(Option<i32>, String)> {
    service.launch()?;
    let status = service.process()?.ended(Duration::from_secs(20)).await?;
    Ok((status.code(), service.output()))
}

#[tokio::test]
async fn a_publisher_tells_all_mistakes_at_once() -> Outcome {
    let service = Service::publisher()?
        .with("AURA_CONFIGURATION_STORE_URL", "mongodb://user:hunter2@localhost")
        .with("AURA_CONFIGURATION_LISTEN", "nowhere")
        .with("AURA_CONFIGURATION_COLLECTIONS", "Good,_bad,9worse")
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "maybe")
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "PIGEON")
        .with("AURA_CONFIGURATION_EVENT_TTL_SECONDS", "1.5")
        .with("AURA_CONFIGURATION_EVENT_DATA_LIMIT_BYTES", "-1")
        .with("AURA_CONFIGURATION_DOCUMENT_LIMIT_BYTES", "5000000");
    let (code, output) = refusal(service).await?;
    ensure!(code == Some(64), "{code:?}: {output}");
    for name in [
        "AURA_CONFIGURATION_STORE_URL",
        "AURA_CONFIGURATION_LISTEN",
        "_bad",
        "9worse",
        "AURA_CONFIGURATION_EVENTS_ENABLED",
        "AURA_CONFIGURATION_EVENTS_MANAGER",
        "AURA_CONFIGURATION_EVENT_TTL_SECONDS",
        "AURA_CONFIGURATION_EVENT_DATA_LIMIT_BYTES",
        "AURA_CONFIGURATION_DOCUMENT_LIMIT_BYTES",
    ] {
        ensure!(output.contains(name), "{name} is missing in: {output}");
    }
    ensure!(!output.contains("hunter2"), "a password was shown");
    Ok(())
}

#[tokio::test]
async fn a_ttl_that_the_sidecar_would_ignore_is_refused() -> Outcome {
    for ttl in ["0", "-1", "1.5", "soon", "1m"] {
        let (code, output) = refusal(Service::publisher()?.with("AURA_CONFIGURATION_EVENT_TTL_SECONDS", ttl)).await?;
        ensure!(code == Some(64) && output.contains("EVENT_TTL_SECONDS"), "{ttl}: {output}");
    }
    Ok(())
}

#[tokio::test]
async fn a_standalone_mongod_is_refused_with_the_mend() -> Outcome {
    let mongod = Mongod::start_standalone(&[]).await?;
    let url = mongod.url("confcast").replace("?replicaSet=rs0", "");
    let (code, output) = refusal(Service::publisher()?.with("AURA_CONFIGURATION_STORE_URL", url)).await?;
    ensure!(code == Some(1) && output.contains("rs.initiate()"), "{code:?}: {output}");
    Ok(())
}
