//! Runs the single-fault matrix (see [`crate::story::matrix`]) on all cores, prints it, and asserts it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use engine::format::Level;

use crate::aim::{Fault, State};
use crate::runner::attempt_cell;
use crate::story::matrix::{Place, all, illegal, seed_of};

/// Fewest cells of the matrix that must be hit.
const CELLS_MIN: usize = 1_500;
/// Most attempts at one cell.
const ATTEMPTS: u64 = 300;

/// Runs the matrix, and returns the exit code.
#[must_use]
pub fn run(base: u64, threads: usize) -> i32 {
    let begun = Instant::now();
    let places: Vec<Place> = all().collect();
    let legal: Vec<usize> = (0..places.len()).filter(|&at| illegal(&places[at]).is_none()).collect();
    let (next, runs) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let hits = Mutex::new(vec![0u32; places.len()]);
    let wrong = Mutex::new(Vec::new());
    let work = || {
        while let Some(&at) = legal.get(next.fetch_add(1, Ordering::Relaxed)) {
            for attempt in 0..ATTEMPTS {
                if hits.lock().expect("no holder panics")[at] > 0 {
                    break;
                }
                let seed = seed_of(at as u64, attempt, base);
                runs.fetch_add(1, Ordering::Relaxed);
                match attempt_cell(&places[at], seed, false) {
                    Ok(None) => {}
                    // The stripe that was hit may have changed its state since: the hit counts for the cell
                    // of that state.
                    Ok(Some(hit)) => {
                        if let Some(cell) = places.iter().position(|place| *place == hit) {
                            hits.lock().expect("no holder panics")[cell] += 1;
                        }
                    }
                    Err(what) => {
                        wrong.lock().expect("no holder panics").push((at, attempt, what));
                        break;
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (hits, wrong) = (hits.into_inner().expect("done"), wrong.into_inner().expect("done"));
    print(&places, &legal, &hits);
    let missed: Vec<usize> = legal.iter().copied().filter(|&at| hits[at] == 0).collect();
    let hit = legal.len() - missed.len();
    println!(
        "{hit} of {} legal cells hit, in {} runs, {:.0} s; base seed {base}",
        legal.len(),
        runs.into_inner(),
        begun.elapsed().as_secs_f64()
    );
    for &at in missed.iter().take(60) {
        println!("NOT HIT: {:?}", places[at]);
    }
    for (at, attempt, what) in wrong.iter().take(20) {
        let what: String = what.chars().take(240).collect();
        println!(
            "FAILED: {:?}: {what}\n  cargo sim --matrix --cell {at} --attempt {attempt} --seed {base}",
            places[*at]
        );
    }
    i32::from(!missed.is_empty() || !wrong.is_empty() || hit < CELLS_MIN)
}

/// Runs one attempt at one cell and prints each transition.
#[must_use]
pub fn replay(cell: u64, attempt: u64, base: u64) -> i32 {
    let place = all().nth(cell as usize).expect("the matrix has such a cell");
    println!("{place:?}");
    match attempt_cell(&place, seed_of(cell, attempt, base), true) {
        Ok(hit) => {
            println!("hit: {hit:?}");
            0
        }
        Err(what) => {
            println!("FAILED: {what}");
            1
        }
    }
}

/// Prints a row for each level and state, with a column for each fault: hit cells / legal cells.
fn print(places: &[Place], legal: &[usize], hits: &[u32]) {
    let mut table: BTreeMap<(bool, State), BTreeMap<Fault, (u32, u32)>> = BTreeMap::new();
    for &at in legal {
        let Place { level, state, fault, .. } = places[at];
        let row = table.entry((level == Level::Raid6, state)).or_default();
        let entry = row.entry(fault).or_default();
        entry.0 += u32::from(hits[at] > 0);
        entry.1 += 1;
    }
    print!("{:<18}", "cells hit/legal");
    Fault::ALL.iter().for_each(|fault| print!(" {:>11}", format!("{fault:?}")));
    println!();
    for ((raid6, state), row) in &table {
        print!("{:<18}", format!("RAID-{} {state:?}", if *raid6 { 6 } else { 5 }));
        for fault in Fault::ALL {
            let text = row.get(&fault).map_or("-".into(), |(hit, of)| format!("{hit}/{of}"));
            print!(" {text:>11}");
        }
        println!();
    }
}
