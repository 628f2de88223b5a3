//! Members that went back in time: a restored snapshot, a clone, or a disk whose link was down while the
//! others went on.
//!
//! Images are taken before the first start, at rest, during loads, starts and stops, and after stops. When
//! the array is down, after a stop in order or a power cut, some members get older content back. The array is
//! then started, now and then read-only first. An array that runs is verified as usual: every acknowledged
//! byte is there and parity matches, so a member with older content was left out, or does not differ. The
//! start may be refused instead; then the members get back what they held, and the array starts. A start must
//! not be refused if the array was stopped in order and enough members were not touched.
//!
//! There are three ways. Some members go back, up to as many as the level can miss; or more than that; or all
//! members go back to one stop in order. In the last case the result is the array as of that stop, and
//! everything that was acknowledged by then must be there.

use std::rc::Rc;

use crate::images::{Camera, Image, is_known_to_be_old};
use crate::world::StartOutcome;

use super::Story;

/// The way in which the array went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Down {
    /// The array was stopped in order.
    Stopped,
    /// The power went.
    Cut,
}

impl Story {
    pub(super) fn rollback(&mut self) {
        self.rollback_percent = 60;
        let probes = self.world.rng.pick(&[0, 1, 5]);
        self.world.bus.borrow_mut().probes.data_percent = probes;
        for _ in 0..self.world.rng.between(2, 5) {
            self.load_and_remember();
            if self.chance(20) && self.world.spare() > 0 {
                self.die_or_be_failed();
                self.load(1, 20);
            }
            if self.chance(30) {
                self.replace();
                if self.chance(60) {
                    self.settle();
                }
            }
            let down = if self.chance(40) { self.remember_and_cut() } else { self.stop_and_remember() };
            self.start_rolled_back(down);
            self.verify();
        }
        self.end();
    }

    fn load_and_remember(&mut self) {
        for _ in 0..self.world.rng.between(1, 3) {
            match self.world.rng.below(4) {
                0 => self.remember_some(),
                1 => self.rest(),
                _ => self.take_images_in_the_middle(150),
            }
            self.load(2, 50);
        }
        if self.chance(40) {
            self.rest();
            self.remember_some();
        }
    }

    /// Takes images of one or two disks now.
    fn remember_some(&mut self) {
        let (disks, as_read) = (self.some_disks(), self.chance(50));
        self.world.bus.borrow_mut().keep_images(&disks, as_read);
    }

    /// Takes images of one or two disks after some more operations.
    fn take_images_in_the_middle(&mut self, within: u64) {
        let camera = Camera {
            after: self.world.rng.below(within),
            disks: self.some_disks(),
            as_read: self.chance(50),
        };
        self.world.bus.borrow_mut().camera = Some(camera);
    }

    fn some_disks(&mut self) -> Vec<usize> {
        let mut disks = self.world.alive_disks();
        self.world.rng.shuffle(&mut disks);
        disks.truncate(self.world.rng.between(1, 2) as usize);
        disks
    }

    fn remember_and_cut(&mut self) -> Down {
        if self.chance(50) {
            self.take_images_in_the_middle(150);
        }
        self.load_and_cut();
        Down::Cut
    }

    /// Stops the array and keeps its state. A power cut may come before the stop has ended.
    pub(super) fn stop_and_remember(&mut self) -> Down {
        if self.chance(30) {
            self.take_images_in_the_middle(30);
        }
        let Some(answer) = self.world.order_stop() else {
            self.world.after_cut();
            return Down::Cut;
        };
        assert!(answer.is_ok(), "STOP: refused: {answer:?}");
        self.world.remember_stop();
        Down::Stopped
    }

