//! The identity of a member for other programs of the system: libblkid after a creation over earlier content,
//! and udev.
//!
//! Oracle: `blkid -p` and `wipefs` of util-linux, which know nothing of this project and see nothing on a
//! member (or a member, if their libblkid has the patch of packaging/util-linux).

use std::path::Path;

use crate::lab::{Lab, Shape, create_args, overwrite, run, succeeded};

const SHAPE: Shape = Shape { member_mib: 24, ..Shape::RAID5 };

/// The type of a file's content according to libblkid; empty if it finds none.
fn content_type(file: &Path) -> String {
    let output = run(
        "blkid",
        &["-p".as_ref(), "-o".as_ref(), "value".as_ref(), "-s".as_ref(), "TYPE".as_ref(), file.as_os_str()],
    );
    // Exit code 2: nothing was found.
    assert!(
        matches!(output.status.code(), Some(0 | 2)),
        "blkid: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// Every signature that wipefs finds, one line each.
fn signatures(file: &Path) -> Vec<String> {
    let found = succeeded(
        "wipefs",
        &run("wipefs", &["--noheadings".as_ref(), "--no-act".as_ref(), file.as_os_str()]),
    );
    found.lines().map(str::to_string).collect()
}

/// File systems keep their signatures at the front, partition tables at both ends, older RAID superblocks at
/// the end.
#[test]
fn nothing_of_an_earlier_content_is_left() {
    let lab = Lab::new();
    let members = lab.members("m", &SHAPE);
    let bytes = SHAPE.member_mib << 20;
    for member in &members {
        std::fs::File::create(member).and_then(|file| file.set_len(bytes)).expect("room");
        succeeded("mke2fs", &run("mke2fs", &["-q".as_ref(), "-F".as_ref(), member.as_os_str()]));
    }
    // A protective MBR, and both headers of a GPT as far as these programs look at them.
    let mut mbr = [0; 512];
    mbr[446 + 4] = 0xee;
    mbr[446 + 8..446 + 16].copy_from_slice(&[1, 0, 0, 0, 0xff, 0xbf, 0, 0]);
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    overwrite(&members[1], 0, &mbr);
    overwrite(&members[1], bytes - 512, b"EFI PART");
    // Superblocks of Linux md at the end: 1.0, and 0.90 in the last 64 KiB.
    let md: [u8; 8] = [0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0];
    overwrite(&members[2], bytes - (8 << 10), &md);
    overwrite(&members[2], bytes - (64 << 10), &[0xfc, 0x4e, 0x2b, 0xa9, 0, 0, 0, 0, 90, 0, 0, 0]);
    assert_eq!(content_type(&members[0]), "ext2");
    assert!(signatures(&members[1]).iter().any(|line| line.contains("PMBR") || line.contains("dos")));

    let mut args = create_args("t0", &SHAPE);
    args.push("--force".into());
    args.extend(members.iter().map(|member| member.display().to_string()));
    lab.striate_ok(&args);
    for member in &members {
        assert!(["", "striate_member"].contains(&content_type(member).as_str()), "{}", content_type(member));
        let left: Vec<String> =
            signatures(member).into_iter().filter(|line| !line.contains("striate")).collect();
        assert_eq!(left, [""; 0], "{}", member.display());
    }
}

/// The output that the rule of packaging/udev asks for if libblkid does not know members.
#[test]
fn udev_learns_what_a_member_is() {
    let lab = Lab::new();
    let array = lab.create("t0", SHAPE);
    let export = |path: &Path| lab.striate(&["detail".as_ref(), "--export".as_ref(), path.as_os_str()]);
    let said = succeeded("detail --export", &export(&array.members[2]));
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    assert_eq!(value("ID_FS_TYPE"), Some("striate_member"));
    assert_eq!(value("ID_FS_LABEL"), Some("t0"));
    assert_eq!(value("STRIATE_SLOT"), Some("2"));
    let rule = include_str!("../../packaging/udev/65-striate.rules");
    for word in ["striate_member", "ID_FS_LABEL", "STRIATE_SLOT", "striate detail --export"] {
        assert!(rule.contains(word), "the rule does not know {word}");
    }
    // There is no complaint about a device that is no member, because udev asks about every device.
    let other = lab.member("other", &SHAPE);
    std::fs::write(&other, vec![7; 4 << 20]).expect("room");
    let output = export(&other);
    assert_eq!((output.status.code(), output.stdout.len(), output.stderr.len()), (Some(1), 0, 0));
}
