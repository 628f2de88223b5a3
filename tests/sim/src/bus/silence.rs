//! Disks that do not answer, for a while or for ever.

use super::Bus;

/// The silence of one disk. Operations pushed meanwhile end after the silence. In a silence without an end
/// ([`ENDLESS`]), this includes the operations that were in flight when it began.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// Index of the silent disk.
    pub disk: usize,
    /// Time at which the silence began.
    pub since_ns: u64,
    /// Time at which the silence ends, or [`ENDLESS`] if only [`Bus::wake`] ends it.
    pub until_ns: u64,
    /// Time at which an operation other than a deallocation was first pushed during the silence.
    pub asked_ns: Option<u64>,
    /// Whether stripes needed a resync meanwhile: the array then waits ten times its patience.
    pub unsynced: bool,
}

/// The end of a silence that only [`Bus::wake`] ends.
pub const ENDLESS: u64 = u64::MAX;

impl Bus {
    /// Makes a disk stop answering from now on.
    pub fn fall_silent(&mut self, disk: usize, until_ns: u64) {
        self.note(16, || format!("SILENCE of disk {disk}"));
        let since_ns = self.now_ns;
        self.silences.retain(|silence| silence.disk != disk);
        self.silences.push(Silence { disk, since_ns, until_ns, asked_ns: None, unsynced: false });
        if until_ns == ENDLESS {
            let in_flight = self.in_flight.iter_mut().filter(|op| op.disk == disk);
            in_flight.for_each(|op| op.due_ns = ENDLESS);
        }
    }

    /// The present silence of a disk, if any.
    #[must_use]
    pub fn silence_of(&self, disk: usize) -> Option<&Silence> {
        self.silences.iter().find(|silence| silence.disk == disk && self.now_ns < silence.until_ns)
    }

    /// Makes a silent disk answer again: its pending operations are carried out late and in any order.
    pub fn wake(&mut self, disk: usize) {
        let Some(at) = self.silences.iter().position(|silence| silence.disk == disk) else { return };
        self.note(17, || format!("WAKING of disk {disk}"));
        self.silences.swap_remove(at);
        for op in self.in_flight.iter_mut().filter(|op| op.disk == disk && op.due_ns == ENDLESS) {
            op.due_ns = self.now_ns + self.rng.below(2_000_000);
        }
    }

    /// Makes every silent disk answer again.
    pub fn wake_all(&mut self) {
        let silent: Vec<usize> = self.silences.iter().map(|silence| silence.disk).collect();
        silent.into_iter().for_each(|disk| self.wake(disk));
    }
}
