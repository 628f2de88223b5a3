//! The slots of an array as all reactors see them: which may be read, which take writes, and what the
//! superblocks say about that.
//!
//! One atomic word, the view, says which slots are readable (in sync) and which are writable (in sync or
//! being rebuilt), so a reactor always plans with a consistent view. A second word, the record, says what the
//! superblocks of the survivors say. **A write that skipped a slot is acknowledged only when the record
//! excludes that slot** ([`Members::on_record`]). Otherwise the slot could come back after a power cut and be
//! trusted.
//!
//! Slots leave by [`Members::fail`], from any reactor. They come back one at a time, by a rebuild that only
//! the steward directs: writable at once, readable below the cursor, in sync at its end.
//!
//! A read-only array has no record to write, so no slot ever leaves it for good ([`Members::read_only`]).
//! Reads avoid a member that does not answer until it answers again.
//!
//! Orderings: view and record are one word each. The view is changed by compare-and-swap, the record by the
//! steward alone. AcqRel/Acquire everywhere, unless a comment says more: a reactor that sees a slot in the
//! view also sees the device index and the cursor that were stored before the slot was added to the view.

use std::sync::Mutex;

use crate::geometry::Slots;
use crate::limits::MEMBERS_MAX;
use crate::ring::DeviceIndex;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The slots that may be read and those that take writes, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Slots in sync.
    pub readable: Slots,
    /// Slots in sync or being rebuilt.
    pub writable: Slots,
}

impl MemberView {
    const fn unpack(word: u64) -> MemberView {
        MemberView { readable: Slots(word as u32), writable: Slots((word >> 32) as u32) }
    }

    /// Removes a slot from the readable ones.
    #[cfg(test)]
    const fn without_readable(self, slot: u8) -> MemberView {
        MemberView { readable: self.readable.minus(Slots::one(slot)), writable: self.writable }
    }

    const fn pack(self) -> u64 {
        (self.writable.0 as u64) << 32 | self.readable.0 as u64
    }

    /// Slots being rebuilt.
    #[must_use]
    pub const fn rebuilding(self) -> Slots {
        self.writable.minus(self.readable)
    }
}

/// Read errors that a slot may show within [`ERRORS_HALVED_EVERY_NS`] before it is failed. One bad block must
/// not cost a member, and a dying member must not be kept.
pub const READ_ERRORS_MAX: u32 = 64;
/// Strips with read errors that are remembered for each slot, so that one bad place counts once however often
/// it is read. Two strips that share an entry count again in turn; only a member with many bad places meets
/// this.
pub const BAD_PLACES_MAX: usize = 64;
/// Interval at which the steward halves the error counts and forgets the bad places.
pub const ERRORS_HALVED_EVERY_NS: u64 = 60_000_000_000;

/// Default for how long a member may leave an I/O unanswered: as long as the NVMe driver allows.
pub const MEMBER_PATIENCE_S: u32 = 30;

/// The state of an array's slots.
#[derive(Debug)]
pub struct Members {
    /// The view. Written by `fail` (any reactor) and the steward; read by all.
    view: AtomicU64,
    /// The record. Written by the steward once the superblocks are durable; read by all.
    record: AtomicU64,
    /// The rebuild cursor on record, in stripes, of the one slot being rebuilt.
    record_cursor: AtomicU64,
    /// The rebuild cursor: stripes below it are rebuilt. Written by the steward, under ownership of the
    /// stripes that it passes.
    cursor: AtomicU64,
    /// The cursor that was on record when the array was assembled. Unsynced stripes below it were filled
    /// before they became unsynced; those above may be stripes that could not be filled.
    sure_cursor: AtomicU64,
    device: [AtomicU8; MEMBERS_MAX],
    /// Slots whose device has a volatile write cache.
    volatile: AtomicU32,
    /// Volatile slots whose cache was switched on when hosts could no longer be told about it: every write to
    /// them is durable when it completes. Written by a control thread, read by all.
    write_through: AtomicU32,
    read_errors: [AtomicU32; MEMBERS_MAX],
    /// Stripes in which each slot's errors were counted lately, plus 1; 0 for none. Written by any reactor,
    /// Relaxed: an entry that is lost or seen late only makes an error count once more.
    bad_places: Box<[[AtomicU64; BAD_PLACES_MAX]; MEMBERS_MAX]>,
    read_errors_total: [AtomicU64; MEMBERS_MAX],
    /// Writes that repaired unreadable blocks.
    repairs: [AtomicU64; MEMBERS_MAX],
    /// Operations that a member did not carry out, although it was not at fault.
    refusals: [AtomicU64; MEMBERS_MAX],
    /// Set when metadata or a flush was refused: the array serves nothing more until it is restarted. Slot +
    /// 1 in the high half, `errno` in the low half; 0 if it has not happened. Written by any reactor, once.
    stopped_serving: AtomicU64,
    /// Counters that grow while a slot's device answers; see [`Members::pulses`]. Written by all reactors, a
    /// few times a second; Relaxed, because they carry no other fact.
    pulses: [AtomicU32; MEMBERS_MAX],
    /// Counters that grow while a slot's device completes deallocations.
    advice_pulses: [AtomicU32; MEMBERS_MAX],
    /// The reason why each slot failed, for the operator. Locked only when a member fails.
    failures: Mutex<[Option<Failure>; MEMBERS_MAX]>,
    patience_s: u32,
    /// Whether the array is only read: no slot fails for good, and reads avoid a silent slot until it
    /// answers.
    read_only: bool,
}

