//! The RAID engine: a state machine without I/O, clock or chance, and the rooms around it.
pub mod clock;
pub mod device;
pub mod frontend;
pub mod limits;
pub mod memory;
pub mod request;
pub mod ring;
pub mod server;
pub mod status;
pub mod topology;
