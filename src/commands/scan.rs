//! Looking for an array's members by its name, on every block device of the machine.
//!
//! ```text
//!     /proc/partitions --> examine each --> those of that name --> by UUID: one array --> (wait for its late members)
//! ```
//! Not looked at are devices that another device is made of (a half of a mirror, a path of a multipath device: the other device counts),
//! and those that are served by programs such as this one, or lie on such a device: what is on them is a guest's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::examine::{Examined, ExaminedSuperblock, examine};
use engine::status::MemberState;

use crate::failure::{Context, Failure, Result};
use crate::log;
use crate::names::ArrayName;

/// Where the kernel lists block devices and their partitions.
const PARTITIONS: &str = "/proc/partitions";
/// Where it says what a block device is made of (`slaves`), and what is made of it (`holders`).
const CLASS_BLOCK: &str = "/sys/class/block";
/// Block devices that are served by programs such as this one: reading one whose server is gone waits for ever.
const SERVED: [&str; 2] = ["ublkb", "nbd"];
/// Devices may be made of devices; the kernel allows no more than eight such layers.
const LAYERS_MAX: usize = 8;
/// How often it is looked whether a late member has come.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How to look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search<'a> {
    /// The array, where several have the name.
    pub uuid: Option<&'a str>,
    /// How long to wait for members that belong to the array and are not there yet.
    pub wait: Duration,
    /// How long a device may take to answer, seconds; 0: as long as the engine's default.
    pub member_timeout_s: u32,
}

/// What was typed: paths, made absolute because commands name members from other directories; or, for one word that is no path, the
/// devices that hold the array of that name.
pub fn members(typed: &[PathBuf], search: Search<'_>) -> Result<Vec<PathBuf>> {
    match typed {
        [one] if !one.exists() => match one.to_str().map(str::parse::<ArrayName>) {
            Some(Ok(name)) => of_array(&name, search),
            _ => paths(typed, search),
        },
        _ => paths(typed, search),
    }
}

/// A device that is only late has no path yet. (A file that is not there is a slip, and is none later either.)
fn paths(typed: &[PathBuf], search: Search<'_>) -> Result<Vec<PathBuf>> {
    let absolute = typed.iter().map(std::path::absolute).collect::<std::io::Result<Vec<PathBuf>>>();
    let paths = absolute.context(|| "cannot use a member's path".into())?;
    let late = || paths.iter().filter(|path| path.starts_with("/dev/") && !path.exists());
    let names = late().map(|path| path.display().to_string()).collect::<Vec<_>>();
    if !names.is_empty() && !search.wait.is_zero() {
        tracing::warn!("not there yet: {}: waiting for up to {} s", names.join(", "), search.wait.as_secs());
        wait_until(search.wait, || Ok(late().next().is_none()))?;
    }
    Ok(paths)
}

fn of_array(name: &ArrayName, search: Search<'_>) -> Result<Vec<PathBuf>> {
    let mut seen = BTreeMap::new();
    look(&mut seen, search)?;
    let absent = choose(name, search.uuid, &seen)?.absent();
    if !absent.is_empty() && !search.wait.is_zero() {
        tracing::warn!(
            "{name}: not there yet: the member of {}: waiting for up to {} s",
            slots(&absent),
            search.wait.as_secs()
        );
        wait_until(search.wait, || {
            look(&mut seen, search)?;
            Ok(choose(name, search.uuid, &seen)?.absent().is_empty())
        })?;
    }
    let array = choose(name, search.uuid, &seen)?;
    array.others.iter().for_each(|other| log::say(other));
    let absent = array.absent();
    if !absent.is_empty() && !search.wait.is_zero() {
        tracing::warn!(
            "{name}: the member of {} has not come within {} s: if the array starts without it, what is written from now on \
             is not on it, and it has to be rebuilt when it is back",
            slots(&absent),
            search.wait.as_secs()
        );
    }
    Ok(array.members.iter().map(|one| one.path.clone()).collect())
}

fn slots(slots: &[usize]) -> String {
    slots.iter().map(|slot| format!("slot {slot}")).collect::<Vec<_>>().join(", ")
}

