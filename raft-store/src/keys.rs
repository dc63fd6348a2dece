//! Every key of both RocksDB instances. No other file builds or takes apart a key.
//!
//! The first byte is the kind, with a number that is never reused. Numbers are big endian, so that
//! RocksDB's byte order is their order. The keys of one group's log, and of one space, are one
//! contiguous range each.

/// Keys of the *log* instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogKey<'a> {
    /// A node-level record: format, store id, and what the program keeps by name.
    Meta(&'a str),
    /// A group's vote. Outlives the replica: see [`crate::Store::drop_group`].
    Vote(u64),
    /// The last log id known to be committed.
    Committed(u64),
    /// The last log id that was purged.
    Purged(u64),
    /// The replica was dropped: [`TOMBSTONE_PENDING`] or [`TOMBSTONE_DONE`].
    Tombstone(u64),
    /// An entry, by group and index.
    Entry(u64, u64),
}

/// Value of a tombstone while log entries or data of the replica may still be there.
pub(crate) const TOMBSTONE_PENDING: &[u8] = &[0];
/// Value of a tombstone when only the vote is left.
pub(crate) const TOMBSTONE_DONE: &[u8] = &[1];

/// Bytes of an entry's key before its index.
pub(crate) const LOG_PREFIX_BYTES: usize = 9;

const LOG_META: u8 = 0;
const LOG_VOTE: u8 = 1;
const LOG_COMMITTED: u8 = 2;
const LOG_PURGED: u8 = 3;
const LOG_TOMBSTONE: u8 = 4;
const LOG_ENTRY: u8 = 16;

impl<'a> LogKey<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(17);
        match *self {
            LogKey::Meta(name) => {
                key.push(LOG_META);
                key.extend_from_slice(name.as_bytes());
            }
            LogKey::Vote(group) => put_group(&mut key, LOG_VOTE, group),
            LogKey::Committed(group) => put_group(&mut key, LOG_COMMITTED, group),
            LogKey::Purged(group) => put_group(&mut key, LOG_PURGED, group),
            LogKey::Tombstone(group) => put_group(&mut key, LOG_TOMBSTONE, group),
            LogKey::Entry(group, index) => {
                put_group(&mut key, LOG_ENTRY, group);
                key.extend_from_slice(&index.to_be_bytes());
            }
        }
        key
    }

    /// `None` if the bytes are no key of this format.
    pub(crate) fn decode(key: &'a [u8]) -> Option<LogKey<'a>> {
        let (&kind, rest) = key.split_first()?;
        match kind {
            LOG_META => Some(LogKey::Meta(std::str::from_utf8(rest).ok()?)),
            LOG_VOTE => Some(LogKey::Vote(number(rest)?)),
            LOG_COMMITTED => Some(LogKey::Committed(number(rest)?)),
            LOG_PURGED => Some(LogKey::Purged(number(rest)?)),
            LOG_TOMBSTONE => Some(LogKey::Tombstone(number(rest)?)),
            LOG_ENTRY => {
                let (group, index) = rest.split_at_checked(8)?;
                Some(LogKey::Entry(number(group)?, number(index)?))
            }
            _ => None,
        }
    }

    /// The smallest key behind all votes, committed pointers, purge points and tombstones.
    pub(crate) fn pointers_end() -> Vec<u8> {
        vec![LOG_TOMBSTONE + 1]
    }

    /// The smallest key behind all entries.
    pub(crate) fn entries_end() -> Vec<u8> {
        vec![LOG_ENTRY + 1]
    }

    /// The smallest key behind all entries of `group`.
    pub(crate) fn group_entries_end(group: u64) -> Vec<u8> {
        match group.checked_add(1) {
            Some(next) => LogKey::Entry(next, 0).encode(),
            None => LogKey::entries_end(),
        }
    }
}

