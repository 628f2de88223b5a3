//! Serves one client without a listener and its threads: the handshake over any stream, the commands over a
//! socket. The client's bytes go through the same parsers and the same front end as those of all clients.
//! Made for fuzzers, which need this in one thread.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::door::{Accepted, Door, Origin, Reception};
use super::encryption::Security;
use super::frontend::NbdFrontend;
use super::handshake::{Outcome, greet, negotiate};
use super::{ExportInfo, NbdError};

/// Shakes hands over `wire`, from which nothing is read after the handshake. If the client is welcome, hands
/// `socket` to a front end of its own. Returns whether the client was welcome.
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
    let outcome = greet(wire).and_then(|client| match client {
        Some(client) => negotiate(wire, client, Security::NotOffered, &export, &|| reception.seat(0)),
        None => Ok(Outcome::Goodbye),
    });
    let welcome = match outcome {
        Ok(Outcome::Welcome(seat, terms)) => {
            reception.enter(Accepted { socket, peer: Arc::default(), terms, seat });
            true
        }
        Ok(Outcome::Goodbye | Outcome::Encrypt) | Err(_) => false,
    };
    Ok((frontend, welcome))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::super::admission::Terms;
    use super::*;
    use crate::frontend::Frontend;
    use crate::memory::{Memory, Pool};

    /// The thread of a handshake keeps a duplicate of the socket for a moment, so the socket stays in the
    /// poll after the connection has closed its own. If the client leaves only then, the event must not end
    /// the connection that has the place by now.
    #[test]
    fn events_of_a_closed_connection_do_not_reach_the_next_of_its_place() {
        let export = ExportInfo {
            name: String::new(),
            description: String::new(),
            size_bytes: 1 << 20,
            logical_block_bytes: 512,
            preferred_bytes: 4096,
            read_only: false,
            stripe_bytes: 4096,
        };
        let door = Arc::new(Door::new(1).unwrap());
        let mut frontend = NbdFrontend::new(Arc::clone(&door), export.limits()).unwrap();
        let reception = Reception::new(vec![door].into(), &[Origin::Unix]);
        let memory = Memory::new(&[1 << 20]).unwrap();
        let mut pool = Pool::new(&memory, 0);
        let enter = || {
            let (client, socket) = UnixStream::pair().unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let (seat, duplicate) = (reception.seat(0).unwrap(), socket.try_clone().unwrap());
            let (socket, peer) = (socket.into(), Arc::default());
            reception.enter(Accepted { socket, peer, terms: Terms::FIRST, seat });
            (client, duplicate)
        };
        let mut turn = || {
            frontend.gather(&memory, &mut pool, 32, &mut Vec::new());
            frontend.settle(&memory, &mut pool);
        };
        let (mut first, _duplicate) = enter();
        turn();
        first.write_all(&[0x5a; 64]).unwrap(); // no magic: the server disconnects
        turn();
        assert_eq!(reception.seated(), 0);
        let (mut second, _) = enter();
        turn();
        drop(first);
        turn();
        let mut nothing = [0; 28]; // a read of no bytes
        nothing[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
        second.write_all(&nothing).unwrap();
        turn();
        second.read_exact(&mut [0; 16]).expect("the second connection is served");
    }
}
