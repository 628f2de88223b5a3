//! Faults of operations: writes that land in part, aimed faults, deallocated strips.

use engine::ring::MemberIo;

use crate::aim::{Ask, Fault, spot_of};
use crate::disk::{Place, Refusal, SECTOR, ZoneKind};
use crate::rng::Rng;

use super::{Bus, EAGAIN, EIO, ENOSPC, InFlight, show};

impl Bus {
    /// The aimed fault, if it hits this operation now. `begins` tells the push from the completion: some
    /// faults act at the push, the others at the end.
    pub(super) fn aimed(
        &mut self,
        disk: usize,
        place: Option<Place>,
        io: MemberIo,
        begins: bool,
    ) -> Option<Fault> {
        let aim = self.aim.as_mut()?;
        if matches!(aim.fault, Fault::Slow | Fault::Stuck | Fault::CutBefore) != begins {
            return None;
        }
        let geometry = self.monitors.watched?.geometry;
        let spot = spot_of(place, &geometry, self.slots.get(disk).copied().flatten());
        aim.is_hit(disk, place, spot, Ask::of(io)).then_some(aim.fault)
    }

    /// Whether a write to one of these sectors is in flight on this disk.
    #[must_use]
    pub fn is_being_written(&self, disk: usize, place: Place) -> bool {
        self.in_flight.iter().any(|op| {
            op.disk == disk
                && matches!(op.op.io, MemberIo::Write(_))
                && op.place.is_some_and(|other| {
                    other.first < place.first + place.count && place.first < other.first + other.count
                })
        })
    }

    /// Whether a write or a deallocation is in flight on this disk.
    #[must_use]
    pub fn is_being_changed(&self, disk: usize) -> bool {
        let changes = |io| matches!(io, MemberIo::Write(_) | MemberIo::Deallocate);
        self.in_flight.iter().any(|op| op.disk == disk && changes(op.op.io))
    }

    /// Whether a sector of this disk refuses writes.
    fn is_worn(&self, disk: usize, sector: u64) -> bool {
        self.worn && self.disks[disk].bad.contains(&sector)
    }

    /// Lands a write not at all, whole, or in some of its blocks.
    pub(super) fn land_in_part(&mut self, op: &InFlight, common: Option<u64>) {
        let style = common.unwrap_or_else(|| self.rng.below(3));
        let Some(place) = op.place.filter(|_| style > 0) else { return };
        let (block_sectors, mut lands) = (self.disks[op.disk].block_sectors, false);
        for (nth, sector) in place.sectors().enumerate() {
            if sector.is_multiple_of(block_sectors) {
                lands = style == 1 || self.rng.chance(50);
            }
            if lands && !self.is_worn(op.disk, sector) {
                let bytes = op.pushed[nth * SECTOR..][..SECTOR].try_into().expect("a sector");
                self.disks[op.disk].write_sector(sector, &bytes, self.moment);
            }
        }
    }

    /// Deallocates strips: afterwards they hold zeros, junk, or the old content.
    pub(super) fn forget(&mut self, op: &InFlight) {
        let (mut style, place) = (self.rng.below(3), op.place.expect("a deallocation has a place"));
        if self.by_choice {
            (style, self.rng) = (1, Rng::new(place.first));
        }
        for sector in place.sectors() {
            let mut bytes = [0; SECTOR];
            if style == 1 {
                bytes
                    .chunks_exact_mut(8)
                    .for_each(|word| word.copy_from_slice(&self.rng.next().to_le_bytes()));
            }
            if style < 2 && !self.is_worn(op.disk, sector) {
                self.disks[op.disk].write_sector(sector, &bytes, self.moment);
            }
        }
    }

    /// Whether this is a write of a strip that meets a worn sector. Nothing of such a write lands.
    fn wears_out(&mut self, op: &InFlight) -> bool {
        let Some(place) = op.place.filter(|place| place.zone == ZoneKind::Data) else { return false };
        let is_refused = self.worn
            && matches!(op.op.io, MemberIo::Write(_))
            && !self.disks[op.disk].dead
            && place.sectors().any(|sector| self.is_worn(op.disk, sector));
        if is_refused {
            self.refused_strips.push((op.disk, place.first));
        }
        is_refused
    }

    /// The error of a disk that refuses this operation. Part of a write that found no room may have landed.
    pub(super) fn refused(&mut self, op: &InFlight) -> Option<i32> {
        if self.wears_out(op) {
            return Some(EIO);
        }
        let Refusal { errno, percent, metadata } = self.disks[op.disk].refusal?;
        let is_strip = op.place.is_some_and(|place| place.zone == ZoneKind::Data);
        let refuses = match op.op.io {
            MemberIo::Read => is_strip && !metadata && errno != ENOSPC,
            MemberIo::Write(_) => is_strip != metadata,
            MemberIo::Flush => metadata,
            MemberIo::Deallocate => false,
        };
        if !refuses || self.blocking || self.disks[op.disk].dead || !self.rng.chance(percent) {
            return None;
        }
        if op.op.io == MemberIo::Read
            && let Some(place) = op.place
        {
            self.disks[op.disk].failed_reads.extend(place.sectors());
        }
        if matches!(op.op.io, MemberIo::Write(_)) && is_strip {
            self.refused_strips.extend(op.place.map(|place| (op.disk, place.first)));
        }
        if errno == ENOSPC && is_strip {
            self.land_in_part(op, None);
        }
        Some(errno)
    }

    /// Applies an aimed fault at the end of an operation. Returns `None` if the operation is carried out all
    /// the same.
    pub(super) fn go_wrong(&mut self, op: &InFlight, fault: Fault) -> Option<Result<(), i32>> {
        self.note(14, || format!("FAULT {fault:?} on disk {}: {:?} {}", op.disk, op.op.io, show(op.place)));
        self.monitors.superblocks_changed = true;
        self.faults_hit += 1;
        match fault {
            Fault::Error | Fault::Busy => {
                if op.op.io == MemberIo::Read
                    && let Some(place) = op.place
                {
                    self.disks[op.disk].failed_reads.extend(place.sectors());
                }
                Some(Err(if fault == Fault::Busy { EAGAIN } else { EIO }))
            }
            Fault::Torn => {
                self.land_in_part(op, None);
                Some(Err(EIO))
            }
            Fault::Latent => {
                let place = op.place.expect("a read has a place");
                self.disks[op.disk].bad.extend(place.sectors());
                self.disks[op.disk].failed_reads.extend(place.sectors());
                Some(Err(EIO))
            }
            Fault::Death => {
                self.disks[op.disk].dead = true;
                Some(Err(EIO))
            }
            Fault::Lost => Some(Ok(())),
            Fault::Misdirected => {
                let place = op.place.expect("a metadata write has a place");
                // The other place of the pair: a superblock's A and B, a bitmap block's even and odd.
                let first = place.first ^ 8;
                for (nth, bytes) in op.pushed.chunks_exact(SECTOR).enumerate() {
                    let bytes = bytes.try_into().expect("a sector");
                    self.disks[op.disk].write_sector(first + nth as u64, bytes, self.moment);
                }
                self.disks[op.disk].force(Place { first, ..place });
                Some(Ok(()))
            }
            Fault::Landed | Fault::CutAfter | Fault::Flip => None,
            Fault::Slow | Fault::Stuck | Fault::CutBefore => unreachable!("hit at its begin"),
        }
    }
}
