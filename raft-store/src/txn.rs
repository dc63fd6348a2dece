//! The writes of one `apply` call: an overlay through which the commands of the call see the writes
//! before them, and in the end one RocksDB batch, in which every key is written once, in order.
//!
//! Only the group's state machine writes to its space, so what is under the overlay stands still.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use rocksdb::{DB, WriteBatch};

use crate::data;
use crate::error::StoreError;
use crate::fork::Birth;
use crate::keys::DataKey;
use crate::read::{Masks, Overlay, Scan, mask_over, scan_options};
use crate::store::Inner;

/// Cells that `delete_range` deletes one by one. More become one range tombstone, which costs every
/// later reader of its neighbourhood.
const POINT_DELETES_MAX: usize = 128;

/// What a write takes in a batch beside its key and value, in bytes, at most.
const WRITE_BYTES: usize = 32;

/// A group's state with the writes of the running `apply` call.
pub struct Txn<'a> {
    store: &'a Inner,
    db: &'a DB,
    space: u64,
    /// `None` is a deletion.
    writes: BTreeMap<Vec<u8>, Option<Bytes>>,
    /// What was deleted as ranges, before all of `writes`.
    masks: Masks,
    /// Of all keys and values that were written, also of those that were written over.
    bytes: usize,
    pub(crate) births: Vec<Birth>,
    /// A fork was asked for: the group may own less from now on.
    pub(crate) forks: bool,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(store: &'a Inner, space: u64) -> Txn<'a> {
        let db = &*store.data.db;
        let (writes, masks, births) = (BTreeMap::new(), Masks::new(), Vec::new());
        Txn { store, db, space, writes, masks, bytes: 0, births, forks: false }
    }

    /// Lets group `child` come into being with this command, as a second owner of this group's space
    /// (`fork.rs`): the machine writes what is the child's alone, and owns no longer what is the
    /// child's from now on. False where the child is here already and has another space, or was
    /// here before: then it gets its state from elsewhere, and only the latter is to be done.
    pub fn fork(&mut self, child: u64) -> bool {
        self.forks = true;
        // Claimed first: nobody opens the group between the looks at its log and at its state.
        let born = Birth::claim(&self.store.data, child).filter(|_| self.store.has_no_log(child));
        let is_born = born.is_some();
        self.births.extend(born);
        is_born
    }

    /// Size of the batch, in bytes, at most.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The writes, for the database.
    pub(crate) fn into_parts(self) -> (WriteBatch, Vec<Birth>) {
        let mut batch = WriteBatch::with_capacity_bytes(self.bytes);
        for (from, to) in &self.masks {
            let end = match to {
                Some(to) => DataKey::Cell(self.space, to).encode(),
                None => DataKey::space_end(self.space),
            };
            batch.delete_range(DataKey::Cell(self.space, from).encode(), end);
        }
        let mut key = DataKey::Cell(self.space, &[]).encode();
        let prefix = key.len();
        for (local, value) in &self.writes {
            key.truncate(prefix);
            key.extend_from_slice(local);
            match value {
                Some(value) => batch.put(&key, value),
                None => batch.delete(&key),
            }
        }
        (batch, self.births)
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(value) = self.writes.get(key) {
            return Ok(value.clone());
        }
        if mask_over(&self.masks, key).is_some() {
            return Ok(None);
        }
        data::get(self.db, self.space, key)
    }

    /// The cells from `from` on, up to but without `to` (`None`: to the end), in key order.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Scan<'_> {
        let mut cells = self.db.raw_iterator_opt(scan_options(self.space, from, to));
        cells.seek_to_first();
        // BTreeMap::range panics on a range that ends before its start.
        let to = to.map(|to| to.max(from));
        let bounds = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let writes = self.writes.range::<[u8], _>(bounds).peekable();
        Scan::over(cells, Overlay { writes, masks: &self.masks, space: self.space })
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.write(key.into(), Some(value.into()));
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.write(key.into(), None);
    }

    fn write(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        self.bytes += WRITE_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len);
        self.writes.insert(key, value);
    }

    /// Removes the keys from `from` on, up to but without `to` (`None`: to the end).
    pub fn delete_range(&mut self, from: &[u8], to: Option<&[u8]>) -> Result<(), StoreError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let mut few = Vec::new();
        for cell in self.scan(from, to).take(POINT_DELETES_MAX + 1) {
            few.push(cell?.0);
        }
        if few.len() <= POINT_DELETES_MAX {
            few.into_iter().for_each(|key| self.delete(key));
            return Ok(());
        }
        let bounds = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let hidden: Vec<Vec<u8>> = self.writes.range::<[u8], _>(bounds).map(|(key, _)| key.clone()).collect();
        for key in &hidden {
            self.writes.remove(key);
        }
        self.mask(from, to);
        Ok(())
    }

    /// Adds a range to the masks and joins those that it meets.
    fn mask(&mut self, from: &[u8], to: Option<&[u8]>) {
        let mut start = from.to_vec();
        let mut end = to.map(<[u8]>::to_vec);
        let touches = |end: &Option<Vec<u8>>, key: &[u8]| end.as_deref().is_none_or(|end| key <= end);
        // From the last mask that starts within the new range (or at its end) backwards.
        while let Some((other, other_end)) = match &end {
            Some(end) => self.masks.range::<Vec<u8>, _>(..=end).next_back(),
            None => self.masks.iter().next_back(),
        }
        .filter(|(_, other_end)| touches(other_end, &start))
        {
            let (other, other_end) = (other.clone(), other_end.clone());
            self.masks.remove(&other);
            start = start.min(other);
            end = match (end, other_end) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            };
        }
        self.masks.insert(start, end);
    }
}
