//! The block devices of the machine, read repeatedly during a search.
//!
//! ```text
//!     /proc/partitions --> new, or changed --> due --> being read --> read: kept until its line changes
//!                                               ^          |
//!                                               |          +-- failed: due again, after a longer pause
//!                                               |          `-- no answer: silent; a late answer counts
//!                                               `-- no thread could be started
//! ```
//! - A successful read is kept, an error never is: the link of a drive may come up while the search waits.
//! - Two kinds of devices are not read: those that another device is made of (one half of a mirror, a path of
//!   a multipath device), because the other device counts; and devices of `SERVED` or on top of one, because
//!   a guest decides what is on them.
//! - At most [`READS_MAX`] reads run at a time, not counting late ones. Each read has one thread. If a device
//!   does not answer, the kernel ends its thread no earlier than the read, and the process no earlier than
//!   its threads: see [`Devices::hanging`]. A device whose driver says that it does not answer now is not
//!   read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use engine::examine::{self, Examined};

use crate::failure::{Context, Result};

/// The kernel's list of block devices and their partitions.
const PARTITIONS: &str = "/proc/partitions";
/// The kernel's directory that says which devices a block device is made of (`slaves`), and which are made of
/// it (`holders`).
const CLASS_BLOCK: &str = "/sys/class/block";
/// Names of block devices that are served by programs such as this one. A read of such a device never returns
/// if its server is gone.
const SERVED: [&str; 2] = ["ublkb", "nbd"];
/// How many layers of devices may lie on each other; the kernel allows no more than eight.
const LAYERS_MAX: usize = 8;
/// States in which drivers hold requests back: of NVMe controllers, then of SCSI devices.
const HELD_BACK: [&str; 7] =
    ["new", "connecting", "resetting", "deleting", "blocked", "created-blocked", "quiesce"];

/// How many reads run at a time. With more, a machine with hundreds of volumes gains nothing, and may run out
/// of threads.
const READS_MAX: usize = 32;
/// How long a read may take before it no longer counts against [`READS_MAX`].
const LATE_TIME: Duration = Duration::from_secs(2);
/// The longest time that one look takes.
const LOOK_TIME_MAX: Duration = Duration::from_millis(250);
/// The pause after the first failed read of a device. It doubles with each failure, six times at most: 16 s.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const DOUBLINGS_MAX: u32 = 6;

/// A device that is not read, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    pub path: PathBuf,
    pub why: String,
}

/// The devices to read, each with its line in the list, and the devices that are passed over.
type Listed = (BTreeMap<PathBuf, String>, Vec<PassedOver>);

enum State {
    Due(Instant),
    Reading { since: Instant },
    Read,
}

struct Device {
    /// The line of the device in the list. A different line means another device, or another size.
    line: String,
    state: State,
    /// The number of the current read; an answer to an earlier read is dropped.
    read: u64,
    failures: u32,
    /// The last answer of the device.
    found: Option<Examined>,
}

/// The number of a read, and its result.
type Answer = (u64, Examined);

type Reader = Arc<dyn Fn(&Path) -> Examined + Send + Sync>;

/// All block devices, with the state of their reads. The module documentation explains the states.
pub struct Devices {
    list: PathBuf,
    class_block: PathBuf,
    reader: Reader,
    /// How long a device may take before it counts as silent.
    patience: Duration,
    known: BTreeMap<PathBuf, Device>,
    pub passed_over: Vec<PassedOver>,
    reads: u64,
    answers: (Sender<Answer>, Receiver<Answer>),
}

impl Devices {
    /// All block devices of this machine.
    pub fn of_this_machine(patience: Duration) -> Devices {
        let reader = |path: &Path| read(path, Path::new(CLASS_BLOCK));
        Devices::new(Path::new(PARTITIONS), Path::new(CLASS_BLOCK), patience, Arc::new(reader))
    }

    fn new(list: &Path, class_block: &Path, patience: Duration, reader: Reader) -> Devices {
        Devices {
            list: list.into(),
            class_block: class_block.into(),
            reader,
            patience,
            known: BTreeMap::new(),
            passed_over: Vec::new(),
            reads: 0,
            answers: channel(),
        }
    }

