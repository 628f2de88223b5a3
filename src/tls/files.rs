//! The files of a TLS directory.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::failure::{Failure, Result};

/// Reads a file, unless every user can read it.
pub fn private(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(unusable(path))?;
    let mode = file.metadata().map_err(unusable(path))?.mode();
    if mode & 0o004 != 0 {
        return Err(unusable(path)(format!("every user can read it: chmod 600 {}", path.display())));
    }
    io::read_to_string(file).map_err(unusable(path))
}

/// Whether a file exists.
pub fn is_there(path: &Path) -> Result<bool> {
    // A dangling link counts as a file: if it were ignored, more clients would be admitted than its owner
    // meant.
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unusable(path)(error)),
    }
}

/// The failure of a file that cannot be used.
pub fn unusable<E: fmt::Display>(path: &Path) -> impl Fn(E) -> Failure + '_ {
    move |error| Failure::new(format!("cannot use {}: {error}", path.display()))
}
