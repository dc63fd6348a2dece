//! The segment that is being written: whole pages, past the kernel's page cache where the file system lets us.
//!
//! But for the very first one of a store, a segment's file has its full length, with every block written, before the
//! first record comes ([`super::files`]). So a sync has no size and no extents to write beside the data, and as the pages have gone
//! to the disk by themselves, all that is left of it is one flush of the disk's cache.
//!
//! The page in which the last record ends is written again with the next one. What was in it does not change, so a
//! write that is torn between two sectors leaves it whole.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{
    files::Ready,
    record::{self, HEADER_BYTES, Record},
};
use crate::error::StoreError;

/// What is written begins and ends at multiples of this, in the file and in memory.
const PAGE: usize = 4096;

/// A buffer that has grown beyond this for a large batch is not kept.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    file: File,
    /// The last page as far as it is written, and what is being added.
    pages: Pages,
    /// Where the next record begins.
    end: u64,
    /// How far it is on the disk for certain.
    synced: u64,
    /// Bytes up to which the file is to be filled.
    room: u64,
}

impl Segment {
    /// Begins a segment in a file whose content does not matter. Nothing is written before the first record.
    pub(super) fn begin(ready: Ready, first: u64) -> Self {
        let Ready { number, path, file, room } = ready;
        let mut pages = Pages::default();
        pages.of(HEADER_BYTES, 0).copy_from_slice(&record::header(number, first));
        Self { number, path, file, pages, end: HEADER_BYTES as u64, synced: 0, room }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.end
    }

    /// Whether a batch fits. The first one always does.
    pub(super) fn has_room(&self, payload: &[u8]) -> bool {
        self.end == HEADER_BYTES as u64 || self.end + record::record_bytes(payload.len()) as u64 <= self.room
    }

    pub(super) fn append(&mut self, batch: u64, payload: &[u8]) -> io::Result<()> {
        let kept = self.end as usize % PAGE;
        let length = kept + record::record_bytes(payload.len());
        let written = length.next_multiple_of(PAGE);
        let pages = self.pages.of(written, kept);
        let record = Record { batch, synced: self.synced, payload };
        record.write(self.number, &mut pages[kept..length]);
        pages[length..].fill(0);
        self.file.write_all_at(pages, self.end - kept as u64)?;
        pages.copy_within(length - length % PAGE..length, 0);
        self.end += (length - kept) as u64;
        self.pages.shrink(length % PAGE);
        Ok(())
    }

    /// Makes all that was appended durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.synced < self.end {
            self.file.sync_data()?;
            self.synced = self.end;
        }
        Ok(())
    }

    pub(super) fn error(&self, verb: &'static str) -> impl FnOnce(io::Error) -> StoreError + use<> {
        StoreError::file(verb, &self.path)
    }
}

/// Opens a file of the WAL for writing; `direct`: past the page cache.
pub(super) fn open(path: &Path, direct: bool) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = if direct { rustix::fs::OFlags::DIRECT.bits() } else { 0 };
    File::options().create(true).truncate(false).write(true).custom_flags(flags.cast_signed()).open(path)
}

/// Whether a file there can be written past the page cache. Memory file systems, among others, say no when it is
/// opened, and some only when it is written.
pub(super) fn is_direct(path: &Path) -> io::Result<bool> {
    match open(path, true).and_then(|file| file.write_all_at(Pages::default().of(PAGE, 0), 0)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

/// Fills a file with zeros up to `length`, a multiple of [`PAGE`], and syncs it.
pub(super) fn fill(file: &File, length: u64) -> io::Result<()> {
    /// Little, so that the syncs of others come between.
    const STEP: usize = 256 << 10;
    let mut pages = Pages::default();
    let zeros = pages.of(STEP, 0);
    zeros.fill(0);
    for at in (0..length).step_by(STEP) {
        let step = STEP.min((length - at) as usize);
        file.write_all_at(&zeros[..step], at)?;
    }
    file.sync_all()
}

/// Bytes that begin at a multiple of [`PAGE`] in memory.
#[derive(Default)]
struct Pages {
    /// Longer than what is used, by up to a page before and whatever it has grown to.
    bytes: Vec<u8>,
    skip: usize,
}

impl Pages {
    /// The first `length` bytes, of which the first `kept` are as they were.
    fn of(&mut self, length: usize, kept: usize) -> &mut [u8] {
        if self.bytes.len() < self.skip + length {
            let mut bytes = vec![0; length.next_multiple_of(PAGE) + PAGE];
            let address = bytes.as_ptr().addr();
            let skip = address.next_multiple_of(PAGE) - address;
            bytes[skip..skip + kept].copy_from_slice(&self.bytes[self.skip..self.skip + kept]);
            *self = Self { bytes, skip };
        }
        &mut self.bytes[self.skip..self.skip + length]
    }

    fn shrink(&mut self, kept: usize) {
        if self.bytes.len() > BUFFER_KEPT_BYTES {
            let old = std::mem::take(self);
            self.of(PAGE, 0)[..kept].copy_from_slice(&old.bytes[old.skip..old.skip + kept]);
        }
    }
}
