//! Differences of values, and the changes that made them, in words and in tables for people.
//!
//! Values are shown as JSON in one line; a long one was cut by the publisher, or is cut here.

use contract::{
    Operation,
    history::{ChangeNote, Difference},
};

use super::point::shown_time;

/// Differences that a cell of a table names.
const IN_A_CELL: usize = 3;
/// Longest value in a cell of a table of changes, in characters.
const VALUE_CHARS: usize = 40;
/// Longest value in a line, in characters; `get` prints whole ones.
const LINE_CHARS: usize = 200;
/// Characters before the place where two long values differ that are shown with it.
const BEFORE_IT: usize = 20;

/// The differences of one document, a line each: `/enabled: true → false`.
pub(super) fn lines(differences: &[Difference], truncated: bool) -> Vec<String> {
    let each = differences.iter().map(|difference| {
        let [before, after] = values(difference, LINE_CHARS);
        format!("{}: {before} → {after}", place(&difference.pointer))
    });
    let more = truncated.then(|| "and more differences, which are not listed".to_owned());
    each.chain(more).collect()
}

/// The first differences of one document, for a cell.
pub(super) fn in_short(differences: &[Difference], truncated: bool) -> String {
    let shown = differences.iter().take(IN_A_CELL).map(|difference| {
        let [before, after] = values(difference, VALUE_CHARS);
        format!("{} {before} → {after}", place(&difference.pointer))
    });
    let mut text = shown.collect::<Vec<_>>().join("; ");
    let more = differences.len().saturating_sub(IN_A_CELL);
    if truncated {
        text += &format!("; and more than {more} more");
    } else if more > 0 {
        text += &format!("; and {more} more");
    }
    text
}

/// The value before and after a difference; `-` where there is none. Of long values the part is shown
/// where they begin to differ.
pub(super) fn values(difference: &Difference, characters: usize) -> [String; 2] {
    let texts = [&difference.before, &difference.after].map(|value| {
        let value = value.as_ref()?;
        // The beginning of a long value is given as a text.
        let beginning = value.to_value().ok().filter(|_| difference.abridged);
        Some(
            match beginning.as_ref().and_then(serde_json::Value::as_str) {
                Some(beginning) => beginning.to_owned(),
                None => value.as_str().to_owned(),
            },
        )
    });
    let skipped = match &texts {
        [Some(before), Some(after)] if before == after => {
            return texts.map(|text| {
                let text = cut(text.as_deref().unwrap_or_default(), characters);
                format!("{text} (differs after what is shown: `show` prints it)")
            });
        }
        [Some(before), Some(after)] => {
            let pairs = before.chars().zip(after.chars());
            let alike = pairs.take_while(|(before, after)| before == after).count();
            if alike + BEFORE_IT < characters {
                0
            } else {
                alike.saturating_sub(BEFORE_IT)
            }
        }
        _one_or_none => 0,
    };
    texts.map(|text| match text {
        None => "-".to_owned(),
        Some(text) if skipped == 0 => cut(&text, characters),
        Some(text) => {
            let rest: String = text.chars().skip(skipped).collect();
            format!("…{}", cut(&rest, characters))
        }
    })
}

/// A JSON pointer; the pointer to a whole document is empty and would read as a mistake.
pub(crate) fn place(pointer: &str) -> &str {
    if pointer.is_empty() {
        "(document)"
    } else {
        pointer
    }
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _character)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A change in words: which user made it, when and why.
pub(crate) fn author(change: &ChangeNote) -> String {
    let user = change.context.author();
    let user = user.unwrap_or_else(|| "an unnamed user".to_owned());
    let time = shown_time(change.time);
    let reason = change.context.reason();
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason:?}"));
    let what = match change.op {
        Operation::Create => "created",
        Operation::Update => "changed",
        Operation::Delete => "deleted",
    };
    format!(
        "{}/{} was {what} by {user} at revision {} ({time}){reason}",
        change.collection, change.id, change.revision
    )
}

#[cfg(test)]
mod tests {
    use contract::{CanonicalJson, history::difference};

    use super::*;

    fn json(text: &str) -> CanonicalJson {
        CanonicalJson::parse(text.as_bytes()).expect("JSON")
    }

    #[test]
    fn a_cell_names_the_first_differences_and_counts_the_others() {
        let before = json(r#"{"a":1,"b":2,"c":3,"d":4,"e":5}"#);
        let after = json(&format!(r#"{{"a":"{}","e":5}}"#, "x".repeat(99)));
        let diff = difference(Some(&before), Some(&after));
        let text = in_short(&diff.differences, diff.truncated);
        let long = "x".repeat(VALUE_CHARS - 1);
        assert_eq!(
            text,
            format!("/a 1 → \"{long}…; /b 2 → -; /c 3 → -; and 1 more")
        );
        let all = lines(&diff.differences, true);
        assert_eq!((all.len(), all[1].as_str()), (5, "/b: 2 → -"));
        let created = difference(None, Some(&json("{}"))).differences;
        assert_eq!(lines(&created, false), ["(document): - → {}"]);
        let text = |end| json(&format!(r#"{{"a":"{}{end}"}}"#, "x".repeat(600)));
        let changed = difference(Some(&text("A")), Some(&text("B"))).differences;
        let alike = "x".repeat(BEFORE_IT);
        assert_eq!(
            lines(&changed, false),
            [format!("/a: …{alike}A\" → …{alike}B\"")]
        );
        let text = |end| json(&format!(r#"{{"a":"{}{end}"}}"#, "x".repeat(2_000)));
        let changed = difference(Some(&text("A")), Some(&text("B"))).differences;
        let line = &lines(&changed, false)[0];
        assert_eq!(
            line.matches("differs after what is shown").count(),
            2,
            "{line}"
        );
        let long = json(&format!(r#"{{"a":"{}"}}"#, "x".repeat(2_000)));
        let created = difference(None, Some(&long)).differences;
        let line = &lines(&created, false)[0];
        assert!(line.starts_with(r#"(document): - → {"a":"xx"#), "{line}");
        assert!(line.len() < 250 && line.ends_with('…'), "{line}");
    }
}
