//! Limits the helper threads that check the caches of devices (`Server::look_at_caches`). A look may wait for
//! its device for ever, so a second look at a device begins only after the first is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::DEVICES_MAX;
use crate::ring::DeviceIndex;

/// A bit for each device with a look in progress. The bits guard no other data.
#[derive(Debug, Default)]
pub(super) struct CacheLooks(Arc<AtomicU64>);

const _: () = assert!(DEVICES_MAX <= u64::BITS as usize);

impl CacheLooks {
    /// Begins a look; `None` if an earlier look at the same device is not over.
    pub(super) fn begin(&self, device: DeviceIndex) -> Option<CacheLook> {
        let bit = 1 << device.0;
        let before = self.0.fetch_or(bit, Ordering::AcqRel);
        (before & bit == 0).then(|| CacheLook { looks: self.0.clone(), bit })
    }
}

/// A look in progress; it is over when this value is dropped.
#[derive(Debug)]
pub(super) struct CacheLook {
    looks: Arc<AtomicU64>,
    bit: u64,
}

impl Drop for CacheLook {
    fn drop(&mut self) {
        self.looks.fetch_and(!self.bit, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_looked_at_once_at_a_time() {
        let looks = CacheLooks::default();
        let first = looks.begin(DeviceIndex(63)).expect("none has begun");
        assert!(looks.begin(DeviceIndex(63)).is_none());
        assert!(looks.begin(DeviceIndex(0)).is_some());
        drop(first);
        assert!(looks.begin(DeviceIndex(63)).is_some());
    }
}
