//! Submission queue entries: encodes a piece as an operation of the kernel.

use io_uring::{opcode, squeue, types};

use super::piece::Piece;
use super::{Deallocate, namespace_file};
use crate::limits::IO_IN_FLIGHT_MAX;
use crate::memory::Memory;
use crate::ring::nvme::{Namespace, Range, URING_CMD_IO};
use crate::ring::{Durability, MemberIo, MemberOp};

/// `BLOCK_URING_CMD_DISCARD` of linux/blkdev.h: `_IO(0x12, 0)`.
const BLOCK_URING_CMD_DISCARD: u32 = 0x12 << 8;

/// Makes the submission queue entry of a piece that goes through the device's file.
pub(super) fn file_entry(
    op: &MemberOp,
    piece: Piece,
    deallocate: Deallocate,
    memory: &Memory,
    fixed: bool,
) -> squeue::Entry {
    let file = types::Fixed(u32::from(op.device.0));
    let entry = match op.io {
        MemberIo::Read => transfer_entry(op, piece, memory, fixed, None),
        MemberIo::Write(durability) => transfer_entry(op, piece, memory, fixed, Some(durability)),
        MemberIo::Flush => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        MemberIo::Deallocate if deallocate == Deallocate::Discard => {
            // blkdev_uring_cmd in block/ioctl.c: the start is in `addr`, the length in `addr3`, which is the
            // first eight of the command's bytes.
            let mut command = [0; 16];
            command[..8].copy_from_slice(&op.len_bytes.to_ne_bytes());
            let discard = opcode::UringCmd16::new(file, BLOCK_URING_CMD_DISCARD);
            discard.cmd(command).addr(Some(op.offset_bytes)).build()
        }
        MemberIo::Deallocate => {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            opcode::Fallocate::new(file, op.len_bytes).offset(op.offset_bytes).mode(mode).build()
        }
    };
    entry.user_data(piece.pack())
}

/// Makes the entry of a read (`write` is `None`) or a write.
fn transfer_entry(
    op: &MemberOp,
    piece: Piece,
    memory: &Memory,
    fixed: bool,
    write: Option<Durability>,
) -> squeue::Entry {
    let file = types::Fixed(u32::from(op.device.0));
    let Place { address, len, arena, fixed } = Place::of(op, piece, memory, fixed);
    let offset = op.offset_bytes + u64::from(piece.start_bytes());
    let rw_flags = if write == Some(Durability::Durable) { libc::RWF_DSYNC } else { 0 };
    match (write, fixed) {
        (None, true) => opcode::ReadFixed::new(file, address, len, arena).offset(offset).build(),
        (None, false) => opcode::Read::new(file, address, len).offset(offset).build(),
        (Some(_), true) => {
            let write = opcode::WriteFixed::new(file, address, len, arena);
            write.offset(offset).rw_flags(rw_flags).build()
        }
        (Some(_), false) => opcode::Write::new(file, address, len).offset(offset).rw_flags(rw_flags).build(),
    }
}

/// Makes the submission queue entry of a piece that goes to the device's namespace.
pub(super) fn passthrough_entry(
    op: &MemberOp,
    piece: Piece,
    namespace: &Namespace,
    ranges: &mut Ranges,
    memory: &Memory,
    fixed: bool,
) -> squeue::Entry128 {
    let transfer = |durability| {
        let place = Place::of(op, piece, memory, fixed);
        let offset = op.offset_bytes + u64::from(piece.start_bytes());
        let command =
            namespace.transfer(durability, offset, place.len, place.address.expose_provenance() as u64);
        (command, place.fixed.then_some(place.arena))
    };
    let (command, buffer) = match op.io {
        MemberIo::Read => transfer(None),
        MemberIo::Write(durability) => transfer(Some(durability)),
        MemberIo::Flush => (namespace.flush(), None),
        MemberIo::Deallocate => {
            let range = namespace.range(op.offset_bytes, op.len_bytes);
            (namespace.deallocate(ranges.keep(op.tag, range)), None)
        }
    };
    let file = types::Fixed(namespace_file(op.device));
    let entry = opcode::UringCmd80::new(file, URING_CMD_IO).cmd(command.bytes()).buf_index(buffer);
    entry.build().user_data(piece.pack())
}

/// The location of a piece's bytes, in the kernel's terms.
struct Place {
    address: *mut u8,
    len: u32,
    arena: u16,
    /// Whether the bytes are in the ring's table of buffers.
    fixed: bool,
}

impl Place {
    fn of(op: &MemberOp, piece: Piece, memory: &Memory, fixed: bool) -> Place {
        let span = op.span.part(piece.start_bytes(), piece.len_bytes());
        // A host buffer has no address of ours: its address for the kernel is the offset from its first byte.
        let in_arena = usize::from(span.arena) < memory.arena_count();
        let address = if in_arena {
            memory.ptr(span)
        } else {
            std::ptr::without_provenance_mut(span.offset_bytes as usize)
        };
        Place { address, len: span.len_bytes, arena: span.arena, fixed: fixed || !in_arena }
    }
}

/// The ranges of deallocations in flight, by tag. The kernel reads them from our memory.
pub(super) struct Ranges(Box<[Range]>);

impl Ranges {
    /// Makes room for every operation, or for none without passthrough.
    pub(super) fn new(passthrough: bool) -> Ranges {
        Ranges(vec![Range::default(); if passthrough { IO_IN_FLIGHT_MAX } else { 0 }].into())
    }

    /// Stores a range until the next one of this tag, and returns its address.
    fn keep(&mut self, tag: u32, range: Range) -> u64 {
        let place = &mut self.0[tag as usize];
        *place = range;
        std::ptr::from_mut(place).expose_provenance() as u64
    }
}
