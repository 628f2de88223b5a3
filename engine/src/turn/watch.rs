//! Detection of members that do not answer.
//!
//! A member is *silent* when it has I/O in flight and no I/O of any kind completes on it, in any reactor, for
//! the array's patience. One slow command among others that complete is not silence: only the drive's own
//! timeout ends it. Time is counted in beats. A beat is a turn at least a quarter of a second after the last
//! beat. Time in which this reactor slept or the process was stopped is therefore one beat, however long it
//! was: completions that arrived meanwhile are taken first.
//!
//! - Silent members leave together, in one step, if the array can spare all of them and the others answer.
//! - **More silent members than can be spared are not the members' fault.** A host adapter, a fabric or the
//!   machine itself has stopped. As soon as so many are quiet at once, no time is counted against any of
//!   them; when they answer again, none has been failed.
//! - The engine does not know whether members without I/O would answer. When one member has been quiet for
//!   half of the patience, members without I/O get a *probe*: a read of one block.
//! - Deallocations are advice, and a drive may take minutes over them. They do not make a member silent, but
//!   their completions show that it is alive. They have a silence of their own, since their stripes stay
//!   locked until they end: some are in flight, and for ten times the patience none completes on that device,
//!   in any reactor. The array waits for a queue of deallocations that makes progress, however long it is.
//! - The array waits for a member that it cannot spare.
//! - While stripes are unsynced, every member holds strips that cannot be computed from the others. The array
//!   then waits ten times as long for a silent member. So a pause of a minute costs no data, and an endless
//!   one does not stop the array forever.
//!
//! array/parked.rs describes what happens to I/O in flight to a failed member.

use crate::format::zones::SUPERBLOCK_A_OFFSET_BYTES;
use crate::geometry::Slots;
use crate::limits::{BLOCK_BYTES, MEMBERS_MAX};
use crate::members::{Failure, Needs, Pulses};
use crate::memory::{Pool, Span};
use crate::ring::{DeviceIndex, MemberIo, Ring};
use crate::shared::Shared;

use super::{Io, IoFor, MemberIos, Turn};

/// Least time between beats. A silent member is detected at most this much too late.
const BEAT_NS: u64 = 250_000_000;
/// Beats per second.
const BEATS_PER_S: u32 = (1_000_000_000 / BEAT_NS) as u32;
/// Beats without an answer after which a member is quiet; a quarter of the patience if that is less. A drive
/// that is alive answers within 4 s under any load.
const QUIET_BEATS: u32 = 4 * BEATS_PER_S;
/// Beats after which a member is slow: its data is then no longer read into memory that is not ours.
const SLOW_BEATS: u32 = 2;
/// Multiple of the patience for a member that completes no deallocation.
const ADVICE_PATIENCES: u32 = 10;
/// Multiple of the patience for a member that holds data which cannot be computed from the others.
const UNSYNCED_PATIENCES: u32 = 10;

/// The watch's knowledge of the member in one slot.
#[derive(Clone, Copy, Debug)]
struct Ear {
    /// The device that was watched; for another one the counts start again.
    device: DeviceIndex,
    /// Beats that count against the member.
    beats: u32,
    /// The member's pulses at the last beat; see [`crate::members::Members::pulses`].
    pulses: Pulses,
    /// Beats without a completed deallocation while some were in flight.
    advice_beats: u32,
}

/// The state of the watch; see the top of this file.
#[derive(Debug)]
pub(super) struct Watch {
    beat: u32,
    beaten_ns: u64,
    /// Slots on which an I/O has completed here since the last beat.
    heard: Slots,
    /// Slots on which a deallocation has completed here since the last beat.
    advised: Slots,
    ears: [Ear; MEMBERS_MAX],
    /// Slots that are slow now.
    slow: Slots,
    /// Slots with a probe in flight.
    probed: Slots,
    /// The target of all probes; the bytes are never looked at.
    probe: Span,
}

/// I/O in flight at a beat.
#[derive(Clone, Copy, Default)]
struct Asked {
    /// Slots with I/O in flight since before the last beat.
    waited_for: Slots,
    /// Slots with I/O of any age, except deallocations.
    at_all: Slots,
    /// Slots with a deallocation in flight since before the last beat.
    advice: Slots,
}

impl Watch {
    pub(super) fn new(pool: &mut Pool) -> Watch {
        let probe = pool.take(BLOCK_BYTES as u32).expect("a fresh pool has room for a probe");
        let ear = Ear { device: DeviceIndex(u8::MAX), beats: 0, pulses: Pulses::default(), advice_beats: 0 };
        Watch {
            beat: 0,
            beaten_ns: 0,
            heard: Slots::NONE,
            advised: Slots::NONE,
            ears: [ear; MEMBERS_MAX],
            slow: Slots::NONE,
            probed: Slots::NONE,
            probe,
        }
    }

    /// The current beat, which each pushed I/O notes.
    pub(super) const fn beat(&self) -> u32 {
        self.beat
    }

    /// The time of the next look.
    pub(super) const fn next_deadline_ns(&self) -> u64 {
        self.beaten_ns + BEAT_NS
    }

