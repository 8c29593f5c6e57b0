//! Text of others, made safe for a line of a log and for a terminal.
//!
//! A reason, a name or a value that came from another process may hold characters that end a line,
//! move the cursor, clear the screen or change the order in which text is shown. [`Escaped`] shows
//! them as JSON does, so that the same rule serves lines and JSON. Nothing here decides what a value
//! may hold, and stored values are never changed.

use std::fmt::{self, Display, Write};

pub mod nearest;
pub mod paths;

/// Whether a character is not shown as itself: a control (C0, DEL, C1), a line or paragraph
/// separator, a control of the direction of text, or a character without width.
pub fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61C}'
            | '\u{200B}'..='\u{200F}'
            | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{FEFF}')
}

/// Shows a value with every hidden character escaped as in JSON: `\n`, `\t`, `\u001b`.
///
/// Inside the strings of a JSON text the value stays the same.
pub struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaper(f), "{}", self.0)
    }
}

impl<T: fmt::Debug> fmt::Debug for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaper(f), "{:?}", self.0)
    }
}

/// Escapes what is written through it, as [`Escaped`] does.
pub struct Escaper<W>(pub W);

impl<W: Write> Write for Escaper<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_hidden) {
            let (plain, from) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut characters = from.chars();
            match characters.next() {
                Some('\n') => self.0.write_str("\\n")?,
                Some('\r') => self.0.write_str("\\r")?,
                Some('\t') => self.0.write_str("\\t")?,
                // Every hidden character is in the basic plane, so four digits are enough.
                Some(hidden) => write!(self.0, "\\u{:04x}", u32::from(hidden))?,
                None => {}
            }
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_control_is_escaped_and_other_text_stays() {
        for (given, shown) in [
            ("\u{1b}[2J", "\\u001b[2J"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{7f}\u{9b}\u{0}", "\\u007f\\u009b\\u0000"),
            (
                "\u{202e}\u{2066}\u{200f}\u{61c}",
                "\\u202e\\u2066\\u200f\\u061c",
            ),
            ("\u{2028}\u{2029}\u{feff}", "\\u2028\\u2029\\ufeff"),
            ("größer 配置 🙂 \\n", "größer 配置 🙂 \\n"),
        ] {
            assert_eq!(Escaped(given).to_string(), shown);
        }
    }

    proptest! {
        #[test]
        fn nothing_hidden_remains_and_json_keeps_its_value(text in any::<String>()) {
            let shown = Escaped(&text).to_string();
            prop_assert!(!shown.contains(is_hidden));
            let json = serde_json::to_string(&text).expect("a string");
            let back: String = serde_json::from_str(&Escaped(json).to_string()).expect("json");
            prop_assert_eq!(back, text);
        }
    }
}
