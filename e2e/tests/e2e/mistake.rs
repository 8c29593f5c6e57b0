//! The page about a mistake: its commands, run in their order, undo the mistake in every replica.

use anyhow::{Context, ensure};
use e2e::testbed::{dependencies, ports::free_port, process::folder};

use super::up::Up;

/// Begins a block of commands that is run.
const RUN: &str = "<!-- run by the tests -->";

#[tokio::test]
async fn the_commands_of_the_page_undo_a_mistake_in_all_replicas() -> anyhow::Result<()> {
    let folder = folder()?;
    let ports = [free_port()?, free_port()?, free_port()?];
    let up = Up::start("up", folder.path(), ports).await?;
    let path = dependencies::repository_root().join("docs/operations/mistake.md");
    let page = std::fs::read_to_string(path)?;
    let blocks = page.split(RUN).skip(1);
    let blocks = blocks.map(|block| block.split("```").nth(1).context("a block of commands"));
    let blocks = blocks.collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(blocks.len() >= 5, "{} blocks", blocks.len());
    let services = "export AURA_CONFIGURATION_API_URL=http://127.0.0.1:8080 \
                    AURA_CONFIGURATION_LOCAL_SUBSCRIBERS=http://127.0.0.1:8081,http://127.0.0.1:8082";
    for line in blocks.iter().flat_map(|block| block.lines()) {
        let (command, comment) = line.split_once("  #").unwrap_or((line, ""));
        if command.trim().is_empty() {
            continue;
        }
        // What the page says about the exit code is part of the promise.
        let command = match comment.contains("exits 1") {
            true => format!("{services}; set +e; {command}; test $? = 1"),
            false => format!("{services}; {command}"),
        };
        let output = up.try_line(&command)?;
        let output = String::from_utf8_lossy(&output.stdout);
        if line.contains("history ChannelConfiguration whatsapp-es --limit 2") {
            for shown in ["grace", "undo release 7", "/enabled false → true"] {
                ensure!(output.contains(shown), "{shown}: {output}");
            }
        }
        if line.contains(":8082") {
            ensure!(output.contains(r#""enabled": true"#), "{output}");
        }
    }
    up.interrupt().await?;
    Ok(())
}
