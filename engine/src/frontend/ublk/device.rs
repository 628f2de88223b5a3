//! A block device as a whole: `/dev/ublkbN`, from its making, or its finding, to its end.
//!
//! | | what happens | what hosts see |
//! |---|---|---|
//! | `open`, `start` | ADD_DEV, SET_PARAMS; queues fetch; START_DEV | the device appears, partitions are read |
//! | the server dies | the driver notices by itself | requests wait |
//! | `open`, `start` again | found by its mark; START_USER_RECOVERY; queues fetch; END_USER_RECOVERY | they go on |
//! | `close` while it is in use | nothing; the server lets go of it when it ends | requests wait for the next server |
//! | `quiesce`, before that end | QUIESCE_DEV: no more requests, idle fetches come back | requests wait from then on |
//! | `close`, `remove` | STOP_DEV; queues end; DEL_DEV | the device goes away |
//!
//! Whose a device is tells its *mark*, see `mark`.
//!
//! START_DEV and END_USER_RECOVERY wait until every queue has fetched, so the reactors must be running by then; DEL_DEV
//! waits until the last descriptor of the character device is closed, so they must be gone by then.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::abi::{self, DeviceInfo, feature, state};
use super::control::{Control, failed};
use super::exchange::Tags;
use super::mark::{mark, same_name};
use super::queue::{Movement, UblkPlace};
use super::{UblkError, UblkShape};
use crate::limits::REQUEST_BYTES_MAX;

/// Requests that a queue holds at once.
const QUEUE_DEPTH: u16 = 256;
/// The same where the driver copies, and how long they are at most: each has its memory for good, and all of them have to fit
/// into half of the least that a reactor can work with (16 MiB). Longer ones are cut by the kernel.
const COPIED_QUEUE_DEPTH: u16 = 64;
const COPIED_REQUEST_BYTES_MAX: u32 = 128 << 10;
const _: () = assert!(COPIED_QUEUE_DEPTH as u32 * COPIED_REQUEST_BYTES_MAX <= 8 << 20);
/// Most queues that all reactors serve together; with more, each serves its own. A ring has room for the pages of 16,384
/// requests and arenas (`IORING_MAX_REG_BUFFERS`).
const SHARED_QUEUES_MAX: u16 = 32;
const _: () = assert!(SHARED_QUEUES_MAX as usize * QUEUE_DEPTH as usize + crate::limits::ARENAS_MAX < 16_384);
/// How long the driver may need to notice that a server is gone, and udev to make a node.
const SETTLING_TRIES: u32 = 100;
const SETTLING_PAUSE: Duration = Duration::from_millis(50);
/// How often a device is tried that somebody may only be looking at (udev does, whenever one appears).
const GLANCE_TRIES: u32 = 10;
/// How long QUIESCE_DEV may wait for a queue to have an idle fetch that can tell the server. Ours needs no telling, and every
/// request waits meanwhile. The driver counts its naps, each of 3 ms and in truth of 8 at 250 Hz.
const QUIESCE_TIME_MS: u64 = 100;
/// Where the kernel lists the character devices.
const LISTED: &str = "/sys/class/ublk-char";

/// Which device is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UblkChoice {
    /// The array's own if one waits for it, otherwise a new one with the lowest free number.
    Any,
    /// The one with this number.
    Number(u32),
}

/// A feature of the driver that a new device can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UblkFeature {
    /// Requests and results in batches, and queues that all reactors share.
    BatchIo,
    /// Reads into the requests' own pages.
    ZeroCopy,
    /// Copies that we make, into memory that only requests under way hold. Without, there is none of the above.
    UserCopy,
    /// Commands encoded as ioctls.
    IoctlEncode,
}

impl UblkFeature {
    /// The bits that go with it.
    fn bits(self) -> u64 {
        match self {
            UblkFeature::BatchIo => feature::BATCH_IO,
            UblkFeature::ZeroCopy => feature::AUTO_BUF_REG,
            UblkFeature::UserCopy => feature::USER_COPY | feature::AUTO_BUF_REG | feature::BATCH_IO,
            UblkFeature::IoctlEncode => feature::CMD_IOCTL_ENCODE | feature::BATCH_IO,
        }
    }
}

