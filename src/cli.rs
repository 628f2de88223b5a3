//! The command line: verbs and options, like mdadm's where that fits.
//!
//! This file defines what can be typed and what it means; the modules of `commands/` carry it out. A command
//! line that clap does not accept ends with exit code 2 before anything is touched.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use engine::array::REQUESTS_MAX;
use engine::bench::BenchPattern;
use engine::frontend::nbd::Address;
use engine::limits::REACTORS_MAX;
use engine::server::{Init, Level, UblkFeature};

use crate::commands::scan::Search;
use crate::control::message::MemberId;
use crate::members::MemberList;
use crate::names::ArrayName;
use crate::units::parse_size;

/// RAID-5 and RAID-6 for NVMe in user space.
#[derive(Debug, Parser)]
#[command(name = "striate", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Sizes: 512, 64K, 1GiB (powers of 1024).  \
    Exit codes: 0 done, 1 failed or a problem was found, 2 usage. \
    status --check has its own.")]
pub struct Cli {
    /// Directory of the sockets of running arrays [default: $STRIATE_RUN_DIR, or /run/striate as root, else
    /// $XDG_RUNTIME_DIR/striate]
    #[arg(long, global = true, value_name = "DIR", display_order = 900)]
    pub run_dir: Option<PathBuf>,

    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    /// Fills options that were not typed from the environment. (clap could do that, but it would then show
    /// such an option in the usage of every error, as if it were required.)
    pub fn with_environment(mut self) -> Self {
        let run_dir = || std::env::var_os("STRIATE_RUN_DIR").filter(|value| !value.is_empty());
        self.run_dir = self.run_dir.or_else(|| run_dir().map(PathBuf::from));
        self
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Create(Create),
    Serve(Serve),
    Status(Status),
    Detail(Detail),
    Lost(Lost),
    Fail(Fail),
    Replace(Replace),
    Stop(Stop),
    Wait(Wait),
    Grow(Grow),
    Scrub(Scrub),
    Bench(Bench),
    Demo(Demo),
}

impl Verb {
    /// Whether results and errors are printed as JSON.
    pub const fn json(&self) -> bool {
        match self {
            Verb::Create(Create { json, .. })
            | Verb::Serve(Serve { json, .. })
            | Verb::Status(Status { json, .. })
            | Verb::Detail(Detail { json, .. })
            | Verb::Lost(Lost { json, .. })
            | Verb::Fail(Fail { json, .. })
            | Verb::Replace(Replace { json, .. })
            | Verb::Stop(Stop { json, .. })
            | Verb::Wait(Wait { json, .. })
            | Verb::Grow(Grow { json, .. })
            | Verb::Scrub(Scrub { json, .. })
            | Verb::Bench(Bench { json, .. })
            | Verb::Demo(Demo { json, .. }) => *json,
        }
    }
}

/// Create an array from block devices or files
#[derive(Debug, Args)]
pub struct Create {
    /// The array's name: 1 to 64 letters, digits, `.`, `_` or `-`; does not begin with `.` or `-`
    pub name: ArrayName,
    /// RAID level: 5 tolerates the loss of any one member, 6 of any two
    #[arg(long, short, value_parser = parse_level, value_name = "5|6")]
    pub level: Level,
    /// Chunk size: bytes placed on one member before the next one, 4K to 1M
    #[arg(long, short, value_parser = parse_size_u32, default_value = "64K")]
    pub chunk: u32,
    /// Initial state of the stripes
    #[arg(long, value_enum, default_value_t = InitChoice::Auto)]
    pub init: InitChoice,
    /// Create members that do not exist, as sparse files of this size
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// Overwrite members that hold another array or a file system
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Block devices or files, in slot order
    #[arg(required = true, value_name = "MEMBER")]
    pub members: Vec<PathBuf>,
}

/// How the stripes of a new array start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitChoice {
    /// `zero` if every member zeroes fast, else `lazy`
    Auto,
    /// Zero every member now; the parity matches from the start
    Zero,
    /// Write nothing now; zero each stripe before its first write
    Lazy,
    /// Keep what the members hold; the first server computes the parity
    Sync,
    /// Keep what the members hold; you guarantee that the parity matches
    AssumeClean,
}

impl From<InitChoice> for Init {
    fn from(choice: InitChoice) -> Self {
        match choice {
            InitChoice::Auto => Self::Auto,
            InitChoice::Zero => Self::Zero,
            InitChoice::Lazy => Self::Lazy,
            InitChoice::Sync => Self::Sync,
            InitChoice::AssumeClean => Self::AssumeClean,
        }
    }
}

/// Features of the ublk driver that can be switched off; see [`UblkFeature`]. The variants have no
/// documentation of their own, because clap would then take two lines for every option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UblkFeatureChoice {
    BatchIo,
    ZeroCopy,
    UserCopy,
    IoctlEncode,
}

