//! Rules for the source tree itself.
//!
//! Method: walk the source tree, blank out comments and strings, and compare the rest with the tables below.
//! Oracle: the rules of ARCHITECTURE.md (which room may use which, where unsafe may be) and the house style
//! (a file opens with `//!`, stays short, is reachable from a crate root; documents do not point at what does
//! not exist). Each rule collects every breach before it fails, so one run reports everything. A rule that is
//! in the way is changed here, with its reason, not worked around.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/language.rs"]
mod language;
#[path = "tidy/literals.rs"]
mod literals;
#[path = "tidy/messages.rs"]
mod messages;
#[path = "tidy/text.rs"]
mod text;
#[path = "tidy/tree.rs"]
mod tree;

use text::{
    headings, line_with, links, package_name, rooms_named, rules_named, scenarios_named, std_groups, tables,
    without_inline_tests,
};
use tree::{
    Source, crate_roots, engine_files, files_with_extension, manifests, modules_of, normal, read, root,
    sources,
};

/// Longest permitted file; in a longer one, a noun inside is asking for its own file.
const FILE_LINES_MAX: usize = 600;

/// Files that may be longer, their permitted length, and the reason.
const LONG_FILES: &[(&str, usize, &str)] = &[];

/// Places where `unsafe` may be: a file, or a directory that ends in `/`; and the reason.
const UNSAFE_ROOMS: &[(&str, &str)] = &[
    ("parity-simd/src/", "kernels are instruction-set intrinsics"),
    ("parity-simd/benches/", "ISA-L beside them is a C library"),
    ("engine/src/device.rs", "zeroing a block device is an ioctl"),
    ("engine/src/device/nvme.rs", "an NVMe drive is asked by ioctl"),
    ("engine/src/device/layers.rs", "a loop device is asked by ioctl"),
    ("engine/src/device/silent.rs", "a lease is taken by fcntl"),
    ("engine/src/device/storage.rs", "a range of a file is locked by fcntl"),
    ("engine/src/server/locked.rs", "the kernel is told to read the program's own pages"),
    ("engine/src/memory/", "arenas are mapped memory, shared by reactors under the Span contract"),
    ("engine/src/memory.rs", "as above"),
    ("engine/src/ring/", "io_uring takes raw pointers"),
    ("engine/src/frontend/", "sockets and descriptors are handed to the kernel raw"),
    ("engine/src/reactor.rs", "it sleeps on descriptors that the traits name by number"),
    ("src/tls/shared_keys.rs", "a library in C reads and writes by callbacks"),
    ("src/sandbox/tests.rs", "system calls that no library makes with such arguments"),
    ("engine/tests/support/mod.rs", "as the reactor, which it stands in for"),
    ("engine/tests/support/block.rs", "discarding a block device is an ioctl"),
    ("engine/examples/nbd_memory.rs", "as the reactor, which it stands in for"),
];

/// Engine rooms that do no I/O, read no clock and use no random numbers: they run in the simulator as they
/// are.
const PURE_ROOMS: &[&str] = &[
    "array", "assembly", "durable", "format", "geometry", "job", "limits", "lost", "members", "part", "plan",
    "shared", "sizes", "slab", "steward", "stripe", "turn",
];

/// Words before a colon at the beginning of a text of the simulator that do not name a rule or monitor.
const NO_RULES: &[&str] = &["FAILED", "SCOPE"];

/// Paths that a pure room may not name.
const IMPURE_PATHS: &[&str] = &[
    "std::fs",
    "std::net",
    "std::time",
    "std::thread",
    "std::process",
    "std::env",
    "std::os",
    "libc",
    "rustix",
    "io_uring",
    "RandomState",
    "HashMap",
    "HashSet",
];

