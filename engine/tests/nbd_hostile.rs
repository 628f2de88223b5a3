//! Clients that vanish, stall, babble or crowd: the others must not notice, and nothing may leak.
//!
//! Method: each misbehaviour is acted out against a server while a well-behaved client is served, and at
//! the end the reactor of `support` checks that everything drained and every span came back.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands for the world outside of the engine: it waits, and tells the time"
)]

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use support::client::*;
use support::{Pace, Random, eventually};

const MIB: u32 = 1 << 20;

#[test]
fn a_client_that_vanishes_with_requests_in_flight_leaves_nothing_behind() {
    for structured in [false, true] {
        let server = Setup { pool_bytes: 8 << 20, ..Setup::default() }.start();
        let array = Arc::clone(&server.array);
        array.held.store(true, Ordering::Relaxed);
        let mut client = Client::go(server.socket(), structured);
        client.send(READ, 0, 0, 3 * MIB, &[]);
        client.send(WRITE, 0, 0, 4096, &[1; 4096]);
        client.send(WRITE, 0, 0, MIB, &[1; 1000]); // the rest of the payload never comes
        eventually("its requests have arrived", || array.requests.load(Ordering::Relaxed) == 4);
        drop(client);
        std::thread::sleep(Duration::from_millis(20));
        // Its spans are still the array's: what is left of the pool serves another.
        let mut other = server.simple();
        let cookie = other.send(WRITE, 0, 8 << 20, 4096, &[2; 4096]);
        eventually("the other's too", || array.requests.load(Ordering::Relaxed) == 5);
        array.held.store(false, Ordering::Relaxed);
        assert_eq!(other.hear(&|_| None).unwrap().cookie, cookie);
        assert_eq!(other.read(0, 4096).unwrap(), [1; 4096], "what had wholly arrived was written");
        server.stop();
    }
}

#[test]
fn clients_that_vanish_anywhere_in_a_conversation() {
    let server = Setup { pace: Pace::Shuffled(12), pool_bytes: 8 << 20, ..Setup::default() }.start();
    let mut steady = server.structured();
    let mut random = Random(77);
    for round in 0..150u64 {
        let mut client = Client::go(server.socket(), round % 2 == 0);
        let mut bytes = Vec::new();
        for _ in 0..random.below(20) {
            let kind = [READ, WRITE, TRIM, ZEROES][random.below(4)];
            let len = 512 * (1 + random.below(600)) as u32;
            bytes.extend(client.command(kind, 0, 512 * random.below(1000) as u64, len).1);
            if kind == WRITE {
                bytes.resize(bytes.len() + len as usize, 0x55);
            }
        }
        bytes.truncate(random.below(bytes.len() + 1));
        client.socket.set_write_timeout(Some(Duration::from_millis(5))).unwrap();
        let _as_far_as_it_goes = client.socket.write_all(&bytes);
        if random.below(2) == 0 {
            let mut some = vec![0; random.below(100_000)];
            client.socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            let _as_far_as_it_goes = client.socket.read(&mut some);
        }
        drop(client);
        if round % 10 == 0 {
            steady.write(32 << 20, &[round as u8; 4096]).unwrap();
            assert_eq!(steady.read(32 << 20, 4096).unwrap(), [round as u8; 4096]);
        }
    }
    server.stop();
}

/// A client that does not read its answers is not read either, and costs others nothing.
#[test]
fn a_client_that_does_not_read_is_not_read() {
    let server = Setup { pool_bytes: 64 << 20, ..Setup::default() }.start();
    let mut lazy = server.structured();
    let mut bytes = Vec::new();
    for _ in 0..5000 {
        bytes.extend(lazy.command(READ, 0, 0, 64 << 10).1);
    }
    let writer = write_aside(&lazy.socket, bytes);
    let mut other = server.simple();
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(300) {
        assert_eq!(other.read(0, MIB).unwrap().len(), MIB as usize);
    }
    let others = server.array.requests.load(Ordering::Relaxed);
    assert!(others > 20, "the other was served {others} times");
    for _ in 0..5000 {
        lazy.hear(&|_| Some((0, 64 << 10))).unwrap().result.unwrap();
    }
    writer.join().unwrap().unwrap();
    server.stop();
}

/// A client that reads nothing and holds the whole pool loses it to one that waits.
#[test]
fn a_stalled_client_loses_the_pool_to_one_that_waits() {
    let server = Setup { pool_bytes: 8 << 20, ..Setup::default() }.start();
    let mut stalled = server.structured();
    for _ in 0..64 {
        stalled.send(READ, 0, 0, MIB, &[]); // more than socket buffers swallow, which may be a few MiB
    }
    std::thread::sleep(Duration::from_millis(100));
    let since = Instant::now();
    let mut other = server.simple();
    assert_eq!(other.read(0, MIB).unwrap().len(), MIB as usize);
    assert!(since.elapsed() > Duration::from_secs(5), "only after a decent time");
    server.stop();
}

