//! The wire between rings and disks: what is in flight, the clock, the power, and the trace.
//!
//! An operation is carried out when it completes, with the bytes that its span holds then, and the bytes must not
//! have changed since it was pushed: the engine has lent them. A cut of the power comes at a push or a completion
//! that was chosen beforehand; what is in flight then lands not at all, in part, or whole, and from then on every
//! operation fails and changes nothing, until the world starts anew.
//!
//! Moments at which the power *could* have gone are taken on the way ([`Probes`]), and looked into later, each in a
//! world of its own: see `crash`.

use std::rc::Rc;
use std::sync::Arc;

use engine::memory::Memory;
use engine::ring::{Completion, Durability, MemberIo, MemberOp};

use crate::aim::{Aim, Fault};
use crate::disk::{Disk, Place, SECTOR, ZoneKind};
use crate::images::{Camera, Image};
use crate::latency::Latency;
use crate::monitors::Monitors;
use crate::rng::{Rng, mix};

mod faults;
mod silence;

pub use silence::{ENDLESS, Silence};

const EIO: i32 = 5;
/// What the memory of a read holds until it completes.
const JUNK: u8 = 0xee;
const EAGAIN: i32 = 11;
const ENOSPC: i32 = 28;

/// An operation in flight.
#[derive(Clone)]
pub struct InFlight {
    /// The ring that it came by.
    pub ring: u32,
    /// Where it goes.
    pub disk: usize,
    /// What it is.
    pub op: MemberOp,
    /// Where on the disk; `None` for a flush.
    pub place: Option<Place>,
    /// The bytes as they were pushed.
    pub pushed: Rc<[u8]>,
    /// When.
    pub pushed_at: u64,
    due_ns: u64,
    order: u64,
}

/// All that is below the engine, at a moment at which the power could have gone.
#[derive(Clone)]
pub struct Moment {
    disks: Vec<Disk>,
    in_flight: Vec<InFlight>,
    now_ns: u64,
    moment: u64,
}

impl Moment {
    /// When it was.
    #[must_use]
    pub const fn at(&self) -> u64 {
        self.moment
    }

    /// Whether a cut now has more than one outcome.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let writes = self.in_flight.iter().any(|op| matches!(op.op.io, MemberIo::Write(_)));
        writes || self.disks.iter().any(Disk::has_cached)
    }
}

/// Which moments are taken. Its chance is its own: taking one changes nothing of what comes after.
pub struct Probes {
    /// Chance.
    pub rng: Rng,
    /// Of 100 pushes and completions of writes of strips, and of flushes.
    pub data_percent: u64,
    /// Of 100 pushes and completions of superblocks and bitmap blocks.
    pub metadata_percent: u64,
    /// How many more.
    pub left: u32,
    /// Those taken.
    pub taken: Vec<Moment>,
}

/// When the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// After so many operations were pushed.
    Pushes(u64),
    /// After so many operations completed.
    Completions(u64),
    /// After so many metadata writes were pushed.
    MetadataPushes(u64),
    /// After so many metadata writes completed.
    MetadataCompletions(u64),
}

/// Everything below the engine.
pub struct Bus {
    /// Chance for all that is below the engine.
    pub rng: Rng,
    /// Simulated time.
    pub now_ns: u64,
    /// Counts events: a finer order than time.
    pub moment: u64,
    /// Every disk there ever was.
    pub disks: Vec<Disk>,
    /// No power: everything fails, nothing changes.
    pub off: bool,
    /// When the power goes.
    pub cut: Option<Cut>,
    /// A turn that finds nothing lets time pass: control steps wait.
    pub blocking: bool,
    /// Operations complete when they are [released](Bus::release), not by the clock; and nothing is left to chance.
    pub by_choice: bool,
    /// The engine's memory.
    pub memory: Arc<Memory>,
    /// What watches.
    pub monitors: Monitors,
    /// How long operations take.
    pub latency: Latency,
    /// Sectors of every disk stay bad until they are written.
    pub lasting: bool,
    /// Bad sectors of strips are worn: they take no writes either.
    pub worn: bool,
    /// Writes of strips that a disk refused since somebody looked: which disk, and the first sector.
    pub refused_strips: Vec<(usize, u64)>,
    /// Everything that happened, hashed.
    pub trace: u64,
    /// Print it too.
    pub verbose: bool,
    /// Moments that are taken.
    pub probes: Probes,
    /// A fault that waits for its operation.
    pub aim: Option<Aim>,
    /// Operations that ended with an aimed fault, and writes that a disk was made to fail.
    pub faults_hit: u32,
    /// Disks that do not answer, or did not a while ago.
    pub silences: Vec<Silence>,
    /// When the last operation ends that an aimed fault or a slow deallocation holds up.
    pub stuck_until_ns: u64,
    /// Disks whose deallocations take this long, whatever else they do at once.
    pub slow_advice_ns: Vec<u64>,
    /// How much longer a flush takes, and a read.
    pub slow_ns: (u64, u64),
    /// What disks held at earlier moments.
    pub images: Vec<Rc<Image>>,
    /// When the next images are taken.
    pub camera: Option<Camera>,
    /// The array is served read-only, or is only looked at: a write to any disk ends the run.
    pub read_only: bool,
    /// The slot of each disk, as far as it has one.
    pub slots: Vec<Option<u8>>,
    in_flight: Vec<InFlight>,
    /// Operations carried out.
    pub operations: u64,
}

