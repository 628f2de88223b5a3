//! The RAID engine: a state machine without I/O, clock or randomness, and the rooms around it.
//!
//! ```text
//! server                                control: create, start, inspect, command, stop
//!   reactor                             one per core: turn, nap, sleep
//!     frontend (nbd, bench)             requests and replies        \
//!     ring (uring, instant)             member I/O                   > the outside world, three traits
//!     clock                             time                        /
//!     array                             the engine: requests -> stripe ops -> member operations
//!       steward                         reactor 0's second job: record, resync, rebuild, sweep, stop
//!       stripe, durable                 operations on stripes; bitmap blocks and flushes
//!       turn                            the one place that pushes member I/O
//!       plan, geometry                  pure decisions and arithmetic
//!       shared, members, mailbox, tally state that reactors share, besides the bitmap
//!   start, assembly, format             from superblocks to a running array
//!   memory, device, topology            arenas and pools, opened members, cores
//! ```

pub mod array;
pub mod assembly;
pub mod bench;
pub mod clock;
pub mod device;
mod durable;
pub mod events;
pub mod examine;
pub mod format;
pub mod frontend;
pub mod geometry;
mod job;
pub mod limits;
pub mod lost;
pub mod mailbox;
pub mod members;
pub mod memory;
mod part;
pub mod plan;
pub mod reactor;
pub mod request;
pub mod ring;
pub mod server;
mod shared;
mod sizes;
mod slab;
pub mod start;
pub mod status;
mod steward;
mod stripe;
mod sync;
pub mod tally;
pub mod threads;
pub mod topology;
mod turn;
