//! The array of one and of two reactors, driven as reactor.rs drives it, over members that are full of noise, answer
//! late and in any order, have bad sectors, and die.
//!
//! Method: seeded runs over widths, levels, chunks and ways in which cells begin. A run is load, loss of as many
//! members as the level bears, load, replacement by fresh devices under load, and once more with other members.
//! Oracle: a `Vec` of the array's bytes. Every read is held against it, and in the end the whole content, what
//! lies on every member, and the parity of every stripe that claims to have one. A member deallocates into noise,
//! so a byte that was never written does not pass for a zero.
//!
//! A failed assertion prints the configuration, seed and all: [`one`] is for looking at it alone.

mod arrival;
mod bad_sectors;
mod beginnings;
mod caches;
mod discards;
mod disks;
mod in_vain;
mod map;
mod midway;
mod noting;
mod read_only;
mod rebuild;
mod refused;
mod repairs;
mod rest;
mod rng;
mod silence;
mod spared;
mod stop;
mod told;
mod world;
mod worn;

use bitmap::Cell;
use engine::format::Level;
use engine::members::{Failure, MEMBER_PATIENCE_S};
use engine::tally::Tally;

use rng::Rng;
use world::{Config, Initial, World};

/// The last has them all.
const INITIALS: [Initial; 4] =
    [Initial::All(Cell::Clean), Initial::All(Cell::Unwritten), Initial::All(Cell::NeedSync), Initial::Mixed];

/// Stripes of a run: few enough that requests meet.
fn stripes(chunk_bytes: u32, members: usize) -> u64 {
    match chunk_bytes {
        4096 => 40,
        65536 => 8,
        _ if members < 8 => 4,
        _ => 2,
    }
}

/// `STRIATE_ARRAY_SEEDS=n` moves every run to seeds that were not tried before.
fn further_seeds() -> u64 {
    let given = std::env::var("STRIATE_ARRAY_SEEDS").ok();
    given.map_or(0, |seeds| seeds.parse::<u64>().expect("a number") << 32)
}

/// Every member set that a level bears to lose is drawn from here.
fn victims(rng: &mut Rng, members: usize, count: u32) -> Vec<u8> {
    let mut victims = Vec::new();
    while victims.len() < count as usize {
        let slot = rng.below(members as u64) as u8;
        if !victims.contains(&slot) {
            victims.push(slot);
        }
    }
    victims
}

/// One run. What it counted: bytes read back and found right, and what the reactors tallied.
fn run(config: Config) -> (u64, engine::status::Counters) {
    let mut world = World::new(config);
    let load = if config.chunk_bytes == 1 << 20 { 12 } else { 40 };
    let parities = config.level.parities() as u32;
    for round in 0..2 {
        world.load(load);
        let wait_for_resync = world.rng.chance(70);
        if wait_for_resync || round > 0 {
            world.turn_until("a resync", |world| world.is_synced());
            for _ in 0..8 {
                world.spoil_a_sector();
                world.load(load / 8);
            }
        }
        let count = if round > 0 { parities } else { world.rng.below(u64::from(parities) + 1) as u32 };
        let lost = victims(&mut world.rng.fork(), config.members, count);
        for &slot in &lost {
            world.lose(slot);
            world.load(load);
        }
        world.give_up_lossy();
        if round > 0 {
            break;
        }
        for &slot in &lost {
            world.replace(slot, load / 2);
        }
        world.turn_until("a resync", |world| world.is_synced());
        world.verify();
    }
    world.verify();
    (world.verified_bytes, Tally::sum(&world.shared.tallies))
}

/// Runs every shape that a test is given, and says what came together.
fn run_all(members: &[usize], chunk_bytes: u32, reactors: usize) {
    let mut seed = u64::from(chunk_bytes) * 1000 + reactors as u64 + further_seeds();
    let (mut runs, mut verified, mut merged, mut handed_over) = (0, 0, 0, 0);
    for &members in members {
        for level in [Level::Raid5, Level::Raid6] {
            if members < level.members_min() {
                continue;
            }
            // 32 strips of 1 MiB are slow to look at: of those the run with every kind of cell.
            let large = chunk_bytes as usize * members > 16 << 20;
            for initial in INITIALS.into_iter().skip(if large { 3 } else { 0 }) {
                seed += 1;
                let stripes = stripes(chunk_bytes, members);
                let config = Config { seed, level, members, chunk_bytes, stripes, initial, reactors };
                let (bytes, counters) = run(config);
                runs += 1;
                verified += bytes;
                merged += counters.merged;
                handed_over += counters.handed_over;
            }
        }
    }
    println!("{runs} runs, {verified} bytes verified, {merged} merged, {handed_over} handed over");
    assert!(merged > 0);
    assert_eq!(handed_over > 0, reactors > 1);
}

const WIDTHS: [usize; 6] = [3, 4, 5, 8, 17, 32];

#[test]
fn chunks_of_4_kib() {
    run_all(&WIDTHS, 4 << 10, 1);
}

#[test]
fn chunks_of_64_kib() {
    run_all(&WIDTHS, 64 << 10, 1);
}

#[test]
fn chunks_of_1_mib() {
    run_all(&WIDTHS, 1 << 20, 1);
}

#[test]
fn two_reactors() {
    run_all(&WIDTHS, 4 << 10, 2);
    run_all(&[3, 5, 8], 64 << 10, 2);
}

/// A member that does not answer is failed after its time, and one that the array cannot do without is waited for.
#[test]
fn silence_is_a_failure() {
    for seed in 0..8 {
        let (level, members) = if seed % 2 == 0 { (Level::Raid5, 4) } else { (Level::Raid6, 6) };
        let initial = Initial::All(Cell::Clean);
        let reactors = 1 + seed as usize / 4;
        let config = Config { seed, level, members, chunk_bytes: 4 << 10, stripes: 40, initial, reactors };
        let mut world = World::new(config);
        world.load(40);
        let parities = level.parities() as u32;
        let silent = victims(&mut world.rng.fork(), members, parities + 1);
        for &slot in &silent[..parities as usize] {
            world.silence(slot);
            world.settle();
            assert_eq!(
                world.shared.members.failure(slot),
                Some(Failure::Silence(MEMBER_PATIENCE_S)),
                "seed {seed}"
            );
            world.load(40);
        }
        let needed = silent[parities as usize];
        world.disks.borrow_mut()[usize::from(needed)].silent = true;
        world.ask_random();
        (0..20_000).for_each(|_| world.turn());
        assert!(world.shared.members.view().readable.has(needed), "seed {seed}");
        world.disks.borrow_mut()[usize::from(needed)].silent = false;
        world.verify();
    }
}

/// `cargo test -p engine --test array one -- --ignored`, with a configuration that failed.
#[test]
#[ignore = "for looking at one run"]
fn one() {
    run(Config {
        seed: 4_096_001,
        level: Level::Raid5,
        members: 3,
        chunk_bytes: 4 << 10,
        stripes: 40,
        initial: INITIALS[0],
        reactors: 1,
    });
}
