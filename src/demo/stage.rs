//! The place where the demo runs: a directory of its own, this program run as commands and servers, and the
//! lines that tell the story.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::status::ArrayStatus;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::failure::{Context, Failure, Result};
use crate::nbd_client::Client;
use crate::output::print;

/// How long a server may take to become ready. After that it counts as stuck.
const READY_TIME_MAX: Duration = Duration::from_secs(60);

/// The directory and the program.
pub struct Stage {
    /// The directory of members, run directory and logs.
    directory: PathBuf,
    /// The path of this program.
    executable: PathBuf,
    /// Whether to keep the directory at the end.
    keep: bool,
    /// The server and the directory to clear away when a signal ends the demo.
    ends: Arc<Mutex<Ends>>,
}

/// The server and the directory that must not outlive the demo.
struct Ends {
    directory: Option<PathBuf>,
    server: Option<Pid>,
}

impl Ends {
    fn clear(&mut self) {
        if let Some(pid) = self.server.take() {
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Some(directory) = self.directory.take() {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

impl Stage {
    /// Makes a new directory in `parent`, or in the system's directory of temporary files.
    pub fn new(parent: Option<&Path>, keep: bool) -> Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let what = || format!("cannot make a directory in {}", parent.display());
        let directory =
            tempfile::Builder::new().prefix("striate-demo.").tempdir_in(&parent).context(what)?.keep();
        let executable = std::env::current_exe().context(|| "cannot find this program".into())?;
        let ends = Ends { directory: (!keep).then(|| directory.clone()), server: None };
        let stage = Self { directory, executable, keep, ends: Arc::new(Mutex::new(ends)) };
        stage.clear_on_signals()?;
        Ok(stage)
    }

    fn clear_on_signals(&self) -> Result<()> {
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
            .context(|| "cannot catch signals".into())?;
        let ends = Arc::clone(&self.ends);
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                lock(&ends).clear();
                signal_hook::low_level::exit(1);
            }
        });
        Ok(())
    }

    /// The directory of the demo.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of a file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Runs this program with `words` and returns what it printed.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<String> {
        let output = self.command(words).output().context(|| "cannot run this program".into())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let words: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
            return Err(Failure::new(format!("`striate {}` failed: {}", words.join(" "), said.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(&self.executable);
        command.args(words).arg("--run-dir").arg(self.file("run")).stdin(Stdio::null());
        command.env_remove("NOTIFY_SOCKET");
        command
    }

    /// Returns what `striate status --json` says of the one array that runs.
    pub fn status(&self, name: &str) -> Result<ArrayStatus> {
        let text = self.run(&["status", "--json", name])?;
        let mut statuses: Statuses =
            serde_json::from_str(&text).context(|| "`striate status --json` is not understood".into())?;
        statuses.arrays.pop().ok_or_else(|| Failure::new("`striate status --json` is empty"))
    }

    /// Starts a server and returns once hosts can connect.
    pub fn serve(&self, name: &str, members: &[PathBuf]) -> Result<Server> {
        let log_path = self.file("serve.log");
        let log = File::create(&log_path).context(|| format!("cannot write {}", log_path.display()))?;
        let started = Instant::now();
        // An NBD address is given even if the user is root and the kernel has ublk, because the demo is an
        // NBD client.
        let address = format!("unix:{}", self.file("run").join(format!("{name}.nbd")).display());
        let mut words: Vec<PathBuf> =
            ["serve", "--reactors", "1", "--nbd", &address].map(PathBuf::from).into();
        words.extend_from_slice(members);
        let mut child = self
            .command(&words)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context(|| "cannot run this program".into())?;
        lock(&self.ends).server = Pid::from_raw(child.id().cast_signed());
        let stdout = child.stdout.take();
        let mut server = Server {
            child,
            name: name.into(),
            address: String::new(),
            ready_after: Duration::ZERO,
            log_path,
        };
        let line = stdout.map(first_line).unwrap_or_default();
        let Some(address) = line.strip_prefix(&format!("ready: {name} nbd ")) else {
            let said = server.log_tail();
            return Err(Failure::new(format!("the server of {name} did not start: {said}")));
        };
        server.address = address.trim_end().into();
        server.ready_after = started.elapsed();
        Ok(server)
    }
}

/// Returns the first line, or nothing if it does not come in time.
fn first_line(stdout: std::process::ChildStdout) -> String {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(stdout).read_line(&mut line);
        let _ = send.send(line);
    });
    receive.recv_timeout(READY_TIME_MAX).unwrap_or_default()
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.keep {
            let _ = print(&format!("\nThe files are in {}\n", self.directory.display()));
        }
        lock(&self.ends).clear();
    }
}

fn lock(ends: &Mutex<Ends>) -> std::sync::MutexGuard<'_, Ends> {
    ends.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A server, killed when dropped.
pub struct Server {
    child: Child,
    name: String,
    /// The address for hosts, `unix:PATH`.
    address: String,
    /// How long it took until hosts could connect.
    pub ready_after: Duration,
    log_path: PathBuf,
}

impl Server {
    /// Connects as a host.
    pub fn connect(&self) -> Result<Client> {
        Client::connect(&self.address, &self.name).context(|| format!("cannot connect to {}", self.address))
    }

    /// The server's process id, for a kill.
    pub fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits for the server to end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().context(|| format!("the server of {}", self.name))
    }

    /// Asks the server to stop, as a service manager would, and checks that it ends well.
    pub fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.pid() {
            kill_process(pid, Signal::TERM).context(|| format!("cannot stop the server of {}", self.name))?;
        }
        let status = self.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(format!("the server of {} ended with {status}: {}", self.name, self.log_tail())))
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        const TAIL_BYTES: u64 = 2048;
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log_path)?;
            let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_string())
        };
        read().unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The part of `striate status --json` that the demo reads.
#[derive(Deserialize)]
struct Statuses {
    arrays: Vec<ArrayStatus>,
}

/// Prints the story.
pub struct Teller {
    /// Whether only the end is printed.
    is_silent: bool,
    /// The mark before a step that went well: a tick if the terminal can show one.
    mark: &'static str,
    /// The time at which the story began.
    started: Instant,
    /// The time at which the current step began.
    step_started: Instant,
}

impl Teller {
    /// Starts the clock. With JSON the story is not told.
    pub fn new(json: bool) -> Self {
        let now = Instant::now();
        Self {
            is_silent: json,
            mark: if utf8() { "\u{2713}" } else { "ok" },
            started: now,
            step_started: now,
        }
    }

    fn say(&self, text: &str) -> Result<()> {
        if self.is_silent { Ok(()) } else { print(text) }
    }

    /// Prints a heading.
    pub fn chapter(&mut self, text: &str) -> Result<()> {
        self.step_started = Instant::now();
        self.say(&format!("\n{text}\n"))
    }

    /// Reports a step that went well, and how long it took.
    pub fn done(&mut self, text: &str) -> Result<()> {
        let took = self.step_started.elapsed();
        self.step_started = Instant::now();
        self.say(&format!("  {} {text}  ({:.1} s)\n", self.mark, took.as_secs_f64()))
    }

    /// Prints a fact that is neither good nor bad.
    pub fn note(&self, text: &str) -> Result<()> {
        self.say(&format!("    {text}\n"))
    }

    /// The time since the story began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Whether the locale says that the terminal understands UTF-8. The first of the three variables that is set
/// decides.
fn utf8() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    set.is_some_and(|value| {
        let value = value.to_ascii_uppercase();
        value.ends_with("UTF-8") || value.ends_with("UTF8")
    })
}
