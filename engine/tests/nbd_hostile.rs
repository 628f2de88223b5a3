//! Clients that vanish, stall, send garbage or come in crowds: other clients must not notice, and nothing may
//! leak.
//!
//! Method: a client misbehaves while a well-behaved client is served; at the end the reactor of `support`
//! checks that everything drained and every span was returned.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands for the world outside of the engine: it waits, and tells the time"
)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
        // The departed client's spans are still with the array: the rest of the pool serves another client.
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

/// A client that does not read its answers is not read either, and other clients do not suffer.
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

/// A client that reads nothing holds all memory except the bases of others. From these, other clients are
/// served at once; while they wait for more memory, the stalled client loses what it holds.
#[test]
fn a_stalled_client_leaves_a_base_and_then_all_of_the_pool() {
    let server = Setup { pool_bytes: 8 << 20, ..Setup::default() }.start();
    let mut stalled = server.structured();
    for _ in 0..64 {
        stalled.send(READ, 0, 0, MIB, &[]); // more than socket buffers swallow, which may be a few MiB
    }
    std::thread::sleep(Duration::from_millis(100));
    let since = Instant::now();
    let mut other = server.simple();
    while since.elapsed() < Duration::from_secs(25) {
        let asked = Instant::now();
        assert_eq!(other.read(0, MIB).unwrap().len(), MIB as usize);
        assert!(asked.elapsed() < Duration::from_secs(5), "a base is enough to be served");
    }
    let mut some = vec![0; 1 << 20];
    let end = std::iter::repeat_with(|| stalled.socket.read(&mut some)).find(|read| !matches!(read, Ok(1..)));
    assert!(end.is_some_and(|end| matches!(end, Ok(0) | Err(_))), "the server has hung up on it");
    server.stop();
}

/// A client reads 8 MiB, and the members are slow with 1 MiB of it: the rest occupies memory that another
/// client wants. The client is not to blame and stays connected. (It used to be hung up on after 10 s, as if
/// it did not read.)
#[test]
fn a_client_that_waits_for_the_members_has_not_stalled() {
    let server = Setup { pool_bytes: 10 << 20, ..Setup::default() }.start();
    let array = Arc::clone(&server.array);
    *array.held_range.lock().unwrap() = 7 << 20..8 << 20;
    let mut waiting = server.simple();
    let cookie = waiting.send(READ, 0, 0, 8 * MIB, &[]);
    eventually("its requests have arrived", || array.requests.load(Ordering::Relaxed) >= 5);
    let mut other = server.simple();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(13) {
        assert_eq!(other.read(0, MIB).unwrap().len(), MIB as usize);
    }
    *array.held_range.lock().unwrap() = 0..0;
    let answer = waiting.hear(&|_| Some((0, 8 * MIB))).unwrap();
    assert_eq!((answer.cookie, answer.result.unwrap().len()), (cookie, 8 << 20));
    server.stop();
}

/// A read that fails in every piece is answered with an error for each piece. A client that does not read
/// these errors has at most as many pending as a connection has slots; the front end asserts that.
#[test]
fn errors_that_are_not_read_are_bounded() {
    let server = Setup { pool_bytes: 64 << 20, ..Setup::default() }.start();
    *server.array.lost.lock().unwrap() = 0..64 << 20;
    let mut lazy = server.structured();
    // The answers are 200 KiB, of which the socket buffers take a part.
    let commands: Vec<u8> = (0..200).flat_map(|_| lazy.command(READ, 0, 0, 32 * MIB).1).collect();
    lazy.socket.write_all(&commands).unwrap();
    let mut other = server.simple();
    for _ in 0..100 {
        assert_eq!(other.read(0, 512), Err(EIO));
    }
    for _ in 0..200 {
        assert_eq!(lazy.hear(&|_| Some((0, 32 * MIB))).unwrap().result, Err(EIO));
    }
    server.stop();
}

/// A simple read of more than 1 MiB that meets a bad sector. If the client is alone, it receives the error.
/// In a crowd there is no memory to hold the answer until the last byte is read, so a part may already have
/// been sent: then the connection ends, and no wrong byte is sent.
#[test]
fn a_long_read_that_fails_in_a_crowd_ends_its_connection_only() {
    let server = Setup { pool_bytes: 16 << 20, ..Setup::default() }.start();
    server.array.bytes.lock().unwrap()[..8 << 20].fill(7);
    *server.array.lost.lock().unwrap() = 7 << 20..(7 << 20) + 512;
    let mut alone = server.simple();
    assert_eq!(alone.read(0, 8 * MIB), Err(EIO));
    let crowd = Crowd::of(&server, 3);
    let mut reading = server.simple();
    reading.send(READ, 0, 0, 8 * MIB, &[]);
    let mut heard = Vec::new();
    let _ended_or_reset = reading.socket.read_to_end(&mut heard);
    assert!(heard.len() <= 16 + (7 << 20), "what was lost is not sent: {} bytes", heard.len());
    assert!(heard.iter().skip(16).all(|&byte| byte == 7), "and nothing else in its place");
    let mut again = server.simple();
    assert_eq!(again.read(7 << 20, 512), Err(EIO), "a read of up to 1 MiB hears of the error");
    crowd.end();
    server.stop();
}