fn wait_until(wait: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + wait;
    while !is_so()? && Instant::now() < until {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Looks at every block device that was not there before, and forgets those that have gone.
fn look(seen: &mut BTreeMap<PathBuf, Examined>, search: Search<'_>) -> Result<()> {
    let list = std::fs::read_to_string(PARTITIONS).context(|| format!("cannot read {PARTITIONS}"))?;
    let devices = devices(&list, Path::new(CLASS_BLOCK));
    seen.retain(|path, _| devices.contains(path));
    let new: Vec<PathBuf> = devices.into_iter().filter(|path| !seen.contains_key(path)).collect();
    if !new.is_empty() {
        let looked = examine(&new, search.member_timeout_s)?;
        seen.extend(looked.into_iter().map(|one| (one.path.clone(), one)));
    }
    Ok(())
}

/// The array that is meant, as far as it is there.
struct Found<'a> {
    members: Vec<&'a Examined>,
    /// Devices that may be, or say that they are, members of something of the same name, and are left out: a line each.
    others: Vec<String>,
}

impl Found<'_> {
    fn superblocks(&self) -> impl Iterator<Item = &ExaminedSuperblock> {
        self.members.iter().filter_map(|one| one.superblock.as_ref())
    }

    /// Slots that take part, says the newest superblock, and of which no device is here.
    fn absent(&self) -> Vec<usize> {
        let Some(newest) = self.superblocks().max_by_key(|one| (one.epoch, one.sequence)) else {
            return Vec::new();
        };
        let takes_part =
            |slot: &usize| matches!(newest.slots[*slot].state, MemberState::InSync | MemberState::Rebuilding);
        let is_here = |slot: &usize| self.superblocks().any(|one| one.slot == *slot);
        (0..newest.slots.len()).filter(takes_part).filter(|slot| !is_here(slot)).collect()
    }
}

/// Of the arrays of that name the one that is asked for, or else the only one that has enough members: any program may write something
/// that looks like a superblock of that name, but hardly on so many devices.
fn choose<'a>(
    name: &ArrayName,
    uuid: Option<&str>,
    seen: &'a BTreeMap<PathBuf, Examined>,
) -> Result<Found<'a>> {
    let mut arrays: BTreeMap<&str, Vec<&Examined>> = BTreeMap::new();
    let mut others = Vec::new();
    for one in seen.values() {
        match &one.superblock {
            Some(superblock) if superblock.name == name.as_str() => {
                arrays.entry(&superblock.array_uuid).or_default().push(one);
            }
            None if one.silent => {
                let error = one.error.as_deref().unwrap_or_default();
                others.push(format!("{error}: it may be a member of {name}, and is left out"));
            }
            _ => {}
        }
    }
    if arrays.is_empty() {
        return Err(none_found(name, seen));
    }
    let all = || {
        let paths = |members: &[&Examined]| {
            members.iter().map(|one| one.path.display().to_string()).collect::<Vec<_>>().join(", ")
        };
        arrays
            .iter()
            .map(|(uuid, members)| format!("{uuid} on {}", paths(members)))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let enough: Vec<&str> =
        arrays.iter().filter(|(_, members)| has_enough(members)).map(|(uuid, _)| *uuid).collect();
    let chosen = match (uuid, &enough[..]) {
        (Some(uuid), _) if arrays.contains_key(uuid) => uuid,
        (Some(uuid), _) => {
            return Err(Failure::new(format!(
                "no member found: {name} with the UUID {uuid}: there is {}",
                all()
            )));
        }
        (None, &[one]) => one,
        (None, _) if arrays.len() == 1 => arrays.keys().next().expect("one"),
        (None, _) => {
            return Err(Failure::new(format!(
                "several arrays are named {name}: {}: say which with --uuid, or give the members",
                all()
            )));
        }
    };
    let (chosen, members) = arrays.remove_entry(chosen).expect("one of them");
    others.extend(arrays.iter().flat_map(|(uuid, members)| {
        members.iter().map(move |one| {
            let path = one.path.display();
            format!(
                "{path}: left out: it says that it is of another array named {name} ({uuid}, not {chosen})"
            )
        })
    }));
    Ok(Found { members, others })
}

fn has_enough(members: &[&Examined]) -> bool {
    let superblocks = || members.iter().filter_map(|one| one.superblock.as_ref());
    superblocks().next().is_some_and(|one| {
        let parities = usize::from(one.level.saturating_sub(4));
        let here = (0..one.slots.len()).filter(|slot| superblocks().any(|one| one.slot == *slot)).count();
        here + parities >= one.slots.len()
    })
}

fn none_found(name: &ArrayName, seen: &BTreeMap<PathBuf, Examined>) -> Failure {
    let is_unread =
        |one: &&Examined| !one.silent && one.superblock.is_none() && std::fs::File::open(&one.path).is_err();
    let unread = match seen.values().filter(is_unread).count() {
        0 => String::new(),
        count => format!(" ({count} of them cannot be read: be root, or name the members)"),
    };
    Failure::new(format!(
        "no member found: {name}: not a file, and none of {} block devices holds an array of this name{unread}",
        seen.len()
    ))
}

/// The paths of what `/proc/partitions` lists: a heading, an empty line, then `major minor blocks name`.
fn devices(list: &str, class_block: &Path) -> Vec<PathBuf> {
    let names = list.lines().skip(2).filter_map(|line| line.split_whitespace().nth(3));
    names
        .filter(|name| !is_on_served(class_block, name, LAYERS_MAX))
        .filter(|name| related(class_block, name, "holders").is_empty())
        // The kernel writes the slashes of /dev/cciss/c0d0 so.
        .map(|name| Path::new("/dev").join(name.replace('!', "/")))
        .collect()
}

fn is_on_served(class_block: &Path, name: &str, layers: usize) -> bool {
    SERVED.iter().any(|served| name.starts_with(served))
        || layers > 0
            && related(class_block, name, "slaves")
                .iter()
                .any(|below| is_on_served(class_block, below, layers - 1))
}

