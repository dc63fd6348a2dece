//! Row → position. A cluster keeps the partitioner it was founded with: the positions are in every
//! key on disk.

use md5::{Digest, Md5};
use xxhash_rust::xxh3::xxh3_64;

use crate::{config::Partitioner, ids::Position};

/// The place of a row on the ring; it decides the row's shard.
pub fn position(partitioner: Partitioner, row: &str) -> Position {
    of_bytes(partitioner, row.as_bytes())
}

fn of_bytes(partitioner: Partitioner, bytes: &[u8]) -> Position {
    Position(match partitioner {
        Partitioner::Xxh3 => xxh3_64(bytes),
        Partitioner::Md5 => first_eight(&Md5::digest(bytes)),
        Partitioner::Crc32 => u64::from(crc32fast::hash(bytes)) << 32,
        Partitioner::Ordered => first_eight(bytes),
    })
}

/// The first 8 bytes as a big-endian number, zeros standing for those that are not there: among
/// rows without zero bytes the order of numbers is that of rows, up to ties.
fn first_eight(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = bytes.len().min(8);
    first[..length].copy_from_slice(&bytes[..length]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(partitioner: Partitioner, row: &str, position: u64) {
        assert_eq!(super::position(partitioner, row), Position(position), "{row:?}");
    }

    /// `XSUM_XXH3_testdata` of the reference implementation (xxHash 0.8, cli/xsum_sanity_check.c),
    /// seed 0, over its generated buffer; one length for each of the algorithm's branches.
    #[test]
    fn xxh3_as_in_its_reference_implementation() {
        let mut generator: u64 = 0x9E37_79B1;
        let buffer: Vec<u8> = std::iter::repeat_with(|| {
            let byte = (generator >> 56) as u8;
            generator = generator.wrapping_mul(0x9E37_79B1_85EB_CA8D);
            byte
        })
        .take(512)
        .collect();
        for (length, hash) in [
            (0, 0x2D06_8005_38D3_94C2),
            (1, 0xC44B_DFF4_074E_ECDB),
            (6, 0x27B5_6A84_CD2D_7325),
            (12, 0xA713_DAF0_DFBB_77E7),
            (24, 0xA3FE_70BF_9D35_10EB),
            (48, 0x397D_A259_ECBA_1F11),
            (80, 0xBCDE_FBBB_2C47_C90A),
            (195, 0xCD94_217E_E362_EC3A),
            (403, 0xCDEB_804D_65C6_DEA4),
            (512, 0x617E_4959_9013_CB6B),
        ] {
            assert_eq!(of_bytes(Partitioner::Xxh3, &buffer[..length]), Position(hash), "{length} bytes");
        }
    }

    /// The test suite of RFC 1321, appendix A.5, cut to its first 16 digits.
    #[test]
    fn md5_as_in_rfc_1321() {
        for (row, position) in [
            ("", 0xd41d8cd98f00b204),
            ("a", 0x0cc175b9c0f1b6a8),
            ("abc", 0x900150983cd24fb0),
            ("message digest", 0xf96b697d7cb7938d),
            ("abcdefghijklmnopqrstuvwxyz", 0xc3fcd3d76192e400),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 0xd174ab98d277d9f5),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                0x57edf4a22be3c955,
            ),
        ] {
            check(Partitioner::Md5, row, position);
        }
    }

    /// "123456789": the check value of CRC-32/ISO-HDLC in the catalogue of parametrised CRC
    /// algorithms (reveng.sourceforge.io/crc-catalogue); the others: the test of Go's hash/crc32.
    #[test]
    fn crc32_as_in_the_catalogue() {
        for (row, crc) in [
            ("", 0),
            ("123456789", 0xcbf4_3926),
            ("a", 0xe8b7_be43),
            ("ab", 0x9e83_486d),
            ("abc", 0x3524_41c2),
            ("Discard medicine more than two years old.", 0x6b9c_dfe7),
        ] {
            check(Partitioner::Crc32, row, crc << 32);
        }
    }

    #[test]
    fn ordered_is_the_row_itself() {
        for (row, position) in [
            ("", 0),
            ("a", 0x6100_0000_0000_0000),
            ("abcdefgh", 0x6162_6364_6566_6768),
            ("abcdefghi", 0x6162_6364_6566_6768),
            ("ÿ", 0xc3bf_0000_0000_0000),
        ] {
            check(Partitioner::Ordered, row, position);
        }
    }

    proptest! {
        #[test]
        fn ordered_keeps_the_order(a: String, b: String) {
            let place = |row: &String| (position(Partitioner::Ordered, row), row.clone());
            prop_assert_eq!(place(&a).cmp(&place(&b)), a.cmp(&b));
        }
    }
}
