//! Constants and structures of the kernel's ublk driver, as in include/uapi/linux/ublk_cmd.h (Linux 7.3).
//!
//! Only what is used is here. Structures that the kernel reads or writes in our memory have its layout, and
//! the assertions below check their sizes. Commands that travel inside a submission queue entry are put
//! together byte by byte.
//!
//! | since | what |
//! |---|---|
//! | 6.1 | `USER_RECOVERY`, `USER_RECOVERY_REISSUE`: the minimum used here; commands use un-encoded opcodes |
//! | 6.4 | commands encoded as ioctls (un-encoded ones only with `CONFIG_BLKDEV_UBLK_LEGACY_OPCODES`) |
//! | 6.5 | `USER_COPY`, `GET_FEATURES` |
//! | 6.7 | commands of a server that is killed end with it; see `free` in `found` |
//! | 6.9 | `DEL_DEV_ASYNC` |
//! | 6.12 | `USER_RECOVERY_FAIL_IO`: not used, but it tells such a driver from older ones |
//! | 6.16 | `AUTO_BUF_REG`, `QUIESCE` |
//! | 7.0 | `TRY_STOP_DEV`, `BATCH_IO` |

/// Path of the device that takes control commands.
pub(super) const CONTROL_PATH: &str = "/dev/ublk-control";

/// Largest depth of a queue.
pub(super) const QUEUE_DEPTH_MAX: u16 = 4096;

/// Encodes a control command, `_IOR('u', number, struct ublksrv_ctrl_cmd)`.
const fn control_read(number: u32) -> u32 {
    2 << 30 | (CONTROL_COMMAND_BYTES as u32) << 16 | (b'u' as u32) << 8 | number
}

/// Encodes a control command, `_IOWR('u', number, struct ublksrv_ctrl_cmd)`.
const fn control_write(number: u32) -> u32 {
    3 << 30 | (CONTROL_COMMAND_BYTES as u32) << 16 | (b'u' as u32) << 8 | number
}

/// The un-encoded opcode of a command (before Linux 6.4).
pub(super) const fn plain(code: u32) -> u32 {
    code & 0xff
}

/// Commands to the control device.
pub(super) mod control {
    use super::{control_read, control_write};

    pub(in super::super) const GET_DEV_INFO: u32 = control_read(0x02);
    pub(in super::super) const ADD_DEV: u32 = control_write(0x04);
    pub(in super::super) const DEL_DEV: u32 = control_write(0x05);
    pub(in super::super) const START_DEV: u32 = control_write(0x06);
    pub(in super::super) const STOP_DEV: u32 = control_write(0x07);
    pub(in super::super) const SET_PARAMS: u32 = control_write(0x08);
    pub(in super::super) const GET_PARAMS: u32 = control_read(0x09);
    pub(in super::super) const START_USER_RECOVERY: u32 = control_write(0x10);
    pub(in super::super) const END_USER_RECOVERY: u32 = control_write(0x11);
    pub(in super::super) const GET_FEATURES: u32 = control_read(0x13);
    pub(in super::super) const DEL_DEV_ASYNC: u32 = control_read(0x14);
    /// Carries the new size in sectors.
    pub(in super::super) const UPDATE_SIZE: u32 = control_write(0x15);
    /// Carries a timeout in milliseconds.
    pub(in super::super) const QUIESCE_DEV: u32 = control_write(0x16);
    pub(in super::super) const TRY_STOP_DEV: u32 = control_write(0x17);
}

/// Encodes a command for one tag, `_IOWR('u', number, struct ublksrv_io_cmd)`.
const fn io_write(number: u32) -> u32 {
    3 << 30 | (IO_COMMAND_BYTES as u32) << 16 | (b'u' as u32) << 8 | number
}

/// `UBLK_U_IO_FETCH_REQ`: asks for the first request of a tag.
pub(super) const FETCH: u32 = io_write(0x20);
/// `UBLK_U_IO_COMMIT_AND_FETCH_REQ`: reports the result of a request and asks for the next one.
pub(super) const COMMIT_AND_FETCH: u32 = io_write(0x21);

