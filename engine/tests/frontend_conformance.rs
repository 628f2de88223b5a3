//! What every `Frontend` has to do, whatever protocol is behind it.
//!
//! Method: a front end is turned by the reactor of `support` over an array in RAM, which answers at once
//! or late and out of order, with a pool that is ample or scarce and a room of many requests or of one;
//! several hosts use it at the same time. The oracle of the data is a copy that each host keeps of its
//! part of the array. The reactor itself checks that requests are well-formed, that tags and spans in
//! flight are distinct, that the front end wakes it when there is work, and that after `close` it drains
//! with every span given back.
//!
//! A further front end joins by implementing [`Fixture`] and adding a line to the tests at the end.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands for the world outside of the engine: it waits, and tells the time"
)]

mod support;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use engine::frontend::Frontend;
use engine::frontend::nbd::{Address, NbdFrontend, NbdServer, Remote};
use support::client::{Client, FLUSH, FUA, Setup, TRIM, WRITE, ZEROES, socket_path};
use support::{Pace, RamArray, Random, Reactor};

const MIB: usize = 1 << 20;
const SIZE_BYTES: usize = 32 * MIB;
const HOSTS: usize = 4;

/// A front end and the way to reach it.
trait Fixture {
    type Frontend: Frontend + Send + 'static;
    type Host: Host;

    /// A fixture of an array of `size_bytes`, with one front end per reactor.
    fn start(size_bytes: usize, reactors: usize) -> (Self, Vec<Self::Frontend>)
    where
        Self: Sized;

    /// Another host.
    fn connect(&self) -> Self::Host;
}

/// A host: what a user of the array can do. Every call returns when the array has answered.
trait Host: Send + 'static {
    fn read(&mut self, offset_bytes: u64, len_bytes: usize) -> Result<Vec<u8>, ()>;
    fn write(&mut self, offset_bytes: u64, data: &[u8], fua: bool) -> Result<(), ()>;
    fn discard(&mut self, offset_bytes: u64, len_bytes: usize) -> Result<(), ()>;
    fn write_zeroes(&mut self, offset_bytes: u64, len_bytes: usize) -> Result<(), ()>;
    fn flush(&mut self) -> Result<(), ()>;
}

/// How a front end is turned.
#[derive(Clone, Copy, Debug)]
struct Conditions {
    reactors: usize,
    pace: Pace,
    pool_bytes: usize,
    room: usize,
}

const CONDITIONS: [Conditions; 5] = [
    Conditions { reactors: 1, pace: Pace::Instant, pool_bytes: 32 * MIB, room: 256 },
    Conditions { reactors: 1, pace: Pace::Instant, pool_bytes: MIB, room: 1 },
    Conditions { reactors: 1, pace: Pace::Shuffled(1), pool_bytes: 32 * MIB, room: 64 },
    Conditions { reactors: 1, pace: Pace::Shuffled(2), pool_bytes: 2 * MIB, room: 3 },
    Conditions { reactors: 3, pace: Pace::Shuffled(3), pool_bytes: 4 * MIB, room: 16 },
];

/// Every host, in its part of the array, gets back what it put there; and the front end drains.
fn check<F: Fixture>(conditions: Conditions) {
    let (fixture, frontends) = F::start(SIZE_BYTES, conditions.reactors);
    let array = RamArray::new(SIZE_BYTES);
    let Conditions { pace, pool_bytes, room, .. } = conditions;
    let reactors: Vec<Reactor> = frontends
        .into_iter()
        .map(|frontend| Reactor::start(frontend, Arc::clone(&array), pace, pool_bytes, room))
        .collect();
    let part_bytes = SIZE_BYTES / HOSTS;
    let hosts: Vec<_> = (0..HOSTS)
        .map(|index| {
            let host = fixture.connect();
            thread::spawn(move || live(host, (index * part_bytes) as u64, part_bytes, index as u64 + 1))
        })
        .collect();
    let copies: Vec<Vec<u8>> =
        hosts.into_iter().map(|host| host.join().expect("a host got what it put")).collect();
    assert!(
        copies.concat() == *array.bytes.lock().unwrap(),
        "the array holds what the hosts put, {conditions:?}"
    );
    check_errors(&fixture, &array);
    assert!(array.flushes.load(Ordering::Relaxed) > 0 && array.durable.load(Ordering::Relaxed) > 0);
    reactors.into_iter().for_each(Reactor::stop);
}

/// A host's life: random operations on its part, checked against its copy, which is returned.
fn live(mut host: impl Host, start: u64, part_bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut copy = vec![0; part_bytes];
    for step in 0..150 {
        let len = match random.below(8) {
            0 => MIB + 4096 * random.below(256),
            1 | 2 => 4096 * (1 + random.below(64)),
            _ => 4096,
        };
        let at = 4096 * random.below((part_bytes - len) / 4096 + 1);
        let (offset, range) = (start + at as u64, at..at + len);
        match random.below(10) {
            0..=3 => {
                let data = random.bytes(len);
                host.write(offset, &data, random.below(4) == 0).unwrap();
                copy[range].copy_from_slice(&data);
            }
            4..=6 => assert!(host.read(offset, len).unwrap() == copy[range], "seed {seed}, step {step}"),
            7 => {
                host.discard(offset, len).unwrap();
                copy[range].fill(0);
            }
            8 => {
                host.write_zeroes(offset, len).unwrap();
                copy[range].fill(0);
            }
            _ => host.flush().unwrap(),
        }
    }
    copy
}

