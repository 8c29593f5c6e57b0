//! Reads a backup, and refuses in words what is none: another file, a later format, one that is cut off,
//! and one of which a byte is another. Nothing of a file may be used before it was read to its end once.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use anyhow::{Context, anyhow, bail, ensure};
use client::lines::MAX_LINE;
use contract::{
    CollectionName, Revision,
    sha256::Sha256,
    snapshot::{SnapshotEnd, SnapshotItem, SnapshotProof, SnapshotStart},
    text::paths::ShownPath,
};
use serde::Deserialize;
use sha2::Digest as _;

use super::{
    Backup, End, FORMAT, Header,
    encryption::{self, Identities, Identity},
};

/// How a file begins that is compressed with zstd, or encrypted with age.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const AGE: &[u8] = b"age-encryption.org/";
/// Most bytes that a decoder keeps, as a power of two.
const WINDOW: u32 = 23;

/// A file that stays open. Each reading of it reads the same backup, or is refused: a program that writes
/// into the file would replace what was checked and confirmed.
pub(crate) struct BackupFile {
    path: PathBuf,
    file: Arc<File>,
    identities: Vec<Identity>,
    /// The lines of the first reading, once it was read to its end.
    lines: OnceLock<Vec<LineHash>>,
}

/// A line as the first reading saw it: enough of its SHA-256 that no other text has the same.
type LineHash = [u8; 16];

fn hash_of(line: &[u8]) -> LineHash {
    let hash: [u8; 32] = sha2::Sha256::digest(line).into();
    let mut short = LineHash::default();
    short.copy_from_slice(&hash[..16]);
    short
}

impl BackupFile {
    /// Opens a file. It is not read yet.
    ///
    /// # Errors
    /// When it cannot be opened, is no regular file, or an identity cannot be used.
    pub(crate) fn open(path: &Path, identities: &Identities) -> anyhow::Result<Self> {
        let opened = || -> io::Result<File> {
            // Before it is opened: a pipe without a writer would wait.
            if !std::fs::metadata(path)?.is_file() {
                let reason = "a backup is read more than once: expected a regular file";
                return Err(io::Error::other(reason));
            }
            File::open(path)
        };
        let file = opened().with_context(|| format!("cannot open {}", ShownPath(path)))?;
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            identities: identities.all()?,
            lines: OnceLock::new(),
        })
    }

    /// Reads it from its beginning, and hands each document over. Only the end proves that they were the
    /// documents of a backup.
    ///
    /// # Errors
    /// When the file is not a whole backup, or `each` fails.
    pub(crate) fn read(
        &self,
        mut each: impl FnMut(SnapshotItem) -> anyhow::Result<()>,
    ) -> anyhow::Result<Backup> {
        let mut documents = self.documents()?;
        loop {
            match documents.next()? {
                Next::Document(item) => each(item)?,
                Next::End(backup) => return Ok(backup),
            }
        }
    }

    /// Begins to read it.
    ///
    /// # Errors
    /// When the file is no backup, or of a later format.
    pub(crate) fn documents(&self) -> anyhow::Result<Documents<'_>> {
        let begun = Documents::begin(self);
        begun.with_context(|| self.cannot_use())
    }

    fn cannot_use(&self) -> String {
        format!("cannot use {}", ShownPath(&self.path))
    }
}

/// A backup that is being read.
pub(crate) struct Documents<'a> {
    backup: &'a BackupFile,
    text: BufReader<zstd::Decoder<'static, BufReader<Box<dyn Read>>>>,
    hash: sha2::Sha256,
    /// What was read until now.
    lines: Vec<LineHash>,
    /// The newest revision of each collection.
    newest: BTreeMap<CollectionName, Revision>,
    proof: SnapshotProof,
    header: Header,
    encrypted: bool,
}

/// What follows in a backup.
pub(crate) enum Next {
    /// A document; its checksum is right.
    Document(SnapshotItem),
    /// The end, and the proof that nothing is missing.
    End(Backup),
}

/// The member of the first line that every version has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    confcast_backup: Option<u64>,
}

impl<'a> Documents<'a> {
    fn begin(backup: &'a BackupFile) -> anyhow::Result<Self> {
        let mut file = Arc::clone(&backup.file);
        file.rewind()?;
        let mut file = BufReader::new(file);
        let encrypted = file.fill_buf()?.starts_with(AGE);
        let plain: Box<dyn Read> = if encrypted {
            Box::new(encryption::decrypt(file, &backup.identities)?)
        } else {
            Box::new(file)
        };
        let mut plain = BufReader::new(plain);
        let start = plain.fill_buf().map_err(unreadable)?;
        ensure!(start.starts_with(ZSTD), no_backup(start));
        let mut text = zstd::Decoder::with_buffer(plain)?;
        text.window_log_max(WINDOW)?;
        let mut text = BufReader::new(text);
        let mut hash = sha2::Sha256::new();
        let first = line(&mut text)?.ok_or_else(cut_off)?;
        hash.update(&first);
        let version: Version = serde_json::from_slice(&first).map_err(|_other| foreign())?;
        match version.confcast_backup {
            Some(FORMAT) => {}
            None => return Err(foreign()),
            Some(later) => bail!(
                "it is a backup of the format {later}, and this confcast reads the format {FORMAT}: \
                 use the version that wrote it, or a later one"
            ),
        }
        let header: Header =
            contract::objects::from_slice(&first).context("it is damaged in its first line")?;
        let heads = header.heads.iter();
        let newest: BTreeMap<_, _> = heads
            .map(|head| (head.collection.clone(), head.revision))
            .collect();
        ensure!(
            newest.len() == header.heads.len(),
            "it is damaged in its first line: a collection is there twice"
        );
        let proof = SnapshotProof::begin(SnapshotStart {
            epoch: header.epoch,
            heads: header.heads.clone(),
        });
        let mut documents = Self {
            backup,
            text,
            hash,
            lines: Vec::new(),
            newest,
            proof,
            header,
            encrypted,
        };
        documents.compare(&first)?;
        Ok(documents)
    }

