//! A new device takes an empty slot of a running array.
//!
//! 1. The server checks the array's current state: if the array accepts no device, no device is opened.
//! 2. A helper thread opens and examines the device within the member timeout (server/bounded.rs), since the
//!    device may not answer. No lock is held meanwhile.
//! 3. Every ring attaches the device, and the steward gets the order to accept it. The steward alone decides:
//!    it accepts one arrival at a time, wipes the device around its data zone, puts it on record and fills it
//!    (steward/arrival.rs). Nothing is written to the device before.
//! 4. If a ring or the steward refuses, every ring forgets the device again, and its index becomes free
//!    (`devices`).
//!
//! Step 3 takes as long as the wiping; the array refuses a device that does not answer.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam::channel::bounded;

use crate::array::Order;
use crate::clock::{Clock, MonotonicClock};
use crate::device::{Access, Device};
use crate::geometry::Slots;
use crate::reactor::ReactorOrder;
use crate::ring::{DeviceIndex, Uring, UringDevice};
use crate::steward::arrival::has_failed;

use super::super::bounded::{all_within, patience};
use super::super::fit::{blocks_suit, too_large};
use super::super::open::{open_within, refuse_ends};
use super::super::{ServerError, random};
use super::Server;
use super::answers::{ANSWER_TIMEOUT, Refusal, order_surely};
use super::devices::Claim;

/// Most replacements in progress at the same time. More than one, because a replacement that waits for its
/// device must not block others; bounded, because the control socket must keep free places.
const REPLACEMENTS_MAX: u32 = 4;

/// A replacement in progress; counted until this value is dropped.
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

/// How long, and how often, rings are asked to forget a refused device. What was in flight to the device
/// completes in milliseconds; otherwise the device does not answer, and the rings are asked again at the next
/// replacement.
const FORGET_WITHIN: Duration = Duration::from_millis(500);
const FORGET_PAUSE: Duration = Duration::from_millis(10);

impl Server {
    /// Whether a device may take a slot now; the error says why not.
    fn may_join(&self, slot: u8) -> Result<(), ServerError> {
        let rebuilding = self.shared.steward.rebuild_slot.load(Ordering::Relaxed);
        let name = self.record.name.as_str();
        let why = if self.read_only {
            "the array is served read-only: serve it without --read-only to fill a slot".into()
        } else if self.is_stopping.load(Ordering::Acquire) {
            "the array is being stopped".into()
        } else if self.shared.failed() {
            has_failed(name)
        } else if self.shared.members.view().writable.has(slot) {
            self.in_use(slot)
        } else if rebuilding > 0 {
            format!("slot {} is being rebuilt: wait for it (`striate wait {name}`)", rebuilding - 1)
        } else {
            return Ok(());
        };
        Err(ServerError(why))
    }

    /// The refusal for a slot that has a member, with advice. A member that cannot be spared is not to be
    /// failed.
    fn in_use(&self, slot: u8) -> String {
        let (view, geometry, name) =
            (self.shared.members.view(), &self.shared.geometry, self.record.name.as_str());
        let by = self.devices.name(self.shared.members.device(slot)).unwrap_or_default();
        let others_missing = geometry.slots().minus(view.readable).minus(Slots::one(slot));
        match others_missing.iter().next() {
            Some(other) if others_missing.count() >= u32::from(geometry.parities()) => format!(
                "slot {slot} is in use by {by}, and cannot be spared: slot {other} is not in sync: fill that first"
            ),
            _ => format!(
                "slot {slot} is in use by {by}: to take it out of service: `striate fail {name} {slot}`"
            ),
        }
    }

