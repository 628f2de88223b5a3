//! `detail`: everything about a running array, or what the superblocks of stopped members say.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use engine::examine::{Examined, ExaminedSuperblock, examine};
use engine::status::{ArrayStatus, LOST_PIECES_SHOWN, MemberState};

use crate::cli::Detail;
use crate::control::client::Client;
use crate::documents::ExaminedMembers;
use crate::failure::{Failure, Outcome, Result};
use crate::log;
use crate::names::ArrayName;
use crate::output::{print, print_json, print_json_as_it_is};
use crate::rundir::RunDir;
use crate::units::{about_size, exact_size, grouped};

use super::status::{LIST_IS_FULL, describe_job, health_text, picture};
use super::{member_io, scan};

/// The subject of the request.
enum Subject<'a> {
    Running(ArrayName, RunDir),
    Members(&'a [PathBuf]),
}

/// Shows everything about the subject.
pub fn detail(options: &Detail, run_dir: Option<&Path>) -> Result<Outcome> {
    if options.export {
        return export(&options.subjects);
    }
    match subject(&options.subjects, run_dir)? {
        Subject::Running(name, run_dir) => {
            let status = Client::connect(Some(&run_dir), &name)?.status()?;
            if options.json {
                print_json_as_it_is(&status)?
            } else {
                print(&running_text(&status))?
            }
            Ok(Outcome::Fine)
        }
        Subject::Members(paths) => {
            let examined = examine(paths, 0)?;
            if options.json {
                print_json(&ExaminedMembers { members: &examined })?
            } else {
                print(&members_text(&examined))?
            }
            let mut outcome = Outcome::Fine;
            for one in examined.iter().filter(|one| one.superblock.is_none()) {
                log::say(&undecodable(one).line());
                outcome = Outcome::Problem;
            }
            Ok(outcome)
        }
    }
}

/// Prints a member's identity as blkid(8) does with `--output udev`, for systems whose libblkid does not know
/// members (packaging/util-linux has a patch). A device that is no member causes no message: udev asks about
/// every device.
fn export(paths: &[PathBuf]) -> Result<Outcome> {
    let [path] = paths else { return Err(Failure::usage("--export: give one device")) };
    let examined = examine(std::slice::from_ref(path), 0)?;
    let Some(superblock) = examined.first().and_then(|one| one.superblock.as_ref()) else {
        return Ok(Outcome::Problem);
    };
    print(&exported(superblock))?;
    Ok(Outcome::Fine)
}

fn exported(superblock: &ExaminedSuperblock) -> String {
    format!(
        "ID_FS_TYPE=striate_member\nID_FS_USAGE=raid\nID_FS_UUID={}\nID_FS_UUID_SUB={}\nID_FS_LABEL={}\nSTRIATE_SLOT={}\nSTRIATE_LEVEL=raid{}\n",
        superblock.array_uuid, superblock.member_uuid, superblock.name, superblock.slot, superblock.level
    )
}

/// Interprets the arguments: a single word with a control socket is a running array; everything else is a
/// path.
fn subject<'a>(subjects: &'a [PathBuf], run_dir: Option<&Path>) -> Result<Subject<'a>> {
    if let [one] = subjects
        && let Some(Ok(name)) = one.to_str().map(str::parse::<ArrayName>)
    {
        if let Some(run_dir) = RunDir::find(run_dir)?
            && run_dir.control_socket(&name)?.exists()
        {
            return Ok(Subject::Running(name, run_dir));
        }
        if scan::as_name(one).is_some() {
            return Err(Failure::new(format!("neither served nor a file: {name}: see `striate status`")));
        }
    }
    Ok(Subject::Members(subjects))
}

/// Lines of `key  value`, aligned.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, key: &str, value: impl std::fmt::Display) {
        writeln!(self.0, "{key:>16}  {value}").expect("a string takes all");
    }

    /// Adds a heading, with an empty line above.
    fn heading(&mut self, text: impl std::fmt::Display) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        writeln!(self.0, "{gap}{text}").expect("a string takes all");
    }
}

