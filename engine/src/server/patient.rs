//! A ring for control steps that gives up when a device does not answer.
//!
//! The steps of a start wait for each operation. If nothing has completed for the patience, everything in
//! flight is answered with `ECANCELED`, and so is every later operation, without being carried out. For the
//! members this is as if the process had been killed at that moment, except that the kernel may still carry
//! out writes it has, later, from the memory of the steps. So no step may put anything else into that memory:
//! `ECANCELED` is no fault of a member (`ring::blame`), and a step that writes ends at the first error of
//! that kind.

use rustix::io::Errno;

use crate::clock::{Clock, MonotonicClock};
use crate::limits::IO_IN_FLIGHT_MAX;
use crate::ring::{Completion, DeviceIndex, MemberOp, Ring};

/// A ring with patience; see the top of this file.
pub(super) struct PatientRing<R, C = MonotonicClock> {
    ring: R,
    clock: C,
    patience_ns: u64,
    /// The device of each operation in the inner ring, by tag.
    in_flight: Vec<Option<DeviceIndex>>,
    count: usize,
    /// Time of the last completion, or of the first push after the ring was empty.
    heard_ns: u64,
    silent: Option<DeviceIndex>,
    /// Tags of the operations that came after a device fell silent.
    refused: Vec<u32>,
}

impl<R: Ring, C: Clock> PatientRing<R, C> {
    pub(super) fn new(ring: R, clock: C, patience_ns: u64) -> PatientRing<R, C> {
        let in_flight = vec![None; IO_IN_FLIGHT_MAX];
        let (silent, refused) = (None, Vec::new());
        PatientRing { ring, clock, patience_ns, in_flight, count: 0, heard_ns: 0, silent, refused }
    }

    /// The device that did not answer in time, if any.
    pub(super) fn silent(&self) -> Option<DeviceIndex> {
        self.silent
    }

    /// Cancels everything in flight, if nothing has completed for too long.
    fn lose_patience(&mut self, completions: &mut Vec<Completion>) {
        if self.count == 0 || self.clock.now_ns() < self.heard_ns + self.patience_ns {
            return;
        }
        for (device, tag) in self.in_flight.iter_mut().zip(0..) {
            if let Some(device) = device.take() {
                self.silent.get_or_insert(device);
                completions.push(canceled(tag));
            }
        }
    }
}

impl<R: Ring, C: Clock> Ring for PatientRing<R, C> {
    fn push(&mut self, op: MemberOp) {
        if self.silent.is_some() {
            self.refused.push(op.tag);
            return;
        }
        if self.count == 0 {
            self.heard_ns = self.clock.now_ns();
        }
        self.count += 1;
        self.in_flight[op.tag as usize] = Some(op.device);
        self.ring.push(op);
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        if self.silent.is_some() {
            completions.extend(self.refused.drain(..).map(canceled));
            return;
        }
        let before = completions.len();
        self.ring.turn(completions);
        let ended = &completions[before..];
        if ended.is_empty() {
            self.lose_patience(completions);
            return;
        }
        self.heard_ns = self.clock.now_ns();
        self.count -= ended.len();
        ended.iter().for_each(|ended| self.in_flight[ended.tag as usize] = None);
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        self.ring.wait_fd()
    }
}

fn canceled(tag: u32) -> Completion {
    Completion { tag, result: Err(Errno::CANCELED.raw_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::memory::Span;
    use crate::ring::{MemberIo, blocking};

    /// A ring on which device 0 answers at once and device 1 never. Counts the operations it gets.
    #[derive(Default)]
    struct HalfSilent {
        answered: Vec<u32>,
        given: Rc<Cell<u32>>,
    }

    impl Ring for HalfSilent {
        fn push(&mut self, op: MemberOp) {
            self.given.set(self.given.get() + 1);
            if op.device == DeviceIndex(0) {
                self.answered.push(op.tag);
            }
        }

        fn turn(&mut self, completions: &mut Vec<Completion>) {
            completions.extend(self.answered.drain(..).map(|tag| Completion { tag, result: Ok(()) }));
        }

        fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
            None
        }
    }

    /// A clock on which one second passes at each look.
    struct Passing(Cell<u64>);

    impl Clock for Passing {
        fn now_ns(&self) -> u64 {
            self.0.set(self.0.get() + 1_000_000_000);
            self.0.get()
        }
    }

    fn flush(device: u8) -> MemberOp {
        let device = DeviceIndex(device);
        MemberOp { tag: 0, device, io: MemberIo::Flush, offset_bytes: 0, len_bytes: 0, span: Span::EMPTY }
    }

    /// Completions of the device that answers count as usual; after a device was silent, nothing more is
    /// given to the inner ring.
    #[test]
    fn a_silent_device_ends_all() {
        let given = Rc::new(Cell::new(0));
        let ring = HalfSilent { given: given.clone(), ..HalfSilent::default() };
        let mut patient = PatientRing::new(ring, Passing(Cell::new(0)), 30_000_000_000);
        let late = Err(Errno::CANCELED.raw_os_error());
        assert_eq!(blocking::run(&mut patient, &[flush(0), flush(0)]), [Ok(()), Ok(())]);
        assert_eq!(patient.silent(), None);
        assert_eq!(blocking::run(&mut patient, &[flush(0), flush(1), flush(0)]), [Ok(()), late, Ok(())]);
        assert_eq!(patient.silent(), Some(DeviceIndex(1)));
        assert_eq!(given.get(), 5);
        assert_eq!(blocking::run(&mut patient, &[flush(0), flush(1)]), [late, late]);
        assert_eq!(given.get(), 5);
    }
}