    /// Puts older content back on some members, and starts the array.
    pub(super) fn start_rolled_back(&mut self, down: Down) {
        let in_sync = self.world.in_sync_disks();
        let data = usize::from(self.world.geometry.data());
        let was_older = self.world.older;
        let roll = self.world.rng.below(100);
        if roll < 10 && down == Down::Stopped && self.world.stops.len() > 1 {
            let stop =
                Rc::clone(&self.world.stops[self.world.rng.below(self.world.stops.len() as u64) as usize]);
            let was_done = self.world.return_to(&stop);
            self.start_expecting(was_done, Vec::new(), was_older);
            return;
        }
        let many = match roll {
            0..70 => self.world.rng.between(1, u64::from(self.world.geometry.parities())) as usize,
            _ => self.world.rng.between(1, in_sync.len().max(2) as u64 - 1) as usize,
        };
        let held = self.put_back(many, down, &in_sync);
        let untouched = in_sync.iter().filter(|disk| held.iter().all(|image| image.disk != **disk)).count();
        let must_run = down == Down::Stopped && untouched >= data || held.is_empty();
        self.start_expecting(must_run, held, was_older);
    }

    /// Puts older content on up to `many` disks. After a power cut, only images that the other disks prove to
    /// be old are used. Returns what the disks held before.
    fn put_back(&mut self, many: usize, down: Down, in_sync: &[usize]) -> Vec<Image> {
        let mut victims: Vec<Rc<Image>> = Vec::new();
        let mut images = self.images();
        self.world.rng.shuffle(&mut images);
        for image in images {
            if victims.len() < many && victims.iter().all(|other| other.disk != image.disk) {
                victims.push(image);
            }
        }
        if down == Down::Cut {
            let is_victim = |disk: &usize| victims.iter().any(|image| image.disk == *disk);
            let others: Vec<usize> = in_sync.iter().copied().filter(|disk| !is_victim(disk)).collect();
            let proven = self.world.proven_by(&others);
            victims.retain(|image| is_known_to_be_old(image, proven));
        }
        let mut bus = self.world.bus.borrow_mut();
        self.world.older |= !victims.is_empty();
        victims.iter().map(|image| bus.put_back(image)).collect()
    }

    /// All images of disks that are not dead, including those taken at stops.
    fn images(&self) -> Vec<Rc<Image>> {
        let alive = self.world.alive_disks();
        let kept = self.world.bus.borrow().images.clone();
        // A disk may still hold what it held at the last stop; the image then changes nothing.
        let stops = self.world.stops.iter().flat_map(|stop| stop.images().iter().cloned());
        kept.into_iter().chain(stops).filter(|image| alive.contains(&image.disk)).collect()
    }

    /// Starts the array. If the start is refused, and need not succeed, the disks get back what they `held`
    /// before, and the array is started again. In a branch of a start in which a member `was_older` already,
    /// that start may be refused too.
    fn start_expecting(&mut self, must_run: bool, held: Vec<Image>, was_older: bool) {
        // A branch of a start with an older member knows no more than that start, so it may be refused too.
        let must_run = must_run && !(self.world.older && held.is_empty());
        if self.chance(15) {
            self.look_read_only(must_run);
        }
        if self.chance(20) {
            let cut = self.cut_in_a_start();
            self.choose_present(false);
            match self.world.start(Some(cut)) {
                StartOutcome::Running => return self.explore(),
                StartOutcome::PowerCut => {
                    self.pending_cuts += 1;
                    self.world.after_cut();
                }
                StartOutcome::Refused => {
                    assert!(!must_run, "START: refused, and enough members were not touched")
                }
            }
        }
        self.choose_present(false);
        let outcome = self.world.start(None);
        if outcome == StartOutcome::Running {
            return self.explore();
        }
        assert!(!must_run, "START: refused, and enough members were not touched");
        for image in held {
            self.world.bus.borrow_mut().put_back(&image);
        }
        self.world.older = was_older;
        self.restart_present(false);
    }

    /// Looks at the array that all living disks make up.
    fn look_read_only(&mut self, must_run: bool) {
        let alive = self.world.alive_disks();
        self.look_read_only_from(&alive, must_run);
    }

    /// Looks at the array that these disks make up.
    pub(super) fn look_read_only_from(&mut self, disks: &[usize], must_run: bool) {
        let outcome = self.world.look(disks);
        assert!(
            outcome == StartOutcome::Running || !must_run,
            "START: refused read-only, and enough members were not touched"
        );
    }
}
