//! `status`: the running arrays, one line each.

use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use engine::server::leftovers;
use engine::status::{ArrayStatus, Background, Health, MemberState, MemberStatus, SCHEMA_VERSION};

use crate::advice;
use crate::cli::Status;
use crate::control::client::{Client, Unreachable, not_served, server_gone};
use crate::documents::{Arrays, StatusEntry, Unserved, UnservedHealth};
use crate::failure::{Failure, Outcome, Result, Verdict};
use crate::log;
use crate::meter::time_left;
use crate::names::ArrayName;
use crate::output::{may_colour, print, print_json, print_to_reader, wait_with_reader};
use crate::rundir::RunDir;
use crate::units::{about_rate, about_size, about_time, percent};

use super::wait::job_name;

/// Shows one array or all, once or repeatedly.
pub fn status(options: &Status, run_dir: Result<Option<RunDir>>) -> Result<Outcome> {
    let run_dir = match run_dir {
        // With --check, an unusable run directory is reported by the exit codes of monitoring.
        Err(failure) if options.check => return check(Err(failure)),
        found => found?,
    };
    let is_terminal = std::io::stdout().is_terminal();
    // A user who may not list the devices gets an empty list.
    let leftovers = |name: &ArrayName| {
        let found = leftovers(name.as_str()).unwrap_or_default();
        found.into_iter().filter(|one| one.has_hosts).map(|one| one.device).collect()
    };
    loop {
        let collected = collect(options.name.as_ref(), run_dir.as_ref(), &leftovers);
        if options.check {
            return check(collected);
        }
        let entries = collected?;
        if options.json {
            print_json(&Arrays { arrays: entries.iter().map(Entry::as_json).collect() })?;
        } else {
            let clear = if options.watch.is_some() && is_terminal { "\x1b[H\x1b[2J" } else { "" };
            let served: Vec<&ArrayStatus> = entries.iter().filter_map(Entry::served).collect();
            // If the reader has gone, stop: there is nothing to show again.
            let is_coloured = is_terminal && may_colour();
            if !print_to_reader(&format!("{clear}{}", table(&served, is_coloured)))? {
                return Ok(Outcome::Fine);
            }
        }
        let complaints: Vec<String> = entries.iter().filter_map(Entry::complaint).collect();
        complaints.iter().for_each(|complaint| log::say(complaint));
        match options.watch {
            Some(seconds) => {
                if !wait_with_reader(Duration::from_secs(seconds.into()))? {
                    return Ok(Outcome::Fine);
                }
            }
            None if complaints.is_empty() => return Ok(Outcome::Fine),
            None => return Ok(Outcome::Problem),
        }
    }
}

/// The state of one array, as far as it is known.
enum Entry {
    /// The array is served.
    Served(Box<ArrayStatus>),
    /// The server of the array has died. Block devices may wait for the next one.
    Gone { name: ArrayName, devices: Vec<u32> },
    /// The server of the array has ended, and left block devices that wait for the next one: all I/O of their
    /// users waits.
    Waiting { name: ArrayName, devices: Vec<u32> },
    /// The server does not answer, or cannot be asked.
    Unknown { name: ArrayName, why: Failure },
}

impl Entry {
    fn as_json(&self) -> StatusEntry<'_> {
        let (name, health, devices) = match self {
            Entry::Served(status) => return StatusEntry::Served(status),
            Entry::Gone { name, devices } => (name, UnservedHealth::ServerGone, &devices[..]),
            Entry::Waiting { name, devices } => (name, UnservedHealth::Waiting, &devices[..]),
            Entry::Unknown { name, .. } => (name, UnservedHealth::Unknown, &[][..]),
        };
        StatusEntry::Unserved(Unserved {
            schema: SCHEMA_VERSION,
            name: name.as_str(),
            health,
            block_devices: devices.iter().map(|device| format!("/dev/ublkb{device}")).collect(),
            error: advice::typed(&self.complaint().unwrap_or_default()).into_owned(),
        })
    }

    fn served(&self) -> Option<&ArrayStatus> {
        match self {
            Entry::Served(status) => Some(status),
            Entry::Gone { .. } | Entry::Waiting { .. } | Entry::Unknown { .. } => None,
        }
    }

    /// The complaint about an array that is not served.
    fn complaint(&self) -> Option<String> {
        match self {
            Entry::Served(_) => None,
            Entry::Gone { name, devices } if devices.is_empty() => Some(server_gone(name).line()),
            Entry::Gone { name, devices } => Some(format!("{}; {}", server_gone(name).line(), wait(devices))),
            Entry::Waiting { name, devices } => Some(format!(
                "no server: {name}: {}: serve the members again, or give it up with `striate stop --force {name}`, which fails that I/O",
                wait(devices)
            )),
            Entry::Unknown { why, .. } => Some(why.line()),
        }
    }

    fn verdict(&self) -> Verdict {
        match self {
            Entry::Served(status) => verdict(status.health),
            Entry::Gone { .. } | Entry::Waiting { .. } => Verdict::Critical,
            Entry::Unknown { .. } => Verdict::Unknown,
        }
    }
}

