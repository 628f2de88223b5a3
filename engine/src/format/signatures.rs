//! Signatures of foreign content on a device, so that `create` does not overwrite it without being told to.
//!
//! The magic numbers and their places come from each format's own documentation or from the tables of
//! util-linux's libblkid. This is a guard against mistakes, not an inventory: a hit stops `create` until the
//! operator forces it, but a miss does not promise that the device is empty.
//!
//! A start checks every member around the array's data ([`written_over`]). A partition table or file system
//! that was put there after the member joined means that the data may not be what the array wrote.

use super::superblock::{self, Copy};

/// Bytes of the device's start to pass to [`detect_foreign`]; less is fine for a smaller device.
pub const HEAD_BYTES: usize = 128 << 10;
/// Bytes of the device's end to pass to it.
pub const TAIL_BYTES: usize = 128 << 10;

struct Signature {
    name: &'static str,
    offset_bytes: usize,
    magic: &'static [u8],
}

const fn signature(name: &'static str, offset_bytes: usize, magic: &'static [u8]) -> Signature {
    Signature { name, offset_bytes, magic }
}

/// md's magic, a92b4efc, as little-endian machines write it (version 0.90 uses the host's byte order).
const MD_MAGIC: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];
const MD_MAGIC_BIG: &[u8] = &[0xa9, 0x2b, 0x4e, 0xfc];

/// Signatures at the start of the device. Containers come before what they contain. Boot sectors are last,
/// since other formats have one too.
const HEAD: &[Signature] = &[
    signature("a Striate array member", Copy::A.offset_bytes() as usize, &superblock::MAGIC),
    signature("a Striate array member", Copy::B.offset_bytes() as usize, &superblock::MAGIC),
    signature("an md array member (1.1)", 0, MD_MAGIC),
    signature("an md array member (1.2)", 4096, MD_MAGIC),
    signature("a LUKS volume", 0, b"LUKS\xba\xbe"),
    signature("a LUKS volume", 0x4000, b"SKUL\xba\xbe"),
    signature("an LVM2 physical volume", 0, b"LABELONE"),
    signature("an LVM2 physical volume", 512, b"LABELONE"),
    signature("an LVM2 physical volume", 1024, b"LABELONE"),
    signature("an LVM2 physical volume", 1536, b"LABELONE"),
    signature("a ZFS pool member", 0x4000 + 24, b"\0\0\0\x07version"),
    signature("an XFS file system", 0, b"XFSB"),
    signature("a btrfs file system", 0x1_0040, b"_BHRfS_M"),
    signature(
        "a bcachefs file system",
        0x1018,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    signature(
        "a bcachefs file system",
        0x1018,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
    signature("an F2FS file system", 0x400, &[0x10, 0x20, 0xf5, 0xf2]),
    signature("swap space", 4096 - 10, b"SWAPSPACE2"),
    signature("swap space", 8192 - 10, b"SWAPSPACE2"),
    signature("swap space", 16384 - 10, b"SWAPSPACE2"),
    signature("swap space", 65536 - 10, b"SWAPSPACE2"),
    signature("a GPT partition table", 512, b"EFI PART"),
    signature("a GPT partition table", 4096, b"EFI PART"),
    signature("an NTFS file system", 3, b"NTFS    "),
    signature("an exFAT file system", 3, b"EXFAT   "),
    signature("a FAT file system", 82, b"FAT32   "),
    signature("a FAT file system", 54, b"FAT1"),
    signature("an ext2/3/4 file system", 0x438, &[0x53, 0xef]),
];

/// Recognises what the device already holds, in words that fit "holds ..."; `None` if nothing is recognised.
///
/// `head` is the first [`HEAD_BYTES`] of the device and `tail` its last [`TAIL_BYTES`] (either may be shorter
/// or empty); `device_bytes` is its length.
#[must_use]
pub fn detect_foreign(head: &[u8], tail: &[u8], device_bytes: u64) -> Option<&'static str> {
    let in_head = HEAD.iter().find(|known| has(head, known.offset_bytes, known.magic));
    in_head
        .map(|known| known.name)
        .or_else(|| detect_tail(tail, device_bytes))
        .or_else(|| has_mbr(head).then_some("an MBR partition table"))
}

/// Recognises what another program has written to a member of an array, in the same words.
///
/// `head` and `tail` are as in [`detect_foreign`]. Host data may look like anything, so at the end only bytes
/// after `data_end_bytes` count. Our own magic numbers do not count.
#[must_use]
pub fn written_over(
    head: &[u8],
    tail: &[u8],
    device_bytes: u64,
    data_end_bytes: u64,
) -> Option<&'static str> {
    let foreign = HEAD.iter().filter(|known| known.magic != superblock::MAGIC);
    let in_head = foreign.into_iter().find(|known| has(head, known.offset_bytes, known.magic));
    let behind = usize::try_from(device_bytes.saturating_sub(data_end_bytes)).unwrap_or(usize::MAX);
    let tail = &tail[tail.len() - tail.len().min(behind)..];
    in_head
        .map(|known| known.name)
        .or_else(|| has_mbr(head).then_some("an MBR partition table"))
        .or_else(|| detect_tail(tail, device_bytes))
}