/// How a new device is to be.
#[derive(Clone, Debug)]
pub struct UblkPlan {
    /// Its number; for one that is found too.
    pub choice: UblkChoice,
    /// Hardware queues, and so reactors.
    pub queues: usize,
    /// What it is not to use though the driver could.
    pub without: Vec<UblkFeature>,
}

/// Whether a device is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It was not, and is stopped now.
    Stopped,
    /// Somebody has it open, a file system perhaps.
    InUse,
}

/// What the driver does for a device that is left to the next server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quiesced {
    /// It hands out no more requests.
    Held,
    /// It has no command for that (Linux before 6.16, or a device made by a server that did not ask for it), or one that does
    /// harm (requests in batches). It goes on until it notices that the server is gone.
    Unaided,
    /// It was asked, and said this.
    Refused(String),
}

/// A block device.
pub struct Ublk {
    control: Control,
    device: u32,
    /// The character device; with the server until its reactors have it.
    file: Option<Arc<File>>,
    queues: u16,
    depth: u16,
    request_bytes_max: u32,
    flags: u64,
    phase: Phase,
    /// What it says of its cache. It cannot be said anew.
    volatile_cache: bool,
    /// Whether hosts reach it, for its queues.
    live: Arc<AtomicBool>,
}

/// How far a device has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Made, and never started: of no use to anyone.
    Made,
    /// Found, and about to be recovered.
    Found,
    /// Started.
    Live,
    /// Stopped: of no use to anyone either.
    Stopped,
    /// Taken away.
    Removed,
}

impl Ublk {
    /// Finds the device that waits for this array, or makes one.
    pub fn open(plan: &UblkPlan, name: &str, identity: &str, shape: &UblkShape) -> Result<Ublk, UblkError> {
        let mut control = Control::open()?;
        if plan.without.contains(&UblkFeature::IoctlEncode) {
            control.speak_plainly();
        }
        let mark = mark(name, identity);
        match find(&mut control, mark)? {
            Some(info) => Ublk::recover(control, plan.choice, &info, shape),
            None => Ublk::make(control, plan, mark, shape),
        }
    }

    fn make(mut control: Control, plan: &UblkPlan, mark: u64, shape: &UblkShape) -> Result<Ublk, UblkError> {
        let &UblkPlan { choice, queues, ref without } = plan;
        let flags = flags_for(control.features(), without, queues);
        let (queue_depth, io_bytes_max) = if flags & feature::USER_COPY != 0 {
            (QUEUE_DEPTH, REQUEST_BYTES_MAX)
        } else {
            (COPIED_QUEUE_DEPTH, COPIED_REQUEST_BYTES_MAX)
        };
        let device = match choice {
            UblkChoice::Any => u32::MAX,
            UblkChoice::Number(number) => number,
        };
        let mut info = DeviceInfo {
            queues: u16::try_from(queues).expect("at most REACTORS_MAX"),
            queue_depth,
            io_bytes_max,
            device,
            server_pid: std::process::id() as i32,
            flags,
            server_flags: mark,
            ..DeviceInfo::default()
        };
        control.add(&mut info).map_err(|error| match (choice, error.raw_os_error()) {
            (UblkChoice::Number(number), Some(libc::EEXIST)) => UblkError(format!(
                "/dev/ublkb{number} is there already and is not this array's: choose another number"
            )),
            _ => UblkError(format!(
                "the ublk driver refuses a new device: {error}: are there many? (ublk_drv.ublks_max)"
            )),
        })?;
        let mut ublk = Ublk {
            control,
            device: info.device,
            file: None,
            queues: info.queues,
            depth: info.queue_depth,
            request_bytes_max: info.io_bytes_max,
            // Older drivers drop what they do not know without a word.
            flags: info.flags,
            phase: Phase::Made,
            volatile_cache: shape.volatile_cache,
            live: Arc::default(),
        };
        if usize::from(ublk.queues) != queues {
            return Err(UblkError(format!(
                "the ublk driver gives a device at most {} queues, one for each CPU: serve with --reactors {}",
                ublk.queues, ublk.queues
            )));
        }
        ublk.control
            .set_parameters(ublk.device, &mut shape.parameters(io_bytes_max))
            .map_err(|error| failed("describe the block device to the ublk driver", &error))?;
        ublk.open_character_device()?;
        Ok(ublk)
    }

