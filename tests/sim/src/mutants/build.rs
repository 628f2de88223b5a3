//! The crates with every edit made, in target/mutants, and one binary of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::edits::{EDITS, Edit};
use super::table::mutants;

/// The environment variable that says which mutant runs.
pub const CHOICE: &str = "SIM_MUTANT";
/// Crates that are copied.
const CRATES: [&str; 4] = ["parity-simd", "bitmap", "engine", "tests/sim"];
/// Tests of the engine that are to see mutants, beside its unit tests ([`UNIT_TESTS`]). They need nothing but the copied crates.
const TESTS: [&str; 4] = [
    "engine/tests/array",
    "engine/tests/fairness",
    "engine/tests/format_assembly",
    "engine/tests/start_blocks",
];
/// The name of the engine's unit tests in the table.
pub const UNIT_TESTS: &str = "unit";
/// Crates with edits, each with the module that says which mutant runs.
const EDITED: [&str; 2] = ["bitmap", "engine"];
/// Sections of the workspace's manifest that the copy has too.
const SECTIONS: [&str; 3] = ["[workspace", "[profile.", "[workspace.lints"];

/// Makes the copy, in target/mutants, and builds it. The path of the simulator there.
///
/// # Errors
/// What is wrong with the table, or with the build.
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

/// Where the copy is.
fn copy(root: &Path) -> PathBuf {
    root.join("target/mutants")
}

/// Cargo, in the copy.
fn cargo(copy: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", copy.join("target"))
        .env("RUSTFLAGS", "--cap-lints allow");
    cargo
}

/// Arguments of cargo for tests of the engine.
const TEST: [&str; 6] = ["test", "--quiet", "--profile", "sim", "-p", "engine"];

/// Arguments of cargo that name one test target.
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

/// A run of those cases of a test of the engine whose names contain `case`, in the copy, one after the other.
#[must_use]
pub fn run_of_test(root: &Path, test: &str, case: &str) -> Command {
    let mut cargo = cargo(&copy(root));
    cargo.args(TEST).args(target(test)).args(["--", "--test-threads", "1", case]);
    cargo
}

/// What is copied, each file by its name below the root, with every edit made.
///
/// # Errors
/// A mutant without an edit, an edit of a file or of a text that is not there: the source has moved on, and
/// the table has to follow.
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

/// Sources and manifests of a crate; no build output.
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

/// `mutant!(NAME)` becomes a question to the crate's module.
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

/// A manifest without what is only for tests and benches.
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

/// The workspace's manifest, without the package at its root, and of no more members than are copied.
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

/// The module that says which mutant runs: chosen once, by name, from the environment.
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

/// Writes a file if it is not so already, so that cargo builds only what has changed.
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

    /// Whoever moves or rewords a rule of the engine hears of its mutant here, before the mutants are built.
    #[test]
    fn every_edit_has_its_text() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        if let Err(what) = sources(&root) {
            panic!("tests/sim/src/mutants/edits: {what}");
        }
    }
}