/// Counts that change while a device answers; see [`Members::pulses`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulses {
    /// Count for I/O of any kind.
    pub any: u32,
    /// Count for deallocations.
    pub advice: u32,
}

/// Members that missed a durable write or a flush. A member is a slot *and* its device: what is noted against
/// a device does not apply to the device that takes the slot after it.
#[derive(Clone, Copy, Debug)]
pub struct Missed {
    slots: Slots,
    devices: [DeviceIndex; MEMBERS_MAX],
}

impl Missed {
    /// A set without members.
    pub const NONE: Missed = Missed { slots: Slots::NONE, devices: [DeviceIndex(0); MEMBERS_MAX] };

    /// The slots of these members, whatever devices the slots have by now.
    #[must_use]
    pub const fn slots(&self) -> Slots {
        self.slots
    }

    /// Adds the device that this slot has or had.
    pub fn add(&mut self, slot: u8, device: DeviceIndex) {
        self.slots = self.slots.or(Slots::one(slot));
        self.devices[usize::from(slot)] = device;
    }
}

/// How far the content of a slot that is being rebuilt may be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Believed {
    /// Trusted below this stripe.
    Below(u64),
    /// Trusted everywhere.
    InSync,
}

/// The conditions under which slots may leave without a loss of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Number of readable slots that the data needs where parity is trusted.
    pub data: u32,
    /// Whether there are unsynced stripes (`NeedSync`). Their strips cannot be computed from other slots, so
    /// no slot with trusted content of them can be spared, however many slots there are.
    pub unsynced: bool,
    /// Whether a refused write has made a stripe unsynced since the start. Such a stripe may have been filled
    /// before, and then a slot that is being filled may hold the only copy of a strip.
    pub torn: bool,
}

/// Reason why a slot failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A write failed, with this `errno`.
    Write(i32),
    /// A flush failed, with this `errno`; data in the device's cache may be gone.
    Flush(i32),
    /// A write of a bitmap block or a superblock failed, with this `errno`.
    Metadata(i32),
    /// Read errors exceeded [`READ_ERRORS_MAX`]; the last `errno`.
    Reads(i32),
    /// An I/O was not answered for this many seconds.
    Silence(u32),
    /// An order of the operator.
    Operator,
    /// The member is in sync and refused metadata or a flush, with this `errno`, but is not at fault.
    NotTaken(i32),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, errno) = match self {
            Failure::Write(errno) => ("a write failed", errno),
            Failure::Flush(errno) => ("a flush failed", errno),
            Failure::Metadata(errno) => ("a metadata write failed", errno),
            Failure::Reads(errno) => ("too many read errors", errno),
            Failure::Silence(seconds) => return write!(f, "no answer for {seconds} s"),
            Failure::Operator => return f.write_str("failed by the operator"),
            Failure::NotTaken(errno) => {
                ("the array has stopped serving: metadata or a flush was refused", errno)
            }
        };
        write!(f, "{what}: {}", std::io::Error::from_raw_os_error(*errno))
    }
}

