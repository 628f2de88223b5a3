//! Calls that may hang on a device, with a time limit.
//!
//! The kernel offers no way out of an `open` or a `read` of a device that does not answer: the thread sleeps
//! until the device does. So each such call runs on a helper thread, and its caller waits for a limited time.
//! A helper that is too late is left behind. It holds only its input, usually its own device, and drops it
//! when the call returns. A helper never gets a part of a running array: a stop would then leave the members'
//! descriptors open until the helper ends.

use std::path::Path;
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};

use crate::clock::{Clock, MonotonicClock};
use crate::members::MEMBER_PATIENCE_S;

use super::ServerError;

/// How long a device may take to answer, given the operator's member timeout in seconds (0 if none was
/// given).
pub(crate) const fn patience(member_timeout_s: u32) -> Duration {
    Duration::from_secs(if member_timeout_s == 0 { MEMBER_PATIENCE_S } else { member_timeout_s } as u64)
}

/// The error for a device that has not answered within `patience`.
pub(crate) fn no_answer(path: &Path, patience: Duration) -> ServerError {
    ServerError(format!("{}: does not answer: waited for {} s", path.display(), patience.as_secs()))
}

/// Calls `act` for each input, each on its own thread. The results are in the order of the inputs; `None` if
/// a result is not there after `patience`.
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
        // If no thread can be started, the sender is dropped and there is no result.
        let _helper = std::thread::Builder::new().name("helper".into()).spawn(move || {
            // If the caller no longer waits, the result is dropped here.
            let _ = done.send(act(input));
        });
        result
    };
    let results = inputs.into_iter().map(begin).collect();
    all_within(results, patience).collect()
}

/// The answers, in order; `None` for an answer that has not arrived by the common deadline.
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

    /// Four silent reactors together cost one timeout, and an answer that is already there counts however
    /// late it is looked at.
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
