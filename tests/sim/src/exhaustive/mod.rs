//! Exhaustive checks in a small scope: all interleavings and all power cuts of the product's array on two
//! stripes.
//!
//! ```text
//!   scope    the requests, and the possible events   machine  one run, choice by choice
//!   scopes   all scopes that are explored            state    the state of a machine as a number
//!   crash    every cut of a state, and its recovery  checks   the checks at every event
//! ```
//!
//! This is stateless model checking: a state is reached by running the product again with the choices that
//! lead there. A choice is an event: the host submits its next request, an operation in flight completes, a
//! reactor takes a message or turns, a second passes, or a member dies. A state that was seen before is not
//! explored again. Two states are the same if everything that decides what can happen next is the same: the
//! engine's structures as text (`Debug` of `Array`, bitmap, members, mailboxes); caches, media and operations
//! in flight by content; what was read from stripes that are owned; and what the oracle would allow. Names
//! (slots of slabs, addresses of buffers) count too. So a state may be explored twice under different names,
//! but two different states are never taken for the same, except by a collision of 64-bit hashes.
//!
//! The oracles are the simulator's. At every event, the monitors check the members (I1, I2, I6, C1, C2, I3),
//! and reads are checked against the oracle. For each cut, everything is read after a start, with all members
//! and with members missing.
//!
//! The interleavings are the paths of the graph of states. They are counted when the graph is complete.

use std::collections::HashMap;
use std::time::{Duration, Instant};

mod checks;
pub mod crash;
pub mod machine;
pub mod scope;
pub mod scopes;
mod state;

use crash::{CutCounts, Cuts};
use machine::{Choice, Machine, Memories};
use scope::{Scope, Template};

use crate::runner::caught;

/// Result of an exploration.
#[derive(Clone, Debug)]
pub struct Report {
    /// Number of different states.
    pub states: u64,
    /// Number of events between them.
    pub events: u64,
    /// Number of paths from the first state to an end.
    pub interleavings: f64,
    /// Number of ends: states in which everything is answered and nothing more can happen.
    pub ends: u64,
    /// Number of events on the longest path.
    pub longest: usize,
    /// Counts of the power cuts.
    pub cuts: CutCounts,
    /// Duration of the exploration.
    pub took: Duration,
}

/// A violation of a rule.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The rule, and the place of its check.
    pub what: String,
    /// The choices that lead there: for each, its index among the choices that were possible.
    pub path: Vec<u8>,
}

/// A branch of the tree that is still to be explored.
struct Branch {
    path: Vec<u8>,
    /// Number of the state in which the last choice of the path is made.
    from: u32,
}

/// Explores all states of a scope. Returns `None` if the time runs out first.
pub fn explore(
    scope: &Scope,
    memories: &Memories,
    within: Duration,
) -> Result<Option<Report>, Box<Violation>> {
    let begun = Instant::now();
    let template = Template::new(scope, memories);
    let mut walk = Walk {
        template: &template,
        memories,
        known: HashMap::new(),
        edges: Vec::new(),
        ends: 0,
        longest: 0,
        cuts: Cuts::default(),
        text: String::new(),
        open: vec![Branch { path: Vec::new(), from: u32::MAX }],
    };
    while let Some(branch) = walk.open.pop() {
        if begun.elapsed() > within {
            return Ok(None);
        }
        let mut path = branch.path;
        let at = &mut path;
        caught(|| walk.follow(at, branch.from)).map_err(|what| Violation { what, path })?;
    }
    Ok(Some(Report {
        states: walk.known.len() as u64,
        events: walk.edges.len() as u64,
        interleavings: paths(walk.known.len(), &walk.edges),
        ends: walk.ends,
        longest: walk.longest,
        cuts: walk.cuts.counts,
        took: begun.elapsed(),
    }))
}