/// Describes waiting devices: `I/O of /dev/ublkb0 waits for the next server`.
fn wait(devices: &[u32]) -> String {
    let paths = devices.iter().map(|device| format!("/dev/ublkb{device}")).collect::<Vec<_>>();
    format!("I/O of {} waits for the next server", paths.join(", "))
}

/// Prints one line for a monitoring system: the worst state, and the arrays.
fn check(collected: Result<Vec<Entry>>) -> Result<Outcome> {
    let describe_any = |entry: &Entry| entry.complaint().or_else(|| entry.served().map(describe));
    let mut found: Vec<(Verdict, String)> = match collected {
        Err(failure) => vec![(Verdict::Unknown, failure.line())],
        Ok(entries) => {
            entries.iter().filter_map(|entry| Some((entry.verdict(), describe_any(entry)?))).collect()
        }
    };
    if found.is_empty() {
        found.push((Verdict::Unknown, "no array is served".into()));
    }
    // Known trouble comes before the unknown.
    let order = |verdict: Verdict| match verdict {
        Verdict::Critical => 0,
        Verdict::Unknown => 1,
        Verdict::Warning => 2,
        Verdict::Ok => 3,
    };
    found.sort_by_key(|(verdict, _)| order(*verdict));
    let worst = found[0].0;
    let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    print(&format!("STRIATE {worst}: {}\n", texts.join("; ")))?;
    Ok(Outcome::Checked(worst))
}

const fn verdict(health: Health) -> Verdict {
    match health {
        Health::Optimal => Verdict::Ok,
        Health::Degraded => Verdict::Warning,
        Health::NoRedundancy | Health::DataLost | Health::Failed => Verdict::Critical,
    }
}

fn describe(status: &ArrayStatus) -> String {
    let background = background(status);
    let background = if background == "-" { String::new() } else { format!(", {background}") };
    format!("{} {} {}{background}", status.name, health_text(status), picture(&status.members))
}

/// Collects the arrays that are known in a run directory, or one of them. `leftovers` finds the block devices
/// that wait for an array.
fn collect(
    only: Option<&ArrayName>,
    run_dir: Option<&RunDir>,
    leftovers: &dyn Fn(&ArrayName) -> Vec<u32>,
) -> Result<Vec<Entry>> {
    if let Some(name) = only {
        let found = look(name, run_dir, leftovers);
        return found.map(|entry| vec![entry]).ok_or_else(|| not_served(name, run_dir));
    }
    let Some(run_dir) = run_dir else { return Ok(Vec::new()) };
    Ok(run_dir.known()?.iter().filter_map(|name| look(name, Some(run_dir), leftovers)).collect())
}

/// The state of an array; `None` if it has no server and no device waits for one.
fn look(
    name: &ArrayName,
    run_dir: Option<&RunDir>,
    leftovers: &dyn Fn(&ArrayName) -> Vec<u32>,
) -> Option<Entry> {
    let connected = run_dir.map_or(Err(Unreachable::NotServed), |run_dir| Client::try_connect(run_dir, name));
    let name = name.clone();
    match connected.map(|mut client| client.status()) {
        Ok(Ok(status)) => Some(Entry::Served(Box::new(status))),
        Ok(Err(why)) | Err(Unreachable::Failed(why)) => Some(Entry::Unknown { name, why }),
        Err(Unreachable::Dead) => Some(Entry::Gone { devices: leftovers(&name), name }),
        Err(Unreachable::NotServed) => {
            let devices = leftovers(&name);
            (!devices.is_empty()).then_some(Entry::Waiting { name, devices })
        }
    }
}

