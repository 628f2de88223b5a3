//! NVMe passthrough as the kernel accepts it: commands to a namespace's character device, which bypass the
//! block layer.
//!
//! An operation through the block device costs a `bio`, a `request` and a pass of the scheduler over both.
//! Through the character device it is the drive's own command in a submission queue entry
//! (linux/nvme_ioctl.h, drivers/nvme/host/ioctl.c, Linux 5.19; with fixed buffers and polling since 6.1). We
//! then have to do the block layer's work:
//!
//! - lengths: a command beyond the drive's MDTS, or beyond the kernel's segments, is refused, not cut
//!   (`device/nvme.rs` knows both);
//! - retries: the kernel repeats no passthrough command, and fails all of them at once while a controller is
//!   reset. So if a command fails and the medium is not at fault, the operation goes to the block device
//!   instead. There the kernel waits for the reset, tries another path, cuts what is too long, and has the
//!   last word ([`Outcome::Elsewhere`]);
//! - the page cache: nothing here invalidates it (`device/nvme.rs` does, before the first command and after
//!   the last).
//!
//! This module is pure except for the file that a [`Namespace`] holds.

use std::fs::File;
use std::mem::{offset_of, size_of};

use super::{Durability, MemberIo, MemberOp};

/// Number of the passthrough command `NVME_URING_CMD_IO`: `_IOWR('N', 0x80, struct nvme_uring_cmd)`.
pub const URING_CMD_IO: u32 = 0xC048_4E80;

/// Opcodes of the NVM command set (NVM Command Set specification, figure 16), and one administrative opcode.
mod opcode {
    pub(super) const FLUSH: u8 = 0x00;
    pub(super) const WRITE: u8 = 0x01;
    pub(super) const READ: u8 = 0x02;
    pub(super) const DATASET_MANAGEMENT: u8 = 0x09;
    pub(super) const IDENTIFY: u8 = 0x06;
}

/// Bit in dword 12 of a write: the bytes are on stable media when the command completes.
const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// Bit in dword 11 of a dataset management command: deallocate.
const DEALLOCATE: u32 = 1 << 2;

/// Most blocks of one command: the count has 16 bits and is stored minus one.
pub const BLOCKS_MAX: u32 = 1 << 16;

/// A command: `struct nvme_uring_cmd`. `struct nvme_passthru_cmd` differs only in the name of its last field.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    /// Address of the bytes; with a fixed buffer of the kernel's own pages, the offset into the buffer.
    address: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    /// The value that an administrative command returns.
    result: u32,
}

/// Length of a [`Command`].
pub const COMMAND_BYTES: usize = size_of::<Command>();

// Layout from linux/nvme_ioctl.h.
const _: () = assert!(COMMAND_BYTES == 72);
const _: () = assert!(offset_of!(Command, namespace) == 4 && offset_of!(Command, metadata) == 16);
const _: () = assert!(offset_of!(Command, address) == 24 && offset_of!(Command, data_len) == 36);
const _: () = assert!(offset_of!(Command, cdw10) == 40 && offset_of!(Command, timeout_ms) == 64);
// The number of a command contains the length of its argument.
const _: () = assert!((URING_CMD_IO >> 16) & 0x3fff == COMMAND_BYTES as u32);

/// A range of a dataset management command (NVM Command Set specification, figure 36).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    attributes: [u8; 4],
    /// Number of logical blocks, little-endian.
    blocks: [u8; 4],
    /// First logical block, little-endian.
    start: [u8; 8],
}

/// Length of a [`Range`].
pub const RANGE_BYTES: u32 = size_of::<Range>() as u32;
const _: () = assert!(RANGE_BYTES == 16);

/// A namespace's character device, opened with the access that the engine needs.
#[derive(Debug)]
pub struct Namespace {
    /// The character device, `/dev/ngXnY`.
    pub file: File,
    /// Number of the namespace at its controller.
    pub number: u32,
    /// Binary logarithm of the logical block, 9 to 12.
    pub block_shift: u8,
    /// Longest deallocation: the kernel's limit, which is the drive's own (DMRSL) or set by an operator; 0 if
    /// none is allowed.
    pub deallocation_bytes_max: u64,
}

impl Namespace {
    /// Makes the command that reads (`durability` is `None`) or writes `len_bytes` at `offset_bytes`. Both
    /// are whole blocks, at most [`BLOCKS_MAX`] of them.
    #[must_use]
    pub fn transfer(
        &self,
        durability: Option<Durability>,
        offset_bytes: u64,
        len_bytes: u32,
        address: u64,
    ) -> Command {
        let (start, blocks) = (offset_bytes >> self.block_shift, len_bytes >> self.block_shift);
        assert!(
            self.takes(offset_bytes, len_bytes.into()),
            "{len_bytes} bytes at {offset_bytes} are no whole blocks"
        );
        debug_assert!(blocks <= BLOCKS_MAX);
        let force = if durability == Some(Durability::Durable) { FORCE_UNIT_ACCESS } else { 0 };
        Command {
            opcode: if durability.is_some() { opcode::WRITE } else { opcode::READ },
            namespace: self.number,
            address,
            data_len: len_bytes,
            cdw10: start as u32,
            cdw11: (start >> 32) as u32,
            cdw12: (blocks - 1) | force,
            ..Command::default()
        }
    }

