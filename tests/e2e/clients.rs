//! Stock clients: nbdinfo, nbdcopy, qemu-img, qemu-io.
//!
//! Method: a directory tree is made into an ext4 image, which tools of other projects copy into the array and
//! out again, over a unix socket and over TCP. Oracles: `cmp` of the images, `e2fsck` on the copied-out image
//! and debugfs for its tree; `qemu-img compare`; the pattern checks of qemu-io; and a scrub afterwards.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::{Array, Lab, Shape, assert_root, run, succeeded};

const IMAGE_BYTES: u64 = 96 << 20;

/// Part of the program that goes into the image: one day all of it might not fit.
const PROGRAM_BYTES_MAX: usize = 64 << 20;

/// An ext4 image of this project's sources and its program; returns the tree and the image.
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
        ("can_fast_zero", true),
        ("can_multi_conn", true),
    ] {
        assert_eq!(export[flag].as_bool(), Some(expected), "{flag}: {export}");
    }
    assert_eq!(export["block_size_minimum"].as_u64(), Some(status.logical_block_bytes.into()), "{export}");
    // The export is also found by its name, and listed.
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

/// Copies an image in and out, then checks the file system in the copy.
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
    let diff = run(
        "diff",
        &[
            "-r".as_ref(),
            "--no-dereference".as_ref(),
            "--exclude=lost+found".as_ref(),
            tree.as_os_str(),
            files.as_os_str(),
        ],
    );
    succeeded("diff", &diff);
    server.stop();
}

fn assert_image_is_there(uri: &str, image: &Path) {
    // The array is larger than the image; the rest must be zeros.
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

/// The URI of the read-only export of an array.
fn read_only_uri(uri: &str, name: &str) -> String {
    uri.replacen("nbd+unix:///", &format!("nbd+unix:///{name}:ro"), 1)
}

/// The extents of a metadata context as nbdinfo prints them: offset, length, flags.
fn map(uri: &str, context: &str) -> Vec<(u64, u64, u64)> {
    let said = succeeded("nbdinfo --map", &run("nbdinfo", &["--json", &format!("--map={context}"), uri]));
    let extents: Vec<Value> = serde_json::from_str(&said).expect("JSON");
    let number = |extent: &Value, key: &str| extent[key].as_u64().expect("a number");
    extents.iter().map(|it| (number(it, "offset"), number(it, "length"), number(it, "type"))).collect()
}

/// Clients can ask which stripes are unwritten, and copies skip these.
#[test]
fn clients_hear_what_is_empty() {
    let lab = Lab::new();
    let array = lab.create("map", Shape { init: "lazy", ..Shape::RAID5 });
    let server = array.serve(&[]);
    let (uri, size, stripe) = (server.uri(), server.status().size_bytes, array.shape.stripe_bytes());
    assert_eq!(map(&uri, "base:allocation"), [(0, size, 3)]);
    let listed = succeeded("nbdinfo --list", &run("nbdinfo", &["--list", "--json", &uri]));
    for word in ["base:allocation", "striate:state", "\"map\"", "\"map:ro\""] {
        assert!(listed.contains(word), "{word}: {listed}");
    }

    // Write a block in the third stripe, and a whole stripe that is later trimmed.
    let mut client = server.connect();
    client.write(2 * stripe + 4096, &[7; 4096]);
    client.write(5 * stripe, &vec![8; stripe as usize]);
    let hole = |from: u64, to: u64| (from * stripe, (to - from) * stripe, 3);
    let data = |from: u64, to: u64| (from * stripe, (to - from) * stripe, 0);
    let stripes = size / stripe;
    let written = [hole(0, 2), data(2, 3), hole(3, 5), data(5, 6), hole(6, stripes)];
    assert_eq!(map(&uri, "base:allocation"), written);
    assert_eq!(map(&uri, "striate:state"), [(0, size, 0)]);
    let qemu = succeeded("qemu-img map", &run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]));
    let qemu: Vec<Value> = serde_json::from_str(&qemu).expect("JSON");
    let zero: u64 =
        qemu.iter().filter(|it| it["zero"] == true).map(|it| it["length"].as_u64().unwrap()).sum();
    assert_eq!(zero, size - 2 * stripe, "{qemu:?}");

    // Reads across data and holes: qemu negotiates replies in chunks, and holes are chunks of their own.
    for read in [
        format!("read -P 0 0 {}", 2 * stripe + 4096),
        format!("read -P 7 {} 4096", 2 * stripe + 4096),
        format!("read -P 0 {} {}", 2 * stripe + 8192, 3 * stripe - 8192),
        format!("read -P 8 {} {stripe}", 5 * stripe),
        format!("read -P 0 {} {}", 6 * stripe, 4 << 20),
    ] {
        succeeded(&read, &run("qemu-io", &["-r", "-f", "raw", "-c", &read, &uri]));
    }

    // Copies of the export have its content and its holes.
    let (copy, converted) = (lab.path("copy"), lab.path("converted"));
    let nbdcopy = run("nbdcopy", &[uri.as_str(), copy.to_str().unwrap()]);
    succeeded("nbdcopy", &nbdcopy);
    let convert = ["convert", "-f", "raw", "-O", "raw", &uri, converted.to_str().unwrap()];
    succeeded("qemu-img convert", &run("qemu-img", &convert));
    for file in [&copy, &converted] {
        let bytes = std::fs::read(file).expect("it was made");
        assert_eq!(bytes.len() as u64, size);
        for (at, &byte) in bytes.iter().enumerate() {
            let at = at as u64;
            let expected = if (2 * stripe + 4096..2 * stripe + 8192).contains(&at) {
                7
            } else if (5 * stripe..6 * stripe).contains(&at) {
                8
            } else {
                0
            };
            assert_eq!(byte, expected, "{} at {at}", file.display());
        }
        use std::os::unix::fs::MetadataExt;
        let blocks = file.metadata().expect("it was made").blocks() * 512;
        assert!(blocks <= 4 * stripe, "{}: {blocks} bytes are allocated", file.display());
    }
    let trim = format!("discard {} {stripe}", 5 * stripe);
    succeeded("qemu-io", &run("qemu-io", &["-f", "raw", "-d", "unmap", "-c", &trim, &uri]));
    assert_eq!(map(&uri, "base:allocation"), [hole(0, 2), data(2, 3), hole(3, stripes)]);
}

