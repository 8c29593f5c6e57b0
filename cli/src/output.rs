//! What a command prints: results on standard output, notes and errors on standard error, tables
//! for people.
//!
//! Everything passes through here, and text of others is escaped here: a reason, a name or a value
//! can neither control the terminal nor begin a line. JSON stays JSON of the same value.

use std::{fmt::Display, io};

use anyhow::anyhow;
use client::ClientError;
use comfy_table::{CellAlignment, Color, ContentArrangement, presets};
use contract::{
    Problem,
    problem::{Current, Violation},
    references::Referrer,
    text::Escaped,
};
use serde::Serialize;

use crate::commands::{
    differences::{author, place},
    outcome::OutcomeUnknown,
};

/// Lines of a document that the message of a conflict shows.
const SHOWN: usize = 30;

/// Writes a line of the result. Unlike `println!` it does not panic when the reader has closed the
/// pipe, as `head` does.
pub(crate) fn result(line: impl Display) -> io::Result<()> {
    writeln(io::stdout().lock(), Escaped(line))
}

/// Writes lines of the result whose line feeds and colours are those of this program.
pub(crate) fn result_lines(lines: &str) -> io::Result<()> {
    writeln(io::stdout().lock(), shown(lines))
}

/// Writes a table of the result.
pub(crate) fn result_table(table: &Table) -> io::Result<()> {
    result_lines(&table.text())
}

/// Writes a line beside the result.
pub(crate) fn note(line: impl Display) {
    // Without standard error there is no other place to report to.
    writeln(io::stderr().lock(), Escaped(line)).ok();
}

/// Writes a line beside the result whose colours are those of this program.
pub(crate) fn coloured_note(line: &str) {
    writeln(io::stderr().lock(), shown(line)).ok();
}

/// Writes a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(result_lines(&serde_json::to_string_pretty(value)?)?)
}

/// A table whose cells are text of others. It is no `Display`: a line of the result has no line feeds.
pub(crate) struct Table(comfy_table::Table);

/// A cell: text, escaped.
pub(crate) struct Cell(comfy_table::Cell);

impl<T: Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self(comfy_table::Cell::new(Escaped(text)))
    }
}

/// A cell in colour, only on a terminal, and not when `NO_COLOR` is set.
pub(crate) fn coloured(text: &str, colour: Color) -> Cell {
    let Cell(cell) = text.into();
    Cell(if console::colors_enabled() {
        cell.fg(colour)
    } else {
        cell
    })
}

impl Table {
    /// Adds a row.
    pub(crate) fn add_row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.0.add_row(cells.into_iter().map(|cell| cell.into().0));
    }

    /// Aligns columns of numbers.
    pub(crate) fn align_right(&mut self, columns: impl IntoIterator<Item = usize>) {
        for column in columns {
            if let Some(column) = self.0.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The table as it is printed.
    pub(crate) fn text(&self) -> String {
        self.0.to_string()
    }
}

/// An empty table in the style of all commands.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = comfy_table::Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(header);
    Table(table)
}

/// An empty table that wraps its cells to the width of the terminal; anywhere else its lines are as
/// long as they need to be.
pub(crate) fn wrapping_table<const N: usize>(header: [&str; N]) -> Table {
    let Table(mut table) = table(header);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    Table(table)
}

/// What has to be read before a command writes: `nothing` says what did not happen otherwise. A pipe
/// without a reader is no failure of a command that only reads; here it is one.
///
/// # Errors
/// As `shown`.
pub(crate) fn required(shown: anyhow::Result<()>, nothing: &str) -> anyhow::Result<()> {
    shown.map_err(|error| anyhow!("{nothing}: {error:#}"))
}

/// Prints the error, if there is one, with its causes, and gives the exit code. A reader that has
/// closed the pipe is no error.
pub(crate) fn exit_code(result: anyhow::Result<()>) -> i32 {
    let Err(error) = result else { return 0 };
    let is_broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(is_broken_pipe) {
        return 0;
    }
    note(format_args!("confcast: {}", causes(&error)));
    for violation in violations(&error) {
        let place = place(&violation.pointer);
        note(format_args!("  {place}: {}", violation.detail));
    }
    for line in dangling(&error) {
        note(line);
    }
    for line in conflict(&error) {
        coloured_note(&line);
    }
    if is_unknown_parameter(&error) {
        note(
            "  the service is of an earlier version than this confcast, or a subscriber: leave out the option \
             that it does not know, or name a publisher of this version",
        );
    }
    // As of clap for arguments that cannot be used.
    if error.is::<CannotCompare>() {
        2
    } else if error.is::<NotApplied>() {
        3
    } else if error.is::<OutcomeUnknown>() {
        4
    } else {
        1
    }
}