impl From<UblkFeatureChoice> for UblkFeature {
    fn from(choice: UblkFeatureChoice) -> Self {
        match choice {
            UblkFeatureChoice::BatchIo => Self::BatchIo,
            UblkFeatureChoice::ZeroCopy => Self::ZeroCopy,
            UblkFeatureChoice::UserCopy => Self::UserCopy,
            UblkFeatureChoice::IoctlEncode => Self::IoctlEncode,
        }
    }
}

/// Assemble an array from its members and serve it, in the foreground
#[derive(Debug, Args)]
pub struct Serve {
    /// Name of the array (all block devices are searched), or every member that is present
    #[arg(required = true, value_name = "NAME|MEMBER")]
    pub members: Vec<PathBuf>,
    #[command(flatten)]
    pub array: ByName,
    /// How long to wait for missing members; then start without them, if enough are present
    #[arg(long, default_value_t = 30, value_name = "SECS", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub wait: u32,
    /// Number of polled threads, each on a CPU near the members. 0 means half of the CPUs, at most 4
    #[arg(long, default_value = "0", value_name = "N", value_parser = up_to::<0, REACTORS_MAX>)]
    pub reactors: usize,
    /// CPUs to run reactors on, one each, such as `2,4-6`
    #[arg(long, value_parser = parse_cpus, conflicts_with = "reactors", value_name = "LIST")]
    pub cpus: Option<CpuList>,
    /// Serve a block device, /dev/ublkbN [default if the kernel has ublk and this is root]
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, conflicts_with = "nbd")]
    #[expect(clippy::option_option, reason = "not given, given without a number, given with one")]
    pub ublk: Option<Option<u32>>,
    /// Do not use these features of the kernel's ublk driver, if one of them is at fault
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FEATURE", conflicts_with = "nbd")]
    pub ublk_without: Vec<UblkFeatureChoice>,
    /// Listen for NBD clients; may be repeated [default without ublk: unix:RUN_DIR/NAME.nbd]
    #[arg(long, value_name = "unix:PATH|HOST:PORT", value_parser = parse_address)]
    pub nbd: Vec<String>,
    /// Refuse writes, and write nothing to the members
    #[arg(long)]
    pub read_only: bool,
    /// Start without a majority of the members; you guarantee that the others do not run elsewhere
    #[arg(long)]
    pub run_degraded: bool,
    /// Accept an array that another host created or served last
    #[arg(long)]
    pub foreign_host: bool,
    /// Require TLS for NBD over TCP, with server-cert.pem and server-key.pem from this directory, or with its
    /// keys.psk. With a ca-cert.pem only clients with a certificate signed by that one may connect, with
    /// keys.psk only clients with a key from it
    #[arg(long, value_name = "DIR")]
    pub nbd_tls: Option<PathBuf>,
    /// Accept NBD clients of other machines without knowing who they are; for a trusted network only
    #[arg(long)]
    pub allow_remote: bool,
    /// Accept NBD clients of every user of this machine over TCP on loopback, not only yours and root's
    #[arg(long)]
    pub allow_local_users: bool,
    /// Group whose users may connect to the unix sockets of NBD, beside you and root
    #[arg(long, value_name = "GROUP", value_parser = parse_group)]
    pub nbd_group: Option<u32>,
    /// Serve NBD even if a block device of the array waits for its server; a file system on it loses its data
    #[arg(long)]
    pub despite_block_device: bool,
    /// Accept members that another program has written to, for example a partition table
    #[arg(long)]
    pub take_overwritten: bool,
    /// Reconstruct lost strips from parity that may not match; what is read may be wrong, without an error
    #[arg(long)]
    pub trust_parity: bool,
    /// Fail a member that has I/O to do and completes none for this long, if the array can spare it
    #[arg(long, default_value_t = 30, value_name = "SECS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub member_timeout: u32,
    /// Memory for data per reactor, 32M to 1G
    #[arg(long, value_parser = parse_memory, default_value = "64M", value_name = "SIZE")]
    pub memory: u64,
    /// Allow `replace` to take new members from below this directory; may be repeated [always allowed: /dev
    /// and the directories of members]
    #[arg(long, value_name = "DIR")]
    pub allow_path: Vec<PathBuf>,
    /// Run without the sandbox, to find out whether it is at fault. The server may then open every file and
    /// make every system call that its user may, so a bug in it can cost the whole machine, not only the
    /// array
    #[arg(long, conflicts_with = "allow_path")]
    pub no_sandbox: bool,
    /// Print `ready`, or why the array is not served, as JSON
    #[arg(long)]
    pub json: bool,
    /// Level of the log on standard error [default: $STRIATE_LOG, or info]
    #[arg(long, value_enum)]
    pub log: Option<LogLevel>,
}

