//! Reading pieces of rows anew that background work may have to give up: how often, and why, is in stripe/vain.rs.

use std::sync::atomic::Ordering;

use crate::geometry::Strips;
use crate::request::RequestError;
use crate::ring::Ring;
use crate::stripe::vain::LATE;

use super::{Array, Phase};

/// An operation that waits before it reads a piece anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reread {
    pub(super) due_ns: u64,
    op: u32,
}

impl Array {
    /// The members that failed the last read of a piece can read another block: the piece is read anew after a while, or was read
    /// often enough and is given up.
    pub(super) fn read_in_vain(&mut self, index: u32) {
        match self.ops[index].vain.wait_ns() {
            Some(wait_ns) => {
                self.ops[index].phase = Phase::AwaitingReread;
                self.rereads.push_back(Reread { due_ns: self.now_ns + wait_ns, op: index });
            }
            None => self.list_rows(index),
        }
    }

    /// Whether a piece that could not be read is looked at more closely.
    pub(super) fn looks_closely(&mut self, index: u32) -> bool {
        let op = &mut self.ops[index];
        if !op.vain.note_read(op.suspects) {
            return false;
        }
        if op.vain.is_first() {
            let Some(left) = op.pieces_left.checked_sub(1) else { return false };
            op.pieces_left = left;
        }
        true
    }

    /// Reads the pieces anew whose wait is over.
    pub(super) fn reread_pieces<R: Ring>(&mut self, ring: &mut R) {
        let ends = self.shared.failed() || self.shared.steward.is_stopping.load(Ordering::Relaxed);
        for _ in 0..self.rereads.len() {
            let reread = self.rereads.pop_front().expect("counted");
            let index = reread.op;
            let op = &mut self.ops[index];
            let others_wait = self.short.ops || !op.waiting.is_empty();
            if others_wait {
                op.pieces_left = 0;
            }
            if ends {
                self.finish(index, Err(RequestError::Lost));
            } else if others_wait && op.job.is_none_or(|job| job.attempt() < LATE) {
                let end = op.row_next;
                self.pass_by(ring, index, end);
            } else if self.now_ns < reread.due_ns {
                self.rereads.push_back(reread);
            } else {
                op.suspects = Strips::NONE;
                self.replan(ring, index);
            }
        }
    }
}
