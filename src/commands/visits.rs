//! Clients of NBD that come and go, written to the log: ordinary connections at the level debug, and
//! connections that the server had to end at the level info.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use engine::server::{Visit, Visits};

use crate::failure::{Context, Result};
use crate::names::ArrayName;

/// How long the end waits for the last lines.
const END_TIME_MAX: Duration = Duration::from_secs(1);

/// A thread that logs which clients come and go.
pub struct Writer {
    /// A channel that closes when all visits are written.
    writing: Receiver<()>,
}

/// Writes visits until the server has stopped, on a thread that first calls `limit`.
pub fn write_down(visits: Visits, array: ArrayName, limit: impl FnOnce() + Send + 'static) -> Result<Writer> {
    let (written, writing) = channel();
    let write = move || {
        let _written = written;
        limit();
        while let Some(visit) = visits.next() {
            write_one(array.as_str(), &visit);
        }
    };
    std::thread::Builder::new()
        .name("visits".into())
        .spawn(write)
        .context(|| "cannot write visits".into())?;
    Ok(Writer { writing })
}

impl Writer {
    /// Waits for the last visits, after the server has stopped.
    pub fn end(self) {
        let _all_are_written = self.writing.recv_timeout(END_TIME_MAX);
    }
}

fn write_one(array: &str, visit: &Visit) {
    match visit {
        Visit::Came(peer) => tracing::debug!(array, "NBD client connected: {} at {}", peer.name, peer.at),
        Visit::Refused { peer, user } => {
            let user = user.map_or("of an unknown user".to_string(), |user| format!("of user {user}"));
            tracing::warn!(
                array,
                "NBD client refused: {} at {}: it is {user}; --allow-local-users lets every user of this machine in, \
                 and --nbd-group a group by a unix socket",
                peer.name,
                peer.at
            );
        }
        Visit::NotTrusted { peer, why } => tracing::warn!(
            array,
            "NBD client refused: {} at {}: no session of TLS: {why}",
            peer.name,
            peer.at
        ),
        Visit::MoreRefused(count) => tracing::warn!(array, "{count} more NBD clients were refused"),
        Visit::Left { peer, why, traffic } => {
            let (sent, received) = (traffic.sent_bytes, traffic.received_bytes);
            let text = format!(
                "NBD client disconnected: {} at {}: {why}; {sent} bytes sent to it, {received} received",
                peer.name, peer.at
            );
            if why.is_hang_up() {
                tracing::info!(array, "{text}");
            } else {
                tracing::debug!(array, "{text}");
            }
        }
    }
}
