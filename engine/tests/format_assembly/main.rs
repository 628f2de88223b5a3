//! Assembly and roster against a world that may lose power between any two superblock writes.
//!
//! Method: enumerate. A *run* assembles a subset of the devices, starts, perhaps writes data, and perhaps
//! makes one more change: one or two members fail, one or two superblock writes are lost, a device joins or
//! is filled, the array stops or grows. The run ends with a power cut that leaves any subset of the last
//! change's writes on the devices. After each run, assembly is tried on every subset of the devices. Runs
//! follow each other, two deep in all combinations, and deeper along random paths.
//!
//! Oracle: the world's own knowledge of which writes were acknowledged, and which device has them.
//! - An in-sync member has all acknowledged data.
//! - If any two sets of n - parities members intersect, nothing is ever called a fork. If they do not (2 of
//!   4), all devices are present and none was replaced, only histories that ran apart are called a fork.
//! - If all devices are present, the array can be assembled.
//! - An array that was used with some number of stripes never has fewer.
//! - A stop counts as clean only if it was clean. With all devices present a clean stop always counts as
//!   clean, unless a start without all devices had to doubt it.

mod lines;
mod refusals;
mod stories;
mod world;

use engine::assembly::{Assembly, Change, Roster, SuperblockWrite, WriteOutcome};
use engine::format::Level;
use engine::format::host::Host;
use engine::format::superblock::{Copy, SlotState};
use engine::geometry::Slots;
use world::World;

/// Receives the ends of runs: each is a world after a power cut.
type Ends<'a> = &'a mut dyn FnMut(World);

/// Performs all runs on a world.
fn runs(world: &World, ends: Ends<'_>) {
    for present in 1_u32..1 << world.devices.len() {
        if let Ok(assembly) = world.assemble(present) {
            run(world, present, &assembly, ends);
        }
    }
}

fn run(before: &World, present: u32, assembly: &Assembly, ends: Ends<'_>) {
    let mut world = before.clone();
    world.story.push(format!("run of {present:#b}"));
    world.doubted |= assembly.unclean && world.clean;
    let mut roster = assembly.roster().unwrap();
    grow(&world, &roster, ends);
    let writes = world.begin(&mut roster, Change::Start { host: Host::ANY }).unwrap();
    cuts(&world, &writes, "start", ends);
    lost_writes(&world, &roster, &writes, ends);
    world.complete(&mut roster, &writes, "start");
    ends(world.clone());
    reinforced(&mut world, &mut roster, ends);
    // At rest a member may leave too, and the array may be stopped.
    if world.devices.len() == world.shape.members {
        (0..world.shape.members).for_each(|slot| fail(&world, &roster, Slots::one(slot as u8), ends));
    }
    stop(&world, &roster, ends);
    world.take_images();
    for what in ["wake", "move"] {
        let writes = if what == "wake" { roster.wake() } else { roster.move_on() }.unwrap();
        cuts(&world, &writes, what, ends);
        world.complete(&mut roster, &writes, what);
        ends(world.clone());
        reinforced(&mut world, &mut roster, ends);
    }
    for slot in 0..world.shape.members {
        for other in slot..world.shape.members {
            fail(&world, &roster, Slots::one(slot as u8).or(Slots::one(other as u8)), ends);
        }
        join(&world, &roster, assembly, slot, ends);
        filled(&world, &roster, slot, ends);
    }
    stop(&world, &roster, ends);
}

/// Writes a change that is on every participant to the second copies.
fn reinforced(world: &mut World, roster: &mut Roster, ends: Ends<'_>) {
    let writes = roster.reinforce().unwrap();
    cuts(world, &writes, "reinforce", ends);
    world.complete(roster, &writes, "reinforce");
    ends(world.clone());
}

/// Cuts the power after every subset of the writes except none and all.
fn cuts(world: &World, writes: &[SuperblockWrite], what: &str, ends: Ends<'_>) {
    for landed in 1..(1 << writes.len()) - 1 {
        ends(world.cut(writes, landed, what));
    }
}

/// One or two superblock writes of the start fail or are not answered, and may still have landed; their slots
/// leave together, in the next epoch.
fn lost_writes(world: &World, roster: &Roster, writes: &[SuperblockWrite], ends: Ends<'_>) {
    let slots = |write: &SuperblockWrite| Slots::one(write.slot as u8);
    for one in writes {
        for other in writes.iter().filter(|other| other.slot >= one.slot) {
            let lost = slots(one).or(slots(other));
            // Of two unanswered writes, either may have landed. For a single one `one` equals `other`: two
            // cases are enough.
            for landed in
                [Slots::NONE, slots(one), slots(other), lost].into_iter().take(2 * lost.count() as usize)
            {
                let (mut world, mut roster) = (world.clone(), roster.clone());
                for write in writes {
                    let is_lost = lost.has(write.slot as u8);
                    if !is_lost || landed.has(write.slot as u8) {
                        world.land(write);
                    }
                    let outcome = if is_lost { WriteOutcome::Lost } else { WriteOutcome::Landed };
                    roster.settle(write.slot, outcome);
                }
                world.story.push(format!("start: writes to {lost:?} lost, landed: {landed:?}"));
                fail(&world, &roster, lost, ends);
            }
        }
    }
}

