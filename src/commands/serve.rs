//! `serve`: one array, in the foreground, from assembly to a clean stop.
//!
//! ```text
//!     give up privileges -> examine: the name -> claim the name -> start the engine
//!        -> listen for commands -> enter the sandbox -> `ready` -> ... -> a signal, or `stop`
//!        -> (quiesce) -> drain, flush, clean -> exit 0
//! ```
//!
//! While the array is being started, a signal that asks for an end ends the process as a crash would; that is
//! safe, because nothing has been acknowledged to a host. Later, the first such signal stops the array as
//! `stop` does. A block device that is in use is left for the next server, so that the program can be
//! replaced under a mounted file system; its driver is told to hold requests back from then on, if it can.
//! Another signal, 2 s later or more, is for an operator to whom the drain takes too long: it ends the
//! process at once with exit code 1. That is an unclean stop, which costs a resync. See [`signals`].

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use clap::ValueEnum;
use engine::examine::{Examined, examine};
use engine::server::{
    Encryption, Ended, Quiesced, ServeOptions, Server, Stop, UblkChoice, can_make_block_devices, each_within,
    free_members, shell_path,
};
use engine::status::{ArrayStatus, LostPieces, MemberState, MemberStatus, RouteKind};
use engine::threads::Threads;
use sd_notify::NotifyState;
use tracing::level_filters::LevelFilter;

use crate::cli::{LogLevel, Serve};
use crate::control::message::MemberId;
use crate::control::server::{Backend, Claim, peer_allowed};
use crate::documents::Ready;
use crate::failure::{Context, Failure, Outcome, Result};
use crate::log;
use crate::names::ArrayName;
use crate::output::{json_line, print};
use crate::rundir::{RunDir, own_uid};
use crate::sandbox::{Choice, Thread};
use crate::tls::Tls;

use super::confine::Confined;
use super::detail::undecodable;
use super::{notices, scan, signals, visits};

/// An event that ends the server.
enum Event {
    /// A signal asks for a stop.
    Signal,
    /// The array was stopped, with or without an error.
    Stopped(std::result::Result<(), String>),
}

/// Serves the array until it is stopped.
pub fn serve(options: &Serve, run_dir: Option<&Path>) -> Result<Outcome> {
    let choice = if options.no_sandbox { Choice::Leave } else { Choice::Confine };
    // First, because threads inherit the privileges that are left here.
    let (mut confined, not_given_up) = Confined::begin(choice, options.nbd.is_empty());
    log::start(level(log_level(options)?), confined.at_once(Thread::Log))?;
    not_given_up.iter().for_each(|line| tracing::warn!("{line}"));
    let signals = signals::watch(confined.at_once(Thread::Signals))?;

    let run_dir = RunDir::create(run_dir)?;
    let search = scan::Search {
        wait: Duration::from_secs(options.wait.into()),
        member_timeout_s: options.member_timeout,
        ..options.array.search()
    };
    let members = scan::members(&options.members, search)?;
    let examined = examine(&members, options.member_timeout)?;
    let (name, array_uuid) = array_of(&examined)?;
    let (silent, examined): (Vec<_>, Vec<_>) = examined.into_iter().partition(|one| one.silent);
    let silent: Vec<String> = silent.into_iter().filter_map(|one| one.error).collect();
    for one in &silent {
        tracing::warn!("{one}: it counts as missing");
    }
    let members: Vec<PathBuf> = examined.into_iter().map(|one| one.path).collect();
    let claim = Claim::take(&run_dir, &name)?;
    free_members(name.as_str(), &array_uuid)?;
    let way = way(options, &run_dir, &name)?;
    confined.learn(&members, run_dir.path(), way.nbd(), &options.allow_path)?;

    let engine_options =
        ServeOptions { threads: confined.threads(), ..engine_options(options, members, way, &run_dir)? };
    let server = Server::start(engine_options).map_err(|error| {
        let parts = std::iter::once(error.to_string()).chain(silent);
        Failure::new(parts.collect::<Vec<_>>().join("; "))
    })?;
    // Until here a signal ends the process at once: nothing would read the event, and a device may hold up
    // the start.
    let (events, happened) = channel();
    let of_signal = events.clone();
    signals.stop_by(move || drop(of_signal.send(Event::Signal)))?;
    for warning in &server.warnings {
        tracing::warn!("{warning}");
    }
    let status = server.status();
    tracing::info!("serving {name}: {} of {} members in sync", in_sync(&status), status.members.len());
    status.members.iter().for_each(tell_route);
    if let Some(way) = server.block_device_way() {
        tracing::info!("block device: {way}");
    }

    let known = confined.of_server(&server);
    let limiter = |thread| confined.limiter(thread, &known);
    let writer = notices::write_down(server.notices(), name.clone(), limiter(Thread::Log))?;
    let visitors =
        server.visits().map(|all| visits::write_down(all, name.clone(), limiter(Thread::Log))).transpose()?;
    let kind = if status.exports.iter().any(|export| export.starts_with("/dev/")) { "ublk" } else { "nbd" };
    let running = Arc::new(Running { server: Mutex::new(Some(Arc::new(server))), events });
    let own = own_uid();
    let backend = Arc::clone(&running) as Arc<dyn Backend>;
    let is_allowed = move |uid| peer_allowed(uid, own);
    let control = match claim.listen(backend, is_allowed, limiter(Thread::Control)) {
        Ok(control) => control,
        Err(failure) => {
            let _ = running.end(Stop::HandOver);
            return Err(failure);
        }
    };
    // The main thread is confined before `ready`: from then on, hosts and operators rely on the sandbox.
    limiter(Thread::Main)();
    announce(&ready_lines(options, &name, kind, &status.exports)?);
    let stopped = run_until_stopped(&running, &happened);
    control.close();
    writer.end();
    visitors.into_iter().for_each(visits::Writer::end);
    stopped.map_err(|error| Failure::new(format!("not stopped cleanly: {name}: {error}")))?;
    tracing::info!("stopped {name}");
    Ok(Outcome::Fine)
}

