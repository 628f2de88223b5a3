//! `status`: the running arrays, a line each.

use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use engine::status::{ArrayStatus, Background, Health, MemberState, MemberStatus};

use crate::cli::Status;
use crate::control::client::{Client, Unreachable};
use crate::failure::{Failure, Outcome, Result};
use crate::log;
use crate::meter::time_left;
use crate::names::ArrayName;
use crate::output::{print_json, print_to_reader};
use crate::rundir::RunDir;
use crate::units::{about_rate, about_size, about_time, percent};

use super::wait::job_name;

/// Shows one array or all, once or again and again.
pub fn status(options: &Status, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let (statuses, complaints) = collect(options.name.as_ref(), run_dir)?;
        if options.json {
            print_json(&statuses)?;
        } else {
            let clear = if options.watch.is_some() && is_terminal { "\x1b[H\x1b[2J" } else { "" };
            // Who has gone is shown nothing again.
            if !print_to_reader(&format!("{clear}{}", table(&statuses)))? {
                return Ok(Outcome::Fine);
            }
        }
        complaints.iter().for_each(|complaint| log::say(&complaint.line()));
        match options.watch {
            Some(seconds) => std::thread::sleep(Duration::from_secs(seconds.into())),
            None if complaints.is_empty() => return Ok(Outcome::Fine),
            None => return Ok(Outcome::Problem),
        }
    }
}

/// Every array that answers, and a complaint for each that should and does not.
fn collect(only: Option<&ArrayName>, run_dir: Option<&RunDir>) -> Result<(Vec<ArrayStatus>, Vec<Failure>)> {
    if let Some(name) = only {
        return Ok((vec![Client::connect(run_dir, name)?.status()?], Vec::new()));
    }
    let Some(run_dir) = run_dir else { return Ok((Vec::new(), Vec::new())) };
    let (mut statuses, mut complaints) = (Vec::new(), Vec::new());
    for name in run_dir.names()? {
        match Client::try_connect(run_dir, &name) {
            Ok(mut client) => match client.status() {
                Ok(status) => statuses.push(status),
                Err(failure) => complaints.push(failure),
            },
            // It stopped between the look into the directory and now.
            Err(Unreachable::NotServed) => {}
            Err(Unreachable::Dead) => complaints.push(Failure::new(format!(
                "server gone: {name}: it ended without a stop; serve the members again, resync follows"
            ))),
            Err(Unreachable::Failed(failure)) => complaints.push(failure),
        }
    }
    Ok((statuses, complaints))
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
            health_word(status.health).to_string(),
            picture(&status.members),
            background(status),
        ]);
    }
    table.lines().map(|line| line.trim().to_string() + "\n").collect()
}

/// Why a rebuild or a resync may not go on.
pub const LIST_IS_FULL: &str = "the list of lost rows is full: overwrite or discard some, or nothing is rebuilt or resynced where more is lost";

/// `optimal`, `degraded`, `failed`.
pub fn health_word(health: Health) -> &'static str {
    match health {
        Health::Optimal => "optimal",
        Health::Degraded => "degraded",
        Health::Failed => "FAILED",
    }
}

/// mdstat's picture: `U` for each slot in sync, `_` for each that is not.
pub fn picture(members: &[MemberStatus]) -> String {
    let letters = members.iter().map(|member| if member.state == MemberState::InSync { 'U' } else { '_' });
    format!("[{}]", letters.collect::<String>())
}

fn background(status: &ArrayStatus) -> String {
    let mut parts: Vec<String> =
        status.background.iter().map(|job| describe_job(job, status.chunk_bytes)).collect();
    if status.cells.lost > 0 {
        parts.push(format!("{} stripes with lost strips", status.cells.lost));
    }
    if status.lost_rows.bytes > 0 {
        parts.push(format!("{} are lost: see detail", about_size(status.lost_rows.bytes)));
    }
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
