//! Calls that may wait for a device, with a bound.
//!
//! The kernel has no way out of an `open` or a `read` of a device that does not answer: the thread sleeps until the device does. So
//! each such call runs on a helper thread, and its caller waits for a limited time. A helper that is too late is left behind. It
//! holds only what it was given, its own device as a rule, and drops that when the call returns. No helper is given a part of a
//! running array: a stop would leave the members' descriptors open until the helper ends.

use std::path::Path;
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};

use crate::clock::{Clock, MonotonicClock};
use crate::members::MEMBER_PATIENCE_S;

use super::ServerError;

/// How long a device may take to answer, where the operator's member timeout is so many seconds (0 if none was given).
pub(crate) const fn patience(member_timeout_s: u32) -> Duration {
    Duration::from_secs(if member_timeout_s == 0 { MEMBER_PATIENCE_S } else { member_timeout_s } as u64)
}

/// The error of a device that has not answered within `patience`.
pub(crate) fn no_answer(path: &Path, patience: Duration) -> ServerError {
    ServerError(format!("{}: does not answer: waited for {} s", path.display(), patience.as_secs()))
}

/// Calls `act` for each input, on as many threads. The results are in the order of the inputs; `None` where there is none after
/// `patience`.
pub fn each_within<I, T>(
    inputs: Vec<I>,
    patience: Duration,
    act: impl Fn(I) -> T + Clone + Send + 'static,
) -> Vec<Option<T>>
where
    I: Send + 'static,
    T: Send + 'static,
{
    let begin = |input: I| {
        let (done, result) = bounded(1);
        let act = act.clone();
        // Where no thread can be had the sender is dropped, and there is no result.
        let _helper = std::thread::Builder::new().name("helper".into()).spawn(move || {
            // Too late: the result is dropped here.
            let _ = done.send(act(input));
        });
        result
    };
    let results = inputs.into_iter().map(begin).collect();
    all_within(results, patience).collect()
}

/// The answers, in order; `None` for one that has not come by the common deadline.
pub(super) fn all_within<T>(answers: Vec<Receiver<T>>, timeout: Duration) -> impl Iterator<Item = Option<T>> {
    let deadline_ns = MonotonicClock.now_ns() + timeout.as_nanos() as u64;
    answers.into_iter().map(move |answer| {
        let left_ns = deadline_ns.saturating_sub(MonotonicClock.now_ns());
        answer.recv_timeout(Duration::from_nanos(left_ns)).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four sick reactors cost one timeout, and what has been answered counts however late it is looked at.
    #[test]
    fn the_deadline_is_one_for_all() {
        let timeout = Duration::from_millis(200);
        let (senders, answers): (Vec<_>, Vec<_>) = (0..5).map(|_| bounded(1)).unzip();
        senders[4].send("well").unwrap();
        let began_ns = MonotonicClock.now_ns();
        let outcomes: Vec<_> = all_within(answers, timeout).collect();
        let took = Duration::from_nanos(MonotonicClock.now_ns() - began_ns);
        assert_eq!(outcomes, [None, None, None, None, Some("well")]);
        assert!(took >= timeout && took < 2 * timeout, "{took:?}");
    }
}
