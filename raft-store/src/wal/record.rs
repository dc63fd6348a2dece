//! What a segment of the WAL consists of, as bytes. No files.
//!
//! A segment begins with a header and goes on with records, each at a multiple of [`ALIGN`]. A segment is written
//! over files that were segments before, so what follows the last record may be anything: a record belongs to a
//! segment only if it bears its number, which nobody outside can guess, as what clients write is in there as it is.
//! Integers are little-endian.
//!
//! | at | segment header | record |
//! |---|---|---|
//! | 0 | magic, 8 bytes | CRC-32 of the rest and the payload, u32; length of the payload, u32 |
//! | 8 | number of the segment, u64 | number of the segment, u64 |
//! | 16 | number of its first batch, u64 | number of the batch, u64 |
//! | 24 | CRC-32 of what is before, u32; zeros | how far the segment was synced when this was written, u64 |
//! | 32 | | payload |

/// Bytes of a segment's header, and of a record's.
pub(super) const HEADER_BYTES: usize = 32;

/// Records begin at multiples of this.
pub(super) const ALIGN: usize = 8;

/// The last byte is the version of the format.
const MAGIC: &[u8; 8] = b"QUORWAL\x01";

/// The header of segment `number`, whose first record is batch `first`.
pub(super) fn header(number: u64, first: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes[16..24].copy_from_slice(&first.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..24]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The number of the first batch, if this is the header of segment `number`.
pub(super) fn first_of(bytes: &[u8], number: u64) -> Option<u64> {
    let first = u64_at(bytes, 16)?;
    (bytes.get(..HEADER_BYTES)? == header(number, first)).then_some(first)
}

/// Bytes of a record with such a payload.
pub(super) fn record_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGN)
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) batch: u64,
    /// How far the segment was known to be synced when this was written, in bytes.
    pub(super) synced: u64,
    pub(super) payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// Writes it to the start of `out`, which is as long as [`record_bytes`] says.
    pub(super) fn write(&self, segment: u64, out: &mut [u8]) {
        let (head, rest) = out.split_at_mut(HEADER_BYTES);
        // A batch is bounded far below by whoever writes (`writer.rs` and the largest command).
        let length = u32::try_from(self.payload.len()).expect("a batch is smaller than 4 GiB");
        head[4..8].copy_from_slice(&length.to_le_bytes());
        head[8..16].copy_from_slice(&segment.to_le_bytes());
        head[16..24].copy_from_slice(&self.batch.to_le_bytes());
        head[24..32].copy_from_slice(&self.synced.to_le_bytes());
        let (payload, padding) = rest.split_at_mut(self.payload.len());
        payload.copy_from_slice(self.payload);
        padding.fill(0);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[4..]);
        crc.update(payload);
        head[..4].copy_from_slice(&crc.finalize().to_le_bytes());
    }

    /// The whole record of a segment at a place, and where the next one begins.
    fn read(bytes: &'a [u8], segment: u64, at: usize) -> Option<(Record<'a>, usize)> {
        let bytes = bytes.get(at..)?;
        if u64_at(bytes, 8)? != segment {
            return None;
        }
        let length = usize::try_from(u32_at(bytes, 4)?).ok()?;
        let end = HEADER_BYTES.checked_add(length)?;
        if crc32fast::hash(bytes.get(4..end)?) != u32_at(bytes, 0)? {
            return None;
        }
        let (batch, synced) = (u64_at(bytes, 16)?, u64_at(bytes, 24)?);
        let record = Record { batch, synced, payload: &bytes[HEADER_BYTES..end] };
        Some((record, at + end.next_multiple_of(ALIGN)))
    }
}

/// The records of a segment, up to the first that is not whole.
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    segment: u64,
    /// Where the next one is; the start, where there is no header and therefore none.
    at: usize,
}

impl<'a> Records<'a> {
    pub(super) fn new(bytes: &'a [u8], segment: u64) -> Self {
        let at = if first_of(bytes, segment).is_some() { HEADER_BYTES } else { 0 };
        Self { bytes, segment, at }
    }

    /// Where something is damaged that was synced, behind batch `last`: a record further on says so. What a crash cut
    /// off was not synced, and nothing behind it says that it was, even where the disk has written what came later
    /// before.
    pub(super) fn damaged_at(&self, last: u64) -> Option<usize> {
        (self.at..self.bytes.len())
            .step_by(ALIGN)
            .filter_map(|place| Record::read(self.bytes, self.segment, place))
            .any(|(record, _)| record.synced > self.at as u64 && record.batch > last)
            .then_some(self.at)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if self.at == 0 {
            return None;
        }
        let (record, next) = Record::read(self.bytes, self.segment, self.at)?;
        self.at = next;
        Some(record)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
