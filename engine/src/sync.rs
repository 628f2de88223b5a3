//! The atomics and the queue by which reactors hand each other things: core's and crossbeam's, or shuttle's when its models
//! run (`--cfg shuttle`), so that a schedule may change at each of them.

#[cfg(not(shuttle))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(shuttle))]
pub(crate) use crossbeam::queue::ArrayQueue;
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

/// What crossbeam's queue promises, which is not what the models are about: bounded, first in, first out, each verb at once.
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
