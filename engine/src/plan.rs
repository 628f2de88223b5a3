//! The planner: decides what a write or a read of some rows of a stripe must do. The functions are pure, and
//! all callers use their answers.
//!
//! **The first law is decided here and nowhere else:** parity is an input, to read-modify-write or to
//! reconstruction, only where [`Trust::Trusted`] says so. The strips of an unwritten stripe, parity included,
//! hold whatever the device held before; the parity of an unsynced stripe does not match its data.
//!
//! A plan is for one range of rows in which the same data strips are written, and contains its own read set.
//! The reader reads exactly that set. (Three livelocks of Linux md came from a planner and a fetcher that
//! each answered the same question.)
//!
//! A strip is *readable* if its member holds what it should there, and *writable* if the member takes writes.
//! A failed or missing member is neither. A member being rebuilt is writable everywhere and readable below
//! its cursor. A strip whose read has just failed is writable but not readable.
//!
//! | trust | what is lost | plan |
//! |---|---|---|
//! | Unwritten | - | `Init`: the written strips, zeros in the others, parity of that |
//! | Trusted | nothing | `Full`, or the cheaper of `Rmw` and `Rcw` |
//! | Trusted | written strips only | `Rcw`: the others give the parity that now stands for them |
//! | Trusted | untouched strips only | `Rmw`: parity keeps standing for them |
//! | Trusted | both, or parity is unreadable | `Degraded`: reconstruct the old rows first |
//! | NeedSync | no data strip, or only wholly overwritten ones | `Resync`: `Rcw` over every row |
//! | NeedSync | data strips that the write does not touch | `DataOnly`: parity stays untrusted |
//! | NeedSync | a data strip, written in part | refused |
//! | any | more than the level tolerates | refused |

use crate::geometry::Strips;

/// The cell's statement about the stripe's strips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The stripe was never written: it reads as zeros, and its strips hold garbage.
    Unwritten,
    /// Parity matches data.
    Trusted,
    /// The stripe is unsynced: data strips hold data, but parity does not match.
    NeedSync,
}

/// A stripe as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// All data strips.
    pub data: Strips,
    /// All parity strips.
    pub parity: Strips,
    /// Whether parity may be used.
    pub trust: Trust,
    /// Strips that may be read.
    pub readable: Strips,
    /// Strips that take writes.
    pub writable: Strips,
}

/// The plan for one range of rows of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Every data strip is written: parity from the new data alone.
    Full,
    /// Read the untouched data strips and generate parity anew.
    Rcw {
        /// Strips to read: the data strips that are not written.
        read: Strips,
    },
    /// Read the old data and the old parity, and apply the difference.
    Rmw {
        /// Strips to read: the written strips and the parities.
        read: Strips,
    },
    /// First write of the stripe: fill `zero` with zeros, and make parity from the new data alone.
    Init {
        /// Data strips that are filled with zeros.
        zero: Strips,
    },
    /// Like `Rcw`, on a stripe whose parity is untrusted and becomes right.
    Resync {
        /// Strips to read: the data strips that are not written.
        read: Strips,
    },
    /// Read the readable strips, reconstruct the lost data strips, then generate parity anew.
    Degraded {
        /// Strips to read: every readable data strip and as many parities as needed.
        read: Strips,
        /// The data strips to reconstruct.
        recover: Strips,
    },
    /// Write the data and leave the untrusted parity alone.
    DataOnly,
    /// Refuse the write: it cannot be done without a guess.
    Refused,
}

/// The decision about a write to an unsynced stripe as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// Every row can be made consistent.
    Heal,
    /// A lost data strip that is not touched keeps parity untrusted.
    DataOnly,
    /// A lost data strip would be partly written.
    Refused,
}

/// The plan for a read of some data strips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPlan {
    /// Return zeros, without I/O.
    Zeros,
    /// Read the wanted strips: all are readable.
    Direct,
    /// Read `read`, which contains the readable ones among the wanted, and reconstruct `recover`.
    Recover {
        /// Strips to read.
        read: Strips,
        /// All unreadable data strips, wanted or not: each is an unknown in the equations.
        recover: Strips,
    },
    /// Fail the read: it cannot be done without a guess.
    Lost,
}

