//! The edits of the mutants: a text of the engine, and what stands there where a mutant runs.

mod array;
mod disk;
mod lost;
mod members;
mod steward;

/// One place of the source, broken where `mutant!(NAME)` says so.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    /// Which file.
    pub file: &'static str,
    /// A text that occurs there exactly once.
    pub from: &'static str,
    /// What replaces it.
    pub to: &'static str,
}

const fn e(file: &'static str, from: &'static str, to: &'static str) -> Edit {
    Edit { file, from, to }
}

/// Every edit. Some only make room for others: a `const fn` cannot ask which mutant runs.
pub const EDITS: [&[Edit]; 5] = [array::EDITS, disk::EDITS, lost::EDITS, members::EDITS, steward::EDITS];
