//! The search for an array's members by its name, on every block device of the machine.
//!
//! ```text
//!     devices: read all --> superblocks of the name --> one UUID: that array --> wait for members --> serve
//!                                                   `-> none, several, copies --> wait, then refuse
//! ```
//! Any program that can write to some block device of the machine, even a guest in its volume, can write a
//! superblock with any name. Two kinds of arrays are therefore refused: a second UUID of the name, however
//! many members it has, unless `--uuid` says which one is meant; and an array that belongs to no host, which
//! must be named by `--uuid` or by its paths. This does not help while none of the real members is there: a
//! name is not an identity.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::examine::{Examined, ExaminedSuperblock};
use engine::members::MEMBER_PATIENCE_S;
use engine::status::MemberState;
use rustix::fs::FileType;

use crate::failure::{Context, Failure, Result};
use crate::log;
use crate::names::ArrayName;

mod devices;

use devices::{Devices, PassedOver};

/// The pause between two checks for a late member.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The parameters of a search.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search<'a> {
    /// The UUID of the array, if several have the name.
    pub uuid: Option<&'a str>,
    /// How long to wait for members that belong to the array and are not there yet.
    pub wait: Duration,
    /// How long a device may take to answer, in seconds; 0 means the engine's default.
    pub member_timeout_s: u32,
}

/// The members that the command line means. Paths are made absolute, because commands name members from other
/// directories. A single word that is a name stands for the devices that hold the array of that name.
pub fn members(typed: &[PathBuf], search: Search<'_>) -> Result<Vec<PathBuf>> {
    match typed {
        [one] => match as_name(one) {
            Some(name) => of_array(&name, search),
            None => paths(typed, search),
        },
        _ => paths(typed, search),
    }
}

/// Reads a single word as the name of an array. The word is a path if it has a slash, or if the working
/// directory has a file or a block device of that name. Directories do not count: a service that runs in `/`
/// may serve an array named `media` although there is a directory /media.
pub fn as_name(word: &Path) -> Option<ArrayName> {
    let name = word.to_str()?.parse().ok()?;
    let kind = rustix::fs::stat(word).map(|stat| FileType::from_raw_mode(stat.st_mode));
    (!matches!(kind, Ok(FileType::RegularFile | FileType::BlockDevice))).then_some(name)
}

/// Makes paths absolute, and waits for those in /dev that do not exist yet: the device may only be late. (Any
/// other path that does not exist is a typing mistake, and waiting would not help.)
fn paths(typed: &[PathBuf], search: Search<'_>) -> Result<Vec<PathBuf>> {
    let absolute = typed.iter().map(std::path::absolute).collect::<std::io::Result<Vec<PathBuf>>>();
    let paths = absolute.context(|| "cannot use a member's path".into())?;
    let late = || paths.iter().filter(|path| path.starts_with("/dev/") && !path.exists());
    let names = late().map(|path| path.display().to_string()).collect::<Vec<_>>();
    if !names.is_empty() && !search.wait.is_zero() {
        tracing::warn!("not there yet: {}: waiting for up to {} s", names.join(", "), search.wait.as_secs());
        let until = Instant::now() + search.wait;
        while late().next().is_some() && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
    }
    Ok(paths)
}

fn of_array(name: &ArrayName, search: Search<'_>) -> Result<Vec<PathBuf>> {
    let patience_s = if search.member_timeout_s == 0 { MEMBER_PATIENCE_S } else { search.member_timeout_s };
    let mut devices = Devices::of_this_machine(Duration::from_secs(patience_s.into()));
    let found = search_for(name, search, &mut devices);
    for path in devices.hanging() {
        log::say(&format!(
            "{}: does not answer: this process cannot end before the device answers or is removed",
            path.display()
        ));
    }
    found
}

