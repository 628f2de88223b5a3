//! What `serve` gives up before it starts a thread: everything that serving an array does not need.
//!
//! - no_new_privs: nothing it could ever execute gains anything by set-user-id bits.
//! - umask 077: sockets and files that it makes are its user's own.
//! - as root, every capability but those of [`KEPT`]. It still opens devices (a replacement comes while
//!   it runs), so it stays root; but it can no longer load a module, trace a process, change the
//!   network, make a device node or become another user.
//!
//! Privileges belong to threads and are inherited, so this comes before the first thread. Where the
//! system does not let it (a container without capabilities has little to give up), it goes on.

use rustix::fs::Mode;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities, set_no_new_privs};

/// Needed by root: any owner's device nodes, registered memory and pinned threads beyond the usual
/// limits, and device commands other than read and write.
const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::SYS_RESOURCE);

/// Gives them up. What the system does not let it give up, for the log, which is begun after this.
pub fn give_up() -> Vec<String> {
    let mut kept = Vec::new();
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    if let Err(error) = set_no_new_privs(true) {
        kept.push(format!("cannot set no_new_privs: {error}"));
    }
    let reduced = capabilities(None).and_then(|mut sets| {
        sets.effective &= KEPT;
        sets.permitted &= KEPT;
        sets.inheritable &= KEPT;
        set_capabilities(None, sets)
    });
    if let Err(error) = reduced {
        kept.push(format!("cannot reduce capabilities: {error}"));
    }
    kept
}
