//! Cursors: where in ring order, or among the tables, a page ended. A cursor holds all there is to
//! know, so that any node can go on from it; it is opaque to clients, versioned, and checked, so
//! that one that was altered, or that belongs to another table, is refused rather than believed.
//!
//! Layout before base64url: format version (1 byte), CRC-32 of the rest (4), xxh3 of what is
//! listed (8), position (8), name (the rest); numbers big-endian.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use xxhash_rust::xxh3::xxh3_64;

use super::error::Problem;

/// The format written, and the only one read.
const FORMAT: u8 = 1;

const HEADER_BYTES: usize = 1 + 4 + 8 + 8;

/// The last thing on a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Its place on the ring; zero among tables, which have none.
    pub(crate) position: u64,
    /// Its name.
    pub(crate) name: String,
}

impl Cursor {
    /// The cursor as a client carries it. `listed` names the list it belongs to.
    pub(crate) fn encode(&self, listed: &str) -> String {
        let mut checked = Vec::with_capacity(16 + self.name.len());
        checked.extend_from_slice(&xxh3_64(listed.as_bytes()).to_be_bytes());
        checked.extend_from_slice(&self.position.to_be_bytes());
        checked.extend_from_slice(self.name.as_bytes());
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&crc32fast::hash(&checked).to_be_bytes());
        bytes.extend_from_slice(&checked);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what [`Cursor::encode`] wrote for the same list.
    pub(crate) fn decode(text: &str, listed: &str) -> Result<Self, Problem> {
        Self::read(text, listed).ok_or_else(|| {
            Problem::invalid(
                "this 'cursor' is none of this list: use the 'next' of the page before, unchanged",
            )
        })
    }

    fn read(text: &str, listed: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        if bytes.len() < HEADER_BYTES || bytes[0] != FORMAT {
            return None;
        }
        let (sum, checked) = bytes[1..].split_first_chunk::<4>()?;
        if crc32fast::hash(checked) != u32::from_be_bytes(*sum) {
            return None;
        }
        let (list, rest) = checked.split_first_chunk::<8>()?;
        if *list != xxh3_64(listed.as_bytes()).to_be_bytes() {
            return None;
        }
        let (position, name) = rest.split_first_chunk::<8>()?;
        Some(Self { position: u64::from_be_bytes(*position), name: str::from_utf8(name).ok()?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_is_as_documented() {
        let cursor = Cursor { position: 0x0102_0304_0506_0708, name: "row".into() };
        let text = cursor.encode("table");
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        assert_eq!(bytes[0], 1);
        assert_eq!(bytes[13..], *b"\x01\x02\x03\x04\x05\x06\x07\x08row");
        assert_eq!(Cursor::decode(&text, "table"), Ok(cursor.clone()));
        assert!(Cursor::decode(&text, "other").is_err());
    }

    proptest! {
        #[test]
        fn a_cursor_survives_the_client(position: u64, name in ".{0,40}", listed in ".{0,20}") {
            let cursor = Cursor { position, name };
            let text = cursor.encode(&listed);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(Cursor::decode(&text, &listed), Ok(cursor));
        }

        #[test]
        fn an_altered_cursor_is_refused(position: u64, at: prop::sample::Index, to in "[A-Za-z0-9_-]") {
            let text = Cursor { position, name: "row".into() }.encode("t");
            let at = at.index(text.len());
            let altered = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            prop_assume!(altered != text);
            prop_assert!(Cursor::decode(&altered, "t").is_err());
        }

        #[test]
        fn no_text_panics(text in ".*") {
            prop_assert!(Cursor::decode(&text, "t").is_err());
        }
    }
}
