//! Engines broken on purpose, one edit each, that the suite must detect: the proof that the simulator finds
//! bugs.
//!
//! The engine's source contains nothing of the mutants. [`table`] names them. [`edits`] has, for each edit, a
//! file, a text that occurs exactly once in it, and a replacement in which `mutant!(NAME)` asks whether this
//! mutant is running. [`build`] copies the crates and some tests of the engine to target/mutants, makes all
//! edits, and builds one binary of each. [`run`] makes them run each mutant by name until it is killed. A
//! text that is not found exactly once is an error, so the table must follow the engine.
//!
//! Guards of the suite itself: the same binary without a mutant must stay green, a mutant that breaks nothing
//! must not be killed, and every oracle and monitor must have killed at least one mutant.

pub mod build;
pub mod edits;
pub mod run;
pub mod table;