/// The log level: --log, else $STRIATE_LOG, else info.
fn log_level(options: &Serve) -> Result<LogLevel> {
    let given = std::env::var("STRIATE_LOG").unwrap_or_default();
    match (options.log, given.as_str()) {
        (Some(level), _) => Ok(level),
        (None, "") => Ok(LogLevel::Info),
        (None, word) => LogLevel::from_str(word, true).map_err(|_| {
            Failure::usage(format!("STRIATE_LOG={word}: give error, warn, info, debug or trace"))
        }),
    }
}

const fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Returns the name and the UUID that the members agree on, if all devices given are members. (mdadm too
/// aborts if a device that it was told to use has no superblock: that is more likely a mistake than a wish to
/// go without the device.)
fn array_of(examined: &[Examined]) -> Result<(ArrayName, String)> {
    let reason = |one: &Examined| undecodable(one).line().trim_end_matches('.').to_string();
    let without = || examined.iter().filter(|one| one.superblock.is_none());
    // A device that does not answer may be a member, so it is no stranger.
    let strangers: Vec<String> = without().filter(|one| !one.silent).map(reason).collect();
    let known: Vec<_> =
        examined.iter().filter_map(|one| Some((&one.path, one.superblock.as_ref()?))).collect();
    let (first_path, first) = match known.first() {
        Some((path, first)) if strangers.is_empty() => (path, first),
        Some(_) => {
            let strangers = strangers.join("; ");
            return Err(Failure::new(format!(
                "no member: {strangers}; or leave it out, to serve without it"
            )));
        }
        None => {
            let reasons: Vec<String> = without().map(reason).collect();
            return Err(Failure::new(format!("no member of an array: {}", reasons.join("; "))));
        }
    };
    if let Some((path, other)) = known.iter().find(|(_, other)| other.array_uuid != first.array_uuid) {
        return Err(Failure::new(format!(
            "members of different arrays: {} is of {} ({}), {} of {} ({}): serve each with its own members",
            first_path.display(),
            first.name,
            first.array_uuid,
            path.display(),
            other.name,
            other.array_uuid,
        )));
    }
    let name = first.name.parse();
    let name =
        name.map_err(|error| Failure::new(format!("bad array name on disk: {:?}: {error}", first.name)))?;
    Ok((name, first.array_uuid.clone()))
}

/// The way in which hosts reach the array.
enum Way {
    BlockDevice(UblkChoice),
    Nbd(Vec<String>),
}

impl Way {
    fn nbd(&self) -> &[String] {
        match self {
            Way::BlockDevice(_) => &[],
            Way::Nbd(addresses) => addresses,
        }
    }
}

/// Chooses the way: the one that the options give; else a block device if one can be made; else the array's
/// socket in the run directory.
fn way(options: &Serve, run_dir: &RunDir, name: &ArrayName) -> Result<Way> {
    if !options.nbd.is_empty() {
        return Ok(Way::Nbd(options.nbd.clone()));
    }
    match options.ublk {
        Some(Some(number)) => return Ok(Way::BlockDevice(UblkChoice::Number(number))),
        Some(None) => return Ok(Way::BlockDevice(UblkChoice::Any)),
        None if can_make_block_devices() => return Ok(Way::BlockDevice(UblkChoice::Any)),
        None => {}
    }
    let path = run_dir.nbd_socket(name)?;
    let text =
        path.to_str().ok_or_else(|| Failure::new("the run directory's path is not UTF-8: give --nbd"))?;
    Ok(Way::Nbd(vec![format!("unix:{text}")]))
}

fn engine_options(
    options: &Serve,
    members: Vec<PathBuf>,
    way: Way,
    run_dir: &RunDir,
) -> Result<ServeOptions> {
    let (ublk, nbd) = match way {
        Way::BlockDevice(choice) => (Some(choice), Vec::new()),
        Way::Nbd(addresses) => (None, addresses),
    };
    Ok(ServeOptions {
        members,
        reactors: options.reactors,
        cpus: options.cpus.as_deref().unwrap_or_default().to_vec(),
        ublk,
        ublk_without: options.ublk_without.iter().map(|&feature| feature.into()).collect(),
        nbd,
        despite_block_device: options.despite_block_device,
        run_dir: Some(run_dir.path().to_path_buf()),
        read_only: options.read_only,
        foreign_host_ok: options.foreign_host,
        allow_remote: options.allow_remote,
        allow_local_users: options.allow_local_users,
        nbd_encryption: encryption(options)?,
        nbd_group: options.nbd_group,
        run_degraded: options.run_degraded,
        take_overwritten: options.take_overwritten,
        trust_parity: options.trust_parity,
        member_timeout_s: options.member_timeout,
        memory_bytes: options.memory.try_into().context(|| "--memory".into())?,
        threads: Threads::default(),
    })
}

/// Reads the certificates or keys. This happens before anything is started, while the process can still read
/// every file.
fn encryption(options: &Serve) -> Result<Option<Arc<dyn Encryption>>> {
    let Some(directory) = &options.nbd_tls else { return Ok(None) };
    let tls = Tls::read(directory)?;
    if tls.proves_clients() {
        tracing::info!("{}", tls.describe());
    } else {
        tracing::warn!("{}", tls.describe());
    }
    Ok(Some(Arc::new(tls)))
}

fn in_sync(status: &ArrayStatus) -> usize {
    status.members.iter().filter(|member| member.state == MemberState::InSync).count()
}

/// Logs the route of a member's I/O, and why it was chosen.
fn tell_route(member: &MemberStatus) {
    let (Some(path), Some(route)) = (&member.path, &member.route) else { return };
    match route.kind {
        RouteKind::Passthrough | RouteKind::Block => tracing::info!("{path}: by {route}"),
        RouteKind::File => tracing::debug!("{path}: by {route}"),
    }
}

/// The message that hosts can use the array: a line for each export, or one line of JSON.
fn ready_lines(options: &Serve, name: &ArrayName, kind: &str, exports: &[String]) -> Result<String> {
    if options.json {
        let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION"));
        return json_line(&Ready { event: "ready", name: name.as_str(), kind, exports, pid, version });
    }
    Ok(exports.iter().map(|export| format!("ready: {name} {kind} {export}\n")).collect())
}

/// How long the reader of standard output may take to read `ready` before a warning is logged.
const READY_TIME_MAX: Duration = Duration::from_secs(1);

/// Announces that the array is served, to a script that reads standard output and to the service manager. The
/// array is served even if the message cannot be delivered.
fn announce(lines: &str) {
    log::settle();
    let lines = lines.to_string();
    let (done, printed) = channel();
    let print = move || drop(done.send(print(&lines).map_err(|failure| failure.line())));
    let spawned = std::thread::Builder::new().name("ready".into()).spawn(print);
    let told = spawned.map_err(|error| error.to_string()).and_then(|_| {
        let answer = printed.recv_timeout(READY_TIME_MAX);
        answer.unwrap_or_else(|_| Err("nobody reads standard output".into()))
    });
    if let Err(error) = told {
        tracing::warn!("cannot say `ready`: {error}");
    }
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}

/// How often members are asked whether a volatile cache was switched on.
const CACHES_EVERY: Duration = Duration::from_secs(10);

fn run_until_stopped(running: &Running, happened: &Receiver<Event>) -> std::result::Result<(), String> {
    let mut is_to_end = false;
    loop {
        match happened.recv_timeout(CACHES_EVERY) {
            Err(RecvTimeoutError::Timeout) if is_to_end => running.end_by_signal(),
            Err(RecvTimeoutError::Timeout) => {
                // The server is gone while the array is being stopped; then there is nothing to check.
                let look = |server: &Server| {
                    server.note_trouble().into_iter().chain(server.look_at_caches()).collect::<Vec<_>>()
                };
                let found = running.with(|server| Ok(look(server))).unwrap_or_default();
                found.iter().for_each(|found| tracing::warn!("{found}"));
            }
            Ok(Event::Signal) => {
                tracing::info!("stopping on a signal");
                let _ = sd_notify::notify(&[NotifyState::Stopping]);
                is_to_end = true;
                running.end_by_signal();
            }
            Ok(Event::Stopped(result)) => return result,
            Err(RecvTimeoutError::Disconnected) => return Err("the signal thread is gone".into()),
        }
    }
}

/// The running array, as commands see it.
struct Running {
    /// The server; `None` once it is being stopped. The lock is held only to clone the `Arc`, never during a
    /// command. Otherwise a command that waits for a device that does not answer would block all others, and
    /// the stop.
    server: Mutex<Option<Arc<Server>>>,
    /// The channel that reports the end.
    events: Sender<Event>,
}

const STOPPING: &str = "the array is being stopped";

impl Running {
    fn lock(&self) -> std::result::Result<MutexGuard<'_, Option<Arc<Server>>>, String> {
        self.server.lock().map_err(|_| "a command before this one panicked; see the log".into())
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&Server) -> std::result::Result<T, String>,
    ) -> std::result::Result<T, String> {
        let server = self.lock()?.clone().ok_or(STOPPING)?;
        act(&server)
    }
}

