//! `confcast keys`: the key files of signed events, and their exchange.
//!
//! It writes files in one folder and talks to no service. The private keys are readable for their
//! owner alone. What each file is for, and what has to be done with it next, is printed.

pub(super) mod exchange;

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use contract::signature::{PublicKeys, SigningKey};
use serde::Serialize;

use self::exchange::{Early, Keys, Step};
use crate::{output, whole_file};

/// The private key with which publishers sign.
const SIGNING: &str = "signing-key.pem";
/// The private key with which they will sign after the next step.
const NEXT: &str = "next-signing-key.pem";
/// The public keys of the replicas.
const PUBLIC: &str = "event-keys.pem";

/// Make and exchange the keys that sign events
///
/// The files can be mounted as they are, or become the content of a Kubernetes Secret and `ConfigMap`.
#[derive(Debug, Args)]
pub(crate) struct KeysCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    Rotate(Rotate),
    List(List),
}

/// Make a key pair: signing-key.pem for publishers, event-keys.pem for replicas
#[derive(Debug, Args)]
struct Create {
    /// Folder to write; nothing in it is overwritten
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Take the next step of a key exchange, and say what to do before the step after it
///
/// First a new public key is added to event-keys.pem, then the new private key becomes
/// signing-key.pem, then the old public key is removed from event-keys.pem. No event is dropped when
/// the files have reached all services before the next step; one call never takes two steps.
#[derive(Debug, Args)]
struct Rotate {
    /// Folder of the keys
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Refuse the step when the one before it is not as old as this: the time in which a file
    /// reaches all services, and events reach all replicas
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    after: humantime::Duration,
}

/// List the keys of a folder, and what is done with each
#[derive(Debug, Args)]
struct List {
    /// Folder of the keys
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl KeysCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Create(Create { directory }) => create(&directory),
            Command::Rotate(rotate) => rotate.run(SystemTime::now()),
            Command::List(list) => list.run(),
        }
    }
}

fn create(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("creating the folder {}", directory.display()))?;
    for name in [SIGNING, NEXT, PUBLIC] {
        let file = directory.join(name);
        ensure!(
            !file.exists(),
            "{} is there already: `confcast keys rotate` exchanges the key, another folder takes new keys",
            file.display()
        );
    }
    let key = new_key();
    // The public key first: a private key without it would be of no use to a replica.
    write(directory, PUBLIC, &key.public().to_pem()?, 0o644)?;
    write(directory, SIGNING, &key.to_pem()?, 0o600)?;
    output::result(format_args!("the key {} is made", key.id()))?;
    output::note(format_args!(
        "first give every publisher {} (AURA_CONFIGURATION_SIGNING_KEY_FILE); when all of them sign, \
         give every replica {} (AURA_CONFIGURATION_EVENT_KEYS_FILE)",
        directory.join(SIGNING).display(),
        directory.join(PUBLIC).display(),
    ));
    Ok(())
}

