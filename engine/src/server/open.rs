//! Opens devices for control steps: exclusively, checked against each other, and attached to one ring.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::assembly::Candidate;
use crate::clock::MonotonicClock;
use crate::device::{Access, Device, DeviceError, OpenMode, Sharing};
use crate::format::lost_rows::PLACE_OFFSETS_BYTES;
use crate::format::signatures::{self, HEAD_BYTES, TAIL_BYTES};
use crate::format::superblock::Copy;
use crate::format::superblock::{Found, NoMember};
use crate::format::zones::{TAIL_UNUSED_BYTES, Zones};
use crate::limits::{BLOCK_BYTES, DEVICES_MAX};
use crate::memory::{Memory, Span};
use crate::ring::{DeviceIndex, Ring, Uring, UringConfig};
use crate::start::{Bench, SCRATCH_BYTES, read_superblocks};

use super::ServerError;
use super::bounded::{each_within, no_answer, patience};
use super::patient::PatientRing;
use super::words::member_held;

/// How many times the patience a device has for writing its caches back. A file that was just copied may have
/// gigabytes of dirty pages; with the plain patience a good member would be left out as silent, and become
/// stale.
const FLUSH_PATIENCES: u32 = 10;

/// Bytes of one write while wiping.
const WIPED_AT_ONCE_BYTES: usize = 1 << 20;

/// The first and the last bytes of a device.
type Ends = (Vec<u8>, Vec<u8>);

/// Opened devices, in order, and the ends read from each.
pub(super) struct Opened {
    pub(super) devices: Vec<Device>,
    pub(super) ends: Vec<Result<Ends, DeviceError>>,
    /// Errors for the devices that did not answer, one per device. The caller treats these devices as not
    /// opened.
    pub(super) silent: Vec<ServerError>,
}

/// Opens every path; a device that does not answer is an error.
pub(super) fn open_all(paths: &[PathBuf], access: Access) -> Result<Vec<Device>, ServerError> {
    let opened = open_within(paths, access, patience(0))?;
    match opened.silent.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(opened.devices),
    }
}

/// Opens every path, reads the ends of each device and flushes it, all devices at the same time. A device
/// that is given twice is refused. A device is left out as silent if it is not open and read within
/// `patience`, or not flushed within [`FLUSH_PATIENCES`] times that.
pub(super) fn open_within(
    paths: &[PathBuf],
    access: Access,
    patience: Duration,
) -> Result<Opened, ServerError> {
    if paths.len() > DEVICES_MAX {
        return Err(ServerError(format!(
            "{} devices are given; at most {DEVICES_MAX} are taken",
            paths.len()
        )));
    }
    let looked_at = each_within(paths.to_vec(), patience, |path| Device::open(path, OpenMode::EXAMINE));
    let (answering, silent): (Vec<_>, Vec<_>) =
        paths.iter().cloned().zip(looked_at).partition(|(_, looked_at)| looked_at.is_some());
    refuse_twice(&answering)?;
    let mut silent: Vec<ServerError> = silent.iter().map(|(path, _)| no_answer(path, patience)).collect();
    let answering: Vec<PathBuf> = answering.into_iter().map(|(path, _)| path).collect();
    let mode = OpenMode { access, sharing: Sharing::Exclusive };
    let open = move |path: PathBuf| {
        let device = Device::open(path, mode)?;
        let ends = ends(&device);
        Ok::<_, DeviceError>((device, ends))
    };
    let mut opened = Vec::new();
    for (path, outcome) in answering.iter().zip(each_within(answering.clone(), patience, open)) {
        match outcome {
            Some(outcome) => opened.push(outcome?),
            None => silent.push(no_answer(path, patience)),
        }
    }
    // Ignore an error of this flush: a running array fails a member whose flush fails.
    Ok(flush_within(opened, silent, patience, |device| drop(device.flush())))
}

/// Makes every device write its caches back. A device that does not finish counts as silent, since it could
/// not serve as a member.
fn flush_within(
    opened: Vec<(Device, Result<Ends, DeviceError>)>,
    silent: Vec<ServerError>,
    patience: Duration,
    flush: impl Fn(&Device) + Clone + Send + 'static,
) -> Opened {
    let patience = FLUSH_PATIENCES * patience;
    let paths: Vec<PathBuf> = opened.iter().map(|(device, _)| device.path().into()).collect();
    let flushed = each_within(opened, patience, move |(device, ends)| {
        flush(&device);
        (device, ends)
    });
    let mut opened = Opened { devices: Vec::new(), ends: Vec::new(), silent };
    for (path, flushed) in paths.iter().zip(flushed) {
        match flushed {
            Some((device, ends)) => {
                opened.devices.push(device);
                opened.ends.push(ends);
            }
            None => opened.silent.push(no_answer(path, patience)),
        }
    }
    opened
}

