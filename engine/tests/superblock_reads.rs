//! The operations that `read_superblocks` sends to a device before it believes what it reads.
//!
//! Method: a ring that lists the operations, and refuses those that it is told to refuse. Oracle: the list.

use engine::format::superblock::NoMember;
use engine::memory::{Memory, Span};
use engine::ring::{Completion, DeviceIndex, MemberIo, MemberOp, Ring};
use engine::start::{Bench, SCRATCH_BYTES, read_superblocks};

/// A ring in which every read returns zeros.
struct Witness {
    asked: Vec<MemberIo>,
    refused: Option<MemberIo>,
    done: Vec<Completion>,
}

impl Ring for Witness {
    fn push(&mut self, op: MemberOp) {
        let result = if Some(op.io) == self.refused { Err(5) } else { Ok(()) };
        self.asked.push(op.io);
        self.done.push(Completion { tag: op.tag, result });
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.done);
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

fn read(refused: Option<MemberIo>) -> (Vec<MemberIo>, NoMember) {
    let memory = Memory::new(&[SCRATCH_BYTES as usize]).expect("memory");
    let scratch: Span = memory.arena(0).part(0, SCRATCH_BYTES);
    let mut ring = Witness { asked: Vec::new(), refused, done: Vec::new() };
    let mut bench = Bench { ring: &mut ring, memory: &memory, scratch };
    let found = read_superblocks(&mut bench, DeviceIndex(0), 1 << 30);
    (ring.asked, found.expect_err("zeros are no superblock"))
}

/// A superblock whose write failed may exist only in the device's cache, and be gone after the next power
/// cut: a start must not read such a one, so it flushes first.
#[test]
fn a_device_is_flushed_before_its_superblocks_are_read() {
    let (asked, found) = read(None);
    assert_eq!(asked, [MemberIo::Flush, MemberIo::Read, MemberIo::Read]);
    assert_eq!(found, NoMember::Blank);
}

/// A start may need this very device.
#[test]
fn a_device_that_cannot_be_flushed_is_read_all_the_same() {
    assert_eq!(read(Some(MemberIo::Flush)).1, NoMember::Blank);
}

#[test]
fn a_device_that_cannot_be_read_is_not_called_blank() {
    assert_eq!(read(Some(MemberIo::Read)).1, NoMember::Unreadable);
}
