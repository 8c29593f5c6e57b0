//! A folder of templates as a tree of files: `NAME.j2` is rendered and becomes `NAME`, any other file is
//! copied. A template whose name begins with `_` becomes no file: others include or import it.
//!
//! Nothing that a template does reaches the file system, the network or the environment. An undefined value
//! is an error, the number of steps is bounded, and so is the length of the result.

use std::{collections::BTreeMap, fs, io, path::Path, sync::Arc};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value,
    escape_formatter, syntax::SyntaxConfig, value::ValueKind,
};
use secrets::Keyring;
use state::Root;

use crate::{
    FilesError, Limits, RenderedFile,
    values::{CollectionValue, Reading},
};

/// The end of the name of a template.
const SUFFIX: &str = ".j2";
/// Most files and folders of a folder of templates.
const MAX_ENTRIES: usize = 10_000;
/// Most bytes of all of them.
const MAX_BYTES: u64 = 64 << 20;
/// Most folders in each other; a link may lead to the folder that it is in.
const MAX_DEPTH: usize = 16;
/// Longest line of a template that a message shows, in bytes.
const MAX_SHOWN: usize = 200;
/// Most steps of one template: some seconds.
const FUEL: u64 = 50_000_000;

/// The files of a folder of templates, by path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Templates(BTreeMap<String, Vec<u8>>);

impl Templates {
    /// Reads a folder. Names that begin with a dot are left out: a mounted `ConfigMap` has its earlier
    /// versions there.
    ///
    /// # Errors
    /// When it cannot be read, is empty, or is too large.
    pub(crate) fn read(folder: &Path) -> Result<Self, FilesError> {
        let mut files = BTreeMap::new();
        let mut entries = 0;
        let mut bytes = 0;
        let mut left = vec![(folder.to_path_buf(), String::new(), 0)];
        while let Some((path, prefix, depth)) = left.pop() {
            let refused = |path: &Path, reason: &str| FilesError::Templates {
                path: path.to_path_buf(),
                reason: reason.to_owned(),
            };
            let failed = |path: &Path, error: io::Error| refused(path, &error.to_string());
            if depth > MAX_DEPTH {
                return Err(refused(&path, "too many folders in each other"));
            }
            for entry in fs::read_dir(&path).map_err(|error| failed(&path, error))? {
                let path = entry.map_err(|error| failed(&path, error))?.path();
                entries += 1;
                if entries > MAX_ENTRIES {
                    return Err(refused(folder, "it has more than 10,000 files"));
                }
                let name = path.file_name().and_then(|name| name.to_str());
                let Some(name) = name else {
                    return Err(refused(&path, "the name is not UTF-8"));
                };
                if name.starts_with('.') {
                    continue;
                }
                let relative = format!("{prefix}{name}");
                // Of the target of a link.
                let metadata = fs::metadata(&path).map_err(|error| failed(&path, error))?;
                if metadata.is_dir() {
                    left.push((path, format!("{relative}/"), depth + 1));
                } else if metadata.is_file() {
                    bytes += metadata.len();
                    if bytes > MAX_BYTES {
                        return Err(refused(folder, "its files have more than 64 MiB"));
                    }
                    let content = fs::read(&path).map_err(|error| failed(&path, error))?;
                    files.insert(relative, content);
                } else {
                    return Err(refused(&path, "it is neither a file nor a folder"));
                }
            }
        }
        if files.is_empty() {
            return Err(FilesError::Templates {
                path: folder.to_path_buf(),
                reason: "it has no files".to_owned(),
            });
        }
        Ok(Self(files))
    }

