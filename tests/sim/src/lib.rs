//! The simulator: the real engine over simulated members, power and hosts, from one seed.
//!
//! ```text
//!   story    what happens in a run, as scenarios    config   the shape of a run, and its knobs
//!   world    reactors, stepped in order             host     random requests
//!   oracle   what a read may return                 monitors I1..I6, at the members
//!   bus      operations in flight, the clock, power cuts; `ring` is the engine's end of it
//!   disk     one member: cache, media, faults       aim      one fault, at the n-th operation of a kind
//!   images   what members held at earlier moments
//!   latency  how long operations take, and which kind of operation all others overtake
//!   matrix   every fault at every operation in every state
//!   mutants  engines broken on purpose
//!   campaign many seeds on all cores, and counts    shrink   a smaller run that fails in the same way
//!   exhaustive   a small world of its own: every interleaving and every cut, over the same bus and oracles
//! ```
//! Nothing here copies the engine: arrays are created, assembled, started and run by the product's code.

pub mod aim;
pub mod bus;
pub mod campaign;
pub mod config;
pub mod disk;
pub mod exhaustive;
pub mod host;
pub mod images;
pub mod latency;
pub mod matrix;
pub mod monitors;
pub mod mutants;
pub mod oracle;
pub mod ring;
pub mod rng;
pub mod runner;
pub mod shrink;
pub mod story;
pub mod world;
