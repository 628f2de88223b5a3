//! The kinds of stories, and how many of each a campaign has.

/// A kind of story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Loads, and members that die without a power cut, as many as the level bears.
    Deaths,
    /// Power cuts, many in a row, also during starts; now and then a member is missing afterwards.
    Cuts,
    /// Death, replacement, rebuild under load, with cuts; then another death.
    Rebuild,
    /// Read, write and flush errors.
    Faults,
    /// Stops in order, and starts.
    Stops,
    /// Starts that break off one after the other, each with other members missing.
    Starts,
    /// The same, and who was missing stays away: it comes back several epochs behind.
    Absent,
    /// Growth of the stopped array into room of its members, with cuts and failures in the midst of it.
    Grow,
    /// The bug that started it all: a small write to an unsynced stripe, then a member dies.
    Seed,
    /// Members leave and come at the worst moments: with the n-th write of a load, with a superblock in flight.
    Leaving,
    /// Stripes that nobody can vouch for are written anew or discarded while a slot is filled.
    Lost,
    /// A slot is filled for so long that its cursor comes on record; cuts, stops and failures in the midst of it.
    Filling,
    /// Operations that members refuse for no fault of their own: see `refused`.
    Refused,
    /// Arrays that are only read, from members with bad sectors: see `refused`.
    Rescue,
    /// All of it.
    Mixed,
    /// Members go back to what they held at an earlier moment: see `rollback`.
    Rollback,
    /// Members do not answer, for a while or never, one, several or all of them: see `silent`.
    Silent,
    /// Metadata decays while the array is down: see `decay`.
    Decay,
    /// An installer writes a partition table over members: see `decay`.
    Foreign,
    /// Arrays rest, whole and degraded, and end without a stop: see `idle`.
    Idle,
    /// Devices join with the content of another life of the array: see `earlier`.
    Earlier,
    /// Bad sectors of several members while slots are filled and stripes are resynced; errors where rows cannot be computed, and
    /// nowhere else.
    Bad,
    /// Many requests at a time, at an array that is short of everything: see `crowd`.
    Crowd,
}

/// One run of a campaign in so many is of a scenario that takes long.
pub const SELDOM_EVERY: u64 = 16;

impl Scenario {
    /// The scenarios of a campaign that names none: the seed picks one of them.
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
    /// Scenarios of which a campaign has few, one run in [`SELDOM_EVERY`]: they take long.
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

    /// All of them.
    pub fn all() -> impl Iterator<Item = Scenario> {
        Scenario::MIX.into_iter().chain(Scenario::SELDOM)
    }

    /// By name, in lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Scenario> {
        Scenario::all().find(|scenario| scenario.name() == name)
    }

    /// Its name.
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