    /// Requires that a line is that of the first reading.
    fn compare(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let line = hash_of(line);
        let first = self.backup.lines.get();
        let first = first.map(|lines| lines.get(self.lines.len()));
        self.lines.push(line);
        ensure!(
            first.is_none_or(|first| first == Some(&line)),
            "it was changed while it was in use: give the command again with a file that nothing writes"
        );
        Ok(())
    }

    /// Requires that a document is not newer than the head of its collection.
    fn check_revision(&self, item: &SnapshotItem) -> anyhow::Result<()> {
        let newest = self.newest.get(&item.collection);
        let revision = item.document.revision();
        ensure!(
            newest.is_some_and(|newest| revision <= *newest),
            "{}/{} has the revision {revision}, which its collection did not reach",
            item.collection,
            item.document.id()
        );
        Ok(())
    }

    /// The next document, or the end.
    ///
    /// # Errors
    /// When the file is not a whole backup.
    pub(crate) fn next(&mut self) -> anyhow::Result<Next> {
        let next = self.read();
        next.with_context(|| self.backup.cannot_use())
    }

    fn read(&mut self) -> anyhow::Result<Next> {
        let line = line(&mut self.text)?.ok_or_else(cut_off)?;
        self.compare(&line)?;
        if !line.starts_with(br#"{"end""#) {
            self.hash.update(&line);
            let number = self.proof.received() + 1;
            let item: SnapshotItem = contract::objects::from_slice(&line)
                .with_context(|| format!("it is damaged at document {number}"))?;
            self.proof.item(&item).context("it is damaged")?;
            self.check_revision(&item).context("it is damaged")?;
            return Ok(Next::Document(item));
        }
        let end: End = contract::objects::from_slice(&line).context("it is damaged at its end")?;
        let empty = SnapshotProof::begin(SnapshotStart {
            epoch: self.header.epoch,
            heads: Vec::new(),
        });
        let proof = std::mem::replace(&mut self.proof, empty);
        let announced = SnapshotEnd {
            end: end.end,
            count: end.count,
        };
        proof.finish(&announced).context("it is damaged")?;
        let sha256 = Sha256(std::mem::take(&mut self.hash).finalize().into());
        ensure!(
            sha256 == end.sha256,
            "it is damaged: its SHA-256 is {sha256}, and not {} as its last line says",
            end.sha256
        );
        ensure!(
            self::line(&mut self.text)?.is_none(),
            "it is damaged: more follows after its end"
        );
        // Another reading that ended first saw the same, or this one was refused.
        self.backup
            .lines
            .get_or_init(|| std::mem::take(&mut self.lines));
        Ok(Next::End(Backup {
            header: self.header.clone(),
            documents: end.count,
            sha256,
            encrypted: self.encrypted,
        }))
    }
}

/// The next line with its line feed; none at the end of the text.
fn line(text: &mut impl BufRead) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let longest = MAX_LINE as u64 + 1;
    let read = text.take(longest).read_until(b'\n', &mut line);
    read.map_err(unreadable)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() > MAX_LINE => bail!("it is damaged: a line is too long"),
        Some(_) => Err(cut_off()),
    }
}

fn cut_off() -> anyhow::Error {
    anyhow!("it is cut off: its end is missing")
}

fn foreign() -> anyhow::Error {
    anyhow!("it is no backup of confcast: it is other text, compressed with zstd")
}

/// An error of the decoders: they say so of bytes that are missing, or other ones.
fn unreadable(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => cut_off(),
        _other => anyhow::Error::new(error).context("it is damaged or cut off"),
    }
}

/// What a file is that begins like this.
fn no_backup(start: &[u8]) -> String {
    let what = match start.trim_ascii_start() {
        [] => "the file is empty",
        [b'{', ..] => "it looks like an export, which `confcast import` reads",
        text if text.starts_with(b"SQLite format 3") => {
            "it is a database file, as the one of the embedded store"
        }
        text if text.starts_with(b"-----BEGIN AGE") => {
            "it is encrypted as text: decrypt it with `age -d` first"
        }
        _other => "it is a file of another kind, or its first bytes are damaged",
    };
    format!("it is no backup of confcast: {what}")
}
