//! The NBD server seen from outside: each option, command and error of the protocol.
//!
//! Method: the client of `support` sends exact bytes and expects exact bytes. The oracle is the protocol's
//! specification, written again, independently, in the client.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands for the world outside of the engine: it waits, and tells the time"
)]

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::frontend::nbd::{Access, Address, NbdServer};
use support::client::*;
use support::{Pace, Random};

const MIB: u32 = 1 << 20;

fn named(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((infos.len() as u16).to_be_bytes());
    infos.iter().for_each(|info| data.extend(info.to_be_bytes()));
    data
}

fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

#[test]
fn every_option_is_answered_and_the_next_is_heard() {
    let server = Setup::default().start();
    let mut socket = server.socket();
    greet(&mut socket, 3).unwrap();
    let last = |replies: Vec<(u32, Vec<u8>)>| replies.last().unwrap().0;
    for (number, data, expected) in [
        (3, vec![], ACK),
        (3, vec![0], ERR_INVALID),
        (5, vec![], ERR_UNSUP),  // STARTTLS
        (11, vec![], ERR_UNSUP), // EXTENDED_HEADERS
        (4, vec![], ERR_UNSUP),  // PEEK_EXPORT, withdrawn
        (0xdead_beef, vec![7; 5000], ERR_UNSUP),
        (0xdead_beef, vec![7; 100_000], (1 << 31) + 9), // skipped, and answered "too big"
        (10, meta("tank", &["base:allocation"]), ERR_INVALID), // before STRUCTURED_REPLY
        (8, vec![1], ERR_INVALID),
        (8, vec![], ACK),
        (10, meta("tank", &["base:allocation"]), ACK),
        (10, meta("pond", &[]), ERR_UNKNOWN),
        (10, meta("tank", &["x"])[..13].to_vec(), ERR_INVALID),
        (9, meta("", &["base:"]), ACK),
        (6, named("tank", &[3]), ACK),
        (6, named("pond", &[]), ERR_UNKNOWN),
        (7, named("pond", &[]), ERR_UNKNOWN),
        (6, vec![0xff; 6], ERR_INVALID),
        (7, vec![], ERR_INVALID),
        (2, vec![], ACK),
    ] {
        assert_eq!(last(say_option(&mut socket, number, &data)), expected, "option {number}");
    }
    assert_eq!(socket.read(&mut [0]).unwrap(), 0, "the server hangs up after ABORT");
    server.stop();
}

#[test]
fn the_export_is_described() {
    let server = Setup::default().start();
    let mut socket = server.socket();
    greet(&mut socket, 3).unwrap();
    let listed = say_option(&mut socket, 3, &[]);
    assert_eq!(listed[0], (2, [&[0, 0, 0, 4][..], b"tank", b"an array in RAM"].concat()));
    assert_eq!(listed[1], (2, [&[0, 0, 0, 7][..], b"tank:ro", b"an array in RAM"].concat()));
    let infos: HashMap<u16, Vec<u8>> = say_option(&mut socket, 6, &named("", &[1, 2, 3, 99]))
        .into_iter()
        .filter(|(kind, _)| *kind == 3)
        .map(|(_, data)| (u16::from_be_bytes([data[0], data[1]]), data[2..].to_vec()))
        .collect();
    assert_eq!(infos[&0], [&(64u64 << 20).to_be_bytes()[..], &[0b1001, 0b0110_1101]].concat());
    assert_eq!(infos[&1], b"tank");
    assert_eq!(infos[&2], b"an array in RAM");
    let sizes = [512u32, 64 << 10, 32 << 20].map(u32::to_be_bytes).concat();
    assert_eq!(infos[&3], sizes);
    assert_eq!(infos.len(), 4);
    // Structured replies add DF; a read-only export lacks TRIM and WRITE_ZEROES.
    assert_eq!(server.structured().flags, 0b1001_1110_1101);
    server.stop();
    let server = Setup { read_only: true, ..Setup::default() }.start();
    assert_eq!(server.simple().flags, 0b1_0000_1111);
    server.stop();
}

