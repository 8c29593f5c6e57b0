//! For whom a backup is encrypted, and who opens it: keys of age. No key is shown.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use age::{Decryptor, Encryptor, IdentityFile, stream::StreamWriter, x25519::Recipient};
use anyhow::{Context, anyhow, bail, ensure};
use contract::text::paths::ShownPath;

use crate::target::Unshown;

/// For whom a backup is encrypted
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Recipients {
    /// Encrypt for this recipient of age (age1…); may be repeated. Without one the file is not encrypted
    #[arg(long = "recipient", value_name = "RECIPIENT", value_parser = Unshown(recipient))]
    named: Vec<Recipient>,
    /// Encrypt for the recipients of this file, one in each line; may be repeated
    #[arg(long = "recipients-file", value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Recipients {
    /// All recipients; empty where none is asked for.
    ///
    /// # Errors
    /// When a file cannot be read, or names no recipient: its backup would not be encrypted.
    pub(crate) fn all(&self) -> anyhow::Result<Vec<Recipient>> {
        let mut all = self.named.clone();
        for path in &self.files {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", ShownPath(path)))?;
            let known = all.len();
            for (number, line) in (1..).zip(text.lines()) {
                let line = line.trim();
                if !line.is_empty() && !line.starts_with('#') {
                    let read = recipient(line).map_err(|expected| {
                        anyhow!("line {number} of {}: {expected}", ShownPath(path))
                    });
                    all.push(read?);
                }
            }
            ensure!(all.len() > known, "{} names no recipient", ShownPath(path));
        }
        Ok(all)
    }
}

fn recipient(text: &str) -> Result<Recipient, String> {
    text.parse().map_err(|_unreadable| {
        if text.starts_with("AGE-SECRET-KEY-") {
            "this is an identity, which stays secret: expected its recipient, age1…".to_owned()
        } else {
            "expected a recipient of age with an X25519 key, age1…".to_owned()
        }
    })
}

/// Encrypts what is written.
///
/// # Errors
/// When the head of the file cannot be written.
pub(super) fn encrypt<W: Write>(
    to: W,
    recipients: &[Recipient],
) -> anyhow::Result<StreamWriter<W>> {
    let recipients = recipients.iter().map(|recipient| recipient as _);
    Ok(Encryptor::with_recipients(recipients)?.wrap_output(to)?)
}

/// Who opens an encrypted backup
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Identities {
    /// File with an identity of age (AGE-SECRET-KEY-1…) that opens an encrypted backup; may be repeated
    #[arg(long = "identity", value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) type Identity = Box<dyn age::Identity + Send + Sync>;

impl Identities {
    /// All identities.
    ///
    /// # Errors
    /// When a file cannot be read, or has something else.
    pub(super) fn all(&self) -> anyhow::Result<Vec<Identity>> {
        let mut all = Vec::new();
        for path in &self.files {
            let read = identities(path);
            all.extend(read.with_context(|| format!("cannot use {}", ShownPath(path)))?);
        }
        Ok(all)
    }
}

fn identities(path: &Path) -> anyhow::Result<Vec<Identity>> {
    let file = IdentityFile::from_buffer(BufReader::new(File::open(path)?))?;
    let identities = file.into_identities().map_err(words)?;
    ensure!(!identities.is_empty(), "it has no identity of age");
    Ok(identities)
}

/// The plain bytes of an encrypted file.
///
/// # Errors
/// When the file is damaged, or none of the identities opens it.
pub(super) fn decrypt<R: BufRead>(
    file: R,
    identities: &[Identity],
) -> anyhow::Result<age::stream::StreamReader<R>> {
    let decryptor = Decryptor::new_buffered(file).map_err(words)?;
    if decryptor.is_scrypt() {
        bail!("it is encrypted with a passphrase: decrypt it with `age -d` first");
    }
    ensure!(
        !identities.is_empty(),
        "it is encrypted: name the file of an age identity that opens it with --identity"
    );
    let identities = identities.iter().map(|identity| &**identity as _);
    decryptor.decrypt(identities).map_err(words)
}

/// What age says, in words of this program.
fn words(error: age::DecryptError) -> anyhow::Error {
    use age::DecryptError::{Io, NoMatchingKeys, UnknownFormat};
    match error {
        NoMatchingKeys => {
            anyhow!("none of the identities opens it: it is encrypted for other recipients")
        }
        UnknownFormat => anyhow!("it is encrypted in a later format of age"),
        Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            anyhow!("it is cut off")
        }
        _damaged => anyhow!("its encrypted head is damaged"),
    }
}
