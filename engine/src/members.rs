//! The slots of an array as all reactors see them: who may be read, who takes writes, and what of that
//! is on record.
//!
//! One atomic word says which slots are readable (in sync) and which are writable (in sync or being
//! rebuilt), so a reactor always plans with one consistent view. A second word says what the
//! superblocks of the survivors say. **A write that skipped a slot is acknowledged only when the record
//! says so too** ([`Members::on_record`]): otherwise that slot could come back after a power cut and
//! be believed.
//!
//! Slots leave by [`Members::fail`], from any reactor. They come back, one at a time, as a rebuild
//! directed by the steward alone: writable at once, readable below the cursor, in sync at its end.
//!
//! A read-only array has no record to write, so no slot ever leaves it ([`Members::read_only`]). A member that does not
//! answer is passed by until it answers again.
//!
//! Orderings: the view and the record are each one word, changed by compare-and-swap (view) or by the
//! steward alone (record). AcqRel/Acquire everywhere: a reactor that sees a slot in the view also
//! sees the device index and the cursor stored before it was put there.

use std::sync::Mutex;

use crate::geometry::Slots;
use crate::limits::MEMBERS_MAX;
use crate::ring::DeviceIndex;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Which slots may be read and which take writes, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// In sync.
    pub readable: Slots,
    /// In sync, or being rebuilt.
    pub writable: Slots,
}

impl MemberView {
    const fn unpack(word: u64) -> MemberView {
        MemberView { readable: Slots(word as u32), writable: Slots((word >> 32) as u32) }
    }

    /// Without a slot among the readable ones.
    #[cfg(test)]
    const fn without_readable(self, slot: u8) -> MemberView {
        MemberView { readable: self.readable.minus(Slots::one(slot)), writable: self.writable }
    }

    const fn pack(self) -> u64 {
        (self.writable.0 as u64) << 32 | self.readable.0 as u64
    }

    /// The slots being rebuilt.
    #[must_use]
    pub const fn rebuilding(self) -> Slots {
        self.writable.minus(self.readable)
    }
}

/// Read errors that a slot may show within [`ERRORS_HALVED_EVERY_NS`] before it is failed: one bad
/// block must not cost a member, a dying one must not be nursed.
pub const READ_ERRORS_MAX: u32 = 64;
/// Strips with read errors that are remembered for each slot, so that one bad place counts once however often it is asked
/// for. Two strips that share an entry count again in turn, which only a member with many bad places meets.
pub const BAD_PLACES_MAX: usize = 64;
/// How often the steward halves the error counts, and forgets the places.
pub const ERRORS_HALVED_EVERY_NS: u64 = 60_000_000_000;

/// How long a member may leave an I/O unanswered where nothing else is said: as long as the NVMe driver does.
pub const MEMBER_PATIENCE_S: u32 = 30;

/// The slots of one array.
#[derive(Debug)]
pub struct Members {
    /// Written by `fail` (any reactor) and the steward; read by all.
    view: AtomicU64,
    /// Written by the steward once superblocks are durable; read by all.
    record: AtomicU64,
    /// The record's rebuild cursor (of the one slot being rebuilt), stripes.
    record_cursor: AtomicU64,
    /// Stripes below this are rebuilt. Written by the steward, under ownership of the stripes passed.
    cursor: AtomicU64,
    /// The cursor that was on record when the array was assembled: NeedSync stripes below it were filled
    /// before they came to need a resync. Those above may be stripes that could not be filled.
    sure_cursor: AtomicU64,
    device: [AtomicU8; MEMBERS_MAX],
    /// Slots whose device has a volatile cache.
    volatile: AtomicU32,
    /// Of those, slots whose cache was switched on while hosts could not be told of it: every write to them is durable when it
    /// completes. Written by a control thread, read by all.
    write_through: AtomicU32,
    read_errors: [AtomicU32; MEMBERS_MAX],
    /// The stripes in which each slot's errors were counted lately, + 1; 0 for none. Written by any reactor, Relaxed: an entry that
    /// is lost or seen late makes an error count once more.
    bad_places: Box<[[AtomicU64; BAD_PLACES_MAX]; MEMBERS_MAX]>,
    read_errors_total: [AtomicU64; MEMBERS_MAX],
    /// Writes that repaired what could not be read.
    repairs: [AtomicU64; MEMBERS_MAX],
    /// Operations that a member did not carry out, for no fault of its own.
    refusals: [AtomicU64; MEMBERS_MAX],
    /// Metadata or a flush was refused: the array serves nothing more until it is started again. The slot + 1 in the high half, the
    /// `errno` in the low one; 0: it has not happened. Written by any reactor, once.
    stopped_serving: AtomicU64,
    /// Grow while a slot's device answers: see [`Members::pulses`]. Written by every reactor, a few times a second; Relaxed, they
    /// carry no other fact.
    pulses: [AtomicU32; MEMBERS_MAX],
    /// Grow while a slot's device completes deallocations.
    advice_pulses: [AtomicU32; MEMBERS_MAX],
    /// Why a slot failed, for the operator. Locked only when a member fails.
    failures: Mutex<[Option<Failure>; MEMBERS_MAX]>,
    patience_s: u32,
    /// Whether the array is only read: no slot fails, and a silent one is passed by for a while.
    read_only: bool,
}

