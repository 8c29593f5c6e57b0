//! The Dockerfile builds existing files with the toolchain that the workspace names. (A real build
//! needs Docker.)

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use e2e::testbed::dependencies::{own_program, repository_root};

use crate::manifests::{at, kustomized, read, the};

/// The instructions, with continued lines joined.
fn instructions() -> anyhow::Result<Vec<String>> {
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
    // The whole workspace is copied: the build needs every member, the lock file and the schemas.
    let manifest = read("Cargo.toml")?;
    let members = manifest
        .split_once("members = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .context("no members")?
        .0;
    for needed in members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
        .chain(["Cargo.lock", "schemas"])
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
        .map(|pair| match pair[1] {
            // Its program is named as the others see it.
            "component" => "confcast-component".to_owned(),
            name => name.to_owned(),
        })
        .collect();
    let run: BTreeSet<_> = arguments(&instructions, "ENTRYPOINT")
        .map(|words| words.concat().replace(['[', ']', '"'], ""))
        .collect();
    ensure!(
        !run.is_empty() && packages == run,
        "built {packages:?}, run {run:?}"
    );
    for program in &run {
        own_program(program)?;
        ensure!(
            build.contains(&&*format!("target/release/{program}")),
            "{program} is not kept"
        );
        let copied = format!("COPY --from=build /out/{program} /usr/local/bin/");
        ensure!(instructions.contains(&copied), "no {copied:?}");
    }
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
    let user = arguments(&instructions, "USER")
        .next()
        .context("it runs as root")?[0];
    let objects = kustomized()?;
    for kind in ["Deployment", "StatefulSet"] {
        let context = at(
            the(&objects, kind, None)?,
            "/spec/template/spec/securityContext",
        )?;
        ensure!(
            user == format!("{}:{}", context["runAsUser"], context["runAsGroup"]),
            "{kind}: {context} is not {user}"
        );
    }
    Ok(())
}