/// Refuses a device that is given twice, by identity and storage. This comes before the exclusive open, which
/// would report the second name only as "in use".
fn refuse_twice(looked_at: &[(PathBuf, Option<Result<Device, DeviceError>>)]) -> Result<(), ServerError> {
    let mut seen: Vec<(&Path, &Device)> = Vec::new();
    for (path, device) in looked_at {
        // A device that cannot be examined gets its own error when it is opened for use.
        let Some(Ok(device)) = device else { continue };
        if let Some((other, _)) = seen.iter().find(|(_, seen)| seen.shares_storage_with(device)) {
            return Err(ServerError(format!(
                "{}: shares storage with {}: give each member once",
                path.display(),
                other.display()
            )));
        }
        seen.push((path, device));
    }
    Ok(())
}

/// Refuses a device with content, unless `force`.
pub(super) fn refuse_content(device: &Device, force: bool) -> Result<(), ServerError> {
    if force { Ok(()) } else { refuse_ends(device, ends(device)) }
}

/// Refuses a device with content, judged by its ends.
pub(super) fn refuse_ends(device: &Device, ends: Result<Ends, DeviceError>) -> Result<(), ServerError> {
    let (head, tail) = ends?;
    let (size, end) = (device.facts().size_bytes, device.facts().end_bytes);
    let foreign = || signatures::detect_foreign(&head, &tail, end).map(String::from);
    match member_held(&head, size).or_else(foreign) {
        Some(what) => Err(ServerError(format!(
            "{}: holds {what}: give --force to overwrite it, or another device",
            device.path().display()
        ))),
        None => Ok(()),
    }
}

pub(super) fn ends(device: &Device) -> Result<Ends, DeviceError> {
    let end = device.facts().end_bytes;
    let mut head = vec![0; HEAD_BYTES.min(end as usize)];
    let mut tail = vec![0; TAIL_BYTES.min(end as usize)];
    device.read_at(0, &mut head)?;
    device.read_at(end - tail.len() as u64, &mut tail)?;
    Ok((head, tail))
}

/// Overwrites durably everything before the data zone, which begins at `data_offset_bytes`, and the end that
/// arrays leave unused: both superblocks, the bitmap, the log, and leftovers of other programs. Anything
/// found in these places later was therefore written later. (A device that joins a running array is wiped by
/// the array itself: steward/arrival.rs.)
pub(super) fn wipe_metadata(device: &Device, data_offset_bytes: u64) -> Result<(), ServerError> {
    let facts = device.facts();
    wipe(device, 0..data_offset_bytes)?;
    wipe(device, facts.size_bytes.saturating_sub(TAIL_UNUSED_BYTES)..facts.end_bytes)?;
    Ok(device.flush()?)
}

/// Overwrites durably the parts of a member that an array with these zones does not use and where other
/// programs leave signatures: around the superblocks, and the unused end. Without this the next start would
/// again leave out a member that was accepted although another program had written to it; and a member that
/// has become longer may hold anything at its new end.
pub(super) fn wipe_unused(device: &Device, zones: &Zones) -> Result<(), ServerError> {
    let facts = device.facts();
    let block = BLOCK_BYTES as u64;
    let [a, b] = [Copy::A, Copy::B].map(Copy::offset_bytes);
    let tail = facts.size_bytes.saturating_sub(TAIL_UNUSED_BYTES).max(zones.end_bytes());
    for unused in [0..a, a + block..b, b + block..PLACE_OFFSETS_BYTES[0], tail..facts.end_bytes] {
        wipe(device, unused)?;
    }
    Ok(device.flush()?)
}

fn wipe(device: &Device, range: std::ops::Range<u64>) -> Result<(), ServerError> {
    let end = range.end.min(device.facts().end_bytes);
    let zeros = vec![0; WIPED_AT_ONCE_BYTES];
    for offset in (range.start..end).step_by(WIPED_AT_ONCE_BYTES) {
        let len = (end - offset).min(WIPED_AT_ONCE_BYTES as u64);
        device.write_at(offset, &zeros[..len as usize])?;
    }
    Ok(())
}

/// Name of what another program has written on a member, outside of the array's own zones.
fn foreign_on(device: &Device, ends: &Ends, found: &Found) -> Option<&'static str> {
    let (head, tail) = ends;
    signatures::written_over(head, tail, device.facts().end_bytes, found.superblock.record.zones.end_bytes())
}

/// Result of [`leave_out_overwritten`].
pub(super) struct Overwritten {
    /// Warnings for the operator.
    pub(super) warnings: Vec<String>,
    /// Candidates that are accepted although another program has written to them, because the operator said
    /// so.
    pub(super) taken: Vec<usize>,
}

