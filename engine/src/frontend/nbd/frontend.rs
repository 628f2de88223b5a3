//! The front end of one reactor: which of its connections have something to do, and in which order.
//!
//! - Sets of connections are `u64`s. A connection is in `runnable` when it may have more to receive, in
//!   `blocked` when something has to be freed first, in `touched` when there may be something to send or
//!   to tidy up after it.
//! - One edge-triggered epoll tells which sockets have become readable; nothing is asked of a quiet one.
//!   Room to send is watched only after a socket was full: unix sockets report every byte that their
//!   reader takes, which would wake the reactor for nothing.
//! - Whatever a turn leaves that the next could do (more to receive, more to send, a buffer freed for
//!   somebody who waits) rings the front end's own bell, so a reactor that sleeps on `wait_fd` after
//!   `settle` comes back at once.
//! - A tag is `generation of the place (32) | place (16) | piece (16)`.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::admission::Limits;
use super::connection::{Broken, Buffers, Connection, Outgoing, Progress};
use super::door::{Accepted, Door};
use super::limits::{CONNECTIONS_MAX, DRAIN_TIME_MAX, STALL_TIME_MAX};
use crate::frontend::Frontend;
use crate::memory::{Memory, Pool};
use crate::request::{Reply, Request};

/// What the poll says of the bell, of the timer; of a connection it says its place.
const BELL: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// Events taken off the poll at once: every connection, the bell and the timer.
const EVENTS_MAX: usize = CONNECTIONS_MAX + 2;

/// A place for a connection.
#[derive(Default)]
struct Place {
    /// Grows with each connection, so that a tag names one.
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// What the timer will find when it goes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    /// It is not set.
    None,
    /// Clients that kept others waiting for buffers and moved nothing.
    Stall,
    /// Clients that do not read their last answers.
    Drain,
}

/// The NBD connections of one reactor.
pub struct NbdFrontend {
    door: Arc<Door>,
    limits: Limits,
    epoll: OwnedFd,
    timer: OwnedFd,
    deadline: Deadline,
    places: Box<[Place]>,
    runnable: u64,
    blocked: u64,
    /// Of `blocked`: those for whom the pool had nothing.
    starving: u64,
    touched: u64,
    /// Where the next turn begins, so that nobody is always last.
    first: u32,
    /// Whether something was freed since the blocked were last tried.
    freed: bool,
    /// Whether the last turn could take requests at all. If not, the engine is full, and the reactor will
    /// turn when one of its operations completes: no need to be woken.
    had_room: bool,
    /// Whether the bell has been rung by us since it was last heard.
    rung: bool,
    closing: Closing,
}

/// How far [`Frontend::close`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    /// Not asked for.
    No,
    /// Asked for; connections still receive.
    Asked,
    /// No connection receives.
    Ended,
}