/// Counts that move while a device answers: see [`Members::pulses`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulses {
    /// I/O of any kind.
    pub any: u32,
    /// Deallocations.
    pub advice: u32,
}

/// Members that something durable was not done on. A member is a slot *and* its device: what is noted against a device says
/// nothing of the one that takes the slot after it.
#[derive(Clone, Copy, Debug)]
pub struct Missed {
    slots: Slots,
    devices: [DeviceIndex; MEMBERS_MAX],
}

impl Missed {
    /// Nothing was missed.
    pub const NONE: Missed = Missed { slots: Slots::NONE, devices: [DeviceIndex(0); MEMBERS_MAX] };

    /// The slots, whatever devices they have by now.
    #[must_use]
    pub const fn slots(&self) -> Slots {
        self.slots
    }

    /// The device that this slot has, or had, has missed it too.
    pub fn add(&mut self, slot: u8, device: DeviceIndex) {
        self.slots = self.slots.or(Slots::one(slot));
        self.devices[usize::from(slot)] = device;
    }
}

/// How far a slot that is being rebuilt is to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Believed {
    /// Below this stripe.
    Below(u64),
    /// Everywhere.
    InSync,
}

/// What must be left of the slots so that no data is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Readable slots that hold the data, where parity is trusted.
    pub data: u32,
    /// Whether there are stripes whose parity does not match (NeedSync). What a slot holds of them cannot be computed from the
    /// others, so no slot that is believed there can be spared, however many there are.
    pub unsynced: bool,
    /// Whether a refused write has made a stripe NeedSync since the start. Such a stripe may have been filled before, and then a slot
    /// that is being filled may hold the only copy of a strip.
    pub torn: bool,
}

