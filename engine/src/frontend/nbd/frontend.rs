//! The front end of one reactor: decides which of its connections are served, and in which order.
//!
//! - Sets of connections are `u64`s. A connection is in `runnable` when it may have more to receive, in
//!   `blocked` when something has to be freed first, and in `touched` when it may have something to send, or
//!   may be at its end.
//! - One edge-triggered epoll reports which sockets have become readable; quiet sockets are not read. Room to
//!   send is watched only after a socket was full: unix sockets report every byte that their reader takes,
//!   which would wake the reactor for nothing.
//! - A turn that leaves work for the next one (more to receive, more to send, memory freed for a connection
//!   that waits) rings the front end's own bell, so a reactor that sleeps on `wait_fd` after `settle`
//!   continues at once.
//! - Connections take turns in a circle, and long trims and zeroes do so piece by piece in a circle of their
//!   own: see `share`. Long work goes first, so it proceeds however much others request. It takes only a part
//!   of the room, so the others proceed too.
//! - A tag is `generation of the place (32) | place (16) | piece (16)`, and the data of a poll's event is
//!   `generation of the place (32) | place (32)`. A duplicated socket (the handshake's thread keeps one for a
//!   moment longer) stays in the poll after the connection has closed its own, and its events must not reach
//!   the next connection of the place.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use super::admission::Limits;
use super::connection::{Broken, Buffers, Connection, LongPiece, Outgoing, Progress};
use super::door::{Accepted, Door};
use super::limits::{CONNECTIONS_MAX, DRAIN_TIME_MAX, LONG_OPERATIONS_MAX, LONG_PLACES_OF_ROOM, LOOK_TIME};
use super::map::Content;
use super::share::{Loads, Share, TICK, Turns};
use super::stalls::{Look, Stalls};
use super::visits::{Farewell, Visit};
use crate::frontend::Frontend;
use crate::memory::{Memory, Pool};
use crate::request::{Reply, Request};

/// Data of the bell's and the timer's poll events.
const BELL: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// Events taken from the poll at once: every connection, the bell and the timer.
const EVENTS_MAX: usize = CONNECTIONS_MAX + 2;

/// A place for a connection.
#[derive(Default)]
struct Place {
    /// Incremented for each connection, so that a tag names only one.
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// The purpose for which the timer is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    /// The timer is not set.
    None,
    /// Look at connections that wait for memory, and at clients that keep it from them.
    Look,
    /// Disconnect clients that do not read their last answers.
    Drain,
}

/// The NBD connections of one reactor.
pub struct NbdFrontend {
    door: Arc<Door>,
    limits: Limits,
    /// The bitmap's view of the array. Until it is known, clients that ask are told that all of the array may
    /// be written.
    content: Option<Arc<dyn Content>>,
    epoll: OwnedFd,
    timer: OwnedFd,
    deadline: Deadline,
    places: Box<[Place]>,
    runnable: u64,
    blocked: u64,
    /// Connections that wait for memory, and clients that keep it from them.
    stalls: Stalls,
    touched: u64,
    /// Connections with long commands that have pieces left to issue.
    long: u64,
    /// Stripe operations that pieces of long commands keep busy in the engine.
    long_operations: u32,
    /// Whether the next piece of a long command found no room or no slot, so that something has to be freed
    /// first.
    long_blocked: bool,
    /// Whether a piece of a long command took the only place of a turn, and no such turn has gone to other
    /// requests since.
    long_took_all: bool,
    turns: Turns,
    loads: Loads,
    /// The order in which long commands are served.
    long_turns: Turns,
    /// The share of memory of this turn.
    share: Option<Share>,
    /// Whether anything was freed since the blocked connections were last tried.
    freed: bool,
    /// Whether the last turn could take any requests. If not, the engine is full, and the reactor will turn
    /// when an operation of the engine completes, so the bell need not ring.
    had_room: bool,
    /// Whether we rang the bell and its event has not arrived yet.
    rung: bool,
    closing: Closing,
}

/// The progress of [`Frontend::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    /// Closing was not requested.
    No,
    /// Closing was requested; connections still receive.
    Asked,
    /// No connection receives any more.
    Ended,
}

