//! The Dockerfile builds existing files with the toolchain that the workspace names. (A real build
//! needs Docker.) `images` compares it with images that are really built.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use e2e::testbed::dependencies::{own_program, repository_root};
use serde_json::{Value, json};

use crate::manifests::{at, file, files, items, kustomized, read, the};

/// The instructions, with continued lines joined.
pub(crate) fn instructions() -> anyhow::Result<Vec<String>> {
    let text = read("Dockerfile")?.replace("\\\n", " ");
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect())
}

fn arguments<'a>(instructions: &'a [String], name: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    instructions.iter().filter_map(move |line| {
        Some(
            line.strip_prefix(name)?
                .strip_prefix(' ')?
                .split(' ')
                .collect(),
        )
    })
}

#[test]
fn every_path_that_the_dockerfile_copies_exists() -> anyhow::Result<()> {
    let instructions = instructions()?;
    let ignored = read(".dockerignore")?;
    let mut copied = 0;
    for words in arguments(&instructions, "COPY").filter(|words| !words[0].starts_with("--from=")) {
        let (_to, sources) = words.split_last().context("COPY without arguments")?;
        for source in sources {
            ensure!(
                repository_root().join(source).exists(),
                "{source} is not there"
            );
            ensure!(
                !ignored.lines().any(|line| line == format!("/{source}")),
                "{source} is in .dockerignore"
            );
            copied += 1;
        }
    }
    ensure!(copied > 0, "nothing is copied");
    // The whole workspace is copied: the build needs every member, the lock file, the schemas and the scripts.
    let manifest = read("Cargo.toml")?;
    let members = manifest
        .split_once("members = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .context("no members")?
        .0;
    for needed in members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
        .chain(["Cargo.lock", "LICENSE", "e2e", "schemas", "tools"])
    {
        ensure!(
            !ignored.lines().any(|line| line == format!("/{needed}")),
            "{needed} is in .dockerignore"
        );
    }
    Ok(())
}

#[test]
fn images_run_the_programs_that_they_build() -> anyhow::Result<()> {
    let instructions = instructions()?;
    let build = arguments(&instructions, "RUN")
        .find(|words| words.contains(&"cargo"))
        .context("nothing is built")?;
    ensure!(build.contains(&"--locked") && build.contains(&"--release"));
    let packages: BTreeSet<_> = build
        .windows(2)
        .filter(|pair| pair[0] == "--package")
        .map(|pair| pair[1])
        .collect();
    ensure!(packages == ["publisher", "subscriber", "component", "cli"].into());
    let mut run = BTreeSet::new();
    for entrypoint in arguments(&instructions, "ENTRYPOINT") {
        let path = entrypoint.concat().replace(['[', ']', '"'], "");
        let program = path
            .strip_prefix("/usr/local/bin/")
            .with_context(|| path.clone())?;
        own_program(program)?;
        let (built, root) = (
            format!("target/release/{program}"),
            format!("/roots/{program}"),
        );
        let made = ["program", "/roots/base", &*built, &*root];
        ensure!(
            build.windows(made.len()).any(|words| words == made),
            "{program} is not kept"
        );
        let copied = format!("COPY --from=build {root} /");
        ensure!(instructions.contains(&copied), "no {copied:?}");
        run.insert(program.to_owned());
    }
    ensure!(run.len() == packages.len(), "{run:?}");
    Ok(())
}

#[test]
fn images_build_with_the_toolchain_of_the_workspace() -> anyhow::Result<()> {
    let instructions = instructions()?;
    let manifest = read("Cargo.toml")?;
    let version = manifest
        .split("rust-version = \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .context("none")?;
    let builder = arguments(&instructions, "FROM").next().context("no FROM")?[0];
    ensure!(
        builder.starts_with(&format!("rust:{version}-")),
        "{builder} is not Rust {version}"
    );
    Ok(())
}

#[test]
fn images_run_as_the_user_that_kubernetes_expects() -> anyhow::Result<()> {
    let instructions = instructions()?;
    let objects = kustomized()?;
    for (kind, target) in [("Deployment", "publisher"), ("StatefulSet", "subscriber")] {
        let context = at(
            the(&objects, kind, None)?,
            "/spec/template/spec/securityContext",
        )?;
        let user = configuration(&instructions, target)?["User"].clone();
        ensure!(
            user == format!("{}:{}", context["runAsUser"], context["runAsGroup"]),
            "{kind}: {context} is not {user}"
        );
    }
    Ok(())
}

/// The configuration of the image of a target, in the form of OCI. A label with a value from outside is
/// left out.
pub(crate) fn configuration(instructions: &[String], target: &str) -> anyhow::Result<Value> {
    let mut stages: BTreeMap<&str, Value> = BTreeMap::new();
    let mut name = "";
    for instruction in instructions {
        let (kind, rest) = instruction
            .split_once(' ')
            .with_context(|| instruction.clone())?;
        if kind == "FROM" {
            let (base, stage) = rest.split_once(" AS ").with_context(|| rest.to_owned())?;
            let inherited = stages.get(base).cloned().unwrap_or_else(|| json!({}));
            stages.insert(stage, inherited);
            name = stage;
            continue;
        }
        let config = stages.get_mut(name).context("no FROM")?;
        match kind {
            "USER" => config["User"] = rest.into(),
            "WORKDIR" => config["WorkingDir"] = rest.into(),
            "ENTRYPOINT" => config["Entrypoint"] = serde_json::from_str(rest)?,
            "EXPOSE" => config["ExposedPorts"][rest] = json!({}),
            "ENV" => match config["Env"].as_array_mut() {
                Some(variables) => variables.push(rest.into()),
                None => config["Env"] = json!([rest]),
            },
            "LABEL" => {
                let (label, value) = rest.split_once('=').with_context(|| rest.to_owned())?;
                if !value.contains('$') {
                    config["Labels"][label] = value.trim_matches('"').into();
                }
            }
            _ => {}
        }
    }
    let config = stages.remove(target);
    config.with_context(|| format!("the Dockerfile has no target {target}"))
}

/// `latest` is another program tomorrow.
#[test]
fn images_are_named_by_the_version_of_the_workspace() -> anyhow::Result<()> {
    let mut objects = kustomized()?;
    for path in files("deploy/examples")? {
        objects.extend(file(&path)?);
    }
    let containers = (objects.iter()).flat_map(|it| items(it, "/spec/template/spec/containers"));
    let named = containers.filter_map(|container| container["image"].as_str());
    let ours: Vec<_> = named
        .filter(|image| image.starts_with("confcast"))
        .collect();
    ensure!(ours.len() == 4, "{ours:?}");
    for image in ours {
        let version = image.split_once(':').map(|(_name, tag)| tag);
        ensure!(version == Some(env!("CARGO_PKG_VERSION")), "{image}");
    }
    for page in ["docs/kubernetes.md", "docs/operations/backup.md"] {
        let page_text = read(page)?;
        let images: Vec<_> = page_text
            .split_whitespace()
            .filter_map(|word| Some((word, word.split_once(':')?)))
            .filter(|(_word, (name, tag))| {
                name.contains("confcast") && tag.starts_with(|first: char| first.is_ascii_digit())
            })
            .collect();
        ensure!(!images.is_empty(), "{page} names no image");
        for (word, (_name, tag)) in images {
            ensure!(tag == env!("CARGO_PKG_VERSION"), "{page}: {word}");
        }
    }
    Ok(())
}
