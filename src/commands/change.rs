//! `fail`, `replace`, `stop`: commands to a running array.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;

use engine::server::{Leftover, leftovers, remove_leftover};

use crate::cli::{Fail, Replace, Stop};
use crate::control::LINE_TIME_MAX;
use crate::control::client::{Client, Unreachable, connect_within, not_served};
use crate::control::message::Request;
use crate::control::server::Claim;
use crate::documents::{Failed, Replaced, StopOutcome, Stopped};
use crate::failure::{Context, Failure, Outcome, Result};
use crate::log;
use crate::names::ArrayName;
use crate::output::{print, print_json};
use crate::rundir::RunDir;

/// Takes a member out of service.
pub fn fail(options: &Fail, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let mut client = Client::connect(run_dir, &options.name)?;
    client.command(&Request::Fail { member: options.member.clone() })?;
    if options.json {
        print_json(&Failed { name: options.name.as_str(), member: &options.member })?;
    } else {
        print(&format!("failed: {}: {}\n", options.name, options.member))?;
    }
    Ok(Outcome::Fine)
}

/// Puts a device in a slot.
pub fn replace(options: &Replace, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let what = || format!("cannot use {}", options.path.display());
    let path = std::path::absolute(&options.path).context(what)?;
    // The server checks the device closely; this finds a mistyped path before the server is asked.
    path.metadata().context(what)?;
    let mut client = Client::connect(run_dir, &options.name)?;
    client.command(&Request::Replace {
        slot: options.slot.clone(),
        path: path.clone(),
        force: options.force,
    })?;
    if options.json {
        print_json(&Replaced { name: options.name.as_str(), member: &options.slot, path: &path })?;
        return Ok(Outcome::Fine);
    }
    print(&format!(
        "rebuilding: {}: {} on {}: `striate wait {}` shows progress\n",
        options.name,
        options.slot,
        options.path.display(),
        options.name,
    ))?;
    Ok(Outcome::Fine)
}

/// Stops an array; returns once it is marked clean.
pub fn stop(options: &Stop, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let name = &options.name;
    let connected = run_dir.map_or(Err(Unreachable::NotServed), |run_dir| Client::try_connect(run_dir, name));
    let is_dead = match connected {
        Ok(mut client) => {
            let warnings = client.command(&Request::Stop { force: options.force })?;
            warnings.iter().for_each(|warning| log::say(warning));
            if options.json {
                print_json(&Stopped { name: name.as_str(), outcome: StopOutcome::Stopped, warnings })?;
            } else {
                print(&format!("stopped: {name}\n"))?;
            }
            return Ok(Outcome::Fine);
        }
        Err(Unreachable::Failed(failure)) => return Err(failure),
        Err(Unreachable::Dead) => true,
        Err(Unreachable::NotServed) => false,
    };
    // A user who may not list the devices gets an empty list.
    let devices = leftovers(name.as_str()).unwrap_or_default();
    match (devices.first().map(|one| one.device), options.force) {
        (None, _) if !is_dead => return Err(not_served(name, run_dir)),
        (None, false) => {
            return Err(Failure::new(format!(
                "server gone: {name}: it ended without a stop: serve the members again, resync follows; or clear away its sockets with `striate stop --force {name}`"
            )));
        }
        (Some(first), false) => {
            return Err(Failure::new(format!(
                "server gone: {name}: /dev/ublkb{first} waits for it: serve the members again, or give it up with `striate stop --force {name}`, which fails its I/O"
            )));
        }
        (_, true) => {}
    }
    // While the claim lives, no server of this name can start and take over the things that are being
    // removed.
    let claim = run_dir.map(|run_dir| Claim::take(run_dir, name)).transpose()?;
    for Leftover { device, .. } in devices {
        remove_leftover(device, run_dir.map(RunDir::path))?;
    }
    if let (Some(claim), Some(run_dir), true) = (&claim, run_dir, is_dead) {
        clear_sockets(claim, name, run_dir)?;
    }
    if options.json {
        let outcome = StopOutcome::Cleared;
        print_json(&Stopped { name: name.as_str(), outcome, warnings: Vec::new() })?;
    } else {
        print(&format!("cleared: {name}: what its server left is gone; the members can be served again\n"))?;
    }
    Ok(Outcome::Fine)
}

/// Removes the sockets that a dead server left in the run directory.
fn clear_sockets(claim: &Claim, name: &ArrayName, run_dir: &RunDir) -> Result<()> {
    claim.remove_dead_socket()?;
    let export = run_dir.nbd_socket(name)?;
    let is_socket = export.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket());
    // The server of another array may be listening on this path; then it stays.
    let is_dead = connect_within(&export, LINE_TIME_MAX)
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    if is_socket && is_dead {
        std::fs::remove_file(&export).context(|| format!("cannot remove {}", export.display()))?;
    }
    Ok(())
}