    /// Notes a completed I/O, whatever its result, on the device that a slot has now.
    pub(super) const fn hear(&mut self, slot: u8) {
        self.heard = self.heard.or(Slots::one(slot));
    }

    /// Notes a completed deallocation on the device that a slot has now.
    pub(super) const fn hear_advice(&mut self, slot: u8) {
        self.advised = self.advised.or(Slots::one(slot));
    }
}

/// The conclusions that one beat draws about the members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// Slots against which this beat counts.
    counted: Slots,
    /// Slots whose patience is over.
    silent: Slots,
}

/// Decides what a beat counts for. `beats` counts, for each slot, its beats including this one; 0 for a slot
/// that answered.
fn judge(beats: &[u32; MEMBERS_MAX], readable: Slots, data: u32, patience_beats: u32) -> Verdict {
    let with_beats = |least: u32| {
        let slots = (0..).zip(beats).filter(|(_, beats)| **beats >= least);
        slots.fold(Slots::NONE, |slots, (slot, _)| slots.or(Slots::one(slot)))
    };
    let quiet = with_beats(QUIET_BEATS.min(patience_beats / 4).max(1));
    let spare = readable.count().saturating_sub(data);
    if quiet.and(readable).count() > spare {
        // A slot that is being filled is not among those that the array needs.
        return Verdict { counted: with_beats(1).minus(quiet.and(readable)), silent: Slots::NONE };
    }
    Verdict { counted: with_beats(1), silent: with_beats(patience_beats + 1) }
}

impl MemberIos {
    /// The time of the next look for members that do not answer; `None` while nothing waits for one.
    pub(crate) fn next_beat_ns(&self) -> Option<u64> {
        (!self.is_quiet()).then(|| self.watch.next_deadline_ns())
    }

    /// Slots that have not answered for [`SLOW_BEATS`] beats or more.
    pub(crate) fn slow(&self) -> Slots {
        self.watch.slow
    }

    /// The current beat; [`MemberIos::is_overdue_since`] compares with it later.
    pub(crate) fn beat(&self) -> u32 {
        self.watch.beat
    }

    /// Whether an I/O has been in flight for more than [`SLOW_BEATS`] beats.
    pub(crate) fn is_late(&self, io: &Io) -> bool {
        self.watch.beat.wrapping_sub(io.beat) > SLOW_BEATS
    }

    /// Whether the whole patience has passed since this beat.
    pub(crate) fn is_overdue_since(&self, beat: u32, shared: &Shared) -> bool {
        self.watch.beat.wrapping_sub(beat) > shared.members.patience_s() * BEATS_PER_S
    }

    /// Memory for reads of superblocks that only ask whether a member is there: the bytes do not matter.
    pub(crate) fn scratch(&self) -> Span {
        self.watch.probe
    }

    /// Notes that the probe of a slot has completed, or that nothing waits for it any more.
    pub(crate) fn probe_ended(&mut self, slot: u8) {
        self.watch.probed = self.watch.probed.minus(Slots::one(slot));
    }

    /// Sorts the I/O in flight by slot, kind and age.
    fn asked(&self, shared: &Shared) -> Asked {
        let mut asked = Asked::default();
        for io in self.iter().filter(|io| !matches!(io.what, IoFor::Parked(_)) && io.is_current(shared)) {
            let slot = Slots::one(io.slot);
            let is_advice = matches!(io.what, IoFor::OpDeallocate { .. });
            if !is_advice {
                asked.at_all = asked.at_all.or(slot);
            }
            // An I/O pushed in the turn of a beat or after it has not yet waited for a whole beat.
            if self.watch.beat.wrapping_sub(io.beat) > 1 {
                let waits = if is_advice { &mut asked.advice } else { &mut asked.waited_for };
                *waits = waits.or(slot);
            }
        }
        asked
    }
}

