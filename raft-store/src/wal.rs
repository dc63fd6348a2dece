//! The write-ahead log of the log instance: every batch is here, synced, before anybody is told of it.
//!
//! RocksDB has one of its own, which grows with each record, so that every sync writes the file's size and extents
//! beside the data and waits for both. This one writes over files that have their size (docs/BENCHMARKS.md has what that
//! brings). TiKV's raft-engine prefills and recycles its log for the same reason.
//!
//! Batches have consecutive numbers, the store's *height*, which is also a record in each batch. What RocksDB has in
//! its files therefore tells up to which batch the WAL is not needed any more, and an opening brings back every batch
//! behind it, in order. Segments that are not needed are written over by later ones.
//!
//! What was not synced may be lost by a crash, and nothing else: a store of which more is missing does not open. See
//! [`record::Records::damaged_at`] for how the two are told apart, where that can be seen from here: what the very last
//! sync wrote looks the same damaged as torn, and is for others to tell, by the height. An opening always begins a new
//! segment, so what a crash has left at the end of another is never in the middle.

mod files;
mod record;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use self::{
    files::Files,
    record::{HEADER_BYTES, Records},
    segment::Segment,
};
use crate::error::StoreError;

/// See the module.
pub(crate) struct Wal {
    files: Files,
    current: Segment,
    /// Segments before the current one that may be needed, in order.
    full: VecDeque<Full>,
}

/// A segment that is not written any more.
struct Full {
    path: PathBuf,
    bytes: u64,
    last: u64,
}

impl Wal {
    /// Appends batch number `batch`, the next one; with `sync` it is durable on return, with all before it. True if
    /// a new segment was begun. After an error nothing more may be appended: what the disk has is unknown.
    pub(crate) fn append(&mut self, batch: u64, payload: &[u8], sync: bool) -> Result<bool, StoreError> {
        let is_full = !self.current.has_room(payload);
        if is_full {
            // Nothing may be missing where something follows.
            self.current.sync().map_err(self.current.error("sync"))?;
            let next = Segment::begin(self.files.next()?, batch);
            let full = std::mem::replace(&mut self.current, next);
            self.full.push_back(Full { bytes: full.len(), path: full.path, last: batch - 1 });
        }
        self.current.append(batch, payload).map_err(self.current.error("write"))?;
        if sync {
            self.current.sync().map_err(self.current.error("sync"))?;
        }
        Ok(is_full)
    }

    /// Says that the batches up to this number are in RocksDB's files, so that what holds them can be written over.
    pub(crate) fn release(&mut self, applied: u64) -> Result<(), StoreError> {
        while self.full.front().is_some_and(|full| full.last <= applied) {
            if let Some(full) = self.full.pop_front() {
                self.files.give_back(full.path)?;
            }
        }
        Ok(())
    }

    /// Bytes of the segments that are needed.
    pub(crate) fn bytes(&self) -> u64 {
        self.full.iter().map(|full| full.bytes).sum::<u64>() + self.current.len()
    }

    /// Where the WAL ends: the number of the segment, and bytes in it.
    pub(crate) fn end(&self) -> (u64, u64) {
        (self.current.number, self.current.len())
    }
}

/// What was there when the store was opened.
pub(crate) struct Remains {
    dir: PathBuf,
    /// In order.
    segments: Vec<Found>,
}

struct Found {
    number: u64,
    path: PathBuf,
    /// Number of the first batch, if it has a header: a file that was ready for the next segment has none, or
    /// that of an earlier one.
    first: Option<u64>,
    /// That of the next segment that has a header.
    next_first: Option<u64>,
}

impl Remains {
    /// Looks into the directory, which is made if there is none.
    pub(crate) fn find(dir: &Path) -> Result<Remains, StoreError> {
        fs::create_dir_all(dir).map_err(StoreError::file("create the directory", dir))?;
        let mut segments = Vec::new();
        let read_dir = StoreError::file("read", dir);
        let entries =
            fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(read_dir)?;
        for path in entries.into_iter().map(|entry| entry.path()) {
            let Some(number) = files::number_of(&path) else { continue };
            let mut header = Vec::new();
            let read = fs::File::open(&path)
                .and_then(|file| file.take(HEADER_BYTES as u64).read_to_end(&mut header));
            read.map_err(StoreError::file("read", &path))?;
            segments.push(Found { number, path, first: record::first_of(&header, number), next_first: None });
        }
        segments.sort_by_key(|segment| segment.number);
        let mut next_first = None;
        for segment in segments.iter_mut().rev() {
            segment.next_first = next_first;
            next_first = segment.first.or(next_first);
        }
        Ok(Remains { dir: dir.to_owned(), segments })
    }

    /// Replays all batches behind number `applied`, in order; the number of the last one, or `applied`.
    pub(crate) fn replay(
        &self,
        applied: u64,
        mut replay: impl FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let mut last = applied;
        for segment in &self.segments {
            // Where the last one ends, only its records tell.
            if segment.next_first.is_none_or(|first| first > applied + 1) {
                last = self.replay_segment(segment, last, &mut replay)?;
            }
        }
        Ok(last)
    }

    fn replay_segment(
        &self,
        segment: &Found,
        mut last: u64,
        replay: &mut impl FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let path = &segment.path;
        let bytes = fs::read(path).map_err(StoreError::file("read", path))?;
        let damaged = |what: String| {
            let dir = self.dir.parent().unwrap_or(&self.dir).to_owned();
            Err(StoreError::Damaged { dir, what: format!("in {}, {what}", path.display()) })
        };
        let mut records = Records::new(&bytes, segment.number);
        for record in records.by_ref() {
            if record.batch > last + 1 {
                return damaged(format!("batches {} to {} are missing", last + 1, record.batch - 1));
            }
            if record.batch == last + 1 {
                replay(record.payload)?;
                last = record.batch;
            }
        }
        match records.damaged_at(last) {
            Some(at) => damaged(format!("what was synced at byte {at} cannot be read")),
            None => Ok(last),
        }
    }

    /// There is none, not even a file that was ready.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Goes on behind batch number `last`. Everything up to it must be durable elsewhere: what is here is written
    /// over. `ahead`: a thread has the next file ready, filled.
    pub(crate) fn succeed(self, last: u64, ahead: bool) -> Result<Wal, StoreError> {
        // See `record`; half of all numbers are left to count on.
        let first_of_all = || Uuid::new_v4().as_u64_pair().1 >> 2;
        let next = self.segments.last().map_or_else(first_of_all, |segment| segment.number + 1);
        let mut files = Files::new(&self.dir, next, ahead)?;
        for segment in self.segments {
            files.give_back(segment.path)?;
        }
        let current = Segment::begin(files.first()?, last + 1);
        if ahead {
            files.go_ahead()?;
        }
        Ok(Wal { files, current, full: VecDeque::new() })
    }
}