impl Backend for Running {
    fn status(&self) -> std::result::Result<ArrayStatus, String> {
        self.with(|server| Ok(server.status()))
    }

    fn lost(&self, from_stripe: u64) -> std::result::Result<LostPieces, String> {
        self.with(|server| Ok(server.lost_pieces(from_stripe)))
    }

    fn fail(&self, member: &MemberId) -> std::result::Result<(), String> {
        self.with(|server| {
            let slot = find_slot(member, &server.status())?;
            server.fail(slot).map_err(|error| error.to_string())
        })
    }

    fn replace(&self, slot: &MemberId, path: &Path, force: bool) -> std::result::Result<(), String> {
        self.with(|server| {
            let status = server.status();
            let slot = find_slot(slot, &status)?;
            if let Ok(own) = find_slot(&MemberId::Path(path.into()), &status) {
                return Err(is_known(path, own, &status));
            }
            server.replace(slot, path.to_path_buf(), force).map_err(|error| error.to_string())?;
            server.status().members.get(slot).iter().for_each(|member| tell_route(member));
            Ok(())
        })
    }

    fn stop(&self, force: bool) -> std::result::Result<Vec<String>, String> {
        self.end(if force { Stop::Force } else { Stop::IfIdle })
    }
}

impl Running {
    /// Begins the end that a signal asks for. The event of the end comes from here, or from a `stop` that was
    /// first. If the end cannot begin (the driver of the block device does not answer), the main loop tries
    /// again later.
    fn end_by_signal(&self) {
        let ended = self.end(Stop::HandOver);
        if let (Err(error), Ok(server)) = (ended, self.lock())
            && server.is_some()
        {
            tracing::warn!("{error}: the server goes on, and tries again to end");
        }
    }