/// Clients are told in a context of its own where parity does not match yet.
#[test]
fn clients_hear_what_is_not_in_sync() {
    let lab = Lab::new();
    let array = lab.create("state", Shape { init: "sync", ..Shape::RAID5 });
    let server = array.serve(&["--read-only"]);
    let size = server.status().size_bytes;
    assert_eq!(map(&server.uri(), "striate:state"), [(0, size, 2)]);
    assert_eq!(map(&server.uri(), "base:allocation"), [(0, size, 0)]);
}

/// An empty export of 16 GiB is copied without reading it.
#[test]
fn an_empty_export_is_copied_at_once() {
    let lab = Lab::new();
    let array = lab.create("empty", Shape { member_mib: 8 << 10, init: "lazy", ..Shape::RAID5 });
    let server = array.serve(&[]);
    let before = server.status();
    assert!(before.size_bytes >= 16 << 30);
    let copy = lab.path("copy");
    succeeded("nbdcopy", &run("nbdcopy", &[server.uri().as_str(), copy.to_str().unwrap()]));
    assert_eq!(copy.metadata().expect("it was made").len(), before.size_bytes);
    let read = server.status().counters.read_bytes - before.counters.read_bytes;
    assert_eq!(read, 0, "bytes were read of an array that holds nothing");
}

/// A backup reads from a read-only export while hosts write.
#[test]
fn the_same_array_is_there_without_changes() {
    let lab = Lab::new();
    let array = lab.create("both", Shape::RAID5);
    let server = array.serve(&[]);
    let uri = server.uri();
    let read_only = read_only_uri(&uri, "both");
    server.connect().write(0, &[5; 4096]);
    let read = run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 5 0 4096", &read_only]);
    succeeded("qemu-io", &read);
    let json = succeeded("nbdinfo", &run("nbdinfo", &["--json", &read_only]));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["exports"][0]["is_read_only"].as_bool(), Some(true), "{json}");
    // A client that writes nevertheless is refused by the server.
    let refused = run("qemu-io", &["-f", "raw", "-c", "write -P 6 0 4096", &read_only]);
    assert!(!refused.status.success());
    succeeded(
        "qemu-io",
        &run("qemu-io", &["-f", "raw", "-c", "write -P 6 4096 4096", "-c", "read -P 5 0 4096", &uri]),
    );
    let missing = run("nbdinfo", &[&uri.replacen("nbd+unix:///", "nbd+unix:///both:rw", 1)]);
    assert!(!missing.status.success());
}

/// TCP on loopback and the unix socket accept the server's user, and other users only if the operator permits
/// them.
#[test]
#[ignore = "needs root for other users"]
fn other_users_of_this_machine_are_refused() {
    assert_root("other users");
    const NOBODY: &str = "65534";
    let as_nobody = |words: &[&str]| {
        let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_string()];
        let words: Vec<String> = user.into_iter().chain(words.iter().map(|word| word.to_string())).collect();
        run("setpriv", &words)
    };
    let lab = Lab::new();
    let array = lab.create("users", Shape::RAID5);
    let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    // The directory of the laboratory is closed to other users.
    let socket = std::env::temp_dir().join(format!("striate-users-{}.sock", std::process::id()));
    let (tcp, unix) = (format!("127.0.0.1:{port}"), format!("unix:{}", socket.display()));
    let uris = [format!("nbd://{tcp}"), format!("nbd+unix:///?socket={}", socket.display())];

    let server = array.serve(&["--nbd", &tcp, "--nbd", &unix]);
    for uri in &uris {
        succeeded("nbdinfo", &run("nbdinfo", &["--size", uri]));
        assert!(!as_nobody(&["nbdinfo", "--size", uri]).status.success(), "{uri} let another user in");
    }
    let log = server.log();
    assert!(log.contains("NBD client refused: 127.0.0.1") && log.contains("of user 65534"), "{log}");
    server.terminate();
    let server =
        array.serve(&["--nbd", &tcp, "--nbd", &unix, "--allow-local-users", "--nbd-group", "nogroup"]);
    for uri in &uris {
        succeeded("nbdinfo", &as_nobody(&["nbdinfo", "--size", uri]));
    }
    let group =
        run("setpriv", &["--reuid=65534", "--regid=1", "--clear-groups", "nbdinfo", "--size", &uris[1]]);
    assert!(!group.status.success(), "a user of another group was let in");
    server.terminate();
    lab.striate_refuses(&["serve", "--nbd-group", "no such group", array.members[0].to_str().unwrap()]);
}