    fn recover(
        mut control: Control,
        choice: UblkChoice,
        info: &DeviceInfo,
        shape: &UblkShape,
    ) -> Result<Ublk, UblkError> {
        let device = info.device;
        if matches!(choice, UblkChoice::Number(number) if number != device) {
            return Err(UblkError(format!(
                "/dev/ublkb{device} waits for this array: serve it there (--ublk={device}), or give it up with `striate stop --force`"
            )));
        }
        let told = control
            .parameters(device)
            .map_err(|error| failed(&format!("ask what /dev/ublkb{device} says of itself"), &error))?;
        let wanted = shape.parameters(info.io_bytes_max);
        let is_volatile = told.attributes & abi::attribute::VOLATILE_CACHE != 0;
        if (told.device_sectors, told.logical_block_shift)
            != (wanted.device_sectors, wanted.logical_block_shift)
            || (shape.volatile_cache && !is_volatile)
        {
            return Err(UblkError(format!(
                "/dev/ublkb{device} waits for this array, which is not what it was (its size, its blocks, or a member's cache): give the device up with `striate stop --force`"
            )));
        }
        retry(|| control.tell(abi::control::START_USER_RECOVERY, device, 0)).map_err(|error| {
            failed(&format!("take /dev/ublkb{device} over from the server before"), &error)
        })?;
        let mut ublk = Ublk {
            control,
            device,
            file: None,
            queues: info.queues,
            depth: info.queue_depth,
            request_bytes_max: info.io_bytes_max,
            flags: info.flags,
            phase: Phase::Found,
            volatile_cache: is_volatile,
            live: Arc::default(),
        };
        ublk.open_character_device()?;
        Ok(ublk)
    }

    fn open_character_device(&mut self) -> Result<(), UblkError> {
        let path = format!("/dev/ublkc{}", self.device);
        let open = || OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(&path);
        self.file = Some(Arc::new(retry(open).map_err(|error| failed(&format!("open {path}"), &error))?));
        Ok(())
    }