    /// Whether a range consists of whole blocks. The drive counts in blocks: given any other range, it would
    /// read or write the wrong bytes without an error.
    #[must_use]
    pub fn takes(&self, offset_bytes: u64, len_bytes: u64) -> bool {
        len_bytes > 0 && (offset_bytes | len_bytes).trailing_zeros() >= u32::from(self.block_shift)
    }

    /// Whether an operation is sent as the drive's own command. Other operations go through the block device,
    /// where the kernel cuts a deallocation that is too long, and refuses a range that is not whole blocks.
    #[must_use]
    pub fn sends(&self, op: &MemberOp) -> bool {
        let is_whole = self.takes(op.offset_bytes, op.len_bytes);
        match op.io {
            MemberIo::Flush => true,
            MemberIo::Read | MemberIo::Write(_) => is_whole,
            MemberIo::Deallocate => is_whole && op.len_bytes <= self.deallocation_bytes_max,
        }
    }

    /// Makes the command that makes everything durable that has completed.
    #[must_use]
    pub fn flush(&self) -> Command {
        Command { opcode: opcode::FLUSH, namespace: self.number, ..Command::default() }
    }

    /// Makes the command that gives back the range stored at `address`.
    #[must_use]
    pub fn deallocate(&self, address: u64) -> Command {
        Command {
            opcode: opcode::DATASET_MANAGEMENT,
            namespace: self.number,
            address,
            data_len: RANGE_BYTES,
            // One range: the field holds the count minus one.
            cdw10: 0,
            cdw11: DEALLOCATE,
            ..Command::default()
        }
    }

    /// Converts whole blocks to a range. A length beyond what a range can express is cut: deallocation is
    /// advice.
    #[must_use]
    pub fn range(&self, offset_bytes: u64, len_bytes: u64) -> Range {
        let blocks = u32::try_from(len_bytes >> self.block_shift).unwrap_or(u32::MAX);
        let start = offset_bytes >> self.block_shift;
        Range { attributes: [0; 4], blocks: blocks.to_le_bytes(), start: start.to_le_bytes() }
    }
}

impl Command {
    /// Makes the command that asks for 4096 bytes about a namespace (`structure` 0) or its controller
    /// (`structure` 1).
    #[must_use]
    pub fn identify(structure: u8, namespace: u32, address: u64) -> Command {
        let cdw10 = u32::from(structure);
        Command { opcode: opcode::IDENTIFY, namespace, address, data_len: 4096, cdw10, ..Command::default() }
    }

    /// Encodes the command for a submission queue entry of 128 bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; 80] {
        let Command { opcode, flags, reserved, namespace, cdw2, cdw3, metadata, address, .. } = self;
        let words = [
            u32::from_ne_bytes([opcode, flags, reserved.to_ne_bytes()[0], reserved.to_ne_bytes()[1]]),
            namespace,
            cdw2,
            cdw3,
        ];
        let more = [
            self.metadata_len,
            self.data_len,
            self.cdw10,
            self.cdw11,
            self.cdw12,
            self.cdw13,
            self.cdw14,
            self.cdw15,
            self.timeout_ms,
            self.result,
        ];
        let mut bytes = [0; 80];
        for (place, word) in bytes[..16].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[16..24].copy_from_slice(&metadata.to_ne_bytes());
        bytes[24..32].copy_from_slice(&address.to_ne_bytes());
        for (place, word) in bytes[32..COMMAND_BYTES].chunks_exact_mut(4).zip(more) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The meaning of a command's completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command was done completely.
    Done,
    /// The kernel had no room; try again.
    Again,
    /// The command failed on this path, perhaps only for now: the block device decides.
    Elsewhere,
    /// The medium failed, with this `errno`; another path would give the same answer.
    Failed(i32),
}

