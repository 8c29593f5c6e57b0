//! The services in the documents compile as a reader copies them: the code with the dependencies
//! that the same page names, in a package of its own.
//!
//! The doctests of this crate compile the same code with the dependencies of the workspace, which
//! shows less.

use std::{fs, path::Path, process::Command};

/// The first block of a page in this language.
fn block<'a>(page: &'a str, language: &str) -> &'a str {
    let (_before, after) = page
        .split_once(&format!("```{language}\n"))
        .expect("a block");
    after.split_once("```").expect("its end").0
}

fn compiles(page: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join(page)).expect("the page");
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join(page.replace(['/', '.'], "-"));
    fs::create_dir_all(package.join("src")).expect("a folder");
    let replica = root.join("replica").canonicalize().expect("the crate");
    let dependencies = block(&text, "toml").replace(
        "\"../confcast/replica\"",
        &format!("{:?}", replica.display().to_string()),
    );
    assert!(dependencies.contains("[dependencies]"), "{dependencies}");
    let manifest = format!(
        "[package]\nname = \"reader\"\nedition = \"2024\"\n\n[workspace]\n\n{dependencies}"
    );
    fs::write(package.join("Cargo.toml"), manifest).expect("written");
    fs::write(package.join("src/main.rs"), block(&text, "rust,no_run")).expect("written");
    // The versions that the workspace has, which are on this machine already.
    fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock")).expect("copied");
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--quiet"])
        .current_dir(&package)
        .env(
            "CARGO_TARGET_DIR",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("documents"),
        )
        .output()
        .expect("cargo");
    assert!(
        output.status.success(),
        "{page}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_service_in_the_readme_compiles_with_the_dependencies_that_it_names() {
    compiles("README.md");
}

#[test]
fn the_service_in_the_embedding_page_compiles_with_the_dependencies_that_it_names() {
    compiles("docs/embedding.md");
}
