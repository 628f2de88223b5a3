//! Lost data of an array for an operator: listed rows, and the strips of unsynced stripes whose slot is
//! missing.

use crate::array::Shared;
use crate::format::lost_rows::LostRange;
use crate::geometry::{Geometry, Strips};
use crate::members::MemberView;
use crate::status::{Health, LOST_PIECES_SHOWN, LostPieces, LostRowsStatus, add_piece};

use super::Server;

/// Most pieces in one answer; a piece takes at most 40 characters of JSON.
const PIECES_MAX: usize = 1_000;

/// Stripes that need a resync and cannot be resynced, since the slot of a data strip is missing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LostStripes {
    pub(super) stripes: u64,
    /// Bytes of the missing strips of these stripes.
    pub(super) bytes: u64,
}

impl Shared {
    /// The data strips of an unsynced stripe that are on no readable member: they cannot be computed.
    pub(in crate::server) fn lost_strips(&self, view: &MemberView, stripe: u64) -> Strips {
        let readable = self.members.readable_at(*view, stripe, true);
        self.geometry.data_strips().minus(self.geometry.rotation(stripe).strips_on(readable))
    }
}

/// The next unsynced stripe that may lack a strip. While every slot is readable there is none, and the bitmap
/// is not searched.
fn next_unsynced(shared: &Shared, view: &MemberView, from: u64) -> Option<u64> {
    let is_whole = view.readable == shared.geometry.slots();
    if is_whole { None } else { shared.bitmap.next_need_sync(from) }
}

/// Counts the lost stripes. The time grows with the number of unsynced stripes, unless every slot is
/// readable.
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

/// The listed pieces of one stripe, in host addresses: first byte and length.
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

/// The first byte of a data strip, in host addresses.
fn strip_at(geometry: &Geometry, stripe: u64, strip: u8) -> u64 {
    stripe * u64::from(geometry.stripe_bytes()) + u64::from(strip) * u64::from(geometry.chunk_bytes())
}

impl Server {
    /// The list of lost rows, in host addresses.
    pub(super) fn lost_rows(&self) -> LostRowsStatus {
        let lost = &self.shared.lost;
        LostRowsStatus {
            bytes: lost.bytes(),
            pieces: lost.pieces(LOST_PIECES_SHOWN),
            is_full: lost.is_full(),
        }
    }

    /// The health of an array with this many lost bytes.
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

    /// The first lost pieces in stripes from `from_stripe` on, in order; pieces that touch are merged.
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