    /// Stops the array. `how` says whether a block device that is in use stays. Returns warnings for the
    /// operator.
    fn end(&self, how: Stop) -> std::result::Result<Vec<String>, String> {
        self.with(|server| server.close(how).map_err(|error| error.to_string()))?;
        let server = self.lock()?.take().ok_or(STOPPING)?;
        if let Some(quiesced) = server.quiesce() {
            tell_quiesced(&quiesced);
        }
        let warnings = server.stop().map_err(|error| error.to_string()).map(|ended| match ended {
            Ended::Wholly => Vec::new(),
            Ended::HeldByKernel(held) => held,
        });
        warnings.iter().flatten().for_each(|warning| tracing::warn!("{warning}"));
        let _ = self.events.send(Event::Stopped(warnings.clone().map(drop)));
        warnings
    }
}

/// Logs in which state a block device is left to the next server.
fn tell_quiesced(quiesced: &Quiesced) {
    match quiesced {
        Quiesced::Held => {
            tracing::info!(
                "the block device is in use: it is quiesced, and requests wait for the next server"
            );
        }
        Quiesced::Unaided => tracing::info!(
            "the block device is in use: requests wait for the next server (it cannot be quiesced: that takes Linux 6.16, a device made by this version, and requests one by one)"
        ),
        Quiesced::Refused(why) => {
            tracing::warn!("the block device is in use: requests wait for the next server, though: {why}");
        }
    }
}

