//! Which names of groups are those of single replicas. It never guesses: a name that is neither a
//! UUID nor given by the user belongs to another application.

use std::str::FromStr;

/// Names of groups of single replicas besides UUIDs, as `--groups` gives them: `*` stands for one or
/// more characters. So the name of an application does not match as a name of its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<String>);

impl Pattern {
    pub(super) fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_first() else {
            return false;
        };
        name.strip_prefix(first.as_str())
            .is_some_and(|name| ends(rest, name))
    }
}

/// Whether a star and then each of these parts, in this order, match a whole name.
fn ends(parts: &[String], name: &str) -> bool {
    let Some((part, rest)) = parts.split_first() else {
        return name.is_empty();
    };
    let starts = name
        .char_indices()
        .skip(1)
        .map(|(at, _char)| at)
        .chain((!name.is_empty()).then_some(name.len()));
    let mut starts = starts.filter_map(|at| name.get(at..));
    starts.any(|name| {
        name.strip_prefix(part.as_str())
            .is_some_and(|name| ends(rest, name))
    })
}

impl FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.chars().all(|char| char == '*') {
            return Err(
                "expected the names of single replicas, like configuration-subscriber-*: this would be every group",
            );
        }
        if text.contains(['?', '[', ']', '{', '}']) {
            return Err("only * has a special meaning: one or more characters");
        }
        Ok(Self(text.split('*').map(str::to_owned).collect()))
    }
}

/// Whether a sidecar made the name from `{uuid}`, which is new at each start of the sidecar.
pub(super) fn is_uuid(name: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let parts = name.split('-').map(str::len);
    let hexadecimal =
        |char: char| char == '-' || char.is_ascii_digit() || ('a'..='f').contains(&char);
    parts.eq(lengths) && name.chars().all(hexadecimal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_a_whole_name() {
        for (pattern, name, expected) in [
            ("pod-*", "pod-0", true),
            ("pod-*", "pod-", false),
            ("pod-*", "a-pod-0", false),
            ("app*", "app", false),
            ("*-sub-*", "a-sub-1", true),
            ("*-sub-*", "-sub-1", false),
            ("a*b*b", "axbyb", true),
            ("a*b*b", "axbb", false),
            ("a*c", "aécc", true),
            ("pod-0", "pod-0", true),
            ("pod-0", "pod-01", false),
        ] {
            assert_eq!(
                pattern.parse::<Pattern>().expect(pattern).matches(name),
                expected,
                "{pattern} {name}"
            );
        }
        for pattern in ["", "*", "**", "pod-?", "pod-[0-9]"] {
            pattern.parse::<Pattern>().expect_err(pattern);
        }
    }

    #[test]
    fn a_uuid_has_the_form_that_a_sidecar_writes() {
        assert!(is_uuid("494f538f-9864-4315-ab7a-f32b64dfb8df"));
        for name in [
            "",
            "494F538F-9864-4315-AB7A-F32B64DFB8DF",
            "494f538f98644315ab7af32b64dfb8df",
            "pod-494f538f-9864",
        ] {
            assert!(!is_uuid(name), "{name}");
        }
    }
}
