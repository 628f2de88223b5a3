//! Grows a stopped array into new space on its members.

use crate::assembly::{Assembly, AssemblyOptions, SlotPlan, assemble};
use crate::device::{Access, Device, DeviceKind};
use crate::format::superblock::Record;
use crate::format::zones::{Zones, usable};
use crate::frontend::ublk::{Existing, existing};
use crate::start::grow;

use super::bounded::patience;
use super::fit::check_blocks;
use super::front::{MemberTraits, shape_of};
use super::note::announce;
use super::open::{ControlRing, candidates, ends, leave_out_overwritten, open_all};
use super::words::{after_path, not_in_sync, shell_path};
use super::{GrowOptions, Grown, ServerError, random, this_host};

/// Adds as many stripes as every member has room for. Changes nothing if there is no room, or if a member is
/// missing or not in sync.
pub fn grow_offline(options: &GrowOptions) -> Result<Grown, ServerError> {
    let devices = open_all(&options.members, Access::ReadWrite)?;
    let ends: Vec<_> = devices.iter().map(ends).collect();
    let mut ring = ControlRing::new(&devices, patience(0))?;
    let assembly_options = AssemblyOptions {
        host: this_host(),
        foreign_host_ok: options.foreign_host_ok,
        ..AssemblyOptions::default()
    };
    let mut candidates = candidates(&mut ring.bench(), &devices);
    leave_out_overwritten(&mut candidates, &devices, &ends, false);
    let assembly = ring.outcome(&devices, assemble(&candidates, &assembly_options))?;
    check_blocks(&assembly, &devices)?;
    let record = &assembly.record;
    let Room { slot, smallest, zones } = room(&assembly, &devices);
    let member_bytes = smallest.facts().size_bytes;
    let size_bytes =
        |stripes| stripes * record.shape.data_strips() as u64 * u64::from(record.shape.chunk_bytes);
    let mut grown = Grown {
        name: record.name.to_string(),
        from_bytes: size_bytes(record.zones.stripes),
        to_bytes: size_bytes(zones.stripes),
        smallest_slot: slot,
        smallest_path: smallest.path().to_path_buf(),
        smallest_bytes: member_bytes,
        unused_bytes: member_bytes - zones.end_bytes(),
        bitmap_is_full: zones.stripes == zones.stripes_max(),
        failed_slots: Vec::new(),
    };
    if let Some(what) = not_in_sync(&assembly, &devices) {
        return Err(ServerError(format!(
            "{}: {what}: an array is grown when every member is there and in sync: serve it, fill the slot, wait for its rebuild, stop the array, and grow it then",
            grown.name
        )));
    }
    if grown.to_bytes > grown.from_bytes {
        let seed = random::number();
        let noted = announce(options.run_dir.as_deref(), record, seed)?;
        refuse_unannounced(record, &noted)?;
        let lost = grow(&mut ring.bench(), &assembly, zones, seed)
            .map_err(|error| after_path(error.slot(), &error, &assembly, &devices))
            .map_err(|error| format!("{}: not grown: {error}", grown.name));
        grown.failed_slots = ring.outcome(&devices, lost)?.iter().collect();
    }
    Ok(grown)
}

/// Refuses to change the members behind a waiting block device if its next server could not prove that only a
/// growth changed them. `noted`: the devices whose notes allow for the growth.
fn refuse_unannounced(record: &Record, noted: &[u32]) -> Result<(), ServerError> {
    let name = record.name;
    let traits = MemberTraits { physical_block_bytes: record.logical_block_bytes, volatile_cache: false };
    let what = match existing(name.as_str(), &record.array.to_string(), &shape_of(record, traits, false)) {
        Existing::None => return Ok(()),
        Existing::Marked(device) if noted.contains(&device) => return Ok(()),
        Existing::Marked(device) => format!(
            "{name}: not grown: /dev/ublkb{device} waits for this array, and the run directory has no note of the state in which its \
             server left the members, or they are in another: grow with the --run-dir of that server"
        ),
        Existing::Possible(_) => format!(
            "{name}: not grown: a block device of this array may wait for its server, and the ublk driver cannot be asked: grow as root"
        ),
    };
    Err(ServerError(format!(
        "{what}; or give the device up with `striate stop --force {name}`, which fails its I/O"
    )))
}

/// The zones that an array could grow to, and the smallest member, which limits them.
struct Room<'a> {
    slot: usize,
    smallest: &'a Device,
    zones: Zones,
}

/// Computes the room from the members in sync. The candidates of the assembly are the devices.
fn room<'a>(assembly: &Assembly, devices: &'a [Device]) -> Room<'a> {
    let in_sync = assembly.slots.iter().enumerate().filter_map(|(slot, plan)| match *plan {
        SlotPlan::InSync { candidate } => Some((slot, &devices[candidate])),
        _ => None,
    });
    let (slot, smallest) = in_sync
        .min_by_key(|(_, device)| device.facts().size_bytes)
        .expect("an assembly has as many members in sync as hold the data");
    let zones = assembly.record.zones.grown(usable(smallest.facts().size_bytes), &assembly.record.shape);
    Room { slot, smallest, zones }
}

/// Advice for the operator of an array whose members have all become longer.
pub(super) fn could_grow(assembly: &Assembly, devices: &[Device]) -> Option<String> {
    let whole = assembly.slots.iter().all(|plan| matches!(plan, SlotPlan::InSync { .. }));
    let (now, then) = (assembly.record.zones.stripes, room(assembly, devices).zones.stripes);
    // Stay silent for a gain of one percent or less.
    (whole && then - now > now / 100).then(|| {
        let percent = (then - now) * 100 / now;
        // A search by name looks at block devices only.
        let is_found_by_name = devices.iter().all(|device| device.kind() == DeviceKind::Block);
        let paths = || devices.iter().map(|device| shell_path(device.path())).collect::<Vec<_>>().join(" ");
        let what = if is_found_by_name { assembly.record.name.to_string() } else { paths() };
        format!("every member is longer than the array uses: `striate grow {what}` while it is stopped gives it {percent} % more")
    })
}
