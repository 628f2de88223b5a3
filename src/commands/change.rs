//! `fail`, `replace`, `stop`: commands to a running array.

use engine::server::{leftovers, remove_leftover};

use crate::cli::{Fail, Replace, Stop};
use crate::control::client::Client;
use crate::control::message::{MemberId, Request};
use crate::failure::{Context, Failure, Outcome, Result};
use crate::log;
use crate::output::print;
use crate::rundir::RunDir;

/// Takes a member out of service.
pub fn fail(options: &Fail, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let mut client = Client::connect(run_dir, &options.name)?;
    client.command(&Request::Fail { member: options.member.clone() })?;
    print(&format!("failed: {}: {}\n", options.name, in_words(&options.member)))?;
    Ok(Outcome::Fine)
}

/// Puts a device in a slot.
pub fn replace(options: &Replace, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let what = || format!("cannot use {}", options.path.display());
    let path = std::path::absolute(&options.path).context(what)?;
    // The server looks closely; a slip of the pen need not get that far.
    path.metadata().context(what)?;
    let mut client = Client::connect(run_dir, &options.name)?;
    client.command(&Request::Replace { slot: options.slot.clone(), path, force: options.force })?;
    print(&format!(
        "rebuilding: {}: {} on {}: `striate wait {}` shows progress\n",
        options.name,
        in_words(&options.slot),
        options.path.display(),
        options.name,
    ))?;
    Ok(Outcome::Fine)
}

fn in_words(member: &MemberId) -> String {
    match member {
        MemberId::Slot(slot) => format!("slot {slot}"),
        MemberId::Path(path) => path.display().to_string(),
    }
}

/// Stops an array; returns once it is marked clean.
pub fn stop(options: &Stop, run_dir: Option<&RunDir>) -> Result<Outcome> {
    match Client::connect(run_dir, &options.name) {
        Ok(mut client) => {
            let warnings = client.command(&Request::Stop { force: options.force })?;
            warnings.iter().for_each(|warning| log::say(warning));
        }
        Err(failure) => give_up_device(options, run_dir, failure)?,
    }
    print(&format!("stopped: {}\n", options.name))?;
    Ok(Outcome::Fine)
}

/// Takes away the block devices of a server that is gone, or says that they are there.
fn give_up_device(options: &Stop, run_dir: Option<&RunDir>, failure: Failure) -> Result<()> {
    // Who may not look finds nothing.
    let left = leftovers(options.name.as_str()).unwrap_or_default();
    let Some(first) = left.first() else { return Err(failure) };
    if !options.force {
        return Err(Failure::new(format!(
            "server gone: {}: /dev/ublkb{first} waits for it: serve the members again, or give it up with `striate stop --force {}`, which fails its I/O",
            options.name, options.name
        )));
    }
    left.into_iter().try_for_each(|device| Ok(remove_leftover(device, run_dir.map(RunDir::path))?))
}
