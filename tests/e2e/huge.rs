//! A huge array: the memory that it takes.
//!
//! Method: five sparse files of 4 TiB make a 16 TiB array, served with buffers of a known size. Oracle: the
//! kernel's account of the server's memory against the promise (64 MiB, a byte per stripe, and the buffers),
//! after the start and again after writes all over the array. A start is promised to take at most 2 s; a test
//! is no place for timing, so this one only prints it.

use std::time::Instant;

use crate::content::{assert_same, pattern};
use crate::lab::{Lab, Shape};

const MEMBER_BYTES: u64 = 4 << 40;
/// Data memory of the single reactor, as told to the server.
const BUFFER_BYTES: u64 = 64 << 20;

#[test]
fn sixteen_tebibytes_are_held_in_a_byte_a_stripe() {
    let lab = Lab::new();
    let shape = Shape { member_mib: MEMBER_BYTES >> 20, ..Shape::RAID5 };
    let array = lab.create("huge", shape);
    let began = Instant::now();
    let server = array.serve(&["--reactors", "1", "--memory", "64M"]);
    println!("ready after {:?}", began.elapsed());
    let mut client = server.connect();
    assert!(client.size_bytes > 4 * MEMBER_BYTES / 1000 * 999, "{} bytes", client.size_bytes);

    let stripes = client.size_bytes / shape.stripe_bytes();
    let promised = (64 << 20) + stripes + BUFFER_BYTES;
    let check = |when: &str| {
        let resident = server.resident_bytes();
        println!("{when}: {} MiB of {} MiB", resident >> 20, promised >> 20);
        assert!(resident <= promised, "{when}: {resident} bytes are resident, {promised} are promised");
    };
    check("after the start");
    // Writes from end to end, so that memory per stripe and per bitmap block is touched everywhere.
    let places = 256;
    let place = |index: u64| stripes / places * index * shape.stripe_bytes() + 8192;
    for index in 0..places {
        client.write(place(index), &pattern(index, place(index), 4096));
    }
    check("after writes");
    for index in 0..places {
        assert_same(
            "far apart",
            place(index),
            &client.read(place(index), 4096),
            &pattern(index, place(index), 4096),
        );
    }
    drop(client);
    server.stop();
}
