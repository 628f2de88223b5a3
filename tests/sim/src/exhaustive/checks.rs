//! Checks at each event of a machine: the simulator's rules, on logical blocks.

use bitmap::Cell;

use super::machine::{Asked, BLOCK_BYTES, Machine};
use super::scope::STRIPES;
use crate::disk::{SECTORS_PER_PAGE, name_of};
use crate::monitors::Monitors;

impl Machine<'_> {
    pub(super) fn check_read(&mut self, asked: &Asked) {
        let (memory, oracle) = (&self.memory, &mut self.oracle);
        memory.with(asked.span, |bytes| {
            for (block, bytes) in (asked.ask.first..).zip(bytes.chunks_exact(BLOCK_BYTES as usize)) {
                let name = name_of(bytes);
                assert!(
                    oracle.read_ends(block, asked.start, name),
                    "READ: block {block} reads as {name:x}; may be {:x?}",
                    oracle.allowed(block, asked.start)
                );
            }
        });
    }

    /// Whether a stripe reads as zeros, so that the content of its strips does not matter yet.
    pub(super) fn holds_nothing(&self, stripe: u64) -> bool {
        matches!(self.shared.bitmap.cell(stripe), Cell::Unwritten | Cell::First)
    }

    /// I6, C2 and I3 for the blocks of an acknowledged write.
    pub(super) fn check_written(&mut self, asked: &Asked, fua: bool) {
        let mut bus = self.bus.borrow_mut();
        let in_sync = Monitors::in_sync(&mut bus);
        for block in asked.ask.first..asked.ask.first + asked.ask.count {
            let (slot, page) = self.home_of(&bus, block);
            let Some(disk) = in_sync.get(slot).copied().flatten() else { continue };
            if self.holds_nothing(self.stripe_of(block)) {
                continue;
            }
            let name = name_of(bus.disks[disk].page_now(page));
            assert!(
                self.oracle.allows(block, asked.start, name),
                "I6: {:?} is acknowledged, and slot {slot}, which an assembly would believe, holds something else",
                asked.ask
            );
            assert!(
                !fua || bus.disks[disk].cached().all(|(sector, _)| sector / SECTORS_PER_PAGE != page),
                "C2: {:?} is acknowledged, and block {block} is not durable on slot {slot}",
                asked.ask
            );
        }
        drop(bus);
        self.check_parity("acknowledged");
    }

    /// I6, checked after each superblock.
    pub(super) fn check_members(&mut self) {
        let mut bus = self.bus.borrow_mut();
        let in_sync = Monitors::in_sync(&mut bus);
        let now = self.oracle.now();
        for block in self.oracle.touched() {
            let (slot, page) = self.home_of(&bus, block);
            let Some(disk) = in_sync.get(slot).copied().flatten() else { continue };
            if self.holds_nothing(self.stripe_of(block)) {
                continue;
            }
            let name = name_of(bus.disks[disk].page_now(page));
            assert!(
                self.oracle.allows(block, now, name),
                "I6: an assembly would believe slot {slot} from now on, and its block {block} is not what was acknowledged"
            );
        }
        drop(bus);
        self.check_parity("a superblock is durable");
    }

    /// Checks I3 for every stripe at rest.
    pub fn check_parity(&self, why: &str) {
        let mut bus = self.bus.borrow_mut();
        if bus.monitors.watched.is_none() {
            return;
        }
        for stripe in 0..STRIPES {
            let trusted = !self.holds_nothing(stripe) && self.shared.bitmap.cell(stripe) != Cell::NeedSync;
            if trusted && self.shared.locks.is_free(stripe) {
                let chunk = u64::from(self.template.geometry.chunk_bytes());
                Monitors::check_parity(&mut bus, stripe, 0, chunk, why);
            }
        }
    }
}
