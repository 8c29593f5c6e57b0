//! `confcast files`: the configuration as files, for applications that read files. The work is in the
//! crate `files`; this is its command line.

mod arguments;
mod log;
mod preview;

use std::{path::PathBuf, sync::Arc, time::Duration};

use ::files::{
    Access, CommandLine, Content, FileProjection, FilesConfig, Limits, Pace, Reload, SignalName,
};
use anyhow::{Context, ensure};
use contract::{CollectionName, SecretUrl};
use replica::{Config, Replica, SecretKeys};
use stop_signals::StopSignals;

use self::arguments::{command, duration, mode, owner, signal};
use crate::{
    credentials::CredentialArgs,
    target::{Unshown, service_url},
};

/// Keep documents as files in a folder, for applications that read files
///
/// DIR/current is a symbolic link to a folder with the files of one moment. Each change makes a new
/// folder, the check accepts it, and the link is replaced in one step; then the application is
/// notified. Without a publisher, and after a failed template or check, the last good files stay.
///
/// Without --templates there is one file for each document, COLLECTION/ID.json. With it NAME.j2 becomes
/// NAME, and other files are copied; a template reads the documents of a collection by its name.
///
/// The exit code is 0 after SIGTERM or Ctrl-C. With --once it is 0 only if the files are there and were
/// checked.
#[derive(Debug, clap::Args)]
pub(crate) struct FilesCommand {
    /// Collections to keep
    #[arg(value_name = "COLLECTION", required = true)]
    collections: Vec<CollectionName>,
    /// Folder with the link `current`; it is made when it is not there
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Folder of templates
    #[arg(long, value_name = "DIR")]
    templates: Option<PathBuf>,
    /// Command that accepts a folder by exit code 0, without a shell; {dir} stands for a copy of the folder
    #[arg(long, value_name = "COMMAND", value_parser = command)]
    check: Option<CommandLine>,
    /// Command that notifies the application, without a shell; {dir} stands for the link
    #[arg(long, value_name = "COMMAND", value_parser = command, conflicts_with = "signal")]
    reload: Option<CommandLine>,
    /// Signal that notifies the application: HUP, USR1, USR2, TERM, INT or QUIT
    #[arg(long, value_name = "SIGNAL", value_parser = signal, requires = "pid_file")]
    signal: Option<SignalName>,
    /// File with the process that gets the signal
    #[arg(long, value_name = "FILE", requires = "signal")]
    pid_file: Option<PathBuf>,
    /// How long a check or a reload may run
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    command_timeout: Duration,
    /// Rest after which a change is rendered at once; changes that follow sooner are gathered until none
    /// came for this time
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration)]
    wait_min: Duration,
    /// How long changes are gathered at most
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    wait_max: Duration,
    /// End after the first folder; for an init container
    #[arg(long)]
    once: bool,
    /// Print what would change, write nothing and run nothing
    #[arg(long, conflicts_with = "once")]
    dry_run: bool,
    /// How long --once and --dry-run wait for the configuration
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    deadline: Duration,
    /// How many earlier folders are kept
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    keep: u16,
    /// Mode of files, whatever the umask is
    #[arg(long, value_name = "MODE", default_value = "0644", value_parser = mode)]
    mode: u32,
    /// Mode of files with secrets in plain text
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = mode)]
    secret_mode: u32,
    /// Owner of files and folders, as numbers
    #[arg(long, value_name = "USER:GROUP", value_parser = owner)]
    owner: Option<(u32, u32)>,
    /// Most bytes of a file
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20)]
    max_file_bytes: u64,
    /// Most files
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    max_files: usize,
    /// File that has the state as JSON, written at each change and every 10 s
    #[arg(long, value_name = "FILE")]
    status_file: Option<PathBuf>,
    /// Name in the list of replicas [default: files-HOSTNAME]
    #[arg(
        long,
        value_name = "NAME",
        env = "AURA_CONFIGURATION_INSTANCE",
        hide_env_values = true
    )]
    instance: Option<String>,
    /// Base URLs of publishers, or of subscribers, separated by commas and tried in turn
    #[arg(
        long,
        value_name = "URL",
        env = "AURA_CONFIGURATION_API_URL",
        default_value = "http://127.0.0.1:8080",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = Unshown(service_url)
    )]
    publisher: Vec<SecretUrl>,
    #[command(flatten)]
    credentials: CredentialArgs,
}

impl FilesCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut signals = StopSignals::install()?;
        log::init()?;
        let keys = SecretKeys::from_environment()?;
        let config = self.config();
        let replica = Replica::new(self.replica()?)?;
        if self.dry_run {
            let shown = preview::show(&config, &replica, keys, self.deadline);
            return tokio::select! {
                shown = Box::pin(replica.run(shown)) => shown,
                () = signals.received() => anyhow::bail!("interrupted"),
            };
        }
        let files = Arc::new(FileProjection::open(config, replica.clone(), keys)?);
        let work = async {
            if self.once {
                return tokio::select! {
                    done = files.once(self.deadline) => done.map_err(Into::into),
                    () = signals.received() => anyhow::bail!("interrupted"),
                };
            }
            tokio::select! {
                never = files.run() => match never? {},
                () = signals.received() => Ok(()),
            }
        };
        Box::pin(replica.run(work)).await
    }

    fn config(&self) -> FilesConfig {
        let content = match &self.templates {
            Some(folder) => Content::Templates(folder.clone()),
            None => Content::Documents,
        };
        let reload = match (&self.reload, self.signal, &self.pid_file) {
            (Some(command), _, _) => Some(Reload::Command(command.clone())),
            (None, Some(signal), Some(file)) => Some(Reload::Signal(signal, file.clone())),
            (None, _, _) => None,
        };
        FilesConfig {
            folder: self.to.clone(),
            content,
            limits: Limits {
                file_bytes: self.max_file_bytes,
                files: self.max_files,
            },
            access: Access {
                mode: self.mode,
                secret_mode: self.secret_mode,
                owner: self.owner,
            },
            keep: self.keep.into(),
            pace: Pace {
                min: self.wait_min,
                max: self.wait_max.max(self.wait_min),
            },
            check: self.check.clone(),
            reload,
            command_limit: self.command_timeout,
            status_file: self.status_file.clone(),
        }
    }

    fn replica(&self) -> anyhow::Result<Config> {
        let instance = match &self.instance {
            Some(instance) if !instance.is_empty() => instance.clone(),
            _ => {
                let host = rustix::system::uname();
                format!("files-{}", host.nodename().to_string_lossy())
            }
        };
        // Whatever is in the name of a host becomes a name in the list of replicas.
        let is_name = instance.parse::<contract::DocumentId>().is_ok();
        ensure!(
            is_name,
            "--instance (AURA_CONFIGURATION_INSTANCE): expected 1 to 128 of A-Z a-z 0-9 _ - . :"
        );
        let publishers = self.publisher.iter().map(SecretUrl::expose);
        let config = Config::new(
            instance,
            publishers,
            self.collections.iter().map(CollectionName::as_str),
        )
        .context("--publisher or COLLECTION")?;
        Ok(Config {
            credentials: self.credentials.open()?,
            ..config
        })
    }
}
