//! Paths of programs: those of this repository lie beside the test executable, all others come from
//! `dependencies/provide.sh`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, ensure};

/// The root folder of the repository.
pub fn repository_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in a folder of the repository")
}

/// The path of a program or folder that `provide.sh` names: `MONGOD`, `REDIS_SERVER`, `OPENSSL`,
/// `DAPRD`, `KUSTOMIZE`, `HELM`, `KUBERNETES_SCHEMAS`, `DAPR_CRDS`, `MONITORING_CRDS`, `NODE_TOOLS`, `OPENAPI_TYPES`,
/// `CLIENT_MODULES`, `SCHEMATHESIS`, `ETCD`, `WRK`, `PEER_MODULES`, `PROMTOOL`, `OTEL_COLLECTOR`,
/// `KAFKA`, `NATS_SERVER`, `NGINX`, `CRANE`, `RUNC`, `IMAGE_PACKAGES`, `PREVIOUS`, `DAPR_CLIENT_NODE`,
/// `DAPR_CLIENT_PYTHON`, `DAPR_CLIENT_GO`, `DAPR_CLIENT_JAVA`, `DAPR_CLIENT_AGENTS`, `DAPR_PLACEMENT`. An environment variable of that
/// name wins; otherwise the script provides what is missing.
///
/// # Errors
/// When the script fails, or does not name it.
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

/// Of which version a program of this repository is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// This one.
    Current,
    /// The one before it, which `e2e/previous-version` names.
    Previous,
}

impl Build {
    /// Both, in the order in which an upgrade meets them.
    pub const BOTH: [Self; 2] = [Self::Previous, Self::Current];

    /// The path of a program of this version.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn program(self, name: &str) -> anyhow::Result<PathBuf> {
        match self {
            Self::Current => own_program(name),
            Self::Previous => Ok(path_of("PREVIOUS")?.join(name)),
        }
    }
}

/// The path of a program of this repository, built beside the test.
///
/// # Errors
/// When the program is not built.
pub fn own_program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // A test is in target/<profile>/deps, a program in target/<profile>.
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
