//! The devices that are there already: those that wait for a server, and those that were left half made.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::UblkError;
use super::abi::{self, DeviceInfo, state};
use super::control::{Control, failed};
use super::mark::{mark, same_name};

/// How long the driver may need to notice that a server is gone, and udev to make a node.
const SETTLING_TRIES: u32 = 100;
const SETTLING_PAUSE: Duration = Duration::from_millis(50);
/// Where the kernel lists the character devices.
const LISTED: &str = "/sys/class/ublk-char";

/// Whether the driver is there and this process may use it.
#[must_use]
pub fn is_there() -> bool {
    OpenOptions::new().read(true).write(true).open(abi::CONTROL_PATH).is_ok()
}

/// Devices that wait for an array of this name, whose server is gone.
pub fn leftovers(name: &str) -> Result<Vec<u32>, UblkError> {
    if !Path::new(abi::CONTROL_PATH).exists() {
        return Ok(Vec::new());
    }
    let mut control = Control::open()?;
    let is_left = |info: &DeviceInfo| {
        let has_server = info.state == state::LIVE && is_alive(info.server_pid);
        !has_server && same_name(info.server_flags, mark(name, ""))
    };
    Ok(devices(&mut control)?.into_iter().filter(is_left).map(|info| info.device).collect())
}

/// Gives a device up: what waits for it fails.
pub fn remove(device: u32) -> Result<(), UblkError> {
    let mut control = Control::open()?;
    let what = |what: &'static str| move |error| failed(&format!("{what} /dev/ublkb{device}"), &error);
    control.tell(abi::control::STOP_DEV, device, 0).map_err(what("stop"))?;
    control.tell(abi::control::DEL_DEV, device, 0).map_err(what("remove"))
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
    let Ok(listed) = std::fs::read_dir(LISTED) else { return Ok(Vec::new()) };
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
