//! What the user sees: results on standard output, notes and errors on standard error, tables for
//! people.

use std::{fmt::Display, io};

use comfy_table::{Table, presets};
use serde::Serialize;

/// Writes a line of the result. Unlike `println!` it survives a reader that went away, as `head`
/// does.
pub(crate) fn say(line: impl Display) -> io::Result<()> {
    writeln(io::stdout().lock(), line)
}

/// Writes a line beside the result.
pub(crate) fn note(line: impl Display) {
    // Nobody is left to be told when standard error is gone.
    writeln(io::stderr().lock(), line).ok();
}

/// Writes a value as JSON that people can read, too.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(say(serde_json::to_string_pretty(value)?)?)
}

/// An empty table in the one style of all commands.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(header);
    table
}

/// Tells the error, if there is one, with its causes. A reader of the output who had enough is no
/// error.
pub(crate) fn exit_code(result: anyhow::Result<()>) -> i32 {
    let Err(error) = result else { return 0 };
    let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(broken_pipe) {
        return 0;
    }
    note(format_args!("confcast: {error:#}"));
    1
}

fn writeln(mut to: impl io::Write, line: impl Display) -> io::Result<()> {
    writeln!(to, "{line}")
}