impl Members {
    /// Makes the slots as assembled; the superblocks say `view`. `cursor` is that of a slot being rebuilt.
    #[must_use]
    pub fn new(view: MemberView, cursor: u64, devices: &[DeviceIndex], volatile: Slots) -> Members {
        let members = Members {
            view: AtomicU64::new(view.pack()),
            record: AtomicU64::new(view.pack()),
            record_cursor: AtomicU64::new(cursor),
            cursor: AtomicU64::new(cursor),
            sure_cursor: AtomicU64::new(cursor),
            device: [const { AtomicU8::new(0) }; MEMBERS_MAX],
            volatile: AtomicU32::new(volatile.0),
            write_through: AtomicU32::new(0),
            read_errors: [const { AtomicU32::new(0) }; MEMBERS_MAX],
            bad_places: Box::new([const { [const { AtomicU64::new(0) }; BAD_PLACES_MAX] }; MEMBERS_MAX]),
            read_errors_total: [const { AtomicU64::new(0) }; MEMBERS_MAX],
            repairs: [const { AtomicU64::new(0) }; MEMBERS_MAX],
            refusals: [const { AtomicU64::new(0) }; MEMBERS_MAX],
            stopped_serving: AtomicU64::new(0),
            pulses: [const { AtomicU32::new(0) }; MEMBERS_MAX],
            advice_pulses: [const { AtomicU32::new(0) }; MEMBERS_MAX],
            failures: Mutex::new([None; MEMBERS_MAX]),
            patience_s: MEMBER_PATIENCE_S,
            read_only: false,
        };
        for (slot, device) in devices.iter().enumerate() {
            members.device[slot].store(device.0, Ordering::Relaxed);
        }
        members
    }

    /// Sets another patience.
    #[must_use]
    pub fn patient_for(self, seconds: u32) -> Members {
        Members { patience_s: seconds, ..self }
    }

    /// Makes the slots of a read-only array. Slots fail only for silence and come back when they answer: no
    /// failure could go on record, and a rescue needs every member that still answers now and then.
    #[must_use]
    pub fn read_only(self) -> Members {
        Members { read_only: true, ..self }
    }

    /// The time for which a member may leave an I/O unanswered, in seconds.
    #[must_use]
    pub const fn patience_s(&self) -> u32 {
        self.patience_s
    }

    /// The slots that may be read and written now.
    #[must_use]
    pub fn view(&self) -> MemberView {
        // SeqCst: see `fill_stripes` in steward/rebuild.rs. On x86-64 this is a plain load anyway.
        MemberView::unpack(self.view.load(Ordering::SeqCst))
    }

    /// The view that the superblocks of the survivors imply.
    #[must_use]
    pub fn record(&self) -> MemberView {
        // SeqCst: see `anticipate_record`.
        MemberView::unpack(self.record.load(Ordering::SeqCst))
    }

    /// Slots whose content of this stripe is right. `need_sync` says whether the stripe is unsynced.
    #[must_use]
    pub fn readable_at(&self, view: MemberView, stripe: u64, need_sync: bool) -> Slots {
        let cursor = if need_sync { &self.sure_cursor } else { &self.cursor };
        if view.rebuilding().is_empty() || stripe >= cursor.load(Ordering::Acquire) {
            view.readable
        } else {
            view.writable
        }
    }

    /// Whether the record excludes every slot of `skipped` for this stripe, so that a later start does not
    /// trust their content there.
    #[must_use]
    pub fn on_record(&self, skipped: Slots, stripe: u64) -> bool {
        let record = self.record();
        skipped.and(record.readable).is_empty()
            && (skipped.and(record.rebuilding()).is_empty()
                || self.record_cursor.load(Ordering::SeqCst) <= stripe)
    }

    /// The view, and the members that a flush round or block write for these slots would miss if it began
    /// now.
    #[must_use]
    pub fn missing_of(&self, slots: Slots) -> (MemberView, Missed) {
        // Read the devices before the view: a slot that is not in the view then has the device noted here, or
        // had it before. (In the other order, a device that joins in between would be noted although it
        // misses nothing.)
        let devices = std::array::from_fn(|slot| self.device(slot as u8));
        let view = self.view();
        (view, Missed { slots: slots.minus(view.writable), devices })
    }

