//! The files that a thread can open from now on: the rules of its Landlock domain.
//!
//! Most threads open nothing. The threads that carry out commands of operators open new members, and at the
//! end remove sockets:
//!
//! | path | right | for |
//! |---|---|---|
//! | /dev | read, write, device commands | later members (`replace`), /dev/ublkbN, /dev/ngXnY |
//! | directories of members (a); `--allow-path` | read, write | replacements |
//! | the run directory | read, write, make and remove files, sockets | notes, locks, sockets |
//! | the directories of NBD's sockets | remove files | the end of the server |
//! | /sys, /proc | read | serial numbers, queues, caches, holders of a device |
//! | the program itself | read | the text of a panic |
//!
//! (a) Directories of members that are files, and of files below loop devices. For a member directly in `/`,
//! the rule covers only that file, not its directory.
//!
//! The server can therefore still damage disks: it may write to any device node that its user may open,
//! because an operator may name any of them. It cannot write to /etc or /proc/sys, it can create files only
//! in the run directory, and it can execute none.
//!
//! Landlock checks a path when a file is opened. Files that are already open keep their rights, so the
//! members, rings and sockets of the start need no rule, and I/O costs nothing more. TCP connections and new
//! listening sockets are refused too (Linux 6.7).

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};

use super::Thread;

/// The Landlock version whose rights are meant here. A kernel that lacks some of them enforces the others.
const VERSION: ABI = ABI::V5;

/// The paths of the server's files.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Members, and the files and devices below them.
    pub members: Vec<PathBuf>,
    /// The run directory.
    pub run_dir: PathBuf,
    /// Unix sockets of NBD.
    pub sockets: Vec<PathBuf>,
    /// Directories of replacements that the operator named.
    pub allowed: Vec<PathBuf>,
}

impl Places {
    /// Whether a user other than `uid` owns one of these paths, so that opening it needs CAP_DAC_OVERRIDE.
    pub fn others_own(&self, uid: u32) -> bool {
        let directories = self.members.iter().chain(&self.sockets).flat_map(|path| path.ancestors().skip(1));
        let here = self.members.iter().chain(&self.allowed).map(PathBuf::as_path);
        let all = here.chain(directories).chain([self.run_dir.as_path()]);
        // Directories of root are skipped: every user who may need them can read them, /dev for one.
        let is_others =
            |path: &Path| path.metadata().is_ok_and(|found| found.uid() != uid && found.uid() != 0);
        all.into_iter().any(is_others)
    }
}

/// A right on everything beneath a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    /// Read files and directories.
    Read,
    /// Remove files.
    Remove,
    /// Read and write existing files.
    Use,
    /// Read, write, make and remove files.
    Keep,
}

impl Right {
    fn access(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let used = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
        match self {
            Right::Read => read,
            Right::Remove => AccessFs::RemoveFile.into(),
            Right::Use => used,
            Right::Keep => used | AccessFs::MakeReg | AccessFs::MakeSock | AccessFs::RemoveFile,
        }
    }
}

pub(super) type Rule = (PathBuf, Right);

/// The rules of the threads that open files.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    run_dir: Vec<Rule>,
    all: Vec<Rule>,
}

impl Reach {
    /// The rules of a server that is running. This may wait for the file systems of its members.
    pub fn new(places: &Places) -> Reach {
        let run_dir = vec![(places.run_dir.clone(), Right::Keep)];
        Reach { all: rules(places, std::env::current_exe().ok(), |path| path.canonicalize().ok()), run_dir }
    }

    /// The rules of a server of which only the run directory is known.
    pub fn of_start(run_dir: &Path) -> Reach {
        Reach { run_dir: vec![(run_dir.to_path_buf(), Right::Keep)], all: Vec::new() }
    }

    pub(super) fn of(&self, thread: Thread) -> &[Rule] {
        match thread {
            Thread::Log | Thread::Signals | Thread::Reactor | Thread::Listener | Thread::Handshake => &[],
            Thread::Note => &self.run_dir,
            Thread::Control | Thread::Main => &self.all,
        }
    }
}

