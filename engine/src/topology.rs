//! Chooses the cores that reactors run on: near their members, one reactor per physical core.
//!
//! The machine is read by hwloc (cargo feature `hwloc`, the default), or from sysfs if hwloc is not built in
//! or fails; both yield the same [`Topology`]. Only cores that this process may use count: a container's or
//! `taskset`'s mask is respected.
//!
//! - [`choose_cores`] is pure. A polling reactor uses its whole physical core, so a reactor on the sibling
//!   thread would gain next to nothing. Siblings are taken last.
//! - Memory of another node adds latency to every byte of parity. Reactors go to the members' nodes in
//!   proportion; if no member's node is known, they stay together.
//! - The kernel puts work without a preferred place on the first core: that core is taken late.

use std::cmp::Reverse;

#[cfg(feature = "hwloc")]
mod hwloc;
mod sysfs;

/// A CPU as the scheduler counts them (a hardware thread).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// Number of the CPU, as in `/sys/devices/system/cpu/cpuN`.
    pub id: usize,
    /// NUMA node of its memory.
    pub numa_node: Option<u32>,
    /// Socket of the CPU.
    pub package: Option<u32>,
    /// First CPU of the same physical core, if that is another CPU.
    pub smt_sibling_of: Option<usize>,
}

/// The CPUs that this process may use, by ascending number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The CPUs, by ascending number.
    pub cores: Vec<Core>,
}

/// A CPU as hwloc or sysfs describes it.
struct Cpu {
    id: usize,
    numa_node: Option<u32>,
    package: Option<u32>,
    /// Number of the physical core; equal for the threads of one core.
    physical: usize,
}

/// The machine as the calling thread may use it. Call this before pinning the thread: afterwards only one
/// core is allowed.
#[must_use]
pub fn topology() -> Topology {
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    from_cpus(cpus(), &allowed)
}

#[cfg(feature = "hwloc")]
fn cpus() -> Vec<Cpu> {
    hwloc::cpus().unwrap_or_else(sysfs::cpus)
}

#[cfg(not(feature = "hwloc"))]
fn cpus() -> Vec<Cpu> {
    sysfs::cpus()
}

/// Keeps the CPUs that are allowed and finds their siblings.
fn from_cpus(mut cpus: Vec<Cpu>, allowed: &[usize]) -> Topology {
    cpus.retain(|cpu| allowed.contains(&cpu.id));
    cpus.sort_by_key(|cpu| cpu.id);
    let first_of = |physical| cpus.iter().find(|cpu| cpu.physical == physical).map(|cpu| cpu.id);
    let core = |cpu: &Cpu| Core {
        id: cpu.id,
        numa_node: cpu.numa_node,
        package: cpu.package,
        smt_sibling_of: first_of(cpu.physical).filter(|first| *first != cpu.id),
    };
    Topology { cores: cpus.iter().map(core).collect() }
}

/// Up to `count` cores for reactors, best first. `member_nodes` has the NUMA node of each member whose node
/// is known.
#[must_use]
pub fn choose_cores(topology: &Topology, count: usize, member_nodes: &[u32]) -> Vec<usize> {
    let mut left: Vec<Core> = topology.cores.clone();
    let mut chosen: Vec<Core> = Vec::with_capacity(count);
    let first = left.first().map(|core| core.id);
    while chosen.len() < count {
        let rank = |core: &Core| {
            let need = need(core.numa_node, &chosen, count, member_nodes);
            (core.smt_sibling_of.is_some(), Reverse(need), Some(core.id) == first, core.id)
        };
        let Some(at) = (0..left.len()).min_by_key(|at| rank(&left[*at])) else { break };
        chosen.push(left.remove(at));
    }
    chosen.iter().map(|core| core.id).collect()
}

/// How much a node needs one more of the `count` reactors: its share by members, less the reactors it has.
fn need(node: Option<u32>, chosen: &[Core], count: usize, member_nodes: &[u32]) -> i64 {
    let has = chosen.iter().filter(|core| core.numa_node == node).count() as i64;
    if member_nodes.is_empty() {
        return has;
    }
    let members = member_nodes.iter().filter(|member| Some(**member) == node).count() as i64;
    members * count as i64 - has * member_nodes.len() as i64
}

/// The cores that no reactor polls on; the kernel's workers and control threads belong here.
#[must_use]
pub fn other_cores(topology: &Topology, chosen: &[usize]) -> Vec<usize> {
    topology.cores.iter().map(|core| core.id).filter(|id| !chosen.contains(id)).collect()
}

/// Binds the calling thread to one core; returns whether the kernel allowed it.
#[must_use]
pub fn pin(core: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sockets with four cores of two threads; siblings are eight apart, as on most servers.
    fn two_sockets() -> Topology {
        let cpu = |id: usize| {
            let (physical, node) = (id % 8, (id % 8 / 4) as u32);
            Cpu { id, numa_node: Some(node), package: Some(node), physical }
        };
        from_cpus((0..16).map(cpu).collect(), &(0..16).collect::<Vec<_>>())
    }

    #[test]
    fn cores_are_chosen() {
        for (count, members, expected) in [
            // Without member nodes: together, and not on the first core.
            (2, &[][..], &[1, 2][..]),
            // With member nodes: near the members.
            (2, &[1, 1, 1], &[4, 5]),
            (2, &[0, 0, 1, 1], &[1, 4]),
            (4, &[0, 1, 1, 1], &[4, 5, 1, 6]),
            // A core of the far node is better than a sibling thread, and a sibling better than nothing.
            (5, &[1], &[4, 5, 6, 7, 1]),
            (9, &[1], &[4, 5, 6, 7, 1, 2, 3, 0, 12]),
        ] {
            assert_eq!(choose_cores(&two_sockets(), count, members), expected, "{count} {members:?}");
        }
        assert_eq!(choose_cores(&two_sockets(), 99, &[]).len(), 16);
        assert!(choose_cores(&Topology { cores: Vec::new() }, 2, &[]).is_empty());
    }

    #[test]
    fn what_is_not_allowed_does_not_exist() {
        let cpu = |id| Cpu { id, numa_node: None, package: None, physical: id % 2 };
        let topology = from_cpus((0..4).map(cpu).collect(), &[1, 2, 3]);
        let siblings: Vec<_> = topology.cores.iter().map(|core| (core.id, core.smt_sibling_of)).collect();
        assert_eq!(siblings, [(1, None), (2, None), (3, Some(1))]);
        assert_eq!(other_cores(&topology, &[2]), [1, 3]);
    }

    #[test]
    fn this_machine_has_cores() {
        let found = topology();
        assert!(!found.cores.is_empty());
        let one = choose_cores(&found, 1, &[]);
        assert!(std::thread::spawn(move || pin(one[0])).join().unwrap());
    }

    #[cfg(feature = "hwloc")]
    #[test]
    fn both_sources_agree() {
        let allowed: Vec<usize> = topology().cores.iter().map(|core| core.id).collect();
        let by_hwloc = from_cpus(hwloc::cpus().expect("hwloc works here"), &allowed);
        assert_eq!(by_hwloc, from_cpus(sysfs::cpus(), &allowed));
    }
}
