//! Older contents of members, as a snapshot, a clone or an operator's copy would bring them back, and the
//! proof that they are old.
//!
//! An image is the content of one disk at one moment of the run: either as a reader saw it, or as a power cut
//! would have left it. [`Bus::remember`] takes images now; a [`Camera`] takes them during a load, a start or
//! a stop. A story replaces the contents of disks by images, and starts the array: see `story::rollback`.
//!
//! **What an engine can know.** The record counts its epochs, and within an epoch its moves. A change is on
//! one copy of every participant before it is written to their second copies. So a disk that holds the change
//! in both copies proves that all participants have held it. An image with an older record is then known to
//! be old, and the engine must not believe it. After a stop in order, this applies to every image that was
//! taken before the stop. After a power cut, an image may be as new as the last proven change: nothing
//! distinguishes it from what the cut could have left, and the stories do not put it back.

use std::rc::Rc;

use engine::format::superblock::{Copy, Record, decode};

use crate::bus::Bus;
use crate::disk::{Disk, PAGE};

/// Most images that are kept, not counting those of stops in order.
const IMAGES_MAX: usize = 12;

/// Content of one disk at one moment.
#[derive(Clone)]
pub struct Image {
    /// Index of the disk.
    pub disk: usize,
    /// Content of the disk.
    pub content: Disk,
    /// Moment of the bus at which the image was taken.
    pub moment: u64,
}

/// Takes images of some disks after a number of operations were pushed or completed.
#[derive(Clone, Debug)]
pub struct Camera {
    /// Number of operations to wait for.
    pub after: u64,
    /// The disks to take images of.
    pub disks: Vec<usize>,
    /// Whether to take what a reader sees, including volatile caches; otherwise what a power cut would leave.
    pub as_read: bool,
}

/// Age of a record: its epoch, and its moves within the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// Number of the epoch.
    pub epoch: u64,
    /// Changes of the record within the epoch.
    pub moves: u64,
}

impl Age {
    /// The age of a record.
    #[must_use]
    pub const fn of(record: &Record) -> Age {
        Age { epoch: record.epoch.name.number, moves: record.moves }
    }
}

impl Bus {
    /// Takes images of these disks now.
    pub fn remember(&mut self, disks: &[usize], as_read: bool) -> Vec<Rc<Image>> {
        self.note(18, || {
            format!("IMAGES of disks {disks:?}, as {}", if as_read { "read" } else { "durable" })
        });
        let image = |&disk: &usize| {
            let content = self.disks[disk].image(as_read);
            Rc::new(Image { disk, content, moment: self.moment })
        };
        disks.iter().map(image).collect()
    }

    /// Takes images of these disks now, and keeps them with the others.
    pub fn keep_images(&mut self, disks: &[usize], as_read: bool) {
        for image in self.remember(disks, as_read) {
            if self.images.len() >= IMAGES_MAX {
                let oldest = self.rng.below(self.images.len() as u64) as usize;
                self.images.swap_remove(oldest);
            }
            self.images.push(image);
        }
    }

    /// Counts an operation that was pushed or has completed, and takes the images when the camera's count is
    /// reached.
    pub(crate) fn count_down_camera(&mut self) {
        let Some(camera) = &mut self.camera else { return };
        if camera.after > 0 {
            camera.after -= 1;
            return;
        }
        let camera = self.camera.take().expect("looked at above");
        self.keep_images(&camera.disks, camera.as_read);
    }

    /// Removes disks whose superblocks belong to another life of the array, and which the array has not taken
    /// in.
    pub fn take_apart_away(&mut self) {
        for &disk in &self.monitors.apart {
            self.disks[disk].dead = true;
        }
    }

    /// Replaces the content of a disk by an image, and returns the content until now.
    pub fn put_back(&mut self, image: &Image) -> Image {
        let disk = image.disk;
        self.note(19, || format!("ROLLBACK of disk {disk} to moment {}", image.moment));
        let mut now = self.disks[disk].image(true);
        std::mem::swap(&mut now, &mut self.disks[disk]);
        self.disks[disk] = image.content.clone();
        self.monitors.superblocks_changed = true;
        Image { disk, content: now, moment: self.moment }
    }
}

/// Ages of the two superblock copies of a disk; `None` for a copy that is not valid.
#[must_use]
pub fn ages(disk: &mut Disk) -> [Option<Age>; 2] {
    [Copy::A, Copy::B].map(|copy| {
        let (place, mut bytes) = (disk.place(copy.offset_bytes(), PAGE as u64), [0; PAGE]);
        disk.read_metadata(place, &mut bytes);
        decode(&bytes, copy).ok().map(|superblock| Age::of(&superblock.record))
    })
}

/// The newest record that these disks prove to have been on all participants. Two copies of different epochs
/// prove nothing: a crash may have interrupted the older epoch before all its participants held it, and the
/// newer epoch began from there.
#[must_use]
pub fn proven(bus: &mut Bus, disks: &[usize]) -> Option<Age> {
    let of_disk = |&disk: &usize| match ages(&mut bus.disks[disk]) {
        [Some(a), Some(b)] if a.epoch == b.epoch => Some(a.min(b)),
        _ => None,
    };
    disks.iter().filter_map(of_disk).max()
}

/// Whether an image is known to be old, given the newest proven record.
#[must_use]
pub fn is_known_to_be_old(image: &Image, proven: Option<Age>) -> bool {
    let newest = ages(&mut image.content.clone()).into_iter().flatten().max();
    proven.is_some_and(|proven| newest.is_none_or(|newest| newest < proven))
}
