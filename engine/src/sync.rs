//! The atomics and the queue that reactors use to hand things to each other: core's and crossbeam's, or
//! shuttle's when its models run (`--cfg shuttle`), so that the schedule may change at each of them.

#[cfg(not(shuttle))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(shuttle))]
pub(crate) use crossbeam::queue::ArrayQueue;
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

/// A stand-in with the promises of crossbeam's queue, which the models do not test: bounded, first in, first
/// out, each call atomic.
#[cfg(shuttle)]
pub(crate) struct ArrayQueue<T> {
    queue: shuttle::sync::Mutex<std::collections::VecDeque<T>>,
    room: usize,
}

#[cfg(shuttle)]
impl<T> ArrayQueue<T> {
    pub(crate) fn new(room: usize) -> ArrayQueue<T> {
        ArrayQueue { queue: shuttle::sync::Mutex::new(std::collections::VecDeque::new()), room }
    }

    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        let mut queue = self.queue.lock().expect("no holder panics");
        if queue.len() == self.room {
            return Err(value);
        }
        queue.push_back(value);
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.queue.lock().expect("no holder panics").pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.lock().expect("no holder panics").is_empty()
    }
}
