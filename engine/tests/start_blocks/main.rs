//! How a start treats the two places of a bitmap block, and in which order it repairs them.
//!
//! Method, [`cuts`]: every state of the places of one block that a power cut can leave, with every set of
//! them unreadable, is started with every set of members that suffices. The power goes in each lot of writes,
//! with each write landed, torn or absent; the resulting states are started again, and so on until nothing
//! new appears. On the way, one more place may become unreadable, and one write may fail. Oracle: the
//! complete generation says that stripe 0 is written, and the one before says that it is not. No start may
//! call it Unwritten.
//!
//! [`cases`]: single starts: a place that was never written, by a program older than the rule of two places;
//! `--trust-parity`; growth.
//!
//! [`refused`]: members that do not take their superblock or their list of lost rows, and how the next start
//! treats them.

mod cases;
mod cuts;
mod devices;
mod refused;