/// Searches until the whole array is there or the time is over, then takes what is there.
fn search_for(name: &ArrayName, search: Search<'_>, devices: &mut Devices) -> Result<Vec<PathBuf>> {
    let until = Instant::now() + search.wait;
    let mut is_told = search.wait.is_zero();
    loop {
        devices.look()?;
        if devices.is_busy() {
            continue;
        }
        let seen = devices.seen();
        let found = choose(name, search.uuid, &seen);
        let lacks = match &found {
            Ok(found) if found.absent().is_empty() => return Ok(found.taken()),
            Ok(found) => format!("not there yet: {name}: the member of {}", slots(&found.absent())),
            Err(refusal) => refusal.line(),
        };
        if Instant::now() >= until {
            return at_last(name, search, found, &seen, &devices.passed_over);
        }
        if !is_told {
            is_told = true;
            tracing::warn!("{lacks}: waiting for up to {} s", search.wait.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The outcome of a search that has not found the whole array.
fn at_last(
    name: &ArrayName,
    search: Search<'_>,
    found: Result<Found<'_>>,
    seen: &BTreeMap<PathBuf, Examined>,
    passed_over: &[PassedOver],
) -> Result<Vec<PathBuf>> {
    let not_looked_at = not_looked_at(seen, passed_over);
    let found = found.map_err(|refusal| match &not_looked_at[..] {
        "" => refusal,
        text => Failure::new(format!("{}; {text}", refusal.line())),
    })?;
    if !not_looked_at.is_empty() {
        log::say(&format!("{name}: {not_looked_at}"));
    }
    if !search.wait.is_zero() {
        tracing::warn!(
            "{name}: the member of {} has not come within {} s: if the array starts without it, what is written from now on \
             is not on it, and it has to be rebuilt when it is back",
            slots(&found.absent()),
            search.wait.as_secs()
        );
    }
    Ok(found.taken())
}

/// Describes devices that may hold an absent member, with the reason why they were not read; empty if there
/// are none.
fn not_looked_at(seen: &BTreeMap<PathBuf, Examined>, passed_over: &[PassedOver]) -> String {
    let passed_over = passed_over.iter().map(|one| format!("{} ({})", one.path.display(), one.why));
    let failed = seen.values().filter(|one| one.unread && !is_forbidden(&one.path));
    let failed = failed.map(|one| one.error.clone().unwrap_or_default());
    let [passed_over, failed] =
        [passed_over.collect::<Vec<_>>().join(", "), failed.collect::<Vec<_>>().join("; ")];
    let parts = [("passed over: ", passed_over), ("could not be read: ", failed)];
    let parts = parts.into_iter().filter(|(_, list)| !list.is_empty());
    parts.map(|(head, list)| format!("{head}{list}")).collect::<Vec<_>>().join("; ")
}

/// Whether this process lacks the right to open a device.
fn is_forbidden(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::READ_OK) == Err(rustix::io::Errno::ACCESS)
}

fn slots(slots: &[usize]) -> String {
    slots.iter().map(|slot| format!("slot {slot}")).collect::<Vec<_>>().join(", ")
}

/// The array that is meant, with those of its members that are there.
struct Found<'a> {
    members: Vec<&'a Examined>,
    /// A line for each device that is left out: it may be a member, or claims to belong to another array of
    /// the name.
    others: Vec<String>,
}

impl Found<'_> {
    fn superblocks(&self) -> impl Iterator<Item = &ExaminedSuperblock> {
        self.members.iter().filter_map(|one| one.superblock.as_ref())
    }

    /// Slots that take part according to the newest superblock, but whose device is not there.
    fn absent(&self) -> Vec<usize> {
        let Some(newest) = self.superblocks().max_by_key(|one| (one.epoch, one.sequence)) else {
            return Vec::new();
        };
        let takes_part =
            |slot: &usize| matches!(newest.slots[*slot].state, MemberState::InSync | MemberState::Rebuilding);
        let is_here = |slot: &usize| self.superblocks().any(|one| one.slot == *slot);
        (0..newest.slots.len()).filter(takes_part).filter(|slot| !is_here(slot)).collect()
    }

    /// The paths of the members. Logs which devices are left out.
    fn taken(&self) -> Vec<PathBuf> {
        self.others.iter().for_each(|other| log::say(other));
        self.members.iter().map(|one| one.path.clone()).collect()
    }
}

/// Chooses the array of that name with the given UUID; without a UUID, the only array of that name.
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
                others.push(format!("{error}: if it is a member of {name}, the array goes on without it"));
            }
            _ => {}
        }
    }
    let chosen = *match uuid {
        Some(uuid) => arrays.keys().find(|known| **known == uuid),
        None if arrays.len() > 1 => return Err(several(name, &arrays)),
        None => arrays.keys().next(),
    }
    .ok_or_else(|| none_found(name, uuid, &arrays, seen))?;
    let members = arrays.remove(chosen).expect("one of them");
    if uuid.is_none() && members.iter().any(|one| belongs_to_no_host(one)) {
        return Err(Failure::new(format!(
            "array of no host: {name}: its members do not say which machine it belongs to, as any program may write them: {}: \
             if it is meant, say so with --uuid {chosen}, or give the members",
            list(&members)
        )));
    }
    others.extend(arrays.iter().flat_map(|(uuid, members)| {
        members.iter().map(move |one| {
            let path = one.path.display();
            format!(
                "{path}: left out: it says that it is of another array named {name} ({uuid}, not {chosen})"
            )
        })
    }));
    match copies(&members) {
        Some(refusal) => Err(refusal),
        None => Ok(Found { members, others }),
    }
}

