//! Stock clients: nbdinfo, nbdcopy, qemu-img, qemu-io.
//!
//! Method: a real directory tree is made into an ext4 image, copied into the array and out again by tools that others
//! wrote, over a unix socket and over TCP. Oracles: `cmp` of the images, `e2fsck` and the tree as debugfs finds it in
//! what came out; `qemu-img compare`; the pattern checks of qemu-io; and a scrub afterwards.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::{Array, Lab, Shape, run, succeeded};

const IMAGE_BYTES: u64 = 96 << 20;

/// How much of the program goes into the image: all of it would not fit one day.
const PROGRAM_BYTES_MAX: usize = 64 << 20;

/// An ext4 image of this project's sources and of its program.
fn image_of_a_tree(lab: &Lab) -> (PathBuf, PathBuf) {
    let tree = lab.path("tree");
    std::fs::create_dir(&tree).expect("a directory");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for part in ["engine", "bitmap", "parity-simd", "src", "tests", "Cargo.lock"] {
        succeeded("cp", &run("cp", &["-r".as_ref(), root.join(part).as_os_str(), tree.as_os_str()]));
    }
    let program = Path::new(env!("CARGO_BIN_EXE_striate"));
    let bytes = std::fs::read(program).expect("it was built");
    std::fs::write(tree.join("striate"), &bytes[..bytes.len().min(PROGRAM_BYTES_MAX)]).expect("room");
    let image = lab.file("image", IMAGE_BYTES);
    let made = run(
        "mke2fs",
        &[
            "-q".as_ref(),
            "-F".as_ref(),
            "-t".as_ref(),
            "ext4".as_ref(),
            "-d".as_ref(),
            tree.as_os_str(),
            image.as_os_str(),
        ],
    );
    succeeded("mke2fs", &made);
    (tree, image)
}

#[test]
fn nbdinfo_shows_what_is_served() {
    let lab = Lab::new();
    let array = lab.create("shown", Shape::RAID5);
    let server = array.serve(&[]);
    let json: Value =
        serde_json::from_str(&succeeded("nbdinfo", &run("nbdinfo", &["--json", &server.uri()])))
            .expect("JSON");
    let export = &json["exports"][0];
    let status = server.status();
    assert_eq!(export["export-size"].as_u64(), Some(status.size_bytes), "{export}");
    assert_eq!(status.size_bytes % array.shape.stripe_bytes(), 0, "whole stripes");
    for (flag, expected) in [
        ("is_read_only", false),
        ("can_flush", true),
        ("can_fua", true),
        ("can_trim", true),
        ("can_zero", true),
        ("can_multi_conn", true),
    ] {
        assert_eq!(export[flag].as_bool(), Some(expected), "{flag}: {export}");
    }
    assert_eq!(export["block_size_minimum"].as_u64(), Some(status.logical_block_bytes.into()), "{export}");
    // By its name too, and listed.
    let by_name = format!("nbd+unix:///shown?socket={}", server.socket.display());
    let size = succeeded("nbdinfo --size", &run("nbdinfo", &["--size", &by_name]));
    assert_eq!(size.trim(), status.size_bytes.to_string());
    let listed = succeeded("nbdinfo --list", &run("nbdinfo", &["--list", "--json", &server.uri()]));
    assert!(listed.contains("\"shown\""), "{listed}");
    let unknown = format!("nbd+unix:///nobody?socket={}", server.socket.display());
    assert!(!run("nbdinfo", &["--size", &unknown]).status.success(), "an export that does not exist");
    server.stop();
}

#[test]
fn read_only_is_read_only() {
    let lab = Lab::new();
    let array = lab.create("still", Shape::RAID5);
    let before: Vec<u64> = array.members.iter().map(|member| crate::content::fingerprint(member)).collect();
    let server = array.serve(&["--read-only"]);
    assert!(run("nbdinfo", &["--is", "read-only", &server.uri()]).status.success());
    let mut client = server.connect();
    assert_eq!(client.try_write(0, &[1; 4096]), Err(1), "EPERM");
    assert_eq!(client.read(0, 4096), [0; 4096]);
    drop(client);
    server.stop();
    let after: Vec<u64> = array.members.iter().map(|member| crate::content::fingerprint(member)).collect();
    assert_eq!(after, before, "serving read-only changes nothing");
}

