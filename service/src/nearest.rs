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
    let served: Vec<_> = served.into_iter().map(CollectionName::as_str).collect();
    match nearest_collection(name, &served) {
        Some(meant) => format!("There is no collection {name:?} here; did you mean {meant}?"),
        None => format!(
            "There is no collection {name:?} here; add it to AURA_CONFIGURATION_COLLECTIONS."
        ),
    }
}

/// The ending that names of collections usually have. Two of them are alike by it alone, so it says
/// nothing about the name that was meant.
const ENDING: &str = "configuration";

/// The collection that was probably meant; the usual ending may be left out.
fn nearest_collection<'a>(name: &str, served: &[&'a str]) -> Option<&'a str> {
    let stem = |name: &str| {
        let lower = name.to_lowercase();
        // The typing error may be in the ending.
        let split = lower.len().checked_sub(ENDING.len());
        match split.and_then(|at| lower.split_at_checked(at)) {
            Some((stem, ending)) if nearest(ending, [ENDING]).is_some() => stem.to_owned(),
            _ => lower,
        }
    };
    let stems: Vec<_> = served.iter().map(|name| stem(name)).collect();
    let meant = nearest(&stem(name), stems.iter().map(String::as_str))?;
    let index = stems.iter().position(|stem| stem == meant)?;
    served.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_ending_of_collections_neither_helps_nor_hides_a_name() {
        let served = ["AgentConfiguration", "ChannelConfiguration", "Lamps"];
        for (given, expected) in [
            ("kannel", Some("ChannelConfiguration")),
            ("channel", Some("ChannelConfiguration")),
            ("ChanelConfiguratoin", Some("ChannelConfiguration")),
            ("lampsConfiguration", Some("Lamps")),
            ("DoorConfiguration", None),
            ("Configuration", None),
        ] {
            assert_eq!(nearest_collection(given, &served), expected, "{given}");
        }
    }
}
