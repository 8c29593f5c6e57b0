//! Checks of the output of `confcast schemas`, with the tools of its users.

use std::{fs, path::Path, process::ExitStatus};

use anyhow::{Context, ensure};
use e2e::testbed::{dependencies, whole_sample};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Outcome, collections};

/// The document is valid by the schema of the AsyncAPI project, and the check also detects errors.
pub(super) fn asyncapi(document: &Value) -> Outcome {
    let official = dependencies::path_of("NODE_TOOLS")?
        .join("node_modules/@asyncapi/specs/schemas/3.0.0.json");
    let validator = jsonschema::options()
        .offline()
        .build(&serde_json::from_slice(&fs::read(official)?)?);
    let validator =
        validator.map_err(|fault| anyhow::anyhow!("the schema of AsyncAPI: {fault}"))?;
    let faults: Vec<_> = validator
        .iter_errors(document)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    ensure!(faults.is_empty(), "{faults:#?}");
    for collection in collections() {
        ensure!(
            document["channels"][collection]["address"] == collection,
            "{collection} has no topic"
        );
    }
    for (pointer, wrong) in [
        ("/asyncapi", json!("2.0.0")),
        ("/servers/redis/protocol", json!(null)),
        ("/channels/ChannelConfiguration/address", json!(1)),
        (
            "/operations/sendChannelConfiguration/action",
            json!("publish"),
        ),
        (
            "/components/schemas/ChannelConfiguration/type",
            json!("thing"),
        ),
    ] {
        let mut document = document.clone();
        *document
            .pointer_mut(pointer)
            .with_context(|| format!("nothing at {pointer}"))? = wrong;
        ensure!(
            !validator.is_valid(&document),
            "an error at {pointer} is not detected"
        );
    }
    Ok(())
}

/// The types accept the samples, and reject members that the schema does not have.
pub(super) async fn typescript(folder: &Path) -> Outcome {
    for collection in collections() {
        let sample = whole_sample(collection)?;
        let program = |sample: &Value| {
            format!(
                "import type {{ {collection} }} from \"./{collection}\";\nexport const sample: {collection} = {sample};\n"
            )
        };
        fs::write(
            folder.join(format!("{collection}.sample.ts")),
            program(&sample),
        )?;
        let mut unknown = sample.clone();
        unknown["notInTheSchema"] = json!(1);
        fs::write(
            folder.join(format!("{collection}.unknown.ts")),
            program(&unknown),
        )?;
    }
    let files = |kind: &str| {
        collections()
            .map(|name| format!("{name}.{kind}.ts"))
            .collect::<Vec<_>>()
    };
    let good = compile(folder, &files("sample")).await?;
    ensure!(good.0.success(), "{}", good.1);
    for file in files("unknown") {
        let (status, output) = compile(folder, &[file]).await?;
        ensure!(
            !status.success() && output.contains("notInTheSchema"),
            "the error is not reported: {output}"
        );
    }
    Ok(())
}

async fn compile(folder: &Path, files: &[String]) -> anyhow::Result<(ExitStatus, String)> {
    let mut command =
        Command::new(dependencies::path_of("NODE_TOOLS")?.join("node_modules/.bin/tsc"));
    command
        .args([
            "--noEmit",
            "--strict",
            "--module",
            "esnext",
            "--moduleResolution",
            "bundler",
        ])
        .args(files);
    let output = command
        .current_dir(folder)
        .kill_on_drop(true)
        .output()
        .await?;
    Ok((
        output.status,
        String::from_utf8_lossy(&output.stdout).into_owned(),
    ))
}
