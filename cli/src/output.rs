//! What a command prints: results on standard output, notes and errors on standard error, tables
//! for people.

use std::{fmt::Display, io};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Writes a line of the result. Unlike `println!` it does not panic when the reader has closed the
/// pipe, as `head` does.
pub(crate) fn result(line: impl Display) -> io::Result<()> {
    writeln(io::stdout().lock(), line)
}

/// Writes a line beside the result.
pub(crate) fn note(line: impl Display) {
    // Without standard error there is no other place to report to.
    writeln(io::stderr().lock(), line).ok();
}

/// Writes a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(result(serde_json::to_string_pretty(value)?)?)
}

/// An empty table in the style of all commands.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(header);
    table
}

/// An empty table that wraps its cells to the width of the terminal; anywhere else its lines are as
/// long as they need to be.
pub(crate) fn wrapping_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = table(header);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
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
    note(format_args!("confcast: {error:#}"));
    1
}

fn writeln(mut to: impl io::Write, line: impl Display) -> io::Result<()> {
    writeln!(to, "{line}")
}
