//! A world of devices that assembly and roster act on, and that a power cut may stop between any two writes.
//!
//! A device consists of its two superblock copies, as bytes, and the set of acknowledged writes that it has a
//! part of (one bit each). The world knows what no superblock knows: which writes were acknowledged, and
//! whether the last stop was clean.

use std::rc::Rc;

use engine::assembly::{
    Assembly, AssemblyError, AssemblyOptions, Candidate, Change, Joiner, NewArray, Roster, SlotPlan,
    SuperblockWrite, WriteOutcome, assemble, create,
};
use engine::format::host::Host;
use engine::format::label::Label;
use engine::format::superblock::{Copy, Found, NoMember, RunState, SlotState, choose};
use engine::format::zones::zones;
use engine::format::{Level, Shape};
use uuid::Uuid;

pub const DEVICE_BYTES: u64 = 16 << 20;

#[derive(Clone)]
pub struct Device {
    blocks: [Rc<[u8; 4096]>; 2],
    pub found: Result<Found, NoMember>,
    /// Acknowledged writes that this device has its part of, one bit each.
    pub data: u64,
    /// Epochs that were committed with this device, one bit each.
    epochs: u64,
}

impl Device {
    fn blank() -> Device {
        let zero = Rc::new([0; 4096]);
        Device { blocks: [zero.clone(), zero], found: Err(NoMember::Blank), data: 0, epochs: 0 }
    }

    fn put(&mut self, copy: Copy, block: [u8; 4096]) {
        self.blocks[index_of(copy)] = Rc::new(block);
        self.found = choose(&*self.blocks[0], &*self.blocks[1], DEVICE_BYTES);
    }

    /// Damages one copy, as a torn write or decay does.
    pub fn damage(&mut self, copy: Copy) {
        let mut block = *self.blocks[index_of(copy)];
        block[3000] ^= 1;
        self.put(copy, block);
    }
}

fn index_of(copy: Copy) -> usize {
    match copy {
        Copy::A => 0,
        Copy::B => 1,
    }
}

#[derive(Clone)]
pub struct World {
    pub shape: Shape,
    pub devices: Vec<Device>,
    pub acknowledged: u64,
    /// Whether the last committed epoch was stopped cleanly, or there was none.
    pub clean: bool,
    /// Whether data was acknowledged in an epoch that only one copy on each device holds.
    pub exposed: bool,
    /// Whether a start without all devices could not know that the stop was clean, and recorded that doubt.
    pub doubted: bool,
    /// Stripes of the array at the last acknowledged write.
    stripes: u64,
    writes: u32,
    ids: u64,
    /// Number of changes that are in both copies of every participant. `proven_by` has the participants of
    /// the last one.
    proofs: u32,
    proven_by: Vec<usize>,
    /// Older images of devices, each with `proofs` at the time of the image.
    images: Vec<(usize, Device, u32)>,
    /// The history so far, for the message of a failure.
    pub story: Vec<String>,
}

impl World {
    pub fn new(level: Level, members: usize) -> World {
        let shape = Shape { level, members, chunk_bytes: 64 << 10 };
        let mut world = World {
            shape,
            devices: vec![Device::blank(); members],
            acknowledged: 0,
            clean: true,
            exposed: false,
            doubted: false,
            stripes: 0,
            writes: 0,
            ids: 1,
            proofs: 0,
            proven_by: Vec::new(),
            images: Vec::new(),
            story: Vec::new(),
        };
        let members: Vec<Uuid> = (0..members).map(device_uuid).collect();
        let writes = create(&NewArray {
            array: Uuid::from_u128(0xa),
            name: Label::new("tank").unwrap(),
            host: Host::ANY,
            created_s: 1_700_000_000,
            shape,
            logical_block_bytes: 4096,
            // The other half is there to grow into.
            zones: zones(DEVICE_BYTES / 2, &shape).unwrap(),
            members: &members,
            epoch_id: 1,
        });
        for write in &writes {
            world.land(write);
        }
        world
    }

    /// Whether any two sets of n - parities members intersect. (With 2 of 4 they need not: half is not more
    /// than half.)
    pub fn quorums_meet(&self) -> bool {
        2 * self.shape.data_strips() > self.shape.members
    }

    pub fn assemble(&self, present: u32) -> Result<Assembly, AssemblyError> {
        let here = |index: usize| present >> index & 1 == 1;
        let candidates: Vec<Candidate> = (0..self.devices.len())
            .map(|index| Candidate {
                label: format!("dev{index}"),
                found: if here(index) { self.devices[index].found.clone() } else { Err(NoMember::Blank) },
            })
            .collect();
        assemble(&candidates, &AssemblyOptions { run_degraded: true, ..AssemblyOptions::default() })
    }

