//! Hosts that wait, that do not release memory at once, or that read into memory of their own.

use std::ops::Range;

use engine::frontend::nbd::{Content, StripeState};
use engine::memory::{KEPT_BACK_OF_REQUESTS, Span};
use engine::request::{Reply, Request, RequestKind};
use engine::ring::Ring as _;

use super::{HOST_PAGES, World, overlap};

impl World {
    /// From now on the memory of all requests stays taken until the last of them is answered, as with a front
    /// end that answers several at once.
    pub fn keep_answers(&mut self) {
        self.host_pool.keep_back(KEPT_BACK_OF_REQUESTS);
        self.kept = Some(Vec::new());
    }

    /// Reads into pages of the host, as a block device does: the memory is not the array's. Nothing looks at
    /// the answer.
    pub fn ask_into_host_pages(&mut self, offset_bytes: u64, len_bytes: u32) {
        let span = Span { arena: self.memory.arena_count() as u16, offset_bytes: 0, len_bytes };
        let len_bytes = len_bytes.into();
        let (array, ring) = &mut self.reactors[0];
        array.submit(
            ring,
            self.now_ns,
            Request { tag: HOST_PAGES, kind: RequestKind::Read, offset_bytes, len_bytes, span },
        );
    }

    /// Number of operations that the first reactor would leave to the kernel if it were told to end; `None`
    /// if it may not end.
    pub fn left_to_kernel(&self) -> Option<usize> {
        self.reactors[0].0.left_to_kernel()
    }

    /// Turns only the reactors that would be awake: those with a completion, mail or a deadline that is due,
    /// or that must turn.
    pub fn turn_who_is_awake(&mut self) {
        self.now_ns += self.rng.below(10_000_000);
        for me in 0..self.reactors.len() {
            let (array, ring) = &mut self.reactors[me];
            let mut completions = Vec::new();
            ring.turn(&mut completions);
            let is_due = array.next_deadline_ns().is_some_and(|deadline_ns| deadline_ns <= self.now_ns);
            let has_mail = self.shared.mailboxes.has_mail(me as u8);
            if completions.is_empty() && !has_mail && !is_due && !array.must_turn() {
                continue;
            }
            array.take_mail(64);
            array.advance(ring, self.now_ns);
            completions.into_iter().for_each(|completion| array.complete(ring, completion));
            array.exchange_spans(ring, &mut self.host_pool, |bytes| bytes);
            let replies: Vec<Reply> = array.take_replies().collect();
            replies.into_iter().for_each(|reply| self.answered(me, reply));
        }
    }

    /// The time that the reactors are given.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Lets some time pass, with turns.
    pub fn pass(&mut self, seconds: u64) {
        let until_ns = self.now_ns + seconds * 1_000_000_000;
        while self.now_ns < until_ns {
            self.turn();
        }
    }

    /// Lets some time pass in which no reactor turns.
    pub fn sleep(&mut self, seconds: u64) {
        self.now_ns += seconds * 1_000_000_000;
    }

    /// Makes all sectors readable. Requests that have met a bad sector end first: with some levels a bad
    /// sector and a lost member together are one loss too many.
    pub fn heal_bad_sectors(&mut self) {
        if self.disks.borrow().iter().any(|disk| !disk.bad.is_empty()) {
            self.settle();
        }
        self.disks.borrow_mut().iter_mut().for_each(|disk| disk.bad.clear());
    }

    /// Makes every operation of a member fail from now on.
    pub fn kill(&mut self, slot: u8) {
        let device = self.shared.members.device(slot);
        self.disks.borrow_mut()[usize::from(device.0)].dead = true;
    }

    /// Checks that no hole reported to a client now hides the content of an acknowledged write that no later
    /// change touches.
    pub(super) fn holes_are_zeros(&self, range: Range<u64>) {
        let stripe_bytes = u64::from(self.geometry.stripe_bytes());
        let mut stripe = range.start / stripe_bytes;
        let end = range.end.div_ceil(stripe_bytes);
        while stripe < end {
            let run = Content::run(&*self.shared, stripe, end);
            assert!((stripe + 1..=end).contains(&run.end), "a run of no length, or beyond its end");
            if run.state.unwritten {
                let hole = stripe * stripe_bytes..run.end * stripe_bytes;
                let mut told = vec![0; (hole.end - hole.start) as usize];
                // A discard in flight may already have emptied its stripes.
                for asked in self.asked.iter().filter(|asked| asked.changes()) {
                    let both = overlap(&asked.range(), &hole);
                    if both.is_empty() {
                        continue;
                    }
                    let place = both.start as usize..both.end as usize;
                    let at = (both.start - hole.start) as usize;
                    told[at..at + place.len()].copy_from_slice(&self.model[place]);
                }
                self.compare(hole.start, &told);
            }
            stripe = run.end;
        }
    }

    /// The state of every stripe, as NBD clients are told.
    pub fn told_states(&self) -> Vec<StripeState> {
        let mut states = Vec::new();
        while states.len() < self.zones.stripes as usize {
            let run = Content::run(&*self.shared, states.len() as u64, self.zones.stripes);
            states.resize(run.end as usize, run.state);
        }
        states
    }
}