fn has(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic))
}

/// Recognises formats kept at the end of a device: md 1.0 and 0.90, the second GPT, and the uberblocks of
/// ZFS's last label.
fn detect_tail(tail: &[u8], device_bytes: u64) -> Option<&'static str> {
    let tail_start = device_bytes.checked_sub(tail.len() as u64)?;
    let at = |offset_bytes: u64, magic: &[u8]| {
        let inside = offset_bytes.checked_sub(tail_start).and_then(|offset| usize::try_from(offset).ok());
        inside.is_some_and(|offset| has(tail, offset, magic))
    };
    // drivers/md/md.c: super_1_load, super_90 (MD_NEW_SIZE_SECTORS).
    let md_1_0 = (device_bytes / 512).saturating_sub(16) / 8 * 8 * 512;
    let md_0_90 = (device_bytes / 65_536 * 65_536).saturating_sub(65_536);
    if at(md_1_0, MD_MAGIC) {
        return Some("an md array member (1.0)");
    }
    if at(md_0_90, MD_MAGIC) || at(md_0_90, MD_MAGIC_BIG) {
        return Some("an md array member (0.90)");
    }
    if [512, 4096].iter().any(|block| at(device_bytes.saturating_sub(*block), b"EFI PART")) {
        return Some("a GPT partition table (the copy at the end)");
    }
    // A label is 256 KiB; its second half is a ring of uberblocks (magic 0x00bab10c), one at each KiB.
    let label_end = device_bytes / (256 << 10) * (256 << 10);
    let mut uberblocks = (label_end.saturating_sub(128 << 10)..label_end).step_by(1024);
    let is_uberblock =
        |offset| at(offset, &0x00ba_b10c_u64.to_le_bytes()) || at(offset, &0x00ba_b10c_u64.to_be_bytes());
    uberblocks.any(is_uberblock).then_some("a ZFS pool member")
}

/// Whether there is a boot signature and at least one possible partition entry (some formats sign sector 0
/// too).
fn has_mbr(head: &[u8]) -> bool {
    let (Some(table), true) = (head.get(446..510), has(head, 510, &[0x55, 0xaa])) else {
        return false;
    };
    let (entries, _) = table.as_chunks::<16>();
    let is_partition = |entry: &[u8; 16]| {
        let sectors = u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]);
        (entry[0] == 0 || entry[0] == 0x80) && entry[4] != 0 && sectors != 0
    };
    entries.iter().any(is_partition)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE_BYTES: u64 = 8 << 20;

    fn member() -> (Vec<u8>, Vec<u8>) {
        let mut head = vec![0; HEAD_BYTES];
        for copy in [Copy::A, Copy::B] {
            head[copy.offset_bytes() as usize..][..8].copy_from_slice(&superblock::MAGIC);
        }
        (head, vec![0; TAIL_BYTES])
    }

    #[test]
    fn what_is_our_own_is_not_foreign() {
        let (head, tail) = member();
        assert_eq!(written_over(&head, &tail, DEVICE_BYTES, DEVICE_BYTES - (1 << 20)), None);
    }

    #[test]
    fn a_partition_table_in_front_is_foreign() {
        let (mut head, tail) = member();
        head[512..520].copy_from_slice(b"EFI PART");
        let found = written_over(&head, &tail, DEVICE_BYTES, DEVICE_BYTES);
        assert_eq!(found, Some("a GPT partition table"));
    }

    /// A host may keep a disk image, with its own backup table, in the last sectors of its data.
    #[test]
    fn only_what_is_behind_the_data_counts_at_the_end() {
        let (head, mut tail) = member();
        let at = tail.len() - 512;
        tail[at..at + 8].copy_from_slice(b"EFI PART");
        let found = |data_end| written_over(&head, &tail, DEVICE_BYTES, data_end);
        assert_eq!(found(DEVICE_BYTES - (1 << 20)), Some("a GPT partition table (the copy at the end)"));
        assert_eq!(found(DEVICE_BYTES), None);
        assert_eq!(found(DEVICE_BYTES - 256), None);
    }
}
