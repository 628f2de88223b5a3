//! Method: files in a temporary directory and the devices that every machine has; loop devices if the tests
//! run as root. Oracle: the variant of each refusal, and the bytes read back.
use super::*;

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("striate-device-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_is_created_opened_written_and_read() {
    let directory = Directory::new("file");
    let path = directory.join("member");
    create_file(&path, (8 << 20) + 1000).unwrap();
    let device = Device::open(&path, OpenMode::SERVE).unwrap();
    let facts = device.facts();
    assert_eq!((device.kind(), facts.size_bytes), (DeviceKind::File, 8 << 20));
    assert!(facts.volatile_cache && facts.logical_block_bytes.is_power_of_two());

    let data: Vec<u8> = (0..3 << 20).map(|i: u32| (i % 251) as u8).collect();
    device.write_at(4096, &data).unwrap();
    device.flush().unwrap();
    let mut back = vec![0; 2_500_001];
    device.read_at(4096 + 77, &mut back).unwrap();
    assert_eq!(back, data[77..77 + back.len()]);

    let mut reports = Vec::new();
    device.zero_range(8192, 1 << 20, |done| reports.push(done)).unwrap();
    assert_eq!(reports, [1 << 20]);
    let mut back = vec![1; (1 << 20) + 8192];
    device.read_at(4096, &mut back).unwrap();
    assert_eq!(back[..4096], data[..4096]);
    assert!(back[4096..4096 + (1 << 20)].iter().all(|byte| *byte == 0));
    assert_eq!(back[4096 + (1 << 20)..], data[4096 + (1 << 20)..8192 + (1 << 20)]);
    assert!(matches!(
        device.read_at(8 << 20, &mut [0; 8192]),
        Err(DeviceError::Transfer { offset_bytes: 8388608, .. })
    ));
}

#[test]
fn a_file_has_one_server() {
    let directory = Directory::new("lock");
    let path = directory.join("member");
    create_file(&path, 1 << 20).unwrap();
    let first = Device::open(&path, OpenMode::SERVE).unwrap();
    assert!(matches!(Device::open(&path, OpenMode::SERVE), Err(DeviceError::Locked { .. })));
    let looked_at = Device::open(&path, OpenMode::EXAMINE).unwrap();
    assert_eq!(looked_at.identity(), first.identity());
    let ring_file = first.try_clone_file().unwrap();
    drop(first);
    assert!(matches!(Device::open(&path, OpenMode::SERVE), Err(DeviceError::Locked { .. })));
    drop(ring_file);
    Device::open(&path, OpenMode::SERVE).unwrap();
}

#[test]
fn two_names_of_one_file_have_one_identity() {
    let directory = Directory::new("identity");
    for name in ["a", "b"] {
        create_file(directory.join(name), 1 << 20).unwrap();
    }
    std::os::unix::fs::symlink(directory.join("a"), directory.join("link")).unwrap();
    let identity = |name| Device::open(directory.join(name), OpenMode::EXAMINE).unwrap().identity();
    assert_eq!(identity("a"), identity("link"));
    assert_ne!(identity("a"), identity("b"));
    let open = |name| Device::open(directory.join(name), OpenMode::EXAMINE).unwrap();
    assert!(open("a").shares_storage_with(&open("link")) && !open("a").shares_storage_with(&open("b")));
}

#[test]
fn every_refusal_says_what_and_what_to_do() {
    let directory = Directory::new("refusals");
    let small = directory.join("small");
    std::fs::write(&small, b"tiny").unwrap();
    for (path, text) in [
        (directory.join("nothing"), "no such device"),
        (small.join("below-a-file"), "no such device"),
        (directory.0.clone(), "is a directory"),
        (PathBuf::from("/dev/null"), "neither a block device nor a regular file"),
        (small.clone(), "not even one block"),
    ] {
        let error = Device::open(&path, OpenMode::SERVE).unwrap_err().to_string();
        assert!(error.contains(text) && error.starts_with(path.to_str().unwrap()), "{error}");
    }
    let error = create_file(&small, 1 << 20).unwrap_err();
    assert!(matches!(error, DeviceError::Exists { .. }), "{error}");
    let huge = directory.join("huge");
    let error = create_file(&huge, i64::MAX as u64).unwrap_err();
    assert!(matches!(error, DeviceError::NoSpace { .. }) && !huge.exists(), "{error}");
}

/// A loop device over a file; `None`, with a message, if the test has no right to make one.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn over(file: &Path) -> Option<Loop> {
        let output = std::process::Command::new("losetup").arg("--find").arg("--show").arg(file).output();
        match output {
            Ok(output) if output.status.success() => {
                Some(Loop { path: String::from_utf8(output.stdout).unwrap().trim().into() })
            }
            _ => {
                eprintln!("SKIPPED: no loop device could be made (root and losetup are needed)");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _best_effort = std::process::Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

#[test]
fn a_block_device_has_one_server() {
    let directory = Directory::new("loop");
    let backing = directory.join("backing");
    create_file(&backing, 16 << 20).unwrap();
    let Some(device) = Loop::over(&backing) else { return };
    let first = Device::open(&device.path, OpenMode::SERVE).unwrap();
    assert_eq!((first.kind(), first.facts().size_bytes), (DeviceKind::Block, 16 << 20));
    assert!(first.facts().volatile_cache && first.facts().depth_max > 0);
    let error = Device::open(&device.path, OpenMode::SERVE).unwrap_err();
    assert!(matches!(error, DeviceError::Held { .. }), "{error}");
    Device::open(&device.path, OpenMode::EXAMINE).unwrap();

    first.write_at(0, &[7; 4096]).unwrap();
    first.zero_range(0, 1 << 20, |_| {}).unwrap();
    let mut back = [1; 4096];
    first.read_at(0, &mut back).unwrap();
    assert_eq!(back, [0; 4096]);
}

#[test]
fn a_mounted_device_names_its_mount_point() {
    let directory = Directory::new("mount");
    let backing = directory.join("backing");
    create_file(&backing, 16 << 20).unwrap();
    let mount_point = directory.join("mounted here");
    std::fs::create_dir(&mount_point).unwrap();
    let Some(device) = Loop::over(&backing) else { return };
    let run = |program: &str, arguments: &[&Path]| {
        std::process::Command::new(program)
            .args(arguments)
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !run("mkfs.ext4", &[&device.path]) || !run("mount", &[&device.path, &mount_point]) {
        eprintln!("SKIPPED: mkfs.ext4 and mount are needed");
        return;
    }
    let error = Device::open(&device.path, OpenMode::SERVE);
    assert!(run("umount", &[&mount_point]));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("mounted at") && error.contains("mounted here"), "{error}");
}
