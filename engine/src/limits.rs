//! Every bound of the engine, by name, with its reason and an example in numbers.
//!
//! At start, everything is allocated according to these bounds. A full pool is backpressure, an ordinary
//! state.

/// Most members of one array. Masks are a `u32` with one bit per member, and a RAID-6 of 32 already has 30+2.
pub const MEMBERS_MAX: usize = 32;
/// Fewest members of a RAID-5 (2 data + P).
pub const MEMBERS_MIN_RAID5: usize = 3;
/// Fewest members of a RAID-6 (2 data + P + Q).
pub const MEMBERS_MIN_RAID6: usize = 4;

/// Most devices that a ring knows during its life: the members and later replacements. Example: 32 members,
/// each replaced once without a restart, while the old ones still drain.
pub const DEVICES_MAX: usize = 2 * MEMBERS_MAX;

/// Smallest chunk. Below 4 KiB a strip is smaller than a page.
pub const CHUNK_BYTES_MIN: u32 = 4 << 10;
/// Largest chunk. Above 1 MiB the kernel hands an I/O to its worker threads.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;

/// The unit of every metadata structure on disk, and the alignment of every buffer.
pub const BLOCK_BYTES: usize = 4096;

/// Largest read or write that a front end hands over as one request; it splits larger ones. Discards and
/// write-zeroes carry no data and may span the whole array.
pub const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Largest single buffer of a pool, and the unit in which a pool gives memory to its size classes.
pub const BUFFER_BYTES_MAX: u32 = 1 << 20;

/// Most arenas of a server; each is one fixed buffer in every ring's table. Example: two for each of 254
/// reactors, some for control, and the zero arena.
pub const ARENAS_MAX: usize = 1024;

/// Longest arena: the kernel registers no fixed buffer of more than 1 GiB.
pub const ARENA_BYTES_MAX: usize = 1 << 30;

/// Most reactors of one server: an owner id is a byte in the stripe locks, and 0 means free.
pub const REACTORS_MAX: usize = 254;

/// Most member operations in flight in one reactor. The tag of each is its index in a fixed slab, and a ring
/// must be able to hold all of them. Example: 160 stripe operations of 32 members, 2048 healthy reads, and
/// 3328 operations of members that have left without answering.
pub const IO_IN_FLIGHT_MAX: usize = 12_288;

/// Most writes in flight that wipe the ends of an arriving device. Four keep a drive busy; some 140 of them
/// wipe both ends of a member of 4 GiB.
pub const WIPES_MAX: usize = 4;

/// Unit of recovery when several strips of a stripe could not be read: a bad sector costs only the rows of
/// its own unit. 4 KiB is the physical block of most drives, and divides every chunk.
pub const RECOVERY_BYTES: u32 = 4 << 10;

/// Most ranges in an array's list of lost rows. A bad sector is one range; consecutive lost stripes are one
/// range. Example: 1024 ranges of 24 bytes fill six of the seven blocks of a list on disk.
pub const LOST_RANGES_MAX: usize = 1024;
/// Number of ranges at which additions stop, so that a host that overwrites the middle of a range finds room
/// for its two ends.
pub const LOST_RANGES_ADDED_MAX: usize = 768;

/// Longest time that a change of the record waits for its note (shared/noting.rs). A note is one write to a
/// file in memory and takes some microseconds; one that takes this long will not complete.
pub const NOTE_TIME_MAX_NS: u64 = 5_000_000_000;

const _: () = assert!(LOST_RANGES_ADDED_MAX < LOST_RANGES_MAX);
const _: () = assert!(CHUNK_BYTES_MIN.is_multiple_of(RECOVERY_BYTES));
const _: () = assert!(CHUNK_BYTES_MIN.is_power_of_two() && CHUNK_BYTES_MAX.is_power_of_two());
const _: () = assert!(CHUNK_BYTES_MAX <= BUFFER_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX <= BUFFER_BYTES_MAX);
const _: () = assert!(ARENAS_MAX <= u16::MAX as usize && ARENA_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(ARENAS_MAX > 2 * REACTORS_MAX && ARENA_BYTES_MAX >= BUFFER_BYTES_MAX as usize);
const _: () = assert!((CHUNK_BYTES_MIN as usize).is_multiple_of(BLOCK_BYTES));