/// Why a slot failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A write failed with this `errno`.
    Write(i32),
    /// A flush failed with this `errno`; what it had cached may be gone.
    Flush(i32),
    /// A write of the bitmap or a superblock failed with this `errno`.
    Metadata(i32),
    /// More read errors than [`READ_ERRORS_MAX`]; the last `errno`.
    Reads(i32),
    /// An I/O was not answered for so many seconds.
    Silence(u32),
    /// The operator said so.
    Operator,
    /// The member is in sync, and did not take metadata or a flush, with this `errno`, which is not its fault.
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
    /// Slots as assembled: `view` is also what the superblocks say. A slot being rebuilt has `cursor`.
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

    /// With another patience.
    #[must_use]
    pub fn patient_for(self, seconds: u32) -> Members {
        Members { patience_s: seconds, ..self }
    }

    /// The slots of an array that is only read. Nothing is failed: a failure could not be put on record, and an array that is
    /// being rescued needs every member that still answers now and then.
    #[must_use]
    pub fn read_only(self) -> Members {
        Members { read_only: true, ..self }
    }

    /// How long a member may leave an I/O unanswered, seconds.
    #[must_use]
    pub const fn patience_s(&self) -> u32 {
        self.patience_s
    }

    /// Who may be read and written now.
    #[must_use]
    pub fn view(&self) -> MemberView {
        // SeqCst: see `fill_stripes` of the background work. On x86-64 a plain load all the same.
        MemberView::unpack(self.view.load(Ordering::SeqCst))
    }

    /// What the superblocks of the survivors say.
    #[must_use]
    pub fn record(&self) -> MemberView {
        // SeqCst: see `anticipate_record`.
        MemberView::unpack(self.record.load(Ordering::SeqCst))
    }

    /// Slots that hold what they should for this stripe, whose cell is NeedSync or not.
    #[must_use]
    pub fn readable_at(&self, view: MemberView, stripe: u64, need_sync: bool) -> Slots {
        let cursor = if need_sync { &self.sure_cursor } else { &self.cursor };
        if view.rebuilding().is_empty() || stripe >= cursor.load(Ordering::Acquire) {
            view.readable
        } else {
            view.writable
        }
    }

    /// Whether the record excludes every slot in `skipped` for this stripe, so that nobody will
    /// believe what they hold there.
    #[must_use]
    pub fn on_record(&self, skipped: Slots, stripe: u64) -> bool {
        let record = self.record();
        skipped.and(record.readable).is_empty()
            && (skipped.and(record.rebuilding()).is_empty()
                || self.record_cursor.load(Ordering::SeqCst) <= stripe)
    }

    /// What a round or a block write that begins now passes by, if it is for these slots: those that take no writes.
    #[must_use]
    pub fn missing_of(&self, slots: Slots) -> (MemberView, Missed) {
        // The devices before the view: a slot that is not in the view has had the device noted here, or had it before. (The
        // other way round a device that joins in between would be noted, and it misses nothing.)
        let devices = std::array::from_fn(|slot| self.device(slot as u8));
        let view = self.view();
        (view, Missed { slots: slots.minus(view.writable), devices })
    }

    /// Whether the record excludes every member in `missed`, or has excluded it once: a slot that has another device by now got
    /// it only after the one before was out on record. So an answer of yes stays one.
    #[must_use]
    pub fn excludes(&self, missed: &Missed) -> bool {
        let has_it_still = |slot: &u8| self.device(*slot) == missed.devices[usize::from(*slot)];
        let still = missed.slots.iter().filter(has_it_still);
        // The device first and the record then: a slot whose device is the one noted is judged by the record of that device
        // or of a later one, and the later one's says that it is to be filled.
        self.on_record(still.fold(Slots::NONE, |slots, slot| slots.or(Slots::one(slot))), 0)
    }

    /// The device of a slot.
    #[must_use]
    pub fn device(&self, slot: u8) -> DeviceIndex {
        DeviceIndex(self.device[usize::from(slot)].load(Ordering::Acquire))
    }

    /// The slots whose device has a volatile cache.
    #[must_use]
    pub fn volatile(&self) -> Slots {
        Slots(self.volatile.load(Ordering::Acquire))
    }

    /// The slots to which every write must be durable.
    #[must_use]
    pub fn write_through(&self) -> Slots {
        Slots(self.write_through.load(Ordering::Relaxed))
    }

    /// The cache of this device was switched on after it was opened: flush rounds ask it from now on, and if no host sends
    /// flushes, each write to it is made durable by itself. False where the slot has another device, or this is known.
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

    /// Takes a slot out of the view; says whether it was in. The steward puts it on record.
    pub fn fail(&self, slot: u8, why: Failure) -> bool {
        self.fail_where(Slots::one(slot), why, |_, _| true)
    }

    /// Takes all of these slots out of the view at once, if all of them can be spared; else none. Says whether it did.
    pub fn fail_all_if_spared(&self, slots: Slots, why: Failure, needs: Needs) -> bool {
        self.fail_where(slots, why, |members, view| members.spares(view, slots, needs))
    }

    /// The same of one slot: a member that reads badly or slowly is better than none.
    pub fn fail_if_spared(&self, slot: u8, why: Failure, needs: Needs) -> bool {
        self.fail_all_if_spared(Slots::one(slot), why, needs)
    }

    /// Whether the array loses no data without these slots.
    #[must_use]
    pub fn spares(&self, view: MemberView, slots: Slots, needs: Needs) -> bool {
        // Stripes below the sure cursor were filled before they came to need a resync, and stripes torn in this run may have been.
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

    /// The device of a slot has answered. In a read-only array a slot that was passed by for its silence is read again; other
    /// arrays never take a slot back without a rebuild.
    pub fn heard(&self, slot: u8) {
        let (one, record) = (Slots::one(slot), self.record());
        if !self.read_only || self.view().writable.has(slot) || !record.writable.has(slot) {
            return;
        }
        let back = MemberView { readable: record.readable.and(one), writable: one };
        self.view.fetch_or(back.pack(), Ordering::SeqCst);
        self.failures.lock().expect("no holder panics")[usize::from(slot)] = None;
    }

    /// An I/O has completed on the device of a slot, at some reactor, and perhaps a deallocation. Said a few times a second, not of
    /// each I/O.
    pub fn answered(&self, slot: u8, advised: bool) {
        self.pulses[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
        if advised {
            self.advice_pulses[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Other numbers than before: the device of a slot has answered some reactor meanwhile.
    #[must_use]
    pub fn pulses(&self, slot: u8) -> Pulses {
        let slot = usize::from(slot);
        let [any, advice] = [&self.pulses, &self.advice_pulses].map(|of| of[slot].load(Ordering::Relaxed));
        Pulses { any, advice }
    }

    /// Counts a read error in a strip, once for each strip; fails the slot when they come too fast and it can be spared.
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

    /// Adds a read error to the total that the operator sees, and holds it against nobody: background work asks again for what it
    /// could not read before.
    pub fn note_read_error(&self, slot: u8) {
        self.read_errors_total[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
    }

    /// An operation failed, and the member stays. Shown to the operator.
    pub fn count_refusal(&self, slot: u8) {
        self.refusals[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
    }

    /// What could not be read on a slot has been written anew.
    pub fn count_repair(&self, slot: u8) {
        self.repairs[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
    }

    /// A member refused metadata or a flush and is not to blame: nothing can be promised any more. Every member stays, here and
    /// on record.
    pub fn stop_serving(&self, slot: u8, errno: i32) {
        self.count_refusal(slot);
        let word = (u64::from(slot) + 1) << 32 | u64::from(errno as u32);
        if self.stopped_serving.compare_exchange(0, word, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.failures.lock().expect("no holder panics")[usize::from(slot)] =
                Some(Failure::NotTaken(errno));
        }
    }

    /// Whether [`Members::stop_serving`] was called; it is not taken back.
    #[must_use]
    pub fn has_stopped_serving(&self) -> bool {
        self.stopped_serving.load(Ordering::Relaxed) != 0
    }

    /// The slot and the `errno` of the first refusal that [`Members::stop_serving`] was called for.
    #[must_use]
    pub fn stopped_serving_by(&self) -> Option<(u8, i32)> {
        let word = self.stopped_serving.load(Ordering::Relaxed);
        (word != 0).then(|| ((word >> 32) as u8 - 1, word as u32 as i32))
    }

    /// Halves the error counts and forgets the places: only a rate of errors fails a member.
    pub fn halve_read_errors(&self) {
        for (errors, places) in self.read_errors.iter().zip(self.bad_places.iter()) {
            errors.store(errors.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            places.iter().for_each(|place| place.store(0, Ordering::Relaxed));
        }
    }

    /// Read errors of a slot's device since the start.
    #[must_use]
    pub fn read_errors(&self, slot: u8) -> u64 {
        self.read_errors_total[usize::from(slot)].load(Ordering::Relaxed)
    }

    /// Repairs of a slot's device since the start.
    #[must_use]
    pub fn repairs(&self, slot: u8) -> u64 {
        self.repairs[usize::from(slot)].load(Ordering::Relaxed)
    }

    /// Operations since the start that a slot's member did not carry out for no fault of its own.
    #[must_use]
    pub fn refusals(&self, slot: u8) -> u64 {
        self.refusals[usize::from(slot)].load(Ordering::Relaxed)
    }

    /// Why a slot failed since the start, if it did.
    #[must_use]
    pub fn failure(&self, slot: u8) -> Option<Failure> {
        self.failures.lock().expect("no holder panics")[usize::from(slot)]
    }

    /// Steward: a new device takes an empty slot, to be rebuilt from the first stripe.
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
        // Counts are of the device, and the one before is gone.
        self.read_errors[usize::from(slot)].store(0, Ordering::Relaxed);
        for counts in [&self.read_errors_total, &self.repairs, &self.refusals] {
            counts[usize::from(slot)].store(0, Ordering::Relaxed);
        }
        self.view.fetch_or(
            MemberView { readable: Slots::NONE, writable: Slots::one(slot) }.pack(),
            Ordering::SeqCst,
        );
    }

    /// Steward: stripes below `stripe` are rebuilt.
    pub fn advance_cursor(&self, stripe: u64) {
        self.cursor.store(stripe, Ordering::Release);
    }

    /// Stripes below this are rebuilt.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Acquire)
    }

    /// Steward: the slot is filled. False when it failed meanwhile, or fewer than `data` slots are readable: an array that has
    /// failed stays so until it is started again, since who gave up in it left cells that say what no member may hold.
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

    /// Steward: the survivors' superblocks say `view`, with this cursor, durably.
    pub fn set_record(&self, view: MemberView, cursor: u64) {
        // The cursor first: a reader that sees the new view sees it with its cursor.
        self.record_cursor.store(cursor, Ordering::SeqCst);
        self.record.store(view.pack(), Ordering::SeqCst);
    }

    /// Steward: superblocks that let `slot`, which is being rebuilt, be believed further than now are about to be
    /// written: up to `cursor`, or as a whole. The record counts as saying so from now on, for any of
    /// them may land before a crash. False, and nothing has changed, when the slot has failed already.
    ///
    /// Whoever skips the slot fails it first and looks at the record then; here the record comes first and the
    /// view then. All four are `SeqCst`: either we see the failure, or they see the record.
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
