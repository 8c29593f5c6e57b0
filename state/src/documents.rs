//! The live documents of a collection: found by id, and listed in the order of ids.
//!
//! Most changes give a document another value. They touch the map alone; only a document that comes
//! or goes changes the order.

use contract::{Document, DocumentId};

use crate::{
    id_map::{HasId, IdMap},
    order::Order,
};

impl HasId for Document {
    fn id(&self) -> &DocumentId {
        self.id()
    }
}

/// See the head of the module. Cloning shares everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Documents {
    /// The documents.
    by_id: IdMap<Document>,
    /// Their ids, in order.
    order: Order,
}

impl Documents {
    /// Number of documents.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The document of an id.
    pub(crate) fn get(&self, id: &DocumentId) -> Option<&Document> {
        self.by_id.get(id.as_str())
    }

    /// All documents, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Document> {
        self.after(None)
    }

    /// The documents after an id, by id; all of them after none.
    pub(crate) fn after<'a>(
        &'a self,
        id: Option<&DocumentId>,
    ) -> impl Iterator<Item = &'a Document> {
        self.order.after(id).filter_map(|id| self.get(id))
    }

    /// Takes a document, in place of its other revision, which it returns.
    pub(crate) fn insert(&mut self, document: Document) -> Option<Document> {
        let id = document.id().clone();
        let old = self.by_id.insert(document);
        if old.is_none() {
            self.order.insert(id);
        }
        old
    }

    /// Removes a document.
    pub(crate) fn remove(&mut self, id: &DocumentId) -> Option<Document> {
        let old = self.by_id.remove(id.as_str())?;
        self.order.remove(id);
        Some(old)
    }

    /// The documents in which `newer` differs, each as it was and as it is, by id. What both share
    /// is skipped.
    pub(crate) fn differences<'a>(
        &'a self,
        newer: &'a Self,
    ) -> Vec<(Option<&'a Document>, Option<&'a Document>)> {
        let mut differences = self.by_id.differences(&newer.by_id);
        differences.sort_unstable_by_key(|(before, now)| now.or(*before).map(Document::id));
        differences
    }
}

/// The last one of each id.
impl From<Vec<Document>> for Documents {
    fn from(mut documents: Vec<Document>) -> Self {
        // Most are in order already.
        documents.sort_by(|one, other| one.id().cmp(other.id()));
        documents.dedup_by(|later, earlier| {
            let is_same = later.id() == earlier.id();
            if is_same {
                std::mem::swap(later, earlier);
            }
            is_same
        });
        Self {
            order: documents
                .iter()
                .map(|document| document.id().clone())
                .collect(),
            by_id: documents.into_iter().collect(),
        }
    }
}