/// One that pauses alone is waited for, however long.
#[test]
fn a_client_that_pauses_alone_keeps_what_it_has() {
    let server = Setup { pool_bytes: 2 << 20, ..Setup::default() }.start();
    let mut paused = server.structured();
    for _ in 0..32 {
        paused.send(READ, 0, 0, MIB, &[]);
    }
    std::thread::sleep(Duration::from_secs(25)); // two looks at who has stalled
    for _ in 0..32 {
        paused.hear(&|_| Some((0, MIB))).unwrap().result.unwrap();
    }
    server.stop();
}

#[test]
fn a_client_that_never_reads_its_last_answers_does_not_hold_up_the_end() {
    let server = Setup::default().start();
    let mut client = server.structured();
    for _ in 0..10 {
        client.send(READ, 0, 0, MIB, &[]);
    }
    let array = Arc::clone(&server.array);
    eventually("they have arrived", || array.requests.load(Ordering::Relaxed) == 10);
    server.stop();
    drop(client);
}

#[test]
fn a_wrong_magic_ends_the_connection_and_no_other() {
    let server = Setup::default().start();
    let mut other = server.simple();
    let mut client = server.simple();
    client.socket.write_all(&[0x5a; 64]).unwrap();
    client.expect_end();
    assert_eq!(other.read(0, 512), Ok(vec![0; 512]));
    server.stop();
}

#[test]
fn handshakes_are_bounded_in_time_and_number() {
    let server = Setup::default().start();
    let since = Instant::now();
    let mut silent: Vec<_> = (0..64).map(|_| server.socket()).collect();
    for socket in &mut silent {
        socket.read_exact(&mut [0; 18]).unwrap();
    }
    let mut one_more = server.socket();
    assert_eq!(one_more.read(&mut [0; 18]).unwrap_or(0), 0, "the house is full");
    let mut dripping = silent.pop().unwrap();
    while dripping.write_all(&[0]).is_ok() && since.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(500)); // always busy, never done
    }
    for socket in &mut silent {
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    }
    let took = since.elapsed();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(15), "{took:?}");
    assert_eq!(server.simple().read(0, 512), Ok(vec![0; 512]));
    server.stop();
}

#[test]
fn stopping_does_not_wait_for_a_handshake() {
    let server = Setup::default().start();
    let mut silent = server.socket();
    silent.read_exact(&mut [0; 18]).unwrap();
    let since = Instant::now();
    server.stop();
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[test]
fn as_many_clients_as_there_are_places_and_one_more() {
    let server = Setup { reactors: 2, pool_bytes: 8 << 20, ..Setup::default() }.start();
    let mut clients: Vec<_> = (0..128).map(|_| server.simple()).collect();
    let mut socket = server.socket();
    greet(&mut socket, 3).unwrap();
    let refused = say_option(&mut socket, 7, &[0; 6]);
    assert_eq!(refused[0].0, (1 << 31) + 2, "by policy");
    assert_eq!(say_option(&mut socket, 3, &[]).last().unwrap().0, ACK, "it may stay and ask");
    for (index, client) in clients.iter_mut().enumerate() {
        client.write(index as u64 * 512, &[index as u8; 512]).unwrap();
    }
    for (index, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read(index as u64 * 512, 512).unwrap(), [index as u8; 512]);
    }
    drop(clients);
    eventually("places are free again", || say_option(&mut socket, 7, &[0; 6]).last().unwrap().0 == ACK);
    server.stop();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a client says, in the handshake or after it, others are served and nothing leaks.
    #[test]
    fn babble(
        early in prop::collection::vec(any::<u8>(), 0..200),
        late in prop::collection::vec(
            (prop_oneof![0u16..9, any::<u16>()], prop_oneof![Just(0u16), any::<u16>()], any::<u64>(),
             prop_oneof![0u32..100_000, any::<u32>()], prop::collection::vec(any::<u8>(), 0..300)),
            0..12,
        ),
        structured: bool,
    ) {
        let server = Setup { pool_bytes: 4 << 20, ..Setup::default() }.start();
        let mut other = server.simple();
        let mut socket = server.socket();
        let _as_far_as_it_goes = socket.write_all(&early);
        let mut client = Client::go(server.socket(), structured);
        for (kind, flags, offset, len, payload) in late {
            let offset = if offset % 2 == 0 { offset % (64 << 20) } else { offset };
            let mut bytes = command(kind, flags, 1, offset & !511, len);
            bytes.extend(payload);
            let _as_far_as_it_goes = client.socket.write_all(&bytes);
        }
        other.write(4096, &[0x77; 4096]).unwrap();
        prop_assert_eq!(other.read(4096, 512).unwrap().len(), 512);
        drop(client);
        drop(socket);
        server.stop();
    }
}
