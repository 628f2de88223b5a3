//! Runs every input in fuzz/corpus through its target, on any machine, without a fuzzer. If a fuzzer finds a
//! bug, its input is added there, under a name that tells what the bug was.

use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).expect("the target has a corpus") {
        let path = entry.expect("a directory can be read").path();
        let input = std::fs::read(&path).expect("an input can be read");
        if let Err(panic) = std::panic::catch_unwind(|| target(&input)) {
            eprintln!("the input was {}", path.display());
            std::panic::resume_unwind(panic);
        }
        // The input is also tried cut short.
        for len in (0..input.len().min(64)).chain([input.len() / 2]) {
            target(&input[..len]);
        }
        count += 1;
    }
    assert!(count > 0, "the corpus of {name} is empty");
}

#[test]
fn superblock() {
    replay("superblock", fuzz::superblock);
}

#[test]
fn bitmap_block() {
    replay("bitmap_block", fuzz::bitmap_block);
}

#[test]
fn start() {
    replay("start", fuzz::start);
}

#[test]
fn nbd() {
    replay("nbd", fuzz::nbd);
}

#[test]
fn control() {
    replay("control", fuzz::control);
}