/// Describes the seats of reactors, as in `2 on CPU 4, 5`.
fn reactors(seats: &[Option<usize>]) -> String {
    let cpus: Vec<String> = seats.iter().flatten().map(ToString::to_string).collect();
    match (cpus.len(), seats.len() - cpus.len()) {
        (0, floating) => format!("{floating}, wherever the scheduler puts them"),
        (pinned, 0) => format!("{pinned} on CPU {}", cpus.join(", ")),
        (pinned, floating) => format!("{pinned} on CPU {}, {floating} elsewhere", cpus.join(", ")),
    }
}

fn running_text(status: &ArrayStatus) -> String {
    let mut lines = Lines::default();
    lines.heading(&status.name);
    lines.add("uuid", &status.uuid);
    lines.add("level", format!("raid{}", status.level));
    lines.add("size", format!("{} ({} bytes)", about_size(status.size_bytes), status.size_bytes));
    lines.add("chunk", exact_size(status.chunk_bytes.into()));
    lines.add("logical block", exact_size(status.logical_block_bytes.into()));
    lines.add("health", format!("{} {}", health_text(status), picture(&status.members)));
    lines.add("epoch", status.epoch);
    for export in &status.exports {
        lines.add("export", export);
    }
    lines.add("reactors", reactors(&status.reactors));
    for job in &status.background {
        lines.add("background", describe_job(job, status.chunk_bytes));
    }

    lines.heading("members");
    for member in &status.members {
        let mut text = format!("{:<10}  {}", state_word(member.state), member.path.as_deref().unwrap_or("-"));
        if member.read_errors > 0 {
            text += &format!(
                ", {} read errors, {} repairs",
                grouped(member.read_errors),
                grouped(member.repairs)
            );
        }
        if member.refusals > 0 {
            text += &format!(
                ", {} operations not carried out, and not failed for them",
                grouped(member.refusals)
            );
        }
        if let Some(failure) = &member.failure {
            text += &format!(", {failure}");
        }
        lines.add(&format!("slot {}", member.slot), text);
        if let Some(route) = &member.route {
            lines.add("", format!("by {route}"));
        }
    }

    lines.heading("stripes");
    let cells = &status.cells;
    for (key, count) in [
        ("unwritten", cells.unwritten),
        ("clean", cells.clean),
        ("dirty", cells.dirty),
        ("need sync", cells.need_sync),
        ("of them lost", cells.lost),
    ] {
        lines.add(key, grouped(count));
    }
    if cells.blocks_behind > 0 {
        lines.add("", format!("{} bitmap blocks are being written", grouped(cells.blocks_behind)));
    }
    let lost = &status.lost_rows;
    if lost.bytes > 0 {
        lines.heading("lost: reading it is an error until it is written or discarded");
        lines.add("bytes", grouped(lost.bytes));
        for (offset_bytes, len_bytes) in &lost.pieces {
            lines.add("", format!("{} bytes at {}", grouped(*len_bytes), grouped(*offset_bytes)));
        }
        if lost.pieces.len() == LOST_PIECES_SHOWN {
            lines.add("", "and more");
        }
        if lost.is_full {
            lines.add("", LIST_IS_FULL);
        }
    }
    counters_text(status, &mut lines);
    let table = member_io::table(status);
    if !table.is_empty() {
        lines.heading("members' I/O: of each device since it became a member or the array was started");
        lines.0 += &table;
    }
    lines.0
}

fn counters_text(status: &ArrayStatus, lines: &mut Lines) {
    let counters = &status.counters;
    lines.heading("since the start");
    for (key, count) in [
        ("reads", counters.reads),
        ("writes", counters.writes),
        ("flushes", counters.flushes),
        ("discards", counters.discards),
        ("member reads", counters.member_reads),
        ("member writes", counters.member_writes),
        ("intent writes", counters.intent_writes),
        ("rmw", counters.rmw),
        ("rcw", counters.rcw),
        ("full stripe", counters.full_stripe),
        ("merged", counters.merged),
        ("handed over", counters.handed_over),
        ("reconstructed", counters.reconstructed),
        ("errors", counters.errors),
    ] {
        lines.add(key, grouped(count));
    }
    lines.add("read", about_size(counters.read_bytes));
    lines.add("written", about_size(counters.write_bytes));
}