    /// How many queues it has, and so reactors it needs.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.queues.into()
    }

    /// One for each reactor; to be asked for once.
    pub fn places(&mut self) -> Vec<UblkPlace> {
        let file = self.file.take().expect("asked for once");
        let movement = self.movement();
        let batched = self.flags & feature::BATCH_IO != 0;
        let shared = batched && self.queues <= SHARED_QUEUES_MAX;
        let place = |queue| UblkPlace {
            file: Arc::clone(&file),
            queue,
            tags: Tags { queues: if shared { 0..self.queues } else { queue..queue + 1 }, depth: self.depth },
            batched,
            live: Arc::clone(&self.live),
            movement,
            plain: self.control.is_plain(),
        };
        (0..self.queues).map(place).collect()
    }

    /// How requests and bytes come and go, in words.
    #[must_use]
    pub fn way(&self) -> String {
        let requests = match (self.flags & feature::BATCH_IO != 0, self.control.is_plain()) {
            (true, _) => "requests in batches",
            (false, false) => "requests one by one",
            (false, true) => "requests one by one, by plain numbers",
        };
        let bytes = match self.movement() {
            Movement::Registered => "reads into their own pages, writes copied once",
            Movement::Asked => "reads and writes copied once",
            Movement::ByDriver { .. } => "reads and writes copied by the driver",
        };
        format!("{requests}; {bytes}")
    }

    /// Whether reads may go into the requests' own pages.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.movement() == Movement::Registered
    }

    fn movement(&self) -> Movement {
        match (self.flags & feature::USER_COPY != 0, self.flags & feature::AUTO_BUF_REG != 0) {
            (true, true) => Movement::Registered,
            (true, false) => Movement::Asked,
            (false, _) => Movement::ByDriver { request_bytes_max: self.request_bytes_max },
        }
    }

    /// Whether it was there before this server.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.phase == Phase::Found
    }

    /// Whether it sends flushes.
    #[must_use]
    pub fn has_volatile_cache(&self) -> bool {
        self.volatile_cache
    }

    /// Makes it appear, or go on. Waits until all queues have fetched.
    pub fn start(&mut self) -> Result<(), UblkError> {
        let pid = u64::from(std::process::id());
        let code = match self.phase {
            Phase::Made => abi::control::START_DEV,
            Phase::Found => abi::control::END_USER_RECOVERY,
            Phase::Live | Phase::Stopped | Phase::Removed => unreachable!("started once"),
        };
        self.control
            .tell(code, self.device, pid)
            .map_err(|error| failed(&format!("start {}", self.path()), &error))?;
        self.phase = Phase::Live;
        // Relaxed: see `Exchange::join`.
        self.live.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The block device.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/dev/ublkb{}", self.device)
    }

    /// Stops it if nobody has it open, or in any case with `force`: whoever has it gets errors. Waits for requests in
    /// flight, so reactors must be turning.
    pub fn close(&mut self, force: bool) -> Result<Closed, UblkError> {
        if self.phase != Phase::Live {
            return Ok(Closed::Stopped);
        }
        let stopped = if force {
            self.control.tell(abi::control::STOP_DEV, self.device, 0)
        } else if self.control.features().unwrap_or(0) & feature::SAFE_STOP_DEV != 0 {
            self.glance(|control, device| control.tell(abi::control::TRY_STOP_DEV, device, 0))
        } else {
            // A mount, a swap or a member of something claims it; who merely has it open is not seen here.
            let path = self.path();
            self.glance(|control, device| {
                let claim =
                    OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(&path)?;
                drop(claim);
                control.tell(abi::control::STOP_DEV, device, 0)
            })
        };
        match stopped {
            Ok(()) => {
                self.phase = Phase::Stopped;
                Ok(Closed::Stopped)
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(Closed::InUse),
            Err(error) => Err(failed(&format!("stop {}", self.path()), &error)),
        }
    }

    /// Tries again for a while what finds the device in use.
    fn glance(&mut self, mut act: impl FnMut(&mut Control, u32) -> io::Result<()>) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match act(&mut self.control, self.device) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries < GLANCE_TRIES => pause(),
                other => return other,
            }
            tries += 1;
        }
    }

    /// Has the driver hold requests back for the next server; `None` if the device does not stay. What it has handed out can be
    /// answered still. Only another server makes it go on; it may be closed.
    ///
    /// Whatever it answers, the older way goes on from here: reactors drain, the server ends, the driver notices. At EBUSY it
    /// holds requests back all the same, as at a server that is dying, and only has not sent the fetches back (ublk_drv.c,
    /// ublk_ctrl_quiesce_dev). That is so where all tags of a queue are taken by requests that it holds back.
    pub fn quiesce(&mut self) -> Option<Quiesced> {
        if self.phase != Phase::Live {
            return None;
        }
        if !quiesces(self.flags) {
            return Some(Quiesced::Unaided);
        }
        Some(match self.control.tell(abi::control::QUIESCE_DEV, self.device, QUIESCE_TIME_MS) {
            Ok(()) => Quiesced::Held,
            Err(error) => Quiesced::Refused(failed(&format!("quiesce {}", self.path()), &error).to_string()),
        })
    }

    /// Takes a stopped device away, after its reactors; leaves any other to the next server. Waits for the last descriptor of the
    /// character device, so the device has been stopped before the reactors ended: commands that were out then keep it.
    pub fn remove(mut self) -> Result<(), UblkError> {
        if self.phase != Phase::Stopped {
            return Ok(());
        }
        self.control
            .tell(abi::control::DEL_DEV, self.device, 0)
            .map_err(|error| failed(&format!("remove {}", self.path()), &error))?;
        self.phase = Phase::Removed;
        Ok(())
    }
}

impl Drop for Ublk {
    fn drop(&mut self) {
        // A start that failed half-way, or a device that was stopped too late for `remove`. The process is about to end, and its
        // queues with it, so nothing is waited for.
        if matches!(self.phase, Phase::Made | Phase::Stopped) {
            self.file = None;
            let _ = self.control.tell(abi::control::DEL_DEV_ASYNC, self.device, 0);
        }
    }
}