/// The rules of the table above. `resolve` follows links.
fn rules(places: &Places, program: Option<PathBuf>, resolve: impl Fn(&Path) -> Option<PathBuf>) -> Vec<Rule> {
    let mut rules: BTreeSet<Rule> = ["/sys", "/proc"].map(|path| (path.into(), Right::Read)).into();
    rules.insert(("/dev".into(), Right::Use));
    rules.insert((places.run_dir.clone(), Right::Keep));
    rules.extend(program.map(|program| (program, Right::Read)));
    rules.extend(places.allowed.iter().map(|path| (path.clone(), Right::Use)));
    let directory =
        |path: &Path| path.parent().filter(|parent| *parent != Path::new("/")).map(Path::to_path_buf);
    let sockets = places.sockets.iter().filter_map(|path| directory(path));
    rules.extend(sockets.map(|path| (path, Right::Remove)));
    for member in places.members.iter().filter_map(|member| resolve(member)) {
        if !member.starts_with("/dev") {
            rules.insert((directory(&member).unwrap_or(member), Right::Use));
        }
    }
    rules.into_iter().collect()
}

/// Puts the calling thread and all threads that it starts later into a domain with these rules.
pub(super) fn restrict(rules: &[Rule]) -> Result<(), String> {
    let failed = |error: RulesetError| {
        format!("Landlock: {error}: the server can open every file that its user may open")
    };
    let network = AccessNet::from_all(ABI::V4);
    let empty = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))
        .and_then(|set| set.handle_access(network));
    let mut set = empty.and_then(Ruleset::create).map_err(failed)?;
    for (path, right) in rules {
        // A path that does not exist cannot be opened either.
        let beneath: Result<PathFd, PathFdError> = PathFd::new(path);
        let Ok(beneath) = beneath else { continue };
        let files_only =
            if path.is_dir() { AccessFs::from_all(VERSION) } else { AccessFs::from_file(VERSION) };
        set = set.add_rule(PathBeneath::new(beneath, right.access() & files_only)).map_err(failed)?;
    }
    match set.restrict_self().map_err(failed)?.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err(
            "this kernel has no Landlock, or it is switched off (`lsm=`): the server can open every file that its user may open"
                .into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_for_directories_of_members_and_not_for_the_root() {
        let places = Places {
            members: ["/srv/a/m0", "/srv/a/m1", "/m2", "/dev/nvme0n1", "/link", "/gone"]
                .map(PathBuf::from)
                .into(),
            run_dir: "/run/striate".into(),
            sockets: vec!["/tmp/x/nbd".into(), "/nbd".into()],
            allowed: vec!["/srv/spares".into()],
        };
        let resolve = |path: &Path| match path.to_str() {
            Some("/link") => Some(PathBuf::from("/data/m4")),
            Some("/gone") => None,
            _ => Some(path.to_path_buf()),
        };
        let expected = [
            ("/data", Right::Use),
            ("/dev", Right::Use),
            ("/m2", Right::Use),
            ("/proc", Right::Read),
            ("/run/striate", Right::Keep),
            ("/srv/a", Right::Use),
            ("/srv/spares", Right::Use),
            ("/sys", Right::Read),
            ("/tmp/x", Right::Remove),
            ("/usr/bin/striate", Right::Read),
        ];
        let expected = expected.map(|(path, right)| (PathBuf::from(path), right));
        assert_eq!(rules(&places, Some("/usr/bin/striate".into()), resolve), expected);
    }

    #[test]
    fn only_threads_that_take_orders_open_files() {
        let reach = Reach::new(&Places { run_dir: "/run/striate".into(), ..Places::default() });
        for thread in [Thread::Log, Thread::Signals, Thread::Reactor, Thread::Listener, Thread::Handshake] {
            assert!(reach.of(thread).is_empty(), "{thread:?}");
        }
        assert_eq!(reach.of(Thread::Note), [("/run/striate".into(), Right::Keep)]);
        assert!(
            !Right::Use.access().contains(AccessFs::MakeReg)
                && !Right::Keep.access().contains(AccessFs::Execute)
        );
    }
}
