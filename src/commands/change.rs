//! `fail`, `replace`, `stop`: commands to a running array.

use crate::cli::{Fail, Replace, Stop};
use crate::control::client::Client;
use crate::control::message::{MemberId, Request};
use crate::failure::{Context, Outcome, Result};
use crate::output::print;
use crate::rundir::RunDir;

/// Takes a member out of service.
pub fn fail(options: &Fail, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let mut client = Client::connect(run_dir, &options.name)?;
    client.command(&Request::Fail { member: options.member.clone() })?;
    let member = match &options.member {
        MemberId::Slot(slot) => format!("slot {slot}"),
        MemberId::Path(path) => path.display().to_string(),
    };
    print(&format!("failed: {}: {member}\n", options.name))?;
    Ok(Outcome::Fine)
}

/// Puts a device in a slot.
pub fn replace(options: &Replace, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let what = || format!("cannot use {}", options.path.display());
    let path = std::path::absolute(&options.path).context(what)?;
    // The server looks closely; a slip of the pen need not get that far.
    path.metadata().context(what)?;
    let mut client = Client::connect(run_dir, &options.name)?;
    client.command(&Request::Replace { slot: options.slot, path, force: options.force })?;
    print(&format!(
        "rebuilding: {}: slot {} on {}: `striate wait {}` shows progress\n",
        options.name,
        options.slot,
        options.path.display(),
        options.name,
    ))?;
    Ok(Outcome::Fine)
}

/// Stops an array; returns once it is marked clean.
pub fn stop(options: &Stop, run_dir: Option<&RunDir>) -> Result<Outcome> {
    Client::connect(run_dir, &options.name)?.command(&Request::Stop {})?;
    print(&format!("stopped: {}\n", options.name))?;
    Ok(Outcome::Fine)
}