/// The meaning of a completion queue entry's result: 0, a negative `errno`, or the status field of the
/// drive's answer.
///
/// The status is the one that `nvme_error_status` in drivers/nvme/host/core.c examines: 11 bits of type and
/// code. The bits above are hints about retries, which the block layer follows when it repeats the operation.
#[must_use]
pub fn outcome(result: i32) -> Outcome {
    const STATUS_MASK: i32 = 0x7ff;
    const WRITE_FAULT: i32 = 0x280;
    const UNRECOVERED_READ: i32 = 0x281;
    const UNWRITTEN_BLOCK: i32 = 0x287;
    match result {
        0 => Outcome::Done,
        errno if errno == -libc::EAGAIN => Outcome::Again,
        errno if errno < 0 => Outcome::Elsewhere,
        status => match status & STATUS_MASK {
            // The statuses of BLK_STS_MEDIUM, and its errno.
            WRITE_FAULT | UNRECOVERED_READ | UNWRITTEN_BLOCK => Outcome::Failed(libc::ENODATA),
            _ => Outcome::Elsewhere,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(block_shift: u8) -> Namespace {
        let file = File::open("/dev/null").unwrap();
        Namespace { file, number: 3, block_shift, deallocation_bytes_max: 1 << 20 }
    }

    /// A dword of the entry, numbered from 10 on as in the NVMe specification.
    fn dword(bytes: &[u8; 80], number: usize) -> u32 {
        let at = 40 + 4 * (number - 10);
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn transfers() {
        // Cases: (block, durability, offset, length) and (opcode, start low, start high, dword 12).
        let durable = Some(Durability::Durable);
        for (shift, durability, offset, len, expected) in [
            (9, None, 0, 512, (2, 0, 0, 0)),
            (9, None, 4096, 8192, (2, 8, 0, 15)),
            (9, Some(Durability::Cached), 512, 524_288, (1, 1, 0, 1023)),
            (12, durable, (1 << 44) + 4096, 4096, (1, 1, 1, 1 << 30)),
            (12, durable, 8192, 1 << 28, (1, 2, 0, 0xffff | 1 << 30)),
        ] {
            let bytes = namespace(shift).transfer(durability, offset, len, 0xdead_beef_0000).bytes();
            let is = (bytes[0], dword(&bytes, 10), dword(&bytes, 11), dword(&bytes, 12));
            assert_eq!(is, expected, "{offset} {len}");
            assert_eq!(bytes[4..8], 3u32.to_ne_bytes());
            assert_eq!(bytes[24..32], 0xdead_beef_0000_u64.to_ne_bytes());
            assert_eq!(bytes[36..40], len.to_ne_bytes());
            assert!(bytes[8..24].iter().chain(&bytes[52..]).all(|&byte| byte == 0));
        }
    }

    #[test]
    fn a_drive_takes_whole_blocks() {
        for (shift, offset, len, takes) in [
            (9, 512, 512, true),
            (9, 256, 512, false),
            (9, 512, 0, false),
            (12, 4096, 8192, true),
            (12, 512, 4096, false),
            (12, 4096, 512, false),
            (12, 0, 4096, true),
        ] {
            assert_eq!(namespace(shift).takes(offset, len), takes, "{shift} {offset} {len}");
        }
    }

    #[test]
    #[should_panic(expected = "no whole blocks")]
    fn a_command_of_half_a_block_is_a_bug() {
        let _command = namespace(12).transfer(None, 512, 4096, 0);
    }

    #[test]
    fn what_has_no_bytes_of_ours() {
        let bytes = namespace(9).flush().bytes();
        assert_eq!(bytes[..8], [0, 0, 0, 0, 3, 0, 0, 0]);
        assert!(bytes[8..].iter().all(|&byte| byte == 0));
        let bytes = namespace(9).deallocate(0x1000).bytes();
        assert_eq!((bytes[0], dword(&bytes, 10), dword(&bytes, 11)), (9, 0, 4));
        assert_eq!((&bytes[24..26], &bytes[36..40]), (&[0, 0x10][..], &[16, 0, 0, 0][..]));
        let bytes = Command::identify(1, 0, 0x2000).bytes();
        assert_eq!((bytes[0], dword(&bytes, 10), &bytes[36..38]), (6, 1, &[0, 0x10][..]));
    }

    #[test]
    fn ranges() {
        let range = namespace(12).range(1 << 20, 256 << 10);
        assert_eq!((range.blocks, range.start), (64u32.to_le_bytes(), 256u64.to_le_bytes()));
        assert_eq!(namespace(9).range(0, 1 << 50).blocks, [255; 4]);
    }

    #[test]
    fn outcomes() {
        for (result, expected) in [
            (0, Outcome::Done),
            (-libc::EAGAIN, Outcome::Again),
            // Cancelled by a reset; command not known; no path.
            (-libc::EINTR, Outcome::Elsewhere),
            (-libc::EINVAL, Outcome::Elsewhere),
            (0x4001, Outcome::Elsewhere),
            (0x370, Outcome::Elsewhere),
            // A medium error, also with the "do not retry" bit.
            (0x281, Outcome::Failed(libc::ENODATA)),
            (0x4281, Outcome::Failed(libc::ENODATA)),
            (0x280, Outcome::Failed(libc::ENODATA)),
        ] {
            assert_eq!(outcome(result), expected, "{result:#x}");
        }
    }
}
