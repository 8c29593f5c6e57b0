//! The question before a command changes much: yes on a terminal, `--yes` anywhere else.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, ensure};

use crate::output;

/// Asks, and returns when the answer is yes. `what` completes "Type yes to …".
///
/// # Errors
/// When the answer is another one, or there is no terminal that could give it.
pub(super) fn ask(what: &str) -> anyhow::Result<()> {
    let stdin = io::stdin();
    ensure!(
        stdin.is_terminal(),
        "nothing was done: without a terminal for the confirmation it takes --yes to {what}"
    );
    confirm(what, stdin.lock())
}

fn confirm(what: &str, mut answer: impl BufRead) -> anyhow::Result<()> {
    output::note(format_args!("Type yes to {what}:"));
    let mut line = String::new();
    answer
        .read_line(&mut line)
        .context("cannot read the answer")?;
    ensure!(
        line.trim() == "yes",
        "nothing was done: the answer was not yes"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_confirms() {
        confirm("go on", &b"yes\n"[..]).expect("confirmed");
        for answer in ["", "y\n", "no\n"] {
            let error = confirm("go on", answer.as_bytes()).expect_err(answer);
            let text = error.to_string();
            assert!(text.starts_with("nothing was done"), "{text}");
        }
    }
}
