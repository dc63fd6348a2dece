//! Reading the log instance when the store is opened: which groups there are, and their bounds.
//!
//! A few seeks per group, none per entry. Also finishes what a crash cut short in the log: entries
//! below a purge point, and entries of dropped replicas.

use std::collections::BTreeMap;

use rocksdb::{DB, Range, ReadOptions, WriteBatch};

use crate::entry;
use crate::error::StoreError;
use crate::keys::{LogKey, TOMBSTONE_DONE};
use crate::log::Loaded;
use crate::log_files::LogFiles;
use crate::types::LogId;

/// The groups of the log, and those whose drop was cut short.
pub(crate) fn load(files: &mut LogFiles) -> Result<(BTreeMap<u64, Loaded>, Vec<u64>), StoreError> {
    let db = files.db();
    let mut groups = BTreeMap::<u64, Loaded>::new();
    let mut pending = Vec::new();
    let mut read = ReadOptions::default();
    read.set_iterate_upper_bound(LogKey::pointers_end());
    let mut iter = db.raw_iterator_opt(read);
    iter.seek(LogKey::Vote(0).encode());
    while let Some((key, mut value)) = iter.item() {
        match LogKey::decode(key) {
            Some(LogKey::Vote(id)) => {
                groups.entry(id).or_default().vote = Some(entry::decode_vote(&mut value)?)
            }
            Some(LogKey::Committed(id)) => {
                groups.entry(id).or_default().committed = Some(entry::decode_log_id(&mut value)?);
            }
            Some(LogKey::Purged(id)) => {
                groups.entry(id).or_default().purged = Some(entry::decode_log_id(&mut value)?);
            }
            Some(LogKey::Tombstone(id)) => {
                groups.entry(id).or_default().tombstone = true;
                if value != TOMBSTONE_DONE {
                    pending.push(id);
                }
            }
            _ => return Err(StoreError::Corrupt { what: "a log record", reason: "its key is unknown" }),
        }
        iter.next();
    }
    iter.status().map_err(StoreError::engine("read the log"))?;
    drop(iter);

    for id in groups_with_entries(db)? {
        groups.entry(id).or_default();
    }
    for id in &pending {
        delete_entries(files, *id, u64::MAX)?;
    }
    for (id, loaded) in &groups {
        if let Some(purged) = &loaded.purged {
            delete_entries(files, *id, purged.index)?;
        }
    }
    let db = files.db();
    for (id, loaded) in &mut groups {
        loaded.entries = bounds(db, *id)?;
        if let (Some(purged), Some((first, _))) = (&loaded.purged, &loaded.entries)
            && *first != purged.index + 1
        {
            return Err(StoreError::Corrupt {
                what: "a log",
                reason: "entries are missing behind its purge point",
            });
        }
        let (from, to) = (LogKey::Entry(*id, 0).encode(), LogKey::group_entries_end(*id));
        loaded.bytes = db.get_approximate_sizes(&[Range::new(&from, &to)]).first().copied().unwrap_or(0);
    }
    Ok((groups, pending))
}

fn entries<'a>(db: &'a DB, from: u64, group: u64) -> rocksdb::DBRawIteratorWithThreadMode<'a, DB> {
    let mut read = ReadOptions::default();
    read.set_iterate_lower_bound(LogKey::Entry(group, from).encode());
    read.set_iterate_upper_bound(LogKey::group_entries_end(group));
    db.raw_iterator_opt(read)
}

fn groups_with_entries(db: &DB) -> Result<Vec<u64>, StoreError> {
    let mut read = ReadOptions::default();
    read.set_iterate_upper_bound(LogKey::entries_end());
    let mut iter = db.raw_iterator_opt(read);
    let mut groups = Vec::new();
    iter.seek(LogKey::Entry(0, 0).encode());
    while let Some(LogKey::Entry(group, _)) = iter.key().and_then(LogKey::decode) {
        groups.push(group);
        iter.seek(LogKey::group_entries_end(group));
    }
    iter.status().map_err(StoreError::engine("read the log"))?;
    Ok(groups)
}

/// The first index and the last id of a group's entries.
fn bounds(db: &DB, group: u64) -> Result<Option<(u64, LogId)>, StoreError> {
    let mut iter = entries(db, 0, group);
    iter.seek_to_first();
    let first = iter.key().and_then(LogKey::decode);
    iter.status().map_err(StoreError::engine("read the log"))?;
    let Some(LogKey::Entry(_, first)) = first else { return Ok(None) };
    iter.seek_to_last();
    iter.status().map_err(StoreError::engine("read the log"))?;
    let last =
        iter.value().ok_or(StoreError::Corrupt { what: "a log", reason: "its last entry is missing" })?;
    Ok(Some((first, entry::decode_entry_log_id(last)?)))
}

/// Deletes the entries up to `upto`. Not synced, but in the WAL: whatever is written later, as that the replica lives
/// again, must not be there without it.
fn delete_entries(files: &mut LogFiles, group: u64, upto: u64) -> Result<(), StoreError> {
    let mut iter = entries(files.db(), 0, group);
    iter.seek_to_first();
    let first = iter.key().and_then(LogKey::decode);
    let has_any = matches!(first, Some(LogKey::Entry(_, first)) if first <= upto);
    iter.status().map_err(StoreError::engine("read the log"))?;
    drop(iter);
    if !has_any {
        return Ok(());
    }
    let end = match upto.checked_add(1) {
        Some(end) => LogKey::Entry(group, end).encode(),
        None => LogKey::group_entries_end(group),
    };
    let mut batch = WriteBatch::default();
    batch.delete_range(LogKey::Entry(group, 0).encode(), end);
    files.write(batch, false)
}