    pub fn new_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub fn land(&mut self, write: &SuperblockWrite) {
        self.devices[write.device].put(write.copy, write.encode());
    }

    /// Lands the writes whose bit is set in `landed`, then cuts the power.
    pub fn cut(&self, writes: &[SuperblockWrite], landed: usize, what: &str) -> World {
        let mut world = self.clone();
        let some = writes.iter().enumerate().filter(|(index, _)| landed >> index & 1 == 1);
        let devices: Vec<usize> = some.clone().map(|(_, write)| write.device).collect();
        some.for_each(|(_, write)| world.land(write));
        world.story.push(format!("{what}: {devices:?} of {:?} written, cut", devices_of(writes)));
        world
    }

    /// Lands all writes, so the change is on every participant. Then data is acknowledged if the record says
    /// that members may be written; after a wake only if the second copies say so too.
    pub fn complete(&mut self, roster: &mut Roster, writes: &[SuperblockWrite], what: &str) {
        for write in writes {
            self.land(write);
            roster.settle(write.slot, WriteOutcome::Landed);
        }
        let epoch = 1 << (roster.record().epoch.name.id % 64);
        for write in writes {
            self.devices[write.device].epochs |= epoch;
        }
        self.doubted = roster.record().state == RunState::Active;
        self.exposed = what != "reinforce";
        self.story.push(format!("{what}: {:?} written", devices_of(writes)));
        if what == "reinforce" {
            self.proofs += 1;
            self.proven_by = devices_of(writes);
        }
        if roster.record().state == RunState::Active && what != "wake" {
            self.clean = false;
            self.doubted = false;
            self.write_data(roster);
        }
    }

    /// Keeps an image of every device as it is now.
    pub fn take_images(&mut self) {
        for (index, device) in self.devices.iter().enumerate() {
            self.images.push((index, device.clone(), self.proofs));
        }
        self.story.push(format!("images taken, with {} proofs", self.proofs));
    }

    /// Writes data to every participant of a committed epoch, and acknowledges it.
    fn write_data(&mut self, roster: &Roster) {
        assert!(roster.is_committed());
        let bit = 1 << self.writes;
        self.writes += 1;
        self.acknowledged |= bit;
        self.stripes = roster.record().zones.stripes;
        for slot in roster.record().participants() {
            let device = self.device_of(roster.record().slots[slot].member);
            self.devices[device].data |= bit;
        }
        self.story.push(format!("data {bit:#x} acknowledged"));
    }

    /// Fills a rebuilding slot with everything that the others have.
    pub fn fill(&mut self, roster: &Roster, slot: usize) {
        let source = roster.record().slots.iter().find(|entry| entry.state == SlotState::InSync).unwrap();
        let data = self.devices[self.device_of(source.member)].data;
        let filled = self.device_of(roster.record().slots[slot].member);
        self.devices[filled].data = data;
    }

    pub fn device_of(&self, member: Uuid) -> usize {
        (0..self.devices.len()).find(|&device| device_uuid(device) == member).expect("a device of this world")
    }

    /// A device to take a slot: the stale one that is present, or a new one.
    pub fn joiner(&mut self, plan: SlotPlan) -> Joiner {
        if let SlotPlan::Stale { candidate, .. } = plan {
            return Joiner::returning(candidate, self.devices[candidate].found.as_ref().unwrap());
        }
        let device = self.devices.len();
        self.devices.push(Device::blank());
        Joiner::blank(device, device_uuid(device))
    }

    pub fn begin(&mut self, roster: &mut Roster, change: Change) -> Option<Vec<SuperblockWrite>> {
        let id = self.new_id();
        roster.begin(change, id).ok()
    }

    /// Checks what must hold whatever devices are present.
    pub fn check(&self) {
        for present in 1..1 << self.devices.len() {
            self.check_present(present);
        }
    }

    /// Checks what must hold even if one superblock copy has decayed: in-sync members have all acknowledged
    /// data, and an unclean stop is noticed. The array need not start. While only one copy holds the epoch,
    /// this is required with all devices present only.
    pub fn check_safe(&self) {
        let all = (1 << self.devices.len()) - 1;
        for present in if self.exposed { all } else { 1 }..=all {
            if let Ok(assembly) = self.assemble(present) {
                self.check_assembled(present, &assembly);
            }
        }
    }

    /// Checks what must hold when one device, or two, return to an older image. An image with no proof after
    /// it cannot be told from the present state; and a proof counts only if a device that holds it is
    /// present.
    pub fn check_rollbacks(&self) {
        for (nth, one) in self.images.iter().enumerate() {
            self.check_rolled_back(&[one]);
            for other in self.images[..nth].iter().filter(|other| other.0 != one.0) {
                self.check_rolled_back(&[one, other]);
            }
        }
    }

