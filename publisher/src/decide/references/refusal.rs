//! The refusal of a command: which references it would leave without their documents.

use contract::{
    CollectionName, DocumentId,
    references::{DanglingReference, Reference, ReferredDocument, Referrer},
};

use super::{NAMED, WriteError};

/// The references that a command would leave without their documents.
#[derive(Default)]
pub(super) struct Dangling {
    references: Vec<DanglingReference>,
    more: bool,
    pointer: Option<String>,
}

impl Dangling {
    /// `own` = the reference is in the value of the write.
    pub(super) fn add(
        &mut self,
        (collection, id): &(CollectionName, DocumentId),
        reference: Reference,
        index: Option<usize>,
        own: bool,
    ) {
        if self.references.len() == NAMED {
            self.more = true;
            return;
        }
        if self.references.is_empty() {
            self.pointer = match index {
                Some(index) if own => {
                    Some(format!("/changes/{index}/configData{}", reference.pointer))
                }
                Some(index) => Some(format!("/changes/{index}")),
                None => own.then(|| reference.pointer.clone()),
            };
        }
        let referrer = Referrer {
            collection: collection.clone(),
            id: id.clone(),
            pointer: reference.pointer,
        };
        self.references.push(DanglingReference {
            referrer,
            refers_to: ReferredDocument {
                collection: reference.collection,
                id: reference.id.chars().take(DocumentId::MAX_LEN).collect(),
            },
            index,
        });
    }

    pub(super) fn into_result(self) -> Result<(), WriteError> {
        if self.references.is_empty() {
            return Ok(());
        }
        Err(WriteError::DanglingReference {
            references: self.references,
            more: self.more,
            pointer: self.pointer,
        })
    }
}

/// The text of a refusal: the first references in words.
pub(crate) fn detail(references: &[DanglingReference], more: bool) -> String {
    /// Most references in the text.
    const IN_WORDS: usize = 5;
    let mut lines: Vec<_> = references
        .iter()
        .take(IN_WORDS)
        .map(|dangling| {
            let Referrer {
                collection,
                id,
                pointer,
            } = &dangling.referrer;
            let to = &dangling.refers_to;
            format!(
                "{collection}/{id} refers at {} to {}/{}, which would not exist",
                contract::text::Escaped(pointer),
                to.collection,
                contract::text::Escaped(&to.id)
            )
        })
        .collect();
    if more || references.len() > IN_WORDS {
        lines.push("and more".to_owned());
    }
    lines.join("; ")
}
