//! The end of a running array.
//!
//! ```text
//!   close: no new hosts -> (quiesce) -> stop: reactors drain -> the steward flushes and marks clean
//!     -> rings close -> threads end
//!           `-> the block device is removed
//! ```
//!
//! Every step has a time limit (see `answers`). A member that does not answer delays the stop by some
//! seconds, and by then it has left the array. But the kernel keeps the requests to this member, and until
//! the kernel returns them
//!
//! - the member's files stay open, in an io_uring that only the kernel can take apart;
//! - a thread with a kernel worker in such I/O does not end, and neither does the process;
//! - before Linux 6.13 the other files of that io_uring stay open as well: those of the other members and of
//!   the block device.
//!
//! The stop does not wait for that. It reports which members are concerned and what can be done
//! ([`Ended::HeldByKernel`]).

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::bounded;

use super::answers::{LOOK_EVERY, advice_goes_on, all_closed, all_ended, member_timeout, order_stop};
use super::{Server, ServerError};
use crate::clock::{Clock, MonotonicClock};
use crate::events::Event;
use crate::frontend::ublk::{Closed, Quiesced, Ublk};
use crate::reactor::ReactorOrder;
use crate::ring::{DeviceIndex, Uring};
use crate::server::bounded::all_within;

/// Time for a connection to end after its client has hung up, before a stop counts the client as connected.
const HANGING_UP_TIME_MAX: Duration = Duration::from_millis(500);
const HANGING_UP_LOOK_EVERY: Duration = Duration::from_millis(5);

/// Result of an orderly stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing of the array is left.
    Wholly,
    /// The kernel holds I/O of members that do not answer. The operator gets one line for each member, and
    /// one for what stays because of it.
    HeldByKernel(Vec<String>),
}

/// How to stop an array that is served as a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Stop only if the block device is not in use.
    IfIdle,
    /// Stop even if the device is in use, for a take-over by the next server: requests wait, and hosts see no
    /// error.
    HandOver,
    /// Stop in any case: users of the device see errors.
    Force,
}

/// Whatever of the reactors has not ended.
struct Left {
    /// Devices whose I/O the kernel has not returned.
    devices: BTreeSet<DeviceIndex>,
    /// Reactors that did not close their rings in time, or whose threads have not ended.
    reactors: Vec<usize>,
    has_panicked: bool,
}

impl Server {
    /// Turns hosts away, as the first step of a stop. An error says that a block device is in use; then
    /// nothing has changed.
    pub fn close(&self, how: Stop) -> Result<(), ServerError> {
        let exports = || self.front.exports().join(", ");
        let waited_for = self.waited_for_by_hosts();
        if !waited_for.is_empty() {
            // A stop here would hang: the driver waits for these reads, the reads for the member, and the
            // process for the driver.
            return match how {
                Stop::HandOver => Ok(()),
                Stop::IfIdle | Stop::Force => Err(ServerError(format!(
                    "{}: does not answer, and reads of {} wait for it in the kernel: {} cannot be stopped before it answers or is removed; a signal (SIGTERM) ends the server all the same, and leaves {} to the next one",
                    waited_for.join(", "),
                    exports(),
                    exports(),
                    exports()
                ))),
            };
        }
        if how == Stop::IfIdle {
            self.wait_for_clients_to_leave();
        }
        match (self.front.close(how == Stop::Force)?, how) {
            (Closed::Stopped, _) | (Closed::InUse, Stop::HandOver) => Ok(()),
            (Closed::InUse, _) if self.front.clients() > 0 => Err(ServerError(format!(
                "{} has {} connected clients: disconnect them, or stop with --force, which ends their connections",
                exports(),
                self.front.clients()
            ))),
            (Closed::InUse, Stop::IfIdle | Stop::Force) => Err(ServerError(format!(
                "{} is in use: unmount it or close what has it open, or stop with --force, which fails its I/O",
                exports()
            ))),
        }
    }

    /// Waits for clients that have just hung up: each is counted until its reactor notices.
    fn wait_for_clients_to_leave(&self) {
        let (began_ns, nothing) = (MonotonicClock.now_ns(), crossbeam::channel::never::<()>());
        while self.front.clients() > 0
            && MonotonicClock.now_ns() - began_ns < HANGING_UP_TIME_MAX.as_nanos() as u64
        {
            let _nothing_comes = nothing.recv_timeout(HANGING_UP_LOOK_EVERY);
        }
    }

    /// Names of the members that have left although the kernel still reads from them into the pages of a
    /// host's request.
    fn waited_for_by_hosts(&self) -> Vec<String> {
        let ask = |(me, reactor): (usize, &super::Running)| {
            let (done, answer) = bounded(1);
            let ask = move |ring: &mut Uring| drop(done.send(ring.host_reads()));
            reactor.port.order(&self.shared, me as u8, ReactorOrder::WithRing(Box::new(ask)));
            answer
        };
        let asked = self.reactors.iter().enumerate().map(ask).collect();
        let devices: BTreeSet<DeviceIndex> = all_within(asked, LOOK_EVERY).flatten().flatten().collect();
        let members = &self.shared.members;
        let is_member =
            |index: &DeviceIndex| members.view().writable.iter().any(|slot| members.device(slot) == *index);
        devices.into_iter().filter(|index| !is_member(index)).map(|index| self.named(index)).collect()
    }

