//! The unit in packaging/: how much it leaves open, and whether the manual refers to it.
//!
//! Oracle: `systemd-analyze security`, which rates a unit from 0 to 10 without starting it (systemd 250 or
//! newer).

use std::path::PathBuf;
use std::process::Command;

const UNIT: &str = "packaging/striate@.service";
/// Highest permitted exposure, in tenths.
const EXPOSURE_MAX: &str = "25";

fn text(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_unit_leaves_little_open() {
    let mut analyze = Command::new("systemd-analyze");
    analyze
        .args(["security", "--no-pager", "--offline=true"])
        .arg(format!("--threshold={EXPOSURE_MAX}"))
        .arg(UNIT);
    let output = analyze.current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.unwrap_or_else(|error| panic!("systemd-analyze: {error}: run scripts/setup test"));
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "more than {EXPOSURE_MAX} tenths\n{said}\n{errors}");
    let rated = said.lines().find(|line| line.contains("Overall exposure level"));
    assert!(rated.is_some(), "it was not rated\n{said}\n{errors}");
    // systemd ignores lines that it does not understand, but reports them.
    assert!(!errors.contains("Unknown") && !errors.contains("Failed to parse"), "{errors}");
}

/// The tree has only one unit file: the manual links to it, and its table names the privileges that the unit
/// grants.
#[test]
fn the_manual_speaks_of_the_unit() {
    let (manual, unit) = (text("docs/operating.md"), text(UNIT));
    assert!(manual.contains("](../packaging/striate@.service)"), "the manual does not link to {UNIT}");
    assert!(!manual.contains("[Unit]"), "the manual has a unit of its own");
    let granted =
        unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a bounding set");
    assert_eq!(granted, "CAP_SYS_ADMIN CAP_SYS_RESOURCE");
    for line in
        ["NoNewPrivileges=yes", "LimitMEMLOCK=infinity", "PrivateMounts=yes", "RuntimeDirectoryPreserve=yes"]
    {
        assert!(unit.lines().any(|one| one == line), "{UNIT} has no {line}");
    }
}
