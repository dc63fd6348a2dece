//! The unit in which a snapshot travels.
//!
//! A snapshot is a sequence of chunks, numbered from 0, the last one marked. Each holds cells in key
//! order, and a checksum over everything else in it. Where a chunk begins is told by the last key
//! before it, so a transfer can go on behind any chunk after its connection broke.

use bytes::{Buf, BufMut, Bytes};

use crate::entry::{put_varint, take, take_varint};
use crate::error::StoreError;

/// Size at which a chunk is closed, in bytes. A chunk is larger by at most one cell.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Size of [`Chunk::header`], in bytes.
pub const CHUNK_HEADER_BYTES: usize = 8 + 8 + 1 + 4;

/// A piece of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Names the snapshot: the chunks of two snapshots cannot be mixed.
    pub snapshot: u64,
    /// Position in the sequence, from 0.
    pub seq: u64,
    /// Nothing follows.
    pub last: bool,
    /// CRC-32 of all of the above and the body.
    pub crc32: u32,
    /// Cells: for each the lengths of key and value as varints, then both.
    pub body: Bytes,
}

/// How far a transfer has come: where the next chunk begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// The number of the next chunk.
    pub seq: u64,
    /// The last key received; `None` at the start.
    pub after: Option<Bytes>,
}

impl Chunk {
    pub(crate) fn new(snapshot: u64, seq: u64, last: bool, body: Bytes) -> Chunk {
        let mut chunk = Chunk { snapshot, seq, last, crc32: 0, body };
        chunk.crc32 = chunk.checksum();
        chunk
    }

    /// What goes in front of the body on the wire.
    pub fn header(&self) -> [u8; CHUNK_HEADER_BYTES] {
        let mut header = [0; CHUNK_HEADER_BYTES];
        let mut rest = &mut header[..];
        rest.put_u64(self.snapshot);
        rest.put_u64(self.seq);
        rest.put_u8(self.last.into());
        rest.put_u32(self.crc32);
        header
    }

    /// Takes apart what [`Chunk::header`] and the body make together. The checksum is verified by
    /// the sink, not here.
    pub fn decode(mut bytes: Bytes) -> Result<Chunk, StoreError> {
        if bytes.len() < CHUNK_HEADER_BYTES {
            return Err(StoreError::Corrupt { what: "a chunk of a snapshot", reason: "it is cut short" });
        }
        let (snapshot, seq, last, crc32) =
            (bytes.get_u64(), bytes.get_u64(), bytes.get_u8(), bytes.get_u32());
        Ok(Chunk { snapshot, seq, last: last != 0, crc32, body: bytes })
    }

    /// The cells, after the checksum and their order were verified against the last key before.
    pub(crate) fn cells(&self, after: Option<&Bytes>) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let damaged = |reason| StoreError::SnapshotChunk { seq: self.seq, reason };
        if self.crc32 != self.checksum() {
            return Err(damaged("its checksum does not match"));
        }
        let what = "a cell of a snapshot";
        let mut body = self.body.clone();
        let mut cells = Vec::new();
        let mut before = after.cloned();
        while body.has_remaining() {
            let key_bytes = take_varint(&mut body, what)? as usize;
            let value_bytes = take_varint(&mut body, what)? as usize;
            let key = take(&mut body, key_bytes, what)?;
            if before.as_ref().is_some_and(|before| *before >= key) {
                return Err(damaged("its keys are not in order"));
            }
            before = Some(key.clone());
            cells.push((key, take(&mut body, value_bytes, what)?));
        }
        Ok(cells)
    }

    fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.snapshot.to_be_bytes());
        hasher.update(&self.seq.to_be_bytes());
        hasher.update(&[self.last.into()]);
        hasher.update(&self.body);
        hasher.finalize()
    }
}

pub(crate) fn put_cell(key: &[u8], value: &[u8], body: &mut Vec<u8>) {
    put_varint(key.len() as u64, body);
    put_varint(value.len() as u64, body);
    body.extend_from_slice(key);
    body.extend_from_slice(value);
}