impl NbdFrontend {
    /// Sets the view from which the front end answers block status commands and reads of unwritten stripes.
    pub fn knows(&mut self, content: Arc<dyn Content>) {
        self.content = Some(content);
    }

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
            content: None,
            epoll,
            timer,
            deadline: Deadline::None,
            places: (0..CONNECTIONS_MAX).map(|_| Place::default()).collect(),
            runnable: 0,
            blocked: 0,
            stalls: Stalls::default(),
            touched: 0,
            long: 0,
            long_operations: 0,
            long_blocked: false,
            long_took_all: false,
            turns: Turns::default(),
            loads: Loads::new(),
            long_turns: Turns::default(),
            share: None,
            freed: false,
            had_room: true,
            rung: false,
            closing: Closing::No,
        })
    }

    /// Handles the events since the last turn.
    fn poll(&mut self, buffers: &mut Buffers<'_>) {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS_MAX];
        // An interrupted poll counts as one without events; the next turn polls again.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events[..], Some(&Timespec::default())) else {
            return;
        };
        for event in events.iter() {
            match event.data.u64() {
                BELL => {
                    self.rung = false;
                    self.seat_newcomers(buffers.share.tick);
                    self.give_up_unused(buffers);
                }
                TIMER => self.expire(buffers),
                data => self.note(buffers, data, event.flags),
            }
        }
    }

    /// Handles an event of a connection's socket.
    fn note(&mut self, buffers: &mut Buffers<'_>, data: u64, flags: epoll::EventFlags) {
        use epoll::EventFlags as Flags;
        let place = data as u32 as usize;
        if self.event_data(place) != data {
            return; // from a socket of an earlier connection of this place
        }
        let Some(connection) = self.places[place].connection.as_deref_mut() else { return };
        if flags.intersects(Flags::HUP | Flags::ERR) {
            // Both directions are closed, so no answer can reach the client. Its queued commands are dropped;
            // carrying them out would keep others waiting for a client that is gone.
            self.hang_up(buffers, place, Farewell::Vanished);
            return;
        }
        if flags.intersects(Flags::IN | Flags::RDHUP) {
            connection.note_readable(flags.contains(Flags::RDHUP));
            self.runnable |= bit(place) & !self.blocked;
        }
        if flags.contains(Flags::OUT) {
            self.touched |= bit(place);
        }
    }

    /// Gives each client at the door a place.
    fn seat_newcomers(&mut self, tick: u64) {
        while let Some(accepted) = self.door.next() {
            if self.closing == Closing::No {
                self.seat(accepted, tick);
            }
        }
    }

    /// Disconnects a client that has never used its place, if another client of the same listener was refused
    /// for lack of one.
    fn give_up_unused(&mut self, buffers: &mut Buffers<'_>) {
        if !self.door.is_wanted_by_any() {
            return;
        }
        let unused = |(index, place): (usize, &Place)| {
            let connection = place.connection.as_deref()?;
            let since = connection.unused_since(buffers.share.tick)?;
            self.door.is_wanted(connection.listener()).then_some((since, connection.listener(), index))
        };
        let oldest = self.places.iter().enumerate().filter_map(unused).min();
        if let Some((_, listener, index)) = oldest
            && self.door.take_wanted(listener)
        {
            self.hang_up(buffers, index, Farewell::Unused);
        }
    }

    /// Disconnects a client. Its place is freed when the engine holds none of its pieces.
    fn hang_up(&mut self, buffers: &mut Buffers<'_>, place: usize, why: Farewell) {
        let Some(connection) = self.places[place].connection.as_deref_mut() else { return };
        if connection.socket().is_some() {
            let (peer, traffic) = connection.visitor();
            self.door.tell(Visit::Left { peer, why, traffic });
        }
        connection.hang_up(buffers);
        self.runnable &= !bit(place);
        self.blocked &= !bit(place);
        self.long &= !bit(place);
        self.stalls.forget(place);
        self.touched |= bit(place);
    }

    /// The data of poll events of the connection at a place.
    fn event_data(&self, place: usize) -> u64 {
        u64::from(self.places[place].generation) << 32 | place as u64
    }

    fn seat(&mut self, accepted: Accepted, tick: u64) {
        let free = self.places.iter().position(|place| place.connection.is_none());
        let index = free.expect("a client at the door has a seat, and there are as many as places");
        let place = &mut self.places[index];
        place.generation = place.generation.wrapping_add(1);
        let tag_base = u64::from(place.generation) << 32 | (index as u64) << 16;
        if rustix::io::ioctl_fionbio(&accepted.socket, true).is_err() {
            return; // the socket closes; we have no better answer for the client
        }
        let data = epoll::EventData::new_u64(self.event_data(index));
        if epoll::add(&self.epoll, &accepted.socket, data, watched(false)).is_err() {
            return;
        }
        self.places[index].connection =
            Some(Box::new(Connection::new(accepted, self.limits, tag_base, tick)));
        self.runnable |= bit(index);
    }

    /// Receives from one connection.
    fn receive(&mut self, buffers: &mut Buffers<'_>, place: usize, room: usize, requests: &mut Vec<Request>) {
        self.runnable &= !bit(place);
        let Some(connection) = self.places[place].connection.as_deref_mut() else { return };
        buffers.starved = false;
        buffers.share.is_crowded = self.turns.others_active(place);
        buffers.share.in_engine_max = self.loads.in_engine_max(place);
        match connection.receive(buffers, room, requests) {
            Ok(Progress::Quiet) => {}
            Ok(Progress::Again) => self.runnable |= bit(place),
            Ok(Progress::Blocked) => self.blocked |= bit(place),
            Err(Broken) => return self.hang_up(buffers, place, Farewell::Broken),
        }
        if buffers.starved {
            self.stalls.deny(place);
        } else {
            self.stalls.relieve(place);
        }
        if connection.is_active(buffers.share.tick) {
            self.turns.mark(place);
        }
        self.long |= if connection.has_long() { bit(place) } else { 0 };
        self.touched |= bit(place);
    }

    /// The number of pieces of long commands that may go before all others in a turn with room for `room`.
    fn long_first_max(&mut self, room: usize) -> usize {
        match room {
            // Long pieces take the only place at most every other time.
            1 if std::mem::take(&mut self.long_took_all) => 0,
            _ => room.div_ceil(LONG_PLACES_OF_ROOM),
        }
    }

    /// Hands over pieces of long commands, at most one from each connection.
    fn issue_long(&mut self, requests: &mut Vec<Request>, requests_max: usize) {
        let mut waiting = self.long;
        self.long_blocked = false;
        while waiting != 0 && requests.len() < requests_max {
            let place = self.long_turns.first_of(waiting);
            let connection = self.places[place].connection.as_deref_mut();
            let connection = connection.expect("a long command has a connection");
            match connection.issue_long(LONG_OPERATIONS_MAX - self.long_operations) {
                LongPiece::Issued(request, operations) => {
                    requests.push(request);
                    self.long_operations += operations;
                }
                LongPiece::NoSlot => self.long_blocked = true,
                LongPiece::NoRoom => {
                    // The piece stays the next one, so that smaller pieces of others do not overtake it for
                    // ever.
                    self.long_blocked = true;
                    return;
                }
                LongPiece::None => {}
            }
            self.long &= if connection.has_long() { u64::MAX } else { !bit(place) };
            self.long_turns.pass(place);
            waiting &= !bit(place);
        }
    }

    /// Sends the replies of one connection, and frees its place if the connection is at its end.
    fn send(&mut self, buffers: &mut Buffers<'_>, place: usize) {
        self.touched &= !bit(place);
        let Some(connection) = self.places[place].connection.as_deref_mut() else { return };
        buffers.share.is_crowded = self.turns.others_active(place);
        let outgoing = connection.send(buffers);
        if connection.is_active(buffers.share.tick) {
            self.turns.mark(place);
        }
        if outgoing == Ok(Outgoing::More) {
            self.touched |= bit(place);
        }
        let wants_room = outgoing == Ok(Outgoing::Full);
        let is_watched = self.watch_room(place, wants_room);
        let connection = self.places[place].connection.as_deref_mut().expect("looked at above");
        // If the poll cannot be changed, the answers would stay unsent for ever.
        let why = match outgoing {
            Err(Broken) => Some(Farewell::Vanished),
            Ok(_) if !is_watched => Some(Farewell::Broken),
            Ok(_) if connection.is_over() && self.closing != Closing::No => Some(Farewell::Stopped),
            Ok(_) => connection.is_over().then_some(Farewell::Left),
        };
        if let Some(why) = why {
            self.hang_up(buffers, place, why);
            self.touched &= !bit(place);
        }
        if self.places[place].connection.as_deref().is_some_and(Connection::is_gone) {
            self.places[place].connection = None;
        }
    }

    /// Sets whether the poll reports that a connection's socket has room to send. Returns whether that
    /// succeeded.
    fn watch_room(&mut self, place: usize, wants_room: bool) -> bool {
        let data = epoll::EventData::new_u64(self.event_data(place));
        let Some(connection) = self.places[place].connection.as_deref_mut() else { return true };
        let Some(socket) = connection.socket().filter(|_| connection.watches_room != wants_room) else {
            return true;
        };
        let is_changed = epoll::modify(&self.epoll, socket, data, watched(wants_room)).is_ok();
        connection.watches_room = wants_room;
        is_changed
    }

    /// Stops all connections from receiving, once.
    fn end_all(&mut self, buffers: &mut Buffers<'_>) {
        self.closing = Closing::Ended;
        self.runnable = 0;
        self.blocked = 0;
        self.stalls = Stalls::default();
        self.long = 0;
        for index in 0..self.places.len() {
            let Some(connection) = self.places[index].connection.as_deref_mut() else { continue };
            let ended = connection.end(buffers);
            connection.abandon_long(buffers);
            if ended == Err(Broken) {
                self.hang_up(buffers, index, Farewell::Stopped);
            }
            self.touched |= bit(index);
        }
        self.set_deadline(Deadline::Drain, DRAIN_TIME_MAX);
    }

    fn set_deadline(&mut self, deadline: Deadline, after: Duration) {
        let it_value = Timespec { tv_sec: after.as_secs() as i64, tv_nsec: after.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).expect("a valid time on a timer");
        self.deadline = deadline;
    }

    /// Begins to watch what each client moves, because a connection waits for memory that is its share.
    fn watch_for_stalls(&mut self, base_bytes: u32) {
        if self.deadline == Deadline::None {
            self.places
                .iter_mut()
                .filter_map(|place| place.connection.as_mut())
                .for_each(|it| it.begin_watch());
            self.stalls.begin(self.stalled(base_bytes));
            self.set_deadline(Deadline::Look, LOOK_TIME);
        }
    }

    /// The connections that keep memory and whose clients move next to nothing.
    fn stalled(&self, base_bytes: u32) -> u64 {
        let is_stalled =
            |place: &Place| place.connection.as_deref().is_some_and(|it| it.is_stalled(base_bytes));
        let places = self.places.iter().enumerate();
        places.filter(|(_, place)| is_stalled(place)).fold(0, |set, (index, _)| set | bit(index))
    }

    /// Handles the expiry of the timer.
    fn expire(&mut self, buffers: &mut Buffers<'_>) {
        // A connection that has waited for long may accept less memory, so the blocked ones are tried again.
        buffers.freed = true;
        let (hopeless, why) = match std::mem::replace(&mut self.deadline, Deadline::None) {
            Deadline::None => return,
            Deadline::Drain => (u64::MAX, Farewell::Stopped),
            Deadline::Look => match self.stalls.look(self.stalled(buffers.share.base_bytes)) {
                Look::Again => {
                    self.set_deadline(Deadline::Look, LOOK_TIME);
                    return;
                }
                Look::Over => return,
                Look::Stalled(stalled) => (stalled, Farewell::Stalled),
            },
        };
        for index in (0..self.places.len()).filter(|&index| hopeless & bit(index) != 0) {
            self.hang_up(buffers, index, why);
        }
    }

    /// Begins a turn and computes its share.
    fn begin_turn(&mut self, pool: &Pool) -> Share {
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
        let tick = (now.as_millis() / TICK.as_millis()) as u64;
        self.turns.tick(tick);
        self.loads.begin_turn(tick);
        for (index, place) in self.places.iter().enumerate() {
            self.loads.note(index, place.connection.as_deref().map_or(0, Connection::in_engine));
        }
        self.share_out(tick, pool)
    }

    /// Computes the share from what connections hold now.
    fn share_out(&mut self, tick: u64, pool: &Pool) -> Share {
        let connections = self.places.iter().filter_map(|place| place.connection.as_deref());
        let held_bytes = connections.map(Connection::held_bytes);
        let share = Share::new(tick, pool, self.limits.logical_block_bytes, held_bytes);
        self.share = Some(share);
        share
    }

    /// Collects the memory and the share for the rest of a turn.
    fn buffers<'a>(&mut self, memory: &'a Memory, pool: &'a mut Pool) -> Buffers<'a> {
        let share = match self.share {
            Some(share) => share,
            None => self.begin_turn(pool),
        };
        let content = self.content.clone();
        Buffers { memory, pool, share, content, freed: self.freed, starved: false, long_operations_ended: 0 }
    }

    /// Whether a piece of a long command can go to the engine.
    fn has_long_piece(&self) -> bool {
        self.long != 0 && !self.long_blocked
    }

    /// Stores what a turn found out about memory.
    fn keep(&mut self, freed: bool, long_operations_ended: u32) {
        self.freed = freed;
        self.long_operations -= long_operations_ended;
    }
}

