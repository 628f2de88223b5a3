//! Copies the crates to target/mutants, makes every edit, and builds one binary with all mutants.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::edits::{EDITS, Edit};
use super::table::mutants;

/// The environment variable that chooses the mutant to run.
pub const CHOICE: &str = "SIM_MUTANT";
/// Crates that are copied.
const CRATES: [&str; 4] = ["parity-simd", "bitmap", "engine", "tests/sim"];
/// Tests of the engine that must detect mutants, in addition to its unit tests ([`UNIT_TESTS`]). They need
/// only the copied crates.
const TESTS: [&str; 4] = [
    "engine/tests/array",
    "engine/tests/fairness",
    "engine/tests/format_assembly",
    "engine/tests/start_blocks",
];
/// The name of the engine's unit tests in the table.
pub const UNIT_TESTS: &str = "unit";
/// Crates with edits. Each gets a module that says which mutant runs.
const EDITED: [&str; 2] = ["bitmap", "engine"];
/// Sections of the workspace's manifest that the copy keeps.
const SECTIONS: [&str; 3] = ["[workspace", "[profile.", "[workspace.lints"];

/// Makes the copy in target/mutants and builds it. Returns the path of the simulator there.
///
/// # Errors An error in the table, or in the build.
pub fn build(root: &Path) -> Result<PathBuf, String> {
    let copy = copy(root);
    for (name, text) in sources(root)? {
        write(&copy.join(name), &text)?;
    }
    for name in EDITED {
        write(&copy.join(name).join("src/mutant.rs"), &module())?;
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml")).map_err(|error| error.to_string())?;
    write(&copy.join("Cargo.toml"), &workspace(&manifest))?;
    if let Ok(lock) = fs::read_to_string(root.join("Cargo.lock")) {
        write(&copy.join("Cargo.lock"), &lock)?;
    }
    let simulator = ["build", "--quiet", "--profile", "sim", "-p", "sim"].map(String::from).to_vec();
    let names = TESTS.map(file_name).into_iter().chain([UNIT_TESTS]);
    let tests: Vec<String> = TEST.into_iter().map(String::from).chain(names.flat_map(target)).collect();
    for args in [simulator, [tests, vec!["--no-run".into()]].concat()] {
        let status = cargo(&copy).args(args).status().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err("the mutants do not build".into());
        }
    }
    Ok(copy.join("target/sim/sim"))
}

/// Path of the copy.
fn copy(root: &Path) -> PathBuf {
    root.join("target/mutants")
}

/// A cargo command in the copy.
fn cargo(copy: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", copy.join("target"))
        .env("RUSTFLAGS", "--cap-lints allow");
    cargo
}

/// Cargo's arguments for tests of the engine.
const TEST: [&str; 6] = ["test", "--quiet", "--profile", "sim", "-p", "engine"];

/// Cargo's arguments that name one test target.
#[must_use]
pub fn target(test: &str) -> Vec<String> {
    match test {
        UNIT_TESTS => vec!["--lib".into()],
        name => vec!["--test".into(), name.into()],
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The command that runs those cases of an engine test whose names contain `case`, one after the other, in
/// the copy.
#[must_use]
pub fn run_of_test(root: &Path, test: &str, case: &str) -> Command {
    let mut cargo = cargo(&copy(root));
    cargo.args(TEST).args(target(test)).args(["--", "--test-threads", "1", case]);
    cargo
}

/// The files to copy, each by its name below the root, with every edit made.
///
/// # Errors A mutant without an edit, or an edit of a file or text that does not exist: the source has
/// changed, and the table must follow.
fn sources(root: &Path) -> Result<Vec<(String, String)>, String> {
    for mutant in mutants() {
        let call = format!("mutant!({})", mutant.name);
        if !EDITS.into_iter().flatten().any(|edit| edit.to.contains(&call)) {
            return Err(format!("{}: no edit asks for it", mutant.name));
        }
    }
    let mut files = Vec::new();
    for name in CRATES.into_iter().chain(TESTS) {
        collect(&root.join(name), &mut files).map_err(|error| format!("{name}: {error}"))?;
    }
    let mut sources = Vec::with_capacity(files.len());
    for file in files {
        let path = file.strip_prefix(root).expect("found below the root");
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let name = path.to_string_lossy().replace('\\', "/");
        let text = edited(&name, text)?;
        sources.push((name, text));
    }
    let is_there = |file: &str| sources.iter().any(|(name, _)| name == file);
    match EDITS.into_iter().flatten().find(|edit| !is_there(edit.file)) {
        Some(edit) => Err(format!("{}: a mutant is to edit it, and it is not there", edit.file)),
        None => Ok(sources),
    }
}

/// Collects the sources and manifests of a crate, without build output.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | "tests" | "benches" | "examples" | "fuzz") {
                collect(&path, files)?;
            }
        } else if matches!(path.extension().and_then(|end| end.to_str()), Some("rs" | "toml" | "txt" | "md"))
        {
            files.push(path);
        }
    }
    Ok(())
}

