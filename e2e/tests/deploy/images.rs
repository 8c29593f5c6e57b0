//! The container images that `make image` makes: they are well formed, the same at every build, hold what
//! the Dockerfile says and nothing besides, and trust the authorities of the system. `pods` starts
//! publisher and subscriber from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use client::{ClientFiles, CredentialSettings, Credentials, Endpoint, Timeouts};
use e2e::testbed::{
    dependencies::{own_program, path_of, repository_root},
    process::{Process, folder},
    redis::certificates::Certificates,
    services::Service,
    wait::{TIMEOUT, eventually},
};
use serde_json::{Value, json};

use self::container::{Container, Mount};
pub(crate) use self::image::{Image, image};
use crate::{
    docker::{configuration, instructions},
    manifests::{at, kustomized, text, the},
};

pub(crate) mod container;
mod image;

/// Names of the images, and of the programs in them.
const IMAGES: [(&str, &str); 4] = [
    ("confcast-publisher", "publisher"),
    ("confcast-subscriber", "subscriber"),
    ("confcast-component", "confcast-component"),
    ("confcast", "confcast"),
];
/// Where programs find the authorities of the system.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The user of all images.
const USER: u32 = 65532;

/// Neither the time, nor the user's settings, nor the folder change a byte.
#[test]
fn images_are_the_same_at_every_build() -> anyhow::Result<()> {
    let second = folder()?;
    let mut command = Command::new("bash");
    command
        .args(["-c", "umask 077; exec \"$0\" \"$@\""])
        .envs([("TZ", "Asia/Tokyo"), ("LC_ALL", "C.UTF-8")])
        .current_dir("/");
    image::build(&mut command, second.path())?;
    for (name, _program) in IMAGES {
        let archive = format!("{name}.tar");
        ensure!(
            fs::read(image(name)?.archive())? == fs::read(second.path().join(&archive))?,
            "{archive} differs"
        );
    }
    Ok(())
}

/// As an archive, and as a layout in a registry, which verifies every digest.
#[tokio::test]
async fn images_are_well_formed_for_every_reader() -> anyhow::Result<()> {
    let folder = folder()?;
    let crane = path_of("CRANE")?;
    let mut serve = Command::new(&crane);
    serve.args(["registry", "serve", "--address", "127.0.0.1:0"]);
    let registry = Process::start("registry", folder.path(), &mut serve)?;
    let port = eventually("the registry serves", async || {
        let output = registry.run_output();
        let (_, port) = output
            .split_once("serving on port ")
            .with_context(|| output.clone())?;
        Ok(port.lines().next().context("no port")?.to_owned())
    })
    .await?;
    let crane = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = Command::new(&crane).args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    for (name, _program) in IMAGES {
        let image = image(name)?;
        let archive = image.archive().display().to_string();
        crane(&["validate", "--tarball", &archive])?;
        let from_archive = format!("127.0.0.1:{port}/archive/{name}");
        crane(&["push", &archive, &from_archive])?;
        crane(&["validate", "--remote", &from_archive])?;

        let layout = image.layout(&folder.path().join(name))?;
        let from_layout = format!("127.0.0.1:{port}/layout/{name}");
        crane(&["push", &layout.display().to_string(), &from_layout])?;
        crane(&["validate", "--remote", &from_layout])?;
        ensure!(crane(&["digest", &from_layout])? == image.digest()?);
        let served: Value = serde_json::from_str(&crane(&["manifest", &from_layout])?)?;
        ensure!(
            served["annotations"] == image.configuration()["config"]["Labels"],
            "{served}"
        );
    }
    Ok(())
}