impl Rotate {
    fn run(&self, now: SystemTime) -> anyhow::Result<()> {
        let directory = &self.directory;
        let keys = read(directory)?;
        let (step, since) = keys.next_step();
        let early = since.and_then(|since| Early::check(now, since, self.after.into()));
        if let Some(Early { ago, left }) = early {
            bail!(
                "the step before was taken {ago} ago, and some services may not have its files yet: try \
                 again in {left} (--after)"
            );
        }
        match step {
            Step::Announce => {
                let next = new_key();
                let public = keys.announced(&next);
                // In this order: the private key of a public key that is distributed is never lost.
                write(directory, NEXT, &next.to_pem()?, 0o600)?;
                write(directory, PUBLIC, &public.to_pem()?, 0o644)?;
                said(
                    1,
                    format_args!(
                        "the key {} is new, and not in use yet. Now give every replica {PUBLIC}; its \
                     status lists the key under eventKeys. Then call this again",
                        next.id()
                    ),
                )
            }
            Step::Republish(next) => {
                let public = keys.announced(&next);
                write(directory, PUBLIC, &public.to_pem()?, 0o644)?;
                said(
                    1,
                    format_args!(
                        "the key {} is added to {PUBLIC}, which an earlier call did not write. Now give \
                     every replica {PUBLIC}. Then call this again",
                        next.id()
                    ),
                )
            }
            Step::Use(next) => {
                write(directory, SIGNING, &next.to_pem()?, 0o600)?;
                remove(directory, NEXT)?;
                said(
                    2,
                    format_args!(
                        "publishers sign with the key {} from now on. Now give every publisher {SIGNING}. \
                     Then call this again",
                        next.id()
                    ),
                )
            }
            Step::Retire(old) => {
                remove(directory, NEXT)?;
                write(directory, PUBLIC, &keys.signing.public().to_pem()?, 0o644)?;
                let old: Vec<_> = old.iter().map(ToString::to_string).collect();
                said(
                    3,
                    format_args!(
                        "the key {} counts no more. Now give every replica {PUBLIC}: the exchange is \
                     complete then",
                        old.join(", ")
                    ),
                )
            }
        }
    }
}

fn said(step: u8, what: impl std::fmt::Display) -> anyhow::Result<()> {
    Ok(output::result(format_args!("step {step} of 3: {what}"))?)
}

/// One key, as `list --json` prints it.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Listed {
    id: String,
    /// `signing`, `next`, or `old`.
    role: &'static str,
    /// Whether replicas have it.
    public: bool,
}

impl List {
    fn run(&self) -> anyhow::Result<()> {
        let listed = read(&self.directory)?.list();
        if self.json {
            return output::json(&listed);
        }
        for Listed { id, role, public } in listed {
            let public = if public {
                ""
            } else {
                ", missing in event-keys.pem"
            };
            output::result(format_args!("{id}  {role}{public}"))?;
        }
        Ok(())
    }
}

fn new_key() -> SigningKey {
    SigningKey::from_seed(&rand::random())
}

/// The keys of a folder.
///
/// # Errors
/// When a file cannot be read, or has no key.
fn read(directory: &Path) -> anyhow::Result<Keys> {
    let text = |name: &str| -> anyhow::Result<Option<(String, SystemTime)>> {
        let file = directory.join(name);
        let read = || -> std::io::Result<_> {
            Ok((fs::read_to_string(&file)?, fs::metadata(&file)?.modified()?))
        };
        match read() {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    };
    let missing = |name: &str| {
        format!(
            "{} is not there: `confcast keys create` makes it",
            directory.join(name).display()
        )
    };
    let invalid = |name: &str| format!("{} cannot be used", directory.join(name).display());
    let (signing, used_since) = text(SIGNING)?.with_context(|| missing(SIGNING))?;
    let (public, published) = text(PUBLIC)?.with_context(|| missing(PUBLIC))?;
    let next = match text(NEXT)? {
        Some((next, _since)) => Some(SigningKey::from_pem(&next).with_context(|| invalid(NEXT))?),
        None => None,
    };
    Ok(Keys {
        signing: SigningKey::from_pem(&signing).with_context(|| invalid(SIGNING))?,
        used_since,
        next,
        public: PublicKeys::from_pem(&public).with_context(|| invalid(PUBLIC))?,
        published,
    })
}

/// Writes a file in one step: a service that reads it meanwhile sees the old or the new one. Its
/// time is that of the step.
fn write(directory: &Path, name: &str, text: &str, mode: u32) -> anyhow::Result<()> {
    let file = directory.join(name);
    let written = whole_file::beside(&file, mode, text.as_bytes())
        .and_then(|complete| Ok(complete.persist(&file)?));
    written
        .map(drop)
        .with_context(|| format!("writing {}", file.display()))
}

fn remove(directory: &Path, name: &str) -> anyhow::Result<()> {
    let file = directory.join(name);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _removed => Ok(()),
    }
}

#[cfg(test)]
mod tests;
