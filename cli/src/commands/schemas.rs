//! `confcast schemas`: files for the developers of consumers, made from the schemas of the collections.
//!
//! It reads and writes files and changes nothing at the publisher. The output depends on the schemas
//! and samples alone, so the same input gives the same files.

mod asyncapi;
mod check;
mod rust;
mod shape;
mod source;
mod typescript;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use clap::Subcommand;

use self::source::Contract;
use crate::{output, target::Target};

/// Write JSON Schemas, an AsyncAPI document, Rust types and TypeScript types of all collections
///
/// From a publisher, or from a folder with *.schema.json and *.sample.json. TypeScript types need
/// Node.js.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SchemasCommand {
    #[command(subcommand)]
    command: Option<Command>,
    /// Folder to write
    #[arg(long, value_name = "DIR", default_value = "generated")]
    out: PathBuf,
    /// Folder with the schemas, instead of those that the publisher has in force
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write no TypeScript types; they need Node.js
    #[arg(long)]
    no_typescript: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Check),
}

impl SchemasCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        if let Some(Command::Check(check)) = self.command {
            return check.run().await;
        }
        let contracts = match &self.dir {
            Some(folder) => source::folder(folder)?,
            None => source::publisher(&self.target.endpoint()?).await?,
        };
        ensure!(!contracts.is_empty(), "there are no schemas");
        write(&contracts, &self.out)?;
        if !self.no_typescript {
            let folder = folder(&self.out, "typescript")?;
            typescript::write(&contracts, &folder).await?;
        }
        output::note(format_args!(
            "the contracts of {} collections are in {}",
            contracts.len(),
            self.out.display()
        ));
        Ok(())
    }
}

/// Writes everything that needs no other program.
fn write(contracts: &[Contract], out: &Path) -> anyhow::Result<()> {
    let schemas = folder(out, "schemas")?;
    for Contract {
        collection,
        text,
        sample,
        ..
    } in contracts
    {
        save(
            &schemas.join(format!("{collection}{}", source::SCHEMA)),
            text,
        )?;
        if let Some(sample) = sample {
            save(
                &schemas.join(format!("{collection}{}", source::SAMPLE)),
                &sample.text,
            )?;
        }
    }
    save(
        &out.join("asyncapi.json"),
        &(serde_json::to_string_pretty(&asyncapi::document(contracts)?)? + "\n"),
    )?;
    let types = rust::types(
        contracts
            .iter()
            .map(|contract| (&contract.collection, &contract.schema)),
    )?;
    save(&folder(out, "rust")?.join("configs.rs"), &types)
}

/// A folder below `out`. Other files in it stay: they may belong to the user.
fn folder(out: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let folder = out.join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot write {}", folder.display()))?;
    Ok(folder)
}

fn save(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests;
