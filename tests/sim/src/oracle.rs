//! The end-to-end oracle: the contents that each sector of the array may read as.
//!
//! A sector has *candidates*: contents that a read may return. A write adds a candidate when it is submitted.
//! When the write is acknowledged, candidates that were settled before it began are dropped. A second set,
//! for after a power cut, drops only what a *durable* write replaced: a write with FUA, a write that a flush
//! covered, or any write if no member has a volatile cache. If a read returns one of several candidates while
//! no write is in flight, that candidate is the only one left.

use std::collections::{BTreeMap, BTreeSet};

use crate::rng::mix;

/// The name of a sector's content: see [`name_of`](crate::disk::name_of).
pub type Name = u64;

#[derive(Clone, Copy, Debug)]
struct Candidate {
    name: Name,
    /// Tag of the write; 0 for content from before.
    write: u64,
    start: u64,
    end: Option<u64>,
    ok: bool,
}

#[derive(Clone, Debug)]
struct Block {
    live: Vec<Candidate>,
    after_cut: Vec<Candidate>,
    /// Contents that only reads which began before the given moment may still return.
    past: Vec<(Name, u64)>,
    /// A write failed here: reads may return either content until the next successful write.
    shaky: bool,
    /// Nothing was written here since the start.
    untouched: bool,
}

/// The contents that each sector may read as, now and after a power cut.
#[derive(Clone)]
pub struct Oracle {
    blocks: BTreeMap<u64, Block>,
    /// Blocks whose two sets differ.
    unsettled: BTreeSet<u64>,
    /// Whether an acknowledged write may be lost until a flush covers it.
    volatile: bool,
    now: u64,
    /// Sectors that the array has listed as lost, and that no later write has replaced.
    pub lost: BTreeSet<u64>,
    /// Number of stripes that the array is known to have. An array never shrinks.
    pub stripes: u64,
}

/// A point in the oracle's own time.
pub type Moment = u64;

impl Block {
    fn new(name: Name) -> Block {
        let candidates = vec![Candidate { name, write: 0, start: 0, end: Some(0), ok: true }];
        Block {
            live: candidates.clone(),
            after_cut: candidates,
            past: Vec::new(),
            shaky: false,
            untouched: true,
        }
    }
}

impl Oracle {
    /// An array of zeros.
    #[must_use]
    pub fn new(volatile: bool) -> Oracle {
        Oracle {
            blocks: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            volatile,
            now: 1,
            lost: BTreeSet::new(),
            stripes: 0,
        }
    }

    /// Sets the content of a block that is not zeros at the beginning.
    pub fn initial(&mut self, block: u64, name: Name) {
        self.blocks.insert(block, Block::new(name));
    }

    /// All blocks that were ever written or discarded.
    pub fn touched(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocks.keys().copied()
    }

