//! The data instance: the applied state of all groups, without a WAL, in one column family.
//!
//! A group's cells live in a *space*, a number that is local to this node and names a contiguous
//! range of keys; a group gets a new space with every snapshot that it installs, and shares its own
//! with the groups forked from it (`fork.rs`). The group's record
//! `{space, applied, membership}` is written in the same batch as the cells. RocksDB flushes whole
//! batches in the order of their writing, so whatever is on disk after a crash is the state at some
//! earlier applied log id, exactly, and openraft applies the log again from there.
//!
//! Invariants:
//! - `commit` of a group is held over every batch that changes its record. Under it, what memory
//!   says about the record is what RocksDB says.
//! - A log id is `flushed` only if a flush began after its batch was written. The log is purged up
//!   to there at most.
//! - **Spaces and readers.** A reader takes the group's [`Space`] and reads in it. An install fills
//!   a fresh space that nobody knows, switches the record in one batch, and then shows the new space
//!   to readers. A reader that took the old one before reads the old state to its end: nobody writes
//!   there any more, and its files are deleted only when the last holder of the `Space` has let go
//!   *and* the switch is flushed. (Deleting files ignores RocksDB snapshots, so a snapshot alone
//!   would not keep them.) So a reader sees the state before or after the switch, never a mix and
//!   never a false absence.
//! - A space's number is larger than any on disk when the store was opened, and used once.
//! - Groups that share a space hold the same [`Space`]. To doom it while another of them is there
//!   does no harm: it is deleted when the last one has let go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use parking_lot::{Mutex, RwLock};
use rocksdb::{DB, IngestExternalFileOptions, ReadOptions, WriteBatch};

use crate::entry;
use crate::error::StoreError;
use crate::fork::Owner;
use crate::health::Health;
use crate::keys::{DataKey, space_file_end};
use crate::types::{LogId, SnapshotMeta, StoredMembership};

/// Spaces whose last holder is gone.
type Retired = Arc<Mutex<Vec<u64>>>;

/// A range of keys that holds one state of one group. Holding it keeps its files.
pub(crate) struct Space {
    pub(crate) id: u64,
    /// To be deleted when the last holder lets go.
    doomed: AtomicBool,
    /// Where the search for cells that no group owns goes on; `None` where there can be none.
    litter: Mutex<Option<Vec<u8>>>,
    retired: Retired,
}

impl Space {
    fn new(id: u64, retired: Retired) -> Space {
        Space { id, doomed: AtomicBool::new(false), litter: Mutex::new(None), retired }
    }

    /// Sets whether its cells are deleted when the last holder lets go.
    pub(crate) fn doom(&self, doomed: bool) {
        self.doomed.store(doomed, Ordering::Release);
    }

    pub(crate) fn litter(&self) -> Option<Vec<u8>> {
        self.litter.lock().clone()
    }

    pub(crate) fn set_litter(&self, next: Option<Vec<u8>>) {
        *self.litter.lock() = next;
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if *self.doomed.get_mut() {
            self.retired.lock().push(self.id);
        }
    }
}

/// What a group's record says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: Arc<StoredMembership>,
}

impl Applied {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: StoredMembership::clone(&self.membership) }
    }
}

/// One group's state.
pub(crate) struct DataGroup {
    pub(crate) id: u64,
    /// Held while the record changes, and to read record and cells at one moment.
    pub(crate) commit: Mutex<()>,
    shown: RwLock<Shown>,
    /// A state machine is in use, or a fork makes the group.
    in_use: AtomicBool,
}

struct Shown {
    /// `None` when the replica was dropped.
    space: Option<Arc<Space>>,
    applied: Applied,
    /// Index up to which the state survives a crash, plus 1.
    durable_end: u64,
    /// There is a record on disk, or in a memtable.
    has_record: bool,
    /// Which cells of the space are the group's; `None` until a machine has said it.
    owner: Option<Owner>,
}

impl DataGroup {
    pub(crate) fn space(&self) -> Result<Arc<Space>, StoreError> {
        self.shown.read().space.clone().ok_or(StoreError::Dropped(self.id))
    }