/// What the array cannot do is an error to the host, and nothing else suffers.
fn check_errors<F: Fixture>(fixture: &F, array: &RamArray) {
    let mut host = fixture.connect();
    *array.lost.lock().unwrap() = MIB as u64..MIB as u64 + 4096;
    assert!(host.read(MIB as u64, 4096).is_err());
    assert!(host.read(MIB as u64 / 2, MIB).is_err());
    assert!(host.write(MIB as u64, &[1; 4096], false).is_err());
    assert!(host.read(0, MIB).is_ok());
    *array.lost.lock().unwrap() = 0..0;
    host.write(MIB as u64, &[2; 4096], true).unwrap();
    assert!(host.read(MIB as u64, 4096).unwrap() == [2; 4096]);
}

/// `close` with requests in the array: they are answered, and then there is nothing left.
fn check_close_with_requests_in_flight<F: Fixture>() {
    let (fixture, mut frontends) = F::start(SIZE_BYTES, 1);
    let array = RamArray::new(SIZE_BYTES);
    array.held.store(true, Ordering::Relaxed);
    let reactor = Reactor::start(frontends.remove(0), Arc::clone(&array), Pace::Instant, 8 * MIB, 64);
    let mut host = fixture.connect();
    let write = thread::spawn(move || host.write(4096, &[7; 8192], false));
    support::eventually("the write has arrived", || array.requests.load(Ordering::Relaxed) == 1);
    reactor.close();
    thread::sleep(std::time::Duration::from_millis(50));
    assert!(!write.is_finished(), "not answered before the array did");
    array.held.store(false, Ordering::Relaxed);
    reactor.stop();
    assert_eq!(write.join().unwrap(), Ok(()), "answered before the end");
    assert!(array.bytes.lock().unwrap()[4096..4096 + 8192] == [7; 8192]);
}

/// NBD over a unix socket; `STRUCTURED` or simple replies.
struct Nbd<const STRUCTURED: bool> {
    _server: NbdServer,
    path: std::path::PathBuf,
}

struct NbdHost(Client<UnixStream>);

impl<const STRUCTURED: bool> Fixture for Nbd<STRUCTURED> {
    type Frontend = NbdFrontend;
    type Host = NbdHost;

    fn start(size_bytes: usize, reactors: usize) -> (Self, Vec<NbdFrontend>) {
        let path = socket_path();
        let export = Setup { size_bytes, ..Setup::default() }.export();
        let listen = [Address::Unix(path.clone())];
        let (server, frontends) = NbdServer::start(&listen, Remote::Refuse, export, reactors).unwrap();
        (Nbd { _server: server, path }, frontends)
    }

    fn connect(&self) -> NbdHost {
        let socket = UnixStream::connect(&self.path).unwrap();
        socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
        NbdHost(Client::go(socket, STRUCTURED))
    }
}

impl NbdHost {
    fn bare(&mut self, kind: u16, offset_bytes: u64, len_bytes: usize) -> Result<(), ()> {
        self.0.call(kind, 0, offset_bytes, len_bytes as u32, &[]).map(drop).map_err(drop)
    }
}

impl Host for NbdHost {
    fn read(&mut self, offset_bytes: u64, len_bytes: usize) -> Result<Vec<u8>, ()> {
        self.0.read(offset_bytes, len_bytes as u32).map_err(drop)
    }

    fn write(&mut self, offset_bytes: u64, data: &[u8], fua: bool) -> Result<(), ()> {
        let flags = if fua { FUA } else { 0 };
        self.0.call(WRITE, flags, offset_bytes, data.len() as u32, data).map(drop).map_err(drop)
    }

    fn discard(&mut self, offset_bytes: u64, len_bytes: usize) -> Result<(), ()> {
        self.bare(TRIM, offset_bytes, len_bytes)
    }

    fn write_zeroes(&mut self, offset_bytes: u64, len_bytes: usize) -> Result<(), ()> {
        self.bare(ZEROES, offset_bytes, len_bytes)
    }

    fn flush(&mut self) -> Result<(), ()> {
        self.bare(FLUSH, 0, 0)
    }
}

#[test]
fn nbd_with_simple_replies() {
    CONDITIONS.into_iter().for_each(check::<Nbd<false>>);
}

#[test]
fn nbd_with_structured_replies() {
    CONDITIONS.into_iter().for_each(check::<Nbd<true>>);
}

#[test]
fn nbd_closes_with_requests_in_flight() {
    check_close_with_requests_in_flight::<Nbd<false>>();
    check_close_with_requests_in_flight::<Nbd<true>>();
}
