//! Files that a command is given: the one place that opens them. What a file is when it is not the
//! JSON that is expected, `contract::json_file` says; a text is never changed here, except that a
//! byte order mark is left out.

use std::path::Path;

use anyhow::Context;
use contract::{json_file, text::paths::ShownPath};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt},
};

/// Opens a file; `-` is standard input.
pub(crate) async fn open(path: &Path) -> anyhow::Result<Box<dyn AsyncRead + Unpin>> {
    if path == Path::new("-") {
        return Ok(Box::new(tokio::io::stdin()));
    }
    Ok(Box::new(File::open(path).await.with_context(|| {
        format!("cannot open {}", ShownPath(path))
    })?))
}

/// The text of a file that is one JSON object; `-` is standard input.
pub(crate) async fn object(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut file = open(path).await?;
    let read = file.read_to_end(&mut bytes).await;
    read.with_context(|| format!("cannot read {}", ShownPath(path)))?;
    text(path, &bytes)
}

/// The text of a file that is one JSON object, for code that reads folders.
pub(crate) fn object_now(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", ShownPath(path)))?;
    text(path, &bytes)
}

fn text(path: &Path, bytes: &[u8]) -> anyhow::Result<String> {
    let text =
        json_file::object(bytes).with_context(|| format!("cannot use {}", ShownPath(path)))?;
    Ok(text.to_owned())
}