/// The table of arrays; on a terminal the health has a colour. Lines are not cut or wrapped: the terminal
/// does that.
fn table(statuses: &[&ArrayStatus], is_coloured: bool) -> String {
    if statuses.is_empty() {
        return "no array is served\n".into();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["NAME", "LEVEL", "SIZE", "HEALTH", "MEMBERS", "BACKGROUND"]);
    for status in statuses {
        table.add_row([
            status.name.clone(),
            format!("raid{}", status.level),
            about_size(status.size_bytes),
            health_text(status),
            picture(&status.members),
            background(status),
        ]);
    }
    let mut lines = table.lines().map(|line| line.trim().to_string() + "\n");
    let head = lines.next().unwrap_or_default();
    let coloured = |(line, status): (String, &&ArrayStatus)| {
        if is_coloured { in_colour(&line, status) } else { line }
    };
    lines.zip(statuses).map(coloured).fold(head, |text, line| text + &line)
}

/// Colours the health in a line of the table green, yellow or red.
fn in_colour(line: &str, status: &ArrayStatus) -> String {
    let number = match verdict(status.health) {
        Verdict::Ok => 32,
        Verdict::Warning => 33,
        Verdict::Critical | Verdict::Unknown => 31,
    };
    let health = health_text(status);
    line.replacen(&format!("  {health}  "), &format!("  \x1b[{number}m{health}\x1b[0m  "), 1)
}

/// The reason why a rebuild or a resync may not go on.
pub const LIST_IS_FULL: &str = "the list of lost rows is full: overwrite or discard some, or nothing is rebuilt or resynced where more is lost";

/// The health of an array in the words of the manual, and additional facts: `degraded`, `DATA LOST (64 KiB
/// lost), read-only`.
pub fn health_text(status: &ArrayStatus) -> String {
    let mut text = match status.health {
        Health::Optimal => "optimal".to_string(),
        Health::Degraded => "degraded".to_string(),
        Health::NoRedundancy => "NO REDUNDANCY".to_string(),
        Health::DataLost => "DATA LOST".to_string(),
        Health::Failed => "FAILED".to_string(),
    };
    if status.lost_bytes > 0 {
        text += &format!(" ({} lost)", about_size(status.lost_bytes));
    }
    if status.read_only {
        text += ", read-only";
    }
    if status.trusts_parity {
        text += ", trusts parity";
    }
    text
}

/// The slots in the notation of mdstat: `U` for each slot in sync, `_` for each that is not.
pub fn picture(members: &[MemberStatus]) -> String {
    let letters = members.iter().map(|member| if member.state == MemberState::InSync { 'U' } else { '_' });
    format!("[{}]", letters.collect::<String>())
}

fn background(status: &ArrayStatus) -> String {
    let mut parts: Vec<String> =
        status.background.iter().map(|job| describe_job(job, status.chunk_bytes)).collect();
    if status.lost_rows.is_full {
        parts.push(LIST_IS_FULL.into());
    }
    if parts.is_empty() { "-".into() } else { parts.join("; ") }
}

/// Describes a job in one line: `rebuild of slot 2: 43.1 %, 1.20 GiB/s, 3 min left`.
pub fn describe_job(job: &Background, chunk_bytes: u32) -> String {
    let mut text = format!("{}: {}", job_name(job), percent(job.done_stripes, job.total_stripes));
    if job.bytes_per_s > 0 {
        let left_bytes =
            job.total_stripes.saturating_sub(job.done_stripes).saturating_mul(chunk_bytes.into());
        text += &format!(", {}", about_rate(job.bytes_per_s));
        text += &format!(", {} left", about_time(time_left(left_bytes, job.bytes_per_s)));
    }
    text
}

#[cfg(test)]
mod tests {
    use engine::status::BackgroundKind;

    use super::*;
    use crate::control::tests::example_status;