impl Bus {
    /// A bus without disks.
    #[must_use]
    pub fn new(rng: Rng, memory: Arc<Memory>, latency: Latency, verbose: bool) -> Bus {
        Bus {
            rng,
            now_ns: 1_000_000,
            moment: 0,
            disks: Vec::new(),
            off: false,
            cut: None,
            blocking: false,
            by_choice: false,
            memory,
            monitors: Monitors::default(),
            latency,
            lasting: false,
            worn: false,
            refused_strips: Vec::new(),
            trace: 0,
            verbose,
            probes: Probes {
                rng: Rng::new(0),
                data_percent: 0,
                metadata_percent: 0,
                left: 0,
                taken: Vec::new(),
            },
            aim: None,
            faults_hit: 0,
            silences: Vec::new(),
            stuck_until_ns: 0,
            slow_advice_ns: Vec::new(),
            slow_ns: (0, 0),
            images: Vec::new(),
            camera: None,
            read_only: false,
            slots: Vec::new(),
            in_flight: Vec::new(),
            operations: 0,
        }
    }

    /// Notes an event.
    pub fn note(&mut self, word: u64, text: impl FnOnce() -> String) {
        self.moment += 1;
        self.trace = mix(self.trace ^ word);
        if self.verbose {
            println!("{:>6} {:>9.3} us  {}", self.moment, self.now_ns as f64 / 1e3, text());
        }
    }

    /// Whether anything that a disk was asked is not carried out yet.
    #[must_use]
    pub fn is_asked(&self, disk: usize) -> bool {
        self.in_flight.iter().any(|op| op.disk == disk)
    }

    /// What is in flight.
    #[must_use]
    pub fn in_flight(&self) -> &[InFlight] {
        &self.in_flight
    }

    /// The next turn of its ring completes this operation of [`Bus::in_flight`].
    pub fn release(&mut self, nth: usize) {
        self.in_flight[nth].due_ns = 0;
    }

    /// When the next operation is due.
    #[must_use]
    pub fn next_due_ns(&self) -> Option<u64> {
        self.in_flight.iter().map(|op| op.due_ns).min()
    }

    /// A bus at a moment of another, on other memory. What is wrong with the disks is mended, except that the dead
    /// stay dead.
    #[must_use]
    pub fn at(moment: &Moment, rng: Rng, memory: Arc<Memory>, latency: Latency, verbose: bool) -> Bus {
        let mut bus = Bus::new(rng, memory, latency, verbose);
        (bus.now_ns, bus.moment) = (moment.now_ns, moment.moment);
        bus.disks.clone_from(&moment.disks);
        bus.in_flight.clone_from(&moment.in_flight);
        for disk in &mut bus.disks {
            disk.heal();
            disk.failed_reads.clear();
            disk.was_bad.clear();
        }
        bus
    }

    /// Perhaps the power could have gone here.
    fn probe(&mut self, op: MemberIo, metadata: bool) {
        if self.probes.left == 0 || self.off || matches!(op, MemberIo::Read) {
            return;
        }
        let percent = if metadata { self.probes.metadata_percent } else { self.probes.data_percent };
        if self.probes.rng.chance(percent) {
            self.probes.left -= 1;
            let moment = self.moment_now();
            self.probes.taken.push(moment);
        }
    }