/// Both ways to an image end at the same one, and the manifests expect it.
#[test]
fn images_say_what_the_dockerfile_says() -> anyhow::Result<()> {
    let instructions = instructions()?;
    let objects = kustomized()?;
    for (name, program) in IMAGES {
        let image = image(name)?;
        let mut config = at(image.configuration(), "/config")?.clone();
        let labels = config["Labels"].as_object_mut().context("no labels")?;
        let revision = labels.remove("org.opencontainers.image.revision");
        let revision = revision.context("no revision")?.to_string();
        ensure!(revision.trim_matches('"').len() >= 40, "{revision}");
        ensure!(
            labels["org.opencontainers.image.version"] == env!("CARGO_PKG_VERSION"),
            "{labels:?}"
        );
        let expected = configuration(&instructions, program)?;
        ensure!(config == expected, "{name}: {config:#}, not {expected:#}");
    }
    for (kind, name) in [
        ("Deployment", "confcast-publisher"),
        ("StatefulSet", "confcast-subscriber"),
    ] {
        let pod = at(the(&objects, kind, None)?, "/spec/template/spec")?;
        let container = at(pod, "/containers/0")?;
        ensure!(
            text(container, "/image")?.split(':').next() == Some(name),
            "{container}"
        );
        let ports = json!({ format!("{}/tcp", at(container, "/ports/0/containerPort")?): {} });
        let config = at(image(name)?.configuration(), "/config")?.clone();
        ensure!(config["ExposedPorts"] == ports, "{config}");
        // The manifests replace neither.
        ensure!(container.get("command").is_none() && container.get("args").is_none());
    }
    Ok(())
}

/// No shell, no package manager, nothing that a process could change or be more than its user by.
#[test]
fn images_hold_the_program_and_what_it_needs() -> anyhow::Result<()> {
    let folder = folder()?;
    for (name, program) in IMAGES {
        let listed = image(name)?.entries()?;
        let root = image(name)?.unpack(&folder.path().join(name))?;
        let mut executable = BTreeSet::new();
        let mut writable = BTreeSet::new();
        for entry in &listed {
            let kind = entry.mode.chars().next().context("no kind")?;
            ensure!("-dl".contains(kind), "{entry:?}");
            ensure!(!entry.mode.to_ascii_lowercase().contains('s'), "{entry:?}");
            let target = root.join(&entry.path);
            match kind {
                // Also what a link leads to is in the image.
                'l' => ensure!(
                    target.canonicalize()?.starts_with(root.canonicalize()?),
                    "{entry:?}"
                ),
                '-' if entry.mode.contains('x') => {
                    executable.insert(entry.path.clone());
                }
                _ => {}
            }
            let others = kind != 'l' && entry.mode.as_bytes()[8] == b'w';
            if others || entry.owner != "0/0" {
                writable.insert((entry.path.as_str(), entry.owner.as_str()));
            }
        }
        ensure!(
            writable == [("tmp", "0/0"), ("var/lib/confcast", "65532/65532")].into(),
            "{name}: {writable:?}"
        );
        let libraries = executable
            .iter()
            .filter(|path| path.starts_with("usr/lib/"));
        ensure!(
            libraries.clone().count() <= 2 && executable.len() == libraries.count() + 1,
            "{name}: {executable:?}"
        );
        ensure!(executable.contains(&format!("usr/local/bin/{program}")));

        let file = |path: &str| {
            fs::read_to_string(root.join(path)).with_context(|| format!("{name}: {path}"))
        };
        ensure!(
            file("etc/passwd")?.contains(&format!("\nconfcast:x:{USER}:{USER}:")),
            "the user has no name"
        );
        // Scanners know the packages by these.
        ensure!(file("etc/os-release")?.contains("ID=debian"));
        let packages = fs::read_dir(root.join("var/lib/dpkg/status.d"))?.count();
        ensure!(packages == 5, "{name}: {packages} packages");
        ensure!(file("usr/share/doc/confcast/copyright")?.contains("Apache License"));
        ensure!(
            file(&AUTHORITIES[1..])?
                .matches("BEGIN CERTIFICATE")
                .count()
                > 100
        );
        let schemas = root.join("confcast/schemas");
        ensure!(schemas.exists() != (program == "confcast"), "{name}");
        for schema in schemas.read_dir().into_iter().flatten() {
            let schema = schema?;
            let own = repository_root().join("schemas").join(schema.file_name());
            ensure!(fs::read(schema.path())? == fs::read(own)?, "{schema:?}");
        }
    }
    Ok(())
}

