//! The sharded atomic stripe bitmap.