    /// All that is below the engine, now.
    #[must_use]
    pub fn moment_now(&self) -> Moment {
        Moment {
            disks: self.disks.clone(),
            in_flight: self.in_flight.clone(),
            now_ns: self.now_ns,
            moment: self.moment,
        }
    }

    fn count_down(&mut self, completed: bool, metadata: bool) {
        let counter = match (&mut self.cut, completed) {
            (Some(Cut::Pushes(left)), false) | (Some(Cut::Completions(left)), true) => left,
            (Some(Cut::MetadataPushes(left)), false) | (Some(Cut::MetadataCompletions(left)), true)
                if metadata =>
            {
                left
            }
            _ => return,
        };
        if *counter == 0 {
            self.lose_power();
        } else {
            *counter -= 1;
        }
    }

    /// The power goes now.
    pub fn lose_power(&mut self) {
        self.note(1, || "POWER CUT".into());
        self.off = true;
        self.cut = None;
        self.camera = None;
        self.monitors.off = true;
        let mut in_flight = std::mem::take(&mut self.in_flight);
        self.rng.shuffle(&mut in_flight);
        // In some cuts all that is in flight fares alike.
        let common = if self.rng.chance(35) { Some(self.rng.pick(&[0, 1, 2, 2])) } else { None };
        for op in &in_flight {
            if !self.disks[op.disk].dead {
                match op.op.io {
                    MemberIo::Write(_) => self.land_in_part(op, common),
                    MemberIo::Deallocate if self.rng.chance(50) => self.forget(op),
                    MemberIo::Deallocate | MemberIo::Read | MemberIo::Flush => {}
                }
            }
        }
        let mut rng = self.rng.clone();
        self.disks.iter_mut().for_each(|disk| disk.lose_power(&mut rng));
        self.rng = rng;
        // The engine is still turning: its operations end, and nobody hears of it.
        self.in_flight = in_flight;
    }

    /// The power is back, and nothing is in flight.
    pub fn power_on(&mut self) {
        self.in_flight.clear();
        self.silences.clear();
        self.stuck_until_ns = 0;
        self.slow_advice_ns.clear();
        self.slow_ns = (0, 0);
        self.off = false;
        self.cut = None;
        self.monitors.power_on();
    }