/// The refusal of a path that the server already has for a slot. A member that has failed stays open until
/// the server ends, because the kernel may still have I/O in flight to it.
fn is_known(path: &Path, slot: usize, status: &ArrayStatus) -> String {
    let name = &status.name;
    match status.members[slot].state {
        MemberState::InSync | MemberState::Rebuilding => {
            format!(
                "{}: is the member of slot {slot} of {name}: give a device that is in no array",
                path.display()
            )
        }
        _ => format!(
            "{}: was the member of slot {slot} of {name}, and this server keeps it until it ends: give another device; or stop the array and serve it again, and then `striate replace {name} {slot} {} --force`",
            path.display(),
            shell_path(path)
        ),
    }
}

/// How long a path may take to resolve.
const RESOLVED_WITHIN: Duration = Duration::from_secs(5);

/// Finds the slot of a member given by number, by the path it was opened with, or by another path to that
/// file.
fn find_slot(member: &MemberId, status: &ArrayStatus) -> std::result::Result<usize, String> {
    let path = match member {
        MemberId::Slot(slot) if *slot < status.members.len() => return Ok(*slot),
        MemberId::Slot(slot) => {
            return Err(format!(
                "no slot {slot}: {} has slots 0 to {}",
                status.name,
                status.members.len() - 1
            ));
        }
        MemberId::Path(path) => path,
    };
    let known =
        || status.members.iter().filter_map(|one| Some((one.slot, PathBuf::from(one.path.as_deref()?))));
    if let Some((slot, _)) = known().find(|(_, known)| known == path) {
        return Ok(slot);
    }
    // A path may lead through a file system that does not answer, perhaps that of the member itself.
    let paths = std::iter::once(path.clone()).chain(known().map(|(_, known)| known)).collect();
    let real = each_within(paths, RESOLVED_WITHIN, |path: PathBuf| path.canonicalize().ok());
    let real: Vec<Option<PathBuf>> = real.into_iter().map(Option::flatten).collect();
    let found = known().zip(&real[1..]).find(|(_, of_member)| of_member.is_some() && **of_member == real[0]);
    found.map(|((slot, _), _)| slot).ok_or_else(|| {
        format!("no member {} in {}: see `striate detail {}`", path.display(), status.name, status.name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::{example_status, example_superblock};

    #[test]
    fn members_by_slot_and_path() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("m1"), directory.path().join("link"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut status = example_status("a");
        status.members[1].path = Some(file.to_str().unwrap().into());
        status.members[2].path = None;
        assert_eq!(find_slot(&MemberId::Slot(2), &status), Ok(2));
        assert!(find_slot(&MemberId::Slot(3), &status).unwrap_err().contains("slots 0 to 2"));
        assert_eq!(find_slot(&MemberId::Path(file), &status), Ok(1));
        assert_eq!(find_slot(&MemberId::Path(link), &status), Ok(1));
        // A member whose device node is gone is still known by its path.
        assert_eq!(find_slot(&MemberId::Path("/gone/m0".into()), &status), Ok(0));
        assert!(find_slot(&MemberId::Path("/gone/m9".into()), &status).is_err());
    }

    #[test]
    fn the_name_is_the_members() {
        let member = |path: &str, uuid: &str| Examined {
            path: path.into(),
            superblock: Some(example_superblock("media", uuid)),
            error: None,
            silent: false,
            unread: false,
        };
        let no_member = |silent: bool| Examined {
            path: "/c".into(),
            superblock: None,
            error: Some("no superblock".into()),
            silent,
            unread: false,
        };
        let (blank, silent) = (no_member(false), no_member(true));
        assert_eq!(array_of(&[member("/a", "1"), member("/b", "1")]).unwrap().0.as_str(), "media");
        assert_eq!(array_of(&[silent.clone(), member("/b", "1")]).unwrap().0.as_str(), "media");
        assert!(array_of(&[silent]).is_err());
        let refused = array_of(&[member("/a", "1"), blank.clone()]).unwrap_err();
        assert_eq!(refused.line(), "no member: /c: no superblock; or leave it out, to serve without it");
        assert!(
            array_of(&[member("/a", "1"), member("/b", "2")]).unwrap_err().line().contains("/b of media (2)")
        );
        assert_eq!(array_of(&[blank]).unwrap_err().line(), "no member of an array: /c: no superblock");
    }
}