    /// Renders all files from one view, and gives them to `file` one at a time.
    ///
    /// # Errors
    /// The first template that fails, or the error of `file`.
    pub(crate) fn render(
        &self,
        root: &Root,
        keys: Option<&Arc<Keyring>>,
        limits: &Limits,
        file: &mut dyn FnMut(RenderedFile) -> Result<(), FilesError>,
    ) -> Result<(), FilesError> {
        let environment = self.environment()?;
        for (path, content) in &self.0 {
            let Some(target) = path.strip_suffix(SUFFIX) else {
                file(RenderedFile {
                    path: path.clone(),
                    content: content.clone(),
                    has_secrets: false,
                })?;
                continue;
            };
            if name_of(path).starts_with('_') {
                continue;
            }
            let reading = Arc::<Reading>::default();
            let variables = root.collections().map(|(name, _held)| {
                let value = CollectionValue {
                    name: name.clone(),
                    root: root.clone(),
                    keys: keys.cloned(),
                    reading: Arc::clone(&reading),
                };
                (name.as_str(), Value::from_object(value))
            });
            let variables = Value::from_pairs(variables);
            let mut output = Bounded {
                bytes: Vec::new(),
                limit: usize::try_from(limits.file_bytes).unwrap_or(usize::MAX),
                is_over: false,
            };
            let rendered = environment
                .get_template(path)
                .and_then(|template| template.render_captured_to(variables, &mut output));
            if output.is_over {
                return Err(FilesError::TooLong {
                    file: target.to_owned(),
                    limit: limits.file_bytes,
                });
            }
            rendered.map_err(|error| self.failure(path, &error, &reading))?;
            file(RenderedFile {
                path: target.to_owned(),
                content: output.bytes,
                has_secrets: reading.has_secrets(),
            })?;
        }
        Ok(())
    }

    /// The error of a template, with the line that it is in.
    fn failure(&self, path: &str, error: &Error, reading: &Reading) -> FilesError {
        // The innermost: an error in an included template has the including one around it.
        let mut inner = error;
        while let Some(source) = std::error::Error::source(inner) {
            match source.downcast_ref::<Error>() {
                Some(source) => inner = source,
                None => break,
            }
        }
        // The detail may quote a value.
        let mut reason = match inner.detail().filter(|_detail| !reading.has_secrets()) {
            Some(detail) => format!("{}: {detail}", inner.kind()),
            None => inner.kind().to_string(),
        };
        let template = inner.name().unwrap_or(path);
        let text = self
            .0
            .get(template)
            .and_then(|text| str::from_utf8(text).ok());
        let number = inner.line();
        let line = number.and_then(|number| text?.lines().nth(number.checked_sub(1)?));
        if let Some(line) = line.filter(|line| line.len() <= MAX_SHOWN) {
            reason = format!("{reason}: {}", line.trim());
        }
        FilesError::Template {
            template: template.to_owned(),
            line: number,
            document: reading.last(),
            reason,
        }
    }

    fn environment(&self) -> Result<Environment<'_>, FilesError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        // A line with nothing but a tag is no line of the file, and the file ends as its template does.
        let syntax = SyntaxConfig::builder()
            .keep_trailing_newline(true)
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
        environment.set_formatter(format);
        environment.add_filter("quoted", quoted);
        environment.add_filter("line", line);
        for (path, content) in &self.0 {
            if !path.ends_with(SUFFIX) {
                continue;
            }
            let Ok(text) = str::from_utf8(content) else {
                return Err(FilesError::Template {
                    template: path.clone(),
                    line: None,
                    document: None,
                    reason: "it is not UTF-8".to_owned(),
                });
            };
            let added = environment.add_template(path, text);
            added.map_err(|error| self.failure(path, &error, &Reading::default()))?;
        }
        Ok(environment)
    }
}

/// The last part of a path.
fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Writes a value as JSON has it: `true`, not `True`. That of null would be read as a word.
fn format(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match (state.auto_escape(), value.kind()) {
        (AutoEscape::Json, _) => escape_formatter(output, state, value),
        (_, ValueKind::Bool) => {
            let text = if value.is_true() { "true" } else { "false" };
            Ok(output.write_str(text)?)
        }
        (_, ValueKind::None) => Err(Error::new(
            ErrorKind::InvalidOperation,
            "the value is null, which has no text",
        )),
        _ => escape_formatter(output, state, value),
    }
}

/// A text in double quotes, with `\` before `"` and `\`. Control characters are refused, so no value
/// ends its line.
fn quoted(text: &str) -> Result<String, Error> {
    let text = line(text)?;
    Ok(format!(
        "\"{}\"",
        text.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}

/// A text that ends no line: one with control characters is refused.
fn line(text: &str) -> Result<String, Error> {
    if text.chars().any(char::is_control) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "the value has a line feed or another control character",
        ));
    }
    Ok(text.to_owned())
}

/// A buffer with a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    is_over: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.is_over = true;
            return Err(io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
