//! How long an operator's call waits for the reactors.
//!
//! | what is asked | how long |
//! |---|---|
//! | of every reactor: to change its ring | [`ANSWER_TIMEOUT`] for all of them together |
//! | of every reactor: to close its ring | [`CLOSE_TIMEOUT`] for all of them together |
//! | of every reactor: then to end | [`END_TIMEOUT`] for all of them together |
//! | of a device: to be opened, and read at both ends | the member timeout (server/bounded.rs) |
//! | of every reactor: to drain | [`member_timeout`] for all of them together |
//! | of the steward: to fail a slot | [`member_timeout`] |
//! | of the steward: to stop | as long as some member answers something within that time |
//! | of the steward: to accept a device | until the answer, or until the array is stopped |
//!
//! The last order has no timeout. Wiping the large bitmap zone of a joining device can be slow, and the array
//! itself refuses a device that does not answer (steward/arrival.rs), so this order is always answered.
//! Giving up earlier would leave open whether the device is a member: the caller would have to keep the
//! device for ever, and the operator would be told of a failure that did not happen.

use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

use crate::array::{Answer, Order, Shared};
use crate::server::ServerError;
use crate::server::bounded::{all_within, each_within};

/// Time that reactors have to answer when the answer depends on members' I/O: twice the default time after
/// which a silent member is failed.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a call without a deadline checks that the array is still running.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why an order was not carried out.
pub(super) enum Refusal {
    /// The array refused the order, and nothing has happened.
    Refused(String),
    /// The array did not answer in time; the order may be carried out now or later.
    NoAnswer,
}

impl From<Refusal> for ServerError {
    fn from(refusal: Refusal) -> ServerError {
        ServerError(match refusal {
            Refusal::Refused(why) => why,
            Refusal::NoAnswer => "the array does not answer: its members do not complete their I/O".into(),
        })
    }
}

/// Time that reactors have to close their rings after they were told to end. A ring waits up to four seconds
/// for members that do not answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);
/// Time that threads have to end after their rings are closed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Collects, in order, the answers of reactors that were told to end, about their rings; `None` for a reactor
/// that did not close its ring in time.
pub(super) fn all_closed<T>(closed: Vec<Receiver<T>>) -> Vec<Option<T>> {
    all_within(closed, CLOSE_TIMEOUT).collect()
}

/// Joins threads, in order; `None` for a thread that did not end in time. The kernel ends a thread only after
/// its io_uring workers, and a worker that a device holds in the kernel (a flush, a write to a frozen file
/// system) cannot be interrupted.
pub(super) fn all_ended(threads: Vec<JoinHandle<()>>) -> Vec<Option<std::thread::Result<()>>> {
    each_within(threads, END_TIMEOUT, JoinHandle::join)
}

/// Gives the steward an order that only the members' I/O can delay.
pub(super) fn order(shared: &Shared, what: impl FnOnce(Answer) -> Order) -> Result<(), Refusal> {
    order_while(shared, member_timeout(shared), || false, what)
}

/// Twice the time after which a silent member is failed, at least [`ANSWER_TIMEOUT`].
pub(super) fn member_timeout(shared: &Shared) -> Duration {
    ANSWER_TIMEOUT.max(2 * Duration::from_secs(shared.members.patience_s().into()))
}

/// How many further [`member_timeout`]s a stop waits for advice (deallocations) while none of it completes.
const LOOKS: u32 = 5;

/// Returns a call that says whether to wait once more for outstanding advice: yes, as long as some of it
/// completes. A device that completes none is failed after ten patiences (turn/watch.rs), at most five
/// [`member_timeout`]s.
pub(super) fn advice_goes_on(shared: &Shared) -> impl FnMut() -> bool {
    let ended =
        || shared.geometry.slots().iter().map(|slot| shared.members.pulses(slot).advice).collect::<Vec<_>>();
    let (mut before, mut looks) = (ended(), 0..LOOKS);
    move || {
        let now = ended();
        if now != before {
            // The current look counts, hence one more than `LOOKS`.
            (before, looks) = (now, 0..LOOKS + 1);
        }
        shared.steward.advice.load(Ordering::Relaxed) > 0 && looks.next().is_some()
    }
}

/// Orders a stop. The stop waits for advice, which drives may take minutes over, and writes every bitmap
/// block that is not settled.
pub(super) fn order_stop(shared: &Shared) -> Result<(), Refusal> {
    let heard = || shared.geometry.slots().iter().map(|slot| shared.members.pulses(slot)).collect::<Vec<_>>();
    let (mut before, mut advice_goes_on) = (heard(), advice_goes_on(shared));
    let goes_on = || {
        let now = heard();
        std::mem::replace(&mut before, now.clone()) != now || advice_goes_on()
    };
    order_while(shared, member_timeout(shared), goes_on, |answer| Order::Stop { answer })
}

/// Gives the steward an order and waits for the answer as long as the array `is_there`.
pub(super) fn order_surely(
    shared: &Shared,
    is_there: impl Fn() -> bool,
    what: impl FnOnce(Answer) -> Order,
) -> Result<(), Refusal> {
    order_while(shared, LOOK_EVERY, is_there, what)
}

/// Gives the steward an order, waits `timeout` for the answer, and waits again as long as `goes_on` says so.
fn order_while(
    shared: &Shared,
    timeout: Duration,
    mut goes_on: impl FnMut() -> bool,
    what: impl FnOnce(Answer) -> Order,
) -> Result<(), Refusal> {
    let (sender, answer) = bounded(1);
    if shared.steward.orders.push(what(Answer::to(sender))).is_err() {
        return Err(Refusal::Refused("too many orders at once: try again".into()));
    }
    shared.mailboxes.wake(0);
    loop {
        match answer.recv_timeout(timeout) {
            Ok(outcome) => return outcome.map_err(Refusal::Refused),
            Err(RecvTimeoutError::Timeout) if goes_on() => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(Refusal::NoAnswer),
        }
    }
}
