//! `confcast files`: what applications find in the folder, and when; with nginx and Node.js as
//! applications.

mod kills;
mod nginx;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use e2e::testbed::{
    FREE, Store, StoreKind, dependencies,
    ports::free_port,
    process::{Process, folder},
    services::Service,
    wait::eventually,
};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

type Outcome = anyhow::Result<()>;

/// A publisher, and a folder with templates that `confcast files` renders.
pub(crate) struct Home {
    publisher: Service,
    folder: TempDir,
}

impl Home {
    async fn start(templates: &[(&str, &str)]) -> anyhow::Result<Self> {
        let publisher = Store::start(StoreKind::Embedded).await?.publisher()?;
        let mut publisher = publisher.with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
        publisher.start().await?;
        let home = Self {
            publisher,
            folder: folder()?,
        };
        fs::create_dir(home.path("templates"))?;
        for (name, text) in templates {
            fs::write(home.path("templates").join(name), text)?;
        }
        Ok(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `confcast files` with these options.
    fn command(&self, options: &[&str]) -> anyhow::Result<Command> {
        self.command_at(&self.publisher.url(), options)
    }

    /// `confcast files` that follows the service at this URL.
    fn command_at(&self, url: &str, options: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(dependencies::own_program("confcast")?);
        command
            .args(["files", FREE, "--publisher", url, "--to"])
            .arg(self.path("out"))
            .arg("--templates")
            .arg(self.path("templates"))
            .arg("--status-file")
            .arg(self.path("status.json"))
            .args(options)
            .current_dir(self.folder.path());
        Ok(command)
    }

    fn follow(&self, options: &[&str]) -> anyhow::Result<Process> {
        Process::start("files", self.folder.path(), &mut self.command(options)?)
    }

    fn status(&self) -> anyhow::Result<Value> {
        let text = fs::read_to_string(self.path("status.json"))?;
        serde_json::from_str(&text).context(text)
    }

    /// Waits until the status has this at a pointer.
    async fn until(&self, pointer: &str, expected: Value) -> anyhow::Result<Value> {
        eventually(&format!("{pointer} is {expected}"), async || {
            let status = self.status()?;
            ensure!(status.pointer(pointer) == Some(&expected), "{status:#}");
            Ok(status)
        })
        .await
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.path("out/current").join(file))?)
    }

    async fn until_read(&self, file: &str, expected: &str) -> Outcome {
        eventually(&format!("{file} has {expected:?}"), async || {
            let text = self.read(file)?;
            ensure!(text == expected, "{text:?}, {:#}", self.status()?);
            Ok(())
        })
        .await
    }

    async fn put(&self, id: &str, value: &Value) -> Outcome {
        let api = self.publisher.api();
        let mut answer = api.put(FREE, id, value).await?;
        if answer.status == 404 {
            let mut value = value.clone();
            value["id"] = json!(id);
            answer = api.create(FREE, &value).await?;
        }
        ensure!(answer.status < 300, "{}", answer.body);
        Ok(())
    }

    /// Gives two documents the same number in one change set.
    async fn put_pair(&self, number: usize) -> Outcome {
        let change = |id: &str| json!({"collection": FREE, "op": "Update", "id": id, "configData": {"n": number}});
        let set = json!({"changes": [change("left"), change("right")]});
        let answer = self.publisher.api();
        let json = [("content-type", "application/json")];
        let answer = answer.send(Method::POST, "/v1/changes", &json, set.to_string());
        answer.await?.expect(200).map(drop)
    }
}

