//! The name that was probably meant where an unknown one was given.
//!
//! It is only ever part of a text: nothing is decided with it.

/// Longest name that is compared; the cost grows with the square.
const LONGEST: usize = 128;

/// The known name that is most like the given one, if one is so much like it that a typing error
/// explains the difference.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if given.len() > LONGEST {
        return None;
    }
    let lower = given.to_lowercase();
    let length = lower.chars().count();
    let distance = |name: &str| strsim::damerau_levenshtein(&lower, &name.to_lowercase());
    known
        .into_iter()
        .filter(|name| name.len() <= LONGEST)
        // The difference of the lengths is the least distance, and costs nothing.
        .filter(|name| {
            let known = name.chars().count();
            length.abs_diff(known) <= known / 3
        })
        .map(|name| (distance(name), name))
        .filter(|(distance, name)| *distance <= name.chars().count() / 3)
        .min()
        .map(|(_distance, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_the_name_and_another_word_finds_none() {
        let known = ["retries", "timeoutSeconds", "name"];
        for (given, expected) in [
            ("retrys", Some("retries")),
            ("timeout_seconds", Some("timeoutSeconds")),
            ("TimeoutSeconds", Some("timeoutSeconds")),
            ("nmae", Some("name")),
            ("colour", None),
            ("", None),
            ("timeoutSecondsOfTheRequest", None),
        ] {
            assert_eq!(nearest(given, known), expected, "{given}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), known), None);
    }
}
