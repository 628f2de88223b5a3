//! The list of lost rows on disk: a list that was written can be read, and nothing else can.
//!
//! Method: every byte of one list is changed, with the checksum left as it was and with it repaired.

use engine::format::lost_rows::{self, Bounds, LIST_BYTES, ListError, LostRange};
use uuid::Uuid;

/// A list reads back as it was written, and a change of any byte is detected. With the checksum repaired
/// nothing panics, and what is accepted lies inside of the array.
#[test]
fn a_list_of_lost_rows_comes_back_whole_or_not_at_all() {
    let array = Uuid::from_u128(0x77);
    let bounds = Bounds { stripes: 1000, members: 5, chunk_bytes: 64 << 10 };
    let range = |nth: u32| LostRange {
        stripe: u64::from(nth) * 7,
        stripes: 1 + nth % 3,
        slot: (nth % 5) as u8,
        row: nth * 512,
        rows: 4096,
    };
    let ranges: Vec<LostRange> = (0..100).map(range).collect();
    let mut list = vec![0; LIST_BYTES];
    lost_rows::encode(&mut list, array, 41, &ranges);
    assert_eq!(lost_rows::decode(&list, array, &bounds), Ok((41, ranges.clone())));
    assert_eq!(lost_rows::decode(&list, Uuid::from_u128(0x78), &bounds), Err(ListError::OtherArray(array)));
    assert_eq!(lost_rows::decode(&[0; LIST_BYTES], array, &bounds), Err(ListError::NotAList));
    for at in (0..64 + 100 * 24).chain([LIST_BYTES - 1]) {
        let mut bad = list.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(lost_rows::decode(&bad, array, &bounds).is_err(), "byte {at}");
        // The checksum is at byte 12.
        bad[12..16].fill(0);
        let crc = crc32c::crc32c(&bad);
        bad[12..16].copy_from_slice(&crc.to_le_bytes());
        if let Ok((_, ranges)) = lost_rows::decode(&bad, array, &bounds) {
            let inside = |range: &LostRange| {
                range.stripe + u64::from(range.stripes) <= 1000
                    && range.slot < 5
                    && range.row + range.rows <= 64 << 10
            };
            assert!(ranges.iter().all(inside), "byte {at}");
        }
    }
}
