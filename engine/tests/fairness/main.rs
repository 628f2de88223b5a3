//! Nothing is overtaken for ever, whatever the array is short of.
//!
//! Method: clients that each keep one request in flight (a closed loop) keep one resource short: block
//! writes, memory, operations, parts, or places for reads. Oracle: the longest wait of any request, in turns
//! of the reactors, including requests that are still in flight at the end; no test looks at a clock. The
//! bounds are a few times what a queue in order needs. On the engine before these rules, or with one of them
//! removed, the wait lasts as long as the test.

mod crowd;

use std::sync::atomic::Ordering;

use bitmap::Cell;
use engine::array::Sizes;
use engine::request::RequestKind;

use crowd::{Crowd, Late, Shape};

const WRITE: RequestKind = RequestKind::Write { fua: false };
/// Sizes of a reactor with few operations and block writes.
const FEW: Sizes = Sizes { requests: 256, parts: 256, ops: 8, host_reads: 64, block_writes: 2 };

/// Scattered writes, each of which first needs a bitmap block of its own to be written. 16 blocks are written
/// at a time, each from its own memory. The blocks of the whole test have more bytes than that memory, so
/// memory is reused.
#[test]
fn block_writes_are_first_come_first_served() {
    let shape = Shape {
        stripes: 400 * bitmap::STRIPES_PER_BLOCK,
        cell: Cell::Clean,
        late: Late::Between(10, 10),
        op_memory_mib: 4,
        ..Shape::AMPLE
    };
    let mut crowd = Crowd::new(shape);
    crowd.join(64, 0, WRITE, 4096, crowd.anywhere());
    crowd.turns(1500);
    let longest = crowd.longest(0..64);
    assert!(longest < 120, "a write waited {longest} turns");
}

/// A write of 256 KiB among 200 writes of 64 KiB, which take every 64 KiB that becomes free.
#[test]
fn who_needs_much_memory_is_not_overtaken() {
    let mut crowd = Crowd::new(Shape { members: 10, parities: 2, ..Shape::AMPLE });
    crowd.join(200, 0, WRITE, 64 << 10, crowd.anywhere());
    crowd.join(1, 0, WRITE, 256 << 10, crowd.anywhere());
    crowd.turns(4000);
    let (small, large) = (crowd.longest(0..200), crowd.longest(200..201));
    assert!(small < 800 && large < 800, "64 KiB waited {small} turns, 256 KiB {large}");
}

/// 1000 clients and 160 operations: an operation that becomes free goes to a request that waits, not to the
/// next that arrives.
#[test]
fn operations_are_first_come_first_served() {
    let mut crowd = Crowd::new(Shape { op_memory_mib: 256, late: Late::Between(2, 3), ..Shape::AMPLE });
    crowd.join(1000, 0, WRITE, 4096, crowd.anywhere());
    crowd.turns(1000);
    let longest = crowd.longest(0..1000);
    assert!(longest < 120, "a write waited {longest} turns");
}

/// As many stripes as there are operations are in constant use. A client of one more stripe still gets an
/// operation.
#[test]
fn a_busy_operation_gives_way() {
    let mut crowd = Crowd::new(Shape { sizes: FEW, ..Shape::AMPLE });
    for stripe in 0..8 {
        crowd.join(6, 0, WRITE, 4096, crowd.bytes_of(stripe * 7..stripe * 7 + 1));
    }
    crowd.turns(100);
    crowd.join(1, 0, WRITE, 4096, crowd.bytes_of(1000..1001));
    crowd.turns(3000);
    let longest = crowd.longest(0..49);
    assert!(longest < 800, "a write waited {longest} turns");
}

/// A read and a discard of a stripe that is written without pause are answered.
#[test]
fn a_hot_stripe_keeps_no_read_and_no_discard_waiting() {
    let mut crowd = Crowd::new(Shape { filling: Some(1), ..Shape::AMPLE });
    let hot = crowd.bytes_of(16_000..16_001);
    let whole = u64::from(crowd.shared.geometry.stripe_bytes());
    crowd.join(100, 0, WRITE, 4096, hot.clone());
    crowd.turns(200);
    crowd.join(1, 0, RequestKind::Read, whole, hot.clone());
    crowd.join(1, 0, RequestKind::Discard, whole, hot);
    crowd.turns(3000);
    let longest = crowd.longest(0..102);
    assert!(longest < 800, "a request waited {longest} turns");
}

/// A request of 86 parts, among small ones that take every part that becomes free.
#[test]
fn parts_are_first_come_first_served() {
    let sizes = Sizes { parts: 64, ops: 64, ..FEW };
    let mut crowd = Crowd::new(Shape { chunk_bytes: 4096, sizes, late: Late::Between(1, 2), ..Shape::AMPLE });
    crowd.join(150, 0, WRITE, 4096, crowd.anywhere());
    crowd.turns(50);
    crowd.join(1, 0, WRITE, 1 << 20, crowd.anywhere());
    crowd.turns(2000);
    let (small, large) = (crowd.longest(0..150), crowd.longest(150..151));
    assert!(small < 100 && large < 600, "4 KiB waited {small} turns, 1 MiB {large}");
}

