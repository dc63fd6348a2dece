//! A cell's bytes: `01 | postcard(version, written_at, expires_at, content type) | value`.
//! The first byte is the format's version (docs/FORMATS.md).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::view::Fatal;
use crate::command::{At, Cell, Version};

const FORMAT: u8 = 1;

/// What is kept beside a cell's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header<'c> {
    /// The cell's version.
    pub version: Version,
    /// When it was written.
    pub written_at: At,
    /// From when on it is absent.
    pub expires_at: Option<At>,
    /// The `Content-Type` of the value.
    #[serde(borrow)]
    pub content_type: Option<&'c str>,
}

impl Header<'_> {
    /// Whether readers and conditions see the cell at `now`.
    pub fn is_live(&self, now: At) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

/// A cell's bytes.
pub fn encode(header: &Header<'_>, value: &[u8]) -> Result<Bytes, Fatal> {
    // Three varints of at most 10 bytes, two tags, a length of at most 5.
    let most = 1 + 3 * 10 + 2 + 5 + header.content_type.map_or(0, str::len) + value.len();
    let mut bytes = Vec::with_capacity(most);
    bytes.push(FORMAT);
    let mut bytes = postcard::to_extend(header, bytes).map_err(|e| Fatal(format!("encode a cell: {e}")))?;
    bytes.extend_from_slice(value);
    // Boxed, so that there is no second allocation for the room that was not needed.
    Ok(bytes.into_boxed_slice().into())
}

/// The header of a cell's bytes, and its value.
pub fn read(bytes: &[u8]) -> Result<(Header<'_>, &[u8]), Fatal> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::take_from_bytes(rest)
            .map_err(|e| Fatal(format!("the store holds a cell that cannot be read: {e}"))),
        Some((format, _)) => Err(Fatal(format!(
            "the store holds a cell of format {format}, this version reads format {FORMAT}: run a newer version"
        ))),
        None => Err(Fatal("the store holds an empty cell".to_owned())),
    }
}

/// The cell in `bytes`; its value shares their memory.
pub fn decode(bytes: &Bytes) -> Result<Cell, Fatal> {
    let (header, value) = read(bytes)?;
    Ok(build(&header, bytes.slice_ref(value)))
}

/// A cell as readers see it.
pub fn build(header: &Header<'_>, value: Bytes) -> Cell {
    Cell {
        version: header.version,
        written_at: header.written_at,
        expires_at: header.expires_at,
        content_type: header.content_type.map(str::to_owned),
        bytes: value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cells_read_back(
            version: u64, written_at: u64, expires_at: Option<u64>, content_type: Option<String>, value: Vec<u8>,
        ) {
            let header = Header {
                version,
                written_at: At(written_at),
                expires_at: expires_at.map(At),
                content_type: content_type.as_deref(),
            };
            let bytes = encode(&header, &value).unwrap();
            prop_assert_eq!(decode(&bytes).unwrap(), build(&header, value.into()));
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = decode(&Bytes::from(bytes));
        }
    }

    #[test]
    fn the_format_stays() {
        let header =
            Header { version: 300, written_at: At(1), expires_at: Some(At(2)), content_type: Some("a/b") };
        let bytes = encode(&header, b"xy").unwrap();
        assert_eq!(&bytes[..], b"\x01\xac\x02\x01\x01\x02\x01\x03a/bxy");
        assert_eq!(
            read(b"\x02").unwrap_err().0.split(',').next(),
            Some("the store holds a cell of format 2")
        );
    }
}
