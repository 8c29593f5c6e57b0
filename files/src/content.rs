//! What the files are made of: documents themselves, or templates.

use std::{path::PathBuf, sync::Arc};

use secrets::Keyring;
use state::Root;

use crate::{FilesError, names, opening, templates::Templates};

/// What the files are made of.
#[derive(Debug, Clone)]
pub enum Content {
    /// One file for each document, `COLLECTION/ID.json`, with its `configData`.
    Documents,
    /// The files of a folder of templates.
    Templates(PathBuf),
}

/// Bounds of a generation.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of a file.
    pub file_bytes: u64,
    /// Most files.
    pub files: usize,
}

/// A file of a generation.
#[derive(Debug)]
pub struct RenderedFile {
    /// Its path in the generation, with `/` between its parts, none of which is `.` or `..`.
    pub path: String,
    /// What it contains.
    pub content: Vec<u8>,
    /// Whether a secret in plain text may be in it.
    pub has_secrets: bool,
}

/// What the files are made of, as it was read.
#[derive(Debug)]
pub(crate) enum Source {
    Documents,
    Templates(Templates),
}

impl Source {
    pub(crate) fn read(content: &Content) -> Result<Self, FilesError> {
        Ok(match content {
            Content::Documents => Self::Documents,
            Content::Templates(folder) => Self::Templates(Templates::read(folder)?),
        })
    }

    /// Whether the folder of templates has other files than these. One that cannot be read has none.
    pub(crate) fn is_changed(content: &Content, last: Option<&Self>) -> bool {
        match (content, last) {
            (Content::Documents, _) => false,
            (Content::Templates(folder), Some(Self::Templates(last))) => {
                Templates::read(folder).ok().as_ref() != Some(last)
            }
            (Content::Templates(folder), _) => Templates::read(folder).is_ok(),
        }
    }

    /// Renders all files from one view, and gives them to `file` one at a time.
    ///
    /// # Errors
    /// The first file that cannot be rendered, or the error of `file`.
    pub(crate) fn render(
        &self,
        root: &Root,
        keys: Option<&Arc<Keyring>>,
        limits: &Limits,
        file: &mut dyn FnMut(RenderedFile) -> Result<(), FilesError>,
    ) -> Result<usize, FilesError> {
        let mut files = 0;
        let mut bounded = |rendered: RenderedFile| {
            files += 1;
            if files > limits.files {
                return Err(FilesError::TooMany(limits.files));
            }
            if rendered.content.len() as u64 > limits.file_bytes {
                return Err(FilesError::TooLong {
                    file: rendered.path,
                    limit: limits.file_bytes,
                });
            }
            file(rendered)
        };
        match self {
            Self::Documents => documents(root, keys.map(Arc::as_ref), &mut bounded)?,
            Self::Templates(templates) => templates.render(root, keys, limits, &mut bounded)?,
        }
        Ok(files)
    }
}

fn documents(
    root: &Root,
    keys: Option<&Keyring>,
    file: &mut dyn FnMut(RenderedFile) -> Result<(), FilesError>,
) -> Result<(), FilesError> {
    for (name, held) in root.collections() {
        for document in held.documents() {
            // As the publisher sent it, unless a secret has to be opened.
            let mut content = document.config_data().to_vec();
            let mut has_secrets = false;
            if keys.is_some() && opening::may_have_secrets(document) {
                let opened = opening::open(name, document, keys)?;
                content = opened.value.to_string().into_bytes();
                has_secrets = opened.has_secrets;
            }
            content.push(b'\n');
            file(RenderedFile {
                path: names::document_path(name, document.id()),
                content,
                has_secrets,
            })?;
        }
    }
    Ok(())
}