/// Encodes a batch command, `_IOWR('u', number, struct ublk_batch_io)`.
const fn batch_write(number: u32) -> u32 {
    3 << 30 | (BATCH_COMMAND_BYTES as u32) << 16 | (b'u' as u32) << 8 | number
}

/// `UBLK_U_IO_PREP_IO_CMDS`: lets the driver use these tags; sent once for each queue.
pub(super) const PREP_IO_CMDS: u32 = batch_write(0x25);
/// `UBLK_U_IO_COMMIT_IO_CMDS`: reports the results of several requests.
pub(super) const COMMIT_IO_CMDS: u32 = batch_write(0x26);
/// `UBLK_U_IO_FETCH_IO_CMDS`: asks for requests as they arrive.
pub(super) const FETCH_IO_CMDS: u32 = batch_write(0x27);
/// `UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK`: hand a request out even if its pages cannot be registered.
pub(super) const BATCH_REGISTER_OR_NOT: u16 = 1 << 2;

/// Features of a device: what the driver offers, and what we ask for (`UBLK_F_*`).
pub(super) mod feature {
    pub(in super::super) const USER_RECOVERY: u64 = 1 << 3;
    pub(in super::super) const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    pub(in super::super) const CMD_IOCTL_ENCODE: u64 = 1 << 6;
    pub(in super::super) const USER_COPY: u64 = 1 << 7;
    pub(in super::super) const USER_RECOVERY_FAIL_IO: u64 = 1 << 9;
    pub(in super::super) const UPDATE_SIZE: u64 = 1 << 10;
    pub(in super::super) const AUTO_BUF_REG: u64 = 1 << 11;
    pub(in super::super) const QUIESCE: u64 = 1 << 12;
    pub(in super::super) const PER_IO_DAEMON: u64 = 1 << 13;
    pub(in super::super) const BATCH_IO: u64 = 1 << 15;
    pub(in super::super) const SAFE_STOP_DEV: u64 = 1 << 17;
    pub(in super::super) const NO_AUTO_PART_SCAN: u64 = 1 << 18;
}

/// States of a device (`UBLK_S_DEV_*`).
pub(super) mod state {
    pub(in super::super) const DEAD: u16 = 0;
    pub(in super::super) const LIVE: u16 = 1;
    pub(in super::super) const QUIESCED: u16 = 2;
    pub(in super::super) const FAIL_IO: u16 = 3;
}

/// Operations of a request (`UBLK_IO_OP_*`).
pub(super) mod operation {
    pub(in super::super) const READ: u8 = 0;
    pub(in super::super) const WRITE: u8 = 1;
    pub(in super::super) const FLUSH: u8 = 2;
    pub(in super::super) const DISCARD: u8 = 3;
    pub(in super::super) const WRITE_ZEROES: u8 = 5;
}

/// The flag of a request with forced unit access (`UBLK_IO_F_FUA`).
pub(super) const IO_FLAG_FUA: u32 = 1 << 13;

/// Attributes of a device (`UBLK_ATTR_*`).
pub(super) mod attribute {
    pub(in super::super) const READ_ONLY: u32 = 1;
    pub(in super::super) const VOLATILE_CACHE: u32 = 1 << 2;
    pub(in super::super) const FUA: u32 = 1 << 3;
}

/// Types of parameters that we set, `UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DISCARD`.
pub(super) const PARAMETERS_USED: u32 = 3;

/// Length of `struct ublksrv_ctrl_cmd`.
pub(super) const CONTROL_COMMAND_BYTES: usize = 32;
/// Length of `struct ublksrv_io_cmd`.
pub(super) const IO_COMMAND_BYTES: usize = 16;
/// Length of `struct ublk_batch_io`.
pub(super) const BATCH_COMMAND_BYTES: usize = 16;
/// Length of `struct ublk_elem_header`, one element of a batch command.
pub(super) const BATCH_ELEMENT_BYTES: usize = 8;
/// Length of a tag in a batch that the driver delivers.
pub(super) const BATCH_ITEM_BYTES: u8 = 2;