/// What a new device is asked to do, of all that it can.
///
/// Batches are for devices with several queues, whose reactors then share all of them. With one they cost what requests one by
/// one cost (17.7 and 17.4 thousand instructions for a 4 KiB read of an array, 37.6 and 37.4 for a write, in the guest), and the
/// older way is the better tried.
fn flags_for(features: Option<u64>, without: &[UblkFeature], queues: usize) -> u64 {
    let always = feature::CMD_IOCTL_ENCODE | feature::USER_RECOVERY | feature::USER_RECOVERY_REISSUE;
    let optional = feature::USER_COPY | feature::AUTO_BUF_REG | feature::QUIESCE | feature::BATCH_IO;
    let wanted = always | optional;
    let unwanted = without.iter().fold(0, |bits, feature| bits | feature.bits());
    // Drivers older than those that tell drop what they do not know without a word.
    let mut can = wanted & features.unwrap_or(always) & !unwanted;
    if queues == 1 {
        can &= !feature::BATCH_IO;
    }
    if can & feature::USER_COPY == 0 { can & !UblkFeature::UserCopy.bits() } else { can }
}

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
    let is_left =
        |info: &DeviceInfo| info.state != state::LIVE && same_name(info.server_flags, mark(name, ""));
    Ok(devices(&mut control).into_iter().filter(is_left).map(|info| info.device).collect())
}

/// Gives a device up: what waits for it fails.
pub fn remove(device: u32) -> Result<(), UblkError> {
    let mut control = Control::open()?;
    let what = |what: &'static str| move |error| failed(&format!("{what} /dev/ublkb{device}"), &error);
    control.tell(abi::control::STOP_DEV, device, 0).map_err(what("stop"))?;
    control.tell(abi::control::DEL_DEV, device, 0).map_err(what("remove"))
}

/// The device that bears a mark and can be taken over; those that were never started are cleared away.
fn find(control: &mut Control, mark: u64) -> Result<Option<DeviceInfo>, UblkError> {
    let mut tries = 0;
    loop {
        let Some(info) = devices(control).into_iter().find(|info| info.server_flags == mark) else {
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
fn devices(control: &mut Control) -> Vec<DeviceInfo> {
    let Ok(listed) = std::fs::read_dir(LISTED) else { return Vec::new() };
    let number = |name: &str| name.strip_prefix("ublkc")?.parse::<u32>().ok();
    let numbers: Vec<u32> = listed.filter_map(|entry| number(entry.ok()?.file_name().to_str()?)).collect();
    // One that goes away meanwhile is one that is not there.
    numbers.into_iter().filter_map(|number| control.info(number).ok()).collect()
}

/// Whether a device with these flags can be quiesced without harm. One with BATCH_IO cannot: the driver sets `force_abort` in
/// its queues then (ublk_drv.c of Linux 7.3, ublk_batch_cancel_queue), and fails what comes until the next server.
const fn quiesces(flags: u64) -> bool {
    flags & (feature::QUIESCE | feature::BATCH_IO) == feature::QUIESCE
}

fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Tries what an earlier server or udev is in the way of.
fn retry<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
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
fn pause() {
    std::thread::sleep(SETTLING_PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_asked_for_what_the_driver_can() {
        let always = feature::CMD_IOCTL_ENCODE | feature::USER_RECOVERY | feature::USER_RECOVERY_REISSUE;
        let all = always | feature::USER_COPY | feature::AUTO_BUF_REG | feature::QUIESCE | feature::BATCH_IO;
        assert_eq!(flags_for(Some(u64::MAX), &[], 2), all);
        assert_eq!(flags_for(Some(u64::MAX), &[], 1), all & !feature::BATCH_IO);
        assert_eq!(flags_for(Some(all & !feature::BATCH_IO), &[], 2), all & !feature::BATCH_IO);
        assert_eq!(flags_for(Some(all), &[UblkFeature::ZeroCopy], 2), all & !feature::AUTO_BUF_REG);
        // Without user copy there is nothing that builds on it.
        let copied = always | feature::QUIESCE;
        assert_eq!(flags_for(Some(all & !feature::USER_COPY), &[], 2), copied);
        assert_eq!(flags_for(Some(all), &[UblkFeature::UserCopy], 2), copied);
        assert_eq!(flags_for(None, &[], 2), always);
    }

    #[test]
    fn only_devices_that_take_it_well_are_quiesced() {
        assert!(quiesces(feature::QUIESCE | feature::USER_COPY));
        assert!(!quiesces(feature::USER_COPY));
        assert!(!quiesces(feature::QUIESCE | feature::BATCH_IO));
    }
}
