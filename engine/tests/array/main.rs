//! The array of one and of two reactors, driven as reactor.rs drives it, over members that start full of
//! noise, answer late and in any order, have bad sectors, and die.
//!
//! Method: seeded runs over widths, levels, chunk sizes and initial cells. A run applies load, loses up to as
//! many members as the level tolerates, applies load again, replaces the lost members with fresh devices
//! under load, and then does all this once more with other members. Oracle: a `Vec` of the array's bytes.
//! Every read is compared with it; at the end so are the whole content, the strips on every member, and the
//! parity of every stripe whose cell says that its parity matches. A member deallocates into noise, so a byte
//! that was never written does not pass for a zero.
//!
//! A failed assertion prints the configuration with its seed; [`one`] runs a single configuration.

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

/// Initial cells; `Mixed` has stripes in every state.
const INITIALS: [Initial; 4] =
    [Initial::All(Cell::Clean), Initial::All(Cell::Unwritten), Initial::All(Cell::NeedSync), Initial::Mixed];

/// Stripes of a run: few enough that requests collide.
fn stripes(chunk_bytes: u32, members: usize) -> u64 {
    match chunk_bytes {
        4096 => 40,
        65536 => 8,
        _ if members < 8 => 4,
        _ => 2,
    }
}

/// Seed offset: `STRIATE_ARRAY_SEEDS=n` moves every run to seeds that were not tried before.
fn further_seeds() -> u64 {
    let given = std::env::var("STRIATE_ARRAY_SEEDS").ok();
    given.map_or(0, |seeds| seeds.parse::<u64>().expect("a number") << 32)
}

/// Draws `count` different slots at random: the members to lose.
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

/// Performs one run; returns the number of bytes read back and found right, and the sum of the reactors'
/// tallies.
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

/// Runs every shape that a test names, and prints the totals.
fn run_all(members: &[usize], chunk_bytes: u32, reactors: usize) {
    let mut seed = u64::from(chunk_bytes) * 1000 + reactors as u64 + further_seeds();
    let (mut runs, mut verified, mut merged, mut handed_over) = (0, 0, 0, 0);
    for &members in members {
        for level in [Level::Raid5, Level::Raid6] {
            if members < level.members_min() {
                continue;
            }
            // 32 strips of 1 MiB take long to check: those shapes run only with mixed cells.
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

/// A member that does not answer is failed after its patience has run out; a member that the array cannot do
/// without is waited for instead.
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

/// Runs one configuration: put in the one that failed, then `cargo test -p engine --test array one --
/// --ignored`.
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