/// A read that must not be fragmented waits up to 500 ms for memory; once it has been refused, reads that
/// follow at once are refused without waiting. Seconds later they wait again, because memory may be free
/// soon. (They used to be refused at once for as long as nothing of that size was free.)
#[test]
fn a_refusal_for_want_of_memory_is_not_remembered_for_ever() {
    let server = Setup { pool_bytes: 16 << 20, ..Setup::default() }.start();
    let mut holding = server.structured();
    for _ in 0..64 {
        holding.send(READ, 0, 0, MIB, &[]);
    }
    std::thread::sleep(Duration::from_millis(100));
    let mut other = server.structured();
    let mut time_to_refuse = || {
        let since = Instant::now();
        assert_eq!(other.call(READ, DF, 0, MIB, &[]), Err(EOVERFLOW));
        since.elapsed()
    };
    let (first, second) = (time_to_refuse(), time_to_refuse());
    std::thread::sleep(Duration::from_secs(5));
    let last = time_to_refuse();
    let patience = Duration::from_millis(500);
    assert!(first >= patience && second < patience && last >= patience, "{first:?} {second:?} {last:?}");
    drop(holding);
    server.stop();
}

/// Clients that each read one block after the other.
struct Crowd {
    done: Arc<AtomicBool>,
    reading: Vec<std::thread::JoinHandle<()>>,
}

impl Crowd {
    fn of(server: &Server, count: usize) -> Crowd {
        let done = Arc::new(AtomicBool::new(false));
        let start = |_| {
            let (mut client, done) = (server.simple(), Arc::clone(&done));
            let read = move || {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(client.read(0, 4096).unwrap().len(), 4096);
                }
            };
            std::thread::spawn(read)
        };
        let reading = (0..count).map(start).collect();
        Crowd { done, reading }
    }

    fn end(self) {
        self.done.store(true, Ordering::Relaxed);
        self.reading.into_iter().for_each(|client| client.join().expect("it was served"));
    }
}

/// Many clients begin a large write and send hardly any of it: other clients are served as if they were
/// alone.
#[test]
fn writes_that_trickle_in_hold_no_more_than_their_share() {
    let server = Setup { pool_bytes: 16 << 20, ..Setup::default() }.start();
    let mut trickling: Vec<_> = (0..33).map(|_| server.simple()).collect();
    for client in &mut trickling {
        client.send(WRITE, 0, 0, 32 * MIB, &[1]);
    }
    let mut other = server.simple();
    for round in 0..40u8 {
        for client in &mut trickling {
            client.socket.write_all(&[1]).unwrap();
        }
        other.write(0, &vec![round; 2 << 20]).unwrap();
        assert_eq!(other.read(0, 2 * MIB).unwrap(), vec![round; 2 << 20]);
    }
    drop(trickling);
    server.stop();
}

/// In a crowd, reads that must not be fragmented are refused rather than kept waiting, but reads of up to 64
/// KiB are never refused.
#[test]
fn an_unfragmented_read_is_answered_whatever_others_hold() {
    let server = Setup { pool_bytes: 16 << 20, ..Setup::default() }.start();
    let mut crowd: Vec<_> = (0..20).map(|_| server.structured()).collect();
    for client in &mut crowd {
        for _ in 0..64 {
            client.send(READ, 0, 0, MIB, &[]);
        }
    }
    let mut other = server.structured();
    for _ in 0..100 {
        let answer = other.call(READ, DF, 0, MIB, &[]);
        assert!(answer.is_ok() || answer == Err(EOVERFLOW), "{:?}", answer.err());
        assert_eq!(other.call(READ, DF, 0, 64 << 10, &[]).unwrap().len(), 64 << 10);
    }
    drop(crowd);
    server.stop();
}

