//! kill -9 during writes.
//!
//! Method: a server is killed without warning while our own client writes, trims and flushes the lower half
//! of the array with sixteen commands in flight and `fio --verify` writes the upper half; it is started again
//! at once. Oracles: the ledger (every acknowledged sector reads back; a sector in flight at the kill is old
//! or new, and every later read returns the same); then, after `wait`, an offline scrub in which every
//! stripe's parity must match and no stripe may be unsynced. At the end members are failed, so that the same
//! content must be computed from parity.
//!
//! The other half of the contract is the kill of a *degraded* array, whose parity may not be trusted: a
//! sector of the lost member reads as an error or as the ledger says, never as anything else, and a write
//! restores it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::content::Dice;
use crate::lab::{Lab, Server, Shape, number, timed};
use crate::ledger::{Entry, Ledger, SECTOR_BYTES};

const IN_FLIGHT_MAX: usize = 16;

/// Shapes with small stripes, so that a second of load touches many stripes in many ways.
const SHAPES: [Shape; 2] = [
    Shape { members: 4, chunk: "16K", member_mib: 24, ..Shape::RAID5 },
    Shape { members: 5, chunk: "16K", member_mib: 24, ..Shape::RAID6 },
];

#[test]
fn killed_while_writing_raid5() {
    killed_while_writing(SHAPES[0]);
}

#[test]
fn killed_while_writing_raid6() {
    killed_while_writing(SHAPES[1]);
}

fn killed_while_writing(shape: Shape) {
    let kills = number("STRIATE_E2E_KILLS", 2);
    let mut dice = Dice::new("kill");
    let lab = Lab::new();
    let array = lab.create("crash", shape);
    let half_bytes = {
        let server = array.serve(&[]);
        let size_bytes = server.connect().size_bytes;
        server.stop();
        (size_bytes / 2) & !((1 << 20) - 1)
    };
    let mut ledger = Ledger::new(half_bytes.min(12 << 20));
    for kill in 0..kills {
        let server = array.serve(&["--reactors", dice.pick(&["1", "2"])]);
        let fio = fio_on_the_upper_half(&server, half_bytes);
        wait_for_the_first_write(&server);
        let acknowledged = write_until_killed(server, &mut ledger, &mut dice);
        let output = fio.wait_with_output().expect("fio ends with its server");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("verify"), "fio found wrong data before the kill: {text}");

        let server = array.serve(&["--reactors", "2"]);
        verify(&server, &mut ledger, &format!("kill {kill}, before the resync is over"));
        server.wait();
        verify(&server, &mut ledger, &format!("kill {kill}, after the resync"));
        server.terminate();
        array.scrub_is_clean(&format!("kill {kill}"));
        println!(
            "kill {kill}: {acknowledged} commands acknowledged, {} bytes flushed",
            ledger.bytes_flushed()
        );
    }
    let server = array.serve(&[]);
    for slot in 0..shape.parities() {
        server.fail(dice.below(2) as usize + slot * 2);
        verify(&server, &mut ledger, "read from parity");
    }
    server.stop();
}

#[test]
fn killed_while_degraded() {
    for (shape, lost) in [(SHAPES[0], vec![1]), (SHAPES[1], vec![0, 3])] {
        let mut dice = Dice::new("kill while degraded");
        let lab = Lab::new();
        let array = lab.create("hole", shape);
        let mut ledger = Ledger::new((4 << 20) / shape.stripe_bytes() * shape.stripe_bytes());
        let server = array.serve(&[]);
        load(&server, &mut ledger, &mut dice, Duration::from_millis(300));
        for slot in &lost {
            server.fail(*slot);
        }
        write_until_killed(server, &mut ledger, &mut dice);

        let server = array.serve(&[]);
        let mut client = server.connect();
        let mut vouched_for = 0;
        let sectors = (ledger.bytes() / SECTOR_BYTES) as usize;
        let mut lost_sectors = Vec::new();
        for first in 0..sectors {
            match client.try_read(first as u64 * SECTOR_BYTES, SECTOR_BYTES as usize) {
                Ok(bytes) => {
                    vouched_for += 1;
                    let breaches = ledger.settle(first, &bytes);
                    assert!(breaches.is_empty(), "a guess instead of an error: {breaches:?}");
                }
                Err(error) => {
                    assert_eq!(error, 5, "sector {first}: an unvouchable strip is EIO");
                    lost_sectors.push(first);
                }
            }
        }
        println!("{shape:?}: {vouched_for} sectors vouched for, {} lost", lost_sectors.len());
        let counts = server.status().cells;
        assert_eq!(
            counts.lost > 0,
            !lost_sectors.is_empty(),
            "the stripes it cannot vouch for are listed: {counts:?}"
        );
        // A write restores a whole stripe: afterwards everything can be read, also after a restart.
        let stripes: BTreeSet<u64> =
            lost_sectors.iter().map(|sector| *sector as u64 * SECTOR_BYTES / shape.stripe_bytes()).collect();
        for stripe in stripes {
            client.write(stripe * shape.stripe_bytes(), &vec![0; shape.stripe_bytes() as usize]);
        }
        assert_eq!(server.status().cells.lost, 0, "overwriting heals");
        client.read(0, ledger.bytes() as usize);
        drop(client);
        server.stop();
        let server = array.serve(&[]);
        server.connect().read(0, ledger.bytes() as usize);
        server.stop();
    }
}