    /// Whether the record excludes every member of `missed`, or has excluded it once: a slot has another
    /// device by now only if the earlier device was excluded on record. So once true, the answer stays true.
    #[must_use]
    pub fn excludes(&self, missed: &Missed) -> bool {
        let has_it_still = |slot: &u8| self.device(*slot) == missed.devices[usize::from(*slot)];
        let still = missed.slots.iter().filter(has_it_still);
        // Read the device before the record: if the slot still has the noted device, the record that is
        // judged is of that device or of a later one; and the record of a later device says that it is to be
        // filled.
        self.on_record(still.fold(Slots::NONE, |slots, slot| slots.or(Slots::one(slot))), 0)
    }

    /// The device of a slot.
    #[must_use]
    pub fn device(&self, slot: u8) -> DeviceIndex {
        DeviceIndex(self.device[usize::from(slot)].load(Ordering::Acquire))
    }

    /// The slots whose device has a volatile write cache.
    #[must_use]
    pub fn volatile(&self) -> Slots {
        Slots(self.volatile.load(Ordering::Acquire))
    }

    /// The slots where every write must be durable when it completes.
    #[must_use]
    pub fn write_through(&self) -> Slots {
        Slots(self.write_through.load(Ordering::Relaxed))
    }

    /// Takes note that the cache of this device was switched on after it was opened: flush rounds now include
    /// it, and if no host sends flushes, each write to it is made durable by itself. Returns false if the
    /// slot has another device, or if the cache is already known.
    pub fn cache_switched_on(&self, slot: u8, device: DeviceIndex, hosts_flush: bool) -> bool {
        let one = Slots::one(slot).0;
        if self.device(slot) != device || self.volatile().has(slot) {
            return false;
        }
        if !hosts_flush {
            self.write_through.fetch_or(one, Ordering::AcqRel);
        }
        self.volatile.fetch_or(one, Ordering::AcqRel);
        true
    }

    /// Takes a slot out of the view; the steward puts that on record. Returns whether the slot was in the
    /// view.
    pub fn fail(&self, slot: u8, why: Failure) -> bool {
        self.fail_where(Slots::one(slot), why, |_, _| true)
    }

    /// Takes all these slots out of the view at once if all of them can be spared, otherwise none. Returns
    /// whether it did.
    pub fn fail_all_if_spared(&self, slots: Slots, why: Failure, needs: Needs) -> bool {
        self.fail_where(slots, why, |members, view| members.spares(view, slots, needs))
    }

    /// Takes one slot out of the view if it can be spared: a member that reads badly or slowly is better than
    /// none.
    pub fn fail_if_spared(&self, slot: u8, why: Failure, needs: Needs) -> bool {
        self.fail_all_if_spared(Slots::one(slot), why, needs)
    }

    /// Whether the array loses no data without these slots.
    #[must_use]
    pub fn spares(&self, view: MemberView, slots: Slots, needs: Needs) -> bool {
        // Unsynced stripes below the sure cursor were filled before; stripes torn since the start may have
        // been.
        let is_believed = self.sure_cursor.load(Ordering::Acquire) > 0 || needs.torn;
        let believed = if is_believed { view.writable } else { view.readable };
        let holds_unsynced = needs.unsynced && !believed.and(slots).is_empty();
        view.readable.minus(slots).count() >= needs.data && !holds_unsynced
    }

    fn fail_where(&self, slots: Slots, why: Failure, allowed: impl Fn(&Members, MemberView) -> bool) -> bool {
        if self.read_only && !matches!(why, Failure::Silence(_)) {
            return false;
        }
        let taken = self.view.fetch_update(Ordering::SeqCst, Ordering::Acquire, |word| {
            let view = MemberView::unpack(word);
            let left =
                MemberView { readable: view.readable.minus(slots), writable: view.writable.minus(slots) };
            (!view.writable.and(slots).is_empty() && allowed(self, view)).then(|| left.pack())
        });
        if let Ok(word) = taken {
            let mut failures = self.failures.lock().expect("no holder panics");
            for slot in MemberView::unpack(word).writable.and(slots).iter() {
                failures[usize::from(slot)] = Some(why);
            }
        }
        taken.is_ok()
    }

