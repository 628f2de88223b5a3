//! The run directory, in which commands find running arrays.
//!
//! ```text
//!     RUN_DIR/NAME.sock    control socket of the server of NAME, mode 0600
//!     RUN_DIR/NAME.lock    held (flock) by that server as long as it lives; the file itself stays
//!     RUN_DIR/NAME.nbd     the export that NAME gets when no --nbd is given
//!     RUN_DIR/ublkbN.note  the state in which the server of /dev/ublkbN has left its array
//!                          (the engine's server/note.rs)
//! ```
//!
//! The directory is the first of these: `--run-dir`; STRIATE_RUN_DIR; `/run/striate` for root; the directory
//! `striate` in `$XDG_RUNTIME_DIR`. A server creates it with mode 0700.
//!
//! A user who can write in the directory could replace a server's socket by another one, and a user who can
//! write in one of its parents could replace the directory. Servers and commands refuse such a directory.
//! (In a parent with the sticky bit, such as `/tmp`, only the owner of an entry can replace it.)

use std::fs::{DirBuilder, File, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::failure::{Context, Failure, Result};
use crate::names::ArrayName;

/// The longest path of a unix socket: `sun_path` of its address, less the final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The state of a name's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// The lock file does not exist: no server had this name.
    None,
    /// A server had the name, and has ended.
    Free,
    /// A server holds the name.
    Held,
}

/// A run directory that passed the checks.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Returns the directory for a server: created if necessary, and checked.
    pub fn create(given: Option<&Path>) -> Result<Self> {
        let path = choose(given, own_uid(), std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .context(|| format!("cannot create the run directory {}", path.display()))?;
        Self::checked(path)
    }

    /// Returns the directory for a client, or `None` if no server has created it yet.
    pub fn find(given: Option<&Path>) -> Result<Option<Self>> {
        let path = choose(given, own_uid(), std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from))?;
        // A directory that cannot be examined is an error, because it may hold the sockets of any number of
        // arrays.
        match path.try_exists() {
            Ok(false) => Ok(None),
            Ok(true) => Self::checked(path).map(Some),
            Err(error) => {
                Err(error).context(|| format!("cannot look at the run directory {}", path.display()))
            }
        }
    }

    fn checked(path: PathBuf) -> Result<Self> {
        let what = || format!("cannot look at the run directory {}", path.display());
        // Absolute, because the path of an export is given to other programs.
        let path = std::path::absolute(&path).context(what)?;
        // Check links on the path in two places: where the link is, and where it leads.
        let real = path.canonicalize().context(what)?;
        for directory in path.ancestors().chain(real.ancestors()) {
            let is_parent = directory != path && directory != real;
            let metadata = directory.metadata().context(what)?;
            let Some(objection) = objection(&metadata, own_uid(), is_parent) else { continue };
            let of = if is_parent { format!("its parent {}: ", directory.display()) } else { String::new() };
            return Err(Failure::new(format!(
                "unsafe run directory: {}: {of}{objection}: chown or chmod {} (a server with this directory may be running, and its block \
                 device needs it); or, for a new server, give another directory with --run-dir",
                path.display(),
                directory.display()
            )));
        }
        Ok(Self(path))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The control socket of an array.
    pub fn control_socket(&self, name: &ArrayName) -> Result<PathBuf> {
        self.socket(name, "sock")
    }

    /// The export that an array has by default.
    pub fn nbd_socket(&self, name: &ArrayName) -> Result<PathBuf> {
        self.socket(name, "nbd")
    }

    /// The lock of an array's server.
    pub fn lock(&self, name: &ArrayName) -> PathBuf {
        self.0.join(format!("{name}.lock"))
    }

    /// Whether a server holds the lock of a name.
    pub fn lock_state(&self, name: &ArrayName) -> LockState {
        let Ok(lock) = File::open(self.lock(name)) else { return LockState::None };
        // Held only for a moment; a server that starts meanwhile tries again (`Claim::take`).
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => LockState::Free,
            Err(_) => LockState::Held,
        }
    }

    fn socket(&self, name: &ArrayName, extension: &str) -> Result<PathBuf> {
        let path = self.0.join(format!("{name}.{extension}"));
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(Failure::new(format!(
                "path too long for a socket: {}: give a shorter --run-dir (at most {SOCKET_PATH_BYTES_MAX} bytes in all)",
                path.display()
            )));
        }
        Ok(path)
    }

    /// The names that servers have had in this directory, in order. A server takes its lock first, and the
    /// lock stays.
    pub fn known(&self) -> Result<Vec<ArrayName>> {
        let entries = std::fs::read_dir(&self.0).context(|| format!("cannot list {}", self.0.display()))?;
        let mut names: Vec<ArrayName> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".lock")?.parse().ok())
            .collect();
        names.sort();
        Ok(names)
    }
}

