//! An image as `tools/image/build.sh` writes it. All are built once, from the programs of the tests.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, anyhow, ensure};
use e2e::testbed::dependencies::{path_of, repository_root};
use serde_json::Value;

use super::{IMAGES, argument, programs, run};

/// An archive, and the configuration of the image in it.
#[derive(Debug)]
pub(crate) struct Image {
    archive: PathBuf,
    configuration: Value,
}

/// An entry of the root file system, as `tar` lists it.
#[derive(Debug)]
pub(super) struct Entry {
    /// As `drwxr-xr-x`.
    pub(super) mode: String,
    /// Numbers of user and group, as `0/0`.
    pub(super) owner: String,
    /// Without a slash at its ends, and without the target of a link.
    pub(super) path: String,
}

/// Builds all images into a folder. `command` may run a program in another environment: the script and
/// its arguments are appended.
pub(super) fn build(command: &mut Command, out: &Path) -> anyhow::Result<()> {
    let script = repository_root().join("tools/image/build.sh");
    run(command.arg(script).arg(programs()?).arg(out))?;
    Ok(())
}

/// The image of this name.
pub(crate) fn image(name: &str) -> anyhow::Result<&'static Image> {
    static BUILT: OnceLock<Result<BTreeMap<&'static str, Image>, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_all().map_err(|error| format!("{error:#}")));
    let built = built.as_ref().map_err(|error| anyhow!("{error}"))?;
    built
        .get(name)
        .with_context(|| format!("there is no image {name}"))
}

fn build_all() -> anyhow::Result<BTreeMap<&'static str, Image>> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    build(&mut Command::new("bash"), &folder)?;
    let open = |(name, _program)| {
        let image = Image::open(folder.join(format!("{name}.tar")));
        Ok((name, image.with_context(|| format!("the archive {name}"))?))
    };
    IMAGES.into_iter().map(open).collect()
}

impl Image {
    fn open(archive: PathBuf) -> anyhow::Result<Self> {
        let mut image = Self {
            archive,
            configuration: Value::Null,
        };
        let manifest = image.member("manifest.json")?;
        let path = manifest
            .pointer("/0/Config")
            .and_then(Value::as_str)
            .context("no configuration")?;
        image.configuration = image.member(path)?;
        Ok(image)
    }

    /// The archive.
    pub(super) fn archive(&self) -> &Path {
        &self.archive
    }

    /// The configuration of the image, in the form of OCI.
    pub(super) fn configuration(&self) -> &Value {
        &self.configuration
    }

    /// The digest of the manifest.
    pub(super) fn digest(&self) -> anyhow::Result<String> {
        let index = self.member("index.json")?;
        let digest = index.pointer("/manifests/0/digest").and_then(Value::as_str);
        Ok(digest.context("no digest")?.to_owned())
    }

    /// Unpacks the archive into a folder: an OCI image layout.
    pub(super) fn layout(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        run(Command::new("tar")
            .args(["--extract", "--file"])
            .arg(&self.archive)
            .arg("--directory")
            .arg(folder))?;
        Ok(folder.to_owned())
    }

    /// Unpacks the root file system into a folder, with owners and modes where the caller is root.
    pub(super) fn unpack(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let archive = self.root_archive(&folder.with_extension("tar"))?;
        let options = [
            "--extract",
            "--numeric-owner",
            "--same-permissions",
            "--file",
        ];
        run(Command::new("tar")
            .args(options)
            .args([&argument(&archive), "--directory"])
            .arg(folder))?;
        fs::remove_file(archive)?;
        Ok(folder.to_owned())
    }

    /// What is in the root file system.
    pub(super) fn entries(&self) -> anyhow::Result<Vec<Entry>> {
        let folder = e2e::testbed::process::folder()?;
        let archive = self.root_archive(&folder.path().join("root.tar"))?;
        let list = ["--list", "--verbose", "--numeric-owner", "--file"];
        let listed = run(Command::new("tar").args(list).arg(archive))?;
        let entry = |line: &str| {
            let mut words = line.split_whitespace();
            let (mode, owner) = (words.next()?.to_owned(), words.next()?.to_owned());
            let path = words.nth(3)?;
            let path = path.trim_start_matches("./").trim_matches('/').to_owned();
            Some(Entry { mode, owner, path })
        };
        let listed = String::from_utf8(listed)?;
        let entries: Option<Vec<_>> = listed.lines().map(entry).collect();
        let entries = entries.context("tar lists in another form")?;
        ensure!(!entries.is_empty(), "nothing is in the image");
        Ok(entries)
    }

    /// All layers in one archive.
    fn root_archive(&self, archive: &Path) -> anyhow::Result<PathBuf> {
        run(Command::new(path_of("CRANE")?)
            .args(["export", "-"])
            .arg(archive)
            .stdin(fs::File::open(&self.archive)?))?;
        Ok(archive.to_owned())
    }

    /// A JSON file of the archive.
    fn member(&self, path: &str) -> anyhow::Result<Value> {
        let text = run(Command::new("tar")
            .args(["--extract", "--to-stdout", "--file"])
            .arg(&self.archive)
            .arg(path))?;
        Ok(serde_json::from_slice(&text)?)
    }
}
