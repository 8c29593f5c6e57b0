//! The folder of `confcast files`, as an application reads it that resolves the link first.
//!
//! The status file says of which revisions the files are. It is read before and after them, and counts only
//! when it names the folder that the link names.

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::Context;
use serde::Deserialize;

use super::{
    super::{driver::Driver, record::DocumentKey},
    FolderView, Followed, Follower,
};
use crate::testbed::SCHEMA_FREE;

/// The members of the status that the campaign needs.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    generation: Option<u64>,
    epoch: Option<String>,
    revisions: BTreeMap<String, u64>,
}

/// Adds the folder, unless it was seen before.
pub(super) fn look(follower: &Follower, out: &Path, status: &Path, driver: &Driver) {
    let Some(before) = read_status(status) else {
        return;
    };
    let Some((epoch, revisions)) = revisions_of(&before) else {
        return;
    };
    let is_known = |last: &Followed| match last {
        Followed::Folder(last) => last.epoch == epoch && last.revisions == revisions,
        _ => false,
    };
    if follower.record().observed.last().is_some_and(is_known) {
        return;
    }
    let Ok(folder) = fs::read_link(out.join("current")) else {
        return;
    };
    let number = folder
        .file_name()
        .and_then(|name| name.to_str()?.parse().ok());
    if number != before.generation {
        return;
    }
    let files = match read_files(&out.join(&folder)) {
        // It was removed meanwhile.
        Ok(None) => return,
        Ok(Some(tokens)) => Ok(tokens),
        Err(error) => Err(error),
    };
    if read_status(status).as_ref() != Some(&before) {
        return;
    }
    let at = driver.now();
    let followed = match files {
        Ok(tokens) => Followed::Folder(FolderView {
            at,
            epoch,
            revisions,
            tokens,
        }),
        Err(error) => Followed::Wrong {
            at,
            what: format!("{}: {error:#}", folder.display()),
        },
    };
    follower.record().add(followed);
}

fn read_status(path: &Path) -> Option<Status> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The epoch and the revision of each collection; `None` before there are any.
fn revisions_of(status: &Status) -> Option<(String, [u64; SCHEMA_FREE.len()])> {
    let mut revisions = [0; SCHEMA_FREE.len()];
    for (revision, name) in revisions.iter_mut().zip(SCHEMA_FREE) {
        *revision = *status.revisions.get(name)?;
    }
    Some((status.epoch.clone()?, revisions))
}

/// The documents in a folder with their tokens; `None` when it is no longer there.
fn read_files(folder: &Path) -> anyhow::Result<Option<Vec<(DocumentKey, u64)>>> {
    match read_all(folder) {
        Ok(files) => files
            .into_iter()
            .map(|(collection, name, text)| {
                read_file(&collection, &name, &text).with_context(|| format!("{collection}/{name}"))
            })
            .collect::<anyhow::Result<_>>()
            .map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Collection, name and content of each file.
fn read_all(folder: &Path) -> io::Result<Vec<(String, String, Vec<u8>)>> {
    let name = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut files = Vec::new();
    for collection in fs::read_dir(folder)? {
        let collection = collection?;
        for file in fs::read_dir(collection.path())? {
            let file = file?;
            files.push((name(&collection), name(&file), fs::read(file.path())?));
        }
    }
    Ok(files)
}

fn read_file(collection: &str, name: &str, text: &[u8]) -> anyhow::Result<(DocumentKey, u64)> {
    #[derive(Deserialize)]
    struct Token {
        token: u64,
    }

    let id = name.strip_suffix(".json").context("another name")?;
    let key = DocumentKey::parse(collection, id).context("nobody writes this document")?;
    let Token { token } = serde_json::from_slice(text)?;
    Ok((key, token))
}
