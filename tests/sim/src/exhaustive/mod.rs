//! Small scope, exhaustively: all interleavings and all power cuts of the product's array on two stripes.
//!
//! ```text
//!   scope    what is asked, and what may happen      machine  one run, choice by choice
//!   scopes   all that are gone through               state    the state of one as a number
//!   crash    every cut of a state, and its recovery  checks   what is checked at every event
//! ```
//!
//! Stateless model checking: a state is reached by running the product anew with the choices that lead there. A choice
//! is an event: the host submits its next request, an operation in flight completes, a reactor takes a message or
//! turns, a second passes, a member dies. States that have been seen are not gone into again. Two states are the same
//! when everything is that decides what can happen next: the engine's structures as text (`Debug` of `Array`, bitmap,
//! members, mailboxes), caches, media and operations in flight by content, what stripes that are owned were read as,
//! and what the oracle would allow. Names (slots of slabs, addresses of buffers) count too, so the same state may be
//! seen twice under other names, but two that differ are not taken for one, but for a collision of 64 bits.
//!
//! The oracles are the simulator's: the monitors in the members (I1, I2, I6, C1, C2, I3) at every event, what reads
//! return, and for each cut what can be read after it, with every member and without.
//!
//! Interleavings are the paths of the graph of states, counted when it is complete.

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

/// What an exploration came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Different states.
    pub states: u64,
    /// Events between them.
    pub events: u64,
    /// Paths from the first state to an end.
    pub interleavings: f64,
    /// Ends: all is answered and nothing more can happen.
    pub ends: u64,
    /// Events of the longest path.
    pub longest: usize,
    /// Power cuts.
    pub cuts: CutCounts,
    /// How long it took.
    pub took: Duration,
}

/// What broke a rule.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The rule, and where.
    pub what: String,
    /// The choices that lead there: the place of each among those there were.
    pub path: Vec<u8>,
}

/// A part of the tree that is still to be gone into.
struct Branch {
    path: Vec<u8>,
    /// The state that its last choice is made in.
    from: u32,
}

/// Goes through everything. `None` when the time is over before that.
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
    /// The states, numbered as they were found.
    known: HashMap<u64, u32>,
    /// Events, by the numbers of the states.
    edges: Vec<(u32, u32)>,
    ends: u64,
    longest: usize,
    cuts: Cuts,
    text: String,
    open: Vec<Branch>,
}

impl Walk<'_> {
    /// Runs the choices of `path`, then goes on with the first choice of each new state until there is none.
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
                    // A turn that changed nothing is no event.
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
                // Nothing but turns can happen, and somebody waits: they have to be enough.
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

/// All is answered: every block reads as it should, on every member.
fn end(machine: &mut Machine<'_>) {
    machine.check_parity("all is quiet");
    let lost = machine.read_all();
    let stripes: Vec<u64> = lost.iter().map(|block| block / (machine.blocks() / scope::STRIPES)).collect();
    assert!(
        stripes.iter().all(|stripe| machine.lossy.contains(stripe)),
        "READ: blocks {lost:?} cannot be read in the end"
    );
}

/// Runs one path aloud.
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

/// How many paths a graph without cycles has, from state 0 to a state without events.
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