impl View {
    /// The data strips that are not readable.
    #[must_use]
    pub const fn lost_data(&self) -> Strips {
        self.data.minus(self.readable)
    }

    /// The strips to read to reconstruct `lost_data`, if parity is trusted and suffices: all other data
    /// strips, and P (Q if P is lost too), or both parities for two lost strips.
    const fn recovery(&self) -> Option<Strips> {
        let lost = self.lost_data().count();
        let parity = self.parity.and(self.readable);
        if !matches!(self.trust, Trust::Trusted) || lost > parity.count() {
            return None;
        }
        let used = match lost {
            0 => Strips::NONE,
            1 => Strips(parity.0 & parity.0.wrapping_neg()),
            _ => parity,
        };
        Some(self.data.and(self.readable).or(used))
    }
}

/// Plans a write of the data strips `written` in some rows. `unsynced` is the answer of [`unsynced`] for the
/// whole write; it is used only for an unsynced stripe.
#[must_use]
pub const fn plan_write(view: &View, written: Strips, unsynced: Unsynced) -> Plan {
    let untouched = view.data.minus(written);
    let parity = view.parity.and(view.writable);
    // More members are gone than there are parities, so what we write might not be readable later.
    let gone = view.data.or(view.parity).minus(view.writable);
    if !gone.is_empty() && gone.count() > view.parity.count() {
        return Plan::Refused;
    }
    match view.trust {
        Trust::Unwritten => return Plan::Init { zero: untouched },
        Trust::NeedSync => {
            return match unsynced {
                Unsynced::Heal if untouched.within(view.readable) => Plan::Resync { read: untouched },
                Unsynced::Heal => Plan::Refused,
                Unsynced::DataOnly => Plan::DataOnly,
                Unsynced::Refused => Plan::Refused,
            };
        }
        Trust::Trusted => {}
    }
    if untouched.is_empty() {
        return Plan::Full;
    }
    // No parity takes writes, so there is none to keep, and (by the count above) no data strip is gone.
    if parity.is_empty() && written.within(view.writable) {
        return Plan::Rcw { read: Strips::NONE };
    }
    let rmw = written.or(parity);
    let rmw_possible = rmw.within(view.readable);
    let rcw_possible = untouched.within(view.readable);
    // On a tie, rmw touches fewer members: it reads where it writes.
    if rcw_possible && (!rmw_possible || untouched.count() < rmw.count()) {
        return Plan::Rcw { read: untouched };
    }
    if rmw_possible {
        return Plan::Rmw { read: rmw };
    }
    match view.recovery() {
        Some(read) => Plan::Degraded { read, recover: view.lost_data() },
        None => Plan::Refused,
    }
}

/// Decides what a write can do for an unsynced stripe. The write touches the data strips `touched`, and
/// overwrites `whole` from the first row to the last.
#[must_use]
pub const fn unsynced(view: &View, touched: Strips, whole: Strips) -> Unsynced {
    let lost = view.lost_data();
    if lost.within(whole) {
        Unsynced::Heal
    } else if lost.and(touched).is_empty() {
        Unsynced::DataOnly
    } else {
        Unsynced::Refused
    }
}

/// Plans a read of the data strips `wanted` in some rows.
#[must_use]
pub const fn plan_read(view: &View, wanted: Strips) -> ReadPlan {
    if matches!(view.trust, Trust::Unwritten) {
        return ReadPlan::Zeros;
    }
    if wanted.within(view.readable) {
        return ReadPlan::Direct;
    }
    match view.recovery() {
        Some(read) => ReadPlan::Recover { read, recover: view.lost_data() },
        None => ReadPlan::Lost,
    }
}

/// Plans the reconstruction of one strip, data or parity, of a trusted stripe (a rebuild). `None` if it is
/// not possible without a guess.
#[must_use]
pub const fn plan_rebuild(view: &View, target: u8) -> Option<ReadPlan> {
    if !matches!(view.trust, Trust::Trusted) {
        return None;
    }
    let hidden = View { readable: view.readable.minus(Strips::one(target)), ..*view };
    match hidden.recovery() {
        Some(read) => Some(ReadPlan::Recover { read, recover: hidden.lost_data() }),
        None => None,
    }
}
