//! `confcast secret-keys`: the file of the keys that secret values (`x-secret`) are encrypted with.
//!
//! It writes one file and talks to no service. No key is ever printed. What has to be done with the
//! file next is.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use contract::text::paths::ShownPath;
use secrets::{KeyId, KeyProvider, Keyring, SecretKeys, system_entropy};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::{confirmation, keys::exchange::Early};
use crate::{output, whole_file};

/// Mode of a new file: for its owner, and a group that reads it.
const MODE: u32 = 0o640;
/// Bits of a mode that a file keeps: never those of all other users.
const KEPT_MODE: u32 = 0o770;

/// Make and exchange the keys that secret values are encrypted with
///
/// The file is for publishers and for the services that read secrets, which name it in
/// `AURA_CONFIGURATION_SECRET_KEYS_FILE`. It can be mounted as it is, or become the content of a
/// Kubernetes Secret.
#[derive(Debug, Args)]
pub(crate) struct SecretKeysCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    Rotate(Rotate),
    List(List),
    Remove(Remove),
}

/// Make a file with one key
#[derive(Debug, Args)]
struct Create {
    /// File to write; it must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Id of the key: 1 to 32 of A-Z a-z 0-9 _ -; by default the date
    #[arg(long, value_name = "ID")]
    id: Option<KeyId>,
}

/// Take the next step of a key exchange, and say what to do before the step after it
///
/// First a new key is added, with which services can open; then secrets are encrypted with it. Old
/// keys stay. One call never takes two steps.
#[derive(Debug, Args)]
struct Rotate {
    /// File of the keys
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Id of the new key: 1 to 32 of A-Z a-z 0-9 _ -; by default the date
    #[arg(long, value_name = "ID")]
    id: Option<KeyId>,
    /// Refuse the second step when the first one is not as old as this: the time in which a file
    /// reaches all services
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    after: humantime::Duration,
}

/// List the ids of the keys, and what is done with each
#[derive(Debug, Args)]
struct List {
    /// File of the keys
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Remove an old key: what is still encrypted with it can never be read again
#[derive(Debug, Args)]
struct Remove {
    /// File of the keys
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Id of the key
    #[arg(value_name = "ID")]
    id: KeyId,
    /// Do not ask for confirmation; required where there is no terminal
    #[arg(long)]
    yes: bool,
}

impl SecretKeysCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let now = SystemTime::now();
        match self.command {
            Command::Create(create) => create.run(now),
            Command::Rotate(rotate) => rotate.run(now),
            Command::List(list) => list.run(),
            Command::Remove(remove) => remove.run(),
        }
    }
}

impl Create {
    fn run(self, now: SystemTime) -> anyhow::Result<()> {
        let id = self.id.map_or_else(|| dated(now, None), Ok)?;
        let keyring = Keyring::new(id, system_entropy);
        let path = self.file.display();
        let written = temporary(&self.file, MODE, &keyring)
            .and_then(|file| Ok(file.persist_noclobber(&self.file)?));
        match written {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => bail!(
                "{path} is there already: `confcast secret-keys rotate` exchanges the key, another file \
                 takes new keys"
            ),
            written => _ = written.with_context(|| format!("writing {path}"))?,
        }
        output::result(format_args!("the key {} is made", keyring.active()))?;
        output::note(format_args!(
            "give {path} to every service that reads secrets, then to every publisher \
             (AURA_CONFIGURATION_SECRET_KEYS_FILE), and keep a copy: without it no secret can be read"
        ));
        Ok(())
    }
}

impl Rotate {
    fn run(self, now: SystemTime) -> anyhow::Result<()> {
        let file = KeyFile::read(&self.file)?;
        let mut keyring = file.keyring()?;
        let path = self.file.display();
        if let Some(next) = keyring.next_key().cloned() {
            ensure!(
                self.id.is_none(),
                "the key {next} was added and is not in use yet: call this without --id first"
            );
            let early = Early::check(now, file.changed, self.after.into());
            if let Some(Early { ago, left }) = early {
                bail!(
                    "the key {next} was added {ago} ago, and some services may not have it yet: try again in \
                     {left} (--after)"
                );
            }
            keyring.activate();
            file.replace(&keyring)?;
            output::result(format_args!(
                "step 2 of 2: secrets are encrypted with the key {next} from now on. Now give {path} to every \
                 publisher; when all have it, they wrap what is stored. It is done when \
                 confcast_secrets_to_rewrap is 0"
            ))?;
        } else {
            let id = self.id.map_or_else(|| dated(now, Some(&keyring)), Ok)?;
            keyring.announce(id.clone(), system_entropy)?;
            file.replace(&keyring)?;
            output::result(format_args!(
                "step 1 of 2: the key {id} is new, and not in use yet. Now give {path} to every service that \
                 reads secrets, and to every publisher. Then call this again"
            ))?;
        }
        Ok(())
    }
}

