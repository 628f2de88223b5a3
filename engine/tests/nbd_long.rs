//! Long trims and zeroes: they are cut into pieces, clients take turns with them, and other commands do not
//! wait for them without need.
//!
//! Method: an array in RAM that can be held shows which requests are in the engine at a time, and counts the
//! pieces that were carried out. Stripes of 4 KiB make pieces of 1 MiB, one of which is in the engine at a
//! time.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands for the world outside of the engine: it waits, and tells the time"
)]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::client::*;
use support::eventually;

const MIB: u32 = 1 << 20;

/// Waits long enough to notice something that must not happen.
fn a_while() {
    std::thread::sleep(Duration::from_millis(50));
}

/// Long zeroes are cut at stripes, one piece at a time is in the engine, and other commands of the same
/// client overtake them. (A second long command used to stop the client until the first had ended.)
#[test]
fn long_zeroes_are_cut_and_passed_by() {
    let server = Setup::default().start();
    let array = Arc::clone(&server.array);
    let mut client = server.simple();
    client.write(0, &vec![7; 4 << 20]).unwrap();
    array.held.store(true, Ordering::Relaxed);
    let before = array.requests.load(Ordering::Relaxed);
    // Pieces of 1 MiB: a range of 8 MiB from 512 on has nine.
    let zeroes = [8 << 20, 8 << 20].map(|len| client.send(ZEROES, 0, 512, len, &[]));
    let read = client.send(READ, 0, 16 << 20, 4096, &[]);
    eventually("one piece and the read have arrived", || {
        array.requests.load(Ordering::Relaxed) >= before + 2
    });
    a_while();
    assert_eq!(array.requests.load(Ordering::Relaxed), before + 2, "and no other piece");
    array.held.store(false, Ordering::Relaxed);
    let mut hear = || client.hear(&|cookie| (cookie == read).then_some((16 << 20, 4096))).unwrap();
    let answers = [hear(), hear(), hear()];
    assert!(answers.iter().all(|answer| answer.result.is_ok()));
    assert_eq!(answers.map(|answer| answer.cookie), [read, zeroes[0], zeroes[1]], "one after the other");
    assert_eq!(array.zeroes.load(Ordering::Relaxed), 18);
    let found = client.read(0, MIB).unwrap();
    assert_eq!((&found[..512], found[512..].iter().max()), (&[7; 512][..], Some(&0)));
    server.stop();
}

/// Each turn has a place for a piece, however many requests others have. (Pieces used to get only the places
/// that others left, so eight clients with pipelines delayed them without end.)
#[test]
fn a_long_command_goes_on_beside_pipelines() {
    let server = Setup { room: 32, ..Setup::default() }.start();
    let array = Arc::clone(&server.array);
    array.held.store(true, Ordering::Relaxed);
    let [mut first, mut client] = [server.simple(), server.simple()];
    first.send(ZEROES, 0, 0, 2 * MIB, &[]);
    eventually("its first piece is in the engine", || array.requests.load(Ordering::Relaxed) == 1);
    client.send(ZEROES, 0, 0, 16 * MIB, &[]);
    a_while();
    let pipelines: Vec<_> = (0..8)
        .map(|_| {
            let mut greedy = server.simple();
            let commands = (0..20_000).flat_map(|_| greedy.command(READ, 0, 0, 512).1).collect();
            let writer = write_aside(&greedy.socket, commands);
            let hear = move || (0..20_000).for_each(|_| drop(greedy.hear(&|_| Some((0, 512))).unwrap()));
            (std::thread::spawn(hear), writer)
        })
        .collect();
    // A single piece in the engine limits each other client to eight requests, though not at once.
    eventually("the pipelines are full", || array.requests.load(Ordering::Relaxed) > 8 * 8);
    // For this long the client sends nothing, and nothing of it is in the engine. It counts as active
    // nevertheless, because it waits.
    std::thread::sleep(Duration::from_millis(500));
    array.held.store(false, Ordering::Relaxed);
    first.hear(&|_| None).unwrap().result.unwrap();
    client.hear(&|_| None).unwrap().result.unwrap();
    // 18 turns with 32 requests each would suffice.
    let requests = array.requests_at_zeroes.load(Ordering::Relaxed);
    assert!(requests < 10_000, "{requests} of 160,000 requests came first");
    for (hearing, writer) in pipelines {
        hearing.join().unwrap();
        writer.join().unwrap().unwrap();
    }
    server.stop();
}

/// With stripes of 256 KiB, zeroes of 2 MiB are eight stripe operations, and 64 may be in use. So the zeroes
/// of eight clients are in the engine together. (They used to be carried out one by one.)
#[test]
fn zeroes_of_a_few_stripes_do_not_wait_for_each_other() {
    let server = Setup { stripe_bytes: 256 << 10, ..Setup::default() }.start();
    let array = Arc::clone(&server.array);
    array.held.store(true, Ordering::Relaxed);
    let mut clients: Vec<_> = (0..9).map(|_| server.simple()).collect();
    for client in &mut clients {
        client.send(ZEROES, 0, 0, 2 * MIB, &[]);
    }
    eventually("eight have arrived", || array.requests.load(Ordering::Relaxed) == 8);
    a_while();
    assert_eq!(array.requests.load(Ordering::Relaxed), 8, "the ninth waits for a stripe operation");
    array.held.store(false, Ordering::Relaxed);
    for client in &mut clients {
        client.hear(&|_| None).unwrap().result.unwrap();
    }
    server.stop();
}

