//! The state of one collection in a replica: its documents, and the revisions that it has seen.
//!
//! This module keeps the bookkeeping and decides nothing; see [`crate::machine`]. It never looks at
//! another collection, so it knows nothing about the parts of a change set elsewhere.

use contract::{Digest, Document, DocumentId, Proof, Revision, fleet::SettledPoint};
use imbl::OrdMap;
use rangemap::RangeInclusiveSet;

use crate::{documents::Documents, received::ReceivedChange, staging::Staging};

/// Documents and bookkeeping of one collection. Cloning shares the documents.
///
/// Two kinds exist. A *versioned* collection counts its changes in revisions without gaps. An
/// unversioned collection has a publisher without revisions; its documents have revision 0, and
/// there is no watermark, no tombstone and no settled point.
///
/// The *watermark* W says that every revision up to W was seen; `beyond` has the ranges that were
/// seen after a gap. A staged change is in neither, so W never passes a change that readers cannot
/// see.
#[derive(Debug, Clone, Default)]
pub struct CollectionState {
    /// The live documents.
    pub(crate) documents: Documents,
    /// Deleted documents: an event or a snapshot with an older revision may still arrive for them.
    pub(crate) tombstones: OrdMap<DocumentId, Revision>,
    /// Every revision up to this one was seen.
    pub(crate) watermark: Revision,
    /// Revisions that were seen after a gap; none of them is next to the watermark.
    pub(crate) beyond: RangeInclusiveSet<Revision>,
    /// Changes that wait for a change set. Readers do not see them.
    pub(crate) staged: Staging,
    /// The highest revision that is known to exist. Catch-up is needed while it is above the
    /// watermark.
    pub(crate) known: Revision,
    /// Digest over `documents`; every change of a document updates it.
    pub(crate) digest: Digest,
    /// Whether a load or an image has filled the collection.
    pub(crate) loaded: bool,
    /// Whether it joined after the first load and is not loaded yet. What is held of the other
    /// collections can be read meanwhile.
    pub(crate) joining: bool,
    /// Whether its publisher counts revisions.
    pub(crate) versioned: bool,
    /// Whether the digest of the publisher differed at the same revision.
    pub(crate) diverged: bool,
    /// The newest revision at which the digest could be compared, with the digest there.
    pub(crate) last_settled: Option<SettledPoint>,
    /// The highest revision that a publisher confirmed, by a head or in the feed.
    pub(crate) confirmed: Revision,
    /// The highest revision of which a proof is held, and the proof.
    pub(crate) proven: Option<(Revision, Proof)>,
    /// The revision of its publisher, after the publisher found that what is held was never
    /// committed; until a load.
    pub(crate) refuted: Option<Revision>,
}

/// An event may be this many revisions beyond what a publisher confirmed. What it says of later ones
/// is confirmed first: a wrong event could otherwise keep a replica behind for ever.
pub(crate) const MAX_LEAD: Revision = 1_024;

impl CollectionState {
    /// Keeps the documents and nothing of their revisions, which do not count in the history that
    /// begins. Its first load of that history replaces them, at whatever revision.
    pub(crate) fn outlive_history(&mut self) {
        *self = Self {
            documents: std::mem::take(&mut self.documents),
            digest: self.digest,
            loaded: self.loaded,
            versioned: self.versioned,
            diverged: self.versioned,
            refuted: self.versioned.then_some(0),
            ..Self::default()
        };
    }

    /// A live document.
    pub fn get(&self, id: &DocumentId) -> Option<&Document> {
        self.documents.get(id)
    }