fn related(class_block: &Path, name: &str, how: &str) -> Vec<String> {
    let entries = std::fs::read_dir(class_block.join(name).join(how)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use engine::examine::ExaminedSlot;

    use super::*;

    #[test]
    fn devices_are_listed() {
        let list = "major minor  #blocks  name\n\n 259 0 1000 nvme0n1\n 259 1 999 nvme0n1p1\n 240 0 9 ublkb0\n 1 2 3 a!b\n";
        let nowhere = Path::new("/nonexistent");
        let paths: Vec<PathBuf> = ["/dev/nvme0n1", "/dev/nvme0n1p1", "/dev/a/b"].map(PathBuf::from).to_vec();
        assert_eq!(devices(list, nowhere), paths);
        assert!(devices("", nowhere).is_empty());
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
        let list = "heading\n\n8 0 1 sda\n8 1 1 sdb\n8 2 1 sdc\n253 0 1 dm-0\n253 1 1 dm-1\n253 2 1 dm-2\n";
        assert_eq!(devices(list, sys.path()), ["/dev/sdc", "/dev/dm-0"].map(PathBuf::from));
    }

    #[test]
    fn paths_stay_as_they_are() {
        let now = Search::default();
        assert_eq!(
            members(&["/dev/a".into(), "/b".into()], now).unwrap(),
            ["/dev/a", "/b"].map(PathBuf::from)
        );
        assert_eq!(members(&["/nonexistent/m".into()], now).unwrap(), [PathBuf::from("/nonexistent/m")]);
        let refused = members(&["surely-no-array".into()], now).unwrap_err();
        assert!(refused.line().contains("no member found: surely-no-array"), "{}", refused.line());
    }

    /// A device that says it is in a slot of a RAID-5 of four named `tank`, of an epoch, in which some slots take part.
    fn device(
        seen: &mut BTreeMap<PathBuf, Examined>,
        path: &str,
        uuid: &str,
        slot: usize,
        epoch: u64,
        part: [bool; 4],
    ) {
        let state = |takes_part| if takes_part { MemberState::InSync } else { MemberState::Failed };
        let slots = part.map(|part| ExaminedSlot { state: state(part), epoch, rebuild_cursor_stripes: None });
        let superblock = ExaminedSuperblock {
            name: "tank".into(),
            array_uuid: uuid.into(),
            member_uuid: path.into(),
            host: String::new(),
            host_id: String::new(),
            level: 5,
            chunk_bytes: 65536,
            size_bytes: 1 << 30,
            data_offset_bytes: 1 << 20,
            slot,
            epoch,
            sequence: epoch,
            clean: true,
            slots: slots.to_vec(),
        };
        let one = Examined { path: path.into(), superblock: Some(superblock), error: None, silent: false };
        seen.insert(path.into(), one);
    }

    #[test]
    fn the_newest_superblock_says_who_is_absent() {
        let (mut seen, name) = (BTreeMap::new(), "tank".parse().unwrap());
        device(&mut seen, "/dev/a", "u", 0, 7, [true, true, true, false]);
        // It left before, and says what was then.
        device(&mut seen, "/dev/d", "u", 3, 5, [true; 4]);
        assert_eq!(choose(&name, None, &seen).unwrap().absent(), [1, 2]);
        device(&mut seen, "/dev/b", "u", 1, 7, [true, true, true, false]);
        device(&mut seen, "/dev/c", "u", 2, 6, [true; 4]);
        let found = choose(&name, None, &seen).unwrap();
        assert!(found.absent().is_empty() && found.members.len() == 4 && found.others.is_empty());
    }

    #[test]
    fn another_array_of_the_name_is_no_hindrance() {
        let (mut seen, name) = (BTreeMap::new(), "tank".parse().unwrap());
        for (slot, path) in ["/dev/a", "/dev/b", "/dev/c"].iter().enumerate() {
            device(&mut seen, path, "ours", slot, 3, [true; 4]);
        }
        device(&mut seen, "/dev/guest", "theirs", 0, 9, [true; 4]);
        let found = choose(&name, None, &seen).unwrap();
        assert_eq!(found.members.len(), 3);
        assert!(found.others[0].starts_with("/dev/guest: left out"), "{:?}", found.others);
        let asked = choose(&name, Some("theirs"), &seen).unwrap();
        assert_eq!(asked.members[0].path, Path::new("/dev/guest"));
        assert!(choose(&name, Some("nobody's"), &seen).is_err());
        // Neither has enough of its members, or both have.
        seen.remove(Path::new("/dev/a"));
        let refused = choose(&name, None, &seen).err().unwrap().line();
        assert!(
            refused.contains("ours on /dev/b, /dev/c; theirs on /dev/guest") && refused.contains("--uuid"),
            "{refused}"
        );
        assert!(choose(&"other".parse().unwrap(), None, &seen).is_err());
    }
}
