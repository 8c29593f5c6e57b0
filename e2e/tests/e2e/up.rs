//! `confcast up` as a new user sees it: start, try the suggested commands, stop, start again.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, ensure};
use e2e::testbed::{
    dependencies,
    ports::free_port,
    process::{Process, folder},
    wait::eventually,
};
use nix::sys::signal::Signal;

type Outcome = anyhow::Result<()>;

pub(crate) struct Up {
    process: Process,
    ports: [u16; 3],
}

impl Up {
    pub(crate) async fn start(name: &str, folder: &Path, ports: [u16; 3]) -> anyhow::Result<Self> {
        Self::start_with(&[], name, folder, ports).await
    }

    /// As [`Self::start`], with additional options.
    async fn start_with(
        options: &[&str],
        name: &str,
        folder: &Path,
        ports: [u16; 3],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(dependencies::own_program("confcast")?);
        command
            .current_dir(dependencies::repository_root())
            .args(["up", "--data"])
            .arg(folder.join("data"))
            .args(options);
        command.args(["--publisher-port", &ports[0].to_string()]);
        command.args([
            "--subscriber-port",
            &ports[1].to_string(),
            "--subscriber-port",
            &ports[2].to_string(),
        ]);
        let up = Self {
            process: Process::start(name, folder, &mut command)?,
            ports,
        };
        eventually("the publisher is ready", async || {
            ensure!(
                up.process.output().contains("Ctrl-C stops everything"),
                "{}",
                up.process.output()
            );
            Ok(())
        })
        .await?;
        Ok(up)
    }

    /// The commands that it suggests to a new user, with the default ports.
    fn lines(&self) -> Vec<String> {
        let output = self.process.output();
        let lines = output
            .lines()
            .filter(|line| line.starts_with("  "))
            .map(str::trim);
        let defaults = ["8080", "8081", "8082"];
        let with_defaults = |line: &str| {
            self.ports
                .iter()
                .zip(defaults)
                .fold(line.to_owned(), |line, (port, default)| {
                    line.replace(&port.to_string(), default)
                })
        };
        lines.map(with_defaults).collect()
    }

    pub(crate) fn try_line(&self, line: &str) -> anyhow::Result<Output> {
        let line = [("8080", 0), ("8081", 1), ("8082", 2)].iter().fold(
            line.to_owned(),
            |line, (default, port)| {
                line.replace(&format!(":{default}"), &format!(":{}", self.ports[*port]))
            },
        );
        let programs = dependencies::own_program("confcast")?
            .parent()
            .context("a folder")?
            .display()
            .to_string();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
        let output = Command::new("bash")
            .args(["-ec", &line])
            .current_dir(dependencies::repository_root())
            .env("PATH", path)
            .output()?;
        ensure!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output)
    }

    pub(crate) async fn interrupt(mut self) -> anyhow::Result<String> {
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.ended(Duration::from_secs(20)).await?;
        ensure!(status.success(), "{status}");
        Ok(self.process.output())
    }
}