struct Walk<'a> {
    template: &'a Template,
    memories: &'a Memories,
    /// Known states, numbered in the order in which they were found.
    known: HashMap<u64, u32>,
    /// Events, as pairs of state numbers.
    edges: Vec<(u32, u32)>,
    ends: u64,
    longest: usize,
    cuts: Cuts,
    text: String,
    open: Vec<Branch>,
}

impl Walk<'_> {
    /// Runs the choices of `path`, then follows the first choice of each new state until there is none.
    fn follow(&mut self, path: &mut Vec<u8>, from: u32) {
        let mut machine = Machine::new(self.template, self.memories, false);
        for &nth in path.iter() {
            let choice = machine.choices()[usize::from(nth)];
            machine.take(choice);
        }
        let mut from = from;
        loop {
            let state = machine.fingerprint(&mut self.text);
            let number = self.known.len() as u32;
            let number = match self.known.entry(state) {
                std::collections::hash_map::Entry::Occupied(seen) => {
                    // A turn that changed nothing does not count as an event.
                    if *seen.get() != from {
                        self.edges.push((from, *seen.get()));
                    }
                    return;
                }
                std::collections::hash_map::Entry::Vacant(new) => *new.insert(number),
            };
            if from != u32::MAX {
                self.edges.push((from, number));
            }
            self.longest = self.longest.max(path.len());
            if self.template.scope.cuts {
                self.cuts.check(&machine, self.template, self.memories);
            }
            let choices = machine.choices();
            let only_turns = choices.iter().all(|choice| matches!(choice, Choice::Turn(_)));
            if only_turns && machine.is_done() {
                self.ends += 1;
                machine.settle();
                end(&mut machine);
                return;
            }
            if only_turns {
                // Only turns are possible, and a request is still unanswered: turns alone must lead to its
                // answer.
                machine.settle();
                return;
            }
            for nth in (1..choices.len()).rev() {
                let mut path = path.clone();
                path.push(nth as u8);
                self.open.push(Branch { path, from: number });
            }
            path.push(0);
            machine.take(choices[0]);
            from = number;
        }
    }
}

/// Checks a final state: parity matches, and every block reads as it should.
fn end(machine: &mut Machine<'_>) {
    machine.check_parity("all is quiet");
    let lost = machine.read_all();
    let stripes: Vec<u64> = lost.iter().map(|block| block / (machine.blocks() / scope::STRIPES)).collect();
    assert!(
        stripes.iter().all(|stripe| machine.lossy.contains(stripe)),
        "READ: blocks {lost:?} cannot be read in the end"
    );
}

/// Runs one path and prints each choice.
pub fn replay(scope: &Scope, memories: &Memories, path: &[u8]) {
    let template = Template::new(scope, memories);
    let mut machine = Machine::new(&template, memories, true);
    for &nth in path {
        let choice = machine.choices()[usize::from(nth)];
        println!("       {choice:?}");
        machine.take(choice);
    }
    if scope.cuts {
        Cuts::default().check(&machine, &template, memories);
    }
    if machine.choices().iter().all(|choice| matches!(choice, Choice::Turn(_))) {
        machine.settle();
        end(&mut machine);
    }
}

/// Number of paths in a graph without cycles, from state 0 to a state without events.
fn paths(states: usize, edges: &[(u32, u32)]) -> f64 {
    let mut next: Vec<Vec<u32>> = vec![Vec::new(); states];
    let mut arriving = vec![0u32; states];
    for &(from, to) in edges {
        next[from as usize].push(to);
        arriving[to as usize] += 1;
    }
    let mut ways = vec![0.0; states];
    ways[0] = 1.0;
    let mut ready = vec![0u32];
    let mut ends = 0.0;
    while let Some(state) = ready.pop() {
        let here = ways[state as usize];
        if next[state as usize].is_empty() {
            ends += here;
        }
        for &to in &next[state as usize] {
            ways[to as usize] += here;
            arriving[to as usize] -= 1;
            if arriving[to as usize] == 0 {
                ready.push(to);
            }
        }
    }
    ends
}
