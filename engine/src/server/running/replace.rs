//! A device takes an empty slot of a running array.
//!
//! 1. The server decides from what the array says now: no device is opened for an array that does not take one.
//! 2. The device is opened and checked; no lock is held meanwhile, for it may not answer.
//! 3. The server decides again, and only then wipes what other programs have left on the device outside of the array's zones.
//! 4. Every ring learns of the device, and the steward is ordered to take it in: it wipes the array's zones, puts the device on
//!    record and fills it (array/arrival.rs).
//! 5. If a ring or the steward refuses, every ring forgets the device again, and its index is free (`devices`).
//!
//! Nothing here waits without a bound but step 2, which waits for the device alone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam::channel::bounded;

use crate::array::Order;
use crate::clock::{Clock, MonotonicClock};
use crate::device::{Access, Device};
use crate::reactor::ReactorOrder;
use crate::ring::{DeviceIndex, Uring, UringDevice};

use super::super::fit::{blocks_suit, too_large};
use super::super::open::{open_all, refuse_content, wipe_outside_of_zones};
use super::super::{ServerError, random};
use super::{Refusal, STOP_TIMEOUT, Server};

/// Replacements under way at a time. One may wait for a device that never answers, and must not keep others from trying; and all
/// of them must leave places at the control socket.
const REPLACEMENTS_MAX: u32 = 4;

/// A replacement under way.
struct UnderWay<'a>(&'a AtomicU32);

impl UnderWay<'_> {
    fn begin(count: &AtomicU32) -> Result<UnderWay<'_>, ServerError> {
        let under_way = UnderWay(count);
        if count.fetch_add(1, Ordering::AcqRel) < REPLACEMENTS_MAX {
            return Ok(under_way);
        }
        Err(ServerError(format!(
            "{REPLACEMENTS_MAX} replacements wait for their devices: wait for them, or stop the array"
        )))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How long rings may have to forget a device that was refused, and how often they are asked: what was in flight to it
/// completes in milliseconds, or the device does not answer, and they are asked again at the next replacement.
const FORGET_WITHIN: Duration = Duration::from_millis(500);
const FORGET_PAUSE: Duration = Duration::from_millis(10);

impl Server {
    /// Whether a device may take a slot now; the error says why not.
    fn may_join(&self, slot: u8) -> Result<(), ServerError> {
        let rebuilding = self.shared.steward.rebuild_slot.load(Ordering::Relaxed);
        let why = if self.read_only {
            "the array is read-only".into()
        } else if self.is_stopping.load(Ordering::Acquire) {
            "the array is being stopped".into()
        } else if self.shared.failed() {
            "the array has failed: too few members are in sync. Stop it, and serve it again with the members that are well".into()
        } else if self.shared.members.view().writable.has(slot) {
            format!("slot {slot} is in use: `striate fail` it first")
        } else if rebuilding > 0 {
            format!("slot {} is being rebuilt: wait for it (`striate wait`)", rebuilding - 1)
        } else {
            return Ok(());
        };
        Err(ServerError(why))
    }

    /// Puts a new device in an empty slot and starts its rebuild. What the device holds is overwritten only
    /// with `force`.
    pub fn replace(&self, slot: usize, path: PathBuf, force: bool) -> Result<(), ServerError> {
        let slot = self.checked(slot)?;
        self.may_join(slot)?;
        let _under_way = UnderWay::begin(&self.replacements)?;
        // A device that was refused before may be this one.
        for index in self.devices.leaving() {
            let _asked_again_next_time = self.forget(index);
        }
        let device = open_all(std::slice::from_ref(&path), Access::ReadWrite)?.remove(0);
        let facts = device.facts();
        let needed = self.record.zones.end_bytes();
        if facts.size_bytes < needed {
            return Err(ServerError(format!(
                "{}: has {} bytes, and a member of this array needs {needed}",
                path.display(),
                facts.size_bytes
            )));
        }
        if !blocks_suit(self.record.logical_block_bytes, facts.logical_block_bytes) {
            return Err(too_large(&device, facts.logical_block_bytes, self.record.logical_block_bytes));
        }
        if facts.volatile_cache && !self.front.admits_volatile_cache() {
            return Err(ServerError(format!(
                "{}: has a volatile cache, which the block device was made without: stop the array, serve it again, then replace",
                path.display()
            )));
        }
        refuse_content(&device, force)?;
        // Opening a device may take its time, and nothing may be written to one that the array does not take.
        self.may_join(slot)?;
        wipe_outside_of_zones(&device)?;
        self.take_in(slot, device)
    }