/// The other rooms of the engine that a room may name (`crate::ROOM`). Rooms that are not listed are
/// restricted by [`FORBIDDEN_ROOMS`] only.
const ROOMS_MAY_USE: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("clock", &[]),
    ("geometry", &["limits"]),
    ("plan", &["geometry"]),
    ("memory", &["limits"]),
    ("request", &["limits", "memory"]),
    ("status", &[]),
    ("ring", &["limits", "memory"]),
    // The ring, because ublk's commands travel in the reactor's own.
    ("frontend", &["limits", "memory", "request", "ring", "threads"]),
    ("format", &["limits", "geometry"]),
    ("lost", &["format", "geometry", "limits", "sync"]),
    ("assembly", &["limits", "geometry", "format"]),
    ("members", &["geometry", "limits", "ring", "sync"]),
    ("sizes", &["limits"]),
    ("job", &["request"]),
    ("part", &["geometry", "memory", "slab"]),
    ("mailbox", &["job", "limits", "memory", "part", "request", "sizes", "sync"]),
    (
        "shared",
        &[
            "assembly", "events", "format", "geometry", "limits", "lost", "mailbox", "members", "memory",
            "ring", "tally",
        ],
    ),
    (
        "turn",
        &["format", "geometry", "limits", "members", "memory", "ring", "shared", "sizes", "slab", "tally"],
    ),
    (
        "durable",
        &[
            "format", "geometry", "limits", "members", "memory", "request", "ring", "shared", "sizes",
            "slab", "turn",
        ],
    ),
    (
        "stripe",
        &[
            "durable", "format", "geometry", "job", "limits", "lost", "mailbox", "members", "memory", "part",
            "plan", "request", "ring", "shared", "sizes", "slab", "turn",
        ],
    ),
    (
        "steward",
        &[
            "assembly", "durable", "events", "format", "geometry", "job", "limits", "lost", "members",
            "memory", "ring", "shared", "slab", "tally", "turn",
        ],
    ),
    ("events", &["members", "ring"]),
    ("sync", &[]),
    ("device", &["limits", "ring"]),
    ("slab", &["limits"]),
    ("tally", &["limits", "ring", "status"]),
    ("threads", &[]),
    (
        "array",
        &[
            "durable", "geometry", "job", "limits", "lost", "mailbox", "members", "memory", "part",
            "request", "ring", "shared", "sizes", "slab", "steward", "stripe", "tally", "turn",
        ],
    ),
];

/// Rooms at the top of the house, with the only rooms that may name them.
const FORBIDDEN_ROOMS: &[(&str, &[&str])] = &[
    ("server", &["bench", "examine"]), // its words for levels and errors
    ("bench", &[]),
    ("examine", &[]),
    ("reactor", &["server", "bench"]),
    ("start", &["server"]),
    ("frontend", &["bench", "reactor", "server"]),
    ("status", &["array", "bench", "examine", "reactor", "server", "tally"]),
];

/// The crates of the workspace that a crate may depend on, in any table of its manifest.
const CRATES_MAY_USE: &[(&str, &[&str])] = &[
    ("parity-simd", &[]),
    ("stripe-bitmap", &[]),
    ("engine", &["stripe-bitmap", "parity-simd"]),
    ("striate", &["stripe-bitmap", "engine", "parity-simd"]),
];

/// The longest line of prose in a document. Tables, code blocks and drawings may be wider.
const PROSE_COLUMNS_MAX: usize = 110;

/// Longest permitted ARCHITECTURE.md.
const ARCHITECTURE_LINES_MAX: usize = 250;

// ---- the rules ------------------------------------------------------------------------------------------

#[test]
fn every_file_opens_with_its_design() {
    let breaches = sources().into_iter().filter(|file| !file.text.starts_with("//!")).map(|file| {
        format!("{}: begins with {:?}, not with `//!`", file.path, file.text.lines().next().unwrap_or(""))
    });
    report("a file opens with `//!`: what the room is for", breaches);
}

#[test]
fn files_stay_short() {
    let allowed: BTreeMap<&str, usize> = LONG_FILES.iter().map(|(path, lines, _)| (*path, *lines)).collect();
    let mut breaches = Vec::new();
    for file in sources() {
        let lines = file.text.lines().count();
        let limit = allowed.get(file.path.as_str()).copied().unwrap_or(FILE_LINES_MAX);
        if lines > limit {
            breaches
                .push(format!("{}: {lines} lines, at most {limit}: find the noun that wants out", file.path));
        } else if limit > FILE_LINES_MAX && lines <= FILE_LINES_MAX {
            breaches.push(format!("{}: {lines} lines now; take it off LONG_FILES", file.path));
        }
    }
    for (path, _, reason) in LONG_FILES {
        if !root().join(path).exists() {
            breaches.push(format!("{path} ({reason}): is on LONG_FILES, but not in the tree"));
        }
    }
    report("a file is too long", breaches);
}

#[test]
fn unsafe_stays_in_its_rooms() {
    let breaches = sources().into_iter().filter_map(|file| {
        let housed = UNSAFE_ROOMS
            .iter()
            .any(|(room, _)| file.path == *room || (room.ends_with('/') && file.path.starts_with(room)));
        let line = (!housed).then(|| line_with(&file.code(), "unsafe"))??;
        Some(format!("{}:{line}: unsafe outside of UNSAFE_ROOMS", file.path))
    });
    report("unsafe lives in a few named rooms", breaches);
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    let breaches = manifests().into_iter().filter_map(|(path, text)| {
        let inherits = tables(&text)
            .get("lints")
            .is_some_and(|lines| lines.iter().any(|l| l.contains("workspace = true")));
        (!inherits).then(|| format!("{path}: no `[lints] workspace = true`"))
    });
    report("lints are the workspace's, unsafe_code = \"deny\" among them", breaches);
    let root_manifest = read("Cargo.toml").expect("the workspace has a manifest");
    assert!(root_manifest.contains("unsafe_code = \"deny\""), "the workspace no longer denies unsafe code");
}

