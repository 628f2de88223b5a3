//! A block device as a whole, `/dev/ublkbN`: how it is made or found, started, and ended.
//!
//! | step | what happens | what hosts see |
//! |---|---|---|
//! | `open`, `start` | ADD_DEV, SET_PARAMS; queues fetch; START_DEV | the device; partitions: see below |
//! | the server dies | the driver notices by itself | requests wait |
//! | `open`, `start` again | START_USER_RECOVERY; queues fetch; END_USER_RECOVERY | requests continue |
//! | the array has grown since | the same, then UPDATE_SIZE | the new size |
//! | `close` while in use | nothing; the server closes it at its end | requests wait for the next server |
//! | `quiesce`, before that end | QUIESCE_DEV: no more requests, idle fetches return | requests wait |
//! | `close`, `remove` | STOP_DEV; queues end; DEL_DEV | the device disappears |
//! | `close`, `remove_later` | with DEL_DEV_ASYNC | as above; the number is freed with the last queue |
//!
//! A waiting device is found by its *mark*, which matches it to its array; see `mark`.
//!
//! Until Linux 6.18 the kernel reads the partitions within START_DEV. If the server is killed during that
//! read, the read waits for the next server, and the next server waits for the old process, which waits for
//! START_DEV: only a reboot helps. The driver reads no partitions for a device if a thread that fetches is
//! not privileged (ublk_ctrl_start_dev, GD_SUPPRESS_PART_SCAN). So unless the driver is known to read them
//! later (NO_AUTO_PART_SCAN, 7.0), reactors fetch without CAP_SYS_ADMIN, and the operator has partitions
//! added by partx(8).
//!
//! START_DEV and END_USER_RECOVERY wait until every queue has fetched, so the reactors must be running by
//! then. DEL_DEV waits until the last descriptor of the character device is closed, so the reactors must be
//! gone by then. While an io_uring has a member's I/O in the kernel, it may keep such a descriptor for as
//! long as the member does not answer; in that case nothing may wait for the descriptor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::abi::{self, DeviceInfo, Parameters, attribute, feature};
use super::control::{Control, DEFECTIVE_KERNELS, failed};
use super::exchange::Tags;
use super::found::{find, half_started, pause, retry};
use super::mark::mark;
use super::queue::{Movement, UblkPlace};
use super::takeover::{Last, fitting, is_beyond_recovery};
use super::{UblkError, UblkShape};
use crate::limits::REQUEST_BYTES_MAX;

/// Requests that a queue holds at once.
const QUEUE_DEPTH: u16 = 256;
/// Depth and longest request of a queue where the driver copies. Each tag has permanent memory, and all of it
/// has to fit into what a reactor with the least memory (32 MiB) has for requests, apart from its reserve.
/// The kernel cuts longer requests.
const COPIED_QUEUE_DEPTH: u16 = 64;
const COPIED_REQUEST_BYTES_MAX: u32 = 128 << 10;
const _: () = assert!(COPIED_QUEUE_DEPTH as u32 * COPIED_REQUEST_BYTES_MAX <= 8 << 20);
/// Largest number of queues that all reactors serve together; with more, each reactor serves its own. A ring
/// has room for the pages of 16,384 requests and arenas (`IORING_MAX_REG_BUFFERS`).
const SHARED_QUEUES_MAX: u16 = 32;
const _: () = assert!(SHARED_QUEUES_MAX as usize * QUEUE_DEPTH as usize + crate::limits::ARENAS_MAX < 16_384);
/// Tries for a device that another process may have open only for a moment (udev opens each new device).
const GLANCE_TRIES: u32 = 10;
/// How long QUIESCE_DEV may wait for each queue to have an idle fetch through which the driver can inform the
/// server. Our server needs no such information, and every request waits meanwhile. The driver counts its
/// naps of nominally 3 ms; at 250 Hz each takes 8 ms.
const QUIESCE_TIME_MS: u64 = 100;
/// The device that the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UblkChoice {
    /// The array's own device if one waits for it, otherwise a new one with the lowest free number.
    Any,
    /// The device with this number.
    Number(u32),
}

