//! The list of lost rows at a start: read from the members in sync, and rewritten on all members before
//! anything relies on it.

use uuid::Uuid;

use super::{Bench, StartError, Started, hold_against_member};
use crate::format::lost_rows::{Bounds, LIST_BYTES, LostRange, PLACE_OFFSETS_BYTES, decode, encode};
use crate::geometry::Slots;
use crate::lost::LostRows;
use crate::ring::{Durability, MemberIo, Ring};

/// The order in which the two places are written.
pub(super) type Order = [u64; PLACE_OFFSETS_BYTES.len()];
/// The order if nothing is wrong with either place.
pub(super) const IN_ORDER: Order = PLACE_OFFSETS_BYTES;

/// Loads the newest valid list of the members in sync, and decides in which order its places are written:
/// first the place of which fewer members have a valid copy. A power cut may tear all copies of the place
/// that is being written, and the copies of the other place must then suffice. Without any valid copy this is
/// an error, because lost rows would be served as zeros.
pub(super) fn load<R: Ring>(
    bench: &mut Bench<'_, R>,
    started: &Started,
) -> Result<(LostRows, Order), StartError> {
    let array = Uuid::from_bytes(started.layout.uuid);
    let bounds = Bounds {
        stripes: started.geometry.stripes(),
        members: started.geometry.members(),
        chunk_bytes: started.geometry.chunk_bytes(),
    };
    let mut newest: Option<(u64, Vec<LostRange>)> = None;
    let mut valid = [0; PLACE_OFFSETS_BYTES.len()];
    let span = bench.scratch.part(0, LIST_BYTES as u32);
    for slot in started.view.readable.iter() {
        for (place, count) in PLACE_OFFSETS_BYTES.into_iter().zip(&mut valid) {
            let device = started.devices[usize::from(slot)];
            if bench.run(&[Bench::<R>::op(device, MemberIo::Read, place, span)])[0].is_err() {
                continue;
            }
            if let Ok(found) = bench.memory.with(span, |list| decode(list, array, &bounds)) {
                *count += 1;
                if newest.as_ref().is_none_or(|(known, _)| found.0 > *known) {
                    newest = Some(found);
                }
            }
        }
    }
    let (generation, ranges) = newest.ok_or(StartError::LostRowsUnreadable)?;
    let [first, second] = PLACE_OFFSETS_BYTES;
    let order = if valid[1] < valid[0] { [second, first] } else { IN_ORDER };
    Ok((LostRows::new(started.geometry, generation, &ranges, true), order))
}

/// Writes the list as found to every member, with the next generation. If only some members had it, the next
/// start could decide differently from this one. Returns the slots where the write failed.
pub(super) fn even_out<R: Ring>(
    bench: &mut Bench<'_, R>,
    started: &mut Started,
    order: Order,
) -> Result<Slots, StartError> {
    let slots = started.view.writable;
    if !started.lost.is_on_record() {
        return Ok(Slots::NONE);
    }
    let (generation, ranges) = started.lost.snapshot();
    started.lost = LostRows::new(started.geometry, generation + 1, &ranges, true);
    let span = bench.scratch.part(0, LIST_BYTES as u32);
    let array = Uuid::from_bytes(started.layout.uuid);
    bench.memory.with_mut(span, |list| encode(list, array, generation + 1, &ranges));
    let mut failed = Slots::NONE;
    for place in order {
        let write = MemberIo::Write(Durability::Durable);
        let op = |slot| Bench::<R>::op(started.devices[usize::from(slot)], write, place, span);
        let ops: Vec<_> = slots.iter().map(op).collect();
        for (slot, result) in slots.iter().zip(bench.run(&ops)) {
            hold_against_member(slot, result)?;
            if result.is_err() {
                failed = failed.or(Slots::one(slot));
            }
        }
    }
    Ok(failed)
}