fn list(members: &[&Examined]) -> String {
    members.iter().map(|one| one.path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn all(arrays: &BTreeMap<&str, Vec<&Examined>>) -> String {
    let lines = arrays.iter().map(|(uuid, members)| format!("{uuid} on {}", list(members)));
    lines.collect::<Vec<_>>().join("; ")
}

fn several(name: &ArrayName, arrays: &BTreeMap<&str, Vec<&Examined>>) -> Failure {
    Failure::new(format!(
        "several arrays are named {name}: {}: say which with --uuid, or give the members",
        all(arrays)
    ))
}

fn belongs_to_no_host(one: &Examined) -> bool {
    one.superblock
        .as_ref()
        .is_some_and(|superblock| superblock.host.is_empty() && superblock.host_id.is_empty())
}

/// Refuses devices that hold the same member: one of them is a copy (a clone, a snapshot, a path of a
/// multipath device), and only the operator knows which.
fn copies(members: &[&Examined]) -> Option<Failure> {
    let identity = |one: &Examined| one.superblock.as_ref().map(|superblock| superblock.member_uuid.clone());
    let is_second = |(index, one): &(usize, &&Examined)| {
        members[..*index].iter().any(|before| identity(before) == identity(one))
    };
    let copies: Vec<_> = members.iter().enumerate().filter(is_second).map(|(_, one)| *one).collect();
    let of = |copy: &Examined| members.iter().find(|one| identity(one) == identity(copy));
    let pairs = copies.iter().filter_map(|copy| {
        let slot = copy.superblock.as_ref()?.slot;
        Some(format!(
            "{} and {} are both the member of slot {slot}",
            of(copy)?.path.display(),
            copy.path.display()
        ))
    });
    let pairs = pairs.collect::<Vec<_>>().join("; ");
    let first = members.iter().filter(|one| !copies.iter().any(|copy| copy.path == one.path));
    let first = first.map(|one| one.path.display().to_string()).collect::<Vec<_>>().join(" ");
    (!copies.is_empty()).then(|| {
        Failure::new(format!(
            "copies of members: {pairs}: give the members in place of the name, each once: {first}, or the other device in its place"
        ))
    })
}

fn none_found(
    name: &ArrayName,
    uuid: Option<&str>,
    arrays: &BTreeMap<&str, Vec<&Examined>>,
    seen: &BTreeMap<PathBuf, Examined>,
) -> Failure {
    if let (Some(uuid), false) = (uuid, arrays.is_empty()) {
        return Failure::new(format!(
            "no member found: {name} with the UUID {uuid}: there is {}",
            all(arrays)
        ));
    }
    let unread = match seen.values().filter(|one| one.unread && is_forbidden(&one.path)).count() {
        0 => String::new(),
        count => format!(" ({count} of them cannot be read: be root, or name the members)"),
    };
    Failure::new(format!(
        "no member found: {name}: not a file, and none of {} block devices holds an array of this name{unread}",
        seen.len()
    ))
}

#[cfg(test)]
mod tests {
    use engine::examine::ExaminedSlot;

    use super::*;

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

    /// Adds a device whose superblock is that of one slot of a RAID-5 of four named `tank`, at an epoch, in
    /// which some slots take part.
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
            host: "here".into(),
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
        let one = Examined {
            path: path.into(),
            superblock: Some(superblock),
            error: None,
            silent: false,
            unread: false,
        };
        seen.insert(path.into(), one);
    }

    #[test]
    fn the_newest_superblock_says_which_slots_are_absent() {
        let (mut seen, name) = (BTreeMap::new(), "tank".parse().unwrap());
        device(&mut seen, "/dev/a", "u", 0, 7, [true, true, true, false]);
        // The member of slot 3 left at an earlier epoch, and its superblock still shows that epoch.
        device(&mut seen, "/dev/d", "u", 3, 5, [true; 4]);
        assert_eq!(choose(&name, None, &seen).unwrap().absent(), [1, 2]);
        device(&mut seen, "/dev/b", "u", 1, 7, [true, true, true, false]);
        device(&mut seen, "/dev/c", "u", 2, 6, [true; 4]);
        let found = choose(&name, None, &seen).unwrap();
        assert!(found.absent().is_empty() && found.members.len() == 4 && found.others.is_empty());
    }

    #[test]
    fn a_second_array_of_the_name_is_refused_unless_one_is_asked_for() {
        let (mut seen, name) = (BTreeMap::new(), "tank".parse().unwrap());
        for (slot, path) in ["/dev/a", "/dev/b", "/dev/c"].iter().enumerate() {
            device(&mut seen, path, "ours", slot, 3, [true; 4]);
        }
        assert_eq!(choose(&name, None, &seen).unwrap().members.len(), 3);
        device(&mut seen, "/dev/guest", "theirs", 0, 9, [true; 4]);
        // A second array is refused even if it has few members: those of the other array may only be late.
        let refused = choose(&name, None, &seen).err().unwrap().line();
        assert!(
            refused.contains("ours on /dev/a, /dev/b, /dev/c; theirs on /dev/guest")
                && refused.contains("--uuid"),
            "{refused}"
        );
        let found = choose(&name, Some("ours"), &seen).unwrap();
        assert_eq!(found.members.len(), 3);
        assert!(found.others[0].starts_with("/dev/guest: left out"), "{:?}", found.others);
        assert_eq!(choose(&name, Some("theirs"), &seen).unwrap().members[0].path, Path::new("/dev/guest"));
        assert!(choose(&name, Some("none"), &seen).is_err());
        assert!(choose(&"other".parse().unwrap(), None, &seen).is_err());
    }

    #[test]
    fn an_array_of_no_host_is_refused_unless_it_is_asked_for() {
        let (mut seen, name) = (BTreeMap::new(), "tank".parse().unwrap());
        device(&mut seen, "/dev/a", "u", 0, 7, [true; 4]);
        let superblock = seen.get_mut(Path::new("/dev/a")).unwrap().superblock.as_mut().unwrap();
        superblock.host = String::new();
        let refused = choose(&name, None, &seen).err().unwrap().line();
        assert!(refused.starts_with("array of no host: tank") && refused.contains("--uuid u"), "{refused}");
        assert!(choose(&name, Some("u"), &seen).is_ok());
    }

    #[test]
    fn copies_are_refused_with_the_line_to_use() {
        let (mut seen, name) = (BTreeMap::new(), "tank".parse().unwrap());
        for (slot, path) in ["/dev/a", "/dev/b", "/dev/c"].iter().enumerate() {
            device(&mut seen, path, "u", slot, 3, [true; 4]);
        }
        device(&mut seen, "/dev/z", "u", 1, 3, [true; 4]);
        seen.get_mut(Path::new("/dev/z")).unwrap().superblock.as_mut().unwrap().member_uuid = "/dev/b".into();
        let refused = choose(&name, None, &seen).err().unwrap().line();
        assert!(
            refused.contains("/dev/b and /dev/z are both the member of slot 1")
                && refused.contains("each once: /dev/a /dev/b /dev/c,"),
            "{refused}"
        );
    }

    #[test]
    fn a_word_is_a_name_unless_it_is_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let word = |name: &str| directory.path().join(name);
        std::fs::create_dir(word("media")).unwrap();
        std::fs::write(word("file"), "").unwrap();
        // The function looks words up in the working directory, which is that of the package here.
        assert_eq!(as_name(Path::new("src")).unwrap().as_str(), "src", "a directory");
        assert_eq!(as_name(Path::new("Cargo.toml")), None, "a file");
        assert_eq!(as_name(Path::new("tank")).unwrap().as_str(), "tank");
        assert_eq!(as_name(&word("media")), None, "a slash");
        assert_eq!(as_name(Path::new("./src")), None);
    }

    #[test]
    fn devices_that_were_not_read_are_named() {
        let mut seen = BTreeMap::new();
        let failed = |path: &str| Examined {
            path: path.into(),
            superblock: None,
            error: Some(format!("{path}: input/output error")),
            silent: false,
            unread: true,
        };
        seen.insert("/dev/sick".into(), failed("/dev/sick"));
        let passed_over = PassedOver { path: "/dev/sda".into(), why: "dm-0 is made of it".into() };
        assert_eq!(
            not_looked_at(&seen, &[passed_over]),
            "passed over: /dev/sda (dm-0 is made of it); could not be read: /dev/sick: input/output error"
        );
        assert_eq!(not_looked_at(&BTreeMap::new(), &[]), "");
    }
}
