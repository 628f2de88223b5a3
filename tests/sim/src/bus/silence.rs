//! Disks that do not answer, for a while or for good.

use super::Bus;

/// A disk that does not answer: what it is asked meanwhile, and what was in flight when it began, ends when that is over.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// The disk.
    pub disk: usize,
    /// When it began.
    pub since_ns: u64,
    /// When it is over; [`ENDLESS`] for when [`Bus::wake`] says so.
    pub until_ns: u64,
    /// When it was asked first.
    pub asked_ns: Option<u64>,
    /// Whether stripes needed a resync meanwhile: the array then waits for ten times its patience.
    pub unsynced: bool,
}

/// The end of a silence that does not end by itself.
pub const ENDLESS: u64 = u64::MAX;

impl Bus {
    /// A disk does not answer from now on.
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

    /// The silence of a disk, while it lasts.
    #[must_use]
    pub fn silence_of(&self, disk: usize) -> Option<&Silence> {
        self.silences.iter().find(|silence| silence.disk == disk && self.now_ns < silence.until_ns)
    }

    /// A silent disk answers again: what it was asked is carried out, late and in any order.
    pub fn wake(&mut self, disk: usize) {
        let Some(at) = self.silences.iter().position(|silence| silence.disk == disk) else { return };
        self.note(17, || format!("WAKING of disk {disk}"));
        self.silences.swap_remove(at);
        for op in self.in_flight.iter_mut().filter(|op| op.disk == disk && op.due_ns == ENDLESS) {
            op.due_ns = self.now_ns + self.rng.below(2_000_000);
        }
    }

    /// Every silent disk answers again.
    pub fn wake_all(&mut self) {
        let silent: Vec<usize> = self.silences.iter().map(|silence| silence.disk).collect();
        silent.into_iter().for_each(|disk| self.wake(disk));
    }
}
