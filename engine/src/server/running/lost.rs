//! What of an array's data nobody can compute, as an operator asks for it.

use crate::array::Shared;
use crate::geometry::Strips;
use crate::members::MemberView;
use crate::status::{Health, LOST_PIECES_SHOWN, LostPieces, LostRowsStatus, add_piece};

use super::Server;

/// Pieces in one answer: each is at most 40 letters of JSON.
const PIECES_MAX: usize = 1_000;

/// Stripes that need a resync and cannot have one, since a data strip is on a slot that is not there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LostStripes {
    pub(super) stripes: u64,
    /// Their strips that are not there.
    pub(super) bytes: u64,
}

impl Shared {
    /// The data strips of a stripe without valid parity that are on no readable member: nothing can compute them.
    pub(in crate::server) fn lost_strips(&self, view: &MemberView, stripe: u64) -> Strips {
        let readable = self.members.readable_at(*view, stripe, true);
        self.geometry.data_strips().minus(self.geometry.rotation(stripe).strips_on(readable))
    }
}

impl Server {
    pub(super) fn lost_stripes(&self, view: &MemberView) -> LostStripes {
        let mut lost = LostStripes::default();
        let mut from = 0;
        while let Some(stripe) = self.shared.bitmap.next_need_sync(from) {
            let strips = self.shared.lost_strips(view, stripe);
            lost.stripes += u64::from(!strips.is_empty());
            lost.bytes += u64::from(strips.count()) * u64::from(self.shared.geometry.chunk_bytes());
            from = stripe + 1;
        }
        lost
    }

    /// What is listed as lost, as a host addresses it.
    pub(super) fn lost_rows(&self) -> LostRowsStatus {
        let lost = &self.shared.lost;
        LostRowsStatus {
            bytes: lost.bytes(),
            pieces: lost.pieces(LOST_PIECES_SHOWN),
            is_full: lost.is_full(),
        }
    }

    /// How well the array is, where so many bytes are lost.
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
        let view = shared.members.view();
        let mut lost = LostPieces::default();
        let mut from = from_stripe;
        loop {
            let next = [shared.bitmap.next_need_sync(from), shared.lost.next_stripe(from)];
            let Some(stripe) = next.into_iter().flatten().min() else { return lost };
            if lost.pieces.len() >= PIECES_MAX {
                return LostPieces { next_stripe: Some(stripe), ..lost };
            }
            let mut pieces = shared.lost.pieces_of(stripe);
            if next[0] == Some(stripe) {
                let chunk = u64::from(geometry.chunk_bytes());
                let at = |strip: u8| stripe * u64::from(geometry.stripe_bytes()) + u64::from(strip) * chunk;
                pieces.extend(self.shared.lost_strips(&view, stripe).iter().map(|strip| (at(strip), chunk)));
            }
            pieces.sort_unstable();
            pieces.into_iter().for_each(|piece| add_piece(&mut lost.pieces, piece));
            from = stripe + 1;
        }
    }
}
