//! Nothing is overtaken for ever, whatever the array is short of.
//!
//! Method: clients that each have a request in flight at all times (a closed loop) keep one thing short: block writes, memory,
//! operations, parts, places for reads. The oracle is the longest wait of any request, in turns of the reactors, also of
//! those that are still in flight at the end; no test looks at a clock. The bounds are some times what a queue in order needs:
//! on the engine before these rules each wait went on for as long as the test did.

mod crowd;

use bitmap::Cell;
use engine::array::Sizes;
use engine::request::RequestKind;

use crowd::{Crowd, Late, Shape};

const WRITE: RequestKind = RequestKind::Write { fua: false };

/// Scattered writes, each of which needs a bitmap block of its own to be written first. 16 are written at a time.
#[test]
fn block_writes_are_first_come_first_served() {
    let shape = Shape {
        stripes: 400 * bitmap::STRIPES_PER_BLOCK,
        cell: Cell::Clean,
        late: Late::Between(10, 10),
        ..Shape::AMPLE
    };
    let mut crowd = Crowd::new(shape);
    crowd.join(64, 0, WRITE, 4096, crowd.anywhere());
    crowd.turns(600);
    let longest = crowd.longest(0..64);
    assert!(longest < 120, "a write waited {longest} turns");
}
