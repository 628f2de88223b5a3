//! Looking for an array's members by its name, on every block device of the machine.

use std::path::{Path, PathBuf};

use engine::examine::{Examined, examine};

use crate::failure::{Context, Failure, Result};
use crate::log;
use crate::names::ArrayName;

/// Where the kernel lists block devices and their partitions.
const PARTITIONS: &str = "/proc/partitions";
/// Block devices that are served by programs such as this one: reading one whose server is gone waits for ever.
const SERVED: [&str; 2] = ["ublkb", "nbd"];

/// What was typed: paths, made absolute because commands name members from other directories; or, for one word that is no path, the devices that hold the array of that name.
pub fn members(typed: &[PathBuf]) -> Result<Vec<PathBuf>> {
    match typed {
        [one] if !one.exists() => match one.to_str().map(str::parse::<ArrayName>) {
            Some(Ok(name)) => of_array(&name),
            _ => absolute(typed),
        },
        _ => absolute(typed),
    }
}

fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let absolute = paths.iter().map(std::path::absolute).collect::<std::io::Result<_>>();
    absolute.context(|| "cannot use a member's path".into())
}

fn of_array(name: &ArrayName) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_to_string(PARTITIONS).context(|| format!("cannot read {PARTITIONS}"))?;
    let devices = devices(&list);
    let looked = if devices.is_empty() { Vec::new() } else { examine(&devices, 0)? };
    let (found, rest): (Vec<Examined>, Vec<Examined>) = looked
        .into_iter()
        .partition(|one| one.superblock.as_ref().is_some_and(|superblock| superblock.name == name.as_str()));
    let silent: Vec<String> =
        rest.iter().filter(|one| one.silent).filter_map(|one| one.error.clone()).collect();
    for one in &silent {
        log::say(&format!("{one}: it may be a member of {name}, and is left out"));
    }
    if found.is_empty() {
        let unread = rest.iter().filter(|one| !one.silent && std::fs::File::open(&one.path).is_err()).count();
        return Err(Failure::new(format!(
            "no member found: {name}: not a file, and none of {} block devices holds an array of this name{}",
            devices.len(),
            if unread > 0 {
                format!(" ({unread} of them cannot be read: be root, or name the members)")
            } else {
                String::new()
            },
        )));
    }
    Ok(found.into_iter().map(|one| one.path).collect())
}

/// The paths of what `/proc/partitions` lists: a heading, an empty line, then `major minor blocks name`.
fn devices(list: &str) -> Vec<PathBuf> {
    let names = list.lines().skip(2).filter_map(|line| line.split_whitespace().nth(3));
    names
        .filter(|name| !SERVED.iter().any(|served| name.starts_with(served)))
        // The kernel writes the slashes of /dev/cciss/c0d0 so.
        .map(|name| Path::new("/dev").join(name.replace('!', "/")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_listed() {
        let list = "major minor  #blocks  name\n\n 259 0 1000 nvme0n1\n 259 1 999 nvme0n1p1\n 240 0 9 ublkb0\n 1 2 3 a!b\n";
        let paths: Vec<PathBuf> = ["/dev/nvme0n1", "/dev/nvme0n1p1", "/dev/a/b"].map(PathBuf::from).to_vec();
        assert_eq!(devices(list), paths);
        assert!(devices("").is_empty());
    }

    #[test]
    fn paths_stay_as_they_are() {
        assert_eq!(members(&["/dev/a".into(), "/b".into()]).unwrap(), ["/dev/a", "/b"].map(PathBuf::from));
        assert_eq!(members(&["/nonexistent/m".into()]).unwrap(), [PathBuf::from("/nonexistent/m")]);
        let refused = members(&["surely-no-array".into()]).unwrap_err();
        assert!(refused.line().contains("no member found: surely-no-array"), "{}", refused.line());
    }
}