fn fail(world: &World, roster: &Roster, slots: Slots, ends: Ends<'_>) {
    change(world, roster, Change::Fail { slots }, &format!("fail {slots:?}"), ends);
}

fn filled(world: &World, roster: &Roster, slot: usize, ends: Ends<'_>) {
    if roster.record().slots[slot].state == SlotState::Rebuilding {
        let mut world = world.clone();
        world.fill(roster, slot);
        change(&world, roster, Change::Filled { slot }, &format!("slot {slot} filled"), ends);
    }
}

fn join(world: &World, roster: &Roster, assembly: &Assembly, slot: usize, ends: Ends<'_>) {
    if !roster.record().slots[slot].state.takes_part() && world.devices.len() < world.shape.members + 2 {
        let mut world = world.clone();
        let joiner = world.joiner(assembly.slots[slot]);
        change(&world, roster, Change::Join { slot, joiner }, &format!("join slot {slot}"), ends);
    }
}

/// Grows the array by one stripe if all members are in sync; otherwise the change is refused.
fn grow(world: &World, roster: &Roster, ends: Ends<'_>) {
    let record = roster.record();
    let member_bytes = record.zones.end_bytes() + u64::from(record.shape.chunk_bytes);
    assert!(member_bytes <= world::DEVICE_BYTES);
    let zones = record.zones.grown(member_bytes, &record.shape);
    assert_eq!(zones.stripes, record.zones.stripes + 1);
    change(world, roster, Change::Grow { zones }, "grow", ends);
}

fn change(world: &World, roster: &Roster, change: Change, what: &str, ends: Ends<'_>) {
    let (mut world, mut roster) = (world.clone(), roster.clone());
    let Some(writes) = world.begin(&mut roster, change) else { return };
    cuts(&world, &writes, what, ends);
    world.complete(&mut roster, &writes, what);
    ends(world.clone());
    let writes = roster.reinforce().unwrap();
    world.complete(&mut roster, &writes, "reinforce");
    ends(world);
}

fn stop(world: &World, roster: &Roster, ends: Ends<'_>) {
    let (mut world, mut roster) = (world.clone(), roster.clone());
    let writes = roster.stop_clean().unwrap();
    world.clean = true;
    for landed in 1..1 << writes.len() {
        ends(world.cut(&writes, landed, "stop"));
    }
    world.complete(&mut roster, &writes, "stop");
    reinforced(&mut world, &mut roster, ends);
}

fn explore(world: &World, depth: usize, seen: &mut u64) {
    runs(world, &mut |end| {
        *seen += 1;
        end.check();
        end.check_rollbacks();
        if depth > 1 {
            explore(&end, depth - 1, seen);
        }
    });
}

/// A small random generator, which chooses the end of a run to continue from.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// An end of a run, chosen uniformly without keeping all of them (reservoir sampling).
fn random_end(world: &World, random: &mut Random) -> Option<World> {
    let (mut chosen, mut count) = (None, 0);
    runs(world, &mut |end| {
        count += 1;
        if random.below(count) == 0 {
            chosen = Some(end);
        }
    });
    chosen
}

fn walk(level: Level, members: usize, seed: u64, length: usize) {
    let mut random = Random(seed);
    let mut world = World::new(level, members);
    world.story.push(format!("seed {seed}"));
    for _ in 0..length {
        let Some(next) = random_end(&world, &mut random) else { return };
        world = next;
        world.check();
        world.check_rollbacks();
    }
}

#[test]
fn raid5_of_3_every_cut_of_two_runs() {
    let (world, mut seen) = (World::new(Level::Raid5, 3), 0);
    explore(&world, 2, &mut seen);
    assert!(seen > 5_000, "{seen}");
}

#[test]
fn raid6_of_4_every_cut_of_one_run() {
    let (world, mut seen) = (World::new(Level::Raid6, 4), 0);
    explore(&world, 1, &mut seen);
    assert!(seen > 500, "{seen}");
}

/// Takes minutes: `cargo test -p engine --test format_assembly --release -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn every_cut_one_run_deeper() {
    let mut seen = 0;
    explore(&World::new(Level::Raid5, 3), 3, &mut seen);
    explore(&World::new(Level::Raid6, 4), 2, &mut seen);
    assert!(seen > 500_000, "{seen}");
}

#[test]
fn random_walks() {
    for seed in 0..12 {
        walk(Level::Raid5, 3, seed, 6);
        walk(Level::Raid5, 4, seed, 5);
        walk(Level::Raid6, 4, seed, 5);
        walk(Level::Raid6, 5, seed, 4);
    }
}

/// A copy is damaged: the device then shows the epoch before, and must not be believed beyond what it
/// knows.
#[test]
fn decay_of_one_copy_loses_nothing() {
    let start = World::new(Level::Raid5, 3);
    runs(&start, &mut |end| {
        for device in 0..end.devices.len() {
            for copy in [Copy::A, Copy::B] {
                let mut decayed = end.clone();
                decayed.devices[device].damage(copy);
                decayed.story.push(format!("copy {copy:?} of dev{device} decays"));
                decayed.check_safe();
            }
        }
    });
}
