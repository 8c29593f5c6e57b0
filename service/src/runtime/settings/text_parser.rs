//! The value parser of every setting: a text without the white space around it. It refuses nothing;
//! mistakes are collected elsewhere, so that all of them are reported together.

use std::ffi::OsStr;

use clap::{Arg, Command, builder::TypedValueParser};

/// Takes a text, trimmed. Bytes that are not UTF-8 become U+FFFD.
#[derive(Debug, Clone, Copy)]
pub(super) struct TrimmedText;

impl TypedValueParser for TrimmedText {
    type Value = String;

    fn parse_ref(
        &self,
        _command: &Command,
        _argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        Ok(value.to_string_lossy().trim().to_owned())
    }
}