/// One key, as `list --json` prints it.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Listed {
    id: String,
    /// `active`, `next`, or `old`.
    role: &'static str,
}

fn listed(keyring: &Keyring) -> Vec<Listed> {
    let role = |id: &KeyId| match id {
        id if id == keyring.active() => "active",
        id if Some(id) == keyring.next_key() => "next",
        _ => "old",
    };
    let keys = keyring.ids().map(|id| Listed {
        id: id.to_string(),
        role: role(id),
    });
    keys.collect()
}

impl List {
    fn run(&self) -> anyhow::Result<()> {
        let listed = listed(&KeyFile::read(&self.file)?.keyring()?);
        if self.json {
            return output::json(&listed);
        }
        for Listed { id, role } in listed {
            output::result(format_args!("{id}  {role}"))?;
        }
        Ok(())
    }
}

impl Remove {
    fn run(&self) -> anyhow::Result<()> {
        let file = KeyFile::read(&self.file)?;
        let mut keyring = file.keyring()?;
        keyring.remove(&self.id)?;
        if !self.yes {
            output::note(format_args!(
                "documents, and states of the past to roll back to, that are encrypted with the key {} cannot be \
                 read without it; confcast_secrets_to_rewrap must be 0 at every publisher",
                self.id
            ));
            confirmation::ask(&format!("remove the key {}", self.id))?;
        }
        file.replace(&keyring)?;
        output::result(format_args!(
            "the key {} is removed. Now give {} to every service and publisher",
            self.id,
            self.file.display()
        ))?;
        Ok(())
    }
}

/// An id that is made of the date: another one where the keyring has it already.
fn dated(now: SystemTime, keyring: Option<&Keyring>) -> anyhow::Result<KeyId> {
    let date = DateTime::<Utc>::from(now).format("%Y-%m-%d").to_string();
    let known = |id: &KeyId| keyring.is_some_and(|keyring| keyring.ids().any(|known| known == id));
    let mut id: KeyId = date.parse()?;
    let mut number = 2;
    while known(&id) {
        id = format!("{date}-{number}").parse()?;
        number += 1;
    }
    Ok(id)
}

/// A file of keys that is there.
struct KeyFile {
    /// It itself, where a link was named.
    path: PathBuf,
    /// What was read of it.
    keys: SecretKeys,
    changed: SystemTime,
    mode: u32,
    owner: (u32, u32),
}

impl KeyFile {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let file = path.canonicalize().with_context(|| {
            format!(
                "{}: `confcast secret-keys create` makes a file of keys",
                ShownPath(path)
            )
        })?;
        let about = fs::metadata(&file)?;
        Ok(Self {
            changed: about.modified()?,
            mode: about.mode() & KEPT_MODE,
            owner: (about.uid(), about.gid()),
            keys: SecretKeys::read(KeyProvider::File(file.clone()))?,
            path: file,
        })
    }

    /// A keyring of its own, to change.
    fn keyring(&self) -> anyhow::Result<Keyring> {
        Ok(Keyring::parse(&self.keys.keyring().to_text())?)
    }

    /// Replaces the file in one step: a service that reads it meanwhile sees the old or the new one.
    /// Owner and group stay.
    fn replace(&self, keyring: &Keyring) -> anyhow::Result<()> {
        let path = self.path.display();
        let replace = || -> std::io::Result<()> {
            let file = temporary(&self.path, self.mode, keyring)?;
            let made = file.as_file().metadata()?;
            let (uid, gid) = self.owner;
            if (made.uid(), made.gid()) != self.owner {
                fchown(file.as_file(), Some(uid), Some(gid))?;
            }
            file.persist(&self.path)?;
            Ok(())
        };
        replace().with_context(|| format!("writing {path}"))
    }
}

/// A complete file beside the one that it will be.
fn temporary(path: &Path, mode: u32, keyring: &Keyring) -> std::io::Result<NamedTempFile> {
    let file = whole_file::beside(path, mode, keyring.to_text().as_bytes())?;
    // Not what the mask of the caller leaves of it.
    fs::set_permissions(file.path(), fs::Permissions::from_mode(mode))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