/// A client with small pieces, and one with a large piece that needs all stripe operations: the large piece
/// gets its turn.
#[test]
fn small_pieces_do_not_pass_a_large_one_by_for_ever() {
    let server = Setup { stripe_bytes: 256 << 10, ..Setup::default() }.start();
    let array = Arc::clone(&server.array);
    array.held.store(true, Ordering::Relaxed);
    let mut small = server.simple();
    let commands: Vec<u8> = (0..200).flat_map(|_| small.command(ZEROES, 0, 0, 2 * MIB).1).collect();
    small.socket.write_all(&commands).unwrap();
    eventually("eight have arrived", || array.requests.load(Ordering::Relaxed) == 8);
    let mut large = server.simple();
    large.send(ZEROES, 0, 0, 64 * MIB, &[]);
    a_while();
    array.held.store(false, Ordering::Relaxed);
    large.hear(&|_| None).unwrap().result.unwrap();
    for _ in 0..200 {
        small.hear(&|_| None).unwrap().result.unwrap();
    }
    server.stop();
}

/// The client is told of the error when the piece that met it has ended, and the remaining pieces are not
/// carried out.
#[test]
fn a_long_command_ends_with_the_piece_that_fails() {
    let server = Setup::default().start();
    let array = Arc::clone(&server.array);
    *array.lost.lock().unwrap() = 5 << 20..(5 << 20) + 512;
    let mut client = server.simple();
    let failing = client.send(ZEROES, 0, 0, 32 * MIB, &[]);
    let next = client.send(ZEROES, 0, 32 << 20, 2 * MIB, &[]);
    let answer = client.hear(&|_| None).unwrap();
    assert_eq!((answer.cookie, answer.result), (failing, Err(EIO)));
    let answer = client.hear(&|_| None).unwrap();
    assert_eq!((answer.cookie, answer.result), (next, Ok(vec![])));
    assert_eq!(array.zeroes.load(Ordering::Relaxed), 5 + 2, "five before the error, and two of the next");
    server.stop();
}

/// A flush covers commands that have been answered, so it need not wait for zeroes that have not.
#[test]
fn a_flush_passes_a_long_command_by() {
    let server = Setup::default().start();
    let mut client = server.simple();
    let mut bytes = client.command(ZEROES, FUA, 0, 16 * MIB).1;
    let (flush, more) = client.command(FLUSH, 0, 0, 0);
    bytes.extend(more);
    client.socket.write_all(&bytes).unwrap();
    let answer = client.hear(&|_| None).unwrap();
    assert_eq!((answer.cookie, answer.result), (flush, Ok(vec![])));
    client.hear(&|_| None).unwrap().result.unwrap();
    assert_eq!(server.array.durable.load(Ordering::Relaxed), 16, "each piece is durable by itself");
    server.stop();
}

/// If a client leaves with NBD_CMD_DISC, all of its long commands are still carried out.
#[test]
fn long_commands_before_a_disconnect_are_carried_out() {
    let server = Setup::default().start();
    let mut client = server.simple();
    let mut bytes: Vec<u8> = (0..3).flat_map(|_| client.command(ZEROES, 0, 0, 16 * MIB).1).collect();
    bytes.extend(client.command(DISC, 0, 0, 0).1);
    client.socket.write_all(&bytes).unwrap();
    (0..3).for_each(|_| drop(client.hear(&|_| None).unwrap().result.unwrap()));
    client.expect_end();
    assert_eq!(server.array.zeroes.load(Ordering::Relaxed), 48);
    server.stop();
}

/// A stop waits only for the piece that is in the engine. The client receives no answer, because its command
/// is not complete.
#[test]
fn a_stop_gives_up_the_rest_of_long_commands() {
    let server = Setup::default().start();
    let array = Arc::clone(&server.array);
    array.held.store(true, Ordering::Relaxed);
    let mut client = server.simple();
    for _ in 0..3 {
        client.send(ZEROES, 0, 0, 16 * MIB, &[]);
    }
    let mut other = server.simple();
    other.send(TRIM, 0, 0, 16 * MIB, &[]);
    eventually("one piece has arrived", || array.requests.load(Ordering::Relaxed) == 1);
    a_while();
    let release = std::thread::spawn({
        let array = Arc::clone(&array);
        move || {
            std::thread::sleep(Duration::from_millis(200));
            array.held.store(false, Ordering::Relaxed);
        }
    });
    server.stop();
    release.join().unwrap();
    assert_eq!(array.zeroes.load(Ordering::Relaxed) + array.discards.load(Ordering::Relaxed), 1);
    client.expect_end();
    other.expect_end();
}

/// Commands that a departed client had queued are not carried out, except for those in the engine.
#[test]
fn what_a_departed_client_queued_is_dropped() {
    let server = Setup::default().start();
    let array = Arc::clone(&server.array);
    array.held.store(true, Ordering::Relaxed);
    let mut client = server.simple();
    let commands: Vec<u8> = (0..1000).flat_map(|_| client.command(ZEROES, 0, 0, 16 * MIB).1).collect();
    client.socket.write_all(&commands).unwrap();
    eventually("one piece has arrived", || array.requests.load(Ordering::Relaxed) > 0);
    drop(client);
    a_while();
    array.held.store(false, Ordering::Relaxed);
    let mut other = server.simple();
    assert_eq!(other.read(0, 512), Ok(vec![0; 512]));
    a_while();
    assert_eq!(array.zeroes.load(Ordering::Relaxed), 1, "of 16,000 pieces");
    server.stop();
}