/// A feature of the driver that a new device can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UblkFeature {
    /// Requests and results in batches, and queues that all reactors share.
    BatchIo,
    /// Reads into the requests' own pages.
    ZeroCopy,
    /// Copies that we make, into memory that is held only by requests in flight. Both features above require
    /// it.
    UserCopy,
    /// Commands encoded as ioctls.
    IoctlEncode,
}

impl UblkFeature {
    /// The feature bits that a device without this feature must not have.
    fn bits(self) -> u64 {
        match self {
            UblkFeature::BatchIo => feature::BATCH_IO,
            UblkFeature::ZeroCopy => feature::AUTO_BUF_REG,
            UblkFeature::UserCopy => feature::USER_COPY | feature::AUTO_BUF_REG | feature::BATCH_IO,
            UblkFeature::IoctlEncode => feature::CMD_IOCTL_ENCODE | feature::BATCH_IO,
        }
    }
}

/// The plan for a new device.
#[derive(Clone, Debug)]
pub struct UblkPlan {
    /// The wanted number; a device that is found must match it too.
    pub choice: UblkChoice,
    /// Number of hardware queues, and so of reactors.
    pub queues: usize,
    /// Features that the device is not to use even if the driver has them.
    pub without: Vec<UblkFeature>,
}

/// The result of closing a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The device was not in use, and is stopped now.
    Stopped,
    /// Another process has the device open, or a file system is mounted on it.
    InUse,
}

/// How the driver treats a device that is left to the next server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quiesced {
    /// The driver hands out no more requests.
    Held,
    /// The driver has no command for that (Linux before 6.16, or a device made by a server that did not ask
    /// for it), or one that does harm (with requests in batches). It hands out requests until it notices that
    /// the server is gone.
    Unaided,
    /// The driver refused, with this message.
    Refused(String),
}

/// A block device.
pub struct Ublk {
    control: Control,
    device: u32,
    /// The character device; kept here until `places` hands it to the reactors.
    file: Option<Arc<File>>,
    queues: u16,
    depth: u16,
    request_bytes_max: u32,
    flags: u64,
    phase: Phase,
    /// Whether the device advertises a volatile cache. This cannot be changed later.
    volatile_cache: bool,
    /// The array's new size, if it has grown since hosts were told its size.
    grows_to_sectors: Option<u64>,
    /// Tells the queues whether hosts can reach the device.
    live: Arc<AtomicBool>,
    /// Whether the kernel does not read the device's partitions, so that a start can be killed safely.
    hides_partitions: bool,
}

/// The stages of a device's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Made and never started: no host can use it.
    Made,
    /// Found, and about to be recovered.
    Found,
    /// Started: hosts use it.
    Live,
    /// Stopped: no host can use it any more.
    Stopped,
    /// The device is removed.
    Removed,
}