/// Waits until fio writes: it takes time to start, and the kill of a server that has not written would prove
/// nothing.
fn wait_for_the_first_write(server: &Server) {
    let began = Instant::now();
    while server.status().counters.writes == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "fio does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes for some time, then kills the server with commands in flight. Returns the number of commands that
/// were acknowledged.
fn write_until_killed(server: Server, ledger: &mut Ledger, dice: &mut Dice) -> usize {
    let mut client = server.connect();
    let mut in_flight: BTreeMap<u64, Entry> = BTreeMap::new();
    let mut acknowledged = 0;
    let kill_at = Instant::now() + Duration::from_millis(100 + dice.below(600));
    let mut server = Some(server);
    // After the kill, answers that are already in the socket are still read: the server had given them.
    while server.is_some() || !in_flight.is_empty() {
        if Instant::now() >= kill_at
            && let Some(server) = server.take()
        {
            server.kill();
        }
        if server.is_some() && in_flight.len() < IN_FLIGHT_MAX {
            if let Some((command, entry)) = ledger.next_command(dice) {
                in_flight.insert(client.send(&command).expect("the server lives"), entry);
            }
            continue;
        }
        match client.receive() {
            Ok((cookie, Ok(_))) => {
                ledger.acknowledge(&in_flight.remove(&cookie).expect("ours"));
                acknowledged += 1;
            }
            Ok((_, Err(error))) => panic!("a command was answered with error {error}"),
            Err(error) if server.is_some() => panic!("the connection broke before the kill: {error}"),
            Err(_) => break,
        }
    }
    acknowledged
}

/// Writes for some time and waits for every answer.
fn load(server: &Server, ledger: &mut Ledger, dice: &mut Dice, time: Duration) {
    let mut client = server.connect();
    let began = Instant::now();
    while began.elapsed() < time {
        let Some((command, entry)) = ledger.next_command(dice) else { continue };
        client.done(&command);
        ledger.acknowledge(&entry);
    }
}

/// Reads everything and compares it with the ledger.
fn verify(server: &Server, ledger: &mut Ledger, when: &str) {
    let bytes = server.connect().read(0, ledger.bytes() as usize);
    let breaches = ledger.settle(0, &bytes);
    let shown = &breaches[..breaches.len().min(8)];
    assert!(breaches.is_empty(), "{when}: {} sectors are wrong:\n{}", breaches.len(), shown.join("\n"));
}

fn fio_on_the_upper_half(server: &Server, half_bytes: u64) -> std::process::Child {
    timed("fio")
        .args([
            "--name=upper",
            "--ioengine=nbd",
            "--rw=randwrite",
            "--iodepth=32",
            "--time_based",
            "--runtime=60",
        ])
        .args([
            "--bsrange=512-256k",
            "--blockalign=512",
            "--verify=crc32c",
            "--verify_backlog=64",
            "--verify_fatal=1",
            "--verify_state_save=0",
        ])
        .arg(format!("--uri={}", server.uri()))
        .args([format!("--offset={half_bytes}"), format!("--size={half_bytes}")])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fio is installed by scripts/setup test")
}
