//! Where the batches of the log go: to the WAL, and then into RocksDB's memtable.

use std::sync::Arc;

use rocksdb::properties::NUM_IMMUTABLE_MEM_TABLE;
use rocksdb::{DB, ErrorKind, FlushOptions, ReadOptions, ReadTier, WriteBatch};

use crate::error::StoreError;
use crate::keys::LogKey;
use crate::options::Options;
use crate::wal::{Remains, Wal};

/// In each batch, its number: see [`crate::Store::height`]. u64, big-endian.
const HEIGHT_RECORD: &str = "store.height";

pub(crate) struct LogFiles {
    db: Arc<DB>,
    /// Without one, in memory, nothing survives the process.
    wal: Option<Wal>,
    /// Bytes of the WAL at which the memtables are flushed, full or not, so that it can be written over.
    wal_max_bytes: u64,
    /// Number of the last batch.
    last: u64,
}

/// A batch that is in the WAL and can be read only when it is in RocksDB, too.
pub(crate) struct Appended {
    batch: WriteBatch,
    /// A segment was begun with it.
    has_begun: bool,
}

impl LogFiles {
    /// Without a WAL: in memory.
    pub(crate) fn in_memory(db: Arc<DB>) -> LogFiles {
        LogFiles { db, wal: None, wal_max_bytes: u64::MAX, last: 0 }
    }

    /// Brings back what is in the WAL and not in RocksDB's files, and goes on from there.
    pub(crate) fn recover(db: Arc<DB>, remains: Remains, options: &Options) -> Result<LogFiles, StoreError> {
        let last = remains.replay(applied(&db)?, |batch| {
            db.write_without_wal(WriteBatch::from_data(batch)).map_err(StoreError::engine("replay the WAL"))
        })?;
        db.flush().map_err(StoreError::engine("flush the log"))?;
        // A store that is stepped is one of many and lives for a moment.
        let wal = Some(remains.succeed(last, !options.stepped)?);
        Ok(LogFiles { db, wal, wal_max_bytes: options.wal_max_bytes(), last })
    }

    /// What has been inserted.
    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    /// The number of the last batch.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Appends the next batch to the WAL, and its number with it; with `sync` it is durable on return, with all before
    /// it. [`LogFiles::insert`] comes next.
    pub(crate) fn append(&mut self, mut batch: WriteBatch, sync: bool) -> Result<Appended, StoreError> {
        self.last += 1;
        batch.put(LogKey::Meta(HEIGHT_RECORD).encode(), self.last.to_be_bytes());
        let has_begun = match &mut self.wal {
            Some(wal) => wal.append(self.last, batch.data(), sync)?,
            None => false,
        };
        Ok(Appended { batch, has_begun })
    }

    /// Gives RocksDB what was appended.
    pub(crate) fn insert(&mut self, appended: Appended) -> Result<(), StoreError> {
        self.db.write_without_wal(appended.batch).map_err(StoreError::engine("write the log"))?;
        if appended.has_begun { self.make_room() } else { Ok(()) }
    }

    /// Both.
    pub(crate) fn write(&mut self, batch: WriteBatch, sync: bool) -> Result<(), StoreError> {
        let appended = self.append(batch, sync)?;
        self.insert(appended)
    }

    /// Lets go of what RocksDB has in its files, and sees to it that this is most of it.
    fn make_room(&mut self) -> Result<(), StoreError> {
        let Some(wal) = &mut self.wal else { return Ok(()) };
        wal.release(applied(&self.db)?)?;
        // A flush that is under way frees it anyway, and another one would wait for it.
        let is_flushing = self.db.property_int_value(NUM_IMMUTABLE_MEM_TABLE).ok().flatten() != Some(0);
        if wal.bytes() <= self.wal_max_bytes || is_flushing {
            return Ok(());
        }
        let mut options = FlushOptions::default();
        options.set_wait(false);
        match self.db.flush_opt(&options) {
            // Writes are stopped just then; the next segment tries again.
            Err(error) if error.kind() == ErrorKind::TryAgain => Ok(()),
            result => result.map_err(StoreError::engine("flush the log")),
        }
    }

    /// Where the WAL ends: the number of its last file, and bytes in that.
    pub(crate) fn end(&self) -> (u64, u64) {
        self.wal.as_ref().map_or((0, 0), Wal::end)
    }
}

/// The number of the last batch that is in RocksDB's files.
fn applied(db: &DB) -> Result<u64, StoreError> {
    let mut read = ReadOptions::default();
    // Of what was written without RocksDB's WAL, it leaves out the memtables.
    read.set_read_tier(ReadTier::Persisted);
    let found = db.get_opt(LogKey::Meta(HEIGHT_RECORD).encode(), &read);
    let Some(bytes) = found.map_err(StoreError::engine("read the store's height"))? else { return Ok(0) };
    let bytes = bytes.as_slice().try_into();
    let corrupt = StoreError::Corrupt { what: "the store's height", reason: "it is not 8 bytes" };
    bytes.map(u64::from_be_bytes).map_err(|_| corrupt)
}