/// The option that says which array a name means.
#[derive(Debug, Args)]
pub struct ByName {
    /// The array's UUID, if several arrays have the name
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    pub uuid: Option<String>,
}

impl ByName {
    /// A search for this UUID.
    pub fn search(&self) -> Search<'_> {
        Search { uuid: self.uuid.as_deref(), ..Search::default() }
    }
}

/// How much `serve` logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Show running arrays
#[derive(Debug, Args)]
pub struct Status {
    /// Only this array
    pub name: Option<ArrayName>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// For monitoring: print one line; exit code 0 (well), 1 (warning), 2 (critical) or 3 (unknown)
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    pub check: bool,
    /// Repeat every SECS seconds (1 if no number is given) until interrupted
    #[arg(long, value_name = "SECS", num_args = 0..=1, default_missing_value = "1", conflicts_with = "json")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub watch: Option<u32>,
}

/// Show everything about a running array, or what the superblocks of stopped members say
#[derive(Debug, Args)]
pub struct Detail {
    /// The name of a running array, or paths of members
    #[arg(required = true, value_name = "NAME|MEMBER")]
    pub subjects: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Print KEY=value lines about one member for udev; nothing, and exit code 1, if it is not a member
    #[arg(long, conflicts_with = "json")]
    pub export: bool,
}

