//! Finds ublk devices that already exist: those that wait for a server, and those that were left half made.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::abi::{self, DeviceInfo, state};
use super::control::{Control, failed};
use super::mark::{mark, same_name};
use super::{UblkError, UblkShape};

/// Bounds how long we wait until the driver notices that a server is gone, or until udev makes a node.
const SETTLING_TRIES: u32 = 100;
const SETTLING_PAUSE: Duration = Duration::from_millis(50);
/// Directory where the kernel lists the driver's character devices.
const LISTED: &str = "/sys/class/ublk-char";
/// Directory where the kernel lists the block devices of all drivers.
const BLOCK_DEVICES: &str = "/sys/block";

/// The namespace of process numbers that sees all processes (`PROC_PID_INIT_INO` of linux/proc_ns.h).
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// Whether the driver is loaded and this process may use it.
#[must_use]
pub fn is_there() -> bool {
    OpenOptions::new().read(true).write(true).open(abi::CONTROL_PATH).is_ok()
}

/// A device whose server is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The number of the device.
    pub device: u32,
    /// Whether the device was ever started. If not, there is no block device yet, and no host waits.
    pub has_hosts: bool,
}

/// Lists the devices that belong to an array of this name and have no server.
pub fn leftovers(name: &str) -> Result<Vec<Leftover>, UblkError> {
    if !Path::new(abi::CONTROL_PATH).exists() {
        return Ok(Vec::new());
    }
    let mut control = Control::open()?;
    // The driver reports a server by its process number in the namespace where the server runs.
    let sees_all = std::fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|namespace| namespace == Path::new(FIRST_NAMESPACE));
    let is_left = |info: &DeviceInfo| {
        let has_server = info.state == state::LIVE && (!sees_all || is_alive(info.server_pid));
        !has_server && same_name(info.server_flags, mark(name, ""))
    };
    let found = |info: DeviceInfo| Leftover { device: info.device, has_hosts: info.state != state::DEAD };
    Ok(devices(&mut control)?.into_iter().filter(is_left).map(found).collect())
}

/// Gives a device up: requests that wait for it fail.
pub fn remove(device: u32) -> Result<(), UblkError> {
    let mut control = Control::open()?;
    let what = |what: &'static str| move |error| failed(&format!("{what} /dev/ublkb{device}"), &error);
    control.tell(abi::control::STOP_DEV, device, 0).map_err(what("stop"))?;
    control.tell(abi::control::DEL_DEV, device, 0).map_err(what("remove"))
}

/// Block devices that belong to an array, as far as can be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Existing {
    /// The array has no block device.
    None,
    /// The device with this number has the array's mark.
    Marked(u32),
    /// The marks cannot be read, because the driver's control device cannot be used. These devices may belong
    /// to the array. An empty list means that there may be a device which this process cannot see.
    Possible(Vec<u32>),
}

/// Looks for a block device of an array, so that the array is not served in a second way at the same time.
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

/// Lists the driver's block devices that could be an array of this shape, judging by world-readable sysfs
/// attributes. The chunk, stripe and block of an array never change, and its size only grows. `None` if sysfs
/// cannot be read.
fn resembling(listed: &Path, shape: &UblkShape) -> Option<Vec<u32>> {
    let entries = std::fs::read_dir(listed).ok()?;
    let could_be = |directory: &Path| {
        let read = |attribute: &str| {
            std::fs::read_to_string(directory.join(attribute)).ok()?.trim().parse::<u64>().ok()
        };
        // An attribute that cannot be read excludes nothing.
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

/// Whether the driver is in the kernel, as far as can be found out.
fn is_loaded() -> bool {
    let has_driver = |text: String| text.lines().any(|line| line.ends_with(" ublk-char"));
    std::fs::read_to_string("/proc/devices")
        .map_or_else(|_| Path::new(abi::CONTROL_PATH).exists(), has_driver)
}

/// Finds the device that has this mark and can be taken over. Devices with the mark that were never started
/// are removed.
pub(super) fn find(control: &mut Control, mark: u64) -> Result<Option<DeviceInfo>, UblkError> {
    let mut tries = 0;
    loop {
        let Some(info) = devices(control)?.into_iter().find(|info| info.server_flags == mark) else {
            return Ok(None);
        };
        match info.state {
            state::QUIESCED | state::FAIL_IO => return Ok(Some(info)),
            state::LIVE if tries < SETTLING_TRIES && !is_alive(info.server_pid) => {
                // The driver has not noticed yet that the server is gone.
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

/// Lists every device of the driver.
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

/// Retries an action that fails because an earlier server or udev is not finished yet.
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

    /// Without the control device, only sysfs tells arrays apart.
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
        std::fs::create_dir_all(listed.join("ublkb10")).unwrap(); // none of its attributes can be read
        assert_eq!(resembling(&listed, &shape), Some(vec![0, 1, 10]));
        assert_eq!(resembling(&listed.join("none"), &shape), None);
        std::fs::remove_dir_all(&listed).unwrap();
    }
}
