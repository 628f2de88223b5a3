//! The states of stripes that NBD clients are told. (`holes_are_zeros` checks at each answer that no hole
//! hides an acknowledged write.)

use bitmap::Cell;
use engine::format::Level;
use engine::members::Failure;

use crate::world::{Config, Initial, World};

fn world(cell: Cell) -> World {
    let (level, initial) = (Level::Raid5, Initial::All(cell));
    World::new(Config { seed: 1, level, members: 4, chunk_bytes: 4 << 10, stripes: 40, initial, reactors: 1 })
}

#[test]
fn a_stripe_without_parity_is_lost_with_a_data_strip() {
    let world = world(Cell::NeedSync);
    let states = world.told_states();
    assert!(states.iter().all(|state| state.unsynced && !state.lost && !state.unwritten), "{states:?}");
    assert!(world.shared.members.fail(2, Failure::Operator));
    let states = world.told_states();
    assert!(states.iter().all(|state| state.unsynced));
    // The failed member held parity in every fourth stripe, so the other 30 of 40 have lost data.
    assert_eq!(states.iter().filter(|state| state.lost).count(), 30, "{states:?}");
}

#[test]
fn stripes_that_were_never_written_are_holes() {
    let mut world = world(Cell::Unwritten);
    assert!(world.told_states().iter().all(|state| state.unwritten));
    world.load(200);
    world.settle();
    let states = world.told_states();
    assert!(states.iter().any(|state| !state.unwritten), "a load that wrote nothing");
    assert!(world.shared.members.fail(2, Failure::Operator));
    assert!(world.told_states().iter().all(|state| !(state.unwritten && state.lost)));
}