impl Frontend for NbdFrontend {
    fn gather(&mut self, memory: &Memory, pool: &mut Pool, room: usize, requests: &mut Vec<Request>) {
        self.begin_turn(pool);
        let mut buffers = self.buffers(memory, pool);
        self.poll(&mut buffers);
        if self.closing == Closing::Asked {
            self.end_all(&mut buffers);
        }
        // Clients that were disconnected above hold less now.
        buffers.share = self.share_out(buffers.share.tick, buffers.pool);
        if std::mem::take(&mut buffers.freed) {
            self.runnable |= std::mem::take(&mut self.blocked);
        }
        self.had_room = room > 0;
        // A connection that waits for others counts as active; otherwise the others would not leave it its
        // part.
        self.turns.mark_all(self.long | self.stalls.denied());
        let requests_max = requests.len() + room;
        let long_max = requests.len() + self.long_first_max(room);
        self.issue_long(requests, long_max);
        self.long_took_all |= room == 1 && requests.len() == requests_max;
        let each_max = self.turns.requests_max(room);
        let mut waiting = self.runnable;
        while waiting != 0 && requests.len() < requests_max {
            let place = self.turns.next_of(waiting);
            waiting &= !bit(place);
            self.receive(&mut buffers, place, each_max.min(requests_max - requests.len()), requests);
        }
        self.issue_long(requests, requests_max);
        self.freed = buffers.freed;
        if self.stalls.denied() != 0 {
            self.watch_for_stalls(buffers.share.base_bytes);
        }
    }

