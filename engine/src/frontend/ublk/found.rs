//! The devices that are there already: those that wait for a server, and those that were left half made.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::abi::{self, DeviceInfo, state};
use super::control::{Control, failed};
use super::mark::{mark, same_name};
use super::{UblkError, UblkShape};

/// How long the driver may need to notice that a server is gone, and udev to make a node.
const SETTLING_TRIES: u32 = 100;
const SETTLING_PAUSE: Duration = Duration::from_millis(50);
/// Where the kernel lists the character devices.
const LISTED: &str = "/sys/class/ublk-char";
/// Where it lists the block devices, those of all drivers.
const BLOCK_DEVICES: &str = "/sys/block";

/// The namespace of process numbers that sees all processes (`PROC_PID_INIT_INO` of linux/proc_ns.h).
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// Whether the driver is there and this process may use it.
#[must_use]
pub fn is_there() -> bool {
    OpenOptions::new().read(true).write(true).open(abi::CONTROL_PATH).is_ok()
}

/// A device whose server is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The number of the device.
    pub device: u32,
    /// Whether it was ever started. If not, there is no block device yet, and no host waits.
    pub has_hosts: bool,
}

/// The devices of an array of this name whose server is gone.
pub fn leftovers(name: &str) -> Result<Vec<Leftover>, UblkError> {
    if !Path::new(abi::CONTROL_PATH).exists() {
        return Ok(Vec::new());
    }
    let mut control = Control::open()?;
    // The driver tells a server by its number in the namespace where it runs.
    let sees_all = std::fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|namespace| namespace == Path::new(FIRST_NAMESPACE));
    let is_left = |info: &DeviceInfo| {
        let has_server = info.state == state::LIVE && (!sees_all || is_alive(info.server_pid));
        !has_server && same_name(info.server_flags, mark(name, ""))
    };
    let found = |info: DeviceInfo| Leftover { device: info.device, has_hosts: info.state != state::DEAD };
    Ok(devices(&mut control)?.into_iter().filter(is_left).map(found).collect())
}

/// Gives a device up: what waits for it fails.
pub fn remove(device: u32) -> Result<(), UblkError> {
    let mut control = Control::open()?;
    let what = |what: &'static str| move |error| failed(&format!("{what} /dev/ublkb{device}"), &error);
    control.tell(abi::control::STOP_DEV, device, 0).map_err(what("stop"))?;
    control.tell(abi::control::DEL_DEV, device, 0).map_err(what("remove"))
}

/// Block devices of an array, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Existing {
    /// There is none.
    None,
    /// There is this one.
    Marked(u32),
    /// These may be: only the driver's control device tells, and it cannot be asked. Without any, there may be one that is not seen.
    Possible(Vec<u32>),
}

/// Looks for a block device of an array, so that the array is not served in another way beside it.
#[must_use]
pub fn existing(name: &str, identity: &str, shape: &UblkShape) -> Existing {
    let Ok(devices) = Control::open().and_then(|mut control| devices(&mut control)) else {
        return match resembling(Path::new(BLOCK_DEVICES), shape) {
            Some(possible) if !possible.is_empty() => Existing::Possible(possible),
            None if is_loaded() => Existing::Possible(Vec::new()),
            Some(_) | None => Existing::None,
        };
    };
    let mark = mark(name, identity);
    // A device that was never started has no hosts.
    let is_its = |info: &DeviceInfo| info.server_flags == mark && info.state != state::DEAD;
    devices.into_iter().find(is_its).map_or(Existing::None, |info| Existing::Marked(info.device))
}

/// Block devices of the driver that could be an array of this shape, by what sysfs tells everyone. The chunk, the stripe and the
/// block of an array never change, and its size only grows. `None` where sysfs cannot be read.
fn resembling(listed: &Path, shape: &UblkShape) -> Option<Vec<u32>> {
    let entries = std::fs::read_dir(listed).ok()?;
    let could_be = |directory: &Path| {
        let read = |attribute: &str| {
            std::fs::read_to_string(directory.join(attribute)).ok()?.trim().parse::<u64>().ok()
        };
        // An attribute that cannot be read rules nothing out.
        let is_or_unknown =
            |attribute: &str, wanted: u64| read(attribute).is_none_or(|value| value == wanted);
        read("size").is_none_or(|sectors| sectors <= shape.size_bytes >> 9)
            && is_or_unknown("queue/logical_block_size", shape.logical_block_bytes.into())
            && is_or_unknown("queue/minimum_io_size", shape.chunk_bytes.into())
            && is_or_unknown("queue/discard_granularity", shape.stripe_bytes)
    };
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix("ublkb")?.parse::<u32>().ok();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<u32> = paths.filter_map(|path| number(&path).filter(|_| could_be(&path))).collect();
    found.sort_unstable();
    Some(found)
}

