//! The submission queue entry of a piece: what the kernel is asked to do.

use io_uring::{opcode, squeue, types};

use super::Deallocate;
use super::piece::Piece;
use crate::memory::Memory;
use crate::ring::{Durability, MemberIo, MemberOp};

/// `BLOCK_URING_CMD_DISCARD` of linux/blkdev.h: `_IO(0x12, 0)`.
const BLOCK_URING_CMD_DISCARD: u32 = 0x12 << 8;

/// The submission queue entry of a piece.
pub(super) fn entry(
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
            // blkdev_uring_cmd in block/ioctl.c: the start is in `addr`, the length in `addr3`, which are the
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

/// A read (`write` is `None`) or a write.
fn transfer_entry(
    op: &MemberOp,
    piece: Piece,
    memory: &Memory,
    fixed: bool,
    write: Option<Durability>,
) -> squeue::Entry {
    let file = types::Fixed(u32::from(op.device.0));
    let span = op.span.part(piece.start_bytes(), piece.len_bytes());
    let (len, arena) = (span.len_bytes, span.arena);
    // A host buffer has no address of ours: the kernel counts from its first byte.
    let in_arena = usize::from(arena) < memory.arena_count();
    let address = if in_arena {
        memory.ptr(span)
    } else {
        std::ptr::without_provenance_mut(span.offset_bytes as usize)
    };
    let fixed = fixed || !in_arena;
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
