//! What is said of a name that is not known here, with the one that was probably meant.
//!
//! It is only ever part of a text: nothing is decided with it.

use contract::CollectionName;
pub use contract::text::nearest::nearest;

/// What a client is told of a collection that is not among these; with the name that was probably
/// meant, if there is one. Publisher and subscriber say the same.
pub fn unknown_collection<'a>(
    name: &str,
    served: impl IntoIterator<Item = &'a CollectionName>,
) -> String {
    match nearest(name, served.into_iter().map(CollectionName::as_str)) {
        Some(meant) => format!("There is no collection {name:?} here; did you mean {meant}?"),
        None => format!(
            "There is no collection {name:?} here; add it to AURA_CONFIGURATION_COLLECTIONS."
        ),
    }
}
