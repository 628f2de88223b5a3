//! What a start makes of the places of a bitmap block, and in which order it repairs them.
//!
//! Method, [`cuts`]: every state of the places of one block that a power cut can leave, with every set of them unreadable, is
//! started with every set of members that suffices; the power goes in each lot of writes, with each write landed, torn or not there
//! at all; and what that leaves is started again, and so on until there is nothing new. One more place may become unreadable, and one
//! write may fail, on the way. Oracle: the complete generation says that stripe 0 is written, and the one before that it is
//! not. No start may call it Unwritten.
//!
//! [`cases`]: single starts: a place that a program before the rule of two places never wrote, `--trust-parity`, growth.
//!
//! [`refused`]: members that do not take their superblock or their list of lost rows, and what the next start makes of them.

mod cases;
mod cuts;
mod devices;
mod refused;