    /// Puts a new device into an empty slot and starts its rebuild. Existing content of the device is
    /// overwritten only with `force`.
    pub fn replace(&self, slot: usize, path: PathBuf, force: bool) -> Result<(), ServerError> {
        let slot = self.checked(slot)?;
        self.may_join(slot)?;
        let _under_way = UnderWay::begin(&self.replacements)?;
        // A device that was refused earlier, and is still held, may be this very device: close those that
        // rings forget now.
        for claim in self.devices.reclaim() {
            if self.is_forgotten(&claim) {
                claim.free();
            }
        }
        let patience = patience(self.shared.members.patience_s());
        let mut opened = open_within(std::slice::from_ref(&path), Access::ReadWrite, patience)?;
        let (Some(device), Some(ends)) = (opened.devices.pop(), opened.ends.pop()) else {
            return Err(opened.silent.swap_remove(0));
        };
        let facts = device.facts();
        let needed = self.record.zones.end_bytes();
        if facts.size_bytes < needed {
            return Err(ServerError(format!(
                "{}: has {} bytes, and a member of this array needs {needed}: give a larger device",
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
        if !force {
            refuse_ends(&device, ends)?;
        }
        // Check again: opening the device may take long, and a stopping array must not ask its reactors for
        // anything new.
        self.may_join(slot)?;
        self.take_in(slot, device)
    }

    /// Attaches the device to every ring, and orders the array to accept it.
    fn take_in(&self, slot: u8, device: Device) -> Result<(), ServerError> {
        let path = device.path().to_path_buf();
        let (volatile, device_bytes) = (device.facts().volatile_cache, device.facts().end_bytes);
        let rings = self.reactors.len();
        let attached = (0..rings).map(|_| device.for_ring(rings)).collect::<Result<Vec<_>, _>>()?;
        let claim = self.devices.take(device).ok_or_else(|| {
            ServerError("too many replacements in one run: stop and serve the array again".into())
        })?;
        let joined = self
            .attach(claim.index(), attached)
            .map_err(|error| Refusal::Refused(format!("{}: cannot be used: {error}", path.display())))
            .and_then(|()| {
                let (device, member) = (claim.index(), random::identity());
                let is_there = || !self.is_over.load(Ordering::Acquire);
                order_surely(&self.shared, is_there, |answer| Order::Join {
                    slot,
                    device,
                    member,
                    volatile,
                    device_bytes,
                    answer,
                })
            });
        match joined {
            Ok(()) => claim.keep(),
            Err(Refusal::Refused(why)) => {
                self.let_go(claim);
                return Err(ServerError(why));
            }
            // The array was stopped, and no ring is left that could be asked to forget the device.
            Err(Refusal::NoAnswer) => return Err(Refusal::NoAnswer.into()),
        }
        Ok(())
    }

    /// Attaches a device to every ring.
    fn attach(&self, index: DeviceIndex, attached: Vec<UringDevice>) -> Result<(), String> {
        let mut devices = attached.into_iter();
        self.in_every_ring(ANSWER_TIMEOUT, || {
            let device = devices.next().expect("one for each reactor");
            move |ring: &mut Uring| ring.attach(index, device)
        })
    }

    /// Closes a device that the array refused, after every ring has forgotten it. A ring with I/O of the
    /// device in the kernel is asked again at the next replacement.
    #[expect(clippy::disallowed_methods, reason = "an operator's call waits here, and no reactor")]
    fn let_go(&self, claim: Claim<'_>) {
        let until_ns = MonotonicClock.now_ns() + FORGET_WITHIN.as_nanos() as u64;
        while !self.is_forgotten(&claim) {
            if MonotonicClock.now_ns() >= until_ns {
                return;
            }
            std::thread::sleep(FORGET_PAUSE);
        }
        claim.free();
    }

    /// Asks every ring to forget a refused device; returns whether all did. A ring carries its orders out in
    /// sequence, so once it has answered, no earlier order for this index is outstanding.
    fn is_forgotten(&self, claim: &Claim<'_>) -> bool {
        let index = claim.index();
        self.in_every_ring(FORGET_WITHIN, || move |ring: &mut Uring| ring.detach(index)).is_ok()
    }

    /// Does something to the ring of every reactor, on the reactor's thread. Returns the first error, if any.
    fn in_every_ring<A>(&self, within: Duration, mut act: impl FnMut() -> A) -> Result<(), String>
    where
        A: FnOnce(&mut Uring) -> std::io::Result<()> + Send + 'static,
    {
        let asked: Vec<_> = (0..)
            .zip(&self.reactors)
            .map(|(me, reactor)| {
                let (done, outcome) = bounded(1);
                let act = act();
                let order =
                    ReactorOrder::WithRing(Box::new(move |ring: &mut Uring| drop(done.send(act(ring)))));
                reactor.port.order(&self.shared, me, order);
                outcome
            })
            .collect();
        // Wait for all reactors even after an error: a caller that retries would otherwise fill the queue of
        // a slow reactor.
        let outcomes: Vec<_> = all_within(asked, within).collect();
        let of_one = |(me, outcome): (usize, Option<std::io::Result<()>>)| match outcome {
            None => Err(format!("reactor {me} does not answer")),
            Some(outcome) => outcome.map_err(|error| error.to_string()),
        };
        outcomes.into_iter().enumerate().try_for_each(of_one)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test waits, and tells the time")]
pub(super) mod tests {
    use std::cell::Cell;
    use std::time::Instant;

    use super::*;
    use crate::device::OpenMode;
    use crate::device::silent::Silent;
    use crate::limits::DEVICES_MAX;
    use crate::server::running::answers::LOOK_EVERY;
    use crate::server::{CreateOptions, Init, Level, ServeOptions, create};

    const MEMBER_BYTES: u64 = 8 << 20;
    /// Time within which an order that needs no device is answered; doubled, since the machine may have other
    /// work.
    const AT_ONCE: Duration = Duration::from_millis(200);

    /// A RAID-5 of four files with two reactors, and a spare file that is no member.
    struct Stage {
        server: Server,
        spare: PathBuf,
        directory: PathBuf,
    }

    /// Makes the four files of a new RAID-5, in their own directory.
    pub(in crate::server::running) fn create_members(name: &str) -> (PathBuf, Vec<PathBuf>) {
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
        (directory, members)
    }

    impl Stage {
        fn new(name: &str) -> Stage {
            Stage::with_member_timeout(name, 0)
        }

        fn with_member_timeout(name: &str, member_timeout_s: u32) -> Stage {
            let (directory, members) = create_members(name);
            let spare = directory.join("spare");
            crate::device::create_file(&spare, MEMBER_BYTES).unwrap();
            let nbd = vec![format!("unix:{}", directory.join("socket").display())];
            let options =
                ServeOptions { members, reactors: 2, nbd, member_timeout_s, ..ServeOptions::default() };
            Stage { server: Server::start(options).unwrap(), spare, directory }
        }

        fn open_spare(&self) -> Device {
            Device::open(&self.spare, OpenMode::SERVE).expect("nobody has it open")
        }

        /// Blocks reactor 0 for this time; returns once it is blocked.
        fn hold_reactor(&self, time: Duration) {
            let (begun, has_begun) = bounded(1);
            let hold = ReactorOrder::WithRing(Box::new(move |_: &mut Uring| {
                begun.send(()).expect("the test waits");
                std::thread::sleep(time);
            }));
            self.server.reactors[0].port.order(&self.server.shared, 0, hold);
            has_begun.recv().expect("the reactor runs");
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

    /// The array refuses a device that is already in every ring. Its index, descriptors and
    /// lock are released, so it may be refused any number of times and still join in the end.
    #[test]
    fn a_refused_device_is_let_go() {
        let stage = Stage::new("let-go");
        for _ in 0..2 * DEVICES_MAX {
            let refused = stage.server.take_in(1, stage.open_spare()).unwrap_err();
            assert!(refused.0.contains("slot 1 is in use"), "{refused}");
            assert!(stage.server.devices.reclaim().is_empty());
        }
        stage.server.fail(1).unwrap();
        stage.server.take_in(1, stage.open_spare()).unwrap();
        assert_eq!(stage.server.shared.members.device(1), DeviceIndex(4));
        stage.wait_for_rebuild();
        assert_eq!(stage.server.status().health, crate::status::Health::Optimal);
        stage.server.stop().unwrap();
    }

    /// Refused with and without `force`; and once the device answers, it joins, since the abandoned
    /// helper has closed it.
    #[test]
    fn a_device_that_does_not_answer_is_refused_in_time() {
        let stage = Stage::with_member_timeout("silent", 1);
        stage.server.fail(1).unwrap();
        for force in [false, true] {
            let silent = Silent::file(&stage.spare);
            let began = Instant::now();
            let refused = stage.server.replace(1, stage.spare.clone(), force).expect_err("it is silent").0;
            let took = began.elapsed();
            assert!(refused.contains("spare: does not answer"), "{refused}");
            assert!(
                took >= Duration::from_secs(1) && took < Duration::from_secs(10),
                "refused after {took:?}"
            );
            drop(silent);
        }
        stage.server.replace(1, stage.spare.clone(), false).unwrap();
        stage.wait_for_rebuild();
        assert_eq!(stage.server.status().health, crate::status::Health::Optimal);
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

    /// Two devices are offered for one slot at the same moment. One is accepted; the other is left unchanged,
    /// although no rebuild was running when it was offered.
    #[test]
    fn of_two_at_once_one_is_left_as_it_was() {
        let stage = Stage::new("two");
        stage.server.fail(1).unwrap();
        let spares = ["left", "right"].map(|name| stage.directory.join(name));
        let content = vec![0xa5; MEMBER_BYTES as usize];
        spares.iter().for_each(|spare| std::fs::write(spare, &content).unwrap());
        stage.hold_reactor(Duration::from_millis(300));
        let offer = |spare: &PathBuf| stage.server.replace(1, spare.clone(), true);
        let outcomes = std::thread::scope(|scope| {
            let offers = spares.each_ref().map(|spare| scope.spawn(move || offer(spare)));
            offers.map(|offer| offer.join().unwrap())
        });
        for (spare, outcome) in spares.iter().zip(&outcomes) {
            let is_left = std::fs::read(spare).unwrap() == content;
            assert_eq!(is_left, outcome.is_err(), "{}: {outcome:?}", spare.display());
        }
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        assert!(stage.server.devices.reclaim().is_empty());
        stage.wait_for_rebuild();
        assert_eq!(stage.server.status().health, crate::status::Health::Optimal);
    }

    /// A slow device becomes a member in the end, and the caller learns of it. An order with a deadline gives
    /// up instead.
    #[test]
    fn an_arrival_is_waited_for_as_long_as_it_lasts() {
        let stage = Stage::new("patient");
        let (server, held) = (&stage.server, LOOK_EVERY + LOOK_EVERY / 2);
        stage.hold_reactor(held);
        let is_there = Cell::new(0);
        let looks = || is_there.replace(is_there.get() + 1) < 10;
        let outcome = order_surely(&server.shared, looks, |answer| Order::Fail { slot: 1, answer });
        assert!(outcome.is_ok() && is_there.get() > 0, "{} looks", is_there.get());
        stage.hold_reactor(held);
        let outcome = order_surely(&server.shared, || false, |answer| Order::Fail { slot: 2, answer });
        assert!(matches!(outcome, Err(Refusal::NoAnswer)));
    }

    /// After a stop has begun, nothing is written to a device, and no call waits for reactors that have
    /// ended.
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
