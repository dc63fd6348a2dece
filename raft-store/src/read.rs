//! Reading a group's state: [`Reader`] the newest, [`View`] one moment of it, [`Scan`] in key order.

use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DB, DBRawIteratorWithThreadMode, Range, ReadOptions, SnapshotWithThreadMode};

use crate::data::{self, Data, DataGroup, Space};
use crate::error::StoreError;
use crate::keys::{CELL_PREFIX_BYTES, DataKey};
use crate::types::LogId;

type RocksSnapshot<'a> = SnapshotWithThreadMode<'a, DB>;

self_cell::self_cell! {
    /// A RocksDB snapshot together with the instance that it borrows.
    struct OwnedSnapshot {
        owner: Arc<Data>,
        #[covariant]
        dependent: RocksSnapshot,
    }
}

/// Reads the newest applied state of a group, outside of `apply`. Clones are cheap.
#[derive(Clone)]
pub struct Reader {
    data: Arc<Data>,
    group: Arc<DataGroup>,
}

impl Reader {
    pub(crate) fn new(data: Arc<Data>, group: Arc<DataGroup>) -> Reader {
        Reader { data, group }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let space = self.group.space()?;
        data::get(&self.data.db, space.id, key)
    }

    /// One moment of the state, for reads that must fit together.
    pub fn view(&self) -> Result<View, StoreError> {
        // The space first: see "Spaces and readers" in `data.rs`.
        let space = self.group.space()?;
        Ok(View::new(self.data.clone(), space))
    }

    /// The last applied log id.
    pub fn applied(&self) -> Option<LogId> {
        self.group.last_applied()
    }

    /// About how many bytes the group's space takes on disk; what is only in memory is not counted,
    /// and what shares the space is ([`Reader::sizes_bytes`]).
    pub fn size_bytes(&self) -> Result<u64, StoreError> {
        let space = self.group.space()?;
        let (from, to) = (DataKey::Cell(space.id, &[]).encode(), DataKey::space_end(space.id));
        let sizes = self.data.db.get_approximate_sizes(&[Range::new(&from, &to)]);
        Ok(sizes.first().copied().unwrap_or(0))
    }

    /// The same of ranges of keys, each without its end.
    pub fn sizes_bytes(&self, ranges: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<u64>, StoreError> {
        let space = self.group.space()?;
        let encode = |key: &Vec<u8>| DataKey::Cell(space.id, key).encode();
        let keys: Vec<_> = ranges.iter().map(|(from, to)| (encode(from), encode(to))).collect();
        let ranges: Vec<_> = keys.iter().map(|(from, to)| Range::new(from, to)).collect();
        Ok(self.data.db.get_approximate_sizes(&ranges))
    }
}

/// A group's state at one moment. Holds back the deletion of old data: not to be kept for long.
#[derive(Clone)]
pub struct View {
    snapshot: Arc<OwnedSnapshot>,
    space: Arc<Space>,
}

impl View {
    pub(crate) fn new(data: Arc<Data>, space: Arc<Space>) -> View {
        View { snapshot: Arc::new(OwnedSnapshot::new(data, |data| data.db.snapshot())), space }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let key = DataKey::Cell(self.space.id, key).encode();
        let value =
            self.snapshot.borrow_dependent().get_pinned(key).map_err(StoreError::engine("read the data"))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// The cells from `from` on, up to but without `to` (`None`: to the end), in key order.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Scan<'_> {
        let mut iter =
            self.snapshot.borrow_dependent().raw_iterator_opt(scan_options(self.space.id, from, to));
        iter.seek_to_first();
        Scan { cells: iter, overlay: None, failed: false }
    }
}

/// Bounds of a scan within a space. An empty range where `to` is before `from`.
pub(crate) fn scan_options(space: u64, from: &[u8], to: Option<&[u8]>) -> ReadOptions {
    let mut read = ReadOptions::default();
    let lower = DataKey::Cell(space, from).encode();
    let upper = to.map_or_else(|| DataKey::space_end(space), |to| DataKey::Cell(space, to).encode());
    read.set_iterate_upper_bound(upper.max(lower.clone()));
    read.set_iterate_lower_bound(lower);
    read
}

/// Disjoint ranges of group-local keys, by start, that hide what is in the database. `None` is the
/// end of the group.
pub(crate) type Masks = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The writes of a transaction that a scan sees over the database.
pub(crate) struct Overlay<'a> {
    pub(crate) writes: Peekable<btree_map::Range<'a, Vec<u8>, Option<Bytes>>>,
    pub(crate) masks: &'a Masks,
    pub(crate) space: u64,
}

/// Cells in key order, as an iterator of key and value. Ends after an error.
pub struct Scan<'a> {
    cells: DBRawIteratorWithThreadMode<'a, DB>,
    overlay: Option<Overlay<'a>>,
    failed: bool,
}

impl<'a> Scan<'a> {
    pub(crate) fn over(cells: DBRawIteratorWithThreadMode<'a, DB>, overlay: Overlay<'a>) -> Scan<'a> {
        Scan { cells, overlay: Some(overlay), failed: false }
    }

    fn step(&mut self) -> Option<(Bytes, Bytes)> {
        let Some(overlay) = &mut self.overlay else {
            let (key, value) = self.cells.item()?;
            let cell = (Bytes::copy_from_slice(&key[CELL_PREFIX_BYTES..]), Bytes::copy_from_slice(value));
            self.cells.next();
            return Some(cell);
        };
        loop {
            let local = self.cells.key().map(|key| &key[CELL_PREFIX_BYTES..]);
            if let Some(key) = local
                && let Some(end) = mask_over(overlay.masks, key)
            {
                match end {
                    Some(end) => self.cells.seek(DataKey::Cell(overlay.space, end).encode()),
                    None => self.cells.seek(DataKey::space_end(overlay.space)),
                }
                continue;
            }
            let written = match (local, overlay.writes.peek()) {
                (None, None) => return None,
                (Some(key), Some((write, _))) if write.as_slice() <= key => write.as_slice() == key,
                (None, Some(_)) => false,
                (Some(key), _) => {
                    let value = self.cells.value().unwrap_or_default();
                    let cell = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                    self.cells.next();
                    return Some(cell);
                }
            };
            if written {
                self.cells.next();
            }
            if let Some((key, Some(value))) = overlay.writes.next() {
                return Some((Bytes::copy_from_slice(key), value.clone()));
            }
        }
    }
}

/// The end of the mask that hides `key`.
pub(crate) fn mask_over<'a>(masks: &'a Masks, key: &[u8]) -> Option<&'a Option<Vec<u8>>> {
    let below = (std::ops::Bound::Unbounded, std::ops::Bound::Included(key));
    let (_, end) = masks.range::<[u8], _>(below).next_back()?;
    end.as_deref().is_none_or(|end| key < end).then_some(end)
}

impl Iterator for Scan<'_> {
    type Item = Result<(Bytes, Bytes), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let cell = self.step();
        if let Err(error) = self.cells.status() {
            self.failed = true;
            return Some(Err(StoreError::engine("read the data")(error)));
        }
        cell.map(Ok)
    }
}
