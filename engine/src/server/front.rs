//! The front end of a running array, from the server's side: opening it, giving each reactor its share,
//! closing it.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::array::{Position, Shared};
use crate::format::superblock::Record;
use crate::frontend::Frontend;
use crate::frontend::nbd::{Access, Address, Content, ExportInfo, NbdFrontend, NbdServer, Relays, Visits};
use crate::frontend::ublk::{
    Closed, Existing, Last, Quiesced, Ublk, UblkError, UblkFrontend, UblkPlace, UblkPlan, UblkShape, existing,
};
use crate::memory::{Memory, Pool};
use crate::request::{Reply, Request};
use crate::ring::Uring;

use super::note::{Note, Taking};
use super::{ServeOptions, ServerError};

/// How long a stop waits until TLS relays have sent the last replies.
const RELAY_DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// The front end of a server.
pub(super) enum Front {
    /// NBD clients by sockets.
    Nbd {
        addresses: Vec<String>,
        relays: Relays,
        /// The NBD server; taken by `end`.
        server: Mutex<Option<NbdServer>>,
    },
    /// A block device. Its constant properties are outside of the lock, which is held during waits for the
    /// driver.
    Ublk {
        path: String,
        has_volatile_cache: bool,
        /// The block device; taken by `end`.
        ublk: Box<Mutex<Option<Ublk>>>,
    },
}

/// A reactor's share of the front end, on the way to the reactor's thread.
pub(super) enum Share {
    Nbd(NbdFrontend),
    Ublk(UblkPlace),
}

/// A reactor's part of the front end, in use.
pub(super) enum HostFrontend {
    Nbd(NbdFrontend),
    Ublk(UblkFrontend),
}

/// Properties of the members that hosts are told.
#[derive(Clone, Copy)]
pub(super) struct MemberTraits {
    pub(super) physical_block_bytes: u32,
    pub(super) volatile_cache: bool,
}

/// The geometry and properties that a block device of the array reports to hosts.
pub(super) fn shape_of(record: &Record, traits: MemberTraits, read_only: bool) -> UblkShape {
    let stripe_bytes = record.shape.data_strips() as u64 * u64::from(record.shape.chunk_bytes);
    UblkShape {
        size_bytes: record.zones.stripes * stripe_bytes,
        logical_block_bytes: record.logical_block_bytes,
        physical_block_bytes: traits.physical_block_bytes,
        chunk_bytes: record.shape.chunk_bytes,
        stripe_bytes,
        volatile_cache: traits.volatile_cache,
        read_only,
    }
}

impl Front {
    /// The block device that was asked for, or that waits for this array, and its note; `None` if NBD was
    /// asked for. A device is taken over only if its note proves that no other server has written to the
    /// members since. `seed`: the seed of the epochs that the start and the server begin; `None` if they
    /// begin none. `proven_moves`: see [`Assembly`](crate::assembly::Assembly).
    pub(super) fn block_device(
        options: &ServeOptions,
        record: &Record,
        shape: &UblkShape,
        reactors: usize,
        seed: Option<u64>,
        proven_moves: Option<u64>,
    ) -> Result<Option<(Ublk, Option<Note>)>, ServerError> {
        let Some(choice) = options.ublk else { return Ok(None) };
        let (name, identity) = (record.name.as_str(), record.array.to_string());
        let plan = UblkPlan { choice, queues: reactors, without: options.ublk_without.clone() };
        let note_of =
            |device| options.run_dir.as_deref().map(|run_dir| Note::of(run_dir, device, record.array));
        let mut may_take_over = |device| {
            let note = note_of(device).ok_or_else(|| {
                UblkError(format!("/dev/ublkb{device} waits for this array, and there is no run directory to prove its state"))
            })?;
            let proven = note.check(record);
            let taken = proven.and_then(|noted| {
                let noted = noted.up_to(record, proven_moves);
                seed.map_or(Ok(()), |seed| note.write(&noted.and_by(seed)))
            });
            taken.map_err(|error| UblkError(error.0))?;
            Ok(if Taking::of(&note).is_there() { Last::MayBeHalfStarted } else { Last::Whole })
        };
        let ublk = Ublk::open(&plan, name, &identity, shape, &mut may_take_over)?;
        let note = note_of(ublk.number());
        if !ublk.is_recovered() {
            let found = |note: &Note| note.noted(Position::of(record), seed.as_slice());
            note.iter().try_for_each(|note| note.write(&found(note)))?;
        }
        Ok(Some((ublk, note)))
    }

