//! What this reactor takes from its mailbox, and posts to others. How mailboxes keep order: see `mailbox`.
//!
//! A part of another reactor's request is a *guest* here. Guests have half of the parts, so that they and
//! this reactor's own requests never take each other's room; while all of the guests' are in use, asks stay
//! in the mailbox, in order.

use crate::mailbox::{Answer as Ended, Ask};

use super::Array;

impl Array {
    /// Takes up to so many messages of other reactors; whether there were any. A step of [`Array::turn`].
    /// Answers and asks take turns. Asks are left where they are while there is no room for them; answers
    /// need none.
    pub fn take_mail(&mut self, messages_max: usize) -> bool {
        for nth in 0..messages_max {
            let answer_first = nth % 2 == 0;
            if !((answer_first && self.take_answer())
                || self.take_ask()
                || (!answer_first && self.take_answer()))
            {
                return nth > 0;
            }
        }
        messages_max > 0
    }

    fn take_answer(&mut self) -> bool {
        match self.shared.mailboxes.take_answer(self.me) {
            None => match self.shared.mailboxes.take_return(self.me) {
                None => return false,
                Some(span) => self.host_span_returned(span),
            },
            Some(Ended::Part { part, result, held }) => {
                let part = self.stripes.parts.remove(part);
                self.answer_held(part.request, result, held);
            }
            Some(Ended::Job(end)) => {
                let steward = self.steward.as_mut().expect("jobs are the steward's");
                steward.job_ended(&self.shared, self.now_ns, end);
            }
        }
        true
    }

    fn take_ask(&mut self) -> bool {
        if !self.stripes.parts.has_room_for_guest() {
            return false;
        }
        match self.shared.mailboxes.take_ask(self.me) {
            None => return false,
            // It has come home: the owner had let go, and found the stripe owned here. Its place was kept.
            Some((_, Ask::Part(part))) if part.home == self.me => {
                self.stripes.enqueue(&self.shared, part.home_part)
            }
            Some((_, Ask::Part(part))) => {
                self.stripes.take_guest(&self.shared, part);
            }
            Some((_, Ask::Job(ask))) => self.stripes.enqueue_job(&self.shared, ask),
        }
        true
    }

    /// Tells the steward's reactor how many requests are in flight here, if that has changed.
    pub(super) fn tell_load(&mut self) {
        let load = self.requests.len() as u32;
        if load != self.told_load && self.steward.is_none() {
            self.told_load = load;
            self.shared.mailboxes.tell_load(self.me, load);
        }
    }
}
