//! The scopes that are explored: all of them in long runs, the quick ones on every commit.
//!
//! Blocks 0 and 1 are the data strips of stripe 0, blocks 2 and 3 those of stripe 1 (with 4 members, a RAID-5
//! stripe has three data strips).

use bitmap::Cell;
use engine::format::Level;

use super::scope::{Ask, Lie, Scope, Turns, discard, flush, read, write, write_fua};

/// The scopes that take only seconds.
#[must_use]
pub fn quick() -> Vec<Scope> {
    all().into_iter().filter(|scope| scope.quick).collect()
}

/// Request sequences: writes to the same blocks, to one stripe or to two, with flushes, reads and discards in
/// between.
const STORIES: &[(&str, &[Ask])] = &[
    ("write", &[write(0, 1)]),
    ("write full", &[write(0, 2)]),
    ("write fua", &[write_fua(0, 1)]),
    ("write flush", &[write(0, 1), flush()]),
    ("write write beside", &[write(0, 1), write(1, 1)]),
    ("write write over", &[write(0, 1), write(0, 1)]),
    ("write write elsewhere", &[write(0, 1), write(2, 1)]),
    ("write read", &[write(0, 1), read(0, 2)]),
    ("write discard", &[write(0, 1), discard(0, 2)]),
    ("write flush write", &[write(0, 1), flush(), write(1, 1)]),
    ("write fua write read", &[write_fua(0, 1), write(1, 1), read(0, 2)]),
    ("write discard write", &[write(0, 1), discard(0, 2), write(1, 1)]),
    ("three writes", &[write(0, 1), write(1, 1), write(2, 1)]),
];

/// The scopes that together take half an hour on two cores.
#[must_use]
pub fn all() -> Vec<Scope> {
    every().0
}

/// Two scopes that had not ended after ten minutes of a core each, and are explored only by name: a resync of
/// four members together with a write, a flush and a death.
#[must_use]
pub fn beyond() -> Vec<Scope> {
    every().1
}

/// The scopes of [`all`], and those of [`beyond`].
fn every() -> (Vec<Scope>, Vec<Scope>) {
    let (mut scopes, mut beyond) = (Vec::new(), Vec::new());
    let cells = [("clean", Cell::Clean), ("unwritten", Cell::Unwritten), ("unsynced", Cell::NeedSync)];
    for (cell_name, cell) in cells {
        for (story, asks) in STORIES {
            let scope = Scope::new(format!("5x3 {cell_name}: {story}"), Level::Raid5, 3, cell, asks);
            scopes.extend(variants(&scope));
        }
        // The first stories again, on arrays in which they take another course.
        for (story, asks) in &STORIES[..6] {
            let four = Scope::new(format!("5x4 {cell_name}: {story}"), Level::Raid5, 4, cell, asks);
            let six = Scope::new(format!("6x4 {cell_name}: {story}"), Level::Raid6, 4, cell, asks);
            let mut rows = Scope::new(format!("5x3 rows {cell_name}: {story}"), Level::Raid5, 3, cell, asks);
            rows.shape.chunk_bytes *= 2;
            let mut uncached =
                Scope::new(format!("5x3 uncached {cell_name}: {story}"), Level::Raid5, 3, cell, asks);
            uncached.volatile = false;
            for mut scope in [four, six, rows, uncached] {
                scope.quick = asks.len() == 1;
                let death = Scope { name: format!("{}, death", scope.name), death: true, ..scope.clone() };
                let quick = death.quick && cell == Cell::Clean && asks.len() == 1;
                let death = Scope { quick, ..death };
                let is_beyond = cell == Cell::NeedSync && *story == "write flush" && scope.shape.members == 4;
                (if is_beyond { &mut beyond } else { &mut scopes }).push(death);
                scopes.push(scope);
            }
        }
    }
    (scopes, beyond)
}

/// The variants of a scope: plain, a member dies, turns are interleaved finely, the sweep passes, two
/// reactors contend.
fn variants(scope: &Scope) -> [Scope; 5] {
    let name = |what| format!("{}, {what}", scope.name);
    let (asks, clean, synced) =
        (scope.asks.len(), scope.initial == Cell::Clean, scope.initial != Cell::NeedSync);
    // A resync in the same scope multiplies the states by ten.
    let plain = asks == 1 || (asks == 2 && synced) || clean;
    let scope = &Scope { quick: plain, ..scope.clone() };
    let (short, two) = (asks == 1, asks <= 2 && plain);
    [
        scope.clone(),
        Scope { name: name("death"), death: true, quick: short, ..scope.clone() },
        Scope { name: name("turns"), turns: Turns::Batched, quick: two, ..scope.clone() },
        Scope { name: name("sweep"), ticks: 2, quick: short && synced, ..scope.clone() },
        Scope { name: name("2 reactors"), reactors: 2, ..scope.clone() },
    ]
}

/// Arrays on members that lie about what is durable: the checker must detect each lie.
#[must_use]
pub fn lies() -> Vec<Scope> {
    let mut scopes = Vec::new();
    for (name, lie) in [("bitmap", Lie::BitmapCached), ("superblocks", Lie::SuperblocksCached)] {
        for monitors in [true, false] {
            let asks = [write(0, 1), flush()];
            let scope = Scope::new(
                format!("lie: {name} cached, monitors {monitors}"),
                Level::Raid5,
                3,
                Cell::Clean,
                &asks,
            );
            let death = lie == Lie::SuperblocksCached;
            scopes.push(Scope { lie: Some(lie), monitors, death, ..scope });
        }
    }
    scopes
}