    /// Has every ring learn of the device, and the array take it in.
    fn take_in(&self, slot: u8, device: Device) -> Result<(), ServerError> {
        let (volatile, path) = (device.facts().volatile_cache, device.path().to_path_buf());
        let attached = self.reactors.iter().map(|_| device.for_ring()).collect::<Result<Vec<_>, _>>()?;
        let index = self.devices.take(device).ok_or_else(|| {
            ServerError("too many replacements in one run: stop and serve the array again".into())
        })?;
        let joined = self
            .attach(index, attached)
            .map_err(|error| Refusal::Refused(format!("{}: cannot be used: {error}", path.display())))
            .and_then(|()| {
                let member = random::identity();
                self.order(|answer| Order::Join { slot, device: index, member, volatile, answer })
            });
        joined.map_err(|refusal| match refusal {
            Refusal::Refused(why) => {
                self.let_go(index);
                ServerError(why)
            }
            // Whether the device is a member is not known, so it is kept.
            Refusal::NoAnswer => refusal.into(),
        })
    }

    /// Puts a device into every ring.
    fn attach(&self, index: DeviceIndex, attached: Vec<UringDevice>) -> Result<(), String> {
        let mut devices = attached.into_iter();
        self.in_every_ring(STOP_TIMEOUT, || {
            let device = devices.next().expect("one for each reactor");
            move |ring: &mut Uring| ring.attach(index, device)
        })
    }

    /// The array has not taken this device: every ring forgets it, and it is closed. A ring that has I/O of it in the kernel is asked
    /// again at the next replacement.
    #[expect(clippy::disallowed_methods, reason = "an operator's call waits here, and no reactor")]
    fn let_go(&self, index: DeviceIndex) {
        self.devices.leave(index);
        let until_ns = MonotonicClock.now_ns() + FORGET_WITHIN.as_nanos() as u64;
        while !self.forget(index) && MonotonicClock.now_ns() < until_ns {
            std::thread::sleep(FORGET_PAUSE);
        }
    }

    /// Asks every ring to forget a device that was refused; whether all have.
    fn forget(&self, index: DeviceIndex) -> bool {
        let is_forgotten =
            self.in_every_ring(FORGET_WITHIN, || move |ring: &mut Uring| ring.detach(index)).is_ok();
        if is_forgotten {
            self.devices.free(index);
        }
        is_forgotten
    }

