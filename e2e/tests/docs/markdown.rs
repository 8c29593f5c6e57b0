//! As much of Markdown as the checks need: prose without code, links and anchors.

use std::collections::BTreeSet;

/// The lines of a document outside of fenced code blocks, with their numbers, from 1.
pub(crate) fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    let mut fence = None;
    for (number, line) in (1..).zip(text.lines()) {
        let start = line.trim_start();
        let marks = ["```", "~~~"]
            .into_iter()
            .find(|marks| start.starts_with(marks));
        match (fence, marks) {
            (None, Some(marks)) => fence = Some(marks),
            (Some(open), Some(marks)) if open == marks => fence = None,
            (None, None) => lines.push((number, line)),
            _ => {}
        }
    }
    lines
}

/// The targets of the links and pictures in a line.
pub(crate) fn links(line: &str) -> Vec<String> {
    let text = without_code(line);
    let targets = text.split("](").skip(1);
    targets
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split(' ').next().unwrap_or_default().to_owned())
        .collect()
}

/// The anchors of a document: those that GitHub makes from its headings.
pub(crate) fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_number, line) in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let anchor = anchor(title.trim());
        // A second heading of the same text gets a number.
        let repeated = (1..).map(|number| format!("{anchor}-{number}"));
        let mut free = std::iter::once(anchor.clone()).chain(repeated);
        anchors.extend(free.find(|name| !anchors.contains(name)));
    }
    anchors
}

fn anchor(title: &str) -> String {
    title
        .to_lowercase()
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn code_is_no_prose() {
    let text = "a\n```\n# b\n[c](d)\n```\ne";
    assert_eq!(prose(text), [(1, "a"), (6, "e")]);
}

#[test]
fn links_are_found_outside_of_code() {
    assert_eq!(
        links("[a](b.md#c) `[d](e)` ![f](g.svg)"),
        ["b.md#c", "g.svg"]
    );
}

#[test]
fn anchors_are_those_of_github() {
    let anchors = anchors("# A `b-c` d?\n## Twice\n## Twice\n#no\n");
    let expected = ["a-b-c-d", "twice", "twice-1"].map(str::to_owned);
    assert_eq!(anchors, BTreeSet::from(expected));
}