/// Whether the driver is in the kernel, as far as is known.
fn is_loaded() -> bool {
    let has_driver = |text: String| text.lines().any(|line| line.ends_with(" ublk-char"));
    std::fs::read_to_string("/proc/devices")
        .map_or_else(|_| Path::new(abi::CONTROL_PATH).exists(), has_driver)
}

/// The device that bears a mark and can be taken over; those that were never started are cleared away.
pub(super) fn find(control: &mut Control, mark: u64) -> Result<Option<DeviceInfo>, UblkError> {
    let mut tries = 0;
    loop {
        let Some(info) = devices(control)?.into_iter().find(|info| info.server_flags == mark) else {
            return Ok(None);
        };
        match info.state {
            state::QUIESCED | state::FAIL_IO => return Ok(Some(info)),
            state::LIVE if tries < SETTLING_TRIES && !is_alive(info.server_pid) => {
                // The driver has not noticed yet.
                tries += 1;
                pause();
            }
            state::LIVE => {
                return Err(UblkError(format!(
                    "/dev/ublkb{} serves this array already, by process {}",
                    info.device, info.server_pid
                )));
            }
            _ => control.tell(abi::control::DEL_DEV, info.device, 0).map_err(|error| {
                failed(&format!("clear away the unused /dev/ublkb{}", info.device), &error)
            })?,
        }
    }
}

/// Every device that there is.
fn devices(control: &mut Control) -> Result<Vec<DeviceInfo>, UblkError> {
    let listed = std::fs::read_dir(LISTED)
        .map_err(|error| failed(&format!("list the devices of the ublk driver in {LISTED}"), &error))?;
    let number = |name: &str| name.strip_prefix("ublkc")?.parse::<u32>().ok();
    let numbers: Vec<u32> = listed.filter_map(|entry| number(entry.ok()?.file_name().to_str()?)).collect();
    let mut info = |number| match control.info(number) {
        Ok(info) => Ok(Some(info)),
        // A device that disappears while we look counts as absent.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => Ok(None),
        Err(error) => Err(failed(&format!("ask the ublk driver about /dev/ublkb{number}"), &error)),
    };
    numbers.into_iter().filter_map(|number| info(number).transpose()).collect()
}

fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Tries what an earlier server or udev is in the way of.
pub(super) fn retry<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0;
    loop {
        match act() {
            Err(error)
                if tries < SETTLING_TRIES
                    && matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOENT | libc::ENXIO)) =>
            {
                tries += 1;
                pause();
            }
            other => return other,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a control step may wait; the driver does not tell when it is done"
)]
pub(super) fn pause() {
    std::thread::sleep(SETTLING_PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the control device, only what sysfs says tells arrays apart.
    #[test]
    fn devices_that_could_be_the_arrays() {
        let shape = UblkShape {
            size_bytes: 1 << 30,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            chunk_bytes: 64 << 10,
            stripe_bytes: 256 << 10,
            volatile_cache: true,
            read_only: false,
        };
        let listed = std::env::temp_dir().join(format!("striate-sysfs-{}", std::process::id()));
        let device = |name: &str, sectors: u64, block: u32, chunk: u32, stripe: u32| {
            let queue = listed.join(name).join("queue");
            std::fs::create_dir_all(&queue).unwrap();
            std::fs::write(listed.join(name).join("size"), format!("{sectors}\n")).unwrap();
            for (attribute, value) in
                [("logical_block_size", block), ("minimum_io_size", chunk), ("discard_granularity", stripe)]
            {
                std::fs::write(queue.join(attribute), format!("{value}\n")).unwrap();
            }
        };
        device("ublkb0", 1 << 21, 512, 64 << 10, 256 << 10);
        device("ublkb1", 1 << 20, 512, 64 << 10, 256 << 10); // the array has grown since
        device("ublkb2", 1 << 22, 512, 64 << 10, 256 << 10);
        device("ublkb3", 1 << 21, 4096, 64 << 10, 256 << 10);
        device("ublkb4", 1 << 21, 512, 32 << 10, 256 << 10);
        device("ublkb5", 1 << 21, 512, 64 << 10, 128 << 10);
        device("sda", 1 << 21, 512, 64 << 10, 256 << 10);
        std::fs::create_dir_all(listed.join("ublkb10")).unwrap(); // nothing of it can be read
        assert_eq!(resembling(&listed, &shape), Some(vec![0, 1, 10]));
        assert_eq!(resembling(&listed.join("none"), &shape), None);
        std::fs::remove_dir_all(&listed).unwrap();
    }
}
