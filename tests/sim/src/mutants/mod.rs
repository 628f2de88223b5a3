//! Broken engines that the suite must notice, one edit each: what proves that the simulator can see.
//!
//! The engine's source knows nothing of them. [`table`] names them, [`edits`] has, for each edit, a file, a text that occurs in it exactly
//! once, and a text in its place in which `mutant!(NAME)` asks whether this mutant is the one that runs. [`build`]
//! copies the crates and some tests of the engine to target/mutants, makes all edits, and builds one binary of each; [`run`] has
//! them run each mutant by name until it is killed. A text that is not found exactly once is an error: the table follows the engine.
//!
//! Guards of the suite itself: the same binary with no mutant chosen must stay green, a mutant that breaks nothing
//! must not be killed, and every oracle and monitor must have killed something.

pub mod build;
pub mod edits;
pub mod run;
pub mod table;