    /// The current moment.
    #[must_use]
    pub const fn now(&self) -> Moment {
        self.now
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    fn block(&mut self, block: u64) -> &mut Block {
        self.blocks.entry(block).or_insert_with(|| Block::new(0))
    }

    /// Notes that a write of these blocks is submitted.
    pub fn write_begins(&mut self, write: u64, first: u64, names: &[Name]) -> Moment {
        let start = self.tick();
        for (block, &name) in (first..).zip(names) {
            let candidate = Candidate { name, write, start, end: None, ok: false };
            let entry = self.block(block);
            entry.live.push(candidate);
            entry.after_cut.push(candidate);
            entry.untouched = false;
            self.unsettled.insert(block);
        }
        start
    }

    /// Notes that a write is answered.
    pub fn write_ends(&mut self, write: u64, first: u64, count: u64, ok: bool, fua: bool) {
        let end = self.tick();
        let durable = ok && (fua || !self.volatile);
        for block in first..first + count {
            if ok {
                self.lost.remove(&block);
            }
            let entry = self.block(block);
            let settle = |list: &mut Vec<Candidate>| {
                let mut start = None;
                for candidate in list.iter_mut().filter(|candidate| candidate.write == write) {
                    (candidate.end, candidate.ok) = (Some(end), ok);
                    start = Some(candidate.start);
                }
                start
            };
            let live_start = settle(&mut entry.live);
            let cut_start = settle(&mut entry.after_cut);
            if !ok {
                entry.shaky = true;
                continue;
            }
            if let Some(start) = live_start {
                entry.shaky = false;
                let past = &mut entry.past;
                entry.live.retain(|candidate| {
                    let gone = candidate.end.is_some_and(|end| end < start);
                    if gone {
                        past.push((candidate.name, end));
                    }
                    !gone
                });
            }
            if let (true, Some(start)) = (durable, cut_start) {
                entry.after_cut.retain(|candidate| candidate.end.is_none_or(|end| end >= start));
            }
        }
    }

    /// A hash of what the oracle knows: equal for two oracles that will allow the same reads from now on.
    /// Only the order of moments counts (the oracle's own, and those of `outstanding` requests), not their
    /// values.
    #[must_use]
    pub fn fingerprint(&self, outstanding: &[Moment]) -> u64 {
        let candidates =
            |block: &Block| block.live.iter().chain(&block.after_cut).copied().collect::<Vec<_>>();
        let mut moments: Vec<Moment> = outstanding.to_vec();
        for block in self.blocks.values() {
            moments.extend(candidates(block).iter().flat_map(|by| [by.start, by.end.unwrap_or(0)]));
            moments.extend(block.past.iter().map(|past| past.1));
        }
        moments.sort_unstable();
        moments.dedup();
        let rank = |moment: Moment| moments.partition_point(|&other| other < moment) as u64;
        let mut hash = mix(outstanding.iter().fold(0, |hash, &start| mix(hash ^ rank(start))));
        let mut add = |word: u64| hash = mix(hash ^ word);
        for (at, block) in &self.blocks {
            add(*at << 2 | u64::from(block.shaky) << 1 | u64::from(block.untouched));
            add(block.live.len() as u64);
            for by in candidates(block) {
                add(by.name);
                add(by.write << 1 | u64::from(by.ok));
                add(rank(by.start));
                add(by.end.map_or(u64::MAX, rank));
            }
            for (name, gone) in &block.past {
                // A read that began after this content was gone cannot return it.
                if outstanding.iter().any(|start| start < gone) {
                    add(*name);
                    add(rank(*gone));
                }
            }
        }
        hash
    }

    /// Notes that a flush is submitted.
    pub fn flush_begins(&mut self) -> Moment {
        self.tick()
    }

    /// Notes that a flush that began at `start` is acknowledged.
    pub fn flush_ends(&mut self, start: Moment) {
        let blocks = &mut self.blocks;
        self.unsettled.retain(|block| {
            let entry = blocks.get_mut(block).expect("an unsettled block is known");
            let covered = entry.after_cut.iter().filter(|by| by.ok && by.end.is_some_and(|end| end < start));
            // The latest start among writes that are durable now: content of writes that had ended before it
            // is gone.
            let latest = covered.map(|by| by.start).max().unwrap_or(0);
            entry.after_cut.retain(|candidate| candidate.end.is_none_or(|end| end >= latest));
            entry.after_cut.len() > 1 || entry.live.len() > 1
        });
    }

    /// Notes that a read begins, and returns the moment to pass in when it ends.
    pub fn read_begins(&mut self) -> Moment {
        self.tick()
    }

    /// The contents that a read that began at `start` may return for a block.
    #[must_use]
    pub fn allowed(&self, block: u64, start: Moment) -> Vec<Name> {
        match self.blocks.get(&block) {
            None => vec![0],
            Some(entry) => {
                let past = entry.past.iter().filter(|(_, gone)| *gone > start).map(|(name, _)| *name);
                entry.live.iter().map(|candidate| candidate.name).chain(past).collect()
            }
        }
    }

    /// Whether a read that began at `start` may return this content.
    #[must_use]
    pub fn allows(&self, block: u64, start: Moment, name: Name) -> bool {
        match self.blocks.get(&block) {
            None => name == 0,
            Some(entry) => {
                entry.live.iter().any(|candidate| candidate.name == name)
                    || entry.past.iter().any(|&(past, gone)| past == name && gone > start)
            }
        }
    }

    /// Notes what a read that began at `start` returned. Returns false if the read must not return that.
    #[must_use]
    pub fn read_ends(&mut self, block: u64, start: Moment, name: Name) -> bool {
        if !self.allows(block, start, name) {
            return false;
        }
        let now = self.tick();
        let Some(entry) = self.blocks.get_mut(&block) else { return true };
        let alone = entry.live.iter().all(|candidate| candidate.end.is_some_and(|end| end < start));
        if alone && !entry.shaky && entry.live.len() > 1 {
            let others = entry.live.iter().filter(|candidate| candidate.name != name);
            entry.past.extend(others.map(|candidate| (candidate.name, now)));
            entry.live.retain(|candidate| candidate.name == name);
            if entry.untouched {
                entry.after_cut.retain(|candidate| candidate.name == name);
            }
        }
        true
    }

    /// Applies a power cut: requests in flight are forgotten, and content that was not durable may be gone.
    pub fn power_cut(&mut self) {
        *self = self.after_power_cut();
    }

    /// A copy of the oracle as it would be if the power went now.
    #[must_use]
    pub fn after_power_cut(&self) -> Oracle {
        let now = self.now + 1;
        let block = |block: &Block| {
            let mut live: Vec<Candidate> = block
                .after_cut
                .iter()
                .map(|candidate| Candidate { end: Some(now), ok: false, write: 0, ..*candidate })
                .collect();
            if live.len() > 1 {
                live.sort_by_key(|candidate| candidate.name);
                live.dedup_by_key(|candidate| candidate.name);
            }
            let after_cut = live.clone();
            Block { live, after_cut, past: Vec::new(), shaky: false, untouched: true }
        };
        Oracle {
            blocks: self.blocks.iter().map(|(at, entry)| (*at, block(entry))).collect(),
            unsettled: self.unsettled.clone(),
            volatile: self.volatile,
            now,
            lost: self.lost.clone(),
            stripes: self.stripes,
        }
    }

    /// Notes that the array was stopped in order: everything acknowledged is durable.
    pub fn clean_stop(&mut self) {
        self.tick();
        for entry in self.blocks.values_mut() {
            entry.past.clear();
            entry.untouched = true;
            entry.after_cut = entry.live.clone();
        }
    }
}
