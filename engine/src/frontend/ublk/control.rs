//! Control commands to the ublk driver, one at a time, from a thread that may wait.
//!
//! Each command is one entry of a small, separate io_uring with entries of 128 bytes, as the driver requires.
//! A command that does not complete in time is an error. In some commands (`START_DEV`) the driver waits for
//! the server's queues, and in some kernels ADD_DEV never completes ([`DEFECTIVE_KERNELS`]); neither may hang
//! the server.
//!
//! A command that was given up may still be carried out, so the memory that it fills is then never freed.

#![expect(unsafe_code, reason = "commands hold the addresses of what they fill")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::UblkError;
use super::abi::{self, DeviceInfo, Parameters};

/// Time limit of a command. Stopping waits for all requests in flight, and those wait for the members.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);
/// Time limit of a command that makes or describes a device. No such command waits for requests.
const DESCRIPTION_TIME_MAX: Duration = Duration::from_secs(30);
/// Kernels in which ADD_DEV is known to crash, so that it never completes.
pub(super) const DEFECTIVE_KERNELS: &str = "Linux 6.18.4, 6.18.5 and some of 6.17";

/// The control device.
pub(super) struct Control {
    file: File,
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    /// The driver's features; `None` if the driver has no command to report them (before Linux 6.5).
    features: Option<u64>,
    /// Whether commands use un-encoded opcodes (before Linux 6.4).
    plain: bool,
    /// Names commands, so that the completion of a command that was given up is not taken for that of a later
    /// one.
    count: u64,
    /// The name of a command that was given up: it did not complete in time, or it is unknown whether it was
    /// submitted. The driver handles one command at a time per device, so another command would wait just as
    /// long.
    given_up: Option<u64>,
}

/// A control command: its code, the device, and its argument.
#[derive(Clone, Copy)]
struct Command {
    code: u32,
    device: u32,
    data: u64,
    buffer: Option<Buffer>,
}

/// Memory that a command reads or fills.
#[derive(Clone, Copy)]
struct Buffer {
    address: u64,
    len_bytes: u16,
}

impl Control {
    /// Opens the control device, or explains why it cannot be opened.
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
        let ring = ring().map_err(|error| failed("set up io_uring", &error))?;
        let mut control = Control { file, ring, features: None, plain: false, count: 0, given_up: None };
        control.features = control.ask_features();
        control.plain = control.features.is_none();
        Ok(control)
    }

    /// Linux 6.1 answers ENODEV: it looks for the device `u32::MAX` before it looks at the opcode. A driver
    /// without this command takes un-encoded opcodes, and before Linux 6.4 no others.
    fn ask_features(&mut self) -> Option<u64> {
        self.exchange(abi::control::GET_FEATURES, u32::MAX, 0u64).ok()
    }

    /// The driver's features, if it reports them.
    pub(super) fn features(&self) -> Option<u64> {
        self.features
    }

    /// Whether commands use un-encoded opcodes, as before Linux 6.4.
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Uses un-encoded opcodes from now on, as for a driver before Linux 6.4.
    pub(super) fn speak_plainly(&mut self) {
        self.plain = true;
    }

    /// Makes a device. `info.device` is the wanted number or `u32::MAX`; afterwards `info` describes the new
    /// device.
    pub(super) fn add(&mut self, info: &mut DeviceInfo) -> io::Result<()> {
        *info = self.exchange(abi::control::ADD_DEV, info.device, *info)?;
        Ok(())
    }

    /// Asks the driver to describe a device.
    pub(super) fn info(&mut self, device: u32) -> io::Result<DeviceInfo> {
        self.exchange(abi::control::GET_DEV_INFO, device, DeviceInfo::default())
    }

    /// Sets the parameters that the block device will advertise.
    pub(super) fn set_parameters(&mut self, device: u32, parameters: Parameters) -> io::Result<()> {
        self.exchange(abi::control::SET_PARAMS, device, parameters).map(drop)
    }

    /// Asks for the parameters that the block device advertises.
    pub(super) fn parameters(&mut self, device: u32) -> io::Result<Parameters> {
        let len_bytes = size_of::<Parameters>() as u32;
        self.exchange(abi::control::GET_PARAMS, device, Parameters { len_bytes, ..Parameters::default() })
    }

    /// Runs a command that carries no structure.
    pub(super) fn tell(&mut self, code: u32, device: u32, data: u64) -> io::Result<()> {
        self.tell_within(COMMAND_TIME_MAX, code, device, data)
    }

    /// A command without a structure, given up after `time_max`. The driver ends its wait when this is
    /// dropped.
    pub(super) fn tell_within(
        &mut self,
        time_max: Duration,
        code: u32,
        device: u32,
        data: u64,
    ) -> io::Result<()> {
        self.run(&Command { code, device, data, buffer: None }, time_max)
    }

    /// Removes a device that no host uses, without a wait. `is_dealt` says whether reactors may have its
    /// character device. Before Linux 6.9 there is only a command that waits until that is closed: then such
    /// a device stays, and the next start removes it.
    pub(super) fn discard(&mut self, device: u32, is_dealt: bool) {
        if self.tell(abi::control::DEL_DEV_ASYNC, device, 0).is_err() && !is_dealt {
            let _gone_or_not = self.tell(abi::control::DEL_DEV, device, 0);
        }
    }

    /// Runs a command with a structure that the driver reads or fills, and returns the structure as the
    /// driver left it.
    fn exchange<T: Copy>(&mut self, code: u32, device: u32, value: T) -> io::Result<T> {
        let memory = Box::into_raw(Box::new(value));
        let len_bytes = u16::try_from(size_of::<T>()).expect("the driver's structures are small");
        let buffer = Buffer { address: memory.expose_provenance() as u64, len_bytes };
        let was_given_up = self.given_up;
        let ended = self.run(&Command { code, device, data: 0, buffer: Some(buffer) }, DESCRIPTION_TIME_MAX);
        if self.given_up.is_some() && self.given_up != was_given_up {
            // Never freed: the driver may still fill it.
            return Err(ended.expect_err("a command that was given up has no result"));
        }
        // SAFETY: the memory was made above and is freed once, here. No command that refers to it is in
        // flight: this one has ended, or was not queued because an earlier one has not ended.
        let value = unsafe { Box::from_raw(memory) };
        ended.map(|()| *value)
    }

    fn run(&mut self, command: &Command, time_max: Duration) -> io::Result<()> {
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
        // SAFETY: the buffer, if any, is freed by `exchange` only if the command has completed.
        unsafe { self.ring.submission().push(&entry) }.expect("one command at a time");
        match self.submit_and_wait(self.count, time_max) {
            Ok(result) if result < 0 => Err(io::Error::from_raw_os_error(-result)),
            Ok(_) => Ok(()),
            Err(error) => {
                // The command may be in flight, or it stays queued and is submitted with the next one.
                self.given_up = Some(self.count);
                Err(error)
            }
        }
    }

    /// Submits what is queued, and waits for the result of the command `name`. An error means that there is
    /// no result.
    fn submit_and_wait(&mut self, name: u64, time_max: Duration) -> io::Result<i32> {
        // Submitted by a call of its own: a call that submits something reports that, and not that its wait
        // timed out.
        self.ring.submit()?;
        let time = types::Timespec::from(time_max);
        let limit = types::SubmitArgs::new().timespec(&time);
        loop {
            match self.ring.submitter().submit_with_args(1, &limit) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) if error.raw_os_error() == Some(libc::ETIME) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the ublk driver does not answer"));
                }
                Err(error) => return Err(error),
            }
            if let Some(done) = self.ring.completion().find(|done| done.user_data() == name) {
                return Ok(done.result());
            }
        }
    }
}

