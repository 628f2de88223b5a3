//! The RAID engine: a state machine without I/O, clock or chance, and the rooms around it.
pub mod assembly;
pub mod clock;
pub mod format;
pub mod device;
pub mod frontend;
pub mod limits;
pub mod memory;
pub mod request;
pub mod ring;
pub mod server;
pub mod status;
pub mod array;
pub mod geometry;
pub mod mailbox;
pub mod members;
pub mod plan;
mod slab;
pub mod tally;
