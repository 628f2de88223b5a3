//! Serves a RAM-backed store over NBD with one reactor: the front end alone, for trying clients and for
//! measuring.
//!
//!     nbd_memory ADDRESS SIZE_MIB        serve until the process is ended
//!     nbd_memory bench SECONDS           64 commands in flight over a unix socket, each of 4 KiB

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands for the world outside of the engine: it waits, and tells the time"
)]

use std::error::Error;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use engine::frontend::Frontend;
use engine::frontend::nbd::{Access, Address, ExportInfo, NbdFrontend, NbdServer};
use engine::memory::{Memory, Pool};
use engine::request::{Reply, Request, RequestKind};
use rustix::event::{PollFd, PollFlags, poll};

/// Number of turns without work before the reactor sleeps.
const IDLE_TURNS_MAX: u32 = 1000;
/// Number of commands in flight in the benchmark.
const DEPTH: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bench", seconds] => bench(Duration::from_secs(seconds.parse()?)),
        [address, size_mib] => {
            let (server, frontend) = start(address.parse()?, size_mib.parse()?)?;
            println!("serving on {}", server.addresses()[0]);
            serve(frontend, size_mib.parse()?);
            Ok(())
        }
        _ => Err("usage: nbd_memory ADDRESS SIZE_MIB | bench SECONDS".into()),
    }
}

fn start(address: Address, size_mib: u64) -> Result<(NbdServer, NbdFrontend), Box<dyn Error>> {
    let export = ExportInfo {
        name: "memory".into(),
        description: "a store in RAM".into(),
        size_bytes: size_mib << 20,
        logical_block_bytes: 512,
        preferred_bytes: 64 << 10,
        read_only: false,
        stripe_bytes: 256 << 10,
    };
    let (server, frontends) = NbdServer::start(&[address], Access::default(), export, 1)?;
    Ok((server, frontends.into_iter().next().expect("one reactor")))
}

/// A reactor's loop: gather, execute at once, reply, settle; after some turns without work, sleep.
fn serve(mut frontend: NbdFrontend, size_mib: usize) {
    let memory = Memory::new(&[64 << 20]).expect("64 MiB of memory");
    let mut pool = Pool::new(&memory, 0);
    let mut store = vec![0u8; size_mib << 20];
    let mut requests = Vec::with_capacity(256);
    let mut idle_turns = 0;
    loop {
        frontend.gather(&memory, &mut pool, 256, &mut requests);
        idle_turns = if requests.is_empty() { idle_turns + 1 } else { 0 };
        for request in requests.drain(..) {
            execute(&mut store, &memory, &request);
            frontend.reply(
                &memory,
                &mut pool,
                Reply { tag: request.tag, result: Ok(()), span: request.span },
            );
        }
        frontend.settle(&memory, &mut pool);
        if idle_turns > IDLE_TURNS_MAX {
            let raw = frontend.wait_fd().expect("NBD has one");
            // SAFETY: the front end, which owns the descriptor, lives in this scope.
            #[expect(unsafe_code, reason = "the trait gives a raw descriptor")]
            let fd = unsafe { BorrowedFd::borrow_raw(raw) };
            let _interrupted_or_not = poll(&mut [PollFd::new(&fd, PollFlags::IN)], None);
            idle_turns = 0;
        }
    }
}

fn execute(store: &mut [u8], memory: &Memory, request: &Request) {
    let start = request.offset_bytes as usize;
    let bytes = &mut store[start..start + request.len_bytes as usize];
    match request.kind {
        RequestKind::Read => memory.write_to(request.span, bytes),
        RequestKind::Write { .. } => memory.read_from(request.span, bytes),
        RequestKind::Flush => {}
        RequestKind::Discard | RequestKind::WriteZeroes { .. } => bytes.fill(0),
    }
}

/// Measures reads, then writes, of 4 KiB each.
fn bench(duration: Duration) -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("nbd-memory-{}.sock", std::process::id()));
    let (server, frontend) = start(Address::Unix(path.clone()), 64)?;
    std::thread::spawn(move || serve(frontend, 64));
    for (name, kind, payload_bytes, answer_bytes) in [("read", 0u16, 0, 16 + 4096), ("write", 1, 4096, 16)] {
        let mut socket = UnixStream::connect(&path)?;
        shake(&mut socket)?;
        let mut command = [&0x2560_9513u32.to_be_bytes()[..], &[0, 0], &kind.to_be_bytes()].concat();
        command.extend([0; 16]);
        command.extend(4096u32.to_be_bytes());
        command.resize(command.len() + payload_bytes, 7);
        let mut answers = vec![0; DEPTH * answer_bytes];
        let (mut answered, mut received, since) = (0usize, 0, Instant::now());
        socket.write_all(&command.repeat(DEPTH))?;
        while since.elapsed() < duration {
            let got = socket.read(&mut answers)?;
            let complete = (received + got) / answer_bytes;
            received = (received + got) % answer_bytes;
            answered += complete;
            socket.write_all(&command.repeat(complete))?;
        }
        let rate = answered as f64 / since.elapsed().as_secs_f64();
        println!("{name}: {rate:.0} requests/s of 4 KiB, {DEPTH} in flight");
    }
    server.stop();
    Ok(())
}

fn shake(socket: &mut UnixStream) -> std::io::Result<()> {
    socket.read_exact(&mut [0; 18])?;
    let export_name = [&[0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 1], &[0; 4]].concat();
    socket.write_all(&export_name)?;
    socket.read_exact(&mut [0; 10])
}