/// Keys of the *data* instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DataKey<'a> {
    /// A node-level record: format and store id.
    Meta(&'a str),
    /// A group's record: its space, what is applied, its membership.
    Record(u64),
    /// A key of a group's state, in one of this node's spaces.
    Cell(u64, &'a [u8]),
}

const DATA_META: u8 = 0;
const DATA_RECORD: u8 = 1;
const DATA_CELL: u8 = 2;

/// Bytes of a cell's key before the group-local part.
pub(crate) const CELL_PREFIX_BYTES: usize = 9;

/// Length of the run of 0xff that ends [`space_file_end`], in bytes.
const FILE_END_BYTES: usize = 64;

impl<'a> DataKey<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match *self {
            DataKey::Meta(name) => {
                let mut key = vec![DATA_META];
                key.extend_from_slice(name.as_bytes());
                key
            }
            DataKey::Record(group) => {
                let mut key = Vec::with_capacity(CELL_PREFIX_BYTES);
                put_group(&mut key, DATA_RECORD, group);
                key
            }
            DataKey::Cell(space, local) => {
                let mut key = Vec::with_capacity(CELL_PREFIX_BYTES + local.len());
                put_group(&mut key, DATA_CELL, space);
                key.extend_from_slice(local);
                key
            }
        }
    }

    /// `None` if the bytes are no key of this format.
    pub(crate) fn decode(key: &'a [u8]) -> Option<DataKey<'a>> {
        let (&kind, rest) = key.split_first()?;
        match kind {
            DATA_META => Some(DataKey::Meta(std::str::from_utf8(rest).ok()?)),
            DATA_RECORD => Some(DataKey::Record(number(rest)?)),
            DATA_CELL => {
                let (space, local) = rest.split_at_checked(8)?;
                Some(DataKey::Cell(number(space)?, local))
            }
            _ => None,
        }
    }

    /// The smallest key behind all records.
    pub(crate) fn records_end() -> Vec<u8> {
        vec![DATA_RECORD + 1]
    }

    /// The smallest key behind all cells.
    pub(crate) fn cells_end() -> Vec<u8> {
        vec![DATA_CELL + 1]
    }

    /// The smallest key behind all cells of `space`.
    pub(crate) fn space_end(space: u64) -> Vec<u8> {
        match space.checked_add(1) {
            Some(next) => DataKey::Cell(next, &[]).encode(),
            None => DataKey::cells_end(),
        }
    }
}

/// A key of `space` that is behind nearly all of its cells and before every other space.
///
/// Deleting whole files takes an *inclusive* end. [`DataKey::space_end`] would be wrong there: it
/// equals the cell with the empty local key of the next space.
pub(crate) fn space_file_end(space: u64) -> Vec<u8> {
    DataKey::Cell(space, &[0xff; FILE_END_BYTES]).encode()
}

fn put_group(key: &mut Vec<u8>, kind: u8, group: u64) {
    key.push(kind);
    key.extend_from_slice(&group.to_be_bytes());
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log_key() -> impl Strategy<Value = (u8, u64, u64)> {
        (0u8..5, any::<u64>(), any::<u64>())
    }

    fn make((kind, group, index): (u8, u64, u64)) -> LogKey<'static> {
        match kind {
            0 => LogKey::Vote(group),
            1 => LogKey::Committed(group),
            2 => LogKey::Purged(group),
            3 => LogKey::Tombstone(group),
            _ => LogKey::Entry(group, index),
        }
    }

    proptest! {
        #[test]
        fn log_keys_keep_their_order(a in log_key(), b in log_key()) {
            let (a, b) = (make(a), make(b));
            prop_assert_eq!(a.cmp(&b), a.encode().cmp(&b.encode()));
            let bytes = a.encode();
            prop_assert_eq!(LogKey::decode(&bytes), Some(a));
        }

        #[test]
        fn cells_keep_their_order(s in 0u64..4, t in 0u64..4, k: Vec<u8>, l: Vec<u8>) {
            let (a, b) = (DataKey::Cell(s, &k), DataKey::Cell(t, &l));
            prop_assert_eq!(a.cmp(&b), a.encode().cmp(&b.encode()));
            let bytes = a.encode();
            prop_assert_eq!(DataKey::decode(&bytes), Some(a));
        }

        #[test]
        fn ends_are_behind_and_before(space: u64, group: u64, index: u64, local: Vec<u8>) {
            let cell = DataKey::Cell(space, &local).encode();
            prop_assert!(cell < DataKey::space_end(space));
            prop_assert!(space_file_end(space) < DataKey::space_end(space));
            prop_assert!(DataKey::Record(group).encode() < DataKey::records_end());
            prop_assert!(DataKey::records_end() <= cell);
            prop_assert!(LogKey::Entry(group, index).encode() < LogKey::group_entries_end(group));
            prop_assert!(LogKey::Tombstone(group).encode() < LogKey::pointers_end());
            prop_assert!(LogKey::pointers_end() < LogKey::Entry(0, 0).encode());
            if let Some(next) = group.checked_add(1) {
                prop_assert!(LogKey::group_entries_end(group) <= LogKey::Entry(next, 0).encode());
            }
        }

        #[test]
        fn foreign_bytes_are_no_keys(bytes: Vec<u8>) {
            if let Some(key) = LogKey::decode(&bytes) {
                prop_assert_eq!(key.encode(), bytes.clone());
            }
            if let Some(key) = DataKey::decode(&bytes) {
                prop_assert_eq!(key.encode(), bytes);
            }
        }
    }
}