impl NbdFrontend {
    pub(super) fn new(door: Arc<Door>, limits: Limits) -> std::io::Result<NbdFrontend> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, door.bell(), epoll::EventData::new_u64(BELL), edge)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), edge)?;
        Ok(NbdFrontend {
            door,
            limits,
            epoll,
            timer,
            deadline: Deadline::None,
            places: (0..CONNECTIONS_MAX).map(|_| Place::default()).collect(),
            runnable: 0,
            blocked: 0,
            starving: 0,
            touched: 0,
            first: 0,
            freed: false,
            had_room: true,
            rung: false,
            closing: Closing::No,
        })
    }

    /// Hears what has happened since the last turn.
    fn poll(&mut self, buffers: &mut Buffers<'_>) {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS_MAX];
        // An interrupted poll is one that found nothing; the next turn asks again.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events[..], Some(&Timespec::default())) else {
            return;
        };
        for event in events.iter() {
            match event.data.u64() {
                BELL => {
                    self.rung = false;
                    self.seat_newcomers();
                }
                TIMER => self.expire(buffers),
                place => self.note(place as usize, event.flags),
            }
        }
    }

    fn note(&mut self, place: usize, flags: epoll::EventFlags) {
        use epoll::EventFlags as Flags;
        let Some(connection) = self.places[place].connection.as_deref_mut() else { return };
        if flags.intersects(Flags::IN | Flags::RDHUP | Flags::HUP | Flags::ERR) {
            connection.note_readable(flags.intersects(Flags::RDHUP | Flags::HUP | Flags::ERR));
            self.runnable |= bit(place) & !self.blocked;
        }
        if flags.intersects(Flags::OUT | Flags::HUP | Flags::ERR) {
            self.touched |= bit(place);
        }
    }

    /// Gives newcomers a place.
    fn seat_newcomers(&mut self) {
        while let Some(accepted) = self.door.next() {
            if self.closing == Closing::No {
                self.seat(accepted);
            }
        }
    }

    fn seat(&mut self, accepted: Accepted) {
        let free = self.places.iter().position(|place| place.connection.is_none());
        let index = free.expect("whoever is at the door has a seat, and there are as many as places");
        let place = &mut self.places[index];
        place.generation = place.generation.wrapping_add(1);
        let tag_base = u64::from(place.generation) << 32 | (index as u64) << 16;
        if rustix::io::ioctl_fionbio(&accepted.socket, true).is_err() {
            return; // the socket closes, and the client learns as much as we know
        }
        let data = epoll::EventData::new_u64(index as u64);
        if epoll::add(&self.epoll, &accepted.socket, data, watched(false)).is_err() {
            return;
        }
        place.connection = Some(Box::new(Connection::new(accepted, self.limits, tag_base)));
        self.runnable |= bit(index);
    }

    /// Receives from one connection.
    fn receive(&mut self, buffers: &mut Buffers<'_>, place: usize, room: usize, requests: &mut Vec<Request>) {
        self.runnable &= !bit(place);
        let Some(connection) = self.places[place].connection.as_deref_mut() else { return };
        buffers.starved = false;
        match connection.receive(buffers, room, requests) {
            Ok(Progress::Quiet) => {}
            Ok(Progress::Again) => self.runnable |= bit(place),
            Ok(Progress::Blocked) => {
                self.blocked |= bit(place);
                self.starving |= if buffers.starved { bit(place) } else { 0 };
            }
            Err(Broken) => connection.hang_up(buffers),
        }
        self.touched |= bit(place);
    }

    /// Sends what one connection has, and frees its place when it is at its end.
    fn send(&mut self, buffers: &mut Buffers<'_>, place: usize) {
        self.touched &= !bit(place);
        let Some(connection) = self.places[place].connection.as_deref_mut() else { return };
        let outgoing = connection.send(buffers);
        match outgoing {
            Ok(Outgoing::Empty | Outgoing::Full) => {}
            Ok(Outgoing::More) => self.touched |= bit(place),
            Err(Broken) => connection.hang_up(buffers),
        }
        let wants_room = outgoing == Ok(Outgoing::Full);
        if let Some(socket) = connection.socket().filter(|_| connection.watches_room != wants_room) {
            let data = epoll::EventData::new_u64(place as u64);
            // A poll that cannot be changed would leave the answers where they are for ever.
            match epoll::modify(&self.epoll, socket, data, watched(wants_room)) {
                Ok(()) => connection.watches_room = wants_room,
                Err(_) => connection.hang_up(buffers),
            }
        }
        if connection.is_over() {
            connection.hang_up(buffers);
        }
        if connection.is_gone() {
            self.places[place].connection = None;
            self.runnable &= !bit(place);
            self.blocked &= !bit(place);
            self.starving &= !bit(place);
            self.touched &= !bit(place);
        }
    }

    /// Stops all connections from receiving, once.
    fn end_all(&mut self, buffers: &mut Buffers<'_>) {
        self.closing = Closing::Ended;
        self.runnable = 0;
        self.blocked = 0;
        self.starving = 0;
        for (index, place) in self.places.iter_mut().enumerate() {
            if let Some(connection) = place.connection.as_deref_mut() {
                if connection.end(buffers) == Err(Broken) {
                    connection.hang_up(buffers);
                }
                self.touched |= bit(index);
            }
        }
        self.set_deadline(Deadline::Drain, DRAIN_TIME_MAX);
    }

    fn set_deadline(&mut self, deadline: Deadline, after: Duration) {
        let it_value = Timespec { tv_sec: after.as_secs() as i64, tv_nsec: after.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).expect("a valid time on a timer");
        self.deadline = deadline;
    }

    /// Begins to watch who moves, now that somebody waits for buffers.
    fn watch_for_stalls(&mut self) {
        if self.deadline == Deadline::None {
            let _since_now = self.stalled();
            self.set_deadline(Deadline::Stall, STALL_TIME_MAX);
        }
    }

    /// Who holds buffers that only the client could move, and has moved none since the last look.
    fn stalled(&mut self) -> u64 {
        let places = self.places.iter_mut().enumerate();
        let connections = places.filter_map(|(index, place)| Some((index, place.connection.as_deref_mut()?)));
        connections.fold(0, |set, (index, it)| if it.is_stalled() { set | bit(index) } else { set })
    }

    /// The time of `deadline` has come.
    fn expire(&mut self, buffers: &mut Buffers<'_>) {
        let hopeless = match std::mem::replace(&mut self.deadline, Deadline::None) {
            Deadline::None => 0,
            Deadline::Drain => u64::MAX,
            Deadline::Stall => {
                // A client that does not read may wait for buffers too; it keeps nobody waiting by itself.
                let stalled = self.stalled();
                if self.starving & !stalled != 0 { stalled } else { 0 }
            }
        };
        for (index, place) in self.places.iter_mut().enumerate() {
            if let Some(connection) = place.connection.as_deref_mut().filter(|_| hopeless & bit(index) != 0) {
                connection.hang_up(buffers);
                self.touched |= bit(index);
            }
        }
        // Those who wait may have come, and those who moved stopped, while the timer ran.
        if self.starving != 0 {
            self.watch_for_stalls();
        }
    }
}

