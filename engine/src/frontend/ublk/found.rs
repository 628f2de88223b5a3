//! Finds ublk devices that already exist: those that wait for a server, and those that were left half made.
//!
//! # What a killed server keeps, before Linux 6.7
//!
//! Commands that wait at the driver keep the server's io_uring alive, and with it every file of its table:
//! the character device and the members. A later server finds its members in use. Since Linux 6.7 io_uring
//! cancels such commands when the process ends (ublk_uring_cmd_cancel_fn). Before, the driver itself has to
//! end them:
//!
//! | the server was killed | the driver ends its commands | so [`free`] |
//! |---|---|---|
//! | before START_DEV was carried out (state DEAD) | at DEL_DEV | sends that: the device has no hosts |
//! | later (LIVE) | when it looks for dead servers, every 5 s (ublk_daemon_monitor_work) | waits for it |
//! | within a recovery, after its fetches (QUIESCED) | not before STOP_DEV, which fails the I/O of hosts | ends the recovery; the rest is as for LIVE |
//!
//! A recovery can be ended only if every queue has fetched. A server with several reactors that is killed
//! when some of them have leaves a device that can only be given up.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::abi::{self, DeviceInfo, feature, state};
use super::control::{Control, failed};
use super::mark::{mark, same_name};
use super::{UblkError, UblkShape};

/// How long udev may need to make a node, and an earlier server to let go of the device.
const SETTLING_TRIES: u32 = 100;
const SETTLING_PAUSE: Duration = Duration::from_millis(50);
/// How many such pauses until the driver has noticed that a server is gone: before Linux 6.7 it looks every 5
/// s.
const NOTICE_TRIES: u32 = 200;
/// How many such pauses, once the driver has noticed, until the last file of the server is closed.
const RELEASE_TRIES: u32 = 20;
/// How long a recovery whose queues have all fetched takes to end.
const RECOVERY_END_TIME_MAX: Duration = Duration::from_secs(3);
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
    let sees_all = sees_all();
    let is_left = |info: &DeviceInfo| {
        let has_server = info.state == state::LIVE && (!sees_all || is_alive(info.server_pid));
        !has_server && same_name(info.server_flags, mark(name, ""))
    };
    let found = |info: DeviceInfo| Leftover { device: info.device, has_hosts: info.state != state::DEAD };
    Ok(devices(&mut control)?.into_iter().filter(is_left).map(found).collect())
}

/// Whether this process sees every process: the driver tells a server by its number in the namespace where it
/// runs.
fn sees_all() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace == Path::new(FIRST_NAMESPACE))
}

/// Has an old driver end the commands of killed servers of an array, so that its members are free. See the
/// module. Does nothing where the kernel ends them, where this process may not use the driver or does not see
/// every process, and while a server is alive.
pub fn free(name: &str, identity: &str) -> Result<(), UblkError> {
    let Ok(mut control) = Control::open() else { return Ok(()) };
    if !sees_all() || control.features().unwrap_or(0) & feature::USER_RECOVERY_FAIL_IO != 0 {
        return Ok(());
    }
    let mark = mark(name, identity);
    let is_abandoned = |info: &DeviceInfo| {
        info.server_flags == mark && !is_alive(info.server_pid) && !is_open(info.device, Path::new("/proc"))
    };
    // What cannot be found out here has an error of its own when the array is started.
    let Ok(devices) = devices(&mut control) else { return Ok(()) };
    for info in devices.into_iter().filter(is_abandoned) {
        match info.state {
            state::DEAD => control
                .tell(abi::control::DEL_DEV, info.device, 0)
                .map_err(|error| unused_stays(info.device, &error))?,
            state::LIVE => {}
            _ if is_released(info.device) => continue,
            _ => end_recovery(&mut control, info.device, name)?,
        }
        let is_live =
            |control: &mut Control| control.info(info.device).is_ok_and(|now| now.state == state::LIVE);
        for _ in 0..NOTICE_TRIES {
            if !is_live(&mut control) {
                break;
            }
            pause();
        }
    }
    Ok(())
}

/// Ends the recovery that a killed server began. The device is live then, and the driver will notice that its
/// server is gone.
fn end_recovery(control: &mut Control, device: u32, name: &str) -> Result<(), UblkError> {
    let pid = u64::from(std::process::id());
    let ended = control.tell_within(RECOVERY_END_TIME_MAX, abi::control::END_USER_RECOVERY, device, pid);
    ended.map_err(|error| half_started(device, name, &format!(" ({error})")))
}

/// The error of a device whose takeover was killed when some queues had fetched and others had not.
pub(super) fn half_started(device: u32, name: &str, why: &str) -> UblkError {
    UblkError(format!(
        "/dev/ublkb{device} waits for this array, but its last server was killed when some of its reactors had begun and others had not, and a \
         kernel before Linux 6.16 cannot take such a start over{why}: give the device up with `striate stop --force {name}`, which fails its I/O, \
         and serve again"
    ))
}

/// Whether no io_uring holds the character device, which one server at a time can open.
fn is_released(device: u32) -> bool {
    let path = format!("/dev/ublkc{device}");
    (0..RELEASE_TRIES).any(|_| {
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let is_busy = opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY));
        if is_busy {
            pause();
        }
        !is_busy
    })
}

/// Whether a process has the character device open, of those in `processes` (/proc).
fn is_open(device: u32, processes: &Path) -> bool {
    let path = format!("/dev/ublkc{device}");
    let list = |directory: &Path| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_it =
        |file: std::fs::DirEntry| std::fs::read_link(file.path()).is_ok_and(|it| it == Path::new(&path));
    list(processes).any(|process| list(&process.path().join("fd")).any(is_it))
}

fn unused_stays(device: u32, error: &io::Error) -> UblkError {
    failed(&format!("clear away the unused /dev/ublkb{device}"), error)
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
            state::LIVE if tries < NOTICE_TRIES && !is_alive(info.server_pid) => {
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
            _ => control
                .tell(abi::control::DEL_DEV, info.device, 0)
                .map_err(|error| unused_stays(info.device, &error))?,
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