/// The text of a file with its edits made.
fn edited(name: &str, text: String) -> Result<String, String> {
    let mut places = Vec::new();
    for edit in EDITS.into_iter().flatten().filter(|edit| edit.file == name) {
        let mut found = text.match_indices(edit.from);
        match (found.next(), found.next()) {
            (Some((at, _)), None) => places.push((at, edit)),
            (first, _) => {
                let how = if first.is_some() { "more than once" } else { "not" };
                return Err(format!("{name}: the text of a mutant is {how} there: {}", edit.from));
            }
        }
    }
    places.sort_by_key(|(at, _)| *at);
    let (mut out, mut done) = (String::with_capacity(text.len()), 0);
    for (at, Edit { from, to, .. }) in places {
        if at < done {
            return Err(format!("{name}: two edits overlap: {from}"));
        }
        out += &text[done..at];
        out += &guarded(to)?;
        done = at + from.len();
    }
    out += &text[done..];
    if EDITED.iter().any(|edited| name == format!("{edited}/src/lib.rs")) {
        out += "\n#[doc(hidden)]\npub mod mutant;\n";
    }
    // The unit tests of the engine are built too, and need its dev-dependencies.
    let is_stripped = name.ends_with("Cargo.toml") && name != "engine/Cargo.toml";
    Ok(if is_stripped { without_tests(&out) } else { out })
}

/// Replaces `mutant!(NAME)` by a call into the crate's `mutant` module.
fn guarded(to: &str) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), to);
    while let Some(at) = rest.find("mutant!(") {
        let (before, after) = rest.split_at(at);
        let (name, after) = after["mutant!(".len()..].split_once(')').ok_or("a question without end")?;
        let number = mutants().position(|mutant| mutant.name == name);
        let number = number.ok_or_else(|| format!("{name} is not in the table"))?;
        out += &format!("{before}crate::mutant::is({number})");
        rest = after;
    }
    Ok(out + rest)
}

/// A manifest without the parts that only tests and benches need.
fn without_tests(manifest: &str) -> String {
    let mut keep = true;
    let is_kept = |line: &&str| {
        if line.starts_with('[') {
            keep = !(line.contains("dev-dependencies")
                || ["[[bench]]", "[[test]]", "[[example]]"].contains(&line.trim()));
        }
        keep
    };
    manifest.lines().filter(is_kept).fold(String::new(), |out, line| out + line + "\n")
}

/// The workspace's manifest, without the package at its root, and with only the copied crates as members.
fn workspace(manifest: &str) -> String {
    let mut keep = false;
    let mut out = String::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            keep = SECTIONS.iter().any(|section| line.starts_with(section));
        }
        if keep && line.starts_with("members = ") {
            out += &format!("members = {CRATES:?}\n");
        } else if keep {
            out += &format!("{line}\n");
        }
    }
    out
}

/// The source of the module that says which mutant runs. The mutant is chosen once, by its name in the
/// environment.
fn module() -> String {
    let names: Vec<String> = mutants().map(|mutant| format!("{:?}", mutant.name)).collect();
    format!(
        "//! Which mutant runs.\n\n\
         static CHOSEN: std::sync::OnceLock<usize> = std::sync::OnceLock::new();\n\
         const NAMES: &[&str] = &[{}];\n\n\
         /// Whether it is this one.\n\
         #[inline]\n\
         pub fn is(mutant: usize) -> bool {{\n    \
             *CHOSEN.get_or_init(|| {{\n        \
                 let name = std::env::var(\"{CHOICE}\").unwrap_or_default();\n        \
                 NAMES.iter().position(|known| *known == name).unwrap_or(usize::MAX)\n    \
             }}) == mutant\n}}\n",
        names.join(", ")
    )
}

/// Writes a file only if its content changes, so that cargo builds only what has changed.
fn write(path: &Path, text: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let dir = path.parent().expect("a file is in a directory");
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if a rule of the engine was moved or reworded so that its mutant lost its text. This test
    /// reports it before the mutants are built.
    #[test]
    fn every_edit_has_its_text() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        if let Err(what) = sources(&root) {
            panic!("tests/sim/src/mutants/edits: {what}");
        }
    }
}
