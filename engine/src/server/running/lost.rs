//! The lost data of an array, as an operator asks for it: listed rows, and strips of unsynced stripes whose slot is missing.

use crate::array::Shared;
use crate::format::lost_rows::LostRange;
use crate::geometry::{Geometry, Strips};
use crate::members::MemberView;
use crate::status::{Health, LOST_PIECES_SHOWN, LostPieces, LostRowsStatus, add_piece};

use super::Server;

/// Pieces in one answer: each is at most 40 letters of JSON.
const PIECES_MAX: usize = 1_000;

/// Stripes that need a resync and cannot have one, since a data strip is on a slot that is not there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LostStripes {
    pub(super) stripes: u64,
    /// Bytes of their strips that are not there.
    pub(super) bytes: u64,
}

impl Shared {
    /// The data strips of a stripe without valid parity that are on no readable member: nothing can compute them.
    pub(in crate::server) fn lost_strips(&self, view: &MemberView, stripe: u64) -> Strips {
        let readable = self.members.readable_at(*view, stripe, true);
        self.geometry.data_strips().minus(self.geometry.rotation(stripe).strips_on(readable))
    }
}

/// The next unsynced stripe that may lack a strip. There is none while every slot is readable, which spares a search of the bitmap.
fn next_unsynced(shared: &Shared, view: &MemberView, from: u64) -> Option<u64> {
    let is_whole = view.readable == shared.geometry.slots();
    if is_whole { None } else { shared.bitmap.next_need_sync(from) }
}

/// Counts them. Takes time in proportion to the stripes that need a resync, unless every slot is readable.
pub(super) fn lost_stripes(shared: &Shared, view: &MemberView) -> LostStripes {
    let mut lost = LostStripes::default();
    let mut from = 0;
    while let Some(stripe) = next_unsynced(shared, view, from) {
        let strips = shared.lost_strips(view, stripe);
        lost.stripes += u64::from(!strips.is_empty());
        lost.bytes += u64::from(strips.count()) * u64::from(shared.geometry.chunk_bytes());
        from = stripe + 1;
    }
    lost
}

/// The listed pieces of one stripe, as a host addresses them: first byte and length.
fn listed_pieces<'a>(
    ranges: &'a [LostRange],
    geometry: &'a Geometry,
    stripe: u64,
) -> impl Iterator<Item = (u64, u64)> + 'a {
    let is_lost = move |range: &&LostRange| {
        (range.stripe..range.end()).contains(&stripe) && geometry.is_data(stripe, range.slot)
    };
    ranges.iter().filter(is_lost).map(move |range| {
        let strip = geometry.rotation(stripe).strip_on(range.slot);
        (strip_at(geometry, stripe, strip) + u64::from(range.row), range.rows.into())
    })
}

/// The first byte of a data strip, as a host addresses it.
fn strip_at(geometry: &Geometry, stripe: u64, strip: u8) -> u64 {
    stripe * u64::from(geometry.stripe_bytes()) + u64::from(strip) * u64::from(geometry.chunk_bytes())
}

impl Server {
    /// The list of lost rows, as a host addresses them.
    pub(super) fn lost_rows(&self) -> LostRowsStatus {
        let lost = &self.shared.lost;
        LostRowsStatus {
            bytes: lost.bytes(),
            pieces: lost.pieces(LOST_PIECES_SHOWN),
            is_full: lost.is_full(),
        }
    }

    /// The health of an array of which so many bytes are lost.
    pub(super) fn health(&self, view: &MemberView, lost_bytes: u64) -> Health {
        let geometry = &self.shared.geometry;
        let missing = geometry.slots().minus(view.readable).count();
        if self.shared.failed() {
            Health::Failed
        } else if lost_bytes > 0 {
            Health::DataLost
        } else if missing == 0 {
            Health::Optimal
        } else if missing == u32::from(geometry.parities()) {
            Health::NoRedundancy
        } else {
            Health::Degraded
        }
    }

    /// The first pieces that are lost in stripes from `from_stripe` on, in order; pieces that touch are one.
    #[must_use]
    pub fn lost_pieces(&self, from_stripe: u64) -> LostPieces {
        let (shared, geometry) = (&self.shared, &self.shared.geometry);
        let (view, ranges) = (shared.members.view(), shared.lost.ranges());
        let mut lost = LostPieces::default();
        let mut from = from_stripe;
        loop {
            let unsynced = next_unsynced(shared, &view, from);
            let next = [unsynced, shared.lost.next_stripe(from)].into_iter().flatten().min();
            let Some(stripe) = next else { return lost };
            if lost.pieces.len() >= PIECES_MAX {
                return LostPieces { next_stripe: Some(stripe), ..lost };
            }
            let mut pieces: Vec<(u64, u64)> = listed_pieces(&ranges, geometry, stripe).collect();
            if unsynced == Some(stripe) {
                let strips = shared.lost_strips(&view, stripe);
                let chunk = u64::from(geometry.chunk_bytes());
                pieces.extend(strips.iter().map(|strip| (strip_at(geometry, stripe, strip), chunk)));
            }
            pieces.sort_unstable();
            pieces.into_iter().for_each(|piece| add_piece(&mut lost.pieces, piece));
            from = stripe + 1;
        }
    }
}
