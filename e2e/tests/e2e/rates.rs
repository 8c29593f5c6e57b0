//! `confcast` at a publisher that limits the requests of one caller: it waits and loses nothing.

use std::process::Command;

use anyhow::ensure;
use e2e::testbed::{dependencies, services::Service};
use futures_util::future::try_join_all;
use tokio::task::spawn_blocking;

type Outcome = anyhow::Result<()>;

const DOCUMENTS: usize = 25;

async fn publisher(limit: &str, number: &str) -> anyhow::Result<Service> {
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", "FreeForm")
        .with(limit, number);
    publisher.start().await?;
    Ok(publisher)
}

/// Runs `confcast`, and gives what it prints on both outputs.
async fn confcast(publisher: &Service, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(dependencies::own_program("confcast")?);
    command
        .args(arguments)
        .args(["--publisher", &publisher.url()])
        .current_dir(publisher.folder());
    let output = spawn_blocking(move || command.output()).await??;
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(output.status.success(), "{arguments:?}: {text:?}");
    Ok(text.concat())
}

#[tokio::test]
async fn an_import_beyond_the_limit_of_writes_loses_no_line() -> Outcome {
    let publisher = publisher("AURA_CONFIGURATION_LIMIT_WRITES_PER_SECOND", "10").await?;
    let lines: String = (0..DOCUMENTS)
        .map(|n| {
            format!(
                "{{\"collection\":\"FreeForm\",\"id\":\"d{n}\",\"configData\":{{\"n\":{n}}}}}\n"
            )
        })
        .collect();
    std::fs::write(publisher.folder().join("lines"), lines)?;
    // Each is a replacement that finds nothing, and a creation.
    let said = confcast(&publisher, &["import", "lines"]).await?;
    ensure!(
        said.contains(&format!("{DOCUMENTS} documents written")),
        "{said}"
    );
    let list = confcast(&publisher, &["list", "FreeForm"]).await?;
    for n in 0..DOCUMENTS {
        ensure!(list.contains(&format!("d{n} ")), "no d{n} in {list}");
    }
    Ok(())
}

#[tokio::test]
async fn a_put_waits_for_its_second_write() -> Outcome {
    let publisher = publisher("AURA_CONFIGURATION_LIMIT_WRITES_PER_SECOND", "1").await?;
    std::fs::write(publisher.folder().join("value"), r#"{"n":1}"#)?;
    let said = confcast(&publisher, &["put", "FreeForm", "new", "value"]).await?;
    ensure!(said.contains("FreeForm/new is at revision 1"), "{said}");
    Ok(())
}

#[tokio::test]
async fn reads_of_one_caller_wait_for_each_other() -> Outcome {
    let publisher = publisher("AURA_CONFIGURATION_LIMIT_READS_PER_SECOND", "1").await?;
    std::fs::write(publisher.folder().join("value"), r#"{"n":1}"#)?;
    confcast(&publisher, &["put", "FreeForm", "new", "value"]).await?;
    let reads = (0..3).map(|_| confcast(&publisher, &["get", "FreeForm", "new"]));
    for said in try_join_all(reads).await? {
        ensure!(said.contains("\"n\": 1"), "{said}");
    }
    Ok(())
}