#[tokio::test]
async fn run_dapr_starts_everything_and_its_suggested_commands_work() -> Outcome {
    let folder = folder()?;
    let ports = [free_port()?, free_port()?, free_port()?];
    let up = Up::start("first", folder.path(), ports).await?;
    let lines = up.lines();
    ensure!(lines.len() >= 4, "{lines:?}");
    let page = std::fs::read_to_string(dependencies::repository_root().join("docs/quickstart.md"))?;
    for line in &lines {
        ensure!(
            page.contains(line.as_str()),
            "docs/quickstart.md does not show: {line}"
        );
    }
    let mut seen = 0;
    for line in &lines {
        let output = String::from_utf8(up.try_line(line)?.stdout)?;
        // Both replicas show the change of the first command.
        seen += usize::from(
            line.contains(":808")
                && line.ends_with("whatsapp-es")
                && output.contains(r#""name":"Hello""#),
        );
    }
    ensure!(seen == 2, "{lines:?}");
    let output = up.interrupt().await?;
    ensure!(output.contains("6 samples stored"), "{output}");

    // The changes are there after a restart, and the samples are not stored a second time.
    let up = Up::start("second", folder.path(), ports).await?;
    let reads = lines
        .iter()
        .filter(|line| line.ends_with("whatsapp-es"))
        .collect::<Vec<_>>();
    ensure!(!reads.is_empty());
    for line in reads {
        ensure!(
            String::from_utf8(up.try_line(line)?.stdout)?.contains(r#""name":"Hello""#),
            "{line}"
        );
    }
    let output = up.interrupt().await?;
    ensure!(!output.contains("samples stored"), "{output}");
    Ok(())
}

/// The commands of the quickstart work exactly as printed.
#[tokio::test]
async fn the_quickstart_commands_work() -> Outcome {
    let folder = folder()?;
    let up = Up::start(
        "up",
        folder.path(),
        [free_port()?, free_port()?, free_port()?],
    )
    .await?;
    let page = std::fs::read_to_string(dependencies::repository_root().join("docs/quickstart.md"))?;
    let block = page
        .split("<!-- run by the tests -->")
        .nth(1)
        .context("the block of commands")?;
    let commands: Vec<_> = block
        .split("```")
        .nth(1)
        .context("a code block")?
        .lines()
        .filter(|line| line.contains("confcast"))
        .map(|line| line.split("  #").next().unwrap_or(line).trim())
        .collect();
    ensure!(commands.len() >= 6, "{commands:?}");
    let publisher = format!(
        "export AURA_CONFIGURATION_API_URL=http://127.0.0.1:8080; export AURA_CONFIGURATION_LOCAL_SUBSCRIBERS=http://127.0.0.1:8081,http://127.0.0.1:8082; cd {}",
        folder.path().display()
    );
    for command in &commands {
        // Relative paths refer to the repository. Files that a command writes go to the folder of
        // the test.
        let line = format!(
            "{publisher}; ln -sfn {}/schemas schemas; {command}",
            dependencies::repository_root().display()
        );
        up.try_line(&line)?;
    }
    up.interrupt().await?;
    Ok(())
}

#[tokio::test]
async fn a_schema_of_ones_own_is_served_and_followed_also_when_it_is_added_later() -> Outcome {
    let folder = folder()?;
    let schemas = folder.path().join("mine");
    std::fs::create_dir(&schemas)?;
    let add = |collection: &str| {
        let path = schemas.join(format!("{collection}.schema.json"));
        std::fs::write(path, r#"{"type": "object", "required": ["mode"]}"#)
    };
    add("DoorConfiguration")?;
    let ports = [free_port()?, free_port()?, free_port()?];
    let folder_of_schemas = schemas.display().to_string();
    let options = ["--schemas", &folder_of_schemas];
    let up = Up::start_with(&options, "own", folder.path(), ports).await?;
    let client = e2e::http().build().expect("a client");
    let url = |port: u16, rest: &str| format!("http://127.0.0.1:{port}/v1/{rest}");
    for collection in ["DoorConfiguration", "LampConfiguration"] {
        // The second one is new to a publisher that runs.
        add(collection)?;
        let documents = format!("collections/{collection}/documents");
        let create = async |body: &str| {
            let request = client.post(url(ports[0], &documents));
            let request = request.header("content-type", "application/json");
            anyhow::Ok(request.body(body.to_owned()).send().await?.status())
        };
        eventually("the collection is served", async || {
            let status = create(r#"{"id": "front", "mode": "closed"}"#).await?;
            ensure!(status == 201, "{status}");
            Ok(())
        })
        .await?;
        let status = create(r#"{"id": "back"}"#).await?;
        ensure!(status == 422, "its documents are checked: {status}");
        for port in &ports[1..] {
            eventually("a subscriber follows it", async || {
                let read = client.get(url(*port, &format!("{documents}/front")));
                let answer = read.send().await?.error_for_status()?;
                let text = answer.text().await?;
                ensure!(text.contains(r#""mode":"closed""#), "{text}");
                Ok(())
            })
            .await?;
        }
    }
    let status = format!(
        "confcast status --strict --publisher http://127.0.0.1:{} --subscriber http://127.0.0.1:{},http://127.0.0.1:{}",
        ports[0], ports[1], ports[2]
    );
    eventually("all is well", async || up.try_line(&status).map(drop)).await?;
    up.interrupt().await?;
    Ok(())
}