/// List the lost data of a running array: reading it is an error until it is written or discarded
#[derive(Debug, Args)]
pub struct Lost {
    /// The running array
    pub name: ArrayName,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Take a member out of service
#[derive(Debug, Args)]
pub struct Fail {
    /// The running array
    pub name: ArrayName,
    /// The member, by slot number or path (`./2` is a file)
    #[arg(value_parser = MemberId::parse, value_name = "SLOT|PATH")]
    pub member: MemberId,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Put a new device in the slot of a lost member and rebuild
#[derive(Debug, Args)]
pub struct Replace {
    /// The running array
    pub name: ArrayName,
    /// The slot to fill, by number or by the path of its old member (`./2` is a file)
    #[arg(value_parser = MemberId::parse, value_name = "SLOT|OLD-PATH")]
    pub slot: MemberId,
    /// The new device
    pub path: PathBuf,
    /// Overwrite a device that holds another array or a file system
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Stop a running array cleanly
#[derive(Debug, Args)]
pub struct Stop {
    /// The running array
    pub name: ArrayName,
    /// Stop even if the block device is in use or clients are connected; they get errors. If the server has
    /// died, remove its sockets and its block device; I/O that waits for the device fails
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Wait until no resync or rebuild is running
#[derive(Debug, Args)]
pub struct Wait {
    /// The running array
    pub name: ArrayName,
    /// Give up after this time, with exit code 1
    #[arg(long, value_name = "SECS")]
    pub timeout: Option<u64>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Grow a stopped array into new space on its members; existing data stays in place
#[derive(Debug, Args)]
pub struct Grow {
    /// Name of the array (all block devices are searched), or every member of it
    #[arg(required = true, value_name = "NAME|MEMBER")]
    pub members: Vec<PathBuf>,
    #[command(flatten)]
    pub array: ByName,
    /// Accept an array that another host created or served last
    #[arg(long)]
    pub foreign_host: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Read every stripe of a stopped array and compare its parity; changes nothing
#[derive(Debug, Args)]
pub struct Scrub {
    /// Name of the array (all block devices are searched), or every member of it
    #[arg(required = true, value_name = "NAME|MEMBER")]
    pub members: Vec<PathBuf>,
    #[command(flatten)]
    pub array: ByName,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Measure the engine without a front end; members that are drives or files are overwritten
#[derive(Debug, Args)]
pub struct Bench {
    /// RAID level
    #[arg(long, short, value_parser = parse_level, default_value = "5", value_name = "5|6")]
    pub level: Level,
    /// Members, separated by commas: null:SIZE or mem:SIZE, with *COUNT for several, or a path
    #[arg(long, default_value = "null:1T*5", value_name = "SPEC,...")]
    pub members: MemberList,
    /// Chunk size: bytes placed on one member before the next one
    #[arg(long, short, value_parser = parse_size_u32, default_value = "64K")]
    pub chunk: u32,
    /// Kind of requests
    #[arg(long, value_enum, default_value_t = Pattern::Randread)]
    pub rw: Pattern,
    /// Percentage of reads among the requests of randrw
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100), default_value_t = 50, value_name = "PERCENT")]
    pub rwmixread: u8,
    /// Size of a request
    #[arg(long, value_parser = parse_size_u32, default_value = "4K", value_name = "SIZE")]
    pub bs: u32,
    /// Requests in flight per core
    #[arg(long, value_parser = up_to::<1, REQUESTS_MAX>, default_value = "128", value_name = "N")]
    pub qd: usize,
    /// Number of reactors, one per core
    #[arg(long, value_parser = up_to::<1, REACTORS_MAX>, default_value = "1", value_name = "N")]
    pub cores: usize,
    /// Duration of the measurement, in seconds
    #[arg(long, value_parser = seconds, default_value = "3")]
    pub secs: f64,
    /// Run without the member in this slot
    #[arg(long, value_name = "SLOT")]
    pub degraded: Option<usize>,
    /// Read back and compare what was written
    #[arg(long)]
    pub verify: bool,
    /// Measure the kernel's limit: serve a ublk device of this size that stores nothing, with one queue per
    /// --cores, until a signal arrives. Needs root
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub ublk_null: Option<u64>,
    /// Do not use these features of the kernel's ublk driver for that device
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FEATURE", requires = "ublk_null")]
    pub ublk_without: Vec<UblkFeatureChoice>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Kinds of requests, by the names that fio uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    Read,
    Write,
    Randread,
    Randwrite,
    Randrw,
}

impl From<Pattern> for BenchPattern {
    fn from(pattern: Pattern) -> Self {
        match pattern {
            Pattern::Read => Self::Read,
            Pattern::Write => Self::Write,
            Pattern::Randread => Self::RandRead,
            Pattern::Randwrite => Self::RandWrite,
            Pattern::Randrw => Self::RandRw,
        }
    }
}

/// Show what Striate does, on sparse files, in a minute; needs no root and no drives
#[derive(Debug, Args)]
pub struct Demo {
    /// Directory to make the files in [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Directory tree to store, at most 48 MiB of it [default: /usr/share/doc, or what exists instead]
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// Seed of the random choices; the same seed makes the same writes
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
    /// Keep the files at the end
    #[arg(long)]
    pub keep: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

fn parse_level(text: &str) -> Result<Level, String> {
    match text {
        "5" | "raid5" => Ok(Level::Raid5),
        "6" | "raid6" => Ok(Level::Raid6),
        _ => Err("the level is 5 or 6".into()),
    }
}

/// Checks an address of NBD, and returns it as it was typed.
fn parse_address(text: &str) -> Result<String, String> {
    let address = text.parse::<Address>().map_err(|error| error.to_string())?;
    drop(address);
    Ok(text.into())
}

/// Parses a group: its number, or its name in /etc/group.
fn parse_group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group").map_err(|error| format!("/etc/group: {error}"))?;
    let mut groups = groups.lines().map(|line| line.split(':'));
    let number =
        groups.find_map(|mut fields| (fields.next()? == text).then(|| fields.nth(1)?.parse().ok()).flatten());
    number.ok_or_else(|| "no such group in /etc/group: give its number".into())
}

fn parse_uuid(text: &str) -> Result<String, String> {
    let is_uuid = text.len() == 36
        && text.char_indices().all(|(at, letter)| match at {
            8 | 13 | 18 | 23 => letter == '-',
            _ => letter.is_ascii_hexdigit(),
        });
    if is_uuid {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("`striate detail NAME` shows it: 36 hexadecimal digits and dashes".into())
    }
}

/// CPU numbers, in the order given.
pub type CpuList = std::sync::Arc<[usize]>;

/// The kernel's notation: numbers and ranges, separated by commas.
fn parse_cpus(text: &str) -> Result<CpuList, String> {
    const CPUS_MAX: usize = 1 << 16;
    let number = |text: &str| match text.parse::<usize>() {
        Ok(cpu) if cpu < CPUS_MAX => Ok(cpu),
        _ => Err(format!("{text:?} is not the number of a CPU")),
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if last < first {
            return Err(format!("{part:?} runs backwards"));
        }
        cpus.extend(first..=last);
    }
    Ok(cpus.into())
}

fn parse_size_u32(text: &str) -> Result<u32, String> {
    parse_size(text)?.try_into().map_err(|_| "4G or more is too large here".into())
}

/// A size that a reactor can work with. Accepts 16M too, half of the documented minimum: earlier versions
/// did.
fn parse_memory(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes @ 0x100_0000..=0x4000_0000 => Ok(bytes),
        _ => Err("from 32M to 1G is possible".into()),
    }
}

fn up_to<const MIN: usize, const MAX: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (MIN..=MAX).contains(&number) => Ok(number),
        _ => Err(format!("a number from {MIN} to {MAX}")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(seconds),
        _ => Err("seconds, more than 0 and at most 3600".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn cpus_are_listed_as_the_kernel_does() {
        assert_eq!(*parse_cpus("2").unwrap(), [2]);
        assert_eq!(*parse_cpus("8,2-4").unwrap(), [8, 2, 3, 4]);
        for wrong in ["", "a", "1,", "-1", "3-1", "1-2-3", "0-99999999999"] {
            assert!(parse_cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}

#[cfg(test)]
mod typed;