    #[test]
    fn a_check_says_the_worst() {
        let well = example_status("a");
        let verdict = |statuses: &[(&str, Health)], gone: &[&str]| {
            let served = statuses.iter().map(|(name, health)| {
                Entry::Served(Box::new(ArrayStatus { health: *health, ..example_status(name) }))
            });
            let gone =
                gone.iter().map(|name| Entry::Gone { name: name.parse().unwrap(), devices: Vec::new() });
            check(Ok(served.chain(gone).collect())).unwrap()
        };
        assert_eq!(describe(&well), "a optimal [UUU]");
        for (statuses, gone, expected) in [
            (&[("a", Health::Optimal)][..], &[][..], Verdict::Ok),
            (&[("a", Health::Optimal), ("b", Health::Degraded)], &[], Verdict::Warning),
            (&[("a", Health::NoRedundancy), ("b", Health::Degraded)], &[], Verdict::Critical),
            (&[("a", Health::DataLost)], &[], Verdict::Critical),
            (&[("a", Health::Failed)], &[], Verdict::Critical),
            (&[("a", Health::Optimal)], &["b"], Verdict::Critical),
            (&[], &[], Verdict::Unknown),
        ] {
            assert_eq!(verdict(statuses, gone), Outcome::Checked(expected), "{statuses:?} {gone:?}");
        }
        let unreachable = check(Err(Failure::new("cannot look")));
        assert_eq!(unreachable.unwrap(), Outcome::Checked(Verdict::Unknown));
    }

    /// A server has ended for its successor, which has not come: its lock file stays, and its device waits.
    #[test]
    fn a_block_device_that_waits_is_critical() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = RunDir::create(Some(directory.path())).unwrap();
        let name: ArrayName = "media".parse().unwrap();
        std::fs::write(run_dir.lock(&name), "").unwrap();
        let (none, waits) = (|_: &ArrayName| Vec::new(), |_: &ArrayName| vec![3]);
        assert!(collect(None, Some(&run_dir), &none).unwrap().is_empty());
        assert!(collect(Some(&name), Some(&run_dir), &none).is_err());
        for only in [None, Some(&name)] {
            let found = collect(only, Some(&run_dir), &waits).unwrap();
            let json = serde_json::to_value(found[0].as_json()).unwrap();
            assert_eq!(
                (&json["health"], &json["block_devices"][0]),
                (&"waiting".into(), &"/dev/ublkb3".into())
            );
            assert_eq!(check(Ok(found)).unwrap(), Outcome::Checked(Verdict::Critical));
        }
        // A crash of the server leaves its socket too.
        drop(std::os::unix::net::UnixListener::bind(run_dir.control_socket(&name).unwrap()).unwrap());
        let found = collect(None, Some(&run_dir), &waits).unwrap();
        let complaint = found[0].complaint().unwrap();
        assert!(
            complaint.starts_with("server gone: media") && complaint.contains("/dev/ublkb3"),
            "{complaint}"
        );
        let why = Failure::new("no answer: media");
        let json = serde_json::to_value(Entry::Unknown { name, why }.as_json()).unwrap();
        assert_eq!((&json["health"], &json["error"]), (&"unknown".into(), &"no answer: media".into()));
    }

    #[test]
    fn what_is_lost_is_in_the_health() {
        let mut status = example_status("a");
        (status.health, status.lost_bytes, status.read_only) = (Health::DataLost, 64 << 10, true);
        assert_eq!(health_text(&status), "DATA LOST (64.0 KiB lost), read-only");
    }

    #[test]
    fn the_table() {
        let mut status = example_status("media");
        assert_eq!(
            table(&[&status], false),
            "NAME   LEVEL  SIZE      HEALTH   MEMBERS  BACKGROUND\n\
             media  raid5  1.00 TiB  optimal  [UUU]    -\n"
        );
        status.health = Health::Degraded;
        status.members[1].state = MemberState::Rebuilding;
        status.background.push(Background {
            kind: BackgroundKind::Rebuild,
            slot: Some(1),
            done_stripes: 1 << 20,
            total_stripes: 4 << 20,
            bytes_per_s: 1 << 30,
        });
        assert!(
            table(&[&status], false)
                .ends_with("degraded  [U_U]    rebuild of slot 1: 25.0 %, 1.00 GiB/s, 3 min left\n")
        );
        assert_eq!(table(&[], false), "no array is served\n");
        let coloured = table(&[&status], true);
        assert!(coloured.contains("1.00 TiB  \x1b[33mdegraded\x1b[0m  [U_U]"), "{coloured:?}");
        assert_eq!(coloured.replace("\x1b[33m", "").replace("\x1b[0m", ""), table(&[&status], false));
    }
}
