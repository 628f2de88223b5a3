//! Commands to the ublk driver, one at a time, from a thread that may wait.
//!
//! Each is one entry of a small io_uring of its own with entries of 128 bytes, which the driver asks for. A command that
//! does not come back in time is an error: the driver waits for the server's queues in some of them (`START_DEV`), and
//! an error there must not become a hang here.

#![expect(unsafe_code, reason = "commands hold the addresses of what they fill")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::UblkError;
use super::abi::{self, DeviceInfo, Parameters};

/// How long a command may take. Stopping waits for all requests in flight, and those for the members.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);

/// The control device.
pub(super) struct Control {
    file: File,
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    /// What the driver can do; `None` where it does not tell, being older than Linux 6.5.
    features: Option<u64>,
    /// Whether commands are plain numbers.
    plain: bool,
    /// Names commands, so that one that was given up is not taken for a later one.
    count: u64,
    /// The name of a command that was given up. The driver does one at a time for a device, so another would wait as long for it.
    given_up: Option<u64>,
}

/// What a command is about.
#[derive(Clone, Copy)]
struct Command<'b> {
    code: u32,
    device: u32,
    data: u64,
    buffer: Option<&'b Buffer>,
}

/// Memory that a command reads or fills.
struct Buffer {
    address: u64,
    len_bytes: u16,
}

impl Buffer {
    fn of<T>(value: &mut T) -> Buffer {
        let len_bytes = u16::try_from(size_of::<T>()).expect("the driver's structures are small");
        Buffer { address: std::ptr::from_mut(value).expose_provenance() as u64, len_bytes }
    }
}

impl Control {
    /// Opens the control device, or says why there is none.
    pub(super) fn open() -> Result<Control, UblkError> {
        let file = OpenOptions::new().read(true).write(true).open(abi::CONTROL_PATH).map_err(|error| {
            UblkError(match error.kind() {
                io::ErrorKind::NotFound => {
                    "no ublk in this kernel: load its driver (`modprobe ublk_drv`, Linux 6.1 or newer), or serve NBD with --nbd"
                        .into()
                }
                io::ErrorKind::PermissionDenied => {
                    format!("{}: only root may make block devices: serve as root, or serve NBD with --nbd", abi::CONTROL_PATH)
                }
                _ => format!("{}: cannot be opened: {error}", abi::CONTROL_PATH),
            })
        })?;
        let ring = IoUring::builder().build(4).map_err(|error| failed("set up io_uring", &error))?;
        let mut control = Control { file, ring, features: None, plain: false, count: 0, given_up: None };
        control.features = control.ask_features();
        control.plain = control.features.is_none();
        Ok(control)
    }

    /// A driver that does not know the question knows plain numbers only, or both.
    fn ask_features(&mut self) -> Option<u64> {
        let mut features = 0u64;
        let buffer = Buffer::of(&mut features);
        let command =
            Command { code: abi::control::GET_FEATURES, device: u32::MAX, data: 0, buffer: Some(&buffer) };
        self.run(&command).ok().map(|()| features)
    }

    /// What this driver can do, if it tells.
    pub(super) fn features(&self) -> Option<u64> {
        self.features
    }

    /// Whether commands are plain numbers, as before Linux 6.4.
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Speaks to this driver as to an old one.
    pub(super) fn speak_plainly(&mut self) {
        self.plain = true;
    }

    /// Makes a device; `info.device` is the wanted number or `u32::MAX`, and `info` is what came of it.
    pub(super) fn add(&mut self, info: &mut DeviceInfo) -> io::Result<()> {
        let device = info.device;
        let buffer = Buffer::of(info);
        self.run(&Command { code: abi::control::ADD_DEV, device, data: 0, buffer: Some(&buffer) })
    }

    /// What the driver says of a device.
    pub(super) fn info(&mut self, device: u32) -> io::Result<DeviceInfo> {
        let mut info = DeviceInfo::default();
        let buffer = Buffer::of(&mut info);
        self.run(&Command { code: abi::control::GET_DEV_INFO, device, data: 0, buffer: Some(&buffer) })?;
        Ok(info)
    }

    /// Sets what the block device will say of itself.
    pub(super) fn set_parameters(&mut self, device: u32, parameters: &mut Parameters) -> io::Result<()> {
        let buffer = Buffer::of(parameters);
        self.run(&Command { code: abi::control::SET_PARAMS, device, data: 0, buffer: Some(&buffer) })
    }

    /// What the block device says of itself.
    pub(super) fn parameters(&mut self, device: u32) -> io::Result<Parameters> {
        let len_bytes = size_of::<Parameters>() as u32;
        let mut parameters = Parameters { len_bytes, ..Parameters::default() };
        let buffer = Buffer::of(&mut parameters);
        self.run(&Command { code: abi::control::GET_PARAMS, device, data: 0, buffer: Some(&buffer) })?;
        Ok(parameters)
    }

    /// A command without a structure.
    pub(super) fn tell(&mut self, code: u32, device: u32, data: u64) -> io::Result<()> {
        self.run(&Command { code, device, data, buffer: None })
    }

    fn run(&mut self, command: &Command<'_>) -> io::Result<()> {
        if let Some(name) = self.given_up
            && !self.ring.completion().any(|done| done.user_data() == name)
        {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the ublk driver has not answered an earlier command",
            ));
        }
        self.given_up = None;
        let buffer = command.buffer.map_or((0, 0), |buffer| (buffer.address, buffer.len_bytes));
        let bytes = abi::control_command(command.device, buffer, command.data);
        let file = types::Fd(self.file.as_raw_fd());
        self.count += 1;
        let code = if self.plain { abi::plain(command.code) } else { command.code };
        let entry = opcode::UringCmd80::new(file, code).cmd(bytes).build().user_data(self.count);
        // SAFETY: the buffer, if any, is borrowed until this function returns, and it does not return before such a
        // command has completed.
        unsafe { self.ring.submission().push(&entry) }.expect("one command at a time");
        // By itself: a call that has submitted something says so, and not that the time of its wait is over.
        self.ring.submit()?;
        let time = types::Timespec::from(COMMAND_TIME_MAX);
        let limit = types::SubmitArgs::new().timespec(&time);
        loop {
            match self.ring.submitter().submit_with_args(1, &limit) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // Commands that fill a buffer wait for nobody, and nothing of ours may move under them.
                Err(error) if error.raw_os_error() == Some(libc::ETIME) && command.buffer.is_some() => {}
                Err(error) if error.raw_os_error() == Some(libc::ETIME) => {
                    self.given_up = Some(self.count);
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the ublk driver does not answer"));
                }
                Err(error) => return Err(error),
            }
            let name = self.count;
            if let Some(done) = self.ring.completion().find(|done| done.user_data() == name) {
                let result = done.result();
                return if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
            }
        }
    }
}

/// An error of an operating system call, in words.
pub(super) fn failed(what: &str, error: &io::Error) -> UblkError {
    UblkError(format!("cannot {what}: {error}"))
}