impl Frontend for NbdFrontend {
    fn gather(&mut self, memory: &Memory, pool: &mut Pool, room: usize, requests: &mut Vec<Request>) {
        let mut buffers = Buffers { memory, pool, freed: self.freed, starved: false };
        self.poll(&mut buffers);
        if self.closing == Closing::Asked {
            self.end_all(&mut buffers);
        }
        if std::mem::take(&mut buffers.freed) {
            self.runnable |= std::mem::take(&mut self.blocked);
            self.starving = 0;
        }
        self.had_room = room > 0;
        let requests_max = requests.len() + room;
        let mut waiting = self.runnable.rotate_right(self.first);
        while waiting != 0 && requests.len() < requests_max {
            let place = (waiting.trailing_zeros() + self.first) % u64::BITS;
            waiting &= waiting - 1;
            self.receive(&mut buffers, place as usize, requests_max - requests.len(), requests);
        }
        self.first = (self.first + 1) % u64::BITS;
        self.freed = buffers.freed;
        if self.starving != 0 {
            self.watch_for_stalls();
        }
    }

    fn reply(&mut self, memory: &Memory, pool: &mut Pool, reply: Reply) {
        let [generation, place, piece] =
            [reply.tag >> 32, reply.tag >> 16 & 0xffff, reply.tag & 0xffff].map(|part| part as u32);
        let slot = &mut self.places[place as usize];
        assert_eq!(slot.generation, generation, "a place is not given away before its last reply");
        let connection = slot.connection.as_deref_mut().expect("a connection stays until its last reply");
        let mut buffers = Buffers { memory, pool, freed: self.freed, starved: false };
        if connection.answer(&mut buffers, piece as u16, &reply) == Err(Broken) {
            connection.hang_up(&mut buffers);
        }
        self.freed = buffers.freed;
        self.touched |= bit(place as usize);
    }

    fn settle(&mut self, memory: &Memory, pool: &mut Pool) {
        let mut buffers = Buffers { memory, pool, freed: self.freed, starved: false };
        let mut waiting = self.touched;
        while waiting != 0 {
            self.send(&mut buffers, waiting.trailing_zeros() as usize);
            waiting &= waiting - 1;
        }
        self.freed = buffers.freed;
        let may_receive = self.had_room && (self.runnable != 0 || self.freed && self.blocked != 0);
        if (may_receive || self.touched != 0) && !self.rung {
            self.rung = true;
            self.door.ring();
        }
    }

    fn wait_fd(&self) -> Option<RawFd> {
        Some(self.epoll.as_raw_fd())
    }

    fn close(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Asked;
            self.door.close();
            self.door.ring();
        }
    }

    fn drained(&self) -> bool {
        self.closing != Closing::No && self.places.iter().all(|place| place.connection.is_none())
    }
}

/// What is watched of a connection.
fn watched(room: bool) -> epoll::EventFlags {
    let always = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    if room { always | epoll::EventFlags::OUT } else { always }
}

fn bit(place: usize) -> u64 {
    1 << place
}
