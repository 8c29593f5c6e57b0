//! Writes a backup. Whether its documents are complete, the caller knows: it ends the file only then.

use std::io::{self, Write};

use age::{stream::StreamWriter, x25519::Recipient};
use contract::sha256::Sha256;
use serde::Serialize;
use sha2::Digest as _;

use super::{Backup, End, Header, encryption};

/// A backup that is being written.
pub(crate) struct BackupWriter<W: Write> {
    text: zstd::Encoder<'static, Sealing<W>>,
    hash: sha2::Sha256,
    backup: Backup,
}

/// Where the compressed text goes.
enum Sealing<W: Write> {
    Plain(W),
    Encrypted(StreamWriter<W>),
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(to) => to.write(bytes),
            Self::Encrypted(to) => to.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(to) => to.flush(),
            Self::Encrypted(to) => to.flush(),
        }
    }
}

impl<W: Write> BackupWriter<W> {
    /// Begins with the header; encrypted where there are recipients.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn begin(to: W, recipients: &[Recipient], header: Header) -> anyhow::Result<Self> {
        let encrypted = !recipients.is_empty();
        let to = if encrypted {
            Sealing::Encrypted(encryption::encrypt(to, recipients)?)
        } else {
            Sealing::Plain(to)
        };
        let mut text = zstd::Encoder::new(to, zstd::DEFAULT_COMPRESSION_LEVEL)?;
        text.include_checksum(true)?;
        let mut writer = Self {
            text,
            hash: sha2::Sha256::new(),
            backup: Backup {
                header,
                documents: 0,
                sha256: Sha256::ZERO,
                encrypted,
            },
        };
        let header = json(&writer.backup.header)?;
        writer.line(&header)?;
        Ok(writer)
    }

    /// Adds the line of a document, without its line feed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn document(&mut self, line: &[u8]) -> io::Result<()> {
        self.backup.documents += 1;
        self.line(line)
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        for part in [line, b"\n"] {
            self.hash.update(part);
            self.text.write_all(part)?;
        }
        Ok(())
    }

    /// Ends the backup, and gives the file back, whose last bytes may not be on the disk yet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn finish(self) -> anyhow::Result<(W, Backup)> {
        let Self {
            mut text,
            hash,
            mut backup,
        } = self;
        backup.sha256 = Sha256(hash.finalize().into());
        let end = End {
            end: true,
            count: backup.documents,
            sha256: backup.sha256,
        };
        text.write_all(&json(&end)?)?;
        text.write_all(b"\n")?;
        let to = match text.finish()? {
            Sealing::Plain(to) => to,
            Sealing::Encrypted(to) => to.finish()?,
        };
        Ok((to, backup))
    }
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}