    fn check_rolled_back(&self, images: &[&(usize, Device, u32)]) {
        if images.iter().any(|(_, _, proofs)| *proofs == self.proofs) {
            return;
        }
        let mut world = self.clone();
        for (index, device, proofs) in images {
            world.devices[*index] = device.clone();
            world.story.push(format!("dev{index} goes back to its image with {proofs} proofs"));
        }
        let is_old = |device: usize| images.iter().any(|image| image.0 == device);
        for present in 1_u32..1 << world.devices.len() {
            let mut holders = self.proven_by.iter().filter(|&&device| !is_old(device));
            if holders.any(|device| present >> device & 1 == 1)
                && let Ok(assembly) = world.assemble(present)
            {
                world.check_assembled(present, &assembly);
            }
        }
    }

    fn check_assembled(&self, present: u32, assembly: &Assembly) {
        let required = self.required(present, assembly);
        for plan in &assembly.slots {
            if let SlotPlan::InSync { candidate } = *plan {
                let lacks = required & !self.devices[candidate].data;
                assert_eq!(lacks, 0, "dev{candidate} lacks data\n{}", self.tell(present));
            }
        }
        let shrunk = self.quorums_meet() && assembly.record.zones.stripes < self.stripes;
        assert!(!shrunk, "it has fewer stripes than before\n{}", self.tell(present));
        let missed = self.quorums_meet() && !assembly.unclean && !self.clean;
        assert!(!missed, "unclean stop missed\n{}", self.tell(present));
    }

    fn check_present(&self, present: u32) {
        let all = present == (1 << self.devices.len()) - 1;
        match self.assemble(present) {
            Ok(assembly) => {
                self.check_assembled(present, &assembly);
                let needlessly =
                    self.quorums_meet() && all && assembly.unclean && self.clean && !self.doubted;
                assert!(!needlessly, "clean stop taken for unclean\n{}", self.tell(present));
            }
            Err(AssemblyError::NotEnough { .. }) => {
                assert!(!all || !self.quorums_meet(), "all are here, not enough\n{}", self.tell(present));
            }
            Err(AssemblyError::NoMembers { .. }) => {}
            Err(AssemblyError::Fork { .. }) => {
                let replaced = self.devices.len() > self.shape.members;
                let cannot_know = !self.quorums_meet() && (replaced || !all);
                assert!(cannot_know || self.ran_apart(present), "no fork\n{}", self.tell(present));
            }
            Err(error) => panic!("{error}\n{}", self.tell(present)),
        }
    }

    /// The data that an in-sync member must have: all that was acknowledged. If two halves may have run
    /// without each other: all that any device present has, except for devices that were replaced on purpose.
    fn required(&self, present: u32, assembly: &Assembly) -> u64 {
        if self.quorums_meet() {
            return self.acknowledged;
        }
        let placed = |device: &usize| assembly.left_out.iter().all(|out| out.candidate != *device);
        let here = (0..self.devices.len()).filter(|device| present >> device & 1 == 1);
        here.filter(placed).fold(0, |data, device| data | self.devices[device].data)
    }

    /// Whether two devices are present of which each has acknowledged data that the other lacks, or took part
    /// in an epoch in which the other did not. (No superblock says that nothing was written in an epoch.)
    fn ran_apart(&self, present: u32) -> bool {
        let here: Vec<&Device> =
            (0..self.devices.len()).filter(|d| present >> d & 1 == 1).map(|d| &self.devices[d]).collect();
        let has_more =
            |one: &Device, other: &Device| one.data & !other.data | one.epochs & !other.epochs != 0;
        here.iter().any(|one| here.iter().any(|other| has_more(one, other) && has_more(other, one)))
    }

    pub fn tell(&self, present: u32) -> String {
        let mut text = format!("present {present:#b}, acknowledged {:#x}\n", self.acknowledged);
        for line in &self.story {
            text += &format!("  {line}\n");
        }
        for (index, device) in self.devices.iter().enumerate() {
            match &device.found {
                Ok(found) => {
                    let record = &found.superblock.record;
                    text += &format!(
                        "  dev{index}: data {:#x}, {:?}, {:?}",
                        device.data, record.epoch, record.state
                    );
                    for entry in &record.slots[..self.shape.members] {
                        text += &format!(" [{:?} held {} {}]", entry.state, entry.held.number, entry.held.id);
                    }
                    text += "\n";
                }
                Err(error) => text += &format!("  dev{index}: {error}\n"),
            }
        }
        text
    }
}

pub fn device_uuid(device: usize) -> Uuid {
    Uuid::from_u128(0x100 + device as u128)
}

fn devices_of(writes: &[SuperblockWrite]) -> Vec<usize> {
    writes.iter().map(|write| write.device).collect()
}