/// Makes a ring that is restricted to driver commands, since no system call filter sees what goes through a
/// ring.
fn ring() -> io::Result<IoUring<squeue::Entry128, cqueue::Entry>> {
    let ring: IoUring<squeue::Entry128, cqueue::Entry> = IoUring::builder().setup_r_disabled().build(4)?;
    ring.submitter().register_restrictions(&mut [Restriction::sqe_op(opcode::UringCmd80::CODE)])?;
    ring.submitter().register_enable_rings()?;
    Ok(ring)
}

/// Describes a failed operating system call.
pub(super) fn failed(what: &str, error: &io::Error) -> UblkError {
    UblkError(format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/dev/null` completes every command at once. After a command was given up, none is submitted.
    #[test]
    fn commands_are_exchanged_until_one_is_given_up() {
        let file = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        let ring = ring().unwrap();
        let mut control = Control { file, ring, features: None, plain: false, count: 0, given_up: None };
        match control.exchange(1, 2, 77u64) {
            Ok(value) => assert_eq!(value, 77),
            // Linux before 6.4, or a sandbox with a different /dev/null.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP)),
        }
        assert_eq!(control.given_up, None);
        control.given_up = Some(99);
        let refused = control.exchange(1, 2, 77u64).unwrap_err();
        assert_eq!((refused.kind(), control.given_up), (io::ErrorKind::TimedOut, Some(99)));
    }

    /// A command that does not complete: the wait ends, and the next command is refused until the first one
    /// completes.
    #[test]
    fn nothing_waits_for_ever_for_the_driver() {
        let (mut waited_for, bell) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        let ring = IoUring::<squeue::Entry128, cqueue::Entry>::builder().build(4).unwrap();
        let mut control = Control { file, ring, features: None, plain: false, count: 7, given_up: None };
        let entry = opcode::PollAdd::new(types::Fd(bell.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: a poll refers to no memory.
        unsafe { control.ring.submission().push(&entry.user_data(7).into()) }.unwrap();
        let late = control.submit_and_wait(7, Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut, "{late}");
        control.given_up = Some(7);
        assert_eq!(control.tell(1, 2, 0).unwrap_err().kind(), io::ErrorKind::TimedOut);
        std::io::Write::write_all(&mut waited_for, &[0]).unwrap();
        let is_refused =
            |outcome: io::Result<()>| outcome.is_err_and(|it| it.kind() == io::ErrorKind::TimedOut);
        // The kernel may take a moment to deliver the completion.
        assert!((0..1000).any(|_| !is_refused(control.tell(1, 2, 0)) || control.ring.submit().is_err()));
        assert_eq!(control.given_up, None);
    }
}
