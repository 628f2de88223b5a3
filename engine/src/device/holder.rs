//! Finds the holder of a device or a file for the text of an error, from /proc/self/mountinfo, /proc/swaps,
//! sysfs, /proc/locks and the open files of processes. Best effort: a race with an unmount yields "unknown",
//! and so do processes of other users.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::Holder;

/// Finds what claims the device `number`, one of its partitions, or the disk it is a partition of.
pub(super) fn of(number: u64) -> Holder {
    let sysfs = sysfs(number);
    let mut names = relatives(&sysfs);
    names.push(number_text(number));
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(mount_point) = mount_point(&mountinfo, &names) {
        return Holder::Mount { mount_point };
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let is_swap =
        swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).any(|path| {
            fs::metadata(path).is_ok_and(|metadata| names.contains(&number_text(metadata.rdev())))
        });
    if is_swap {
        return Holder::Swap;
    }
    let holders: Vec<String> = directory(&sysfs.join("holders"));
    if !holders.is_empty() {
        return Holder::Devices { names: holders };
    }
    // Several programs may have the device open, and one of them has claimed it: most likely a server of an
    // array.
    let mut found: Vec<Holder> = processes_with(number).into_iter().map(process).collect();
    found.sort_by_key(|holder| !matches!(holder, Holder::Process { name, .. } if name == "striate"));
    found.into_iter().next().unwrap_or(Holder::Unknown)
}

/// Finds the holder of a lock on a file.
pub(super) fn of_lock(file: &fs::File) -> Holder {
    let Ok(metadata) = file.metadata() else { return Holder::Unknown };
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    lock_owner(&locks, &place).map_or(Holder::Unknown, process)
}

/// The process that has locked a file: the fifth and sixth fields of a line of /proc/locks, see
/// proc_locks(5). A lock of an open file description has process number -1.
fn lock_owner(locks: &str, place: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let at = fields.iter().position(|field| *field == place)?;
        fields.get(at.checked_sub(1)?)?.parse().ok()
    })
}

fn process(pid: u32) -> Holder {
    if pid == std::process::id() {
        return Holder::ThisServer;
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Holder::Process { pid, name: name.trim().to_owned() }
}

/// Other processes that have a block device open (this process has it open too, to look before it claims).
/// Only paths in /dev are looked up: any other path may be on a file system that does not answer.
fn processes_with(number: u64) -> Vec<u32> {
    let is_it = |path: &Path| {
        path.starts_with("/dev") && fs::metadata(path).is_ok_and(|metadata| metadata.rdev() == number)
    };
    let has_it = |pid: &u32| {
        let files = PathBuf::from(format!("/proc/{pid}/fd"));
        let paths = directory(&files).into_iter().filter_map(|name| fs::read_link(files.join(name)).ok());
        paths.into_iter().any(|path| is_it(&path))
    };
    let pids = directory(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok());
    pids.filter(|pid| *pid != std::process::id()).filter(has_it).collect()
}

/// The mount point of the first mounted device among `numbers` ("8:1"): the third and fifth fields of a line
/// of mountinfo, see proc_pid_mountinfo(5).
fn mount_point(mountinfo: &str, numbers: &[String]) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let number = fields.nth(2)?;
        let mount_point = fields.nth(1)?;
        numbers.iter().any(|known| known == number).then(|| unescape(mount_point))
    })
}

/// Decodes a field of mountinfo, where blanks and backslashes are three octal digits.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

pub(super) fn sysfs(number: u64) -> PathBuf {
    let path = PathBuf::from("/sys/dev/block").join(number_text(number));
    fs::canonicalize(&path).unwrap_or(path)
}

pub(super) fn number_text(number: u64) -> String {
    format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number))
}

/// Numbers of a disk's partitions, or of a partition's disk.
fn relatives(sysfs: &std::path::Path) -> Vec<String> {
    let children = directory(sysfs).into_iter().map(|name| sysfs.join(name));
    let mut paths: Vec<PathBuf> = children.filter(|path| path.join("partition").exists()).collect();
    if sysfs.join("partition").exists() {
        paths.extend(sysfs.parent().map(PathBuf::from));
    }
    let numbers = paths.iter().filter_map(|path| fs::read_to_string(path.join("dev")).ok());
    numbers.map(|number| number.trim().to_owned()).collect()
}

fn directory(path: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_have_owners() {
        let locks = "1: OFDLCK ADVISORY  WRITE -1 fe:01:98765 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4711 fe:01:98765 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 4712 fe:01:98766 0 EOF\n";
        assert_eq!(lock_owner(locks, "fe:01:98765"), Some(4711));
        assert_eq!(lock_owner(locks, "fe:01:98766"), Some(4712));
        assert_eq!(lock_owner(locks, "fe:01:1"), None);
        assert_eq!(process(std::process::id()), Holder::ThisServer);
    }

    #[test]
    fn mount_points_are_found_by_number() {
        let mountinfo = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                         40 22 7:3 / /mnt/with\\040blank rw shared:5 - xfs /dev/loop3 rw\n";
        let find = |number: &str| mount_point(mountinfo, &[String::from("9:9"), number.to_owned()]);
        assert_eq!(find("7:3").as_deref(), Some("/mnt/with blank"));
        assert_eq!(find("254:0").as_deref(), Some("/"));
        assert_eq!(find("7:30"), None);
    }
}