/// Leaves out members that another program has written to, unless the operator accepts them. A signature
/// proves such a write only if every member was wiped when it joined, or if a copy of the superblock is
/// damaged. Otherwise the signature may be older than the array, and causes only a warning.
pub(super) fn leave_out_overwritten(
    candidates: &mut [Candidate],
    devices: &[Device],
    ends: &[Result<Ends, DeviceError>],
    take: bool,
) -> Overwritten {
    let mut overwritten = Overwritten { warnings: Vec::new(), taken: Vec::new() };
    for (index, ((candidate, device), ends)) in candidates.iter_mut().zip(devices).zip(ends).enumerate() {
        // An unreadable end tells nothing; the superblocks could be read.
        let (Ok(found), Ok(ends)) = (&candidate.found, ends) else { continue };
        let Some(what) = foreign_on(device, ends, found) else { continue };
        let path = device.path().display();
        let is_newer = found.superblock.record.wiped || !found.both_valid;
        if take {
            overwritten.taken.push(index);
            overwritten.warnings.push(format!(
                "{path}: holds {what} beside its superblocks, and is taken as you said: scrub the array"
            ));
        } else if is_newer {
            candidate.found = Err(NoMember::WrittenOver(what));
        } else {
            overwritten.warnings.push(format!(
                "{path}: holds {what} beside its superblocks: if another program has written to it since the array was made, scrub the array"
            ));
        }
    }
    overwritten
}

/// Reads the superblocks of the devices of a ring: a candidate for each, in order.
pub(super) fn candidates(bench: &mut Bench<'_, impl Ring>, devices: &[Device]) -> Vec<Candidate> {
    let mut candidate = |(index, device): (usize, &Device)| {
        let found = read_superblocks(bench, DeviceIndex(index as u8), device.facts().size_bytes);
        Candidate { label: device.path().display().to_string(), found }
    };
    devices.iter().enumerate().map(&mut candidate).collect()
}

/// A ring over some devices, for control steps; device `i` has index `i`. After a device does not answer,
/// every further step fails: see `patient`.
pub(super) struct ControlRing {
    ring: PatientRing<Uring>,
    patience: Duration,
    memory: Arc<Memory>,
    scratch: Span,
    config: UringConfig,
}

impl ControlRing {
    /// Makes a ring with its own memory.
    pub(super) fn new(devices: &[Device], patience: Duration) -> Result<ControlRing, ServerError> {
        let failed =
            |error| ServerError(format!("cannot set up io_uring: {error}: Linux 6.1 or newer is needed"));
        let memory = Memory::new(&[SCRATCH_BYTES as usize]).map_err(failed)?;
        let passthrough = devices.iter().any(Device::wants_passthrough);
        let config = UringConfig { passthrough, ..UringConfig::default() };
        let mut ring = Uring::new(memory.clone(), &config).map_err(failed)?;
        for (index, device) in devices.iter().enumerate() {
            ring.attach(DeviceIndex(index as u8), device.for_ring(1)?).map_err(failed)?;
        }
        let scratch = memory.arena(0).part(0, SCRATCH_BYTES);
        let ring = PatientRing::new(ring, MonotonicClock, patience.as_nanos() as u64);
        Ok(ControlRing { ring, patience, memory, scratch, config })
    }

    /// The configuration that the ring was made with.
    pub(super) fn config(&self) -> &UringConfig {
        &self.config
    }

