//! What several tests need: roots with documents, and folders.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use contract::{CanonicalJson, CollectionName, DocumentId};
use secrets::{Keyring, Place, Plain, Sealed, system_entropy};
use serde_json::{Value, json};
use state::{Machine, Root};
use tempfile::TempDir;

use crate::{Access, Content, FilesError, Limits, content::Source, folder::Folder};

mod generations;
mod pace;
mod progress;
mod templates;

const LIMITS: Limits = Limits {
    file_bytes: 10_000,
    files: 10,
};
const ACCESS: Access = Access {
    mode: 0o640,
    secret_mode: 0o600,
    owner: None,
};
/// 32 bytes of 7 as base64.
const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// A state with these documents of one collection.
fn root(documents: &[(&str, Value)]) -> Root {
    let name: CollectionName = "Site".parse().expect("a name");
    let mut machine = Machine::new(&BTreeSet::from([name.clone()]));
    let documents = documents.iter().map(|(id, value)| {
        let id: DocumentId = id.parse().expect("an id");
        let value = CanonicalJson::parse(value.to_string().as_bytes()).expect("JSON");
        (id, value)
    });
    machine.replace_unversioned(&name, documents.collect());
    machine.root().clone()
}

fn keyring() -> Arc<Keyring> {
    let text = json!({"active": "a", "keys": {"a": KEY}}).to_string();
    Arc::new(Keyring::parse(&text).expect("a keyring"))
}

/// The sealed form of a value at a pointer of a document.
fn sealed(id: &str, pointer: &str, value: &Value) -> Value {
    let place = Place {
        collection: &"Site".parse().expect("a name"),
        id: &id.parse().expect("an id"),
        pointer,
    };
    let plain = Plain::of(value);
    let sealed = Sealed::seal(&plain, place, 0, &keyring(), system_entropy);
    json!({"$secret": sealed.expect("sealed").to_string()})
}

/// A folder with these files.
fn folder_of(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, content).expect("written");
    }
    folder
}

/// The rendered files: path, content, and whether secrets may be in it.
fn render(
    content: &Content,
    root: &Root,
    keys: Option<&Arc<Keyring>>,
) -> Result<Vec<(String, String, bool)>, FilesError> {
    let mut files = Vec::new();
    Source::read(content)?.render(root, keys, &LIMITS, &mut |file| {
        let content = String::from_utf8(file.content).expect("UTF-8");
        files.push((file.path, content, file.has_secrets));
        Ok(())
    })?;
    Ok(files)
}

fn open(path: &Path) -> Arc<Folder> {
    Arc::new(Folder::open(path, ACCESS).expect("a folder"))
}

fn entries(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names
        .map(|name| name.into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// What is in the folder of the generations, besides the file that is locked.
fn generations(folder: &Path) -> Vec<String> {
    let mut names = entries(&folder.join(".generations"));
    names.retain(|name| name != ".lock");
    names
}

fn templates(folder: &TempDir) -> Content {
    Content::Templates(PathBuf::from(folder.path()))
}
