//! Wrong settings end a process before it does anything. The process reports all of them.

use std::time::Duration;

use anyhow::ensure;
use e2e::testbed::{dependencies, mongod::Mongod, services::Service};

type Outcome = anyhow::Result<()>;

async fn refusal(mut service: Service) -> anyhow::Result<(Option<i32>, String)> {
    service.launch()?;
    let status = service.process()?.ended(Duration::from_secs(20)).await?;
    Ok((status.code(), service.output()))
}

#[tokio::test]
async fn a_publisher_reports_all_settings_errors_at_once() -> Outcome {
    let service = Service::publisher()?
        .with(
            "AURA_CONFIGURATION_STORE_URL",
            "mongodb://user:hunter2@localhost",
        )
        .with("AURA_CONFIGURATION_LISTEN", "nowhere")
        .with("AURA_CONFIGURATION_COLLECTIONS", "Good,_bad,9worse")
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "maybe")
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "PIGEON")
        .with("AURA_CONFIGURATION_EVENT_TTL_SECONDS", "1.5")
        .with("AURA_CONFIGURATION_EVENT_DATA_LIMIT_BYTES", "-1")
        .with("AURA_CONFIGURATION_LOADS", "0")
        .with("AURA_CONFIGURATION_FORGET_REPLICAS_SECONDS", "soon")
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
        "AURA_CONFIGURATION_LOADS",
        "AURA_CONFIGURATION_FORGET_REPLICAS_SECONDS",
    ] {
        ensure!(output.contains(name), "{name} is missing in: {output}");
    }
    ensure!(!output.contains("hunter2"), "the log shows a password");
    Ok(())
}

#[tokio::test]
async fn an_event_ttl_below_one_second_is_refused() -> Outcome {
    for ttl in ["0", "-1", "1.5", "soon", "1m"] {
        let (code, output) =
            refusal(Service::publisher()?.with("AURA_CONFIGURATION_EVENT_TTL_SECONDS", ttl))
                .await?;
        ensure!(
            code == Some(64) && output.contains("EVENT_TTL_SECONDS"),
            "{ttl}: {output}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_standalone_mongod_is_refused_with_a_remedy() -> Outcome {
    let mongod = Mongod::start_standalone(&[]).await?;
    let url = mongod.url("confcast").replace("?replicaSet=rs0", "");
    let (code, output) =
        refusal(Service::publisher()?.with("AURA_CONFIGURATION_STORE_URL", url)).await?;
    ensure!(
        code == Some(1) && output.contains("rs.initiate()"),
        "{code:?}: {output}"
    );
    Ok(())
}

#[tokio::test]
async fn a_subscriber_reports_all_settings_errors_at_once() -> Outcome {
    let service = Service::subscriber("replica-1", &["nowhere".to_owned()])?
        .with("AURA_CONFIGURATION_LISTEN", "8081")
        .with("AURA_CONFIGURATION_COLLECTIONS", "Good,_bad")
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "PIGEON")
        .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "0")
        .with("AURA_DAPR_DECLARATIVE_SUBSCRIPTIONS", "on");
    let (code, output) = refusal(service).await?;
    ensure!(code == Some(64), "{code:?}: {output}");
    for name in [
        "API_URL",
        "LISTEN",
        "_bad",
        "EVENTS_MANAGER",
        "CHECK_IN_SECONDS",
        "DECLARATIVE_SUBSCRIPTIONS",
    ] {
        ensure!(output.contains(name), "{name} is missing in: {output}");
    }
    Ok(())
}

/// The settings tables of the reference match `--help`: every variable, with its default.
#[test]
fn the_reference_names_every_setting() -> Outcome {
    let page = std::fs::read_to_string(
        dependencies::repository_root().join("docs/reference/settings.md"),
    )?;
    for program in ["publisher", "subscriber"] {
        let heading = format!("## Settings of the {program}\n");
        let section = page.split(&heading).nth(1).unwrap_or_default();
        let rows: Vec<_> = section
            .split("\n## ")
            .next()
            .unwrap_or_default()
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let help = std::process::Command::new(dependencies::own_program(program)?)
            .arg("--help")
            .env_clear()
            .output()?;
        let help = String::from_utf8(help.stdout)?;
        for setting in help.split("[env: ").skip(1) {
            let name = setting.split(['=', ']']).next().unwrap_or_default();
            let row = rows
                .iter()
                .find(|row| row.starts_with(&format!("| `{name}`")));
            ensure!(
                row.is_some(),
                "the reference does not name {name}, a setting of the {program}"
            );
            let default = setting
                .split("[env: ")
                .next()
                .and_then(|text| text.split("[default: ").nth(1));
            let default = default
                .and_then(|text| text.split(']').next())
                .unwrap_or_default();
            let shown = default.is_empty()
                || default.len() > 60
                || row.is_some_and(|row| row.contains(&format!("`{default}`")));
            ensure!(
                shown,
                "the reference does not document that {name} is {default:?} for the {program}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn unsendable_event_settings_are_refused_without_showing_passwords() -> Outcome {
    let service = Service::publisher()?
        .with(
            "AURA_CONFIGURATION_LOCAL_SUBSCRIBERS",
            "http://fine:1,https://user:hunter2@host,http://user:hunter2@",
        )
        .with("AURA_CONFIGURATION_EVENT_TTL_SECONDS", "9000000001");
    let (code, output) = refusal(service).await?;
    ensure!(code == Some(64), "{code:?}: {output}");
    for expected in ["item 3: ", "expected at most 9000000000"] {
        ensure!(
            output.contains(expected),
            "{expected} is missing in: {output}"
        );
    }
    ensure!(
        !output.contains("item 1") && !output.contains("hunter2"),
        "{output}"
    );
    Ok(())
}
