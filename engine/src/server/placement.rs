//! Chooses the CPU that each reactor of a server polls on, and the CPUs for the kernel's workers.
//!
//! Servers of one machine avoid each other's CPUs: a server claims each of its CPUs by binding an abstract
//! socket name, which the kernel releases with the process. A claim is advice between servers, never a
//! condition: a reactor that finds no free CPU is left to the scheduler.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::limits::REACTORS_MAX;
use crate::memory::Memory;
use crate::topology::{Topology, choose_cores, other_cores, pin, topology};

use super::ServerError;

/// Most reactors of a server if no number is given.
const REACTORS_DEFAULT_MAX: usize = 4;

/// The CPU of one reactor; `None` if the scheduler chooses.
pub(super) type Seat = Option<usize>;

/// CPUs for the threads of one server.
pub(super) struct Placement {
    /// The seat of each reactor.
    pub(super) seats: Vec<Seat>,
    /// CPUs without a reactor of this server, for the kernel's workers. If empty, a worker runs where its
    /// reactor runs.
    pub(super) workers: Vec<usize>,
    /// Claims on the CPUs, held as long as the server lives.
    _claims: Vec<UnixDatagram>,
}

impl Placement {
    /// Chooses the given `cpus`; if there are none, `reactors` CPUs (0: half of the CPUs, at most 4) that no
    /// other server has claimed, near the members whose NUMA nodes are given.
    pub(super) fn choose(
        cpus: &[usize],
        reactors: usize,
        member_nodes: &[u32],
    ) -> Result<Placement, ServerError> {
        let machine = topology();
        let allowed: Vec<usize> = machine.cores.iter().map(|core| core.id).collect();
        let count = count(cpus, reactors, &allowed)?;
        let mut claims = Vec::new();
        let mut seats: Vec<Seat> = Vec::with_capacity(count);
        if cpus.is_empty() {
            let mut free = machine.clone();
            while seats.len() < count
                && let Some(cpu) = next(&free, &seats, member_nodes)
            {
                match claim(cpu) {
                    Ok(claim) => {
                        claims.extend(claim);
                        seats.push(Some(cpu));
                    }
                    Err(Taken) => free.cores.retain(|core| core.id != cpu),
                }
            }
            seats.resize(count, None);
        } else {
            claims.extend(cpus.iter().filter_map(|cpu| claim(*cpu).ok().flatten()));
            seats.extend(cpus.iter().copied().map(Some));
        }
        let taken: Vec<usize> = seats.iter().copied().flatten().collect();
        let workers = if taken.is_empty() { Vec::new() } else { other_cores(&machine, &taken) };
        Ok(Placement { seats, workers, _claims: claims })
    }

    /// Faults each arena's pages in from its reactor's CPU, so that the kernel takes them from the memory
    /// near that CPU.
    pub(super) fn populate(&self, memory: &Memory) {
        std::thread::scope(|scope| {
            for (arena, seat) in self.seats.iter().enumerate() {
                scope.spawn(move || {
                    take_seat(*seat);
                    memory.populate(arena as u16);
                });
            }
        });
    }
}

/// Binds the calling thread to its seat, if it has one.
pub(super) fn take_seat(seat: Seat) {
    if let Some(cpu) = seat {
        // Pinning fails if the process's CPUs have changed since: then the scheduler places the reactor.
        let _ = pin(cpu);
    }
}

/// The best of the remaining CPUs for one more reactor.
fn next(free: &Topology, seats: &[Seat], member_nodes: &[u32]) -> Option<usize> {
    let is_new = |cpu: &usize| !seats.contains(&Some(*cpu));
    choose_cores(free, seats.len() + 1, member_nodes).into_iter().find(is_new)
}

/// Error: another server polls on the CPU.
struct Taken;

/// Claims a CPU; `None` if the kernel has no abstract socket names, so that no server can claim.
fn claim(cpu: usize) -> Result<Option<UnixDatagram>, Taken> {
    let address = SocketAddr::from_abstract_name(format!("striate.cpu.{cpu}"));
    match address.and_then(|address| UnixDatagram::bind_addr(&address)) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Taken),
        Err(_) => Ok(None),
    }
}

fn count(cpus: &[usize], reactors: usize, allowed: &[usize]) -> Result<usize, ServerError> {
    let asked = if cpus.is_empty() { reactors } else { cpus.len() };
    if asked > REACTORS_MAX {
        return Err(ServerError(format!(
            "{asked} reactors are asked for; at most {REACTORS_MAX} are possible"
        )));
    }
    for (at, cpu) in cpus.iter().enumerate() {
        if !allowed.contains(cpu) {
            let allowed = allowed.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
            return Err(ServerError(format!(
                "CPU {cpu} is not one that this process may use: it has {allowed}"
            )));
        }
        if cpus[..at].contains(cpu) {
            return Err(ServerError(format!("CPU {cpu} is given twice: each reactor takes one of its own")));
        }
    }
    Ok(if asked > 0 { asked } else { (allowed.len() / 2).clamp(1, REACTORS_DEFAULT_MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_checked() {
        assert_eq!(count(&[], 0, &[0, 1]).unwrap(), 1);
        assert_eq!(count(&[], 0, &(0..64).collect::<Vec<_>>()).unwrap(), REACTORS_DEFAULT_MAX);
        assert_eq!(count(&[], 3, &[0]).unwrap(), 3);
        assert_eq!(count(&[1, 0], 0, &[0, 1]).unwrap(), 2);
        assert!(count(&[2], 0, &[0, 1]).unwrap_err().0.contains("CPU 2 is not one"));
        assert!(count(&[1, 1], 0, &[0, 1]).unwrap_err().0.contains("twice"));
        assert!(count(&[], REACTORS_MAX + 1, &[0]).unwrap_err().0.contains("at most"));
    }

    #[test]
    fn servers_keep_apart() {
        // A CPU number that no machine has, so that the test never meets a real server.
        let cpu = 1 << 40;
        let first = claim(cpu).ok().flatten().expect("free");
        assert!(claim(cpu).is_err());
        drop(first);
        assert!(claim(cpu).is_ok_and(|claim| claim.is_some()));
    }

    #[test]
    fn a_seat_is_taken_and_the_workers_sit_elsewhere() {
        let allowed: Vec<usize> = topology().cores.iter().map(|core| core.id).collect();
        let placement = Placement::choose(&allowed[..1], 0, &[]).unwrap();
        assert_eq!(placement.seats, [Some(allowed[0])]);
        assert_eq!(placement.workers, allowed[1..]);
        let seat = placement.seats[0];
        let thread = std::thread::spawn(move || {
            take_seat(seat);
            topology().cores
        });
        let cores = thread.join().unwrap();
        assert_eq!(cores.iter().map(|core| core.id).collect::<Vec<_>>(), allowed[..1]);
    }
}