impl Ublk {
    /// Finds the device that waits for this array, or makes one. A device is taken over only if
    /// `may_take_over` agrees for its number, which proves that the array is in the state in which the
    /// previous server left it, and says how the last takeover ended.
    pub fn open(
        plan: &UblkPlan,
        name: &str,
        identity: &str,
        shape: &UblkShape,
        may_take_over: &mut dyn FnMut(u32) -> Result<Last, UblkError>,
    ) -> Result<Ublk, UblkError> {
        let mut control = Control::open()?;
        if plan.without.contains(&UblkFeature::IoctlEncode) {
            control.speak_plainly();
        }
        let mark = mark(name, identity);
        match find(&mut control, mark)? {
            Some(info) => {
                let told = fitting(&mut control, plan.choice, &info, name, shape)?;
                let last = may_take_over(info.device)?;
                if is_beyond_recovery(&mut control, &info, last) {
                    return Err(half_started(info.device, name, ""));
                }
                Ublk::recover(control, &info, &told, shape)
            }
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
            _ if error.kind() == io::ErrorKind::TimedOut => UblkError(format!(
                "the ublk driver has not said for 30 s whether it makes a block device: its command to do so (ADD_DEV) is known to crash in {DEFECTIVE_KERNELS}: see the kernel log for an oops, reboot into another kernel (6.18.6 or newer), or serve NBD with --nbd"
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
            // Older drivers silently drop the flags that they do not know.
            flags: info.flags,
            phase: Phase::Made,
            volatile_cache: shape.volatile_cache,
            grows_to_sectors: None,
            live: Arc::default(),
            hides_partitions: false,
        };
        ublk.hides_partitions = ublk.control.features().unwrap_or(0) & feature::NO_AUTO_PART_SCAN == 0;
        ublk.open_character_device()?;
        if usize::from(ublk.queues) != queues {
            return Err(UblkError(format!(
                "the ublk driver gives a device at most {} queues, one for each CPU: serve with --reactors {}",
                ublk.queues, ublk.queues
            )));
        }
        ublk.control
            .set_parameters(ublk.device, shape.parameters(io_bytes_max))
            .map_err(|error| failed("describe the block device to the ublk driver", &error))?;
        Ok(ublk)
    }

    fn recover(
        mut control: Control,
        info: &DeviceInfo,
        told: &Parameters,
        shape: &UblkShape,
    ) -> Result<Ublk, UblkError> {
        let device = info.device;
        let wanted = shape.parameters(info.io_bytes_max);
        let grows = wanted.device_sectors > told.device_sectors;
        match retry(|| control.tell(abi::control::START_USER_RECOVERY, device, 0)) {
            Ok(()) => {}
            // Linux 6.12 refuses to begin a recovery again if the server that began it was killed before a
            // queue had fetched (`nr_queues_ready` is 0 in ublk_ctrl_start_recovery). The queues are as that
            // first attempt left them, ready to fetch, and their descriptors are not mapped (see
            // UblkPlace::open).
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => {
                return Err(failed(&format!("take /dev/ublkb{device} over from the server before"), &error));
            }
        }
        let mut ublk = Ublk {
            control,
            device,
            file: None,
            queues: info.queues,
            depth: info.queue_depth,
            request_bytes_max: info.io_bytes_max,
            flags: info.flags,
            phase: Phase::Found,
            volatile_cache: told.attributes & attribute::VOLATILE_CACHE != 0,
            grows_to_sectors: grows.then_some(wanted.device_sectors),
            live: Arc::default(),
            // The device was started by another server; whether partitions are read was decided then.
            hides_partitions: false,
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

    /// The number of queues, and so of reactors that the device needs.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.queues.into()
    }

    /// Makes the places of the reactors, one per queue; call once.
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
            unprivileged: self.hides_partitions,
        };
        (0..self.queues).map(place).collect()
    }

    /// Describes how requests and their bytes move, for the operator.
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
        let partitions = if self.hides_partitions {
            format!("; the kernel looks for no partitions: `partx -u {}` adds them", self.path())
        } else {
            String::new()
        };
        format!("{requests}; {bytes}{partitions}")
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

    /// Whether the kernel was kept from reading the device's partitions.
    #[must_use]
    pub fn hides_partitions(&self) -> bool {
        self.hides_partitions
    }

    /// Whether no host reaches the device, and it is about to be removed.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// Whether the device existed before this server.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.phase == Phase::Found
    }

    /// Whether the device advertises a volatile cache, so that hosts send flushes.
    #[must_use]
    pub fn has_volatile_cache(&self) -> bool {
        self.volatile_cache
    }

    /// Whether hosts will see the device grow.
    #[must_use]
    pub fn grows(&self) -> bool {
        self.grows_to_sectors.is_some()
    }