    /// Refuses to serve an array in another way beside its block device, unless the operator says so: hosts
    /// of the device, which wait for its server, would find other content than they left. Returns a warning
    /// if the operator said so.
    pub(super) fn refuse_beside_block_device(
        options: &ServeOptions,
        record: &Record,
        shape: &UblkShape,
    ) -> Result<Option<String>, ServerError> {
        if options.ublk.is_some() {
            return Ok(None);
        }
        let name = record.name;
        let existing = existing(name.as_str(), &record.array.to_string(), shape);
        let paths = |devices: &[u32]| match devices {
            [] => "a block device that cannot be seen from here (/sys/block cannot be read)".to_string(),
            devices => {
                devices.iter().map(|device| format!("/dev/ublkb{device}")).collect::<Vec<_>>().join(", ")
            }
        };
        let (what, instead) = match &existing {
            Existing::None => return Ok(None),
            Existing::Marked(device) => (
                format!("/dev/ublkb{device} is a block device of this array, and waits for its server"),
                format!(
                    "serve it with --ublk instead of --nbd, or give the device up with `striate stop --force {name}`, which fails its I/O"
                ),
            ),
            Existing::Possible(devices) => (
                format!(
                    "{} may be a block device of this array that waits for its server, and /dev/ublk-control cannot be used to find out",
                    paths(devices)
                ),
                "serve it as root, where that file can be opened".to_string(),
            ),
        };
        let cost = "what is mounted on it loses its data once the array is written to, and it can never be served again";
        if options.despite_block_device {
            return Ok(Some(format!("{what}; the array is served beside it, as you said: {cost}")));
        }
        Err(ServerError(format!("{what}: {instead}; or add --despite-block-device: then {cost}")))
    }

    /// Opens the front end and makes each reactor's share of it.
    pub(super) fn open(
        block_device: Option<Ublk>,
        options: &ServeOptions,
        record: &Record,
        read_only: bool,
        reactors: usize,
    ) -> Result<(Front, Vec<Share>), ServerError> {
        if let Some(mut ublk) = block_device {
            let shares = ublk.places().into_iter().map(Share::Ublk).collect();
            let (path, has_volatile_cache) = (ublk.path(), ublk.has_volatile_cache());
            let ublk = Box::new(Mutex::new(Some(ublk)));
            return Ok((Front::Ublk { path, has_volatile_cache, ublk }, shares));
        }
        let addresses: Vec<Address> = options
            .nbd
            .iter()
            .map(|address| address.parse().map_err(|error| ServerError(format!("{error}"))))
            .collect::<Result<_, _>>()?;
        let export = ExportInfo {
            name: record.name.as_str().to_string(),
            description: format!("Striate array {}", record.array),
            size_bytes: record.zones.stripes
                * record.shape.data_strips() as u64
                * u64::from(record.shape.chunk_bytes),
            logical_block_bytes: record.logical_block_bytes,
            preferred_bytes: record.shape.chunk_bytes.min(64 << 10),
            read_only,
            stripe_bytes: record.shape.data_strips() as u64 * u64::from(record.shape.chunk_bytes),
        };
        let access = Access {
            remote: options.allow_remote,
            local_users: options.allow_local_users,
            group: options.nbd_group,
            ..Access::default()
        };
        let (threads, encryption) = (options.threads.clone(), options.nbd_encryption.clone());
        let (nbd, frontends) =
            NbdServer::start_limited(&addresses, access, export, reactors, threads, encryption)
                .map_err(|error| ServerError(error.to_string()))?;
        let addresses = nbd.addresses().iter().map(ToString::to_string).collect();
        let relays = nbd.relays();
        let front = Front::Nbd { addresses, relays, server: Mutex::new(Some(nbd)) };
        Ok((front, frontends.into_iter().map(Share::Nbd).collect()))
    }

    /// Lets hosts in, now that the reactors turn.
    pub(super) fn start(&self) -> Result<(), ServerError> {
        match self {
            // NBD clients have been waiting at the door since the front end was opened.
            Front::Nbd { .. } => Ok(()),
            Front::Ublk { ublk, .. } => Ok(lock(ublk).as_mut().map_or(Ok(()), Ublk::start)?),
        }
    }

    pub(super) fn is_block_device(&self) -> bool {
        matches!(self, Front::Ublk { .. })
    }

    /// The addresses at which hosts find the array.
    pub(super) fn exports(&self) -> Vec<String> {
        match self {
            Front::Nbd { addresses, .. } => addresses.clone(),
            Front::Ublk { path, .. } => vec![path.clone()],
        }
    }

    /// How the ublk driver serves the block device; `None` for NBD.
    pub(super) fn way(&self) -> Option<String> {
        match self {
            Front::Nbd { .. } => None,
            Front::Ublk { ublk, .. } => lock(ublk).as_ref().map(Ublk::way),
        }
    }

    /// The NBD clients that come and go.
    pub(super) fn visits(&self) -> Option<Visits> {
        match self {
            Front::Nbd { server, .. } => {
                server.lock().expect("no holder panics").as_ref().map(NbdServer::visits)
            }
            Front::Ublk { .. } => None,
        }
    }

    /// Number of connected NBD clients.
    pub(super) fn clients(&self) -> usize {
        match self {
            Front::Nbd { server, .. } => {
                server.lock().expect("no holder panics").as_ref().map_or(0, NbdServer::clients)
            }
            Front::Ublk { .. } => 0,
        }
    }