/// Builds a `struct ublksrv_ctrl_cmd`, in the 80 bytes of a large entry.
pub(super) fn control_command(device: u32, buffer: (u64, u16), data: u64) -> [u8; 80] {
    let mut bytes = [0; 80];
    bytes[0..4].copy_from_slice(&device.to_ne_bytes());
    bytes[4..6].copy_from_slice(&u16::MAX.to_ne_bytes()); // no particular queue
    bytes[6..8].copy_from_slice(&buffer.1.to_ne_bytes());
    bytes[8..16].copy_from_slice(&buffer.0.to_ne_bytes());
    bytes[16..24].copy_from_slice(&data.to_ne_bytes());
    bytes
}

/// Builds a `struct ublksrv_io_cmd`. The driver copies to and from `address`; it is 0 with user copy.
pub(super) fn io_command(queue: u16, tag: u16, result: i32, address: u64) -> [u8; IO_COMMAND_BYTES] {
    let mut bytes = [0; IO_COMMAND_BYTES];
    bytes[0..2].copy_from_slice(&queue.to_ne_bytes());
    bytes[2..4].copy_from_slice(&tag.to_ne_bytes());
    bytes[4..8].copy_from_slice(&result.to_ne_bytes());
    bytes[8..16].copy_from_slice(&address.to_ne_bytes());
    bytes
}

/// Builds a `struct ublk_batch_io`.
pub(super) fn batch_command(
    queue: u16,
    flags: u16,
    count: u16,
    element_bytes: u8,
) -> [u8; BATCH_COMMAND_BYTES] {
    let mut bytes = [0; BATCH_COMMAND_BYTES];
    bytes[0..2].copy_from_slice(&queue.to_ne_bytes());
    bytes[2..4].copy_from_slice(&flags.to_ne_bytes());
    bytes[4..6].copy_from_slice(&count.to_ne_bytes());
    bytes[6] = element_bytes;
    bytes
}

/// Builds a `struct ublk_elem_header`.
pub(super) fn batch_element(tag: u16, buffer: u16, result: i32) -> [u8; BATCH_ELEMENT_BYTES] {
    let mut bytes = [0; BATCH_ELEMENT_BYTES];
    bytes[0..2].copy_from_slice(&tag.to_ne_bytes());
    bytes[2..4].copy_from_slice(&buffer.to_ne_bytes());
    bytes[4..8].copy_from_slice(&result.to_ne_bytes());
    bytes
}

/// Returns the tag and the result of an element.
pub(super) fn batch_element_parts(element: &[u8; BATCH_ELEMENT_BYTES]) -> (u16, i32) {
    let [tag_0, tag_1, _, _, result @ ..] = *element;
    (u16::from_ne_bytes([tag_0, tag_1]), i32::from_ne_bytes(result))
}

/// A device as the driver describes it (`struct ublksrv_ctrl_dev_info`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DeviceInfo {
    pub(super) queues: u16,
    pub(super) queue_depth: u16,
    pub(super) state: u16,
    pub(super) pad0: u16,
    pub(super) io_bytes_max: u32,
    pub(super) device: u32,
    pub(super) server_pid: i32,
    pub(super) pad1: u32,
    pub(super) flags: u64,
    /// Stored by the driver for the server and not interpreted by the driver.
    pub(super) server_flags: u64,
    pub(super) owner_uid: u32,
    pub(super) owner_gid: u32,
    pub(super) reserved: [u64; 2],
}