    pub(crate) fn applied(&self) -> Applied {
        self.shown.read().applied.clone()
    }

    pub(crate) fn last_applied(&self) -> Option<LogId> {
        self.shown.read().applied.last
    }

    pub(crate) fn has_record(&self) -> bool {
        self.shown.read().has_record
    }

    /// Makes the caller the only one that may change the group; false if there is one already.
    pub(crate) fn claim(&self) -> bool {
        !self.in_use.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn release(&self) {
        self.in_use.store(false, Ordering::Release);
    }

    pub(crate) fn owner(&self) -> Option<Owner> {
        self.shown.read().owner.clone()
    }

    pub(crate) fn set_owner(&self, owner: Owner) {
        self.shown.write().owner = Some(owner);
    }

    /// Shows what a batch has written. `commit` is held.
    pub(crate) fn show(&self, applied: Applied, space: Option<Arc<Space>>) {
        let mut shown = self.shown.write();
        shown.applied = applied;
        shown.has_record = true;
        if space.is_some() {
            shown.space = space;
        }
    }

    fn is_durable(&self, index: u64) -> bool {
        index < self.shown.read().durable_end
    }
}

/// The data instance.
pub(crate) struct Data {
    pub(crate) db: Arc<DB>,
    groups: RwLock<BTreeMap<u64, Arc<DataGroup>>>,
    next_space: AtomicU64,
    retired: Retired,
    flushing: Mutex<()>,
    pub(crate) health: Arc<Health>,
    pub(crate) counters: DataCounters,
    /// Readers may outlive the store; the directory is in use as long as they are there.
    _lock: Option<Arc<File>>,
}

#[derive(Default)]
pub(crate) struct DataCounters {
    pub(crate) applies: AtomicU64,
    pub(crate) apply_bytes: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) installs: AtomicU64,
    pub(crate) forks: AtomicU64,
}

impl Data {
    /// Reads all records, and removes spaces that none of them names: what an unfinished install or
    /// deletion has left.
    pub(crate) fn open(
        db: Arc<DB>,
        health: Arc<Health>,
        lock: Option<Arc<File>>,
    ) -> Result<Data, StoreError> {
        let records = read_records(&db)?;
        let on_disk = read_spaces(&db)?;
        let named: BTreeSet<u64> = records.values().map(|(space, _)| *space).collect();
        let largest = on_disk.iter().chain(&named).max().copied();
        let retired = Retired::default();
        let mut spaces = BTreeMap::<u64, Arc<Space>>::new();
        let groups = records.into_iter().map(|(id, (space, applied))| {
            let make = || Arc::new(Space::new(space, retired.clone()));
            let space = spaces.entry(space).or_insert_with(make).clone();
            // What was known about it did not survive.
            space.set_litter(Some(Vec::new()));
            (id, Arc::new(make_group(id, space, applied, true)))
        });
        let data = Data {
            db,
            groups: RwLock::new(groups.collect()),
            next_space: AtomicU64::new(largest.map_or(0, |largest| largest + 1)),
            retired,
            flushing: Mutex::new(()),
            health,
            counters: DataCounters::default(),
            _lock: lock,
        };
        let orphans: Vec<u64> = on_disk.difference(&named).copied().collect();
        if !orphans.is_empty() {
            data.retired.lock().extend(orphans);
            data.sweep()?;
        }
        Ok(data)
    }

    pub(crate) fn new_space(&self) -> Space {
        Space::new(self.next_space.fetch_add(1, Ordering::Relaxed), self.retired.clone())
    }

    /// The state of a group; an empty one if there is none.
    pub(crate) fn group(&self, id: u64) -> Arc<DataGroup> {
        if let Some(group) = self.groups.read().get(&id) {
            return group.clone();
        }
        let mut groups = self.groups.write();
        let make = || Arc::new(make_group(id, Arc::new(self.new_space()), Applied::default(), false));
        groups.entry(id).or_insert_with(make).clone()
    }

    /// See [`crate::Store::durable_index`].
    pub(crate) fn durable_index(&self, id: u64) -> u64 {
        self.groups.read().get(&id).map_or(0, |group| group.shown.read().durable_end.saturating_sub(1))
    }