#[test]
fn pure_rooms_stay_pure() {
    let mut breaches = Vec::new();
    for file in engine_files() {
        let room = file.room();
        if !PURE_ROOMS.contains(&room.as_str()) {
            continue;
        }
        let code = without_inline_tests(&file.code());
        for path in IMPURE_PATHS {
            if let Some(line) = line_with(&code, path) {
                breaches.push(format!("{}:{line}: `{path}` in a pure room", file.path));
            }
        }
        // `use std::{fs, ...}` does not contain the path in one piece.
        for (line, module) in std_groups(&code) {
            if IMPURE_PATHS.contains(&format!("std::{module}").as_str()) {
                breaches.push(format!("{}:{line}: `std::{module}` in a pure room", file.path));
            }
        }
    }
    report("below the reactor the engine does no I/O, reads no clock and rolls no dice", breaches);
}

#[test]
fn rooms_know_only_what_is_below_them() {
    let mut breaches = Vec::new();
    for file in engine_files() {
        let room = file.room();
        let used = rooms_named(&without_inline_tests(&file.code()));
        if let Some((_, may_use)) = ROOMS_MAY_USE.iter().find(|(name, _)| *name == room) {
            for (other, line) in &used {
                if *other != room && !may_use.contains(&other.as_str()) {
                    breaches.push(format!(
                        "{}:{line}: {room} may not know {other} (only {may_use:?})",
                        file.path
                    ));
                }
            }
        }
        for (top, known_to) in FORBIDDEN_ROOMS {
            if let Some(line) = used.get(*top)
                && room != *top
                && room != "lib"
                && !known_to.contains(&room.as_str())
            {
                breaches
                    .push(format!("{}:{line}: {room} may not know {top} (only {known_to:?} may)", file.path));
            }
        }
    }
    report("dependencies point one way", breaches);
}

#[test]
fn no_rooms_know_each_other_in_a_circle() {
    let mut knows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in engine_files().into_iter().filter(|file| file.room() != "lib") {
        let used = rooms_named(&without_inline_tests(&file.code())).into_keys();
        let room = file.room();
        knows.entry(room.clone()).or_default().extend(used.filter(|other| *other != room));
    }
    // Remove rooms that name no remaining room, until there is none: the rest is in a circle, or uses a room
    // that is.
    while let Some(top) = knows
        .iter()
        .find(|(_, others)| others.iter().all(|other| !knows.contains_key(other)))
        .map(|(room, _)| room.clone())
    {
        knows.remove(&top);
    }
    let breaches = knows.iter().map(|(room, others)| {
        let others = others.iter().filter(|other| knows.contains_key(*other)).cloned().collect::<Vec<_>>();
        format!("{room} knows {}", others.join(", "))
    });
    report("the rooms of the engine know each other in no circle", breaches);
}

#[test]
fn crates_know_only_what_is_below_them() {
    let mut breaches = Vec::new();
    let names: BTreeSet<String> = manifests().iter().filter_map(|(_, text)| package_name(text)).collect();
    // Names in code of crates that are renamed in the workspace: `bitmap = { ..., package = "stripe-bitmap"
    // }`.
    let root_manifest = read("Cargo.toml").expect("the workspace has a manifest");
    let workspace = tables(&root_manifest).remove("workspace.dependencies").unwrap_or_default();
    let renamed = workspace.iter().filter_map(|line| {
        let (_, rest) = line.split_once("package = \"")?;
        Some((line.split_whitespace().next()?.to_string(), rest.split('"').next()?.to_string()))
    });
    let renamed: BTreeMap<String, String> = renamed.collect();
    assert!(renamed.values().all(|name| names.contains(name)), "no crates of the workspace: {renamed:?}");
    for (path, text) in manifests() {
        let Some(name) = package_name(&text) else { continue };
        let Some((_, may_use)) = CRATES_MAY_USE.iter().find(|(crate_name, _)| *crate_name == name) else {
            continue;
        };
        for (table, lines) in tables(&text) {
            if !table.ends_with("dependencies") || table.starts_with("workspace") {
                continue;
            }
            for line in lines {
                let dependency =
                    line.split(['=', '.', ' ']).next().unwrap_or("").trim_matches('"').to_string();
                let dependency = renamed.get(&dependency).cloned().unwrap_or(dependency);
                if names.contains(&dependency) && !may_use.contains(&dependency.as_str()) {
                    breaches
                        .push(format!("{path}: {name} may not depend on {dependency} (only {may_use:?})"));
                }
                if line.contains("path = \"") && (line.contains("tests/") || line.contains("benches/")) {
                    breaches.push(format!("{path}: {line:?}: nothing uses tests or benches"));
                }
            }
        }
    }
    report("leaf crates use no other crate of the workspace, and nothing uses tests", breaches);
}