/// In and out, then the file system inside of what came out.
fn copy_in_and_out(array: &Array, tree: &Path, image: &Path, into: &[&str]) {
    let lab = array.lab;
    let server = array.serve(&["--reactors", "2"]);
    let uri = server.uri();
    let mut args: Vec<&str> = into.to_vec();
    let (image_text, out) = (image.to_str().expect("UTF-8"), lab.path("out"));
    args.extend(["--flush", image_text, &uri]);
    succeeded("nbdcopy in", &run("nbdcopy", &args));
    assert_image_is_there(&uri, image);
    server.terminate();
    array.scrub_is_clean("after nbdcopy");

    let server = array.serve(&["--reactors", "1"]);
    succeeded("nbdcopy out", &run("nbdcopy", &[server.uri().as_str(), out.to_str().expect("UTF-8")]));
    let size = IMAGE_BYTES.to_string();
    succeeded("cmp", &run("cmp", &["-n", &size, image_text, out.to_str().expect("UTF-8")]));
    succeeded("truncate", &run("truncate", &["-s", &size, out.to_str().expect("UTF-8")]));
    succeeded("e2fsck", &run("e2fsck", &["-f".as_ref(), "-n".as_ref(), out.as_os_str()]));
    let files = lab.path("files");
    std::fs::create_dir(&files).expect("a directory");
    let dump = format!("rdump / {}", files.display());
    succeeded("debugfs", &run("debugfs", &["-R".as_ref(), dump.as_ref(), out.as_os_str()]));
    let diff =
        run("diff", &["-r".as_ref(), "--exclude=lost+found".as_ref(), tree.as_os_str(), files.as_os_str()]);
    succeeded("diff", &diff);
    server.stop();
}

fn assert_image_is_there(uri: &str, image: &Path) {
    // The array is larger; what lies beyond the image must be zeros.
    let compare =
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", image.to_str().expect("UTF-8"), uri]);
    succeeded("qemu-img compare", &compare);
}

#[test]
fn a_file_system_goes_in_and_out_of_raid5() {
    let lab = Lab::new();
    let (tree, image) = image_of_a_tree(&lab);
    copy_in_and_out(&lab.create("copy", Shape::RAID5), &tree, &image, &["--connections=4", "--requests=32"]);
}

#[test]
fn a_file_system_goes_in_and_out_of_raid6() {
    let lab = Lab::new();
    let (tree, image) = image_of_a_tree(&lab);
    let shape = Shape { chunk: "32K", init: "zero", ..Shape::RAID6 };
    copy_in_and_out(&lab.create("copy", shape), &tree, &image, &["--synchronous", "--request-size=65536"]);
}

#[test]
fn qemu_io_patterns_come_back() {
    for shape in [Shape::RAID5, Shape { init: "auto", chunk: "4K", ..Shape::RAID6 }] {
        let lab = Lab::new();
        let array = lab.create("qemu", shape);
        let server = array.serve(&[]);
        let commands = [
            "write -P 0x11 0 1M",
            "write -P 0x22 12k 4k",
            "write -P 0x33 65024 1024",
            "write -z 256k 128k",
            "discard 512k 256k",
            "write -f -P 0x44 600k 512",
            "aio_write -P 0x55 2M 512k",
            "aio_write -P 0x56 3M 64k",
            "aio_flush",
            "flush",
            "read -P 0x11 0 12k",
            "read -P 0x22 12k 4k",
            "read -P 0x11 16k 47k",
            "read -P 0x33 65024 1024",
            "read -P 0 256k 128k",
            "read -P 0 512k 88k",
            "read -P 0x44 600k 512",
            "read -P 0 615936 170496",
            "read -P 0x11 768k 256k",
            "read -P 0x55 2M 512k",
            "read -P 0x56 3M 64k",
            "read -P 0 4M 1M",
        ];
        let uri = server.uri();
        let mut args = vec!["-f", "raw", "-t", "none"];
        args.extend(commands.iter().flat_map(|command| ["-c", command]));
        args.push(&uri);
        let output = run("qemu-io", &args);
        let text = succeeded("qemu-io", &output);
        assert!(!text.contains("failed") && !text.contains("error"), "{text}");
        server.stop();
        array.scrub_is_clean("after qemu-io");
    }
}

#[test]
fn tcp_and_two_exports_at_once() {
    let lab = Lab::new();
    let array = lab.create("tcp", Shape::RAID5);
    // A port that was free a moment ago.
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let server = array.serve(&["--nbd", &format!("127.0.0.1:{port}"), "--reactors", "2"]);
    let tcp = format!("nbd://127.0.0.1:{port}");
    let image = lab.path("noise");
    std::fs::write(&image, crate::content::pattern(3, 0, 8 << 20)).expect("room");
    succeeded("nbdcopy", &run("nbdcopy", &["--connections=2", image.to_str().expect("UTF-8"), &tcp]));
    assert_image_is_there(&server.uri(), &image);
    assert_image_is_there(&tcp, &image);
    assert_eq!(server.status().exports.len(), 2);
    server.terminate();
    array.scrub_is_clean("after TCP");
}
