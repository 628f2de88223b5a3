//! The files of a directory of TLS.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::failure::{Failure, Result};

/// The text of a file that not every user can read.
pub fn private(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(unusable(path))?;
    let mode = file.metadata().map_err(unusable(path))?.mode();
    if mode & 0o004 != 0 {
        return Err(unusable(path)(format!("every user can read it: chmod 600 {}", path.display())));
    }
    io::read_to_string(file).map_err(unusable(path))
}

/// Whether there is such a file.
pub fn is_there(path: &Path) -> Result<bool> {
    // A link that leads nowhere is there: without what it should lead to, more clients would get in.
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unusable(path)(error)),
    }
}

/// The failure of a file.
pub fn unusable<E: fmt::Display>(path: &Path) -> impl Fn(E) -> Failure + '_ {
    move |error| Failure::new(format!("cannot use {}: {error}", path.display()))
}
