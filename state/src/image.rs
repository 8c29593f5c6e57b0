//! Last known good, as bytes: a whole root, to start from when nothing else answers.
//!
//! Lines of JSON: a header with the bookkeeping of every collection, a snapshot line per document,
//! and an end line with a checksum over all bytes before it. Nothing of an image is used unless all
//! of it is proven. What is staged is not in it: it was never seen, and heals.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Write},
};

use contract::{
    CollectionName, Digest, Document, DocumentId, Epoch, Revision, fleet::SettledPoint,
    snapshot::SnapshotItem,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::{collection::CollectionState, root::Root};

const FORMAT: u32 = 1;

/// A proven image.
#[derive(Debug)]
pub struct Image {
    pub(crate) root: Root,
    notes: ImageMeta,
}

/// What stands in an image besides what is held. It means nothing here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageMeta {
    /// When what is held was last known to be current, in Unix milliseconds.
    pub confirmed_ms: Option<i64>,
    /// Up to where the stream of each collection was read, where there are streams.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: BTreeMap<CollectionName, String>,
}

/// Why an image cannot be used. Nothing of it is.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It could not be read at all.
    #[error("it cannot be read")]
    Unreadable(#[from] io::Error),
    /// It was written in a format of another version.
    #[error("its format is {0}, not {FORMAT}")]
    Format(u32),
    /// A line is not what its place demands.
    #[error("line {0} is not understood")]
    Line(u64, #[source] serde_json::Error),
    /// It is cut, or its checksum does not hold.
    #[error("it is cut or changed: its last line does not prove the lines before")]
    Unproven,
    /// The documents of a collection are not those that the header counts.
    #[error("the documents of {0} do not add up to its header")]
    Disagrees(CollectionName),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: u32,
    epoch: Option<Epoch>,
    #[serde(flatten)]
    notes: ImageMeta,
    collections: BTreeMap<CollectionName, Bookkeeping>,
}

#[derive(Serialize, Deserialize)]
struct Bookkeeping {
    revision: Revision,
    beyond: Vec<(Revision, Revision)>,
    tombstones: BTreeMap<DocumentId, Revision>,
    settled: Option<SettledPoint>,
    count: u64,
    digest: Digest,
}

/// Only the part of a header that every format has.
#[derive(Deserialize)]
struct AnyHeader {
    format: u32,
}

/// Sums what passes through.
struct Summed<W> {
    inner: W,
    sum: Xxh3,
}

impl<W: Write> Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }
}

fn end_line(count: u64, sum: &Xxh3) -> String {
    format!(
        "{{\"end\":true,\"count\":{count},\"xxh3\":\"{:016x}\"}}\n",
        sum.digest()
    )
}

impl Root {
    /// Writes all versioned collections.
    ///
    /// # Errors
    /// When `out` refuses.
    pub fn write_image(&self, notes: &ImageMeta, out: &mut impl Write) -> io::Result<()> {
        let mut out = Summed {
            inner: out,
            sum: Xxh3::new(),
        };
        let saved = || {
            self.collections
                .iter()
                .filter(|(_name, held)| held.versioned)
        };
        let collections = saved()
            .map(|(name, held)| (name.clone(), Bookkeeping::of(held)))
            .collect();
        let mut line = serde_json::to_vec(&Header {
            format: FORMAT,
            epoch: self.epoch,
            notes: notes.clone(),
            collections,
        })?;
        line.push(b'\n');
        out.write(&line)?;
        let mut count = 0;
        for (name, held) in saved() {
            for document in held.documents() {
                line.clear();
                document.snapshot_line(name, &mut line);
                out.write(&line)?;
                count += 1;
            }
        }
        let end = end_line(count, &out.sum);
        out.inner.write_all(end.as_bytes())
    }
}

impl Bookkeeping {
    fn of(held: &CollectionState) -> Self {
        Self {
            revision: held.watermark,
            beyond: held
                .beyond
                .iter()
                .map(|range| (*range.start(), *range.end()))
                .collect(),
            tombstones: held
                .tombstones
                .iter()
                .map(|(id, revision)| (id.clone(), *revision))
                .collect(),
            settled: held.last_settled,
            count: held.count(),
            digest: held.digest,
        }
    }

    /// The collection, still without its documents.
    fn into_collection(self) -> CollectionState {
        let mut collection = CollectionState {
            loaded: true,
            versioned: true,
            ..CollectionState::default()
        };
        collection.tombstones = self.tombstones.into_iter().collect();
        collection.watermark = self.revision;
        collection.beyond = self
            .beyond
            .into_iter()
            .filter(|(a, b)| a <= b)
            .map(|(a, b)| a..=b)
            .collect();
        collection.known = collection.highest();
        collection.last_settled = self.settled;
        collection
    }
}

impl Image {
    /// Reads an image and proves it.
    ///
    /// # Errors
    /// When anything about it is off.
    pub fn read(mut input: impl BufRead) -> Result<Self, ImageError> {
        let mut sum = Xxh3::new();
        let mut line = Vec::new();
        input.read_until(b'\n', &mut line)?;
        let not_understood = |number| move |source| ImageError::Line(number, source);
        let AnyHeader { format } = serde_json::from_slice(&line).map_err(not_understood(1))?;
        if format != FORMAT {
            return Err(ImageError::Format(format));
        }
        let header: Header = serde_json::from_slice(&line).map_err(not_understood(1))?;
        let sums: Vec<_> = header
            .collections
            .iter()
            .map(|(name, said)| (name.clone(), said.count, said.digest))
            .collect();
        let collections = header
            .collections
            .into_iter()
            .map(|(name, said)| (name, said.into_collection()))
            .collect();
        let mut root = Root {
            epoch: header.epoch,
            collections,
            ..Root::default()
        };
        let mut count = 0;
        loop {
            sum.update(&line);
            line.clear();
            input.read_until(b'\n', &mut line)?;
            if line == end_line(count, &sum).as_bytes() {
                break;
            } else if line.is_empty() || line.starts_with(br#"{"end""#) {
                return Err(ImageError::Unproven);
            }
            count += 1;
            let item: SnapshotItem =
                serde_json::from_slice(&line).map_err(not_understood(count + 1))?;
            let document = Document::new(item.id, item.revision, &item.config_data);
            let collection = root
                .collections
                .get_mut(&item.collection)
                .filter(|_held| document.crc() == item.crc);
            collection
                .ok_or(ImageError::Disagrees(item.collection))?
                .put(document);
        }
        if !input.fill_buf()?.is_empty() {
            return Err(ImageError::Unproven);
        }
        for (name, count, digest) in sums {
            let held = root
                .collections
                .get_mut(&name)
                .filter(|held| held.count() == count && held.digest == digest);
            // What was staged is gone, so this moment may well be one that can be compared.
            held.ok_or(ImageError::Disagrees(name))?.note_settled();
        }
        Ok(Self {
            root,
            notes: header.notes,
        })
    }

    /// What stands in it besides.
    pub fn notes(&self) -> &ImageMeta {
        &self.notes
    }

    /// What it holds.
    pub fn root(&self) -> &Root {
        &self.root
    }
}