/// A program that its base cannot run is refused at the build, and not by the first pod.
#[test]
fn a_program_that_needs_more_than_the_base_is_refused() -> anyhow::Result<()> {
    let folder = folder()?;
    let script = repository_root().join("tools/image/root.sh");
    let base = folder.path().join("base");
    ensure!(
        Command::new(&script)
            .arg("base")
            .arg(&base)
            .status()?
            .success()
    );
    let openssl = path_of("OPENSSL")?;
    let refused = Command::new(&script)
        .arg("program")
        .args([&base, &openssl, &folder.path().join("program")])
        .output()?;
    let message = String::from_utf8(refused.stderr)?;
    ensure!(!refused.status.success(), "it is not refused");
    ensure!(message.contains("does not run on the base"), "{message}");
    Ok(())
}

/// The command line in its image calls a publisher with TLS: it knows an authority by the file of the
/// system, and trusts no other.
#[tokio::test]
async fn images_trust_the_authorities_of_the_system() -> anyhow::Result<()> {
    let folder = folder()?;
    let certificates = Certificates::make(folder.path())?;
    let mut publisher = Service::publisher()?;
    publisher.set("AURA_CONFIGURATION_COLLECTIONS", "FreeForm");
    for (name, file) in [
        (
            "AURA_CONFIGURATION_TLS_CERT_FILE",
            &certificates.certificate,
        ),
        ("AURA_CONFIGURATION_TLS_KEY_FILE", &certificates.key),
    ] {
        publisher.set(name, file.display().to_string());
    }
    publisher.launch()?;
    let url = format!("https://localhost:{}", publisher.port());
    let credentials = Credentials::open(CredentialSettings {
        tls: ClientFiles {
            ca: Some(certificates.authority.clone()),
            identity: None,
        },
        ..CredentialSettings::default()
    })?;
    let endpoint = Endpoint::with_credentials(&url.parse()?, Timeouts::TEST, &credentials)?;
    eventually("the publisher is ready", async || {
        Ok(endpoint.ready().await?)
    })
    .await?;

    let image = image("confcast")?;
    let list = ["list", "FreeForm", "--publisher", &url];
    let run = async |name: &str, mounts: &[Mount]| -> anyhow::Result<(Option<i32>, String)> {
        let mut container =
            Container::start(image, name, folder.path(), &BTreeMap::new(), mounts, &list)?;
        let status = container.ended(TIMEOUT).await?;
        Ok((status.code(), container.output()))
    };
    let (code, output) = run("unknown", &[]).await?;
    ensure!(
        code != Some(0) && output.contains("UnknownIssuer"),
        "{code:?}: {output}"
    );

    // As an operator adds one: the authorities of the image, and one more.
    let shipped = image.unpack(&folder.path().join("shipped"))?;
    let mut bundle = fs::read_to_string(shipped.join(&AUTHORITIES[1..]))?;
    bundle.push_str(&fs::read_to_string(&certificates.authority)?);
    let real = folder.path().join("bundle.crt");
    fs::write(&real, bundle)?;
    let mounts = [Mount {
        path: AUTHORITIES.to_owned(),
        real,
        read_only: true,
    }];
    let (code, output) = run("known", &mounts).await?;
    ensure!(code == Some(0), "{code:?}: {output}");
    Ok(())
}

/// Whether these tests run as root, so that the user of an image can be the one that it names.
pub(crate) fn is_root() -> anyhow::Result<bool> {
    Ok(fs::metadata("/proc/self")?.uid() == 0)
}

/// The folder with the programs of this repository.
fn programs() -> anyhow::Result<PathBuf> {
    let program = own_program("publisher")?;
    for (_name, program) in IMAGES {
        own_program(program)?;
    }
    Ok(program.parent().context("no folder")?.to_owned())
}

/// Runs a command.
///
/// # Errors
/// With what it says, when it fails.
fn run(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// The path of a folder as an argument.
fn argument(path: &Path) -> String {
    path.display().to_string()
}
