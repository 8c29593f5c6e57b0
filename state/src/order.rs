//! The ids of a collection in their order, in pages.
//!
//! A change copies one page and a path of the map that has the pages. Cloning shares everything.

use std::{
    ops::Bound::{Included, Unbounded},
    sync::Arc,
};

use contract::DocumentId;
use imbl::OrdMap;

/// Largest number of ids in a page.
const PAGE: usize = 64;

/// Ids in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order {
    /// Pages by their first id. None is empty.
    pages: OrdMap<DocumentId, Arc<[DocumentId]>>,
}

impl Order {
    /// The ids after one; all of them after none.
    pub(crate) fn after<'a>(
        &'a self,
        id: Option<&DocumentId>,
    ) -> impl Iterator<Item = &'a DocumentId> {
        let from = id.map_or(Unbounded, |id| {
            let page = self.pages.get_prev(id);
            Included(page.map_or(id, |(first, _page)| first).clone())
        });
        let pages = self.pages.range((from, Unbounded));
        pages.flat_map(move |(_first, page)| {
            let at = id.map_or(0, |id| page.partition_point(|held| held <= id));
            &page[at..]
        })
    }

    /// Adds an id that it does not have.
    pub(crate) fn insert(&mut self, id: DocumentId) {
        let page = self
            .pages
            .get_prev(&id)
            .or_else(|| self.pages.iter().next());
        let page = page.map_or_else(Arc::default, |(_first, page)| Arc::clone(page));
        let at = page.partition_point(|held| *held < id);
        if at == 0
            && let Some(first) = page.first()
        {
            // The page begins with another id now.
            self.pages.remove(first);
        }
        // Ids that grow fill their pages; others come anywhere, so both halves have capacity.
        let kept = if page.len() < PAGE || at == PAGE {
            PAGE
        } else {
            PAGE / 2
        };
        let (before, after) = page.split_at(at);
        let ids = || before.iter().chain([&id]).chain(after).cloned();
        self.put(ids().take(kept).collect());
        self.put(ids().skip(kept).collect());
    }

    /// Removes an id.
    pub(crate) fn remove(&mut self, id: &DocumentId) {
        let page = self.pages.get_prev(id).map(|(_first, page)| page);
        let rest = page.into_iter().flat_map(|page| page.iter());
        let rest: Vec<_> = rest.filter(|held| *held != id).cloned().collect();
        if rest.first().is_none_or(|first| first > id) {
            self.pages.remove(id);
        }
        self.put(rest.into());
    }

    /// Adds a page, in place of the one that begins with the same id.
    fn put(&mut self, page: Arc<[DocumentId]>) {
        if let Some(first) = page.first().cloned() {
            self.pages.insert(first, page);
        }
    }
}

/// Of ids that are in order.
impl FromIterator<DocumentId> for Order {
    fn from_iter<I: IntoIterator<Item = DocumentId>>(ids: I) -> Self {
        let mut ids = ids.into_iter().peekable();
        let mut order = Self::default();
        while ids.peek().is_some() {
            order.put(ids.by_ref().take(PAGE).collect());
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, ops::Bound};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn id(number: u16) -> DocumentId {
        format!("document-{number}").parse().expect("an id")
    }

    proptest! {
        #[test]
        fn it_has_the_ids_of_a_set_in_their_order(
            first in vec(0..500_u16, 0..300),
            toggled in vec(0..500_u16, 0..1_000),
            after in 0..500_u16,
        ) {
            let mut model: BTreeSet<_> = first.into_iter().map(id).collect();
            let mut order: Order = model.iter().cloned().collect();
            let (old, old_model) = (order.clone(), model.clone());
            for id in toggled.into_iter().map(id) {
                if model.remove(&id) {
                    order.remove(&id);
                } else {
                    order.insert(id.clone());
                    model.insert(id);
                }
            }
            assert!(order.after(None).eq(&model));
            assert!(old.after(None).eq(&old_model), "a clone stays");
            let after = id(after);
            let rest = model.range::<DocumentId, _>((Bound::Excluded(&after), Bound::Unbounded));
            assert!(order.after(Some(&after)).eq(rest));
            assert!(order.pages.values().all(|page| (1..=PAGE).contains(&page.len())));
        }
    }
}
