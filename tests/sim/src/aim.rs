//! A single fault, aimed at the n-th operation of a kind on a spot of a member.
//!
//! | fault | when | what the level must tolerate |
//! |---|---|---|
//! | Error, Busy | at the end | nothing landed; the answer is `EIO` or `EAGAIN` |
//! | Torn | at the end | some of the blocks landed; the answer is `EIO` |
//! | Landed | at the end | all of it landed; the answer is `EIO` all the same |
//! | Latent | at the end of a read | the blocks cannot be read until they are rewritten |
//! | Slow, Stuck | from the beginning | the operation ends after 2 s, after 20 s |
//! | Death | at the end | the member is dead, and this operation fails with it |
//! | CutBefore, CutAfter | in flight, at the end | the power goes |
//! | Lost, Misdirected, Flip | end of a metadata write | success; not written, or elsewhere, or a bit wrong |
//!
//! "Elsewhere" is the other place of the same block. The last three faults are aimed at metadata only: strips
//! carry no checksums, and a level cannot survive an error that it cannot notice.

use crate::disk::{Place, ZoneKind};
use engine::geometry::Geometry;
use engine::ring::{Durability, MemberIo};

/// A fault; see the table above.
#[expect(missing_docs, reason = "the table above names each")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Error,
    Busy,
    Torn,
    Landed,
    Latent,
    Slow,
    Stuck,
    Death,
    CutBefore,
    CutAfter,
    Lost,
    Misdirected,
    Flip,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Fault; 13] = [
        Fault::Error,
        Fault::Busy,
        Fault::Torn,
        Fault::Landed,
        Fault::Latent,
        Fault::Slow,
        Fault::Stuck,
        Fault::Death,
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::Lost,
        Fault::Misdirected,
        Fault::Flip,
    ];
}

impl Fault {
    /// Whether the member reports success for something that did not happen as reported.
    #[must_use]
    pub const fn is_a_lie(self) -> bool {
        matches!(self, Fault::Lost | Fault::Misdirected | Fault::Flip)
    }

    /// Whether the member may have to leave the array because of this fault.
    #[must_use]
    pub const fn may_cost_a_member(self) -> bool {
        match self {
            Fault::Error | Fault::Busy | Fault::Torn | Fault::Landed | Fault::Stuck | Fault::Death => true,
            Fault::Latent | Fault::Slow | Fault::CutBefore | Fault::CutAfter => false,
            Fault::Lost | Fault::Misdirected | Fault::Flip => false,
        }
    }
}

/// The spot on a member that an operation touches.
#[expect(missing_docs, reason = "the zones, and what a strip is in its stripe")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    SuperblockA,
    SuperblockB,
    BitmapEven,
    BitmapOdd,
    Data,
    P,
    Q,
    Device,
}

/// The kind of operation that a member is asked for.
#[expect(missing_docs, reason = "the operations")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    Read,
    Write,
    Durable,
    Flush,
    Deallocate,
}

impl Ask {
    /// The kind of an operation.
    #[must_use]
    pub const fn of(io: MemberIo) -> Ask {
        match io {
            MemberIo::Read => Ask::Read,
            MemberIo::Write(Durability::Cached) => Ask::Write,
            MemberIo::Write(Durability::Durable) => Ask::Durable,
            MemberIo::Flush => Ask::Flush,
            MemberIo::Deallocate => Ask::Deallocate,
        }
    }
}

/// The spot of an operation on the member in `slot`.
#[must_use]
pub fn spot_of(place: Option<Place>, geometry: &Geometry, slot: Option<u8>) -> Option<Spot> {
    let Some(place) = place else { return Some(Spot::Device) };
    Some(match place.zone {
        ZoneKind::Superblock if place.offset_in_zone == 0 => Spot::SuperblockA,
        ZoneKind::Superblock => Spot::SuperblockB,
        ZoneKind::Bitmap if place.offset_in_zone / 4096 % 2 == 0 => Spot::BitmapEven,
        ZoneKind::Bitmap => Spot::BitmapOdd,
        ZoneKind::Log | ZoneKind::List | ZoneKind::Around => return None,
        ZoneKind::Data => {
            let stripe = place.offset_in_zone / u64::from(geometry.chunk_bytes());
            let strip = geometry.rotation(stripe).strip_on(slot?);
            if geometry.data_strips().has(strip) {
                Spot::Data
            } else if strip == geometry.p() {
                Spot::P
            } else {
                Spot::Q
            }
        }
    })
}

/// A fault that waits for its operation.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    /// The fault.
    pub fault: Fault,
    /// The spot on the member that it is aimed at.
    pub spot: Spot,
    /// The kind of operation that it is aimed at.
    pub ask: Ask,
    /// A disk that the fault never hits.
    pub spared: Option<usize>,
    /// Number of matching operations to let pass first.
    pub after: u64,
    /// Once the fault was hit: the place of the operation.
    pub hit: Option<Option<Place>>,
}

/// The state of the array, or of the stripe that is hit.
#[expect(missing_docs, reason = "the states of the matrix")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Synced,
    NeedSync,
    Unwritten,
    Degraded,
    Rebuilding,
}

impl State {
    /// Every state.
    pub const ALL: [State; 5] =
        [State::Synced, State::NeedSync, State::Unwritten, State::Degraded, State::Rebuilding];
}

impl Aim {
    /// Whether this operation is hit. Counts down the operations to let pass.
    pub fn is_hit(&mut self, disk: usize, place: Option<Place>, spot: Option<Spot>, ask: Ask) -> bool {
        if self.hit.is_some() || spot != Some(self.spot) || ask != self.ask || self.spared == Some(disk) {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        self.hit = Some(place);
        true
    }
}
