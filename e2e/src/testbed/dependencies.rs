//! Where the programs are: ours beside the test's own executable, the others where `provide.sh`
//! says.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, ensure};

/// The root of the repository.
pub fn repository_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in a folder of the repository")
}

/// A program or folder that `provide.sh` names: `MONGOD`, `REDIS_SERVER`, `DAPRD`, `KUSTOMIZE`,
/// `KUBERNETES_SCHEMAS`, `DAPR_CRDS`, `NODE_TOOLS`, `CLIENT_MODULES`, `SCHEMATHESIS`, `ETCD`,
/// `WRK`, `PEER_MODULES`. The environment wins, then the script is asked, which provides what is
/// missing.
///
/// # Errors
/// When it cannot be provided.
pub fn path_of(name: &str) -> anyhow::Result<PathBuf> {
    static PARTS: OnceLock<Result<HashMap<String, PathBuf>, String>> = OnceLock::new();
    let provided = PARTS.get_or_init(|| provide().map_err(|error| format!("{error:#}")));
    let provided = provided
        .as_ref()
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    provided
        .get(name)
        .cloned()
        .with_context(|| format!("provide.sh does not name {name}"))
}

fn provide() -> anyhow::Result<HashMap<String, PathBuf>> {
    let script = repository_root().join("e2e/dependencies/provide.sh");
    let output = Command::new("bash")
        .arg(&script)
        .stderr(Stdio::inherit())
        .output()
        .context("running provide.sh")?;
    ensure!(output.status.success(), "provide.sh failed");
    let lines = String::from_utf8(output.stdout)?;
    Ok(lines
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, path)| (name.into(), unquoted(path).into()))
        .collect())
}

fn unquoted(path: &str) -> &str {
    path.trim_matches(['\'', '"'])
}

/// One of our own programs, built beside the test.
///
/// # Errors
/// When it is not built.
pub fn own_program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // A test is in target/<profile>/deps, a program of this crate in target/<profile>.
    let folders = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name));
    folders
        .into_iter()
        .find(|program| program.exists())
        .with_context(|| format!("{name} is not built: `make test` does that"))
}