/// Whether commands look into this directory without `--run-dir`.
pub fn is_default(path: &Path) -> bool {
    choose(None, own_uid(), std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from))
        .is_ok_and(|default| default == path)
}

/// The user id that this process acts as.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn choose(given: Option<&Path>, uid: u32, user_runtime_dir: Option<PathBuf>) -> Result<PathBuf> {
    match (given, uid, user_runtime_dir) {
        (Some(path), _, _) => Ok(path.into()),
        (None, 0, _) => Ok("/run/striate".into()),
        (None, _, Some(runtime)) if runtime.is_absolute() => Ok(runtime.join("striate")),
        (None, _, _) => Err(Failure::new(
            "no run directory: XDG_RUNTIME_DIR is not set: give one with --run-dir or STRIATE_RUN_DIR",
        )),
    }
}

/// Says why a directory cannot be trusted, if there is a reason. Its group may write if that is the user's
/// own group: a umask of 002 makes directories so on systems where every user has a group.
fn objection(metadata: &Metadata, uid: u32, is_parent: bool) -> Option<&'static str> {
    const STICKY: u32 = 0o1000;
    let own_group = metadata.gid() == rustix::process::getegid().as_raw();
    let others_write = if own_group { 0o002 } else { 0o022 };
    let is_sticky = is_parent && metadata.mode() & STICKY != 0;
    if !metadata.is_dir() {
        Some("not a directory")
    } else if metadata.uid() != uid && metadata.uid() != 0 {
        Some("it belongs to another user")
    } else if metadata.mode() & others_write != 0 && !is_sticky {
        Some("others may write to it")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn which_directory() {
        let runtime = || Some(PathBuf::from("/run/user/7"));
        assert_eq!(choose(Some(Path::new("/x")), 7, runtime()).unwrap(), Path::new("/x"));
        assert_eq!(choose(None, 0, runtime()).unwrap(), Path::new("/run/striate"));
        assert_eq!(choose(None, 7, runtime()).unwrap(), Path::new("/run/user/7/striate"));
        assert!(choose(None, 7, None).is_err());
        assert!(choose(None, 7, Some("relative".into())).is_err());
    }

    #[test]
    fn created_private_and_refused_when_others_may_write() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b");
        assert!(RunDir::find(Some(&path)).unwrap().is_none());
        let run_dir = RunDir::create(Some(&path)).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(run_dir.known().unwrap().is_empty());

        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(RunDir::find(Some(&path)).unwrap_err().line().starts_with("unsafe run directory"));
        std::fs::write(temporary.path().join("file"), "").unwrap();
        assert!(RunDir::find(Some(&temporary.path().join("file"))).is_err());
    }

    #[test]
    fn a_parent_that_others_may_write_to_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let (parent, link) = (temporary.path().join("parent"), temporary.path().join("link"));
        let path = parent.join("run");
        RunDir::create(Some(&path)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::fs::set_permissions(&parent, PermissionsExt::from_mode(0o777)).unwrap();
        for given in [&path, &link] {
            let refused = RunDir::find(Some(given)).unwrap_err().line();
            assert!(refused.contains("its parent") && refused.contains("others may write"), "{refused}");
        }
        // The parent has the sticky bit now, as /tmp has.
        std::fs::set_permissions(&parent, PermissionsExt::from_mode(0o1777)).unwrap();
        for given in [&path, &link] {
            RunDir::find(Some(given)).unwrap();
        }
    }

    #[test]
    fn sockets_and_names() {
        let temporary = tempfile::tempdir().unwrap();
        let run_dir = RunDir::create(Some(temporary.path())).unwrap();
        for file in [
            "b.sock",
            "a.sock",
            "a.nbd",
            "..sock",
            "no name.sock",
            "c.sock.old",
            "d.sock",
            "a.lock",
            "b.lock",
        ] {
            std::fs::write(temporary.path().join(file), "").unwrap();
        }
        let names: Vec<String> = run_dir.known().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "b"]);
        let long = RunDir(PathBuf::from(format!("/{}", "d".repeat(100))));
        assert!(long.control_socket(&"name".parse().unwrap()).is_err());
    }
}