    /// Makes the device appear or continue, and grow if needed. Waits until all queues have fetched.
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
        if let Some(sectors) = self.grows_to_sectors {
            self.control
                .tell(abi::control::UPDATE_SIZE, self.device, sectors)
                .map_err(|error| failed(&format!("tell hosts that {} has grown", self.path()), &error))?;
        }
        Ok(())
    }

    /// The number of the block device.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.device
    }

    /// The path of the block device.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/dev/ublkb{}", self.device)
    }

    /// Stops the device if it is not open; with `force` in any case, and its users then get errors. Waits for
    /// requests in flight, so the reactors must be turning.
    pub fn close(&mut self, force: bool) -> Result<Closed, UblkError> {
        if self.phase != Phase::Live {
            return Ok(Closed::Stopped);
        }
        let stopped = if force {
            self.control.tell(abi::control::STOP_DEV, self.device, 0)
        } else if self.control.features().unwrap_or(0) & feature::SAFE_STOP_DEV != 0 {
            self.glance(|control, device| control.tell(abi::control::TRY_STOP_DEV, device, 0))
        } else {
            // A mount, a swap or a stacked device claims it exclusively; a process that merely has it open is
            // not seen here.
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

    /// Retries for a while as long as the device is in use.
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

    /// Makes the driver hold requests back for the next server; `None` if the device does not stay. Requests
    /// that it has handed out can still be answered. Only another server can make the device continue; it can
    /// also be closed.
    ///
    /// Whatever the driver answers, the older way follows: reactors drain, the server ends, the driver
    /// notices. After EBUSY the driver holds requests back all the same, as for a dying server; it only has
    /// not returned the fetches (ublk_drv.c, ublk_ctrl_quiesce_dev). This happens if all tags of a queue are
    /// taken by requests that it holds back.
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

    /// Removes a stopped device, after its reactors are gone; leaves any other device to the next server.
    /// Waits for the last descriptor of the character device, so the device must have been stopped before the
    /// reactors ended: commands in flight at their end would keep the descriptor open.
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

    /// Removes a stopped device when the kernel may keep a descriptor of the character device for as long as
    /// a member does not answer. Waits only for a moment. If the device still exists then, returns a line for
    /// the operator.
    pub fn remove_later(mut self) -> Option<String> {
        if self.phase != Phase::Stopped {
            return None;
        }
        let asked = self.control.tell(abi::control::DEL_DEV_ASYNC, self.device, 0);
        self.phase = Phase::Removed;
        let mut is_gone =
            || self.control.info(self.device).is_err_and(|error| error.raw_os_error() == Some(libc::ENODEV));
        for _ in 0..GLANCE_TRIES {
            if is_gone() {
                return None;
            }
            pause();
        }
        Some(goes_later(self.device, &asked))
    }
}

/// The line for the operator about a device that the kernel removes later.
fn goes_later(device: u32, asked: &io::Result<()>) -> String {
    match asked {
        Ok(()) => {
            format!("/dev/ublkb{device}: stopped; its number is free when the kernel gives that request back")
        }
        // Drivers before Linux 6.9 remove a device only while the caller waits.
        Err(_) => format!(
            "/dev/ublkb{device}: stopped; the next start of the array clears it away once this process has ended, and so does a stop with --force"
        ),
    }
}

impl Drop for Ublk {
    fn drop(&mut self) {
        // Reached after a start that failed half-way, or for a device that was stopped too late for `remove`.
        // The process is about to end, and its queues with it, so nothing is waited for.
        if matches!(self.phase, Phase::Made | Phase::Stopped) {
            let is_dealt = self.file.take().is_none();
            self.control.discard(self.device, is_dealt);
        }
    }
}

/// The features that a new device is made with, out of those that the driver has.
///
/// Batches are for devices with several queues, whose reactors then share all of them. With one queue they
/// cost as much as requests one by one (17.7 against 17.4 thousand instructions for a 4 KiB read of an array,
/// 37.6 against 37.4 for a write, in the guest), and the older mode is better tested.
fn flags_for(features: Option<u64>, without: &[UblkFeature], queues: usize) -> u64 {
    let always = feature::CMD_IOCTL_ENCODE | feature::USER_RECOVERY | feature::USER_RECOVERY_REISSUE;
    let optional = feature::USER_COPY | feature::AUTO_BUF_REG | feature::QUIESCE | feature::BATCH_IO;
    let wanted = always | optional;
    let unwanted = without.iter().fold(0, |bits, feature| bits | feature.bits());
    // A driver too old to report its features also silently drops the flags that it does not know.
    let mut can = wanted & features.unwrap_or(always) & !unwanted;
    if queues == 1 {
        can &= !feature::BATCH_IO;
    }
    if can & feature::USER_COPY == 0 { can & !UblkFeature::UserCopy.bits() } else { can }
}

/// Whether a device with these flags can be quiesced without harm. A device with BATCH_IO cannot: the driver
/// then sets `force_abort` in its queues (ublk_drv.c of Linux 7.3, ublk_batch_cancel_queue), and fails new
/// requests until the next server.
const fn quiesces(flags: u64) -> bool {
    flags & (feature::QUIESCE | feature::BATCH_IO) == feature::QUIESCE
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
        // Without user copy, the features that depend on it are off too.
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