    /// Groups that have applied or installed anything.
    pub(crate) fn alive(&self) -> Vec<u64> {
        self.groups.read().values().filter(|group| group.has_record()).map(|group| group.id).collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<DataGroup>> {
        self.groups.read().values().cloned().collect()
    }

    /// The groups that have a space, in the order of their numbers.
    pub(crate) fn holders(&self, space: u64) -> Vec<Arc<DataGroup>> {
        let holds = |group: &&Arc<DataGroup>| group.space().is_ok_and(|held| held.id == space);
        self.groups.read().values().filter(holds).cloned().collect()
    }

    /// Writes one batch. The group's `commit` is held.
    pub(crate) fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.health.check()?;
        self.counters.applies.fetch_add(1, Ordering::Relaxed);
        self.counters.apply_bytes.fetch_add(batch.size_in_bytes() as u64, Ordering::Relaxed);
        self.health.guard(self.db.write_without_wal(batch).map_err(StoreError::engine("write the data")))
    }

    /// Makes everything applied so far durable. Blocks.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let _one = self.flushing.lock();
        self.health.check()?;
        // Taken before the flush begins: each was shown after its batch was in the memtable.
        let marks: Vec<_> = self
            .all()
            .into_iter()
            .filter_map(|group| group.last_applied().map(|last| (group, last.index)))
            .filter(|(group, index)| !group.is_durable(*index))
            .collect();
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.health.guard(self.db.flush().map_err(StoreError::engine("flush the data")))?;
        for (group, index) in marks {
            let mut shown = group.shown.write();
            shown.durable_end = shown.durable_end.max(index + 1);
        }
        self.sweep()
    }

    /// Returns when the group's state up to `index` survives a crash; an error if it is not applied.
    pub(crate) async fn make_durable(self: &Arc<Self>, id: u64, index: u64) -> Result<(), StoreError> {
        let group = self.group(id);
        if group.is_durable(index) {
            return Ok(());
        }
        if group.last_applied().is_none_or(|last| last.index < index) {
            return Err(StoreError::PurgeAhead { group: id, index });
        }
        let data = self.clone();
        blocking("flush the data", move || {
            // Another flush may have covered it meanwhile.
            if group.is_durable(index) { Ok(()) } else { data.flush() }
        })
        .await
    }

    /// Takes the files into `space`, makes it the group's state, and flushes. Blocks.
    pub(crate) fn install(
        &self,
        group: &DataGroup,
        files: Vec<PathBuf>,
        space: Arc<Space>,
        meta: &SnapshotMeta,
    ) -> Result<(), StoreError> {
        self.health.check()?;
        self.ingest(files)?;
        let old = {
            let _commit = group.commit.lock();
            let old = group.space()?;
            let applied =
                Applied { last: meta.last_log_id, membership: Arc::new(meta.last_membership.clone()) };
            let mut batch = WriteBatch::default();
            batch.put(DataKey::Record(group.id).encode(), encode_record(space.id, &applied));
            space.doom(false);
            self.write(batch)?;
            group.show(applied, Some(space));
            old
        };
        self.flush()?;
        old.doom(true);
        old.set_litter(Some(Vec::new()));
        drop(old);
        self.counters.installs.fetch_add(1, Ordering::Relaxed);
        self.sweep()
    }

    /// Moves files of fresh keys into the instance; they are durable on return.
    pub(crate) fn ingest(&self, files: Vec<PathBuf>) -> Result<(), StoreError> {
        if files.is_empty() {
            return Ok(());
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let result = self.db.ingest_external_file_opts(&options, files);
        self.health.guard(result.map_err(StoreError::engine("ingest a snapshot")))
    }

    /// Removes a group's state; durable on return. Old handles are refused. Blocks.
    pub(crate) fn drop_group(&self, id: u64) -> Result<(), StoreError> {
        self.health.check()?;
        let Some(group) = self.groups.write().remove(&id) else { return Ok(()) };
        let space = {
            let _commit = group.commit.lock();
            let mut batch = WriteBatch::default();
            batch.delete(DataKey::Record(id).encode());
            self.write(batch)?;
            group.shown.write().space.take()
        };
        // Deleting files is durable at once, the batch is not: so only after a flush.
        self.flush()?;
        if let Some(space) = space {
            space.doom(true);
            space.set_litter(Some(Vec::new()));
        }
        self.sweep()
    }

    /// Deletes the spaces that nobody holds any more. What is lost of it in a crash is done at open.
    fn sweep(&self) -> Result<(), StoreError> {
        let spaces = std::mem::take(&mut *self.retired.lock());
        for space in spaces {
            let from = DataKey::Cell(space, &[]).encode();
            let result = self.db.delete_file_in_range(&from, &space_file_end(space));
            self.health.guard(result.map_err(StoreError::engine("delete old files")))?;
            let mut batch = WriteBatch::default();
            batch.delete_range(from, DataKey::space_end(space));
            self.write(batch)?;
        }
        Ok(())
    }
}

