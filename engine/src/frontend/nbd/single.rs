//! One client without a listener and its threads: the handshake over any stream, the commands over a socket. What it
//! says goes through the same parsers and the same front end as everybody's; for fuzzers, which need it in one thread.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::door::{Accepted, Door, Origin, Reception};
use super::frontend::NbdFrontend;
use super::handshake::{Outcome, shake};
use super::{ExportInfo, NbdError};

/// Shakes hands over `wire`, which is read no further than that, and gives a client that is welcome to a front end of
/// its own, as `socket`. Whether it was welcome.
pub fn seat_single<W: Read + Write>(
    export: ExportInfo,
    wire: &mut W,
    socket: OwnedFd,
) -> Result<(NbdFrontend, bool), NbdError> {
    let export = export.checked()?;
    let limits = export.limits();
    let failed = |error: std::io::Error| NbdError(format!("cannot start to serve NBD: {error}"));
    let door = Arc::new(Door::new(1).map_err(failed)?);
    let frontend = NbdFrontend::new(Arc::clone(&door), limits).map_err(failed)?;
    let reception = Reception::new(vec![door].into(), &[Origin::Unix]);
    let outcome = shake(wire, &export, &|| reception.seat(0));
    let welcome = match outcome {
        Ok(Outcome::Welcome(seat, style)) => {
            reception.enter(Accepted { socket, style, seat });
            true
        }
        Ok(Outcome::Goodbye) | Err(_) => false,
    };
    Ok((frontend, welcome))
}
