//! The effect of a piece's result on its operation.

use super::piece::{Piece, Way};
use crate::ring::nvme::{Outcome, outcome};
use crate::ring::{MemberIo, MemberOp};

/// The meaning of the kernel's result for a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The whole piece was done.
    Done,
    /// A part of the piece is still to be done.
    Rest(Piece),
    /// The device refuses transfers like this one, perhaps only without blocking.
    Refused,
    /// The device does not support deallocation, which is only advice.
    Unsupported,
    /// The piece failed, with a positive `errno`.
    Failed(i32),
}

/// Judges a result according to the way that the piece took.
pub(super) fn judge(op: &MemberOp, piece: Piece, result: i32) -> Verdict {
    match piece.way {
        Way::File => judge_file(op, piece, result),
        Way::Passthrough => match outcome(result) {
            Outcome::Done => Verdict::Done,
            Outcome::Again => Verdict::Rest(piece),
            Outcome::Elsewhere => Verdict::Rest(piece.by_file()),
            Outcome::Failed(error) => Verdict::Failed(error),
        },
    }
}

fn judge_file(op: &MemberOp, piece: Piece, result: i32) -> Verdict {
    match (op.io, result) {
        (_, error) if error == -libc::EAGAIN || error == -libc::EINTR => Verdict::Rest(piece),
        (MemberIo::Deallocate, error) if is_unsupported(-error) => Verdict::Unsupported,
        (MemberIo::Read | MemberIo::Write(_), error) if error == -libc::EOPNOTSUPP => Verdict::Refused,
        (_, error) if error < 0 => Verdict::Failed(-error),
        (MemberIo::Flush | MemberIo::Deallocate, _) => Verdict::Done,
        // End of file, or no room to write: a retry would get the same answer.
        (MemberIo::Read, 0) => Verdict::Failed(libc::EIO),
        (MemberIo::Write(_), 0) => Verdict::Failed(libc::ENOSPC),
        (MemberIo::Read | MemberIo::Write(_), transferred) => match piece.after(transferred as u32) {
            Some(rest) => Verdict::Rest(rest),
            None => Verdict::Done,
        },
    }
}

/// Whether an error means that a deallocation is not supported; kernels and file systems report that
/// differently.
fn is_unsupported(error: i32) -> bool {
    [libc::EOPNOTSUPP, libc::EINVAL, libc::ENOTTY, libc::ENOSYS].contains(&error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Durability;
    use crate::ring::uring::tests::op;

    #[test]
    fn results_are_judged() {
        let read = op(MemberIo::Read, 8192);
        let write = op(MemberIo::Write(Durability::Cached), 8192);
        let flush = op(MemberIo::Flush, 0);
        let deallocate = op(MemberIo::Deallocate, 8192);
        let whole = Piece::whole(&read, Way::File);
        let rest = whole.after(4096).unwrap();
        for (op, result, expected) in [
            (&read, 8192, Verdict::Done),
            (&read, 4096, Verdict::Rest(rest)),
            (&read, 0, Verdict::Failed(libc::EIO)),
            (&read, -libc::EAGAIN, Verdict::Rest(whole)),
            (&read, -libc::EINTR, Verdict::Rest(whole)),
            (&read, -libc::EIO, Verdict::Failed(libc::EIO)),
            (&write, 0, Verdict::Failed(libc::ENOSPC)),
            (&write, -libc::EINVAL, Verdict::Failed(libc::EINVAL)),
            (&write, -libc::EOPNOTSUPP, Verdict::Refused),
            (&flush, 0, Verdict::Done),
            (&deallocate, 0, Verdict::Done),
            (&deallocate, -libc::EOPNOTSUPP, Verdict::Unsupported),
            (&deallocate, -libc::EIO, Verdict::Failed(libc::EIO)),
        ] {
            assert_eq!(judge(op, whole, result), expected, "{:?} {result}", op.io);
        }
    }

    #[test]
    fn a_drive_s_refusal_is_put_to_the_block_device() {
        let read = op(MemberIo::Read, 8192);
        let whole = Piece::whole(&read, Way::Passthrough);
        for (result, expected) in [
            (0, Verdict::Done),
            (-libc::EAGAIN, Verdict::Rest(whole)),
            (-libc::EINVAL, Verdict::Rest(Piece::whole(&read, Way::File))),
            (0x281, Verdict::Failed(libc::ENODATA)),
        ] {
            assert_eq!(judge(&read, whole, result), expected, "{result:#x}");
        }
    }
}
