//! Devices for control steps: opened exclusively, checked against each other, put into one ring.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::assembly::Candidate;
use crate::device::{Access, Device, OpenMode, Sharing};
use crate::format::signatures::{self, HEAD_BYTES, TAIL_BYTES};
use crate::limits::DEVICES_MAX;
use crate::memory::{Memory, Span};
use crate::ring::{DeviceIndex, Uring, UringConfig};
use crate::start::{Bench, SCRATCH_BYTES, read_superblocks};

use super::ServerError;

/// Opens every path, in order. A device that is given twice is refused.
pub(super) fn open_all(paths: &[PathBuf], access: Access) -> Result<Vec<Device>, ServerError> {
    if paths.len() > DEVICES_MAX {
        return Err(ServerError(format!(
            "{} devices are given; at most {DEVICES_MAX} are taken",
            paths.len()
        )));
    }
    let mode = OpenMode { access, sharing: Sharing::Exclusive };
    refuse_twice(paths)?;
    paths.iter().map(|path| Device::open(path, mode).map_err(ServerError::from)).collect()
}

/// By identity and storage, before the exclusive open refuses the second for being held by the first.
fn refuse_twice(paths: &[PathBuf]) -> Result<(), ServerError> {
    let mode = OpenMode { access: Access::ReadOnly, sharing: Sharing::Shared };
    let mut seen: Vec<(&Path, Device)> = Vec::new();
    for path in paths {
        // What cannot even be looked at has an error of its own when it is opened in earnest.
        let Ok(device) = Device::open(path, mode) else { continue };
        if let Some((other, _)) = seen.iter().find(|(_, seen)| seen.shares_storage_with(&device)) {
            return Err(ServerError(format!(
                "{}: the same device as {}: give each member once",
                path.display(),
                other.display()
            )));
        }
        seen.push((path, device));
    }
    Ok(())
}

/// Refuses a device that holds something, unless `force`.
pub(super) fn refuse_content(device: &Device, force: bool) -> Result<(), ServerError> {
    if force {
        return Ok(());
    }
    let size = device.facts().size_bytes;
    let mut head = vec![0; HEAD_BYTES.min(size as usize)];
    let mut tail = vec![0; TAIL_BYTES.min(size as usize)];
    device.read_at(0, &mut head)?;
    device.read_at(size - tail.len() as u64, &mut tail)?;
    match signatures::detect_foreign(&head, &tail, size) {
        Some(what) => Err(ServerError(format!(
            "{}: holds {what}: give --force to overwrite it, or another device",
            device.path().display()
        ))),
        None => Ok(()),
    }
}

/// Overwrites both superblock copies, durably.
pub(super) fn wipe_superblocks(device: &Device) -> Result<(), ServerError> {
    let zeros = [0; crate::limits::BLOCK_BYTES];
    for copy in [crate::format::superblock::Copy::A, crate::format::superblock::Copy::B] {
        device.write_at(copy.offset_bytes(), &zeros)?;
    }
    Ok(device.flush()?)
}

/// What the superblocks of the devices of a ring come to, in order.
pub(super) fn candidates(bench: &mut Bench<'_, Uring>, devices: &[Device]) -> Vec<Candidate> {
    let mut candidate = |(index, device): (usize, &Device)| {
        let found = read_superblocks(bench, DeviceIndex(index as u8), device.facts().size_bytes);
        Candidate { label: device.path().display().to_string(), found }
    };
    devices.iter().enumerate().map(&mut candidate).collect()
}

/// A ring over some devices, for control steps; device `i` has index `i`.
pub(super) struct ControlRing {
    ring: Uring,
    memory: Arc<Memory>,
    scratch: Span,
    config: UringConfig,
}

impl ControlRing {
    /// With memory of its own, or a piece of a server's.
    pub(super) fn new(devices: &[Device]) -> Result<ControlRing, ServerError> {
        let failed =
            |error| ServerError(format!("cannot set up io_uring: {error}: Linux 6.1 or newer is needed"));
        let memory = Memory::new(&[SCRATCH_BYTES as usize]).map_err(failed)?;
        let passthrough = devices.iter().any(Device::wants_passthrough);
        let config = UringConfig { passthrough, ..UringConfig::default() };
        let mut ring = Uring::new(memory.clone(), &config).map_err(failed)?;
        for (index, device) in devices.iter().enumerate() {
            ring.attach(DeviceIndex(index as u8), device.for_ring()?).map_err(failed)?;
        }
        let scratch = memory.arena(0).part(0, SCRATCH_BYTES);
        Ok(ControlRing { ring, memory, scratch, config })
    }

    /// How it was made.
    pub(super) fn config(&self) -> &UringConfig {
        &self.config
    }

    pub(super) fn bench(&mut self) -> Bench<'_, Uring> {
        Bench { ring: &mut self.ring, memory: &self.memory, scratch: self.scratch }
    }
}
