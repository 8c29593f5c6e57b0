//! Clients in other languages follow a subscriber: the files that docs/following.md shows.

use std::{path::Path, process::Command};

use anyhow::{Context, ensure};
use e2e::testbed::{
    CHANNELS, Store, StoreKind, dependencies,
    process::{Process, folder},
    sample,
    services::Service,
    wait::eventually,
};
use serde_json::json;
use tempfile::TempDir;

type Outcome = anyhow::Result<()>;

/// A publisher, and a subscriber that saves its last known good state.
struct Pair {
    publisher: Service,
    subscriber: Service,
    folder: TempDir,
}

impl Pair {
    /// With `has_tokens` the subscriber asks for one, and the folder has it in `reader.token`.
    async fn start(has_tokens: bool) -> anyhow::Result<Self> {
        let folder = folder()?;
        let publisher = Store::start(StoreKind::Embedded).await?.publisher()?;
        let mut subscriber = Service::subscriber("replica", &[publisher.url()])?
            .with("AURA_CONFIGURATION_COLLECTIONS", CHANNELS)
            .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1")
            .with(
                "AURA_CONFIGURATION_SNAPSHOT_DIR",
                folder.path().display().to_string(),
            );
        let mut publisher =
            publisher.with("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", subscriber.url());
        if has_tokens {
            let records = make_token(folder.path())?;
            subscriber.set("AURA_CONFIGURATION_TOKENS_FILE", records);
            for service in [&mut publisher, &mut subscriber] {
                service.set("APP_API_TOKEN", "app-token");
            }
        }
        publisher.start().await?;
        publisher
            .api()
            .create(CHANNELS, &sample(CHANNELS)?)
            .await?
            .expect(201)?;
        subscriber.start().await?;
        Ok(Self {
            publisher,
            subscriber,
            folder,
        })
    }

    async fn change(&self, name: &str) -> Outcome {
        let mut channel = sample(CHANNELS)?;
        channel["name"] = json!(name);
        self.publisher
            .api()
            .put(CHANNELS, "whatsapp-es", &channel)
            .await?
            .expect(200)
            .map(drop)
    }

    /// The file of a client, as docs/following.md shows it.
    fn example(&self, name: &str) -> anyhow::Result<String> {
        let path = dependencies::repository_root()
            .join("examples/clients")
            .join(name);
        let file = std::fs::read_to_string(&path)?;
        let page =
            std::fs::read_to_string(dependencies::repository_root().join("docs/following.md"))?;
        ensure!(
            page.contains(&file),
            "docs/following.md shows another {name}"
        );
        let copy = self.folder.path().join(name);
        std::fs::write(&copy, file)?;
        Ok(copy.display().to_string())
    }

    /// The client lists, follows, survives restarts, and prints one line per change.
    ///
    /// It starts while the subscriber is away. `away` is what it then says, if it says anything.
    async fn is_followed_by(
        &mut self,
        name: &str,
        mut command: Command,
        away: Option<&str>,
    ) -> Outcome {
        command
            .arg(self.example(name)?)
            .arg(self.subscriber.url())
            .arg(CHANNELS)
            .env(
                "AURA_CONFIGURATION_TOKEN_FILE",
                self.folder.path().join("reader.token"),
            )
            .env("NO_PROXY", "*");
        self.subscriber.stop().await?;
        let client = Process::start(name, self.folder.path(), &mut command)?;
        eventually("the client finds nobody", async || {
            ensure!(away.is_none_or(|text| client.output().contains(text)));
            Ok(())
        })
        .await?;
        self.subscriber.start().await?;
        let mut expected = vec!["have whatsapp-es 1".to_owned()];
        says(&client, &expected).await?;
        self.change("second").await?;
        expected.push("Update whatsapp-es 2".to_owned());
        says(&client, &expected).await?;

        self.subscriber.stop().await?;
        self.change("third").await?;
        self.subscriber.start().await?;
        self.change("fourth").await?;
        expected.extend([3, 4].map(|revision| format!("Update whatsapp-es {revision}")));
        says(&client, &expected).await?;

        // Without a saved state the subscriber does not know which changes it missed. The client
        // reads all documents again.
        self.subscriber.stop().await?;
        self.subscriber.unset("AURA_CONFIGURATION_SNAPSHOT_DIR");
        self.change("fifth").await?;
        self.subscriber.start().await?;
        expected.push("have whatsapp-es 5".to_owned());
        says(&client, &expected).await?;
        self.publisher
            .api()
            .delete(CHANNELS, "whatsapp-es")
            .await?
            .expect(200)?;
        expected.push("Delete whatsapp-es 6".to_owned());
        says(&client, &expected).await
    }
}

/// Makes the token of a reader in a folder, and gives the path of its record.
fn make_token(folder: &Path) -> anyhow::Result<String> {
    let records = folder.join("tokens").display().to_string();
    let output = Command::new(dependencies::own_program("confcast")?)
        .args(["token", "create", "--offline", "--name", "reader"])
        .args(["--role", "reader", "--collections", CHANNELS])
        .args(["--expires", "never", "--record-file", &records])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    std::fs::write(folder.join("reader.token"), output.stdout)?;
    Ok(records)
}

async fn says(client: &Process, expected: &[String]) -> Outcome {
    eventually("the client prints the expected lines", async || {
        let output = client.output();
        // What begins with a URL is on standard error: the service was away.
        let lines: Vec<_> = output
            .lines()
            .filter(|line| !line.starts_with("http://"))
            .collect();
        ensure!(lines == expected, "{lines:?} instead of {expected:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_javascript_client_follows_a_subscriber_with_a_token() -> Outcome {
    let mut pair = Pair::start(true).await?;
    // Node searches packages in the folder of the file.
    let modules = dependencies::path_of("CLIENT_MODULES")?.join("node_modules");
    std::os::unix::fs::symlink(modules, pair.folder.path().join("node_modules"))?;
    pair.is_followed_by("follow.mjs", Command::new("node"), Some("ECONNREFUSED"))
        .await
}

#[tokio::test]
async fn the_python_client_follows_a_subscriber_with_a_token() -> Outcome {
    Pair::start(true)
        .await?
        .is_followed_by("follow.py", Command::new("python3"), None)
        .await
}

#[tokio::test]
async fn the_curl_client_follows_a_subscriber() -> Outcome {
    let pair = Pair::start(false).await?;
    let page = std::fs::read_to_string(dependencies::repository_root().join("docs/following.md"))?;
    let line = page
        .lines()
        .find(|line| line.starts_with("curl -N"))
        .context("a line with curl")?;
    let line = line.replace("http://127.0.0.1:8081", &pair.subscriber.url());
    let mut command = Command::new("bash");
    command
        .args(["-c", &format!("exec {line}")])
        .env("NO_PROXY", "*");
    let curl = Process::start("curl", pair.folder.path(), &mut command)?;
    eventually("the client follows", async || {
        ensure!(curl.output().contains("id: "), "{}", curl.output());
        Ok(())
    })
    .await?;
    pair.change("second").await?;
    eventually("the change arrives", async || {
        let output = curl.output();
        ensure!(
            output.contains("event: change\n")
                && output.contains(r#""op":"Update","id":"whatsapp-es""#),
            "{output}"
        );
        Ok(())
    })
    .await
}