#[test]
fn the_old_option_works_with_and_without_padding() {
    let server = Setup::default().start();
    for (flags, name, padding) in [(3, "", 0), (1, "tank", 124), (2, "tank", 0), (0, "", 124)] {
        let mut socket = server.socket();
        greet(&mut socket, flags).unwrap();
        socket.write_all(&option(1, name.as_bytes())).unwrap();
        let mut answer = vec![0xee; 10 + padding];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..8], (64u64 << 20).to_be_bytes());
        assert!(answer[10..].iter().all(|byte| *byte == 0));
        socket.write_all(&command(READ, 0, 5, 0, 512)).unwrap();
        let mut reply = [0; 16 + 512];
        socket.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
    }
    let mut socket = server.socket();
    greet(&mut socket, 3).unwrap();
    socket.write_all(&option(1, b"pond")).unwrap();
    assert_eq!(socket.read(&mut [0]).unwrap(), 0, "the only way to say no to EXPORT_NAME");
    server.stop();
}

#[test]
fn commands_that_cannot_be_are_refused_and_the_connection_goes_on() {
    let end = 64 << 20;
    for structured in [false, true] {
        let server = Setup::default().start();
        let mut client = Client::go(server.socket(), structured);
        for (kind, flags, offset, len, expected) in [
            (READ, 0, end, 512, EINVAL),
            (READ, 0, end - 512, 1024, EINVAL),
            (READ, 0, u64::MAX - 511, 512, EINVAL),
            (READ, 0, 1, 512, EINVAL),
            (READ, 0, 0, 100, EINVAL),
            (READ, 0, 0, 32 * MIB + 512, EINVAL),
            (READ, 1 << 4, 0, 512, EINVAL),
            (READ, DF, 0, MIB + 512, if structured { EOVERFLOW } else { EINVAL }),
            (WRITE, 0, end, 512, ENOSPC),
            (WRITE, 0, 7, 512, EINVAL),
            (WRITE, 0, 0, 3, EINVAL),
            (WRITE, 0, 0, 32 * MIB + 512, EINVAL),
            (WRITE, DF, 0, 100_000, EINVAL),
            (TRIM, 0, end, 512, EINVAL),
            (TRIM, 0, 3, 512, EINVAL),
            (ZEROES, 0, end - 512, u32::MAX - 511, ENOSPC),
            (ZEROES, 1 << 4, 0, 512, ENOTSUP), // FAST_ZERO of less than a stripe
            (FLUSH, 0, 0, 512, EINVAL),
            (5, 0, 0, 512, EINVAL), // CACHE
            (7, 0, 0, 512, EINVAL), // BLOCK_STATUS without a context
            (77, 0, 0, 0, EINVAL),
        ] {
            let payload = if kind == WRITE { vec![0xab; len as usize] } else { vec![] };
            let result = client.call(kind, flags, offset, len, &payload);
            assert_eq!(result.map(|data| data.len()), Err(expected), "{kind} {flags} {offset} {len}");
        }
        assert_eq!(server.array.requests.load(Ordering::Relaxed), 0, "none reached the array");
        for kind in [READ, WRITE, TRIM, ZEROES] {
            assert_eq!(client.call(kind, 0, 512, 0, &[]), Ok(vec![]), "nothing of {kind} succeeds");
        }
        assert_eq!(server.array.requests.load(Ordering::Relaxed), 0, "not even these");
        assert_eq!(client.call(READ, DF * u16::from(structured), 0, 65536, &[]), Ok(vec![0; 65536]));
        server.stop();
    }
}

#[test]
fn a_read_only_export_takes_no_changes() {
    let server = Setup { read_only: true, ..Setup::default() }.start();
    let mut client = server.simple();
    assert_eq!(client.write(0, &[1; 4096]), Err(EPERM));
    assert_eq!(client.call(TRIM, 0, 0, 4096, &[]), Err(EPERM));
    assert_eq!(client.call(ZEROES, FUA, 0, 4096, &[]), Err(EPERM));
    assert_eq!(client.call(FLUSH, 0, 0, 0, &[]), Ok(vec![]));
    assert_eq!(client.read(0, 4096), Ok(vec![0; 4096]));
    server.stop();
}