/// A write is committed, but the replicas that were asked for have not applied it in time, or it
/// cannot be known: a script must not repeat the write. The text says which.
#[derive(Debug)]
pub(crate) struct NotApplied(pub(crate) String);

impl Display for NotApplied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotApplied {}

/// The context of an error of a command that says by exit code 1 that two things are different.
#[derive(Debug)]
pub(crate) struct CannotCompare;

impl Display for CannotCompare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot compare")
    }
}

/// The problem among the causes of an error.
fn problem(error: &anyhow::Error) -> Option<&Problem> {
    let mut causes = error.chain();
    causes.find_map(|cause| cause.downcast_ref::<ClientError>()?.problem())
}

/// Whether the service refused a parameter that this program sends: nothing was done. It sends those of
/// its version, so the service is older, or a subscriber.
fn is_unknown_parameter(error: &anyhow::Error) -> bool {
    problem(error).is_some_and(|problem| {
        let detail = &problem.detail;
        problem.field.is_some() && detail.starts_with("unknown query parameter")
    })
}

/// The rules of a schema that the refused document breaks; each gets a line of its own.
fn violations(error: &anyhow::Error) -> &[Violation] {
    problem(error).map_or(&[], |problem| &problem.errors)
}

/// The references that a refused write would leave without their documents, a line each.
fn dangling(error: &anyhow::Error) -> Vec<String> {
    let references = problem(error).map_or(&[][..], |problem| &problem.references);
    let mut lines: Vec<String> = references
        .iter()
        .map(|dangling| {
            let Referrer {
                collection,
                id,
                pointer,
            } = &dangling.referrer;
            let to = &dangling.refers_to;
            format!(
                "  {collection}/{id} refers at {pointer} to {}/{}",
                to.collection, to.id
            )
        })
        .collect();
    if !lines.is_empty() {
        lines.push("  a change set can change both ends together (POST /v1/changes)".to_owned());
    }
    lines
}

/// What a write conflicts with: the change that was made since, and the document that is there now.
fn conflict(error: &anyhow::Error) -> Vec<String> {
    let Some(problem) = problem(error) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    if let Some(change) = &problem.last_change {
        lines.push(format!("  {}", Escaped(author(change))));
    }
    match &problem.current {
        Some(Current::Absent) => lines.push("  there is no such document now".to_owned()),
        Some(Current::Document(document)) => {
            lines.push(format!(
                "  there is now, at revision {}:",
                document.revision
            ));
            let value = document
                .config_data
                .as_ref()
                .and_then(|it| it.to_value().ok());
            let pretty = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
            let pretty =
                pretty.unwrap_or_else(|| "a large document, which `get` prints".to_owned());
            let all = pretty.lines().count();
            lines.extend(pretty.lines().take(SHOWN).map(|line| format!("    {line}")));
            if all > SHOWN {
                lines.push("    … (`confcast get` prints all of it)".to_owned());
            }
        }
        None => {}
    }
    lines
}

/// An error with its causes in one line, without the violations or references that follow it.
fn causes(error: &anyhow::Error) -> String {
    let Some(problem) = problem(error)
        .filter(|problem| !problem.errors.is_empty() || !problem.references.is_empty())
    else {
        return format!("{error:#}");
    };
    let causes = error.chain().map(|cause| {
        if cause.is::<ClientError>() {
            format!("{} ({})", problem.title, problem.status)
        } else {
            cause.to_string()
        }
    });
    causes.collect::<Vec<_>>().join(": ")
}

/// Escapes all hidden characters except line feeds and the sequences that set a colour.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            shown.push('\n');
        }
        let mut parts = line.split("\u{1b}[");
        shown += &Escaped(parts.next().unwrap_or_default()).to_string();
        for part in parts {
            let end = part.find(|character: char| !matches!(character, '0'..='9' | ';'));
            let is_colour = end.is_some_and(|end| part[end..].starts_with('m'));
            shown += if is_colour { "\u{1b}[" } else { "\\u001b[" };
            shown += &Escaped(part).to_string();
        }
    }
    shown
}

fn writeln(mut to: impl io::Write, line: impl Display) -> io::Result<()> {
    writeln!(to, "{line}")
}

#[cfg(test)]
mod tests {
    use client::RefusedError;

    use super::*;

    #[test]
    fn text_of_others_cannot_control_the_terminal() {
        let mut all = table(["reason"]);
        all.add_row(["\u{1b}[2J\nforged\u{9b}2J\u{202e}"]);
        let text = all.text();
        assert!(
            text.contains("\\u001b[2J\\nforged\\u009b2J\\u202e"),
            "{text}"
        );
        assert_eq!(shown(&text), text);
    }

