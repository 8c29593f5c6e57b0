//! The last known good state as bytes: all collections of a replica, to start from when no
//! publisher answers.
//!
//! An image has lines of JSON: a header with the bookkeeping of every collection, one snapshot line
//! per document, and an end line with a checksum over all bytes before it. Nothing of an image is
//! used unless all of it is correct. Staged changes are not in it: readers never saw them, and
//! catch-up brings them again.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Write},
};

use contract::{
    CollectionName, Digest, Document, DocumentId, Epoch, Proof, Revision, fleet::SettledPoint,
    snapshot::SnapshotItem,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::{collection::CollectionState, root::Root};

/// Version of the format. An image with another version is refused as a whole.
const FORMAT: u32 = contract::formats::IMAGE;

/// An image whose checksum, counts and digests are correct.
#[derive(Debug)]
pub struct Image {
    pub(crate) root: Root,
    meta: ImageMeta,
}

/// Facts about an image that the state machine does not use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageMeta {
    /// When the replica was last confirmed as current, in milliseconds since 1970.
    pub confirmed_ms: Option<i64>,
    /// The position in the stream of each collection, where events come from streams.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: BTreeMap<CollectionName, String>,
}

/// Why an image cannot be used. Nothing of it is used; the replica then starts without documents and
/// waits for its first load.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Reading failed.
    #[error("it cannot be read")]
    Unreadable(#[from] io::Error),
    /// The image has the format of another version.
    #[error("its format is {0}, not {FORMAT}")]
    Format(u32),
    /// A line does not have the expected form.
    #[error("line {0} is not understood")]
    Line(u64, #[source] serde_json::Error),
    /// The image is cut off, or its checksum does not match.
    #[error("it is cut or changed: its last line does not prove the lines before")]
    Unproven,
    /// The documents of a collection do not match the header.
    #[error("the documents of {0} do not add up to its header")]
    Disagrees(CollectionName),
}

/// The first line of an image.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: u32,
    epoch: Option<Epoch>,
    #[serde(flatten)]
    meta: ImageMeta,
    collections: BTreeMap<CollectionName, Bookkeeping>,
}

/// The state of a collection without its documents. `count` and `digest` prove that the documents
/// which follow are complete.
#[derive(Serialize, Deserialize)]
struct Bookkeeping {
    revision: Revision,
    beyond: Vec<(Revision, Revision)>,
    tombstones: BTreeMap<DocumentId, Revision>,
    settled: Option<SettledPoint>,
    /// After a restart the proof may be the only evidence that a database was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proven: Option<(Revision, Proof)>,
    count: u64,
    digest: Digest,
}

/// The member of a header that every format has.
#[derive(Deserialize)]
struct AnyHeader {
    format: u32,
}

/// A writer that computes a checksum over everything that is written.
struct Summed<W> {
    inner: W,
    sum: Xxh3,
}

impl<W: Write> Summed<W> {
    /// Adds the bytes to the checksum and writes them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }
}

/// The last line. Reading compares whole lines, so its form is part of the format.
fn end_line(count: u64, sum: &Xxh3) -> String {
    format!(
        "{{\"end\":true,\"count\":{count},\"xxh3\":\"{:016x}\"}}\n",
        sum.digest()
    )
}

impl Image {
    /// The collections that it has.
    pub fn collections(&self) -> impl Iterator<Item = &CollectionName> {
        self.root.collections.keys()
    }
}

impl Root {
    /// Writes all versioned collections.
    ///
    /// An unversioned collection is omitted: without revisions nobody could say whether a saved
    /// value is older than the value of the publisher.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn write_image(&self, meta: &ImageMeta, out: &mut impl Write) -> io::Result<()> {
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
            meta: meta.clone(),
            collections,
        })?;
        line.push(b'\n');
        out.write(&line)?;
        // One buffer for all lines: an image may have a hundred thousand documents.
        let mut count = 0;
        for (name, held) in saved() {
            for document in held.documents() {
                line.clear();
                document.snapshot_line(name, &mut line);
                out.write(&line)?;
                count += 1;
            }
        }
        // Past the checksum: the end line contains it and cannot be part of it.
        let end = end_line(count, &out.sum);
        out.inner.write_all(end.as_bytes())
    }
}

impl Bookkeeping {
    /// The bookkeeping of a collection; `known` is omitted, because heads bring it again.
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
            proven: held.proven,
            count: held.count(),
            digest: held.digest,
        }
    }

    /// The collection, without its documents.
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
            // The set panics on a range that ends before it begins.
            .filter(|(a, b)| a <= b)
            .map(|(a, b)| a..=b)
            .collect();
        collection.known = collection.highest();
        collection.last_settled = self.settled;
        collection.proven = self.proven;
        collection
    }
}

impl Image {
    /// Reads and checks an image.
    ///
    /// The proof has three parts: the checksum over all lines, the number of documents, and the
    /// count and digest of each collection.
    ///
    /// # Errors
    /// When any part of it is not correct.
    pub fn read(mut input: impl BufRead) -> Result<Self, ImageError> {
        let mut sum = Xxh3::new();
        let mut line = Vec::new();
        input.read_until(b'\n', &mut line)?;
        let not_understood = |number| move |source| ImageError::Line(number, source);
        // The version first: the header of another version may have other members.
        let AnyHeader { format } = serde_json::from_slice(&line).map_err(not_understood(1))?;
        if format != FORMAT {
            return Err(ImageError::Format(format));
        }
        let header: Header = serde_json::from_slice(&line).map_err(not_understood(1))?;
        let sums: Vec<_> = header
            .collections
            .iter()
            .map(|(name, entry)| (name.clone(), entry.count, entry.digest))
            .collect();
        let collections = header
            .collections
            .into_iter()
            .map(|(name, entry)| (name, entry.into_collection()))
            .collect();
        let mut root = Root {
            epoch: header.epoch,
            collections,
            ..Root::default()
        };
        let mut documents: BTreeMap<CollectionName, Vec<Document>> = BTreeMap::new();
        let mut count = 0;
        loop {
            sum.update(&line);
            line.clear();
            input.read_until(b'\n', &mut line)?;
            // The end line is compared before it enters the checksum.
            if line == end_line(count, &sum).as_bytes() {
                break;
            } else if line.is_empty() || line.starts_with(br#"{"end""#) {
                return Err(ImageError::Unproven);
            }
            count += 1;
            let item: SnapshotItem =
                serde_json::from_slice(&line).map_err(not_understood(count + 1))?;
            let is_known = root.collections.contains_key(&item.collection);
            if !is_known || item.document.crc() != item.crc {
                return Err(ImageError::Disagrees(item.collection));
            }
            let of_collection = documents.entry(item.collection).or_default();
            of_collection.push(item.document);
        }
        // Bytes after the end line mean that two images were mixed.
        if !input.fill_buf()?.is_empty() {
            return Err(ImageError::Unproven);
        }
        for (name, count, digest) in sums {
            let Some(held) = root.collections.get_mut(&name) else {
                return Err(ImageError::Disagrees(name));
            };
            held.hold(documents.remove(&name).unwrap_or_default());
            if held.count() != count || held.digest != digest {
                return Err(ImageError::Disagrees(name));
            }
            // Staged changes are not in an image, so the collection may be settled now.
            held.note_settled();
        }
        Ok(Self {
            root,
            meta: header.meta,
        })
    }

    /// Facts about the image.
    pub fn meta(&self) -> &ImageMeta {
        &self.meta
    }

    /// The collections.
    pub fn root(&self) -> &Root {
        &self.root
    }
}
