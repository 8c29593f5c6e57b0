//! Every link to a file or a heading of this repository leads somewhere, and the index of the
//! documents leads to all of them.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, ensure};

use crate::{markdown, read, root};

/// All Markdown files, as paths from the root.
pub(crate) fn documents() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().context("a name in UTF-8")?;
            // What is built, fetched or left behind by a run is not ours.
            if name.starts_with('.')
                || ["target", "node_modules", "data", "generated"].contains(&name)
            {
                continue;
            }
            let path = folder.join(name);
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                parts.pop();
            }
            Component::CurDir => {}
            part => parts.push(part),
        }
    }
    parts
}

/// A link: the file that it leads to, and the heading in it.
struct Link {
    file: PathBuf,
    anchor: Option<String>,
}

/// A link of a document, unless it leads out of the repository.
fn resolve(document: &Path, target: &str) -> Option<Link> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let mut parts = target.splitn(2, '#');
    let path = parts.next().unwrap_or_default();
    let anchor = parts.next().map(str::to_owned);
    let file = if path.is_empty() {
        document.to_owned()
    } else {
        normal(&document.parent().unwrap_or(Path::new("")).join(path))
    };
    Some(Link { file, anchor })
}

#[test]
fn every_link_leads_somewhere() -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for document in documents()? {
        let text = read(&document.display().to_string())?;
        for (number, line) in markdown::prose(&text) {
            for target in markdown::links(line) {
                let Some(link) = resolve(&document, &target) else {
                    continue;
                };
                let path = root().join(&link.file);
                let found = match link.anchor {
                    None => path.exists(),
                    Some(anchor) => std::fs::read_to_string(path)
                        .is_ok_and(|text| markdown::anchors(&text).contains(&anchor)),
                };
                if !found {
                    broken.push(format!("{}:{number}: {target}", document.display()));
                }
            }
        }
    }
    ensure!(
        broken.is_empty(),
        "links that lead nowhere:\n{}",
        broken.join("\n")
    );
    Ok(())
}

#[test]
fn the_index_leads_to_every_document() -> anyhow::Result<()> {
    let index = Path::new("docs/index.md");
    let text = read("docs/index.md")?;
    let mut named = Vec::new();
    for (_number, line) in markdown::prose(&text) {
        let links = markdown::links(line);
        named.extend(
            links
                .iter()
                .filter_map(|target| resolve(index, target))
                .map(|link| link.file),
        );
    }
    let documents = documents()?;
    let pages = documents
        .iter()
        .filter(|path| path.starts_with("docs") && *path != index);
    let missing: Vec<_> = pages.filter(|path| !named.contains(path)).collect();
    ensure!(
        missing.is_empty(),
        "docs/index.md does not name {missing:?}"
    );
    Ok(())
}
