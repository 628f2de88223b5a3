//! Parser for what an NVMe drive reports: the two structures of Identify, 4096 bytes each.
//!
//! Offsets are from the NVM Express Base specification 2.0 (figure 275, controller) and the NVM Command Set
//! specification 1.0 (figure 97, namespace); all numbers are little-endian. A drive may report anything:
//! where this parser does not understand a value it refuses, and the block device is used instead.
//!
//! ```text
//!   controller   4 serial   77 MDTS   520 ONCS   525 VWC   528 AWUPF   768 SUBNQN
//!   namespace    0 NSZE   24 NSFEAT   26 FLBAS   29 DPS   33 DLFEAT   36 NAWUPF   128 LBAF 0, 4 bytes each
//! ```

use crate::limits::BLOCK_BYTES;

/// Length of an Identify structure in bytes.
pub(super) const IDENTIFY_BYTES: usize = 4096;

/// Raw Identify structure of a controller or a namespace.
pub(super) type Structure = [u8; IDENTIFY_BYTES];

/// Unit of MDTS, taken as 4096 bytes. The real unit is the controller's smallest page, which is never
/// smaller, so the computed limit is safe.
const PAGE_BYTES: u64 = 4096;

/// Properties of a namespace and its controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identified {
    /// Number of logical blocks.
    pub(super) blocks: u64,
    /// Length of a logical block: 512 to 4096 bytes.
    pub(super) block_bytes: u32,
    /// Longest transfer of one command (MDTS), if limited.
    pub(super) transfer_bytes_max: Option<u64>,
    /// Whether the drive has a volatile cache (VWC).
    pub(super) volatile_cache: bool,
    /// Whether the drive deallocates (ONCS: Dataset Management).
    pub(super) deallocates: bool,
    /// Whether Write Zeroes deallocates, and deallocated blocks read as zeros (ONCS, DLFEAT). Then zeroing
    /// takes moments; otherwise a drive may write every zero.
    pub(super) zeroes_by_deallocating: bool,
    /// Bytes of a write that a power cut leaves either wholly written or not at all (NAWUPF or AWUPF).
    pub(super) atomic_bytes: u64,
}

impl Identified {
    /// Parses both structures; the error names the property that passthrough does not support.
    pub(super) fn parse(controller: &Structure, namespace: &Structure) -> Result<Identified, String> {
        let format_index = usize::from(namespace[26] & 0xf | namespace[26] >> 1 & 0x30);
        let format = &namespace[128 + 4 * format_index..][..4];
        let (metadata_bytes, block_shift) = (u16_at(format, 0), format[2]);
        if metadata_bytes > 0 {
            return Err(format!("its blocks carry {metadata_bytes} bytes of metadata"));
        }
        if namespace[29] & 7 != 0 {
            return Err("its blocks carry protection information".into());
        }
        if !(9..=BLOCK_BYTES.ilog2()).contains(&u32::from(block_shift)) {
            return Err(format!("it has blocks of 2^{block_shift} bytes"));
        }
        let block_bytes = 1 << block_shift;
        let optional = u16_at(controller, 520);
        let deallocated = namespace[33];
        // Use the namespace's own value if NSFEAT says that it has one.
        let own_atomic = namespace[24] & 2 != 0 && u16_at(namespace, 36) != 0;
        let atomic_blocks = if own_atomic { u16_at(namespace, 36) } else { u16_at(controller, 528) };
        let transfer_shift = u32::from(controller[77]);
        Ok(Identified {
            blocks: u64::from_le_bytes(namespace[..8].try_into().expect("8 bytes")),
            block_bytes,
            // A shift too large for a u64 counts as no limit.
            transfer_bytes_max: (1..48).contains(&transfer_shift).then(|| PAGE_BYTES << transfer_shift),
            volatile_cache: controller[525] & 1 != 0,
            deallocates: optional & 1 << 2 != 0,
            zeroes_by_deallocating: optional & 1 << 3 != 0
                && deallocated & 7 == 1
                && deallocated & 1 << 3 != 0,
            atomic_bytes: (u64::from(atomic_blocks) + 1) * u64::from(block_bytes),
        })
    }
}

