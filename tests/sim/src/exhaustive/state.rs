//! The state of a machine as a number, so that equal states are explored once.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use engine::request::RequestKind;
use engine::ring::{Durability, MemberIo};

use super::machine::{HOST_ARENA, Machine};
use super::scope::STRIPES;
use crate::bus::Bus;
use crate::disk::{PAGE, name_of};
use crate::rng::mix;

impl Machine<'_> {
    /// A hash of the state. States with the same hash have the same futures, except for collisions.
    pub fn fingerprint(&mut self, text: &mut String) -> u64 {
        text.clear();
        for reactor in &self.reactors {
            write!(text, "{:?} {}", reactor.array, reactor.arrived).expect("a string takes everything");
        }
        let shared = &self.shared;
        let written: u64 = shared.tallies.iter().map(|tally| tally.member_writes.get()).sum();
        write!(text, "{:?}{:?}{written}", shared.bitmap, shared.members).expect("a string takes everything");
        write!(text, "{:?}", shared.deallocations.load(Ordering::Relaxed))
            .expect("a string takes everything");
        for me in 0..self.reactors.len() as u8 {
            let asks: Vec<_> = std::iter::from_fn(|| shared.mailboxes.take_ask(me)).collect();
            let answers: Vec<_> = std::iter::from_fn(|| shared.mailboxes.take_answer(me)).collect();
            write!(text, "{asks:?}{answers:?}").expect("a string takes everything");
            for (from, ask) in asks {
                assert!(shared.mailboxes.post(from, me, ask), "what was there has room");
            }
            answers.into_iter().for_each(|answer| shared.mailboxes.answer(me, answer));
        }
        forget_addresses(text);
        while !text.len().is_multiple_of(32) {
            text.push(' ');
        }
        let mut hash = name_of(text.as_bytes());
        let mut add = |word: u64| hash = mix(hash ^ word);
        add(self.submitted as u64 | u64::from(self.ticks) << 8 | u64::from(self.dead) << 16);
        let starts: Vec<u64> = self.asked.values().map(|asked| asked.start).collect();
        add(self.oracle.fingerprint(&starts));
        for (tag, asked) in &self.asked {
            add(*tag);
            if asked.ask.kind == RequestKind::Read {
                add(self.memory.with(asked.span, name_of));
            }
        }
        for stripe in &self.lossy {
            add(1 << 32 | stripe);
        }
        let mut bus = self.bus.borrow_mut();
        add(self.below(&mut bus, text));
        let geometry = &self.template.geometry;
        let data_pages = bus.disks[0].pages() - STRIPES * u64::from(geometry.chunk_bytes()) / PAGE as u64;
        let locks = &self.shared.locks;
        let pages_per_strip = u64::from(geometry.chunk_bytes()) / PAGE as u64;
        self.seen.retain(|(_, page), _| {
            *page >= data_pages && !locks.is_free((*page - data_pages) / pages_per_strip)
        });
        for ((disk, page), name) in &self.seen {
            if name_of(bus.disks[*disk].page_now(*page)) != *name {
                add(*disk as u64 | page << 8);
                add(*name);
            }
        }
        hash
    }

    /// A hash of everything below the engine.
    fn below(&self, bus: &mut Bus, text: &mut String) -> u64 {
        let flushes: Vec<(usize, u64)> = (bus.in_flight().iter())
            .filter(|op| op.op.io == MemberIo::Flush)
            .map(|op| (op.disk, op.pushed_at))
            .collect();
        let asked: Vec<u64> = (self.asked.values())
            .filter(|asked| asked.ask.kind == RequestKind::Flush)
            .map(|asked| asked.bus_moment)
            .collect();
        let mut sum = 0u64;
        for (number, disk) in bus.disks.iter_mut().enumerate() {
            for page in 0..disk.pages() {
                sum = sum.wrapping_add(mix(page << 8 | number as u64) ^ mix(name_of(disk.page_now(page))));
            }
            for (sector, cached) in disk.cached() {
                let mut hash = mix(sector << 8 | number as u64 | 1 << 60) ^ name_of(&cached.durable[..]);
                for (moment, bytes) in &cached.versions {
                    let flushed = flushes.iter().filter(|(disk, at)| *disk == number && moment < at).count();
                    let covered = asked.iter().filter(|&at| moment < at).count();
                    hash = mix(hash ^ name_of(&bytes[..]) ^ (flushed << 8 | covered) as u64);
                }
                sum = sum.wrapping_add(mix(hash));
            }
            let failed =
                disk.failed_reads.iter().fold(u64::from(disk.dead), |hash, &sector| mix(hash ^ sector));
            sum = sum.wrapping_add(mix(failed ^ (number as u64) << 32));
        }
        for op in bus.in_flight() {
            let io = match op.op.io {
                MemberIo::Read => 0,
                MemberIo::Write(Durability::Cached) => 1,
                MemberIo::Write(Durability::Durable) => 2,
                MemberIo::Flush => 3,
                MemberIo::Deallocate => 4,
            };
            // The purpose of the operation instead of its tag, because names make no difference.
            text.clear();
            write!(text, "{:?}", self.reactors[op.ring as usize].array.show_io(op.op.tag)).expect("a string");
            forget_addresses(text);
            while !text.len().is_multiple_of(32) {
                text.push(' ');
            }
            let what = mix(u64::from(op.ring) << 8 | io) ^ mix(op.op.offset_bytes) ^ name_of(text.as_bytes());
            sum = sum.wrapping_add(mix(what ^ (op.disk as u64) << 56 ^ name_of(&op.pushed)));
        }
        sum
    }
}

/// Removes the offsets of spans from a text: the position of a buffer in a reactor's pool makes no
/// difference.
fn forget_addresses(text: &mut String) {
    const SPAN: &str = "Span { arena: ";
    const OFFSET: &str = ", offset_bytes: ";
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find(SPAN) {
        let (before, span) = rest.split_at(at + SPAN.len());
        kept.push_str(before);
        let arena = span.bytes().next().map_or(0, |digit| u16::from(digit - b'0'));
        rest = span;
        if arena < HOST_ARENA {
            let offset = &span[1 + OFFSET.len()..];
            rest = offset.trim_start_matches(|c: char| c.is_ascii_digit());
        }
    }
    kept.push_str(rest);
    *text = kept;
}
