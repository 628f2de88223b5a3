//! What `cargo test` leaves out: it lists each as ignored, with the command that runs it.
//!
//! Method: one ignored test per check that is no test of a crate. Asked for
//! (`cargo test --test left_out -- --ignored NAME`), it runs its command, so it does not pass by not running.
//! Oracle: the exit code of the command; and tests/README.md, which has to name every command.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Tests that are not run unless asked for: a name and a command.
macro_rules! left_out {
    ($($name:ident: $command:literal;)*) => {
        $(
            #[test]
            #[ignore = $command]
            fn $name() {
                run($command);
            }
        )*

        const COMMANDS: &[&str] = &[$($command),*];
    };
}

left_out! {
    simulated_power_cuts: "cargo sim";
    simulated_faults_everywhere: "cargo sim --matrix";
    engines_broken_on_purpose: "cargo sim --mutants";
    small_scopes_exhaustively: ".ci/run exhaustive";
    interleavings_of_the_bitmap: ".ci/run loom";
    schedules_of_reactors: ".ci/run shuttle";
    fuzzing_of_parsers: "scripts/fuzz 20";
    parity_on_emulated_arm64: "scripts/neon-tests";
    parity_on_emulated_avx512: "scripts/avx512-tests";
    end_to_end_as_root: "make e2e";
    real_kernels_with_ublk: "make guest";
    hours_of_everything: "make soak";
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let (root, program) = (Path::new(env!("CARGO_MANIFEST_DIR")), words.next().expect("a program"));
    // A path is one below the root; a plain name is looked up in PATH.
    let program = if program.contains('/') { root.join(program) } else { PathBuf::from(program) };
    let status = Command::new(program).args(words).current_dir(root).status();
    let status = status.unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(status.success(), "{command}: {status}");
}

#[test]
fn see_tests_readme_for_what_this_run_leaves_out() {
    let readme = include_str!("README.md");
    for command in COMMANDS {
        assert!(readme.contains(&format!("`{command}")), "tests/README.md does not name {command}");
    }
}
