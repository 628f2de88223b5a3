//! Who has a block device, for the text of an error: from /proc/self/mountinfo, /proc/swaps and sysfs.
//! Best effort; a race with an unmount yields "unknown".

use std::fs;
use std::path::PathBuf;

use super::error::Holder;

/// Who claims the device `number`, one of its partitions, or the disk it is a partition of.
pub(super) fn of(number: u64) -> Holder {
    let sysfs = sysfs(number);
    let mut names = relatives(&sysfs);
    names.push(number_text(number));
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(mount_point) = mount_point(&mountinfo, &names) {
        return Holder::Mount { mount_point };
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let is_swap = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).any(|path| {
        fs::metadata(path).is_ok_and(|metadata| {
            names.contains(&number_text(std::os::unix::fs::MetadataExt::rdev(&metadata)))
        })
    });
    if is_swap {
        return Holder::Swap;
    }
    let holders: Vec<String> = directory(&sysfs.join("holders"));
    if holders.is_empty() { Holder::Unknown } else { Holder::Devices { names: holders } }
}

/// The mount point of the first mounted device among `numbers` ("8:1"): the third and fifth fields of
/// a line of mountinfo, see proc_pid_mountinfo(5).
fn mount_point(mountinfo: &str, numbers: &[String]) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let number = fields.nth(2)?;
        let mount_point = fields.nth(1)?;
        numbers.iter().any(|known| known == number).then(|| unescape(mount_point))
    })
}

/// Mountinfo writes blanks and backslashes as three octal digits.
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

/// Numbers of the partitions of a disk, and of the disk of a partition.
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
    fn mount_points_are_found_by_number() {
        let mountinfo = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                         40 22 7:3 / /mnt/with\\040blank rw shared:5 - xfs /dev/loop3 rw\n";
        let find = |number: &str| mount_point(mountinfo, &[String::from("9:9"), number.to_owned()]);
        assert_eq!(find("7:3").as_deref(), Some("/mnt/with blank"));
        assert_eq!(find("254:0").as_deref(), Some("/"));
        assert_eq!(find("7:30"), None);
    }
}