/// Parameters of a device (`struct ublk_params`), as far as they are used: the driver reads `len_bytes`
/// bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) len_bytes: u32,
    pub(super) types: u32,
    // Fields of `struct ublk_param_basic`.
    pub(super) attributes: u32,
    pub(super) logical_block_shift: u8,
    pub(super) physical_block_shift: u8,
    pub(super) io_optimal_shift: u8,
    pub(super) io_least_shift: u8,
    pub(super) request_sectors_max: u32,
    pub(super) chunk_sectors: u32,
    pub(super) device_sectors: u64,
    pub(super) virtual_boundary_mask: u64,
    // Fields of `struct ublk_param_discard`.
    pub(super) discard_alignment: u32,
    pub(super) discard_granularity_bytes: u32,
    pub(super) discard_sectors_max: u32,
    pub(super) write_zeroes_sectors_max: u32,
    pub(super) discard_segments_max: u16,
    pub(super) reserved0: u16,
    pub(super) pad: u32,
}

/// A request as the driver describes it (`struct ublksrv_io_desc`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    /// The operation is in the low byte, flags are above it.
    pub(super) operation_and_flags: u32,
    pub(super) sectors: u32,
    pub(super) start_sector: u64,
    pub(super) address: u64,
}

const _: () = assert!(size_of::<DeviceInfo>() == 64);
// The kernel's header (4 + 4), its basic part (32) and its discard part (20); the last four bytes belong to
// the next part.
const _: () = assert!(size_of::<Parameters>() == 8 + 32 + 20 + 4);
const _: () = assert!(size_of::<Descriptor>() == 24);

/// Offset of a queue's descriptors in the mapping of the character device.
pub(super) fn descriptors_offset(queue: u16) -> u64 {
    u64::from(queue) * descriptors_bytes(QUEUE_DEPTH_MAX) as u64
}

/// Length of the mapping of a queue's descriptors.
pub(super) fn descriptors_bytes(depth: u16) -> usize {
    (usize::from(depth) * size_of::<Descriptor>()).next_multiple_of(rustix::param::page_size())
}

/// Offset at which `pread` and `pwrite` of the character device find the bytes of a request.
pub(super) fn copy_offset(queue: u16, tag: u16) -> u64 {
    0x8000_0000 + (u64::from(queue) << 41 | u64::from(tag) << 25)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_numbers_of_the_header() {
        // The numbers are those to which a C compiler expands the macros.
        assert_eq!(control::ADD_DEV, 0xc020_7504);
        assert_eq!(control::GET_DEV_INFO, 0x8020_7502);
        assert_eq!(control::GET_FEATURES, 0x8020_7513);
        assert_eq!(control::QUIESCE_DEV, 0xc020_7516);
        assert_eq!(FETCH, 0xc010_7520);
        assert_eq!(COMMIT_AND_FETCH, 0xc010_7521);
        assert_eq!(PREP_IO_CMDS, 0xc010_7525);
        assert_eq!(FETCH_IO_CMDS, 0xc010_7527);
        assert_eq!((plain(control::ADD_DEV), plain(COMMIT_AND_FETCH)), (0x04, 0x21));
    }

    #[test]
    fn commands_have_the_layout_of_the_header() {
        let bytes = control_command(7, (0x1122_3344_5566_7788, 64), 9);
        assert_eq!(bytes[..8], [7, 0, 0, 0, 0xff, 0xff, 64, 0]);
        assert_eq!(bytes[8..16], 0x1122_3344_5566_7788u64.to_ne_bytes());
        assert_eq!(bytes[16..24], 9u64.to_ne_bytes());
        let bytes = io_command(2, 3, -5, 9);
        assert_eq!(bytes, [2, 0, 3, 0, 0xfb, 0xff, 0xff, 0xff, 9, 0, 0, 0, 0, 0, 0, 0]);
        let bytes = batch_command(2, BATCH_REGISTER_OR_NOT, 3, 8);
        assert_eq!(bytes, [2, 0, 4, 0, 3, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let element = batch_element(3, 0x102, -5);
        assert_eq!(element, [3, 0, 2, 1, 0xfb, 0xff, 0xff, 0xff]);
        assert_eq!(batch_element_parts(&element), (3, -5));
        assert_eq!(copy_offset(1, 2), 0x8000_0000 + (1 << 41) + (2 << 25));
    }
}
