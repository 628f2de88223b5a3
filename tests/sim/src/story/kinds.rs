//! The kinds of stories, and their shares of a campaign.

/// A kind of story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Loads, and members that die without a power cut, as many as the level tolerates.
    Deaths,
    /// Power cuts, many in a row, also during starts; now and then a member is missing afterwards.
    Cuts,
    /// Death, replacement, rebuild under load, with cuts; then another death.
    Rebuild,
    /// Errors of reads, writes and flushes.
    Faults,
    /// Stops in order, and starts.
    Stops,
    /// Starts that are cut, one after the other, each with other members missing.
    Starts,
    /// Like `Starts`, but a missing member stays away, and comes back several epochs behind.
    Absent,
    /// Growth of the stopped array into room on its members, with cuts and failures during the growth.
    Grow,
    /// The bug that this project began with: a small write to an unsynced stripe, then a member dies.
    Seed,
    /// Members leave and come back at the worst moments: at the n-th write of a load, or with a superblock
    /// write in flight.
    Leaving,
    /// Stripes whose content is uncertain are rewritten or discarded while a slot is filled.
    Lost,
    /// Rebuilds so long that the cursor is put on record, with cuts, stops and failures meanwhile.
    Filling,
    /// Operations that members refuse although they are not broken: see `refused`.
    Refused,
    /// Arrays that are only read, from members with bad sectors: see `refused`.
    Rescue,
    /// All of the above, mixed.
    Mixed,
    /// Members go back to what they held at an earlier moment: see `rollback`.
    Rollback,
    /// Members do not answer, for a while or never; one, several or all of them: see `silent`.
    Silent,
    /// Metadata decays while the array is down: see `decay`.
    Decay,
    /// An installer writes a partition table over members: see `decay`.
    Foreign,
    /// Arrays rest, whole and degraded, and end without a stop: see `idle`.
    Idle,
    /// Devices join with the content of another life of the array: see `earlier`.
    Earlier,
    /// Bad sectors on several members while slots are filled and stripes are resynced. Errors are allowed
    /// only for rows that cannot be computed.
    Bad,
    /// Many concurrent requests at an array that is short of every resource: see `crowd`.
    Crowd,
}

/// Interval of long scenarios: one run of a campaign in this many.
pub const SELDOM_EVERY: u64 = 16;

impl Scenario {
    /// Scenarios from which the seed picks if the campaign names none.
    pub const MIX: [Scenario; 13] = [
        Scenario::Deaths,
        Scenario::Cuts,
        Scenario::Rebuild,
        Scenario::Faults,
        Scenario::Stops,
        Scenario::Starts,
        Scenario::Absent,
        Scenario::Grow,
        Scenario::Seed,
        Scenario::Leaving,
        Scenario::Lost,
        Scenario::Rescue,
        Scenario::Mixed,
    ];
    /// Scenarios that take long; a campaign has few of them, one run in [`SELDOM_EVERY`].
    pub const SELDOM: [Scenario; 10] = [
        Scenario::Filling,
        Scenario::Rollback,
        Scenario::Foreign,
        Scenario::Idle,
        Scenario::Earlier,
        Scenario::Silent,
        Scenario::Crowd,
        Scenario::Refused,
        Scenario::Decay,
        Scenario::Bad,
    ];

    /// Every scenario.
    pub fn all() -> impl Iterator<Item = Scenario> {
        Scenario::MIX.into_iter().chain(Scenario::SELDOM)
    }

    /// The scenario with this name, in lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Scenario> {
        Scenario::all().find(|scenario| scenario.name() == name)
    }

    /// The name of the scenario, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Scenario::Deaths => "deaths",
            Scenario::Cuts => "cuts",
            Scenario::Rebuild => "rebuild",
            Scenario::Faults => "faults",
            Scenario::Stops => "stops",
            Scenario::Starts => "starts",
            Scenario::Absent => "absent",
            Scenario::Grow => "grow",
            Scenario::Seed => "seed",
            Scenario::Leaving => "leaving",
            Scenario::Lost => "lost",
            Scenario::Filling => "filling",
            Scenario::Refused => "refused",
            Scenario::Rescue => "rescue",
            Scenario::Mixed => "mixed",
            Scenario::Rollback => "rollback",
            Scenario::Silent => "silent",
            Scenario::Decay => "decay",
            Scenario::Foreign => "foreign",
            Scenario::Idle => "idle",
            Scenario::Earlier => "earlier",
            Scenario::Bad => "bad",
            Scenario::Crowd => "crowd",
        }
    }
}