/// A client with a pipeline of reads, at the lowest place, and a client with one read at a time, at a higher
/// place: each turn serves both.
#[test]
fn a_single_request_is_served_beside_a_pipeline() {
    let server = Setup { room: 32, ..Setup::default() }.start();
    let mut greedy = server.simple();
    let mut modest = server.simple();
    let mut bytes = Vec::new();
    (0..20_000).for_each(|_| bytes.extend(greedy.command(READ, 0, 0, 512).1));
    let writer = write_aside(&greedy.socket, bytes);
    let hearing = std::thread::spawn(move || {
        (0..20_000).for_each(|_| drop(greedy.hear(&|_| Some((0, 512))).unwrap().result.unwrap()));
    });
    let mut reads = 0;
    while !hearing.is_finished() {
        modest.read(0, 512).unwrap();
        reads += 1;
    }
    // Eight requests of the pipeline per turn make 2,500 turns. The threads share cores with other tests, so
    // the bound is far lower.
    assert!(reads > 50, "{reads} reads beside 20,000 of the pipeline");
    hearing.join().unwrap();
    writer.join().unwrap().unwrap();
    server.stop();
}

/// A client that pauses while it is alone is waited for, however long.
#[test]
fn a_client_that_pauses_alone_keeps_what_it_has() {
    let server = Setup { pool_bytes: 2 << 20, ..Setup::default() }.start();
    let mut paused = server.structured();
    for _ in 0..32 {
        paused.send(READ, 0, 0, MIB, &[]);
    }
    std::thread::sleep(Duration::from_secs(25)); // two checks for stalled clients
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
    let mut silent: Vec<_> = (0..32).map(|_| server.socket()).collect();
    for socket in &mut silent {
        socket.read_exact(&mut [0; 18]).unwrap();
    }
    let mut one_more = server.simple();
    assert_eq!(one_more.read(0, 512), Ok(vec![0; 512]), "the oldest gives way");
    assert_eq!(silent[0].read(&mut [0]).unwrap(), 0, "it was hung up on");
    let mut by_tcp = Client::go(server.tcp(), false);
    assert_eq!(by_tcp.read(0, 512), Ok(vec![0; 512]), "the other one has");
    let mut dripping = silent.pop().unwrap();
    let drips = std::thread::spawn(move || {
        while dripping.write_all(&[0]).is_ok() && since.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(500)); // always busy, never done
        }
        since.elapsed()
    });
    for socket in &mut silent {
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    }
    let silence = since.elapsed();
    assert!(silence < Duration::from_secs(8), "the silent ones are hung up on first: {silence:?}");
    let took = drips.join().unwrap();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(15), "{took:?}");
    assert_eq!(server.simple().read(0, 512), Ok(vec![0; 512]));
    server.stop();
}

/// A client that finds no place is refused, but a later one gets the place of a client of the same listener
/// that has never used it. Clients that have used their places stay, and so do those of other listeners. (All
/// unused clients of all listeners used to be hung up on.)
#[test]
fn a_place_that_was_never_used_is_given_up_to_a_newcomer() {
    let server = Setup::default().start();
    let mut used = server.simple();
    assert_eq!(used.read(0, 512), Ok(vec![0; 512]));
    let mut unused: Vec<_> = (0..55).map(|_| server.simple()).collect();
    let mut by_tcp = Client::go(server.tcp(), false);
    let mut refused = server.socket();
    greet(&mut refused, 3).unwrap();
    assert_eq!(say_option(&mut refused, 7, &[0; 6])[0].0, (1 << 31) + 2, "all have been used or are new");
    std::thread::sleep(Duration::from_secs(31));
    let mut attempts = 0;
    let try_again = || {
        attempts += 1;
        let mut socket = server.socket();
        greet(&mut socket, 3).unwrap();
        say_option(&mut socket, 7, &[0; 6]).last().unwrap().0 == ACK
    };
    eventually("there is a place", try_again);
    let is_served = |client: &mut Client<UnixStream>| {
        let command = client.command(READ, 0, 0, 512).1;
        client.socket.write_all(&command).is_ok() && client.hear(&|_| Some((0, 512))).is_ok()
    };
    let gone = unused.iter_mut().filter_map(|client| (!is_served(client)).then_some(())).count();
    assert!((1..attempts).contains(&gone), "{gone} made room, for {attempts} newcomers");
    assert_eq!(by_tcp.read(0, 512), Ok(vec![0; 512]));
    assert_eq!(used.read(0, 512), Ok(vec![0; 512]));
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
    // Each reactor has 64 places, of which eight are reserved for TCP clients.
    let mut clients: Vec<_> = (0..112).map(|_| server.simple()).collect();
    let mut by_tcp = Client::go(server.tcp(), false);
    assert_eq!(by_tcp.read(0, 512), Ok(vec![0; 512]));
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

    /// Whatever bytes a client sends, in the handshake or after it, other clients are served and nothing
    /// leaks.
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