#[test]
fn no_file_is_dead() {
    let files: BTreeMap<String, Source> =
        sources().into_iter().map(|file| (file.path.clone(), file)).collect();
    let mut reached = BTreeSet::new();
    let mut pending: Vec<String> = crate_roots(&files);
    while let Some(path) = pending.pop() {
        if !reached.insert(path.clone()) {
            continue;
        }
        if let Some(file) = files.get(&path) {
            pending.extend(modules_of(file));
        }
    }
    let breaches = files.keys().filter(|path| !reached.contains(*path));
    let breaches = breaches.map(|path| format!("{path}: no `mod` reaches it from any crate root"));
    report("every .rs is compiled", breaches);
}

#[test]
fn the_map_fits_the_house() {
    let map = read("ARCHITECTURE.md").expect("the house has a map");
    let mut breaches = Vec::new();
    let lines = map.lines().count();
    if lines > ARCHITECTURE_LINES_MAX {
        breaches.push(format!("ARCHITECTURE.md: {lines} lines, at most {ARCHITECTURE_LINES_MAX}"));
    }
    let rooms: BTreeSet<String> =
        engine_files().iter().map(Source::room).filter(|room| room != "lib").collect();
    for room in rooms {
        let names = [
            format!("`{room}`"),
            format!("`{room}/"),
            format!("`{room}."),
            format!("::{room}`"),
            format!("/{room}"),
        ];
        if !names.iter().any(|name| map.contains(name.as_str())) {
            breaches.push(format!("ARCHITECTURE.md: does not mention the engine's room `{room}`"));
        }
    }
    report("ARCHITECTURE.md is the map of the code as built", breaches);
}

#[test]
fn documents_point_at_what_is_there() {
    let mut breaches = Vec::new();
    for path in files_with_extension("md") {
        let text = read(&path).expect("listed just now");
        for (line, target) in links(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let there = if file.is_empty() {
                PathBuf::from(&path)
            } else {
                normal(&Path::new(&path).parent().unwrap_or(Path::new("")).join(file))
            };
            let Some(found) = fs::metadata(root().join(&there)).ok() else {
                breaches.push(format!("{path}:{line}: {target} does not exist"));
                continue;
            };
            if !anchor.is_empty() && found.is_file() {
                let text = read(&there.to_string_lossy()).unwrap_or_default();
                if !headings(&text).contains(anchor) {
                    breaches.push(format!("{path}:{line}: {target}: no such heading"));
                }
            }
        }
    }
    report("links in documents resolve", breaches);
}

#[test]
fn prose_is_not_too_wide() {
    let mut breaches = Vec::new();
    for path in files_with_extension("md") {
        let text = read(&path).expect("listed just now");
        let mut in_code = false;
        for (index, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            } else if !in_code && !line.trim_start().starts_with('|') && columns > PROSE_COLUMNS_MAX {
                breaches
                    .push(format!("{path}:{}: {columns} columns, at most {PROSE_COLUMNS_MAX}", index + 1));
            }
        }
    }
    report("prose in documents is easy to read beside code", breaches);
}

#[test]
fn the_document_of_tests_fits_the_simulator() {
    let document = read("docs/testing.md").expect("what is proven is documented");
    let simulator: Vec<Source> =
        sources().into_iter().filter(|source| source.path.starts_with("tests/sim/src/")).collect();
    let explained: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.split('|').next())
        .flat_map(|cell| cell.split(',').map(|name| name.trim().to_string()))
        .collect();
    let mut breaches = Vec::new();
    for source in &simulator {
        for rule in rules_named(&source.text) {
            if !explained.contains(&rule) && !NO_RULES.contains(&rule.as_str()) {
                breaches.push(format!("{}: {rule} is in no table of docs/testing.md", source.path));
            }
        }
    }
    let scenarios = simulator.iter().flat_map(|source| scenarios_named(&source.text));
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let words: BTreeSet<&str> = document.split(|c| !is_word(c)).collect();
    let unnamed = scenarios.filter(|scenario| !words.contains(scenario.as_str()));
    breaches.extend(unnamed.map(|scenario| format!("docs/testing.md: no word of the scenario {scenario}")));
    report("docs/testing.md names every rule and every scenario of the simulator", breaches);
}

/// Fails with every breach, under the rule that was broken.
fn report(rule: &str, breaches: impl IntoIterator<Item = String>) {
    let breaches: Vec<String> = breaches.into_iter().collect();
    assert!(breaches.is_empty(), "\n{rule}:\n  {}\n", breaches.join("\n  "));
}