#[test]
fn data_and_durability_go_through() {
    for structured in [false, true] {
        let server = Setup::default().start();
        let mut client = Client::go(server.socket(), structured);
        let data = Random(9).bytes(300 << 10);
        client.write(4096, &data).unwrap();
        assert_eq!(client.read(4096, data.len() as u32).unwrap(), data);
        assert_eq!(server.array.durable.load(Ordering::Relaxed), 0);
        client.call(WRITE, FUA, 0, 512, &[5; 512]).unwrap();
        client.call(ZEROES, FUA | 2, 4096, 4096, &[]).unwrap();
        client.call(TRIM, FUA, 8192, 4096, &[]).unwrap();
        assert_eq!(server.array.durable.load(Ordering::Relaxed), 3);
        client.call(TRIM, 0, 12288, 4096, &[]).unwrap();
        client.call(FLUSH, FUA, 0, 0, &[]).unwrap();
        assert_eq!(server.array.flushes.load(Ordering::Relaxed), 1);
        let mut expected = vec![5; 512];
        expected.resize(16384, 0);
        expected.extend(&data[12288..12288 + 4096]);
        let read = client.read(0, 20480).unwrap();
        assert!(read[..512] == expected[..512] && read[4096..] == expected[4096..]);
        server.stop();
    }
}

#[test]
fn tcp_serves_too() {
    let server = Setup::default().start();
    let mut client = Client::go(server.tcp(), true);
    client.write(0, &[3; 65536]).unwrap();
    assert_eq!(client.read(0, 65536).unwrap(), [3; 65536]);
    server.stop();
}

