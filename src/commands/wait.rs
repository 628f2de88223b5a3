//! `wait`: returns when no resync or rebuild is going on.
//!
//! The exit code is 1 in these cases: the time is up; the array has failed; a slot that was being rebuilt is
//! not in sync afterwards; or rows are lost. `replace && wait && unplug the old one` must stop at the `wait`,
//! however quick the rebuild was. A rebuild or resync for which the list of lost rows has no more room does
//! not end by itself, so it ends the waiting too.

use std::time::{Duration, Instant};

use engine::status::{ArrayStatus, Background, BackgroundKind, Health, MemberState};

use crate::cli::Wait;
use crate::control::client::Client;
use crate::documents::Waited;
use crate::failure::{Failure, Outcome, Result};
use crate::meter::Meter;
use crate::output::{print, print_json};
use crate::rundir::RunDir;

use super::status::{LIST_IS_FULL, health_text, picture};

/// The pause between two requests to the server.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a rebuild must stand still, with a full list of lost rows, before it counts as waiting for room
/// in the list. (A rebuild that is only slow passes thousands of stripes in this time.)
const STUCK_TIME: Duration = Duration::from_secs(5);

/// Waits, and shows progress.
pub fn wait(options: &Wait, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let mut client = Client::connect(run_dir, &options.name)?;
    let started = Instant::now();
    let mut rebuilt = Vec::new();
    let mut shown = None;
    let mut moved = (started, 0);
    let status = loop {
        let status = client.status()?;
        rebuilt.extend(status.background.iter().filter_map(|job| job.slot));
        let Some(job) = status.background.first() else { break status };
        show(&mut shown, job, &status);
        if job.done_stripes != moved.1 {
            moved = (Instant::now(), job.done_stripes);
        }
        if status.lost_rows.is_full && moved.0.elapsed() >= STUCK_TIME {
            return Err(stuck(&status, job));
        }
        if options.timeout.is_some_and(|limit| started.elapsed() >= Duration::from_secs(limit)) {
            let (name, seconds) = (&options.name, started.elapsed().as_secs());
            let job = job_name(job);
            return Err(Failure::new(format!(
                "not finished: {name}: {job} is still going on after {seconds} s"
            )));
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    drop(shown);
    if options.json {
        let outcome = outcome(&status, &rebuilt);
        print_json(&Waited { ended_well: outcome == Outcome::Fine, array: &status })?;
        return Ok(outcome);
    }
    print(&format!("{}: {} {}\n", status.name, health_text(&status), picture(&status.members)))?;
    if status.lost_rows.bytes > 0 {
        let bytes = status.lost_rows.bytes;
        print(&format!(
            "{0}: {bytes} bytes could not be computed: `striate lost {0}` lists them\n",
            status.name
        ))?;
    }
    if needs_room(&status) {
        let left = status.cells.need_sync.saturating_sub(status.cells.lost);
        print(&format!("{}: {left} stripes still need a resync, and {LIST_IS_FULL}\n", status.name))?;
    }
    Ok(outcome(&status, &rebuilt))
}

/// Whether a resync has left stripes because the list of lost rows is full. Between two attempts, which are
/// minutes apart, no resync shows as a job.
fn needs_room(status: &ArrayStatus) -> bool {
    status.lost_rows.is_full && status.cells.need_sync > status.cells.lost
}

fn stuck(status: &ArrayStatus, job: &Background) -> Failure {
    Failure::new(format!(
        "cannot finish: {0}: {1} meets more that is lost than can be listed: overwrite or discard what `striate lost {0}` lists, and it goes on",
        status.name,
        job_name(job)
    ))
}

/// Updates the meter; a different job than before gets a meter of its own.
fn show(shown: &mut Option<(String, Meter)>, job: &Background, status: &ArrayStatus) {
    let label = format!("{}: {}", status.name, job_name(job));
    if shown.as_ref().is_some_and(|(known, _)| *known != label) {
        *shown = None;
    }
    let (_, meter) = shown.get_or_insert_with(|| (label.clone(), Meter::new(label)));
    let chunk = u64::from(status.chunk_bytes);
    meter.update(job.done_stripes * chunk, job.total_stripes * chunk);
}

fn outcome(status: &ArrayStatus, rebuilt: &[usize]) -> Outcome {
    let in_sync = |slot: &usize| {
        status.members.iter().any(|member| member.slot == *slot && member.state == MemberState::InSync)
    };
    match status.health {
        Health::Failed => Outcome::Problem,
        _ if needs_room(status) => Outcome::Problem,
        _ if status.lost_rows.bytes > 0 => Outcome::Problem,
        _ if rebuilt.iter().all(in_sync) => Outcome::Fine,
        _ => Outcome::Problem,
    }
}

/// The name of a job: `resync`, or `rebuild of slot 2`.
pub fn job_name(job: &Background) -> String {
    match (job.kind, job.slot) {
        (BackgroundKind::Resync, _) => "resync".into(),
        (BackgroundKind::Rebuild, Some(slot)) => format!("rebuild of slot {slot}"),
        (BackgroundKind::Rebuild, None) => "rebuild".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::example_status;

    #[test]
    fn a_rebuild_that_did_not_end_well_is_a_problem() {
        let mut status = example_status("a");
        assert_eq!(outcome(&status, &[1]), Outcome::Fine);
        status.health = Health::Degraded;
        status.members[1].state = MemberState::Failed;
        // Waiting for a resync while another member is missing ends well: that member was known to be
        // missing.
        assert_eq!(outcome(&status, &[]), Outcome::Fine);
        assert_eq!(outcome(&status, &[1]), Outcome::Problem);
        status.members[1].state = MemberState::InSync;
        assert_eq!(outcome(&status, &[1]), Outcome::Fine);
        status.lost_rows.bytes = 4096;
        assert_eq!(outcome(&status, &[1]), Outcome::Problem, "it has ended, and something is lost");
        assert_eq!(outcome(&status, &[]), Outcome::Problem, "it had ended before anyone looked");
        status.lost_rows.bytes = 0;
        status.lost_rows.is_full = true;
        (status.cells.need_sync, status.cells.lost) = (7, 7);
        assert_eq!(outcome(&status, &[]), Outcome::Fine, "what is on a missing member is not waited for");
        status.cells.lost = 6;
        assert_eq!(outcome(&status, &[]), Outcome::Problem, "a stripe cannot be resynced");
        status.health = Health::Failed;
        assert_eq!(outcome(&status, &[]), Outcome::Problem);
    }
}
