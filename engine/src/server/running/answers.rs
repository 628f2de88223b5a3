//! How long an operator's call waits for the reactors.
//!
//! | what is asked | how long |
//! |---|---|
//! | of every reactor: to change its ring | [`ANSWER_TIMEOUT`] for all of them together |
//! | of every reactor: to close its ring, and then to end | [`CLOSE_TIMEOUT`] and [`END_TIMEOUT`] for all of them together |
//! | of a device: to be opened, and read at both ends | the member timeout (server/bounded.rs) |
//! | of every reactor: to drain | [`member_timeout`] for all of them together |
//! | of the steward: to fail a slot | [`member_timeout`] |
//! | of the steward: to stop | as long as some member answers something within that time |
//! | of the steward: to take a device in | until the answer, or until the array is stopped |
//!
//! A device that joins has a large bitmap zone wiped, perhaps slowly, and the array itself refuses one that does not answer
//! (array/arrival.rs). So that order has an answer, and giving up before would leave unsaid whether the device is a member. The
//! caller would have to keep it for ever, and the operator would be told of a failure that is none.

use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

use crate::array::{Answer, Order, Shared};
use crate::server::ServerError;
use crate::server::bounded::{all_within, each_within};

/// How long reactors have to answer what waits for members' I/O: twice the time after which a silent member is failed, unless the
/// operator has changed that.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a call without a deadline looks whether the array is still there.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why an order was not carried out.
pub(super) enum Refusal {
    /// The array has refused it, and nothing has happened.
    Refused(String),
    /// The array has not answered in time: it may be carried out, now or later.
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

/// How long reactors that were told to end may take to close their rings. A ring waits up to four seconds for members that do not
/// answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long threads whose rings are closed may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The answers of reactors that were told to end, about their rings, in order; `None` for one that has not closed its ring in time.
pub(super) fn all_closed<T>(closed: Vec<Receiver<T>>) -> Vec<Option<T>> {
    all_within(closed, CLOSE_TIMEOUT).collect()
}

/// The ends of threads, in order; `None` for one that has not ended in time. The kernel ends a thread only when its io_uring
/// workers have, and one that a device keeps in the kernel (a flush, a write to a frozen file system) cannot be interrupted.
pub(super) fn all_ended(threads: Vec<JoinHandle<()>>) -> Vec<Option<std::thread::Result<()>>> {
    each_within(threads, END_TIMEOUT, JoinHandle::join)
}

/// Gives the steward an order that the members' I/O alone can hold up.
pub(super) fn order(shared: &Shared, what: impl FnOnce(Answer) -> Order) -> Result<(), Refusal> {
    order_while(shared, member_timeout(shared), || false, what)
}

/// Twice the time after which a silent member is failed, and at least [`ANSWER_TIMEOUT`].
pub(super) fn member_timeout(shared: &Shared) -> Duration {
    ANSWER_TIMEOUT.max(2 * Duration::from_secs(shared.members.patience_s().into()))
}

/// How often a stop waits a [`member_timeout`] more for advice of which nothing ends.
const LOOKS: u32 = 5;

/// A call that says whether to wait once more for what advice holds up: as long as some of it ends. A device that ends none is failed
/// after ten patiences (turn/watch.rs), which are five [`member_timeout`]s at most.
pub(super) fn advice_goes_on(shared: &Shared) -> impl FnMut() -> bool {
    let ended =
        || shared.geometry.slots().iter().map(|slot| shared.members.pulses(slot).advice).collect::<Vec<_>>();
    let (mut before, mut looks) = (ended(), 0..LOOKS);
    move || {
        let now = ended();
        if now != before {
            // The first of these looks is this one.
            (before, looks) = (now, 0..LOOKS + 1);
        }
        shared.steward.advice.load(Ordering::Relaxed) > 0 && looks.next().is_some()
    }
}

/// Orders a stop, which waits for advice that drives may take minutes over, and writes every bitmap block that is not settled.
pub(super) fn order_stop(shared: &Shared) -> Result<(), Refusal> {
    let heard = || shared.geometry.slots().iter().map(|slot| shared.members.pulses(slot)).collect::<Vec<_>>();
    let (mut before, mut advice_goes_on) = (heard(), advice_goes_on(shared));
    let goes_on = || {
        let now = heard();
        std::mem::replace(&mut before, now.clone()) != now || advice_goes_on()
    };
    order_while(shared, member_timeout(shared), goes_on, |answer| Order::Stop { answer })
}

/// Gives the steward an order that has an answer as long as the array `is_there`.
pub(super) fn order_surely(
    shared: &Shared,
    is_there: impl Fn() -> bool,
    what: impl FnOnce(Answer) -> Order,
) -> Result<(), Refusal> {
    order_while(shared, LOOK_EVERY, is_there, what)
}

/// Gives the steward an order, and waits `timeout` for the answer, and again as long as it `goes_on`.
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