    /// Reads devices that are due, and takes answers for a moment. Returns early once every device has been
    /// read or has failed.
    pub fn look(&mut self) -> Result<()> {
        let list =
            std::fs::read_to_string(&self.list).context(|| format!("cannot read {}", self.list.display()))?;
        let (listed, passed_over) = listed(&list, &self.class_block);
        self.passed_over = passed_over;
        self.known.retain(|path, device| listed.get(path) == Some(&device.line));
        for (path, line) in listed {
            let state = State::Due(Instant::now());
            self.known.entry(path).or_insert(Device { line, state, read: 0, failures: 0, found: None });
        }
        let until = Instant::now() + LOOK_TIME_MAX;
        loop {
            while let Ok((read, found)) = self.answers.1.try_recv() {
                self.take(read, found);
            }
            self.begin_reads();
            if !self.is_busy() {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.answers.1.recv_timeout(left) {
                Ok((read, found)) => self.take(read, found),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Whether there is a device that has not been read yet, has not failed, and is not silent.
    pub fn is_busy(&self) -> bool {
        self.known.values().any(|device| match device.state {
            State::Due(_) => device.found.is_none(),
            State::Reading { since } => device.found.is_none() && since.elapsed() < self.patience,
            State::Read => false,
        })
    }

    /// The last answer of each device, or the fact that it has not answered.
    pub fn seen(&self) -> BTreeMap<PathBuf, Examined> {
        let seen = self.known.iter().filter_map(|(path, device)| {
            let found = match device.state {
                State::Reading { since } if since.elapsed() >= self.patience => Some(Examined {
                    path: path.clone(),
                    superblock: None,
                    error: Some(format!(
                        "{}: does not answer: waited for {} s",
                        path.display(),
                        since.elapsed().as_secs()
                    )),
                    silent: true,
                    unread: false,
                }),
                _ => device.found.clone(),
            };
            Some((path.clone(), found?))
        });
        seen.collect()
    }

    /// Devices with a read that is late. This process cannot end before they answer or are removed.
    pub fn hanging(&self) -> Vec<&Path> {
        let is_late = |device: &Device| matches!(device.state, State::Reading { since } if since.elapsed() >= LATE_TIME);
        self.known.iter().filter(|(_, device)| is_late(device)).map(|(path, _)| path.as_path()).collect()
    }

    fn begin_reads(&mut self) {
        let now = Instant::now();
        let is_running =
            |device: &&Device| matches!(device.state, State::Reading { since } if now < since + LATE_TIME);
        let mut room = READS_MAX.saturating_sub(self.known.values().filter(is_running).count());
        for (path, device) in &mut self.known {
            let is_due = matches!(device.state, State::Due(at) if at <= now);
            if !is_due || room == 0 {
                continue;
            }
            room -= 1;
            self.reads += 1;
            let (number, sender) = (self.reads, self.answers.0.clone());
            let (reader, to_read) = (Arc::clone(&self.reader), path.clone());
            let read = move || drop(sender.send((number, reader(&to_read))));
            match std::thread::Builder::new().name("scan".into()).spawn(read) {
                Ok(_) => (device.read, device.state) = (number, State::Reading { since: now }),
                Err(error) => {
                    let error =
                        format!("{}: cannot be read: no thread can be started: {error}", path.display());
                    device.failed(unread(path, error));
                }
            }
        }
    }

    fn take(&mut self, read: u64, found: Examined) {
        let Some(device) = self.known.get_mut(&found.path).filter(|device| device.read == read) else {
            return;
        };
        if found.unread {
            device.failed(found);
        } else {
            (device.state, device.found) = (State::Read, Some(found));
        }
    }
}

impl Device {
    fn failed(&mut self, found: Examined) {
        let pause = FIRST_PAUSE * 2u32.pow(self.failures.min(DOUBLINGS_MAX));
        self.failures += 1;
        (self.state, self.found) = (State::Due(Instant::now() + pause), Some(found));
    }
}

fn unread(path: &Path, error: String) -> Examined {
    Examined { path: path.into(), superblock: None, error: Some(error), silent: false, unread: true }
}

/// Reads a device, unless its driver says that it would not answer.
fn read(path: &Path, class_block: &Path) -> Examined {
    let name = path.strip_prefix("/dev").unwrap_or(path).to_string_lossy().replace('/', "!");
    match held_back(class_block, &name) {
        Some(state) => unread(path, format!("{}: is not read: its driver says `{state}`", path.display())),
        None => examine::look(path),
    }
}

/// The state of a device, or of the disk that it is a part of, if that state is one of [`HELD_BACK`].
fn held_back(class_block: &Path, name: &str) -> Option<String> {
    let files = ["device/state", "../device/state"].map(|file| class_block.join(name).join(file));
    let state = files.iter().find_map(|file| std::fs::read_to_string(file).ok())?;
    let state = state.trim();
    HELD_BACK.iter().any(|held| state.starts_with(held)).then(|| state.to_string())
}

/// Parses the text of `/proc/partitions`: a heading, an empty line, then `major minor blocks name`.
fn listed(list: &str, class_block: &Path) -> Listed {
    let (mut devices, mut passed_over) = (BTreeMap::new(), Vec::new());
    for line in list.lines().skip(2) {
        let Some(name) = line.split_whitespace().nth(3) else { continue };
        // The kernel writes `!` for the slashes of names such as /dev/cciss/c0d0.
        let path = Path::new("/dev").join(name.replace('!', "/"));
        match passed_over_for(class_block, name) {
            Some(why) => passed_over.push(PassedOver { path, why }),
            None => drop(devices.insert(path, line.to_string())),
        }
    }
    (devices, passed_over)
}

/// The reason to pass a device over, if there is one.
fn passed_over_for(class_block: &Path, name: &str) -> Option<String> {
    let holders = related(class_block, name, "holders");
    match served_below(class_block, name, LAYERS_MAX) {
        Some(served) if served == name => Some("another program serves it".into()),
        Some(served) => Some(format!("it lies on /dev/{served}, which another program serves")),
        None if !holders.is_empty() => Some(format!("{} is made of it", holders.join(", "))),
        None => None,
    }
}

/// The device of `SERVED` that a device is, or lies on.
fn served_below(class_block: &Path, name: &str, layers: usize) -> Option<String> {
    if SERVED.iter().any(|served| name.starts_with(served)) {
        return Some(name.to_string());
    }
    let below = if layers > 0 { related(class_block, name, "slaves") } else { Vec::new() };
    below.iter().find_map(|below| served_below(class_block, below, layers - 1))
}

fn related(class_block: &Path, name: &str, how: &str) -> Vec<String> {
    let entries = std::fs::read_dir(class_block.join(name).join(how)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const NOWHERE: &str = "/nonexistent";

    fn paths(list: &str, class_block: &Path) -> Vec<PathBuf> {
        listed(list, class_block).0.into_keys().collect()
    }

    #[test]
    fn devices_are_listed() {
        let list = "major minor  #blocks  name\n\n 259 0 1000 nvme0n1\n 259 1 999 nvme0n1p1\n 240 0 9 ublkb0\n 1 2 3 a!b\n";
        let expected: Vec<PathBuf> =
            ["/dev/a/b", "/dev/nvme0n1", "/dev/nvme0n1p1"].map(PathBuf::from).to_vec();
        assert_eq!(paths(list, Path::new(NOWHERE)), expected);
        assert!(paths("", Path::new(NOWHERE)).is_empty());
    }

    /// sda and sdb are paths to dm-0; dm-1 is a volume on the array ublkb0, and dm-2 lies on that.
    #[test]
    fn devices_below_others_and_on_arrays_are_passed_over() {
        let sys = tempfile::tempdir().unwrap();
        for below in [
            "sda/holders/dm-0",
            "sdb/holders/dm-0",
            "dm-0/slaves/sda",
            "dm-1/slaves/ublkb0",
            "dm-2/slaves/dm-1",
        ] {
            std::fs::create_dir_all(sys.path().join(below)).unwrap();
        }
        let list = "heading\n\n8 0 1 sda\n8 1 1 sdb\n8 2 1 sdc\n253 0 1 dm-0\n253 1 1 dm-1\n253 2 1 dm-2\n43 0 1 nbd0\n";
        assert_eq!(paths(list, sys.path()), ["/dev/dm-0", "/dev/sdc"].map(PathBuf::from));
        let why = |path: &str| {
            let (_, passed_over) = listed(list, sys.path());
            passed_over.into_iter().find(|one| one.path == Path::new(path)).map(|one| one.why)
        };
        assert_eq!(why("/dev/sda").unwrap(), "dm-0 is made of it");
        assert_eq!(why("/dev/dm-2").unwrap(), "it lies on /dev/ublkb0, which another program serves");
        assert_eq!(why("/dev/nbd0").unwrap(), "another program serves it");
        assert_eq!(why("/dev/sdc"), None);
    }

    #[test]
    fn a_device_that_its_driver_holds_back_is_not_read() {
        let sys = tempfile::tempdir().unwrap();
        for (name, state) in [("nvme0n1", "connecting\n"), ("nvme1n1", "live\n"), ("sda", "blocked\n")] {
            std::fs::create_dir_all(sys.path().join(name).join("device")).unwrap();
            std::fs::write(sys.path().join(name).join("device/state"), state).unwrap();
        }
        assert_eq!(held_back(sys.path(), "nvme0n1").as_deref(), Some("connecting"));
        assert_eq!(held_back(sys.path(), "sda").as_deref(), Some("blocked"));
        assert_eq!(held_back(sys.path(), "nvme1n1"), None);
        assert_eq!(held_back(sys.path(), "loop0"), None);
        let found = read(Path::new("/dev/sda"), sys.path());
        assert!(found.unread && found.error.unwrap().contains("`blocked`"));
    }

    /// A machine with `count` devices, read by `reader`.
    fn machine(
        count: usize,
        reader: impl Fn(&Path) -> Examined + Send + Sync + 'static,
    ) -> (tempfile::TempDir, Devices) {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("partitions");
        let lines = (0..count).map(|number| format!("8 {number} 1 sd{number}\n")).collect::<String>();
        std::fs::write(&list, format!("heading\n\n{lines}")).unwrap();
        let patience = Duration::from_millis(100);
        let devices = Devices::new(&list, Path::new(NOWHERE), patience, Arc::new(reader));
        (directory, devices)
    }

    fn read_well(path: &Path) -> Examined {
        Examined { path: path.into(), superblock: None, error: None, silent: false, unread: false }
    }

    #[track_caller]
    fn look_until(devices: &mut Devices, mut is_so: impl FnMut(&Devices) -> bool) {
        let began = Instant::now();
        while !is_so(devices) {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", devices.seen());
            devices.look().unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_failed_read_is_done_again_and_a_clean_one_is_kept() {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let (directory, mut devices) = machine(1, move |path| match counted.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => unread(path, "an error".into()),
            _ => read_well(path),
        });
        look_until(&mut devices, |devices| devices.seen().values().any(|one| !one.unread));
        for _ in 0..5 {
            devices.look().unwrap();
        }
        assert_eq!(reads.load(Ordering::SeqCst), 3);
        // The device has another size now, so it is read again.
        std::fs::write(directory.path().join("partitions"), "heading\n\n8 0 2 sd0\n").unwrap();
        look_until(&mut devices, |_| reads.load(Ordering::SeqCst) == 4);
    }

    #[test]
    fn a_silent_device_is_named_and_counts_when_it_answers() {
        let (release, released) = crossbeam::channel::bounded::<()>(0);
        let (_directory, mut devices) = machine(2, move |path| {
            if path.ends_with("sd1") {
                let _ = released.recv();
            }
            read_well(path)
        });
        look_until(&mut devices, |devices| devices.seen().len() == 2 && !devices.is_busy());
        let silent = |devices: &Devices| devices.seen()[Path::new("/dev/sd1")].silent;
        assert!(silent(&devices) && !devices.seen()[Path::new("/dev/sd0")].silent);
        look_until(&mut devices, |devices| devices.hanging() == [Path::new("/dev/sd1")]);
        drop(release);
        look_until(&mut devices, |devices| !silent(devices));
        assert!(devices.hanging().is_empty());
    }

    #[test]
    fn so_many_reads_run_at_a_time() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&most);
        let (_directory, mut devices) = machine(100, move |path| {
            seen.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
            running.fetch_sub(1, Ordering::SeqCst);
            read_well(path)
        });
        look_until(&mut devices, |devices| devices.seen().len() == 100);
        assert!(most.load(Ordering::SeqCst) <= READS_MAX);
    }
}
