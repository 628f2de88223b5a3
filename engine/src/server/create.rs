//! Creates an array: check everything first, then change the members, superblocks last.

use std::path::PathBuf;

use bitmap::Cell;
use crossbeam::channel::unbounded;
use uuid::Uuid;

use crate::assembly::NewArray;
use crate::device::{Access, Device, Zeroing, create_file};
use crate::format::Shape;
use crate::format::label::Label;
use crate::format::superblock::{Copy, choose};
use crate::format::zones::{Zones, zones};
use crate::limits::BLOCK_BYTES;

use super::bounded::patience;
use super::open::{ControlRing, open_all, refuse_content, wipe_metadata};
use super::{CreateOptions, Created, Init, Progress, ServerError, random};

/// Files made by this run; removed again unless the run succeeds.
struct MadeFiles(Vec<PathBuf>);

impl Drop for MadeFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            // Best effort: the error to report is the one that ended the run.
            let _removed = std::fs::remove_file(path);
        }
    }
}

/// Creates an array on members that are not in use. Until all checks have passed nothing is changed, except
/// that missing files are made (and removed again on failure).
pub fn create(options: &CreateOptions, progress: &mut dyn FnMut(Progress)) -> Result<Created, ServerError> {
    let name = Label::new(&options.name)
        .map_err(|error| ServerError(format!("array name {:?}: {error}", options.name)))?;
    if name.is_empty() {
        return Err(ServerError("the array's name is empty".into()));
    }
    let shape =
        Shape { level: options.level, members: options.members.len(), chunk_bytes: options.chunk_bytes };
    shape.check().map_err(|error| ServerError(error.to_string()))?;
    let mut made = MadeFiles(Vec::new());
    for path in &options.members {
        if let Some(bytes) = options.file_bytes
            && !path.exists()
        {
            create_file(path, bytes)?;
            made.0.push(path.clone());
        }
    }
    if options.file_bytes.is_none()
        && let Some(missing) = options.members.iter().find(|path| !path.exists())
    {
        return Err(ServerError(format!(
            "{}: no such device or file; check the path, or give --size to make a file there",
            missing.display()
        )));
    }
    let devices = open_all(&options.members, Access::ReadWrite)?;
    for device in &devices {
        refuse_content(device, options.force)?;
    }
    let zones = common_zones(&devices, &shape)?;
    let block_bytes = |device: &Device| device.facts().logical_block_bytes;
    let coarsest = devices.iter().max_by_key(|device| block_bytes(device)).expect("a shape has members");
    let logical_block_bytes = block_bytes(coarsest).max(512);
    if logical_block_bytes > 4096 {
        return Err(ServerError(format!(
            "{}: has blocks of {logical_block_bytes} bytes; at most 4096 are taken: choose another device",
            coarsest.path().display()
        )));
    }

    for device in &devices {
        wipe_metadata(device, zones.data.offset_bytes)?;
    }
    let init = match options.init {
        Init::Auto if devices.iter().all(|device| device.facts().zeroing == Zeroing::Fast) => Init::Zero,
        Init::Auto => Init::Lazy,
        chosen => chosen,
    };
    if init == Init::Zero {
        zero(&devices, &zones, progress)?;
    }
    let (initial, word) = match init {
        Init::Zero => (Cell::Clean, "zero"),
        Init::Lazy | Init::Auto => (Cell::Unwritten, "lazy"),
        Init::Sync => (Cell::NeedSync, "sync"),
        Init::AssumeClean => (Cell::Clean, "assume-clean"),
    };
    let members: Vec<_> = devices.iter().map(|_| random::identity()).collect();
    let new = NewArray {
        array: random::identity(),
        name,
        host: super::this_host(),
        created_s: super::seconds_since_1970(),
        shape,
        logical_block_bytes,
        zones,
        members: &members,
        epoch_id: random::number(),
    };
    let mut ring = ControlRing::new(&devices, patience(0))?;
    let written = crate::start::write_new(&mut ring.bench(), &new, initial, &mut |_, _| {});
    let written = written.map_err(|(slot, errno)| {
        let error = std::io::Error::from_raw_os_error(errno);
        format!("{}: cannot write metadata: {error}", devices[slot].path().display())
    });
    ring.outcome(&devices, written)?;
    read_back(&devices, &members)?;
    made.0.clear();
    let size_bytes = zones.stripes * shape.data_strips() as u64 * u64::from(shape.chunk_bytes);
    let routes = devices.iter().map(|device| super::route::of(device, ring.config())).collect();
    Ok(Created { uuid: new.array.to_string(), size_bytes, init: word, routes })
}

/// Checks that each member now holds its own superblock. Two names of one storage that the device checks did
/// not recognise hold only one.
fn read_back(devices: &[Device], members: &[Uuid]) -> Result<(), ServerError> {
    for (device, member) in devices.iter().zip(members) {
        let mut blocks = [[0; BLOCK_BYTES]; 2];
        for (block, copy) in blocks.iter_mut().zip([Copy::A, Copy::B]) {
            device.read_at(copy.offset_bytes(), block)?;
        }
        let found = choose(&blocks[0], &blocks[1], device.facts().size_bytes);
        if found.map(|found| found.superblock.member) != Ok(*member) {
            return Err(ServerError(format!(
                "{}: does not hold what was written to it: is it another name of a member's storage?",
                device.path().display()
            )));
        }
    }
    Ok(())
}

/// The zones that fit on the smallest member.
fn common_zones(devices: &[Device], shape: &Shape) -> Result<Zones, ServerError> {
    let smallest =
        devices.iter().min_by_key(|device| device.facts().size_bytes).expect("a shape has members");
    zones(smallest.facts().size_bytes, shape)
        .map_err(|error| ServerError(format!("{}: {error}", smallest.path().display())))
}

/// Zeroes the data zone of every member, all members at the same time.
fn zero(devices: &[Device], zones: &Zones, progress: &mut dyn FnMut(Progress)) -> Result<(), ServerError> {
    let (begin, each) = (zones.data.offset_bytes, zones.data.len_bytes);
    let total_bytes = each * devices.len() as u64;
    let (steps, done) = unbounded();
    std::thread::scope(|scope| {
        let zeroing: Vec<_> = devices
            .iter()
            .map(|device| {
                let steps = steps.clone();
                scope.spawn(move || {
                    let mut before = 0;
                    device.zero_range(begin, each, |done| {
                        let _ = steps.send(done - before);
                        before = done;
                    })?;
                    device.flush()
                })
            })
            .collect();
        drop(steps);
        let mut done_bytes = 0;
        for step in done {
            done_bytes += step;
            progress(Progress { done_bytes, total_bytes });
        }
        zeroing.into_iter().try_for_each(|one| one.join().expect("zeroing does not panic"))
    })?;
    Ok(())
}
