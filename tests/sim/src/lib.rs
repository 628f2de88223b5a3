//! The simulator: the real engine over simulated members, power and hosts, from one seed.
//!
//! ```text
//!   scenario  the story of a run          host    what is asked, at random
//!   world     reactors, stepped in order  oracle  what a read may return
//!   bus       what is in flight, the clock, power cuts; the engine's `Ring`
//!   disk      one member: cache, media, faults          monitors  I1..I6, at the members
//! ```
//! Nothing here copies the engine: arrays are created, assembled, started and run by the product's code.

pub mod bus;
pub mod disk;
pub mod host;
pub mod monitors;
pub mod oracle;
pub mod rng;
pub mod runner;
pub mod scenario;
pub mod world;
