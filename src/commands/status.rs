//! `status`: the running arrays, a line each.

use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use engine::status::{ArrayStatus, Background, Health, MemberState, MemberStatus, SCHEMA_VERSION};
use serde::Serialize;

use crate::cli::Status;
use crate::control::client::{Client, Unreachable, server_gone};
use crate::failure::{Failure, Outcome, Result, Verdict};
use crate::log;
use crate::meter::time_left;
use crate::names::ArrayName;
use crate::output::{print, print_json, print_to_reader};
use crate::rundir::RunDir;
use crate::units::{about_rate, about_size, about_time, percent};

use super::wait::job_name;

/// Shows one array or all, once or again and again.
pub fn status(options: &Status, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let collected = collect(options.name.as_ref(), run_dir);
        if options.check {
            return check(collected);
        }
        let (statuses, gone, complaints) = collected?;
        if options.json {
            let gone = gone.iter().map(Entry::gone);
            print_json(&statuses.iter().map(Entry::Served).chain(gone).collect::<Vec<_>>())?;
        } else {
            let clear = if options.watch.is_some() && is_terminal { "\x1b[H\x1b[2J" } else { "" };
            // Who has gone is shown nothing again.
            if !print_to_reader(&format!("{clear}{}", table(&statuses)))? {
                return Ok(Outcome::Fine);
            }
        }
        let complaints: Vec<String> =
            gone.iter().map(server_gone).chain(complaints).map(|failure| failure.line()).collect();
        complaints.iter().for_each(|complaint| log::say(complaint));
        match options.watch {
            Some(seconds) => std::thread::sleep(Duration::from_secs(seconds.into())),
            None if complaints.is_empty() => return Ok(Outcome::Fine),
            None => return Ok(Outcome::Problem),
        }
    }
}

/// An array as JSON: one that is served, or the name of one whose server has died.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Served(&'a ArrayStatus),
    Gone { schema: u32, name: &'a str, health: &'static str },
}

impl<'a> Entry<'a> {
    fn gone(name: &'a ArrayName) -> Entry<'a> {
        Entry::Gone { schema: SCHEMA_VERSION, name: name.as_str(), health: "server_gone" }
    }
}

/// One line for a monitoring system: the worst that is true of the arrays, and of which.
fn check(collected: Result<Collected>) -> Result<Outcome> {
    let mut found: Vec<(Verdict, String)> = Vec::new();
    match collected {
        Err(failure) => found.push((Verdict::Unknown, failure.line())),
        Ok((statuses, gone, complaints)) => {
            found.extend(statuses.iter().map(|status| (verdict(status.health), describe(status))));
            found.extend(gone.iter().map(|name| (Verdict::Critical, server_gone(name).line())));
            found.extend(complaints.iter().map(|failure| (Verdict::Unknown, failure.line())));
        }
    }
    if found.is_empty() {
        found.push((Verdict::Unknown, "no array is served".into()));
    }
    // What is known to be bad comes before what is not known.
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

/// Arrays that answer, those whose server is gone, and what else is wrong.
type Collected = (Vec<ArrayStatus>, Vec<ArrayName>, Vec<Failure>);

fn collect(only: Option<&ArrayName>, run_dir: Option<&RunDir>) -> Result<Collected> {
    if let Some(name) = only {
        let is_gone = |run_dir| matches!(Client::try_connect(run_dir, name), Err(Unreachable::Dead));
        if run_dir.is_some_and(is_gone) {
            return Ok((Vec::new(), vec![name.clone()], Vec::new()));
        }
        return Ok((vec![Client::connect(run_dir, name)?.status()?], Vec::new(), Vec::new()));
    }
    let Some(run_dir) = run_dir else { return Ok((Vec::new(), Vec::new(), Vec::new())) };
    let (mut statuses, mut gone, mut complaints) = (Vec::new(), Vec::new(), Vec::new());
    for name in run_dir.names()? {
        match Client::try_connect(run_dir, &name) {
            Ok(mut client) => match client.status() {
                Ok(status) => statuses.push(status),
                Err(failure) => complaints.push(failure),
            },
            // It stopped between the look into the directory and now.
            Err(Unreachable::NotServed) => {}
            Err(Unreachable::Dead) => gone.push(name),
            Err(Unreachable::Failed(failure)) => complaints.push(failure),
        }
    }
    Ok((statuses, gone, complaints))
}

fn table(statuses: &[ArrayStatus]) -> String {
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
    table.lines().map(|line| line.trim().to_string() + "\n").collect()
}

/// Why a rebuild or a resync may not go on.
pub const LIST_IS_FULL: &str = "the list of lost rows is full: overwrite or discard some, or nothing is rebuilt or resynced where more is lost";

/// `degraded`, `DATA LOST (64 KiB), read-only`: how well it is, in the words of the manual, and what else holds.
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

/// mdstat's picture: `U` for each slot in sync, `_` for each that is not.
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

/// `rebuild of slot 2: 43.1 %, 1.20 GiB/s, 3 min left`.
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
            let statuses =
                statuses.iter().map(|(name, health)| ArrayStatus { health: *health, ..example_status(name) });
            let gone = gone.iter().map(|name| name.parse().unwrap());
            check(Ok((statuses.collect(), gone.collect(), Vec::new()))).unwrap()
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
            table(std::slice::from_ref(&status)),
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
            table(&[status])
                .ends_with("degraded  [U_U]    rebuild of slot 1: 25.0 %, 1.00 GiB/s, 3 min left\n")
        );
        assert_eq!(table(&[]), "no array is served\n");
    }
}
