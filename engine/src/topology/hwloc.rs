//! Reads the CPUs by hwloc, which also corrects for machines whose sysfs is wrong.

use hwlocality::Topology;
use hwlocality::object::TopologyObject;
use hwlocality::object::types::ObjectType;

use super::Cpu;

/// Reads all CPUs; `None` if hwloc cannot read the machine.
pub(super) fn cpus() -> Option<Vec<Cpu>> {
    let topology = Topology::new().ok()?;
    topology.objects_with_type(ObjectType::PU).map(cpu).collect()
}

fn cpu(unit: &TopologyObject) -> Option<Cpu> {
    let id = unit.os_index()?;
    let ancestor = |kind| unit.first_ancestor_with_type(kind);
    let package = ancestor(ObjectType::Package).and_then(TopologyObject::os_index);
    let node = unit.nodeset().and_then(|nodes| nodes.first_set()).map(usize::from);
    Some(Cpu {
        id,
        numa_node: node.and_then(|node| u32::try_from(node).ok()),
        package: package.and_then(|package| u32::try_from(package).ok()),
        physical: ancestor(ObjectType::Core).map_or(id, TopologyObject::logical_index),
    })
}
