//! One fault, aimed: at the n-th operation of a kind on a spot of a member.
//!
//! | fault | when | what a level must bear |
//! |---|---|---|
//! | Error, Busy | at the end | nothing landed, `EIO` or `EAGAIN` is said |
//! | Torn | at the end | some of its blocks landed, `EIO` is said |
//! | Landed | at the end | all of it landed, `EIO` is said all the same |
//! | Latent | at the end of a read | its blocks cannot be read until they are rewritten |
//! | Slow, Stuck | from its begin | it ends after 2 s, after 20 s |
//! | Death | at the end | the member is gone, this operation with it |
//! | CutBefore, CutAfter | in flight, at the end | the power goes |
//! | Lost, Misdirected, Flip | at the end of a metadata write | success is said; nothing landed, or in the block's other place, or with one bit wrong |
//!
//! The last three are asked of metadata only: strips carry no checksums, and a level cannot survive what nobody can
//! notice.

use crate::disk::{Place, ZoneKind};
use engine::geometry::Geometry;
use engine::ring::{Durability, MemberIo};

/// What goes wrong; see the table.
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
    /// All of them.
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
    /// Success is said of what did not happen so.
    #[must_use]
    pub const fn is_a_lie(self) -> bool {
        matches!(self, Fault::Lost | Fault::Misdirected | Fault::Flip)
    }

    /// Whether the member may have to leave the array for it.
    #[must_use]
    pub const fn may_cost_a_member(self) -> bool {
        match self {
            Fault::Error | Fault::Busy | Fault::Torn | Fault::Landed | Fault::Stuck | Fault::Death => true,
            Fault::Latent | Fault::Slow | Fault::CutBefore | Fault::CutAfter => false,
            Fault::Lost | Fault::Misdirected | Fault::Flip => false,
        }
    }
}

/// Where on a member.
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

/// What is asked of the member.
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
    /// Of an operation.
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
    /// What goes wrong.
    pub fault: Fault,
    /// Where.
    pub spot: Spot,
    /// At what.
    pub ask: Ask,
    /// Not on this disk.
    pub spared: Option<usize>,
    /// After so many others of the kind.
    pub after: u64,
    /// It has been hit: the place.
    pub hit: Option<Option<Place>>,
}

/// What an array, or the stripe that is hit, is in.
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
    /// All of them.
    pub const ALL: [State; 5] =
        [State::Synced, State::NeedSync, State::Unwritten, State::Degraded, State::Rebuilding];
}

impl Aim {
    /// Whether it is hit now; counts down.
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