    /// Takes note that the device of a slot has answered. Only a read-only array takes a silent slot back;
    /// other arrays never do so without a rebuild.
    pub fn heard(&self, slot: u8) {
        let (one, record) = (Slots::one(slot), self.record());
        if !self.read_only || self.view().writable.has(slot) || !record.writable.has(slot) {
            return;
        }
        let back = MemberView { readable: record.readable.and(one), writable: one };
        self.view.fetch_or(back.pack(), Ordering::SeqCst);
        self.failures.lock().expect("no holder panics")[usize::from(slot)] = None;
    }

    /// Takes note that an I/O, and perhaps a deallocation, has completed on a slot's device at some reactor.
    /// Called a few times a second, not for each I/O.
    pub fn answered(&self, slot: u8, advised: bool) {
        self.pulses[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
        if advised {
            self.advice_pulses[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The pulses of a slot. Different numbers than before mean that its device has answered some reactor
    /// meanwhile.
    #[must_use]
    pub fn pulses(&self, slot: u8) -> Pulses {
        let slot = usize::from(slot);
        let [any, advice] = [&self.pulses, &self.advice_pulses].map(|of| of[slot].load(Ordering::Relaxed));
        Pulses { any, advice }
    }

    /// Counts a read error once for each strip. Fails the slot if errors come too fast and it can be spared.
    pub fn count_read_error(&self, slot: u8, stripe: u64, errno: i32, needs: Needs) {
        self.read_errors_total[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
        let place = &self.bad_places[usize::from(slot)][(stripe % BAD_PLACES_MAX as u64) as usize];
        if place.swap(stripe + 1, Ordering::Relaxed) == stripe + 1 {
            return;
        }
        if self.read_errors[usize::from(slot)].fetch_add(1, Ordering::Relaxed) >= READ_ERRORS_MAX {
            self.fail_if_spared(slot, Failure::Reads(errno), needs);
        }
    }

    /// Adds a read error to the operator's total without counting it against the member: background work
    /// reads again what it could not read before.
    pub fn note_read_error(&self, slot: u8) {
        self.read_errors_total[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failed operation whose member stays; the operator sees the number.
    pub fn count_refusal(&self, slot: u8) {
        self.refusals[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a rewrite of something that could not be read on a slot.
    pub fn count_repair(&self, slot: u8) {
        self.repairs[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
    }

    /// Stops serving, because a member refused metadata or a flush and is not at fault: nothing can be
    /// promised any more. Every member stays, here and on record.
    pub fn stop_serving(&self, slot: u8, errno: i32) {
        self.count_refusal(slot);
        let word = (u64::from(slot) + 1) << 32 | u64::from(errno as u32);
        if self.stopped_serving.compare_exchange(0, word, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.failures.lock().expect("no holder panics")[usize::from(slot)] =
                Some(Failure::NotTaken(errno));
        }
    }

    /// Whether [`Members::stop_serving`] was called; this is never undone.
    #[must_use]
    pub fn has_stopped_serving(&self) -> bool {
        self.stopped_serving.load(Ordering::Relaxed) != 0
    }

    /// The slot and the `errno` of the first call of [`Members::stop_serving`].
    #[must_use]
    pub fn stopped_serving_by(&self) -> Option<(u8, i32)> {
        let word = self.stopped_serving.load(Ordering::Relaxed);
        (word != 0).then(|| ((word >> 32) as u8 - 1, word as u32 as i32))
    }

    /// Halves the error counts and forgets the bad places, so that only a rate of errors fails a member.
    pub fn halve_read_errors(&self) {
        for (errors, places) in self.read_errors.iter().zip(self.bad_places.iter()) {
            errors.store(errors.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            places.iter().for_each(|place| place.store(0, Ordering::Relaxed));
        }
    }

    /// Read errors of the slot's device since the start.
    #[must_use]
    pub fn read_errors(&self, slot: u8) -> u64 {
        self.read_errors_total[usize::from(slot)].load(Ordering::Relaxed)
    }

    /// Repairs on the slot's device since the start.
    #[must_use]
    pub fn repairs(&self, slot: u8) -> u64 {
        self.repairs[usize::from(slot)].load(Ordering::Relaxed)
    }

    /// Operations since the start that the slot's member did not carry out although it was not at fault.
    #[must_use]
    pub fn refusals(&self, slot: u8) -> u64 {
        self.refusals[usize::from(slot)].load(Ordering::Relaxed)
    }

    /// The reason why a slot failed since the start, if it did.
    #[must_use]
    pub fn failure(&self, slot: u8) -> Option<Failure> {
        self.failures.lock().expect("no holder panics")[usize::from(slot)]
    }

    /// Puts a new device into an empty slot, to be rebuilt from the first stripe. For the steward only.
    pub fn begin_rebuild(&self, slot: u8, device: DeviceIndex, volatile: bool) {
        assert!(self.view().rebuilding().is_empty(), "one rebuild at a time");
        assert!(!self.view().writable.has(slot), "only an empty slot is filled");
        self.cursor.store(0, Ordering::Release);
        self.sure_cursor.store(0, Ordering::Release);
        self.device[usize::from(slot)].store(device.0, Ordering::Release);
        let bit = Slots::one(slot).0;
        self.write_through.fetch_and(!bit, Ordering::AcqRel);
        if volatile {
            self.volatile.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.volatile.fetch_and(!bit, Ordering::AcqRel);
        }
        self.failures.lock().expect("no holder panics")[usize::from(slot)] = None;
        // These counts are of the device, and the earlier device is gone.
        self.read_errors[usize::from(slot)].store(0, Ordering::Relaxed);
        for counts in [&self.read_errors_total, &self.repairs, &self.refusals] {
            counts[usize::from(slot)].store(0, Ordering::Relaxed);
        }
        self.view.fetch_or(
            MemberView { readable: Slots::NONE, writable: Slots::one(slot) }.pack(),
            Ordering::SeqCst,
        );
    }

    /// Sets the rebuild cursor: stripes below `stripe` are rebuilt. For the steward only.
    pub fn advance_cursor(&self, stripe: u64) {
        self.cursor.store(stripe, Ordering::Release);
    }

    /// The rebuild cursor: stripes below it are rebuilt.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Acquire)
    }

    /// Makes a filled slot readable. Returns false if it has failed meanwhile, or if fewer than `data` slots
    /// are readable: a failed array stays failed until restart, because operations that gave up may have left
    /// cells that no longer match the members. For the steward only.
    pub fn finish_rebuild(&self, slot: u8, data: u32) -> bool {
        self.view
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let view = MemberView::unpack(word);
                (view.writable.has(slot) && view.readable.count() >= data).then(|| {
                    MemberView { readable: view.readable.or(Slots::one(slot)), writable: view.writable }
                        .pack()
                })
            })
            .is_ok()
    }

    /// Sets the record, after the survivors' superblocks durably say `view` with this cursor. For the steward
    /// only.
    pub fn set_record(&self, view: MemberView, cursor: u64) {
        // Store the cursor first: a reader that sees the new view then sees its cursor too.
        self.record_cursor.store(cursor, Ordering::SeqCst);
        self.record.store(view.pack(), Ordering::SeqCst);
    }

    /// Prepares for superblocks that let `slot`, which is being rebuilt, be trusted further: up to a cursor,
    /// or everywhere. The record counts as saying so from now on, because any of them may land before a
    /// crash. Returns false, and changes nothing, if the slot has failed already. For the steward only.
    ///
    /// An operation that skips the slot fails it first and then looks at the record. This function stores the
    /// record first and then looks at the view. All four are `SeqCst`: either this function sees the failure,
    /// or the operation sees the record.
    pub fn anticipate_record(&self, slot: u8, believed: Believed) -> bool {
        let (record, cursor) = (self.record(), self.record_cursor.load(Ordering::SeqCst));
        match believed {
            Believed::Below(stripe) => self.set_record(record, cursor.max(stripe)),
            Believed::InSync => {
                self.set_record(
                    MemberView { readable: record.readable.or(Slots::one(slot)), ..record },
                    cursor,
                );
            }
        }
        let is_there = self.view().writable.has(slot);
        if !is_there {
            self.set_record(record, cursor);
        }
        is_there
    }
}

#[cfg(test)]
mod tests;