impl<R: Ring> Turn<'_, R> {
    /// Looks for members that do not answer, once per beat.
    pub(crate) fn watch(&mut self) {
        let ios = &mut *self.ios;
        if ios.is_quiet() || self.now_ns < ios.watch.next_deadline_ns() {
            return;
        }
        ios.watch.beat = ios.watch.beat.wrapping_add(1);
        ios.watch.beaten_ns = self.now_ns;
        // A slot may have left and come back between two looks.
        ios.look_again = true;
        let asked = ios.asked(self.shared);
        let heard = std::mem::take(&mut ios.watch.heard);
        let advised = std::mem::take(&mut ios.watch.advised);
        heard.iter().for_each(|slot| self.shared.members.answered(slot, advised.has(slot)));
        self.listen(asked, heard, advised);
        self.probe_others(asked);
    }

    /// Counts a beat against the members that have not answered, and fails those that were silent for the
    /// whole patience.
    fn listen(&mut self, asked: Asked, heard: Slots, advised: Slots) {
        let shared = self.shared;
        let view = shared.members.view();
        let patience = shared.members.patience_s();
        let mut beats = [0; MEMBERS_MAX];
        let mut advice_overdue = Slots::NONE;
        for slot in view.writable.iter() {
            let ear = &mut self.ios.watch.ears[usize::from(slot)];
            let (device, pulses) = (shared.members.device(slot), shared.members.pulses(slot));
            let is_new = device != ear.device;
            let has_answered = heard.has(slot) || pulses.any != ear.pulses.any || is_new;
            let was_advised = advised.has(slot) || pulses.advice != ear.pulses.advice || is_new;
            (ear.device, ear.pulses) = (device, pulses);
            ear.advice_beats = if was_advised || !asked.advice.has(slot) { 0 } else { ear.advice_beats + 1 };
            if ear.advice_beats > ADVICE_PATIENCES * patience * BEATS_PER_S {
                advice_overdue = advice_overdue.or(Slots::one(slot));
            }
            if has_answered || !asked.waited_for.has(slot) {
                ear.beats = 0;
            } else {
                beats[usize::from(slot)] = ear.beats + 1;
            }
        }
        let slow = (0..).zip(&beats).filter(|(_, beats)| **beats >= SLOW_BEATS);
        self.ios.watch.slow = slow.fold(Slots::NONE, |slots, (slot, _)| slots.or(Slots::one(slot)));
        let needs = shared.needs();
        let verdict = judge(&beats, view.readable, needs.data, patience * BEATS_PER_S);
        for slot in verdict.counted.iter() {
            self.ios.watch.ears[usize::from(slot)].beats = beats[usize::from(slot)];
        }
        let silent = verdict.silent.or(advice_overdue);
        if silent.is_empty() {
            return;
        }
        if !shared.members.fail_all_if_spared(silent, Failure::Silence(patience), needs) && needs.unsynced {
            let is_long = |slot: &u8| beats[usize::from(*slot)] > UNSYNCED_PATIENCES * patience * BEATS_PER_S;
            let long =
                silent.iter().filter(is_long).fold(Slots::NONE, |slots, slot| slots.or(Slots::one(slot)));
            let long = long.or(advice_overdue);
            let needs = Needs { unsynced: false, ..needs };
            shared.members.fail_all_if_spared(long, Failure::Silence(UNSYNCED_PATIENCES * patience), needs);
        }
    }

    /// Sends probes to members without I/O when half of the patience has passed for another member.
    fn probe_others(&mut self, asked: Asked) {
        let half = (self.shared.members.patience_s() * BEATS_PER_S / 2).max(1);
        let view = self.shared.members.view();
        let is_doubted = |slot: u8| self.ios.watch.ears[usize::from(slot)].beats == half;
        if !view.writable.iter().any(is_doubted) {
            return;
        }
        for slot in view.readable.minus(asked.at_all).minus(self.ios.watch.probed).iter() {
            self.ios.watch.probed = self.ios.watch.probed.or(Slots::one(slot));
            let span = self.ios.watch.probe;
            self.push(IoFor::Probe, slot, MemberIo::Read, SUPERBLOCK_A_OFFSET_BYTES, span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: u32 = 30 * BEATS_PER_S;

    fn beats(of: &[u32]) -> [u32; MEMBERS_MAX] {
        std::array::from_fn(|slot| of.get(slot).copied().unwrap_or(0))
    }

    /// Cases: the beats of each of six members, of which the data needs four; then the slots whose beat
    /// counts and the slots that are failed.
    #[test]
    fn who_is_silent() {
        let (all, over) = (Slots::first(6), PATIENCE + 1);
        for (of, counted, silent) in [
            ([0, 0, 0, 0, 0, 0], 0, 0),
            ([PATIENCE, 0, 0, 0, 0, 0], 1, 0),
            ([over, 0, 0, 0, 0, 0], 1, 1),
            // Two silent at once leave together; of two, only the one whose patience is over.
            ([over, over, 0, 0, 0, 0], 3, 3),
            ([over, 20, 0, 0, 0, 0], 3, 1),
            // Three cannot be spared, although the patience is over for only one: no beat counts against any
            // of them.
            ([over, QUIET_BEATS, QUIET_BEATS, 0, 0, 0], 0, 0),
            ([over, QUIET_BEATS, QUIET_BEATS, 1, 0, 0], 8, 0),
            // Two others got an I/O just now: that is not silence yet.
            ([over, 3, 3, 0, 0, 0], 7, 1),
            ([QUIET_BEATS; 6], 0, 0),
        ] {
            let expected = Verdict { counted: Slots(counted), silent: Slots(silent) };
            assert_eq!(judge(&beats(&of), all, 4, PATIENCE), expected, "{of:?}");
        }
        // Slot 5 is being filled: it can always be spared, and does not count among those that are too many.
        let filled = beats(&[0, 0, 0, 0, 0, over]);
        assert_eq!(judge(&filled, Slots::first(4), 4, PATIENCE).silent, Slots::one(5));
    }

    #[test]
    fn a_short_patience_is_kept_too() {
        for seconds in 1..5 {
            let patience = seconds * BEATS_PER_S;
            assert_eq!(judge(&beats(&[patience + 1]), Slots::first(4), 3, patience).silent, Slots::one(0));
            let all_quiet = beats(&[patience + 1; 4]);
            assert_eq!(judge(&all_quiet, Slots::first(4), 3, patience), Verdict::default());
        }
    }
}
