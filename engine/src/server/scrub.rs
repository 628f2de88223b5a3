//! Scrubs a stopped array: reads every stripe, computes its parity and compares. Changes nothing.

use std::path::PathBuf;

use bitmap::Cell;

use crate::assembly::{AssemblyOptions, assemble};
use crate::device::{Access, Device};
use crate::format::host::Host;
use crate::memory::Span;
use crate::ring::{MemberIo, MemberOp, Ring};
use crate::start::{Bench, SCRATCH_BYTES, StartOptions, Started, start};

use super::bounded::patience;
use super::fit::check_blocks;
use super::open::{ControlRing, candidates, open_all};
use super::words::not_in_sync;
use super::{Progress, ScrubReport, ServerError};

/// Most stripes named in a report.
const MISMATCHES_NAMED_MAX: usize = 64;

/// Reads every stripe of a stopped array and compares its parity. Every member must be present and in sync.
pub fn scrub_offline(
    members: &[PathBuf],
    progress: &mut dyn FnMut(Progress),
) -> Result<ScrubReport, ServerError> {
    let devices = open_all(members, Access::ReadOnly)?;
    let mut ring = ControlRing::new(&devices, patience(0))?;
    let scrubbed = scrub(&mut ring.bench(), &devices, progress);
    ring.outcome(&devices, scrubbed)
}

fn scrub(
    bench: &mut Bench<'_, impl Ring>,
    devices: &[Device],
    progress: &mut dyn FnMut(Progress),
) -> Result<ScrubReport, ServerError> {
    let candidates = candidates(bench, devices);
    let options = AssemblyOptions { foreign_host_ok: true, host: Host::ANY, ..AssemblyOptions::default() };
    let assembly = assemble(&candidates, &options).map_err(|error| ServerError(error.to_string()))?;
    check_blocks(&assembly, devices)?;
    let options = StartOptions { read_only: true, seed: 1, ..StartOptions::default() };
    let started = start(bench, &assembly, &options).map_err(|error| ServerError(error.to_string()))?;
    let name = assembly.record.name.as_str().to_string();
    if let Some(what) = not_in_sync(&assembly, devices) {
        return Err(ServerError(format!(
            "{name}: {what}: parity is compared when every member is there and in sync: serve the array, fill the slot, wait for its rebuild, stop the array, and scrub it then"
        )));
    }
    let mut report = ScrubReport { name, ..ScrubReport::default() };
    let stripe_bytes = u64::from(started.geometry.chunk_bytes()) * u64::from(started.geometry.members());
    for stripe in 0..started.geometry.stripes() {
        match started.bitmap.cell(stripe) {
            Cell::Unwritten => report.unwritten += 1,
            Cell::NeedSync => report.need_sync += 1,
            _ => {
                report.checked += 1;
                if !matches(bench, &started, devices, stripe)? {
                    report.mismatch_count += 1;
                    if report.mismatches.len() < MISMATCHES_NAMED_MAX {
                        report.mismatches.push(stripe);
                    }
                }
            }
        }
        let done_bytes = (stripe + 1) * stripe_bytes;
        progress(Progress { done_bytes, total_bytes: started.geometry.stripes() * stripe_bytes });
    }
    Ok(report)
}

/// Whether one stripe's parity matches its data.
fn matches(
    bench: &mut Bench<'_, impl Ring>,
    started: &Started,
    devices: &[Device],
    stripe: u64,
) -> Result<bool, ServerError> {
    let geometry = &started.geometry;
    let rotation = geometry.rotation(stripe);
    let strips = u32::from(geometry.members());
    // Scratch space: every strip, and a computed copy of each parity, for as many rows at a time as fit.
    let places = strips + u32::from(geometry.parities());
    let rows = geometry.chunk_bytes().min(SCRATCH_BYTES / places / 4096 * 4096);
    let mut row = 0;
    while row < geometry.chunk_bytes() {
        let len = rows.min(geometry.chunk_bytes() - row);
        let place = |strip: u32| bench.scratch.part(strip * rows, len);
        let offset = started.layout.data_offset_bytes + geometry.strip_offset(stripe) + u64::from(row);
        let op = |strip: u32| {
            let device = started.devices[usize::from(rotation.slot_of(strip as u8))];
            let span = place(strip);
            MemberOp { tag: 0, device, io: MemberIo::Read, offset_bytes: offset, len_bytes: len.into(), span }
        };
        let ops: Vec<_> = (0..strips).map(op).collect();
        let data: Vec<(u8, Span)> =
            (0..geometry.data()).map(|strip| (strip, place(u32::from(strip)))).collect();
        let (p, q) = (u32::from(geometry.p()), strips - 1);
        let (made_p, made_q) = (place(strips), place(places - 1));
        let (p, q) = (place(p), place(q));
        for (strip, result) in bench.run(&ops).into_iter().enumerate() {
            result.map_err(|errno| {
                let error = std::io::Error::from_raw_os_error(errno);
                let slot = rotation.slot_of(strip as u8);
                let device = &devices[usize::from(started.devices[usize::from(slot)].0)];
                ServerError(format!(
                    "slot {slot}: {}: cannot read its part of stripe {stripe}: {error}: serve the array, which repairs what can be repaired, and scrub it again",
                    device.name()
                ))
            })?;
        }
        let equal = if geometry.parities() == 1 {
            let spans: Vec<Span> = data.iter().map(|(_, span)| *span).collect();
            bench.memory.xor_generate(made_p, &spans);
            bench.memory.equal(p, made_p)
        } else {
            bench.memory.pq_generate(made_p, made_q, &data);
            bench.memory.equal(p, made_p) && bench.memory.equal(q, made_q)
        };
        if !equal {
            return Ok(false);
        }
        row += len;
    }
    Ok(true)
}