    pub(super) fn bench(&mut self) -> Bench<'_, PatientRing<Uring>> {
        Bench { ring: &mut self.ring, memory: &self.memory, scratch: self.scratch }
    }

    /// Outcome of the control steps on this ring. If a device has not answered, the result of the steps is
    /// discarded.
    pub(super) fn outcome<T>(
        &self,
        devices: &[Device],
        outcome: Result<T, impl std::fmt::Display>,
    ) -> Result<T, ServerError> {
        let Some(DeviceIndex(silent)) = self.ring.silent() else {
            return outcome.map_err(|error| ServerError(error.to_string()));
        };
        let no_answer = no_answer(devices[usize::from(silent)].path(), self.patience);
        Err(ServerError(format!("{no_answer}: see the kernel log, and try again once it answers")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{CreateOptions, Init, Level, create};

    /// A flush may take longer than every other step; only a device that does not finish it is left out.
    #[test]
    fn a_flush_has_its_own_bound() {
        let directory = std::env::temp_dir();
        let opened = ["at-once", "late", "never"].map(|name| {
            let path = directory.join(format!("striate-flush-{}-{name}", std::process::id()));
            std::fs::write(&path, vec![0; 1 << 20]).unwrap();
            let device = Device::open(&path, OpenMode::EXAMINE).unwrap();
            std::fs::remove_file(&path).unwrap();
            let ends = ends(&device);
            (device, ends)
        });
        let patience = Duration::from_millis(100);
        let flush = move |device: &Device| {
            let path = device.path();
            let patiences = match path.to_string_lossy() {
                path if path.ends_with("never") => 100,
                path if path.ends_with("late") => 3,
                _ => 0,
            };
            let _nothing_comes = crossbeam::channel::never::<()>().recv_timeout(patiences * patience);
        };
        let opened = flush_within(opened.into(), Vec::new(), patience, flush);
        let names: Vec<_> = opened.devices.iter().map(|device| device.path().to_string_lossy()).collect();
        assert!(
            matches!(&names[..], [first, second] if first.ends_with("at-once") && second.ends_with("late"))
        );
        assert_eq!((opened.ends.len(), opened.silent.len()), (2, 1));
        let said = &opened.silent[0].0;
        assert!(said.ends_with("never: does not answer: waited for 1 s"), "{said}");
    }

    /// A device may end with less than a block of 4 KiB. Its last sectors are examined and wiped too: a GPT
    /// has its second copy there.
    #[test]
    fn a_device_has_an_end() {
        let path = std::env::temp_dir().join(format!("striate-end-{}", std::process::id()));
        std::fs::write(&path, vec![0xa5; 8 << 20]).unwrap();
        let sector = Device::open(&path, OpenMode::SERVE).unwrap().facts().logical_block_bytes as usize;
        let mut content = vec![0xa5; (8 << 20) + 3 * sector];
        let last = content.len() - sector;
        content[last..][..8].copy_from_slice(b"EFI PART");
        std::fs::write(&path, &content).unwrap();
        let device = Device::open(&path, OpenMode::SERVE).unwrap();
        let refused = refuse_content(&device, false).unwrap_err().0;
        assert!(refused.contains("a GPT partition table (the copy at the end)"), "{refused}");
        wipe_metadata(&device, 1 << 20).unwrap();
        refuse_content(&device, false).unwrap();
        let back = std::fs::read(&path).unwrap();
        let tail = device.facts().size_bytes as usize - TAIL_UNUSED_BYTES as usize;
        assert!(back[..1 << 20].iter().chain(&back[tail..]).all(|byte| *byte == 0));
        assert!(back[1 << 20..tail].iter().all(|byte| *byte == 0xa5));
        std::fs::remove_file(&path).unwrap();
    }

    /// An installer overwrites the front of a member: only the head of a partition table, or also the table
    /// itself, which covers one copy of the superblock. Case: (is that copy damaged, were members wiped, does
    /// the operator accept the member) -> is the member left out.
    #[test]
    fn a_member_under_a_partition_table_is_left_out() {
        let directory = std::env::temp_dir().join(format!("striate-overwritten-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let members: Vec<PathBuf> = (0..4).map(|nth| directory.join(format!("m{nth}"))).collect();
        let options = CreateOptions {
            name: "overwritten".into(),
            level: Level::Raid5,
            chunk_bytes: 64 << 10,
            members: members.clone(),
            file_bytes: Some(8 << 20),
            init: Init::Zero,
            force: false,
        };
        create(&options, &mut |_| {}).unwrap();
        let mut bytes = std::fs::read(&members[1]).unwrap();
        for is_damaged in [false, true] {
            bytes[512..520].copy_from_slice(b"EFI PART");
            if is_damaged {
                bytes[1024..17 << 10].fill(0x11);
            }
            std::fs::write(&members[1], &bytes).unwrap();
            let Opened { devices, ends, .. } = open_within(&members, Access::ReadOnly, patience(0)).unwrap();
            let mut ring = ControlRing::new(&devices, patience(0)).unwrap();
            for (is_wiped, take) in [(false, false), (false, true), (true, false), (true, true)] {
                let mut found = candidates(&mut ring.bench(), &devices);
                let superblock = &mut found[1].found.as_mut().unwrap().superblock;
                assert!(superblock.record.wiped, "`create` says that it has wiped its members");
                superblock.record.wiped = is_wiped;
                let overwritten = leave_out_overwritten(&mut found, &devices, &ends, take);
                let left_out: Vec<usize> = (0..4).filter(|&nth| found[nth].found.is_err()).collect();
                let expected = if (is_damaged || is_wiped) && !take { vec![1] } else { vec![] };
                let case = format!("damaged: {is_damaged}, wiped: {is_wiped}, taken: {take}");
                assert_eq!(left_out, expected, "{case}");
                let warnings = overwritten.warnings;
                assert_eq!(warnings.len(), usize::from(expected.is_empty()), "{case}: {warnings:?}");
                assert_eq!(overwritten.taken, if take { vec![1] } else { vec![] }, "{case}");
            }
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
