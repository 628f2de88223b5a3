//! An NBD client, from its first byte on: the handshake, then commands, through the front end of one reactor.

use std::io::{Read, Write};
use std::sync::Arc;

use engine::frontend::Frontend;
use engine::frontend::nbd::{Content, ExportInfo, NbdFrontend, Run, StripeState, seat_single};
use engine::memory::{Memory, Pool};
use engine::request::{Reply, Request, RequestError, RequestKind};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};
use rustix::net::{recv, send, shutdown, socketpair};

use crate::Bytes;

/// Size of the array that is served.
const SIZE_BYTES: u64 = 256 << 10;
/// Turns after which a front end must have drained: the longest input has fewer commands.
const TURNS_MAX: usize = 100_000;

/// A content in which every other stripe was never written, and each third of the others is unsynced.
struct Chequered;

impl Content for Chequered {
    fn run(&self, stripe: u64, _end: u64) -> Run {
        let state =
            StripeState { unwritten: stripe.is_multiple_of(2), lost: false, unsynced: stripe % 6 == 3 };
        Run { end: stripe + 1, state }
    }
}

/// The client's side of the handshake: reads take bytes of the input.
struct Wire<'a, 'b>(&'b mut Bytes<'a>);

impl Read for Wire<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let said = self.0.take(into.len());
        into[..said.len()].copy_from_slice(said);
        Ok(said.len())
    }
}

impl Write for Wire<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

thread_local! {
    static MEMORY: Arc<Memory> = Memory::new(&[4 << 20]).expect("four MiB");
}

/// Talks to the front end. The input is a byte of settings (logical block, read-only, order of the replies),
/// then the bytes that the client sends.
pub fn nbd(data: &[u8]) {
    let mut bytes = Bytes(data);
    let manners = bytes.byte();
    let logical_block_bytes = if manners & 1 == 0 { 512 } else { 4096 };
    let export = ExportInfo {
        name: "fuzz".into(),
        description: "what a client may say".into(),
        size_bytes: SIZE_BYTES,
        logical_block_bytes,
        preferred_bytes: 64 << 10,
        read_only: manners & 2 != 0,
        stripe_bytes: 4096,
    };
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
    .expect("a pair of sockets");
    let (mut frontend, welcome) =
        seat_single(export, &mut Wire(&mut bytes), theirs).expect("the export can be told");
    frontend.knows(Arc::new(Chequered));
    let memory = MEMORY.with(Arc::clone);
    let mut pool = Pool::new(&memory, 0);
    let whole_bytes = pool.available_bytes();
    let mut array =
        RamArray { bytes: vec![0; SIZE_BYTES as usize], backwards: manners & 4 != 0, logical_block_bytes };
    let (mut unsent, mut heard) = (bytes.0, [0; 64 << 10]);
    let mut over = !welcome;
    for _ in 0..TURNS_MAX {
        if over {
            break;
        }
        if !unsent.is_empty() {
            match send(&ours, unsent, SendFlags::NOSIGNAL) {
                Ok(count) => unsent = &unsent[count..],
                Err(rustix::io::Errno::AGAIN) => {}
                Err(_) => unsent = &[],
            }
            if unsent.is_empty() {
                let _gone_or_not = shutdown(&ours, Shutdown::Write);
            }
        } else {
            let _gone_or_not = shutdown(&ours, Shutdown::Write);
        }
        array.turn(&mut frontend, &memory, &mut pool);
        loop {
            match recv(&ours, &mut heard, RecvFlags::empty()) {
                Ok((0, _)) => over = true,
                Ok(_) => continue,
                Err(rustix::io::Errno::AGAIN) => {}
                Err(_) => over = true,
            }
            break;
        }
    }
    assert!(over, "a client that has said all it had to say is hung up on");
    drop(ours);
    frontend.close();
    for _ in 0..1000 {
        if frontend.drained() {
            break;
        }
        array.turn(&mut frontend, &memory, &mut pool);
    }
    assert!(frontend.drained(), "a front end without clients drains");
    assert_eq!(pool.available_bytes(), whole_bytes, "every span is given back");
}

/// The array behind the front end.
struct RamArray {
    bytes: Vec<u8>,
    backwards: bool,
    logical_block_bytes: u32,
}

impl RamArray {
    fn turn(&mut self, frontend: &mut NbdFrontend, memory: &Memory, pool: &mut Pool) {
        let mut requests = Vec::new();
        frontend.gather(memory, pool, 16, &mut requests);
        assert!(requests.len() <= 16, "no more than there is room for");
        if self.backwards {
            requests.reverse();
        }
        for request in requests {
            let result = self.carry_out(memory, &request);
            frontend.reply(memory, pool, Reply { tag: request.tag, result, span: request.span });
        }
        frontend.settle(memory, pool);
    }

    fn carry_out(&mut self, memory: &Memory, request: &Request) -> Result<(), RequestError> {
        let Request { kind, offset_bytes, len_bytes, span, .. } = *request;
        let end = offset_bytes.checked_add(len_bytes).filter(|&end| end <= SIZE_BYTES);
        let end = end.unwrap_or_else(|| panic!("beyond the array: {request:?}"));
        assert!(
            (offset_bytes | len_bytes).is_multiple_of(self.logical_block_bytes.into()),
            "misaligned: {request:?}"
        );
        assert_eq!(len_bytes == 0, kind == RequestKind::Flush, "only a flush has no length: {request:?}");
        let range = offset_bytes as usize..end as usize;
        match kind {
            RequestKind::Read => memory.write_to(span, &self.bytes[range]),
            RequestKind::Write { .. } => memory.read_from(span, &mut self.bytes[range]),
            RequestKind::Flush => {}
            RequestKind::Discard | RequestKind::WriteZeroes { .. } => self.bytes[range].fill(0),
        }
        // These blocks cannot be read.
        if (48 << 10..52 << 10).contains(&offset_bytes) { Err(RequestError::Lost) } else { Ok(()) }
    }
}
