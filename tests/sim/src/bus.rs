//! The wire between rings and disks: operations in flight, the clock, the power, and the trace.
//!
//! An operation is carried out when it completes, with the bytes that its span holds then. Those bytes must
//! not have changed since the push, because the engine has lent them. A power cut comes at a push or a
//! completion that was chosen beforehand. Writes in flight at the cut land not at all, in part, or whole.
//! From then on every operation fails and changes nothing, until the power returns.
//!
//! During a run, [`Probes`] record moments at which the power *could* have gone. Each is examined later in a
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
/// Filler for the memory of a read until the read completes.
const JUNK: u8 = 0xee;
const EAGAIN: i32 = 11;
const ENOSPC: i32 = 28;

/// An operation in flight.
#[derive(Clone)]
pub struct InFlight {
    /// The ring that pushed the operation.
    pub ring: u32,
    /// Index of the disk.
    pub disk: usize,
    /// The operation.
    pub op: MemberOp,
    /// The place on the disk; `None` for a flush.
    pub place: Option<Place>,
    /// The bytes of a write at the time of the push.
    pub pushed: Rc<[u8]>,
    /// Moment of the push.
    pub pushed_at: u64,
    due_ns: u64,
    order: u64,
}

/// The state of everything below the engine at a moment at which the power could have gone.
#[derive(Clone)]
pub struct Moment {
    disks: Vec<Disk>,
    in_flight: Vec<InFlight>,
    now_ns: u64,
    moment: u64,
}

impl Moment {
    /// The count of events at this moment.
    #[must_use]
    pub const fn at(&self) -> u64 {
        self.moment
    }

    /// Whether a power cut at this moment has more than one outcome.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let writes = self.in_flight.iter().any(|op| matches!(op.op.io, MemberIo::Write(_)));
        writes || self.disks.iter().any(Disk::has_cached)
    }
}

/// Chooses the moments to record. The generator is separate, so that recording a moment does not change the
/// run.
pub struct Probes {
    /// Generator for these choices only.
    pub rng: Rng,
    /// Percentage of pushes and completions of strip writes and flushes that are recorded.
    pub data_percent: u64,
    /// Percentage of pushes and completions of metadata writes that are recorded.
    pub metadata_percent: u64,
    /// Number of moments that may still be recorded.
    pub left: u32,
    /// Recorded moments.
    pub taken: Vec<Moment>,
}

/// The point at which the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// After this many operations were pushed.
    Pushes(u64),
    /// After this many operations completed.
    Completions(u64),
    /// After this many metadata writes were pushed.
    MetadataPushes(u64),
    /// After this many metadata writes completed.
    MetadataCompletions(u64),
}

/// Everything below the engine.
pub struct Bus {
    /// Random numbers for everything below the engine.
    pub rng: Rng,
    /// Simulated time, ns.
    pub now_ns: u64,
    /// Count of events: a finer order than time.
    pub moment: u64,
    /// All disks that were ever part of the world.
    pub disks: Vec<Disk>,
    /// Whether the power is off: every operation fails and changes nothing.
    pub off: bool,
    /// The planned power cut, if any.
    pub cut: Option<Cut>,
    /// Whether a turn that finds nothing due lets time pass until something is. Set for the control steps
    /// that wait for each of their operations.
    pub blocking: bool,
    /// Whether operations complete when they are [released](Bus::release) instead of by the clock. Nothing is
    /// random then.
    pub by_choice: bool,
    /// The memory that the engine's spans refer to.
    pub memory: Arc<Memory>,
    /// Invariants that are checked at each operation.
    pub monitors: Monitors,
    /// Distribution of the times that operations take.
    pub latency: Latency,
    /// Whether bad sectors of all disks stay bad until they are written.
    pub lasting: bool,
    /// Whether bad sectors of strips are worn, that is, refuse writes as well.
    pub worn: bool,
    /// Writes of strips that a disk has refused since the world last took this list: the disk and the first
    /// sector.
    pub refused_strips: Vec<(usize, u64)>,
    /// Hash of all events.
    pub trace: u64,
    /// Whether to print all events.
    pub verbose: bool,
    /// Moments to record.
    pub probes: Probes,
    /// A fault that waits for its operation.
    pub aim: Option<Aim>,
    /// Number of operations that an aimed fault hit, plus writes that a disk was made to fail.
    pub faults_hit: u32,
    /// Disks that do not answer, or did not until recently.
    pub silences: Vec<Silence>,
    /// Time at which the last operation ends that an aimed fault or a slow deallocation delays.
    pub stuck_until_ns: u64,
    /// For each disk, the extra time that its deallocations take, whatever else the disk does meanwhile.
    pub slow_advice_ns: Vec<u64>,
    /// Extra time that a flush takes, and extra time that a read takes.
    pub slow_ns: (u64, u64),
    /// Contents of disks at earlier moments.
    pub images: Vec<Rc<Image>>,
    /// Plan for the next images, if any.
    pub camera: Option<Camera>,
    /// Whether the array is served read-only or only looked at: a write to any disk ends the run.
    pub read_only: bool,
    /// The slot of each disk, if it has one.
    pub slots: Vec<Option<u8>>,
    in_flight: Vec<InFlight>,
    /// Number of operations carried out.
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

    /// Counts an event, adds it to the trace, and prints it if the run is verbose.
    pub fn note(&mut self, word: u64, text: impl FnOnce() -> String) {
        self.moment += 1;
        self.trace = mix(self.trace ^ word);
        if self.verbose {
            println!("{:>6} {:>9.3} us  {}", self.moment, self.now_ns as f64 / 1e3, text());
        }
    }

    /// Whether an operation on this disk is still in flight.
    #[must_use]
    pub fn is_asked(&self, disk: usize) -> bool {
        self.in_flight.iter().any(|op| op.disk == disk)
    }

    /// All operations in flight.
    #[must_use]
    pub fn in_flight(&self) -> &[InFlight] {
        &self.in_flight
    }

    /// Makes the ring's next turn complete this operation of [`Bus::in_flight`].
    pub fn release(&mut self, nth: usize) {
        self.in_flight[nth].due_ns = 0;
    }

    /// Time at which the next operation is due.
    #[must_use]
    pub fn next_due_ns(&self) -> Option<u64> {
        self.in_flight.iter().map(|op| op.due_ns).min()
    }

    /// A bus that continues from a recorded moment of another bus, with other memory. Disks are healed,
    /// except that dead disks stay dead.
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

    /// Records this moment with the probability that [`Probes`] gives.
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

    /// The current state of everything below the engine.
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

    /// Cuts the power now.
    pub fn lose_power(&mut self) {
        self.note(1, || "POWER CUT".into());
        self.off = true;
        self.cut = None;
        self.camera = None;
        self.monitors.off = true;
        let mut in_flight = std::mem::take(&mut self.in_flight);
        self.rng.shuffle(&mut in_flight);
        // In some cuts, all operations in flight share one outcome.
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
        // The engine still turns: its operations end with errors that no longer matter.
        self.in_flight = in_flight;
    }

    /// Restores the power, with nothing in flight.
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

    /// Whether nothing is in flight.
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
            // Junk, so that an engine that looks before the completion is caught.
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
                    // The stripe stays marked until the deallocation ends. If nothing else is due, time jumps
                    // to that end in one step.
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
        // One by one: if a completion triggers a cut, the other operations that were due may still land in
        // part.
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
                    // Several probes may share their memory, and their content is not used.
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

/// Whether this is a write of metadata that a start reads. The log zone is excluded: it is only ever wiped.
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