fn make_group(id: u64, space: Arc<Space>, applied: Applied, has_record: bool) -> DataGroup {
    let durable_end = applied.last.as_ref().map_or(0, |last| last.index + 1);
    let shown = Shown { space: Some(space), applied, durable_end, has_record, owner: None };
    DataGroup { id, commit: Mutex::new(()), shown: RwLock::new(shown), in_use: AtomicBool::new(false) }
}

pub(crate) fn encode_record(space: u64, applied: &Applied) -> Vec<u8> {
    let mut record = space.to_be_bytes().to_vec();
    entry::encode_log_id_option(applied.last.as_ref(), &mut record);
    entry::encode_stored_membership(&applied.membership, &mut record);
    record
}

fn decode_record(mut bytes: &[u8]) -> Result<(u64, Applied), StoreError> {
    let what = "a group's record";
    let space = bytes.try_get_u64().map_err(|_| StoreError::Corrupt { what, reason: "it is cut short" })?;
    let last = entry::decode_log_id_option(&mut bytes)?;
    let membership = Arc::new(entry::decode_stored_membership(&mut bytes)?);
    entry::end(&bytes, what)?;
    Ok((space, Applied { last, membership }))
}

fn read_records(db: &DB) -> Result<BTreeMap<u64, (u64, Applied)>, StoreError> {
    let mut read = ReadOptions::default();
    read.set_iterate_upper_bound(DataKey::records_end());
    let mut iter = db.raw_iterator_opt(read);
    let mut records = BTreeMap::new();
    iter.seek(DataKey::Record(0).encode());
    while let Some((key, value)) = iter.item() {
        let Some(DataKey::Record(id)) = DataKey::decode(key) else {
            return Err(StoreError::Corrupt { what: "a data record", reason: "its key is unknown" });
        };
        records.insert(id, decode_record(value)?);
        iter.next();
    }
    iter.status().map_err(StoreError::engine("read the data"))?;
    Ok(records)
}

/// The spaces that have cells; one seek each.
fn read_spaces(db: &DB) -> Result<BTreeSet<u64>, StoreError> {
    let mut read = ReadOptions::default();
    read.set_iterate_upper_bound(DataKey::cells_end());
    let mut iter = db.raw_iterator_opt(read);
    let mut spaces = BTreeSet::new();
    iter.seek(DataKey::Cell(0, &[]).encode());
    while let Some(DataKey::Cell(space, _)) = iter.key().and_then(DataKey::decode) {
        spaces.insert(space);
        iter.seek(DataKey::space_end(space));
    }
    iter.status().map_err(StoreError::engine("read the data"))?;
    Ok(spaces)
}

/// Reads one cell.
pub(crate) fn get(db: &DB, space: u64, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
    let value =
        db.get_pinned(DataKey::Cell(space, key).encode()).map_err(StoreError::engine("read the data"))?;
    Ok(value.map(|value| Bytes::copy_from_slice(&value)))
}

/// Runs what blocks where it does not hold up other tasks.
pub(crate) async fn blocking<T: Send + 'static>(
    verb: &'static str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let lost = |error: tokio::task::JoinError| StoreError::Engine { verb, reason: error.to_string() };
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}
