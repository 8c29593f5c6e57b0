//! How a change is printed: as JSON, or for people with the lines that it changed.

use std::fmt::Write;

use console::Style;
use contract::{CanonicalJson, EventData, Operation, text::Escaped};
use serde::Deserialize;
use similar::{ChangeTag, TextDiff};

use super::documents::Before;

/// Unchanged lines around a change.
const CONTEXT: usize = 2;

/// How changes are printed.
#[derive(Debug)]
pub(super) struct LinePrinter {
    json: bool,
    colour: bool,
}

/// The member that only the feed of a publisher has.
#[derive(Deserialize)]
struct CommitTime {
    time: Option<String>,
}

impl LinePrinter {
    /// In colour only for a terminal.
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            colour: console::colors_enabled(),
        }
    }

    /// A change, without the last line feed.
    pub(super) fn of(
        &self,
        item: &str,
        data: &EventData,
        before: &Before,
    ) -> anyhow::Result<String> {
        if self.json {
            return Ok(item.to_owned());
        }
        let done = match data.op {
            Operation::Create => self.paint(&Style::new().green(), "created"),
            Operation::Update => self.paint(&Style::new().yellow(), "updated"),
            Operation::Delete => self.paint(&Style::new().red(), "deleted"),
        };
        let mut text = String::new();
        if let CommitTime { time: Some(time) } = contract::objects::from_str(item)? {
            write!(text, "{} ", self.paint(&Style::new().dim(), &time))?;
        }
        let document = format!("{}/{}", data.collection, data.id);
        let revision = data.revision.unwrap_or_default();
        write!(
            text,
            "{} {done} at {revision}",
            self.paint(&Style::new().bold(), &document),
        )?;
        if let Some(set) = &data.change_set {
            write!(text, " in set {}", Escaped(&set.id))?;
        }
        if let Some(user) = data.context.author() {
            write!(text, " by {user}")?;
        }
        if let Some(reason) = data.context.reason() {
            write!(text, ": {reason:?}")?;
        }
        match (before, &data.config_data) {
            (Before::Unknown, Some(now)) => pretty(now)
                .lines()
                .for_each(|line| text += &format!("\n    {}", Escaped(line))),
            (Before::Unknown, None) => {}
            (Before::Nothing, now) => {
                self.diff("", &now.as_ref().map(pretty).unwrap_or_default(), &mut text)
            }
            (Before::Value(was), now) => {
                self.diff(
                    &pretty(was),
                    &now.as_ref().map(pretty).unwrap_or_default(),
                    &mut text,
                );
            }
        }
        Ok(text)
    }

    fn diff(&self, was: &str, now: &str, text: &mut String) {
        let diff = TextDiff::from_lines(was, now);
        for (at, group) in diff.grouped_ops(CONTEXT).iter().enumerate() {
            if at > 0 {
                *text += "\n    …";
            }
            for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
                let (sign, style) = match change.tag() {
                    ChangeTag::Delete => ('-', Style::new().red()),
                    ChangeTag::Insert => ('+', Style::new().green()),
                    ChangeTag::Equal => (' ', Style::new()),
                };
                let line = format!("  {sign} {}", change.value().trim_end_matches('\n'));
                *text += &format!("\n{}", self.paint(&style, &line));
            }
        }
    }

    fn paint(&self, style: &Style, text: &str) -> String {
        style
            .clone()
            .force_styling(self.colour)
            .apply_to(Escaped(text))
            .to_string()
    }
}

/// One member per line, each ending in a line feed.
fn pretty(config: &CanonicalJson) -> String {
    let value = config.to_value().ok();
    let pretty = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
    pretty.unwrap_or_else(|| config.as_str().to_owned()) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(json: bool, colour: bool, before: &Before) -> String {
        let item = r#"{"collection":"A","op":"Update","id":"x","revision":7,"configData":{"a":1,"b":2,"c":3,"d":4,"e":5},"time":"T"}"#;
        let data = serde_json::from_str(item).expect("data");
        LinePrinter { json, colour }
            .of(item, &data, before)
            .expect("printed")
    }

    #[test]
    fn changed_lines_are_printed_with_their_surroundings() {
        let was = CanonicalJson::parse(br#"{"a":1,"b":2,"c":3,"d":4,"e":6}"#).expect("json");
        let before = Before::Value(was);
        let lines = [
            "T A/x updated at 7",
            "      \"c\": 3,",
            "      \"d\": 4,",
            "  -   \"e\": 6",
            "  +   \"e\": 5",
            "    }",
        ];
        assert_eq!(printed(false, false, &before), lines.join("\n"));
        assert!(printed(false, true, &before).contains("\u{1b}[32m  +   \"e\": 5\u{1b}[0m"));
        assert!(printed(true, true, &before).starts_with(r#"{"collection":"A""#));
        let whole = printed(false, false, &Before::Unknown);
        assert!(
            whole.contains("\n      \"a\": 1,") && !whole.contains('+'),
            "{whole}"
        );
    }
}
