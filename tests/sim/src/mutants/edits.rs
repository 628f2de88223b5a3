//! The edits of the mutants: a text of the engine, and the text that replaces it.

mod array;
mod disk;
mod lost;
mod members;
mod steward;

/// A place in the source, with code that breaks it if `mutant!(NAME)` says so.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    /// Path of the file.
    pub file: &'static str,
    /// A text that occurs exactly once in the file.
    pub from: &'static str,
    /// The text that replaces it.
    pub to: &'static str,
}

const fn e(file: &'static str, from: &'static str, to: &'static str) -> Edit {
    Edit { file, from, to }
}

/// Every edit. Some edits only enable others: a `const fn` cannot ask which mutant runs.
pub const EDITS: [&[Edit]; 5] = [array::EDITS, disk::EDITS, lost::EDITS, members::EDITS, steward::EDITS];