/// A read of 16 strips at once, among small reads that take every place that becomes free.
#[test]
fn reads_are_first_come_first_served() {
    let sizes = Sizes { host_reads: 32, ..FEW };
    let mut crowd = Crowd::new(Shape { members: 18, parities: 2, chunk_bytes: 4096, sizes, ..Shape::AMPLE });
    crowd.join(150, 0, RequestKind::Read, 4096, crowd.anywhere());
    crowd.turns(50);
    crowd.join(1, 0, RequestKind::Read, 64 << 10, crowd.anywhere());
    crowd.turns(3000);
    let (small, large) = (crowd.longest(0..150), crowd.longest(150..151));
    assert!(small < 400 && large < 400, "4 KiB waited {small} turns, 64 KiB {large}");
}

/// Two reactors have more requests for a stripe of reactor 0 than reactor 0 has parts.
#[test]
fn guests_leave_room_for_a_reactor_s_own_requests() {
    let sizes = Sizes { parts: 64, ..FEW };
    let mut crowd = Crowd::new(Shape { reactors: 3, sizes, ..Shape::AMPLE });
    let hot = crowd.bytes_of(5..6);
    crowd.join(4, 0, WRITE, 4096, hot.clone());
    crowd.turns(3);
    crowd.join(60, 1, WRITE, 4096, hot.clone());
    crowd.join(60, 2, WRITE, 4096, hot);
    crowd.turns(200);
    crowd.join(4, 0, WRITE, 4096, crowd.bytes_of(100..200));
    crowd.turns(2000);
    let longest = crowd.longest(0..128);
    assert!(longest < 800, "a write waited {longest} turns");
}

/// A slot is filled while one stripe is constantly in use: by the steward's own reactor, by another, or by
/// two.
#[test]
fn a_hot_stripe_does_not_hold_up_a_rebuild() {
    for owners in [&[0][..], &[1], &[0, 1], &[1, 2]] {
        let shape = Shape { stripes: 400, chunk_bytes: 4096, reactors: 3, ..Shape::AMPLE };
        let mut crowd = Crowd::new(Shape { filling: Some(2), ..shape });
        for &reactor in owners {
            crowd.join(3, reactor, WRITE, 4096, crowd.bytes_of(100..101));
        }
        crowd.turns(12_000);
        let (members, stripes) = (&crowd.shared.members, crowd.shared.geometry.stripes());
        let is_filled = members.view().readable.has(2) || members.cursor() == stripes;
        assert!(is_filled, "the rebuild stands at {}; owners {owners:?}", members.cursor());
        let longest = crowd.longest(0..3 * owners.len());
        assert!(longest < 400, "a write waited {longest} turns; owners {owners:?}");
    }
}

/// The only unsynced stripe is the last of many: the search takes several turns.
#[test]
fn a_resync_looks_at_a_bounded_number_of_cells_in_a_turn() {
    let stripes = 40 * bitmap::STRIPES_PER_BLOCK;
    let late = Late::Between(1, 1);
    let mut crowd = Crowd::new(Shape { stripes, late, last_is_unsynced: true, ..Shape::AMPLE });
    let done = |crowd: &Crowd| crowd.shared.bitmap.next_need_sync(0).is_none();
    let mut turns = 0;
    while !done(&crowd) {
        crowd.turns(1);
        turns += 1;
        assert!(turns < 1000, "a resync does not come to the last stripe");
    }
    assert!(turns > 8, "{stripes} cells in {turns} turns");
    assert_eq!(crowd.shared.steward.resync_done.load(Ordering::Relaxed), 1);
}

/// A slot is filled from members that each carry out two operations per turn. One client reads at another
/// reactor, one request at a time. A rebuild alone has 32 stripes in flight, and beside a client only a few.
#[test]
fn a_rebuild_leaves_a_lone_client_its_share() {
    let shape = Shape { reactors: 2, filling: Some(2), late: Late::PerTurn(2), ..Shape::AMPLE };
    let mut crowd = Crowd::new(shape);
    crowd.join(1, 1, RequestKind::Read, 4096, crowd.anywhere());
    crowd.turns(500);
    crowd.clients[0].longest = 0;
    crowd.turns(3000);
    let longest = crowd.longest(0..1);
    assert!(longest <= 12, "a read waited {longest} turns");
    assert!(crowd.written(2) > 500, "the rebuild has its share too: {} stripes", crowd.written(2));
}

/// Beside a thousand clients, a rebuild keeps a significant share of each member's operations.
#[test]
fn a_thousand_clients_leave_a_rebuild_its_share() {
    let shape = Shape { stripes: 40_000, filling: Some(2), late: Late::PerTurn(8), ..Shape::AMPLE };
    let mut crowd = Crowd::new(shape);
    crowd.join(1000, 0, RequestKind::Read, 4096, crowd.anywhere());
    crowd.turns(4000);
    let (filled, answers) = (crowd.written(2), crowd.answers(0..1000));
    assert!(filled > 8 * 4000 / 60, "{filled} stripes in 4000 turns of 8 operations");
    assert!(answers > 8 * 4000, "{answers} reads");
}