    fn reply(&mut self, memory: &Memory, pool: &mut Pool, reply: Reply) {
        let [generation, place, piece] =
            [reply.tag >> 32, reply.tag >> 16 & 0xffff, reply.tag & 0xffff].map(|part| part as u32);
        let mut buffers = self.buffers(memory, pool);
        let slot = &mut self.places[place as usize];
        assert_eq!(slot.generation, generation, "a place is not given away before its last reply");
        let connection = slot.connection.as_deref_mut().expect("a connection stays until its last reply");
        let answered = connection.answer(&mut buffers, piece as u16, &reply);
        if !connection.has_long() {
            self.long &= !bit(place as usize);
        }
        if answered == Err(Broken) {
            self.hang_up(&mut buffers, place as usize, Farewell::ReadFailed);
        }
        let Buffers { freed, long_operations_ended, .. } = buffers;
        self.keep(freed, long_operations_ended);
        self.touched |= bit(place as usize);
    }

    fn settle(&mut self, memory: &Memory, pool: &mut Pool) {
        let mut buffers = self.buffers(memory, pool);
        let mut waiting = self.touched;
        while waiting != 0 {
            self.send(&mut buffers, waiting.trailing_zeros() as usize);
            waiting &= waiting - 1;
        }
        self.freed = buffers.freed;
        let may_receive = self.had_room
            && (self.runnable != 0
                || self.freed && (self.blocked != 0 || self.long_blocked)
                || self.has_long_piece());
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

/// The events for which a connection's socket is watched.
fn watched(room: bool) -> epoll::EventFlags {
    let always = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    if room { always | epoll::EventFlags::OUT } else { always }
}

fn bit(place: usize) -> u64 {
    1 << place
}