    fn named(&self, index: DeviceIndex) -> String {
        self.devices.name(index).unwrap_or_else(|| "a device that was replaced".into())
    }

    /// Makes the requests of a block device wait for the next server. Called after a [`Server::close`] that
    /// leaves the device to that server, and directly before [`Server::stop`]. `None` if there is no such
    /// device.
    #[must_use]
    pub fn quiesce(&self) -> Option<Quiesced> {
        self.front.quiesce()
    }

    /// Drains the front ends, flushes, marks the array clean, and closes it. A block device that
    /// [`Server::close`] did not stop stays, and its requests wait for the next server. The stop waits for no
    /// other call: a call in progress is refused, or gets no answer.
    pub fn stop(&self) -> Result<Ended, ServerError> {
        if self.is_stopping.swap(true, Ordering::AcqRel) {
            return Err(ServerError("the array is being stopped".into()));
        }
        // Tell clients that wait at a door about the end while the reactors still turn.
        let ublk = self.front.end();
        // Drain twice: a reactor that is drained may afterwards get a stripe of another reactor's request. In
        // the second round all have stopped taking requests, so that cannot happen.
        let drained = self.drain().and_then(|()| self.drain());
        let mut outcome = drained.and_then(|()| Ok(order_stop(&self.shared)?));
        let left = self.end_reactors();
        self.front.drain_relays();
        if left.has_panicked {
            outcome = Err(ServerError("a reactor panicked".into()));
        }
        self.is_over.store(true, Ordering::Release);
        self.shared.steward.events.tell(Event::Stopped);
        let mut held = self.held(&left);
        if let (Some(noter), true) = (&self.noter, ublk.as_ref().is_some_and(Ublk::is_stopped)) {
            noter.remove();
        }
        match ublk {
            Some(ublk) if held.is_empty() => {
                outcome = outcome.and(ublk.remove().map_err(|error| ServerError(error.to_string())));
            }
            Some(ublk) => held.extend(ublk.remove_later()),
            None => {}
        }
        match outcome {
            Ok(()) if held.is_empty() => Ok(Ended::Wholly),
            Ok(()) => Ok(Ended::HeldByKernel(held)),
            Err(error) => {
                Err(ServerError(std::iter::once(error.0).chain(held).collect::<Vec<_>>().join("; ")))
            }
        }
    }

    /// Makes every reactor finish its requests and take no new ones.
    fn drain(&self) -> Result<(), ServerError> {
        let drain = |(me, reactor): (usize, &super::Running)| {
            let (done, drained) = bounded(1);
            reactor.port.order(&self.shared, me as u8, ReactorOrder::Drain(done));
            drained
        };
        let draining: Vec<_> = self.reactors.iter().enumerate().map(drain).collect();
        let (timeout, mut goes_on) = (member_timeout(&self.shared), advice_goes_on(&self.shared));
        for (me, drained) in draining.iter().enumerate() {
            while drained.recv_timeout(timeout).is_err() {
                if !goes_on() {
                    return Err(ServerError(format!(
                        "members do not end what reactor {me} has asked of them: the array is left as after a crash, and the next start resyncs what was being written"
                    )));
                }
            }
        }
        Ok(())
    }

    fn end_reactors(&self) -> Left {
        for (me, reactor) in self.reactors.iter().enumerate() {
            reactor.port.order(&self.shared, me as u8, ReactorOrder::Exit);
        }
        let closed = all_closed(self.reactors.iter().map(|reactor| reactor.closed.clone()).collect());
        let thread = |reactor: &super::Running| reactor.thread.lock().expect("no holder panics").take();
        let ended = all_ended(self.reactors.iter().filter_map(thread).collect());
        let is_left = |me: &usize| closed[*me].is_none() || ended[*me].is_none();
        Left {
            devices: closed.iter().flatten().flatten().copied().collect(),
            reactors: (0..self.reactors.len()).filter(is_left).collect(),
            has_panicked: ended.iter().flatten().any(Result::is_err),
        }
    }

    /// Lines for the operator, one for each thing that the kernel holds: the member, and what to do.
    fn held(&self, left: &Left) -> Vec<String> {
        let process = std::process::id();
        let of_device = |index: &DeviceIndex| {
            let name = self.named(*index);
            format!(
                "{name}: does not answer, and the kernel keeps a request to it: the device stays in use, and process {process} may not end, until it answers or is removed (resume a suspended volume, thaw a frozen file system, reset or pull a drive)"
            )
        };
        let mut held: Vec<String> = left.devices.iter().map(of_device).collect();
        if held.is_empty() {
            let of_reactor = |me: &usize| {
                format!(
                    "the thread of reactor {me} does not end: the kernel keeps it in a request, and the members stay in use until it does"
                )
            };
            held.extend(left.reactors.iter().map(of_reactor));
        }
        held
    }
}