    /// Does something to the ring of every reactor, on its thread. The first error, if any; the reactors after it are not asked.
    fn in_every_ring<A>(&self, within: Duration, mut act: impl FnMut() -> A) -> Result<(), String>
    where
        A: FnOnce(&mut Uring) -> std::io::Result<()> + Send + 'static,
    {
        for (me, reactor) in self.reactors.iter().enumerate() {
            let (done, outcome) = bounded(1);
            let act = act();
            let order = ReactorOrder::WithRing(Box::new(move |ring: &mut Uring| drop(done.send(act(ring)))));
            reactor.port.order(&self.shared, me as u8, order);
            outcome
                .recv_timeout(within)
                .map_err(|_| format!("reactor {me} does not answer"))?
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test waits, and tells the time")]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::device::OpenMode;
    use crate::limits::DEVICES_MAX;
    use crate::server::{CreateOptions, Init, Level, ServeOptions, create};

    const MEMBER_BYTES: u64 = 8 << 20;
    /// An order that needs no device is answered within this time; doubled, since the machine may have other work.
    const AT_ONCE: Duration = Duration::from_millis(200);

    /// A RAID-5 of four files, with two reactors, and a file beside it that is no member.
    struct Stage {
        server: Server,
        spare: PathBuf,
        directory: PathBuf,
    }

    impl Stage {
        fn new(name: &str) -> Stage {
            let directory = std::env::temp_dir().join(format!("striate-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let members: Vec<PathBuf> = (0..4).map(|nth| directory.join(format!("m{nth}"))).collect();
            let options = CreateOptions {
                name: name.into(),
                level: Level::Raid5,
                chunk_bytes: 64 << 10,
                members: members.clone(),
                file_bytes: Some(MEMBER_BYTES),
                init: Init::Zero,
                force: false,
            };
            create(&options, &mut |_| {}).unwrap();
            let spare = directory.join("spare");
            crate::device::create_file(&spare, MEMBER_BYTES).unwrap();
            let nbd = vec![format!("unix:{}", directory.join("socket").display())];
            let options = ServeOptions { members, reactors: 2, nbd, ..ServeOptions::default() };
            Stage { server: Server::start(options).unwrap(), spare, directory }
        }

        fn open_spare(&self) -> Device {
            Device::open(&self.spare, OpenMode::SERVE).expect("nobody has it open")
        }

        fn wait_for_rebuild(&self) {
            while self.server.shared.steward.rebuild_slot.load(Ordering::Relaxed) > 0 {
                std::thread::sleep(FORGET_PAUSE);
            }
        }
    }

    impl Drop for Stage {
        fn drop(&mut self) {
            let _stopped_before = self.server.stop();
            std::fs::remove_dir_all(&self.directory).unwrap();
        }
    }

    /// The device is in every ring when the array refuses it. Its index, its descriptors and its lock are given back, so it
    /// may be refused any number of times, and joins in the end.
    #[test]
    fn a_refused_device_is_let_go() {
        let stage = Stage::new("let-go");
        for _ in 0..2 * DEVICES_MAX {
            let refused = stage.server.take_in(1, stage.open_spare()).unwrap_err();
            assert!(refused.0.contains("slot 1 is in use"), "{refused}");
            assert_eq!(stage.server.devices.leaving(), []);
        }
        stage.server.fail(1).unwrap();
        stage.server.take_in(1, stage.open_spare()).unwrap();
        assert_eq!(stage.server.shared.members.device(1), DeviceIndex(4));
        stage.wait_for_rebuild();
        assert_eq!(stage.server.status().health, crate::status::Health::Optimal);
        stage.server.stop().unwrap();
    }

    #[test]
    fn orders_on_a_failed_array_are_refused_at_once() {
        let stage = Stage::new("failed");
        for slot in [0, 2] {
            stage.server.shared.members.fail(slot, crate::members::Failure::Operator);
        }
        let at_once = |what: &str, refused: &dyn Fn() -> Result<(), ServerError>| {
            let began = Instant::now();
            let why = refused().expect_err("the array has failed").0;
            assert!(why.contains("has failed"), "{what}: {why}");
            assert!(began.elapsed() < AT_ONCE, "{what} took {:?}", began.elapsed());
        };
        at_once("replace", &|| stage.server.replace(0, stage.spare.clone(), true));
        at_once("fail", &|| stage.server.fail(1));
        at_once("a device that was opened before", &|| stage.server.take_in(0, stage.open_spare()));
        drop(stage.open_spare());
        let began = Instant::now();
        assert_eq!(stage.server.status().health, crate::status::Health::Failed);
        let why = stage.server.stop().expect_err("it cannot be marked clean").0;
        assert!(why.contains("has failed"), "{why}");
        assert!(began.elapsed() < 4 * AT_ONCE, "a stop took {:?}", began.elapsed());
    }

    /// After a stop has begun nothing is written to a device, and no call waits for reactors that are gone.
    #[test]
    fn a_stopped_array_takes_no_device() {
        let stage = Stage::new("stopped");
        stage.server.fail(3).unwrap();
        stage.server.stop().unwrap();
        let began = Instant::now();
        let refused = stage.server.replace(3, stage.spare.clone(), true).unwrap_err();
        assert!(refused.0.contains("being stopped"), "{refused}");
        assert!(began.elapsed() < AT_ONCE);
        assert_eq!(stage.server.status().members.len(), 4, "it can still be looked at");
    }
}