#[test]
fn commands_byte_by_byte() {
    let server = Setup::default().start();
    let mut client = server.simple();
    let (_, mut bytes) = client.command(WRITE, 0, 512, 512);
    bytes.extend([9; 512]);
    let (read, more) = client.command(READ, 0, 512, 512);
    bytes.extend(more);
    for byte in bytes {
        client.socket.write_all(&[byte]).unwrap();
        if byte != 9 {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
    let range = |cookie| (cookie == read).then_some((512, 512));
    client.hear(&range).unwrap().result.unwrap();
    assert_eq!(client.hear(&range).unwrap().result.unwrap(), [9; 512]);
    server.stop();
}

/// Many commands are sent at once, and each is answered once, in any order.
#[test]
fn pipelined_commands_are_each_answered_once() {
    for (structured, pace) in
        [(false, Pace::Instant), (true, Pace::Instant), (false, Pace::Shuffled(4)), (true, Pace::Shuffled(5))]
    {
        let server = Setup { pace, ..Setup::default() }.start();
        let content = Random(11).bytes(64 << 20);
        server.array.bytes.lock().unwrap().copy_from_slice(&content);
        let mut client = Client::go(server.socket(), structured);
        let mut random = Random(6);
        let mut bytes = Vec::new();
        let mut ranges = HashMap::new();
        // More commands than a connection has slots: the rest waits in the socket.
        for index in 0..700u64 {
            let len = 4096 * (1 + random.below(if index % 50 == 0 { 1000 } else { 4 })) as u32;
            let offset = (4096 * random.below(8192)) as u64;
            let (cookie, command) = client.command(READ, 0, offset, len);
            ranges.insert(cookie, (offset, len));
            bytes.extend(command);
        }
        let writer = write_aside(&client.socket, bytes);
        let lookup = ranges.clone();
        while !ranges.is_empty() {
            let answer = client.hear(&|cookie| lookup.get(&cookie).copied()).unwrap();
            let (offset, len) = ranges.remove(&answer.cookie).expect("answered once");
            let range = offset as usize..offset as usize + len as usize;
            assert!(answer.result.unwrap() == content[range]);
        }
        writer.join().unwrap().unwrap();
        server.stop();
    }
}

/// Reads and writes of the largest payload, with a pool that can hold them and one that cannot.
#[test]
fn thirty_two_mebibytes_at_once() {
    for (structured, pool_bytes) in [(false, 64 << 20), (true, 64 << 20), (false, 2 << 20), (true, 2 << 20)] {
        let server = Setup { pool_bytes, pace: Pace::Shuffled(8), ..Setup::default() }.start();
        let mut client = Client::go(server.socket(), structured);
        let data = Random(3).bytes(32 << 20);
        client.write(1 << 20, &data).unwrap();
        assert!(client.read(1 << 20, 32 << 20).unwrap() == data);
        // Two large reads, with small ones between them that must not get into the streamed data.
        let mut ranges = HashMap::new();
        let mut bytes = Vec::new();
        for (offset, len) in [(1 << 20, 32 << 20), (0, 512), (2 << 20, 31 << 20), (0, 512), (0, 1 << 20)] {
            let (cookie, command) = client.command(READ, 0, offset, len);
            ranges.insert(cookie, (offset, len));
            bytes.extend(command);
        }
        client.socket.write_all(&bytes).unwrap();
        let array = server.array.bytes.lock().unwrap().clone();
        for _ in 0..ranges.len() {
            let answer = client.hear(&|cookie| ranges.get(&cookie).copied()).unwrap();
            let (offset, len) = ranges[&answer.cookie];
            assert!(answer.result.unwrap() == array[offset as usize..offset as usize + len as usize]);
        }
        server.stop();
    }
}

#[test]
fn what_the_array_has_lost_is_an_io_error() {
    for structured in [false, true] {
        let server = Setup { pace: Pace::Shuffled(2), ..Setup::default() }.start();
        let mut client = Client::go(server.socket(), structured);
        *server.array.lost.lock().unwrap() = (5 << 20)..(5 << 20) + 512;
        assert_eq!(client.read(0, 12 << 20), Err(EIO));
        assert_eq!(client.write(5 << 20, &[1; 4096]), Err(EIO));
        assert_eq!(client.write(0, &vec![1; 8 << 20]), Err(EIO));
        assert!(client.read(0, 5 << 20).is_ok(), "the connection goes on");
        server.stop();
    }
}

/// A simple read whose answer has partly been sent cannot be taken back: the protocol demands that the server
/// hangs up.
#[test]
fn a_streamed_read_that_fails_ends_the_connection() {
    let server = Setup { pool_bytes: 2 << 20, ..Setup::default() }.start();
    let mut client = server.simple();
    *server.array.lost.lock().unwrap() = (20 << 20)..(21 << 20);
    client.send(READ, 0, 0, 32 << 20, &[]);
    let mut got = Vec::new();
    let _end_or_reset = client.socket.read_to_end(&mut got);
    assert!(got.len() < 21 << 20, "nothing after the error");
    assert_eq!(server.simple().read(0, 4096), Ok(vec![0; 4096]), "others go on");
    server.stop();
}

#[test]
fn disconnect_finishes_what_is_in_flight() {
    let server = Setup::default().start();
    server.array.held.store(true, Ordering::Relaxed);
    let mut client = server.simple();
    let cookie = client.send(WRITE, 0, 0, 4096, &[8; 4096]);
    client.send(DISC, 0, 0, 0, &[]);
    let array = Arc::clone(&server.array);
    support::eventually("the write has arrived", || array.requests.load(Ordering::Relaxed) == 1);
    array.held.store(false, Ordering::Relaxed);
    assert_eq!(client.hear(&|_| None).unwrap(), Answer { cookie, result: Ok(vec![]) });
    client.expect_end();
    server.stop();
}

#[test]
fn a_socket_file_is_private_replaced_when_stale_and_respected_when_alive() {
    use std::os::unix::fs::PermissionsExt;
    let server = Setup::default().start();
    let mode = std::fs::metadata(&server.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let listen = [Address::Unix(server.path.clone())];
    let start = || NbdServer::start(&listen, Access::default(), Setup::default().export(), 1);
    let refused = start().err().unwrap().to_string();
    assert!(refused.contains("another server answers"), "{refused}");
    assert_eq!(server.simple().read(0, 512), Ok(vec![0; 512]), "and it still does");
    server.stop();
    drop(std::os::unix::net::UnixListener::bind(path_of(&listen)).unwrap());
    assert!(std::fs::metadata(path_of(&listen)).is_ok(), "a stale file");
    drop(start().unwrap());
    std::fs::write(path_of(&listen), "precious").unwrap();
    let refused = start().err().unwrap().to_string();
    assert!(refused.contains("no socket"), "{refused}");
    assert_eq!(std::fs::read(path_of(&listen)).unwrap(), b"precious");
    std::fs::remove_file(path_of(&listen)).unwrap();
}

fn path_of(listen: &[Address]) -> &std::path::Path {
    let Address::Unix(path) = &listen[0] else { panic!("a unix address") };
    path
}
