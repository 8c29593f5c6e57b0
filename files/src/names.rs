//! The names of the files of documents.
//!
//! An id is a safe name nearly always (`contract::DocumentId`: 1 to 128 of `A-Z a-z 0-9 _ - . :`). What
//! is left: a name that begins with a dot is hidden from `*`, and one that begins with a hyphen is read
//! as an option. Their first character is written as `%2E` and `%2D`. An id has no `%`, so different ids
//! have different names. Names that differ in case alone are one file on some file systems;
//! `generation` finds that when it creates the second one.

use contract::{CollectionName, DocumentId};

/// The path of the file of a document, relative to its generation: `COLLECTION/ID.json`.
pub(crate) fn document_path(collection: &CollectionName, id: &DocumentId) -> String {
    let id = id.as_str();
    let name = match id.split_at_checked(1) {
        Some((".", rest)) => format!("%2E{rest}"),
        Some(("-", rest)) => format!("%2D{rest}"),
        _ => id.to_owned(),
    };
    format!("{collection}/{name}.json")
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    /// Longest name of a file on common file systems, in bytes.
    const NAME_MAX: usize = 255;

    proptest! {
        #[test]
        fn no_id_leads_out_of_the_folder_and_no_two_ids_share_a_file(
            left in "[-A-Za-z0-9_.:]{1,128}",
            right in "[-A-Za-z0-9_.:]{1,128}",
            collection in "[A-Za-z][A-Za-z0-9_]{0,63}",
        ) {
            let Ok(collection) = collection.parse::<CollectionName>() else { return Ok(()) };
            let paths: Vec<_> = [&left, &right]
                .into_iter()
                .filter_map(|id| id.parse::<DocumentId>().ok())
                .map(|id| document_path(&collection, &id))
                .collect();
            for path in &paths {
                let parts: Vec<_> = Path::new(path).components().collect();
                prop_assert_eq!(parts.len(), 2);
                for part in parts {
                    let Component::Normal(name) = part else { panic!("{part:?} of {path}") };
                    let name = name.to_str().expect("ASCII");
                    prop_assert!(name.len() <= NAME_MAX && !name.starts_with(['.', '-']));
                }
            }
            if let [one, other] = &paths[..] {
                prop_assert_eq!(one == other, left == right);
            }
        }

        #[test]
        fn whatever_is_no_id_never_becomes_a_path(text in "\\PC{0,200}|(\\.\\./){1,5}[a-z]*|[a-z]*\u{0}") {
            if let Ok(id) = text.parse::<DocumentId>() {
                let is_unsafe = id.as_str().contains(['/', '\u{0}', '%', '\\']);
                prop_assert!(!is_unsafe, "{}", id);
                prop_assert!(id.as_str() != "." && id.as_str() != "..");
            }
        }
    }
}