/// Runs a command to its end, and gives success and output.
fn run(mut command: Command) -> anyhow::Result<(bool, String)> {
    let output = command.output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

#[tokio::test]
async fn an_init_container_ends_well_only_when_the_files_are_there() -> Outcome {
    let mut home = Home::start(&[("a.txt.j2", "{{ FreeForm.a.text }}\n")]).await?;
    // Nothing that a template needs is there.
    let (ok, output) = run(home.command(&["--once"])?)?;
    ensure!(
        !ok && output.contains("the template a.txt.j2, line 1"),
        "{output}"
    );
    ensure!(!home.path("out/current").exists(), "nothing was published");
    home.put("a", &json!({"text": "one"})).await?;
    let (ok, output) = run(home.command(&["--once", "--check", "grep two {dir}/a.txt"])?)?;
    ensure!(
        !ok && output.contains("the check `grep two {dir}/a.txt` failed"),
        "{output}"
    );
    let (ok, output) = run(home.command(&["--dry-run"])?)?;
    ensure!(
        ok && output.contains("a.txt: new") && output.contains("+one"),
        "{output}"
    );
    ensure!(!home.path("out/current").exists(), "nothing was published");
    let (ok, output) = run(home.command(&["--once", "--check", "grep one {dir}/a.txt"])?)?;
    ensure!(ok && home.read("a.txt")? == "one\n", "{output}");
    let (ok, output) = run(home.command(&["--dry-run"])?)?;
    ensure!(ok && output.contains("nothing would change"), "{output}");
    home.publisher.stop().await?;
    let (ok, output) = run(home.command(&["--once", "--deadline", "500ms"])?)?;
    ensure!(
        !ok && output.contains("was not loaded and current within 500ms"),
        "{output}"
    );
    ensure!(home.read("a.txt")? == "one\n", "the last good file stays");
    Ok(())
}

#[tokio::test]
async fn a_subscriber_is_followed_as_well_and_the_next_one_is_tried() -> Outcome {
    let home = Home::start(&[("n.j2", "{{ FreeForm.a.n }}")]).await?;
    home.put("a", &json!({"n": 1})).await?;
    let replica = Service::subscriber("replica", &[home.publisher.url()])?;
    let mut replica = replica.with("AURA_CONFIGURATION_COLLECTIONS", FREE);
    replica.start().await?;
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let urls = format!("{nobody},{}", replica.url());
    let mut files = home.command_at(&urls, &["--wait-min", "0s"])?;
    let _files = Process::start("files", home.folder.path(), &mut files)?;
    for number in 1..4 {
        home.put("a", &json!({"n": number})).await?;
        home.until_read("n", &number.to_string()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_last_good_files_stay_while_a_template_fails_or_the_publisher_is_away() -> Outcome {
    let template = "{% for id, doc in FreeForm|items %}{{ id }}={{ doc.text }} {% endfor %}";
    let mut home = Home::start(&[("all.j2", template)]).await?;
    home.put("a", &json!({"text": "1"})).await?;
    let mut files = home.follow(&[])?;
    home.until_read("all", "a=1 ").await?;
    let status = home.until("/state", json!("current")).await?;
    ensure!(
        status["generation"] == 1 && status["files"] == 1,
        "{status:#}"
    );
    ensure!(status["revisions"] == json!({FREE: 1}), "{status:#}");

    home.put("b", &json!({"texts": "2"})).await?;
    let status = home.until("/failure/kind", json!("template")).await?;
    let message = status["failure"]["message"].as_str().unwrap_or_default();
    for part in ["all.j2, line 1", "undefined value", "FreeForm/b"] {
        ensure!(message.contains(part), "{part:?} is not in {message}");
    }
    ensure!(
        status["state"] == "failing" && home.read("all")? == "a=1 ",
        "{status:#}"
    );
    home.put("b", &json!({"text": "2"})).await?;
    home.until_read("all", "a=1 b=2 ").await?;
    home.until("/failure", Value::Null).await?;

    // A template that changes is noticed, also one that becomes wrong.
    fs::write(home.path("templates/all.j2"), "{{ FreeForm|length")?;
    home.until("/failure/kind", json!("template")).await?;
    fs::write(home.path("templates/all.j2"), "{{ FreeForm|length }}")?;
    home.until_read("all", "2").await?;

    home.publisher.stop().await?;
    // Another process starts without a publisher: what is there stays.
    files.kill()?;
    let _files = home.follow(&[])?;
    home.until("/state", json!("loading")).await?;
    ensure!(home.read("all")? == "2", "the last good file stays");
    home.publisher.start().await?;
    home.put("c", &json!({"text": "3"})).await?;
    home.until_read("all", "3").await
}

#[tokio::test]
async fn a_service_that_watches_the_folder_sees_each_swap() -> Outcome {
    let home = Home::start(&[("n.j2", "{{ FreeForm.left.n }}/{{ FreeForm.right.n }}")]).await?;
    for id in ["left", "right"] {
        home.put(id, &json!({"n": 0})).await?;
    }
    let _files = home.follow(&["--wait-min", "0s"])?;
    home.until_read("n", "0/0").await?;
    let script = "const fs = require('fs'), read = () => console.log(fs.readFileSync('current/n', 'utf8'));\
        fs.watch('.', (_kind, name) => name === 'current' && read()); console.log('watching'); read()";
    let mut node = Command::new("node");
    node.args(["-e", script]).current_dir(home.path("out"));
    let node = Process::start("node", home.folder.path(), &mut node)?;
    eventually("it watches", async || {
        ensure!(node.output().contains("watching"), "{}", node.output());
        Ok(())
    })
    .await?;
    for number in 1..=20 {
        home.put_pair(number).await?;
        let line = format!("{number}/{number}\n");
        eventually("the service has read it", async || {
            ensure!(node.output().contains(&line), "{}", node.output());
            Ok(())
        })
        .await?;
    }
    // Never a part of a change set.
    let output = node.output();
    let values = output.lines().filter_map(|line| line.split_once('/'));
    for (left, right) in values {
        ensure!(left == right, "{output}");
    }
    Ok(())
}

#[tokio::test]
async fn a_file_that_cannot_be_written_leaves_the_old_folder_and_is_tried_again() -> Outcome {
    let home = Home::start(&[("text.j2", "{{ FreeForm.a.text }}")]).await?;
    home.put("a", &json!({"text": "small"})).await?;
    // As on a full disk: a file of more than 4 KiB fails. The signal that comes with it ends no process.
    let inner = home.command(&[])?;
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -f 8; exec \"$0\" \"$@\""])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(home.folder.path());
    let _files = Process::start("files", home.folder.path(), &mut limited)?;
    home.until_read("text", "small").await?;
    home.put("a", &json!({"text": "x".repeat(20_000)})).await?;
    let status = home.until("/failure/kind", json!("disk")).await?;
    ensure!(home.read("text")? == "small", "{status:#}");
    let left = names(&home.path("out/.generations"))?;
    ensure!(
        left == [".lock", "0000000001"],
        "nothing is left of it: {left:?}"
    );
    // It is tried again without a change.
    eventually("a second attempt", async || {
        let status = home.status()?;
        ensure!(
            status["failure"]["attempts"].as_u64() >= Some(2),
            "{status:#}"
        );
        Ok(())
    })
    .await?;
    home.put("a", &json!({"text": "small again"})).await?;
    home.until_read("text", "small again").await
}

#[tokio::test]
async fn a_lone_change_is_rendered_at_once_and_those_that_follow_together() -> Outcome {
    let home = Home::start(&[("n.j2", "{{ FreeForm.left.n }}")]).await?;
    home.put("left", &json!({"n": 0})).await?;
    let rest = Duration::from_secs(4);
    let _files = home.follow(&["--wait-min", "4s", "--wait-max", "20s"])?;
    home.until_read("n", "0").await?;
    eventually("the files rest", async || {
        let status = home.status()?;
        let swapped: DateTime<Utc> = serde_json::from_value(status["swappedAt"].clone())?;
        ensure!((Utc::now() - swapped).to_std()? > rest, "{status:#}");
        Ok(())
    })
    .await?;
    let began = Instant::now();
    home.put("left", &json!({"n": 1})).await?;
    home.until_read("n", "1").await?;
    ensure!(began.elapsed() < rest, "it was gathered");
    for number in 2..=4 {
        home.put("left", &json!({"n": number})).await?;
    }
    home.until_read("n", "4").await?;
    ensure!(began.elapsed() >= rest, "it was not gathered");
    // Of the first state, of the lone change, and of the three that followed.
    home.until("/generation", json!(3)).await.map(drop)
}

fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