    /// Whether anything is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(crate) fn push(&mut self, ring: u32, disk: Option<usize>, op: MemberOp) {
        let disk = disk.expect("RING: an operation on a device that is not there");
        let place = match op.io {
            MemberIo::Flush => None,
            _ => Some(self.disks[disk].place(op.offset_bytes, op.len_bytes)),
        };
        assert!(self.disks[disk].has_whole_blocks(&op), "RING: {op:?} is not of whole blocks of disk {disk}");
        let mut pushed: Rc<[u8]> = Rc::new([]);
        match op.io {
            MemberIo::Write(_) => pushed = self.memory.with(op.span, |bytes| Rc::from(bytes)),
            // Junk: whoever looks before the completion sees it.
            MemberIo::Read => self.memory.with_mut(op.span, |bytes| bytes.fill(JUNK)),
            MemberIo::Flush | MemberIo::Deallocate => {}
        }
        let io = op.io;
        self.note(op.offset_bytes ^ (disk as u64) << 48 ^ u64::from(op.tag) << 52, || {
            format!(
                "push     ring {ring} disk {disk} {io:?} {} {}+{}",
                show(place),
                op.offset_bytes,
                op.len_bytes
            )
        });
        assert!(
            !self.read_only || matches!(op.io, MemberIo::Read | MemberIo::Flush),
            "READONLY: disk {disk} is asked {io:?} {}, and nothing may be written",
            show(place)
        );
        assert!(
            place.is_none_or(|place| place.zone != ZoneKind::Around)
                || matches!(io, MemberIo::Write(_)) && pushed.iter().all(|byte| *byte == 0),
            "ZONES: {io:?} at {} of disk {disk}, which is in no zone",
            op.offset_bytes
        );
        if let (Some(place), false) = (place, self.off) {
            Monitors::pushed(self, op.io, disk, place, &pushed);
        }
        if matches!(op.io, MemberIo::Write(_))
            && place.is_some_and(|place| place.zone == ZoneKind::Superblock)
        {
            for disk in self.disks.iter_mut().filter(|disk| disk.armed) {
                (disk.armed, disk.failing_data_writes) = (false, 1);
            }
        }
        let latency = self.latency.draw(&mut self.rng, disk, place.map(|place| place.zone), op.io);
        let fault = self.aimed(disk, place, op.io, true);
        let now = self.now_ns;
        let aimed = match fault {
            Some(Fault::Slow) => Some(2_000_000_000),
            Some(Fault::Stuck) => Some(20_000_000_000),
            _ => None,
        };
        if let Some(aimed) = aimed {
            self.stuck_until_ns = self.stuck_until_ns.max(now + aimed);
        }
        let latency = aimed.unwrap_or(latency);
        let latency = match op.io {
            MemberIo::Deallocate => {
                let slow_ns = self.slow_advice_ns.get(disk).copied().unwrap_or(0);
                if slow_ns > 0 {
                    // Its stripe is marked until then; and where nothing else is due, time passes in one step up to its end.
                    self.stuck_until_ns = self.stuck_until_ns.max(now + slow_ns);
                }
                latency + slow_ns
            }
            MemberIo::Flush => latency + self.slow_ns.0,
            MemberIo::Read => latency + self.slow_ns.1,
            _ => latency,
        };
        let mut silences = self.silences.iter_mut();
        let silence = silences.find(|silence| silence.disk == disk && now < silence.until_ns);
        let latency = silence.map_or(latency, |silence| {
            if op.io != MemberIo::Deallocate {
                silence.asked_ns.get_or_insert(now);
            }
            (silence.until_ns - now).saturating_add(latency)
        });
        let chosen = self.by_choice && !self.blocking;
        let (pushed_at, due_ns) =
            (self.moment, if chosen { u64::MAX } else { (self.now_ns + 1).saturating_add(latency) });
        self.in_flight.push(InFlight {
            ring,
            disk,
            op,
            place,
            pushed,
            pushed_at,
            due_ns,
            order: self.rng.next(),
        });
        let metadata = is_metadata_write(op.io, place);
        if fault == Some(Fault::CutBefore) && !self.off {
            self.lose_power();
        }
        self.probe(op.io, metadata);
        self.count_down_camera();
        self.count_down(false, metadata);
    }

    pub(crate) fn turn(&mut self, ring: u32, completions: &mut Vec<Completion>) {
        let before = completions.len();
        if self.blocking {
            let next = self.in_flight.iter().filter(|op| op.ring == ring).map(|op| op.due_ns).min();
            self.now_ns = self.now_ns.max(next.unwrap_or(0));
        }
        // One by one: at a cut, those that were due as well may still land in part.
        while let Some(op) = self.take_due(ring) {
            let result = if self.off { Err(EIO) } else { self.carry_out(&op) };
            self.operations += 1;
            if self.verbose && matches!(op.op.io, MemberIo::Read | MemberIo::Write(_)) {
                let names =
                    |bytes: &[u8]| bytes.chunks_exact(SECTOR).map(crate::disk::name_of).collect::<Vec<_>>();
                println!("{:>27}moves {:x?}", "", self.memory.with(op.op.span, names));
            }
            self.note(op.op.offset_bytes ^ u64::from(result.is_ok()), || {
                format!(
                    "complete ring {ring} disk {} {:?} {} -> {result:?}",
                    op.disk,
                    op.op.io,
                    show(op.place)
                )
            });
            completions.push(Completion { tag: op.op.tag, result });
            let metadata = is_metadata_write(op.op.io, op.place);
            if !self.off {
                self.probe(op.op.io, metadata);
                self.count_down_camera();
                self.count_down(true, metadata);
            }
        }
        debug_assert!(!self.blocking || completions.len() > before || self.in_flight.is_empty());
    }

    fn take_due(&mut self, ring: u32) -> Option<InFlight> {
        let (now, off) = (self.now_ns, self.off);
        let due = self.in_flight.iter().enumerate();
        let due = due.filter(|(_, op)| op.ring == ring && (off || op.due_ns <= now));
        let (at, _) = due.min_by_key(|(_, op)| op.order)?;
        Some(self.in_flight.swap_remove(at))
    }

    fn carry_out(&mut self, op: &InFlight) -> Result<(), i32> {
        let moment = self.moment;
        let fault = self.aimed(op.disk, op.place, op.op.io, false);
        if let Some(result) = fault.and_then(|fault| self.go_wrong(op, fault)) {
            return result;
        }
        if let Some(errno) = self.refused(op) {
            return Err(errno);
        }
        let disk = &mut self.disks[op.disk];
        match (op.op.io, op.place) {
            (MemberIo::Read, Some(place)) => {
                let transient = place.zone == ZoneKind::Data && disk.transient_reads > 0;
                disk.transient_reads -= u32::from(transient);
                if disk.dead || transient || place.sectors().any(|sector| disk.bad.contains(&sector)) {
                    disk.failed_reads.extend(place.sectors());
                    return Err(EIO);
                }
                self.memory.with_mut(op.op.span, |bytes| {
                    // Several probes may share their memory, and nobody looks at what they read.
                    let is_probe = place.zone == ZoneKind::Superblock;
                    assert!(
                        is_probe || bytes.iter().all(|byte| *byte == JUNK),
                        "BUFFERS: memory was used for something else while a read into it was in flight: {:?}",
                        op.op
                    );
                    disk.read(place, bytes);
                });
            }
            (MemberIo::Write(durability), Some(place)) => {
                self.memory.with(op.op.span, |bytes| {
                    assert!(
                        *bytes == *op.pushed,
                        "BUFFERS: a buffer changed while its write was in flight: {:?}",
                        op.op
                    );
                });
                if disk.dead {
                    return Err(EIO);
                }
                match &mut disk.write_fails_after {
                    Some(0) => (disk.write_fails_after, disk.failing_writes) = (None, 1),
                    Some(others) => *others -= 1,
                    None => {}
                }
                let data_fails = place.zone == ZoneKind::Data && disk.failing_data_writes > 0;
                disk.failing_data_writes -= u32::from(data_fails);
                if data_fails || disk.failing_writes > 0 {
                    disk.failing_writes -= u32::from(!data_fails);
                    self.faults_hit += 1;
                    self.land_in_part(op, None);
                    self.monitors.superblocks_changed |= place.zone == ZoneKind::Superblock;
                    return Err(EIO);
                }
                if durability == Durability::Durable {
                    disk.write_durable(place, &op.pushed);
                } else {
                    for (sector, bytes) in place.sectors().zip(op.pushed.chunks_exact(SECTOR)) {
                        disk.write_sector(sector, bytes.try_into().expect("a sector"), moment);
                    }
                }
                Monitors::write_completed(self, op.disk, place);
            }
            (MemberIo::Flush, _) => {
                if disk.dead {
                    return Err(EIO);
                }
                if disk.failing_flushes > 0 {
                    disk.failing_flushes -= 1;
                    return Err(EIO);
                }
                disk.flush(op.pushed_at);
            }
            (MemberIo::Deallocate, Some(place)) => {
                if disk.dead {
                    return Err(EIO);
                }
                assert_eq!(place.zone, ZoneKind::Data, "ZONES: only strips are deallocated");
                self.forget(op);
            }
            (MemberIo::Read | MemberIo::Write(_) | MemberIo::Deallocate, None) => unreachable!(),
        }
        match fault {
            Some(Fault::Landed) => return Err(EIO),
            Some(Fault::CutAfter) => self.lose_power(),
            Some(Fault::Flip) => {
                let place = op.place.expect("only metadata writes are flipped");
                let (sector, bit) = (place.first + self.rng.below(place.count), self.rng.below(4096));
                self.disks[op.disk].flip(sector, bit);
                self.monitors.superblocks_changed = true;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether this is a write of something that a start reads. The log zone is only wiped.
fn is_metadata_write(io: MemberIo, place: Option<Place>) -> bool {
    let is_metadata = |place: Place| match place.zone {
        ZoneKind::Superblock | ZoneKind::Bitmap | ZoneKind::List => true,
        ZoneKind::Data | ZoneKind::Log | ZoneKind::Around => false,
    };
    matches!(io, MemberIo::Write(_)) && place.is_some_and(is_metadata)
}

fn show(place: Option<Place>) -> String {
    place.map_or(String::new(), |place| format!("{:?}:{}", place.zone, place.offset_in_zone))
}
