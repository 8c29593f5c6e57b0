//! One collection in a replica: its documents, and which revisions it has seen.

use contract::{Crc, Digest, Document, DocumentId, Revision, fleet::SettledPoint};
use imbl::OrdMap;
use rangemap::RangeInclusiveSet;

use crate::{received::ReceivedChange, staging::Staging};

/// Documents and bookkeeping of one collection. Cloning shares the documents.
///
/// The *watermark* W says that every revision up to it was seen; `beyond` holds the ranges seen
/// past a hole. What is staged is in neither: W never runs over a change that readers cannot see.
#[derive(Debug, Clone, Default)]
pub struct CollectionState {
    pub(crate) documents: OrdMap<DocumentId, Document>,
    /// Deleted documents whose deletion could still be contradicted by something older.
    pub(crate) tombstones: OrdMap<DocumentId, Revision>,
    pub(crate) watermark: Revision,
    pub(crate) beyond: RangeInclusiveSet<Revision>,
    pub(crate) staged: Staging,
    pub(crate) known: Revision,
    pub(crate) digest: Digest,
    pub(crate) loaded: bool,
    pub(crate) versioned: bool,
    pub(crate) diverged: bool,
    pub(crate) last_settled: Option<SettledPoint>,
}

impl CollectionState {
    /// A live document.
    pub fn get(&self, id: &DocumentId) -> Option<&Document> {
        self.documents.get(id)
    }

    /// The live documents, by id.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.values()
    }

    /// The live documents after an id, by id: how a long list is read in pieces without holding
    /// anything.
    pub fn documents_after(&self, id: Option<&DocumentId>) -> impl Iterator<Item = &Document> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = id.map_or(Unbounded, Excluded);
        self.documents
            .range::<_, DocumentId>((from, Unbounded))
            .map(|(_id, document)| document)
    }

    /// How many documents are live.
    pub fn count(&self) -> u64 {
        self.documents.len() as u64
    }

    /// Every revision up to this one was seen.
    pub fn watermark(&self) -> Revision {
        self.watermark
    }

    /// The highest revision heard of, whether seen or not.
    pub fn known(&self) -> Revision {
        self.known
    }

    /// Digest over the live documents.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Nothing was seen beyond the watermark and nothing is staged, so `watermark` and `digest` may
    /// be compared with a publisher's.
    pub fn settled(&self) -> bool {
        self.loaded && self.versioned && self.beyond.is_empty() && self.staged.len() == 0
    }

    /// The newest moment at which it was settled; forgotten when its history changes or it is
    /// reset.
    pub fn last_settled(&self) -> Option<SettledPoint> {
        self.last_settled
    }

    /// How many changes are here but wait for a set to be complete.
    pub fn staged(&self) -> usize {
        self.staged.len()
    }

    /// How many ranges of revisions were seen beyond the watermark.
    pub fn ranges_beyond(&self) -> usize {
        self.beyond.len()
    }

    /// Up to where everything is seen, once everything up to a revision is.
    pub fn runs_on_to(&self, revision: Revision) -> Revision {
        let revision = revision.max(self.watermark);
        self.beyond
            .get(&(revision + 1))
            .map_or(revision, |range| *range.end())
    }

    /// Its digest was found to differ from the publisher's; the next load resets it.
    pub fn diverged(&self) -> bool {
        self.diverged
    }

    /// Whether it was loaded at least once.
    pub fn loaded(&self) -> bool {
        self.loaded
    }

    /// Whether its publisher ever gave it a head. If not, order and resurrection cannot be told
    /// (requirement A20 to A23).
    pub fn versioned(&self) -> bool {
        self.versioned
    }

    /// The highest revision seen.
    pub(crate) fn highest(&self) -> Revision {
        self.beyond
            .last()
            .map_or(self.watermark, |range| *range.end())
    }

    /// Whether a revision was seen: readers see it, or something newer in its place.
    pub(crate) fn seen(&self, revision: Revision) -> bool {
        revision <= self.watermark || self.beyond.contains(&revision)
    }

    /// Whether a revision is here, visible or not.
    pub(crate) fn covered(&self, revision: Revision) -> bool {
        self.seen(revision) || self.staged.get(revision).is_some()
    }

    /// The revision of whatever is held of a document, dead or alive.
    pub(crate) fn held(&self, id: &DocumentId) -> Revision {
        self.documents
            .get(id)
            .map(Document::revision)
            .or_else(|| self.tombstones.get(id).copied())
            .unwrap_or(0)
    }

    /// Counts a revision as seen and moves the watermark over what has become contiguous.
    pub(crate) fn see(&mut self, revision: Revision) {
        self.known = self.known.max(revision);
        if revision > self.watermark {
            self.beyond.insert(revision..=revision);
            self.run_on();
        }
    }

    /// Moves the watermark to at least `revision`, forgets the ranges below, and runs on over the
    /// next one.
    pub(crate) fn see_all(&mut self, revision: Revision) {
        self.known = self.known.max(revision);
        self.watermark = self.watermark.max(revision);
        self.run_on();
    }

    fn run_on(&mut self) {
        while let Some(first) = self.beyond.first().cloned()
            && *first.start() <= self.watermark + 1
        {
            self.watermark = self.watermark.max(*first.end());
            self.beyond.remove(first);
        }
    }

    /// Makes a change visible, unless the document is newer, and counts it as seen.
    pub(crate) fn apply_visible(&mut self, hint: &ReceivedChange) {
        if self.held(&hint.id) < hint.revision {
            match hint.document() {
                Some(document) => self.put(document),
                None => {
                    self.remove(&hint.id);
                    self.tombstones.insert(hint.id.clone(), hint.revision);
                }
            }
        }
        self.see(hint.revision);
        self.note_settled();
    }

    /// Keeps this moment, if it can be compared.
    pub(crate) fn note_settled(&mut self) {
        if self.settled() {
            self.last_settled = Some(SettledPoint {
                revision: self.watermark,
                digest: self.digest,
            });
        }
    }

    pub(crate) fn put(&mut self, document: Document) {
        self.digest = self
            .digest
            .with(document.id(), document.revision(), document.crc());
        self.tombstones.remove(document.id());
        if let Some(old) = self.documents.insert(document.id().clone(), document) {
            self.digest = self.digest.without(old.id(), old.revision(), old.crc());
        }
    }

    /// Takes a document away; whether it was there.
    pub(crate) fn remove(&mut self, id: &DocumentId) -> bool {
        let old = self.documents.remove(id);
        if let Some(old) = &old {
            self.digest = self.digest.without(id, old.revision(), old.crc());
        }
        old.is_some()
    }

    /// Tombstones up to the watermark can no longer be contradicted by an event: every such
    /// revision is covered.
    pub(crate) fn prune_tombstones(&mut self) {
        if self
            .tombstones
            .values()
            .any(|revision| *revision <= self.watermark)
        {
            let kept = self
                .tombstones
                .iter()
                .filter(|(_id, revision)| **revision > self.watermark);
            self.tombstones = kept.map(|(id, revision)| (id.clone(), *revision)).collect();
        }
    }

    /// What is held of a document equals this, so its buffer can serve on.
    pub(crate) fn same(&self, id: &DocumentId, revision: Revision, crc: Crc) -> Option<&Document> {
        self.documents
            .get(id)
            .filter(|held| held.revision() == revision && held.crc() == crc)
    }
}