    /// Turns hosts away, if no host is using the array. (The stop itself tells NBD clients to go.)
    pub(super) fn close(&self, force: bool) -> Result<Closed, ServerError> {
        match self {
            Front::Nbd { .. } if self.clients() > 0 && !force => Ok(Closed::InUse),
            Front::Nbd { .. } => Ok(Closed::Stopped),
            Front::Ublk { ublk, .. } => {
                Ok(lock(ublk).as_mut().map_or(Ok(Closed::Stopped), |ublk| ublk.close(force))?)
            }
        }
    }

    /// Makes requests wait for the next server; `None` if there is no block device that could wait.
    pub(super) fn quiesce(&self) -> Option<Quiesced> {
        match self {
            Front::Nbd { .. } => None,
            Front::Ublk { ublk, .. } => lock(ublk).as_mut().and_then(Ublk::quiesce),
        }
    }

    /// Lets no new clients in, before the reactors drain.
    pub(super) fn end(&self) -> Option<Ublk> {
        match self {
            Front::Nbd { server, .. } => {
                let server = server.lock().expect("no holder panics").take();
                server.into_iter().for_each(NbdServer::stop);
                None
            }
            Front::Ublk { ublk, .. } => lock(ublk).take(),
        }
    }

    /// Waits until the TLS relays have sent the last replies, after the reactors have ended.
    pub(super) fn drain_relays(&self) {
        match self {
            Front::Nbd { relays, .. } => relays.wait(RELAY_DRAIN_TIME_MAX),
            Front::Ublk { .. } => {}
        }
    }

    /// Whether a member with a volatile cache may join: a block device that reported no cache gets no flushes
    /// from hosts.
    pub(super) fn admits_volatile_cache(&self) -> bool {
        match self {
            Front::Nbd { .. } => true,
            Front::Ublk { has_volatile_cache, .. } => *has_volatile_cache,
        }
    }
}

fn lock(ublk: &Mutex<Option<Ublk>>) -> std::sync::MutexGuard<'_, Option<Ublk>> {
    ublk.lock().expect("no holder panics")
}

impl Share {
    /// Number of host buffers that the ring must have room for.
    pub(super) fn host_buffers(&self) -> u16 {
        match self {
            Share::Nbd(_) => 0,
            Share::Ublk(place) => place.host_buffers(),
        }
    }

    /// Opens a reactor's front end, on the reactor's thread.
    pub(super) fn open(
        self,
        ring: &mut Uring,
        memory: &Memory,
        requests: &mut Pool,
        array: &Arc<Shared>,
    ) -> io::Result<HostFrontend> {
        Ok(match self {
            Share::Nbd(mut nbd) => {
                nbd.knows(Arc::clone(array) as Arc<dyn Content>);
                HostFrontend::Nbd(nbd)
            }
            Share::Ublk(place) => HostFrontend::Ublk(place.open(ring, memory, requests)?),
        })
    }
}

impl Frontend for HostFrontend {
    fn gather(&mut self, memory: &Memory, pool: &mut Pool, room: usize, requests: &mut Vec<Request>) {
        match self {
            HostFrontend::Nbd(nbd) => nbd.gather(memory, pool, room, requests),
            HostFrontend::Ublk(ublk) => ublk.gather(memory, pool, room, requests),
        }
    }

    fn reply(&mut self, memory: &Memory, pool: &mut Pool, reply: Reply) {
        match self {
            HostFrontend::Nbd(nbd) => nbd.reply(memory, pool, reply),
            HostFrontend::Ublk(ublk) => ublk.reply(memory, pool, reply),
        }
    }

    fn settle(&mut self, memory: &Memory, pool: &mut Pool) {
        match self {
            HostFrontend::Nbd(nbd) => nbd.settle(memory, pool),
            HostFrontend::Ublk(ublk) => ublk.settle(memory, pool),
        }
    }

    fn has_arrivals(&self) -> bool {
        match self {
            HostFrontend::Nbd(nbd) => nbd.has_arrivals(),
            HostFrontend::Ublk(ublk) => ublk.has_arrivals(),
        }
    }

    fn wait_fd(&self) -> Option<RawFd> {
        match self {
            HostFrontend::Nbd(nbd) => nbd.wait_fd(),
            HostFrontend::Ublk(ublk) => ublk.wait_fd(),
        }
    }

    fn close(&mut self) {
        match self {
            HostFrontend::Nbd(nbd) => nbd.close(),
            HostFrontend::Ublk(ublk) => ublk.close(),
        }
    }

    fn drained(&self) -> bool {
        match self {
            HostFrontend::Nbd(nbd) => nbd.drained(),
            HostFrontend::Ublk(ublk) => ublk.drained(),
        }
    }

    fn drained_but_for(&self, requests: usize) -> bool {
        match self {
            HostFrontend::Nbd(nbd) => nbd.drained_but_for(requests),
            HostFrontend::Ublk(ublk) => ublk.drained_but_for(requests),
        }
    }
}