    /// The live documents, by id.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.iter()
    }

    /// The live documents after an id, by id. A long list is read in chunks this way, and nothing
    /// is held between two chunks.
    pub fn documents_after<'a>(
        &'a self,
        id: Option<&DocumentId>,
    ) -> impl Iterator<Item = &'a Document> {
        self.documents.after(id)
    }

    /// The documents in which this state differs from an older one, each as it was and as it is, by id.
    /// The cost is proportional to the differences when one state was derived from the other.
    pub fn changes_since<'a>(
        &'a self,
        older: &'a Self,
    ) -> Vec<(Option<&'a Document>, Option<&'a Document>)> {
        older.documents.differences(&self.documents)
    }

    /// Number of live documents.
    pub fn count(&self) -> u64 {
        self.documents.len() as u64
    }

    /// Whether it joined after the first load and is not loaded yet.
    pub fn joining(&self) -> bool {
        self.joining
    }

    /// The watermark: every revision up to this one was seen.
    pub fn watermark(&self) -> Revision {
        self.watermark
    }

    /// The highest revision that is known to exist, seen or not.
    pub fn known(&self) -> Revision {
        self.known
    }

    /// Digest over the live documents.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether nothing was seen beyond the watermark and nothing is staged. Only then can
    /// `watermark` and `digest` be compared with a publisher.
    pub fn settled(&self) -> bool {
        self.loaded && self.versioned && self.beyond.is_empty() && self.staged.len() == 0
    }

    /// The newest settled point; removed when the epoch changes or the collection is reset.
    pub fn last_settled(&self) -> Option<SettledPoint> {
        self.last_settled
    }

    /// Number of changes that wait for their change set.
    pub fn staged(&self) -> usize {
        self.staged.len()
    }

    /// Number of ranges of revisions that were seen beyond the watermark.
    pub fn ranges_beyond(&self) -> usize {
        self.beyond.len()
    }

    /// The watermark that the collection would have if everything up to `revision` were seen.
    ///
    /// A page of the feed that ends at `revision` can close a gap: the revisions after the gap
    /// were already seen, so the watermark then continues to the end of their range.
    pub fn runs_on_to(&self, revision: Revision) -> Revision {
        let revision = revision.max(self.watermark);
        self.beyond
            .get(&(revision + 1))
            .map_or(revision, |range| *range.end())
    }

    /// The highest revision of which a proof is held, and the proof.
    pub fn proven(&self) -> Option<(Revision, Proof)> {
        self.proven
    }

    /// The revision of the publisher that found out that what is held was never committed; `None`
    /// when that is not so. The next load replaces the collection, also by an older revision.
    pub fn refuted(&self) -> Option<Revision> {
        self.refuted
    }

    /// Whether a revision is so far beyond everything that a publisher confirmed that an event alone
    /// does not show it to exist.
    pub(crate) fn is_far(&self, revision: Revision) -> bool {
        revision > self.watermark.max(self.confirmed).saturating_add(MAX_LEAD)
    }

    /// Notes that a publisher confirmed a revision, and its proof.
    pub(crate) fn confirm(&mut self, revision: Revision, proof: Option<Proof>) {
        self.confirmed = self.confirmed.max(revision);
        self.note_proof(revision, proof);
    }

    /// Keeps the proof of a revision, unless one of a later revision is held.
    pub(crate) fn note_proof(&mut self, revision: Revision, proof: Option<Proof>) {
        if let Some(proof) = proof
            && self.proven.is_none_or(|(held, _proof)| held <= revision)
        {
            self.proven = Some((revision, proof));
        }
    }

    /// Whether its digest differed from the digest of the publisher; the next load resets it.
    pub fn diverged(&self) -> bool {
        self.diverged
    }

    /// Whether it was loaded at least once.
    pub fn loaded(&self) -> bool {
        self.loaded
    }

    /// Whether its publisher has ever sent a head. Without one, the order of events and late events
    /// of deleted documents cannot be recognised (requirement A20 to A23).
    pub fn versioned(&self) -> bool {
        self.versioned
    }

    /// The highest revision that was seen.
    pub(crate) fn highest(&self) -> Revision {
        self.beyond
            .last()
            .map_or(self.watermark, |range| *range.end())
    }

    /// Whether a revision was seen: readers see it, or a newer revision of the same document.
    pub(crate) fn seen(&self, revision: Revision) -> bool {
        revision <= self.watermark || self.beyond.contains(&revision)
    }

    /// Whether a revision has arrived, visible or staged.
    pub(crate) fn covered(&self, revision: Revision) -> bool {
        self.seen(revision) || self.staged.get(revision).is_some()
    }

    /// The revision of a document or of its tombstone; 0 when there is neither.
    pub(crate) fn held(&self, id: &DocumentId) -> Revision {
        self.documents
            .get(id)
            .map(Document::revision)
            .or_else(|| self.tombstones.get(id).copied())
            .unwrap_or(0)
    }

    /// Marks a revision as seen and moves the watermark over everything that is now contiguous.
    pub(crate) fn see(&mut self, revision: Revision) {
        self.known = self.known.max(revision);
        if revision > self.watermark {
            self.beyond.insert(revision..=revision);
            self.run_on();
        }
    }

    /// Moves the watermark to at least `revision`, removes the ranges below it, and continues over
    /// the next range if it is contiguous.
    pub(crate) fn see_all(&mut self, revision: Revision) {
        self.known = self.known.max(revision);
        self.watermark = self.watermark.max(revision);
        self.run_on();
    }

    /// Moves the watermark over the ranges that are next to it. A loop, because a new watermark may
    /// touch the next range in turn.
    fn run_on(&mut self) {
        while let Some(first) = self.beyond.first().cloned()
            && *first.start() <= self.watermark + 1
        {
            self.watermark = self.watermark.max(*first.end());
            self.beyond.remove(first);
        }
    }

    /// Makes a change visible, unless the document is newer, and marks its revision as seen.
    pub(crate) fn apply_visible(&mut self, change: &ReceivedChange) {
        // A newer revision of the document is visible already, so this one only counts as seen.
        if self.held(&change.id) < change.revision {
            match change.document() {
                Some(document) => self.put(document),
                // The tombstone keeps an older event from bringing the document back.
                None => {
                    self.remove(&change.id);
                    self.tombstones.insert(change.id.clone(), change.revision);
                }
            }
        }
        self.see(change.revision);
        self.note_proof(change.revision, change.proof);
        self.note_settled();
    }

    /// Keeps this moment as the settled point, if it is one.
    pub(crate) fn note_settled(&mut self) {
        if self.settled() {
            self.last_settled = Some(SettledPoint {
                revision: self.watermark,
                digest: self.digest,
            });
        }
    }

    /// Takes all documents of a collection that has none yet, at less cost than one after the other.
    pub(crate) fn hold(&mut self, documents: Vec<Document>) {
        self.documents = documents.into();
        for document in self.documents.iter() {
            self.tombstones.remove(document.id());
            self.digest = self
                .digest
                .with(document.id(), document.revision(), document.crc());
        }
    }

    /// Stores a document in place of its older revision, and updates the digest. The caller has
    /// compared the revisions.
    pub(crate) fn put(&mut self, document: Document) {
        // The digest is a sum, so the order of adding the new and removing the old does not matter.
        self.digest = self
            .digest
            .with(document.id(), document.revision(), document.crc());
        self.tombstones.remove(document.id());
        if let Some(old) = self.documents.insert(document) {
            self.digest = self.digest.without(old.id(), old.revision(), old.crc());
        }
    }

    /// Removes a document. Returns whether it existed.
    pub(crate) fn remove(&mut self, id: &DocumentId) -> bool {
        let old = self.documents.remove(id);
        if let Some(old) = &old {
            self.digest = self.digest.without(id, old.revision(), old.crc());
        }
        old.is_some()
    }

    /// Removes the tombstones up to the watermark. No event can bring such a document back, because
    /// every revision up to the watermark counts as a duplicate.
    pub(crate) fn prune_tombstones(&mut self) {
        // The map is rebuilt only when there is something to remove: most calls find nothing.
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

    /// The held document of the same revision and checksum; its buffer can be used again.
    pub(crate) fn same(&self, document: &Document) -> Option<&Document> {
        self.documents
            .get(document.id())
            .filter(|held| held.revision() == document.revision() && held.crc() == document.crc())
    }
}
