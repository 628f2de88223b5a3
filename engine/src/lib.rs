//! The RAID engine: a state machine without I/O, clock or chance, and the rooms around it.
//!
//! ```text
//! server                                control: create, start, look, command, stop
//!   reactor                             one a core: turn, nap, sleep
//!     frontend (nbd, bench)             requests and replies        \
//!     ring (uring, instant)             member I/O                   > the world, by three traits
//!     clock                             time                        /
//!     array                             the engine: requests -> stripe ops -> member operations
//!       plan, geometry                  pure decisions and arithmetic
//!       members, mailbox, tally         what reactors share, besides the bitmap
//!   start, assembly, format             from superblocks to a running array
//!   memory, device, topology            arenas and pools, members' paths, cores
//! ```

pub mod array;
pub mod assembly;
pub mod bench;
pub mod clock;
pub mod device;
pub mod events;
pub mod examine;
pub mod format;
pub mod frontend;
pub mod geometry;
pub mod limits;
pub mod lost;
pub mod mailbox;
pub mod members;
pub mod memory;
pub mod plan;
pub mod reactor;
pub mod request;
pub mod ring;
pub mod server;
mod slab;
pub mod start;
pub mod status;
mod sync;
pub mod tally;
pub mod threads;
pub mod topology;