    #[test]
    fn lines_keep_their_colours_and_nothing_else() {
        assert_eq!(
            shown("\u{1b}[1;31mred\u{1b}[0m\n\u{1b}[2J\u{1b}]0;title\u{7}\u{85}"),
            "\u{1b}[1;31mred\u{1b}[0m\n\\u001b[2J\\u001b]0;title\\u0007\\u0085"
        );
    }

    #[test]
    fn a_refusal_leaves_its_violations_to_lines_of_their_own() {
        let violation = |pointer: &str| Violation {
            pointer: pointer.to_owned(),
            detail: format!("fault of {pointer:?}"),
        };
        let mut problem = contract::Problem::new(contract::ProblemKind::Schema, "both in a row");
        problem.errors = vec![violation("/level"), violation("")];
        let refused = ClientError::Refused(Box::new(RefusedError {
            publisher: "http://p:1".to_owned(),
            status: 422,
            retry_after: None,
            problem: Some(problem),
            excerpt: String::new(),
        }));
        let error = anyhow::Error::new(refused).context("file.json");
        assert_eq!(
            causes(&error),
            "file.json: The schema of the collection refuses the document (422)"
        );
        assert_eq!(violations(&error).len(), 2);
        let other = anyhow::anyhow!("inner").context("outer");
        assert_eq!(causes(&other), "outer: inner");
        assert!(violations(&other).is_empty());
    }

    #[test]
    fn a_refused_deletion_shows_each_referrer_on_a_line_of_its_own() {
        let problem = r#"{"type":"urn:confcast:problem:dangling-reference","title":"t","status":409,
            "detail":"in one line","references":[{"collection":"Channel","id":"c","pointer":"/skills/0",
                "refersTo":{"collection":"Skill","id":"s"}}]}"#;
        let error = anyhow::Error::new(ClientError::Refused(Box::new(RefusedError {
            publisher: "http://p:1".to_owned(),
            status: 409,
            retry_after: None,
            problem: Some(serde_json::from_str(problem).expect("a problem")),
            excerpt: String::new(),
        })));
        assert_eq!(causes(&error), "t (409)");
        assert_eq!(
            dangling(&error),
            [
                "  Channel/c refers at /skills/0 to Skill/s",
                "  a change set can change both ends together (POST /v1/changes)",
            ]
        );
    }

    #[test]
    fn a_conflict_shows_what_is_there_now_and_which_change_made_it() {
        let problem = r#"{"type":"urn:confcast:problem:condition-failed","title":"t","status":412,
            "detail":"d","current":{"revision":8,"crc":"00000000","configData":{"a":1}},
            "lastChange":{"collection":"A","id":"a","revision":8,"epoch":"00000001-1","op":"Update",
                "time":"2026-11-28T09:00:00Z","userId":"ada"}}"#;
        let shown = |json: &str| {
            conflict(&anyhow::Error::new(ClientError::Refused(Box::new(
                RefusedError {
                    publisher: "http://p:1".to_owned(),
                    status: 412,
                    retry_after: None,
                    problem: Some(serde_json::from_str(json).expect("a problem")),
                    excerpt: String::new(),
                },
            ))))
        };
        let lines = shown(problem);
        assert_eq!(
            lines[0],
            "  A/a was changed by ada at revision 8 (2026-11-28T09:00:00.000Z)"
        );
        assert_eq!(lines[1], "  there is now, at revision 8:");
        assert_eq!(lines[2..], ["    {", "      \"a\": 1", "    }"]);
        let absent = r#"{"type":"urn:confcast:problem:condition-failed","title":"t","status":412,
            "detail":"d","current":null}"#;
        assert_eq!(shown(absent), ["  there is no such document now"]);
    }

    #[test]
    fn a_parameter_that_only_this_version_knows_is_told_apart() {
        let refused = |detail: &str| {
            let problem = contract::Problem::new(contract::ProblemKind::BadRequest, detail);
            anyhow::Error::new(ClientError::Refused(Box::new(RefusedError {
                publisher: "http://p:1".to_owned(),
                status: 400,
                retry_after: None,
                problem: Some(problem.field("wait")),
                excerpt: String::new(),
            })))
        };
        let unknown = refused("unknown query parameter; known here: none");
        assert!(is_unknown_parameter(&unknown));
        assert!(!is_unknown_parameter(&refused(
            "expected all, a number or a part"
        )));
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({"a": "\u{7f}\u{9b}\u{202e}\n\u{1b}"});
        let text = serde_json::to_string_pretty(&value).expect("json");
        let printed = shown(&text);
        assert!(
            printed.contains("\\u202e") && printed.contains('\n'),
            "{printed}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&printed).ok(),
            Some(value)
        );
    }
}