/// The failure for a path that is no member, with the reason. The engine's reason may already contain the
/// path.
pub fn undecodable(one: &Examined) -> Failure {
    let (path, reason) = (one.path.display().to_string(), one.error.as_deref().unwrap_or("no superblock"));
    Failure::new(if reason.contains(&path) { reason.into() } else { format!("{path}: {reason}") })
}

/// Describes the paths that are members; standard error reports the others.
fn members_text(examined: &[Examined]) -> String {
    let mut lines = Lines::default();
    for one in examined {
        let Some(superblock) = &one.superblock else { continue };
        lines.heading(one.path.display());
        superblock_text(superblock, &mut lines);
        if let Some(error) = &one.error {
            lines.add("error", error);
        }
    }
    lines.0
}

fn superblock_text(superblock: &ExaminedSuperblock, lines: &mut Lines) {
    lines.add("array", format!("{}, uuid {}", superblock.name, superblock.array_uuid));
    lines.add("level", format!("raid{} of {}", superblock.level, superblock.slots.len()));
    lines.add("size", format!("{} ({} bytes)", about_size(superblock.size_bytes), superblock.size_bytes));
    lines.add("chunk", exact_size(superblock.chunk_bytes.into()));
    lines.add("data at", exact_size(superblock.data_offset_bytes));
    lines.add("host", &superblock.host);
    if !superblock.host_id.is_empty() {
        lines.add("host id", &superblock.host_id);
    }
    lines.add("member", format!("slot {}, uuid {}", superblock.slot, superblock.member_uuid));
    lines.add("epoch", superblock.epoch);
    lines.add("sequence", superblock.sequence);
    lines.add("stopped", if superblock.clean { "cleanly" } else { "not, or still running" });
    for (index, slot) in superblock.slots.iter().enumerate() {
        let mut text = format!("{:<10}  epoch {}", state_word(slot.state), slot.epoch);
        if let Some(cursor) = slot.rebuild_cursor_stripes {
            text += &format!(", rebuilt up to stripe {}", grouped(cursor));
        }
        lines.add(&format!("slot {index}"), text);
    }
}

fn state_word(state: MemberState) -> &'static str {
    match state {
        MemberState::InSync => "in sync",
        MemberState::Rebuilding => "rebuilding",
        MemberState::Failed => "failed",
        MemberState::Missing => "missing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::{example_status, example_superblock};

    #[test]
    fn a_running_array() {
        let mut status = example_status("media");
        status.members[2].failure = Some("write error at 1 MiB".into());
        status.members[2].state = MemberState::Failed;
        let text = running_text(&status);
        assert!(text.starts_with("media\n            uuid  "), "{text}");
        assert!(text.contains("          slot 2  failed      /gone/m2, write error at 1 MiB\n"), "{text}");
        assert!(text.contains("  by block device, polled: a partition\n"), "{text}");
    }

    #[test]
    fn members_and_what_is_none() {
        let good = Examined {
            path: "/a".into(),
            superblock: Some(example_superblock("media", "1")),
            error: None,
            silent: false,
            unread: false,
        };
        let bad = Examined {
            path: "/b".into(),
            superblock: None,
            error: Some("bad checksum".into()),
            silent: false,
            unread: false,
        };
        assert_eq!(undecodable(&bad).line(), "/b: bad checksum");
        let text = members_text(&[good, bad]);
        assert!(text.contains("/a\n           array  media, uuid 1\n"), "{text}");
        assert!(!text.contains("/b"), "{text}");
    }

    #[test]
    fn a_member_for_udev() {
        let text = exported(&example_superblock("media", "u"));
        assert_eq!(
            text,
            "ID_FS_TYPE=striate_member\nID_FS_USAGE=raid\nID_FS_UUID=u\nID_FS_UUID_SUB=m\nID_FS_LABEL=media\nSTRIATE_SLOT=0\nSTRIATE_LEVEL=raid5\n"
        );
    }
}
