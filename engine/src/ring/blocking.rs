//! Member I/O for control steps, which may wait: create, assemble, read a superblock.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{MemberOp, Ring};
use crate::limits::IO_IN_FLIGHT_MAX;

/// Carries out `ops`, in any order, and returns their results in the order of `ops`. Their tags are ignored,
/// so nothing else may be in flight on the ring.
pub fn run(ring: &mut impl Ring, ops: &[MemberOp]) -> Vec<Result<(), i32>> {
    let mut results = vec![Ok(()); ops.len()];
    let mut completions = Vec::with_capacity(ops.len().min(IO_IN_FLIGHT_MAX));
    // At any time fewer than IO_IN_FLIGHT_MAX operations are in flight, as the ring requires.
    let batch_max = IO_IN_FLIGHT_MAX - 1;
    for (ops, results) in ops.chunks(batch_max).zip(results.chunks_mut(batch_max)) {
        ops.iter().zip(0..).for_each(|(op, tag)| ring.push(MemberOp { tag, ..*op }));
        let mut pending = ops.len();
        while pending > 0 {
            completions.clear();
            ring.turn(&mut completions);
            completions.iter().for_each(|completion| results[completion.tag as usize] = completion.result);
            pending -= completions.len();
            if completions.is_empty() {
                wait(ring);
            }
        }
    }
    results
}

/// Sleeps until a turn would find something, for at most one second. Call it only after a turn that brought
/// nothing, with operations in flight.
pub fn wait(ring: &impl Ring) {
    let Some(fd) = ring.wait_fd() else {
        std::thread::yield_now();
        return;
    };
    borrowed(fd, |fd| {
        // An interrupted or failed poll costs a turn that finds nothing. So does a timeout, which is needed
        // because a ring may give up on a device that does not answer.
        let a_second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let _woken = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&a_second));
    });
}

#[expect(unsafe_code, reason = "the trait names its descriptor by number")]
fn borrowed(fd: i32, sleep: impl FnOnce(BorrowedFd<'_>)) {
    // SAFETY: the ring that owns the descriptor is borrowed by the caller for the whole call.
    sleep(unsafe { BorrowedFd::borrow_raw(fd) });
}
