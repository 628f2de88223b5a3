//! Reads the CPUs from /sys/devices/system/cpu. A value that no file gives stays `None`.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use super::Cpu;

pub(super) fn cpus() -> Vec<Cpu> {
    let names = names(Path::new("/sys/devices/system/cpu"));
    names.iter().filter_map(|name| numbered(name, "cpu")).filter_map(cpu).collect()
}

/// Reads one CPU; `None` if it is offline and so has no topology.
fn cpu(id: usize) -> Option<Cpu> {
    let path = Path::new("/sys/devices/system/cpu").join(format!("cpu{id}"));
    let siblings = fs::read_to_string(path.join("topology/thread_siblings_list")).ok()?;
    Some(Cpu {
        id,
        numa_node: names(&path).iter().find_map(|name| numbered(name, "node")),
        package: fs::read_to_string(path.join("topology/physical_package_id"))
            .ok()
            .and_then(|package| package.trim().parse().ok()),
        physical: first_of(&siblings).unwrap_or(id),
    })
}

/// The first number of a list like "0-1" or "0,8".
fn first_of(list: &str) -> Option<usize> {
    list.trim().split(['-', ',']).next()?.parse().ok()
}

/// The number in a name like "cpu12".
fn numbered<T: FromStr>(name: &str, prefix: &str) -> Option<T> {
    name.strip_prefix(prefix)?.parse().ok()
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_names_are_read() {
        assert_eq!((first_of("0-1\n"), first_of("3,11\n"), first_of("7\n")), (Some(0), Some(3), Some(7)));
        assert_eq!(first_of(""), None);
        assert_eq!((numbered("cpu12", "cpu"), numbered::<usize>("cpufreq", "cpu")), (Some(12_usize), None));
    }
}
