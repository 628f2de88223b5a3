//! A real directory tree as one archive, to be stored on a device without a file system and read back.
//!
//! The demo stores an archive because it can be checked in two ways: as bytes, against the copy in memory;
//! and unpacked, file by file, against the tree it was made from.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::failure::{Context, Failure, Result};

/// The largest archive. The limit keeps the demo below one minute.
pub const ARCHIVE_BYTES_MAX: usize = 48 << 20;

/// A tree that yields this many bytes is taken at once; if none does, the largest is taken.
const ARCHIVE_BYTES_ENOUGH: usize = 24 << 20;

/// The longest file in the archive, so that there are many files.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Trees that a system may have, the most convincing first. Containers often have no documentation.
const SOURCES: [&str; 6] = ["/usr/share/doc", "/usr/share", "/usr/include", "/usr/lib", "/etc", "."];

/// An archive in memory.
pub struct Archive {
    /// The tree that it was made from.
    pub source: PathBuf,
    /// The bytes of the archive, as they are stored.
    pub bytes: Vec<u8>,
    /// How many files are in it.
    pub files: u64,
}

/// The result of comparing the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Files equal to their originals.
    pub equal: u64,
    /// Files whose originals have changed meanwhile, so that only the archive could be compared.
    pub changed: u64,
}

impl Archive {
    /// Makes an archive of the given tree, or of the first known tree on this system that is large enough.
    pub fn of_system(source: Option<&Path>) -> Result<Self> {
        if let Some(source) = source {
            let archive = Self::of(source)?;
            if archive.files == 0 {
                return Err(Failure::new(format!(
                    "nothing to store: {}: no readable files",
                    source.display()
                )));
            }
            return Ok(archive);
        }
        let mut best: Option<Self> = None;
        for source in SOURCES {
            let Ok(archive) = Self::of(Path::new(source)) else { continue };
            if archive.bytes.len() >= ARCHIVE_BYTES_ENOUGH {
                return Ok(archive);
            }
            if best.as_ref().is_none_or(|best| best.bytes.len() < archive.bytes.len()) {
                best = Some(archive);
            }
        }
        best.filter(|archive| archive.files > 0)
            .ok_or_else(|| Failure::new("nothing to store: no readable tree found: name one with --source"))
    }

    fn of(source: &Path) -> Result<Self> {
        let mut builder = Builder::new(Vec::new());
        let mut files = 0;
        pack(source, source, &mut builder, &mut files)
            .context(|| format!("cannot archive {}", source.display()))?;
        let bytes = builder.into_inner().context(|| format!("cannot archive {}", source.display()))?;
        Ok(Self { source: source.into(), bytes, files })
    }

    /// Unpacks `stored`, the bytes that were read back, and compares each file with its original on disk.
    pub fn compare_files(&self, stored: &[u8]) -> Result<Compared> {
        let what = || "what was read back is no archive".to_string();
        let mut compared = Compared::default();
        for entry in tar::Archive::new(stored).entries().context(what)? {
            let mut entry = entry.context(what)?;
            if entry.header().entry_type() != EntryType::Regular {
                continue;
            }
            let path = self.source.join(entry.path().context(what)?);
            let mut content = Vec::new();
            entry.read_to_end(&mut content).context(what)?;
            let unchanged = std::fs::metadata(&path).is_ok_and(|now| {
                entry.header().size().is_ok_and(|size| size == now.len())
                    && entry.header().mtime().is_ok_and(|mtime| mtime == modified(&now))
            });
            match std::fs::read(&path) {
                Ok(original) if original == content => compared.equal += 1,
                Ok(_) if unchanged => {
                    return Err(Failure::new(format!("WRONG DATA: {}: not what was stored", path.display())));
                }
                _ => compared.changed += 1,
            }
        }
        if compared.equal + compared.changed != self.files {
            return Err(Failure::new("WRONG DATA: files are missing from the archive that was read back"));
        }
        Ok(compared)
    }
}

fn modified(metadata: &Metadata) -> u64 {
    u64::try_from(metadata.mtime()).unwrap_or(0)
}

/// Adds the files of a directory, and of those below it, in order of name, until the archive is full. Files
/// that cannot be read, and entries that are neither file nor directory, are left out.
fn pack(
    root: &Path,
    directory: &Path,
    builder: &mut Builder<Vec<u8>>,
    files: &mut u64,
) -> std::io::Result<()> {
    let mut entries: Vec<_> = match std::fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(std::result::Result::ok).collect(),
        Err(error) if directory == root => return Err(error),
        Err(_) => return Ok(()),
    };
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() {
            pack(root, &path, builder, files)?;
        } else if kind.is_file() {
            *files += u64::from(pack_file(root, &path, builder)?);
        }
    }
    Ok(())
}

/// Adds one file, if it can be read and there is room. Returns whether it was added.
fn pack_file(root: &Path, path: &Path, builder: &mut Builder<Vec<u8>>) -> std::io::Result<bool> {
    let Ok(mut file) = File::open(path) else { return Ok(false) };
    let metadata = file.metadata()?;
    let room = ARCHIVE_BYTES_MAX.saturating_sub(builder.get_ref().len() + (8 << 10)) as u64;
    if metadata.len() > FILE_BYTES_MAX.min(room) {
        return Ok(false);
    }
    let mut content = Vec::new();
    if Read::by_ref(&mut file).take(FILE_BYTES_MAX.min(room)).read_to_end(&mut content).is_err() {
        return Ok(false);
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(content.len() as u64);
    header.set_mode(metadata.mode() & 0o777);
    header.set_mtime(modified(&metadata));
    builder.append_data(&mut header, path.strip_prefix(root).unwrap_or(path), content.as_slice())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_comes_back() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("a/b")).unwrap();
        std::fs::write(tree.path().join("a/b/one"), vec![1; 10_000]).unwrap();
        std::fs::write(tree.path().join("two"), "").unwrap();
        std::os::unix::fs::symlink("two", tree.path().join("link")).unwrap();
        let archive = Archive::of_system(Some(tree.path())).unwrap();
        assert_eq!(archive.files, 2);
        assert_eq!(archive.compare_files(&archive.bytes).unwrap(), Compared { equal: 2, changed: 0 });

        // One changed byte of content is found: `one` comes after 512 bytes of header.
        let mut wrong = archive.bytes.clone();
        wrong[512 + 77] ^= 1;
        assert!(archive.compare_files(&wrong).unwrap_err().line().starts_with("WRONG DATA"));
        assert!(archive.compare_files(&archive.bytes[..512]).is_err());
    }

    #[test]
    fn an_empty_tree_is_nothing_to_store() {
        assert!(Archive::of_system(Some(tempfile::tempdir().unwrap().path())).is_err());
    }
}
