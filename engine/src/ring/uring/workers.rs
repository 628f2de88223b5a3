//! The number of worker threads that the kernel may have for a ring (io-wq).
//!
//! The kernel uses worker threads for everything that it cannot do without blocking: flushes, deallocations,
//! buffered files, writes that allocate blocks of a file. All rings of a thread share these workers. A device
//! that does not answer may hold all of them, and then no other member of the array is flushed. (Seen with
//! four workers and one file on a frozen file system: no write was answered, every member looked silent, and
//! so none was failed.)
//!
//! Therefore each device adds as many workers as it can hold. The kernel makes a worker only when the others
//! are all blocked, so a large bound costs nothing while the members answer.

use super::UringDevice;

/// Fewest workers of a ring, and number of workers for each CPU on which they may run.
const WORKERS_MIN: u32 = 4;
const WORKERS_PER_CPU: u32 = 4;

/// Workers that a device can hold in addition to those of its transfers: by its flush and by deallocations.
const HELD_BESIDE: u32 = 4;

/// Most workers of a ring with these devices, if its workers may run on `cpus` CPUs (0: on the CPU of the
/// ring).
pub(super) fn most<'d>(cpus: usize, devices: impl Iterator<Item = &'d UringDevice>) -> u32 {
    let own = (WORKERS_PER_CPU * cpus as u32).max(WORKERS_MIN);
    own + devices.map(held_by).sum::<u32>()
}

/// The number of workers that a device can hold: one for each transfer in the kernel. A transfer of a file
/// may block anywhere. A transfer of a block device waits for a tag, if others use the tags (other rings,
/// other partitions, other layers) and the device gives none back.
fn held_by(device: &UringDevice) -> u32 {
    device.depth_max + HELD_BESIDE
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::Deallocate;
    use super::*;

    #[test]
    fn a_device_has_a_worker_for_each_operation() {
        let device = |path: &str| UringDevice {
            file: File::open(path).unwrap(),
            namespace: None,
            deallocate: Deallocate::Ignore,
            polled: false,
            depth_max: 64,
            transfer_bytes_max: 4096,
        };
        assert_eq!(most(0, [].iter()), WORKERS_MIN);
        assert_eq!(most(3, [].iter()), 12);
        let (file, other) = (device("/proc/self/exe"), device("/dev/null"));
        assert_eq!(most(3, [file, other].iter()), 12 + 2 * (64 + HELD_BESIDE));
    }
}