/// Whether two controller structures come from one drive: equal serial number and equal NVMe qualified name.
pub(super) fn is_one_drive(one: &Structure, other: &Structure) -> bool {
    one[4..24] == other[4..24] && one[768..1024] == other[768..1024]
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a structure that is zero except at the given places.
    fn structure(places: &[(usize, &[u8])]) -> Structure {
        let mut bytes = [0; IDENTIFY_BYTES];
        for (at, what) in places {
            bytes[*at..at + what.len()].copy_from_slice(what);
        }
        bytes
    }

    /// Identify data of a QEMU 7.2 drive of 256 MiB, read by NVME_IOCTL_ADMIN_CMD; bytes not listed are zero.
    fn emulated() -> (Structure, Structure) {
        let controller = structure(&[
            (0, &[0x36, 0x1b, 0xf4, 0x1a]),
            (4, b"drive1              "),
            (24, b"QEMU NVMe Ctrl                          "),
            (64, b"7.2.22  "),
            (72, &[6, 0, 0x54, 0x52, 0, 7, 0, 0, 0, 4, 1]),
            (93, &[1, 0, 0, 0, 0x80]),
            (111, &[1]),
            (256, &[0x0a, 1, 3, 3, 3, 7]),
            (266, &[0x57, 1, 0x75, 1]),
            (512, &[0x66, 0x44, 0, 0, 0, 1, 0, 0, 0x5d, 1, 0, 0, 0, 7]),
            (534, &[3, 0, 1]),
            (768, b"nqn.2019-08.org.qemu:drive1"),
            (2048, &[0xc4, 9, 0, 0, 0x10, 0, 0, 0, 4]),
        ]);
        let namespace = structure(&[
            (0, &[0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8]),
            (24, &[0x14, 7, 0, 3, 0x1f]),
            (33, &[1]),
            (68, &[7, 0, 7]),
            (128, &[0, 0, 9, 0, 8, 0, 9, 0, 16, 0, 9, 0, 64, 0, 9, 0]),
            (144, &[0, 0, 12, 0, 8, 0, 12, 0, 16, 0, 12, 0, 64, 0, 12, 0]),
        ]);
        (controller, namespace)
    }

    #[test]
    fn an_emulated_drive() {
        let (controller, namespace) = emulated();
        let expected = Identified {
            blocks: 524_288,
            block_bytes: 512,
            transfer_bytes_max: Some(512 << 10),
            volatile_cache: true,
            deallocates: true,
            zeroes_by_deallocating: false,
            atomic_bytes: 512,
        };
        assert_eq!(Identified::parse(&controller, &namespace), Ok(expected));
    }

    #[test]
    fn variations() {
        let (controller, namespace) = emulated();
        let parsed = |changes: &[(usize, u8)]| {
            let (mut controller, mut namespace) = (controller, namespace);
            for &(at, byte) in changes {
                // The offsets tried below tell the structures apart: no offset is used in both.
                let structure = if at >= 500 || at == 77 { &mut controller } else { &mut namespace };
                structure[at] = byte;
            }
            Identified::parse(&controller, &namespace)
        };
        assert_eq!(parsed(&[(26, 4)]).unwrap().block_bytes, 4096);
        assert_eq!(parsed(&[(77, 0)]).unwrap().transfer_bytes_max, None);
        assert_eq!(parsed(&[(77, 255)]).unwrap().transfer_bytes_max, None);
        assert!(!parsed(&[(525, 0)]).unwrap().volatile_cache);
        assert!(!parsed(&[(520, 0x59)]).unwrap().deallocates);
        assert!(parsed(&[(33, 9)]).unwrap().zeroes_by_deallocating);
        // No Write Zeroes; deallocated blocks that read as anything; deallocated blocks that read as ones.
        for changes in [[(33, 9), (520, 0x55)], [(33, 8), (520, 0x5d)], [(33, 10), (520, 0x5d)]] {
            assert!(!parsed(&changes).unwrap().zeroes_by_deallocating, "{changes:?}");
        }
        assert_eq!(parsed(&[(528, 31)]).unwrap().atomic_bytes, 16384);
        // The namespace's own value counts before the controller's, but only if NSFEAT says that it has one.
        assert_eq!(parsed(&[(528, 31), (24, 2), (36, 7)]).unwrap().atomic_bytes, 4096);
        assert_eq!(parsed(&[(528, 31), (36, 7)]).unwrap().atomic_bytes, 16384);
    }

    #[test]
    fn what_is_refused() {
        let (controller, namespace) = emulated();
        for (at, byte, why) in [
            (26, 1, "8 bytes of metadata"),
            (29, 1, "protection information"),
            (26, 8, "2^0 bytes"),
            // A format number that needs all six bits.
            (26, 0x6f, "2^0 bytes"),
            (130, 13, "2^13 bytes"),
        ] {
            let mut namespace = namespace;
            namespace[at] = byte;
            let refused = Identified::parse(&controller, &namespace).unwrap_err();
            assert!(refused.contains(why), "{at} {byte}: {refused}");
        }
    }

    #[test]
    fn drives_are_told_apart() {
        let (controller, _) = emulated();
        let mut other = controller;
        // Two paths to one drive differ only in the controller's number.
        other[78] = 9;
        assert!(is_one_drive(&controller, &other));
        other[9] = b'2';
        assert!(!is_one_drive(&controller, &other));
    }
}
