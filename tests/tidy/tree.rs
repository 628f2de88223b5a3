//! The source tree as the rules of tests/tidy.rs see it: the files, their content, and which file reaches
//! which.
//!
//! Paths are relative to the root and written with `/`. Build output and hidden directories do not belong to
//! the tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::text::blank_text;

/// A source file, with its path relative to the root, written with `/`.
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    /// The text with comments, strings and character literals blanked; the lines stay where they were.
    pub fn code(&self) -> String {
        blank_text(&self.text)
    }

    /// The engine's room that the file belongs to: the first part of its path below engine/src.
    pub fn room(&self) -> String {
        let inside = self.path.strip_prefix("engine/src/").unwrap_or(&self.path);
        let first = inside.split('/').next().unwrap_or(inside);
        first.trim_end_matches(".rs").to_string()
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> Option<String> {
    fs::read_to_string(root().join(path)).ok()
}

pub fn sources() -> Vec<Source> {
    let paths = files_with_extension("rs");
    assert!(!paths.is_empty(), "no source found below {}", root().display());
    paths.into_iter().map(|path| Source { text: read(&path).expect("listed just now"), path }).collect()
}

pub fn engine_files() -> Vec<Source> {
    sources()
        .into_iter()
        .filter(|file| file.path.starts_with("engine/src/") && !file.path.ends_with("/tests.rs"))
        .collect()
}

/// Manifests of the tree: path and text.
pub fn manifests() -> Vec<(String, String)> {
    let paths = files_with_extension("toml").into_iter().filter(|path| path.ends_with("Cargo.toml"));
    paths.map(|path| (path.clone(), read(&path).expect("listed just now"))).collect()
}

/// Files below the root with an extension, sorted, without build output and hidden directories.
pub fn files_with_extension(extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root().to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the tree").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                let relative = path.strip_prefix(root()).expect("below the root");
                found.push(relative.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

pub fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Files that cargo compiles as the root of a target.
pub fn crate_roots(files: &BTreeMap<String, Source>) -> Vec<String> {
    let mut roots = Vec::new();
    for (manifest, text) in manifests() {
        let home = manifest.strip_suffix("Cargo.toml").expect("named so");
        for path in files.keys().filter_map(|path| path.strip_prefix(home)) {
            let parts: Vec<&str> = path.split('/').collect();
            let is_root = match parts.as_slice() {
                ["build.rs"] | ["src", "lib.rs" | "main.rs"] => true,
                ["src", "bin", _] | ["src", "bin", _, "main.rs"] => true,
                ["tests" | "benches" | "examples", _] => true,
                ["tests" | "benches" | "examples", _, "main.rs"] => true,
                _ => text.contains(&format!("path = \"{path}\"")),
            };
            if is_root {
                roots.push(format!("{home}{path}"));
            }
        }
    }
    roots
}

/// Files that the `mod name;` lines of a file refer to.
pub fn modules_of(file: &Source) -> Vec<String> {
    let path = Path::new(&file.path);
    let directory = path.parent().unwrap_or(Path::new(""));
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let is_root =
        crate_roots_are_homes(&file.path) || matches!(stem.as_str(), "mod" | "lib" | "main" | "build");
    let home = if is_root { directory.to_path_buf() } else { directory.join(&stem) };
    let mut found = Vec::new();
    // Paths are strings, so they are searched in the text; `mod` lines are searched in the code.
    let mut explicit: Option<String> = None;
    for (code, text) in file.code().lines().zip(file.text.lines()) {
        if let Some(at) = text.find("#[path = \"").filter(|_| code.contains("#[path")) {
            explicit = text[at + 10..].split('"').next().map(str::to_string);
        }
        let words: Vec<&str> = code.split_whitespace().collect();
        let Some(at) = words.iter().position(|word| *word == "mod") else { continue };
        let Some(name) = words.get(at + 1).and_then(|word| word.strip_suffix(';')) else { continue };
        match explicit.take() {
            Some(path) => found.push(normal(&directory.join(path))),
            None => found.extend([home.join(format!("{name}.rs")), home.join(name).join("mod.rs")]),
        }
    }
    found.into_iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

/// Whether a file outside src/ is a target by itself, so that its modules lie beside it.
fn crate_roots_are_homes(path: &str) -> bool {
    let parent =
        Path::new(path).parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    matches!(parent.as_deref(), Some("tests" | "benches" | "examples" | "bin" | "fuzz_targets"))
}
