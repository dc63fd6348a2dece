//! Opening a directory: what is refused, what is made anew, and formats.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use openraft::storage::RaftLogStorage;
use raft_store::{FORMAT, Options, Store, StoreError};
use tempfile::TempDir;

use crate::common::{Kv, append, apply, log_id, open, put, vote};

mod common;

#[tokio::test]
async fn a_newer_format_is_refused() {
    for part in ["log", "data"] {
        let dir = TempDir::new().unwrap();
        drop(open(dir.path()));
        let db = rocksdb::DB::open(&rocksdb::Options::default(), dir.path().join(part)).unwrap();
        db.put(b"\0store.format", [FORMAT + 1]).unwrap();
        drop(db);
        let error = Store::open(Options::at(dir.path())).err().unwrap();
        assert!(matches!(error, StoreError::NewerFormat { found, .. } if found == FORMAT + 1), "{error}");
        assert!(error.to_string().contains("newer program"), "{error}");
    }
}

#[tokio::test]
async fn parts_of_two_stores_are_refused() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for dir in [&a, &b] {
        let store = open(dir.path());
        let mut machine = store.machine(1, Kv::default()).unwrap();
        apply(&mut machine, vec![put(1, 1, "k", "v")]).await.unwrap();
    }
    fs::rename(a.path().join("data"), a.path().join("lost")).unwrap();
    assert!(matches!(Store::open(Options::at(a.path())), Err(StoreError::Damaged { .. })));
    fs::rename(b.path().join("data"), a.path().join("data")).unwrap();
    assert!(matches!(Store::open(Options::at(a.path())), Err(StoreError::Damaged { .. })));
    fs::remove_dir_all(a.path().join("log")).unwrap();
    assert!(matches!(Store::open(Options::at(a.path())), Err(StoreError::Damaged { .. })));
    fs::remove_dir_all(a.path().join("data")).unwrap();
    assert!(matches!(Store::open(Options::at(a.path())), Err(StoreError::Damaged { .. })));
    fs::remove_file(a.path().join("LOCK")).unwrap();
    assert!(open(a.path()).groups().is_empty());
}

/// A crash while a store is made leaves no directory that is refused for ever.
#[test]
fn an_unfinished_store_is_made_anew() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()));
    let log = rocksdb::DB::open(&rocksdb::Options::default(), dir.path().join("log")).unwrap();
    log.delete(b"\0store.id").unwrap();
    log.delete(b"\0store.format").unwrap();
    drop(log);
    fs::write(dir.path().join("LOCK"), "").unwrap();
    let id = open(dir.path()).id();
    assert_eq!(open(dir.path()).id(), id);
    let dir = TempDir::new().unwrap();
    drop(rocksdb::DB::open_default(dir.path().join("log")));
    open(dir.path());
}

#[test]
fn rocksdb_does_not_resume_by_itself() {
    let dir = TempDir::new().unwrap();
    let _store = open(dir.path());
    for part in ["log", "data"] {
        let options = newest(&dir.path().join(part), "OPTIONS-");
        assert!(options.contains("max_bgerror_resume_count=0\n"), "{part}: {options}");
    }
    let options = newest(&dir.path().join("log"), "OPTIONS-");
    assert!(options.contains("wal_recovery_mode=kTolerateCorruptedTailRecords\n"), "{options}");
}

/// Format 1 had RocksDB's own WAL.
#[tokio::test]
async fn a_store_of_format_1_is_opened_and_raised() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    append(&mut store.log(1), vec![put(1, 1, "k", "v")]).await.unwrap();
    let (id, height) = (store.id(), store.height());
    drop(store);
    // Moves what is in the WAL into files, and makes it a store without one, with a vote in RocksDB's WAL.
    drop(open(dir.path()));
    drop(open(dir.path()));
    fs::remove_dir_all(dir.path().join("wal")).unwrap();
    for part in ["log", "data"] {
        let db = rocksdb::DB::open(&rocksdb::Options::default(), dir.path().join(part)).unwrap();
        db.put(b"\0store.format", [1]).unwrap();
        if part == "log" {
            let mut vote = b"\x01".to_vec();
            vote.extend(7u64.to_be_bytes());
            db.put(vote, [3, 2, 0]).unwrap();
        }
    }
    let store = open(dir.path());
    assert_eq!(store.id(), id);
    assert!(store.opened_at() > height);
    assert_eq!(store.log(1).get_log_state().await.unwrap().last_log_id, Some(log_id(1, 1)));
    assert_eq!(store.vote(7), Some(vote(3, 2)));
    drop(store);
    let db = rocksdb::DB::open(&rocksdb::Options::default(), dir.path().join("log")).unwrap();
    assert_eq!(db.get(b"\0store.format").unwrap().unwrap(), [FORMAT]);
}

#[tokio::test]
async fn a_wal_that_is_missing_or_damaged_is_refused() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    for index in 1..=20 {
        append(&mut store.log(1), vec![put(1, index, "k", "v")]).await.unwrap();
    }
    drop(store);
    let wal = dir.path().join("wal");
    let files = fs::read_dir(&wal).unwrap().map(|file| file.unwrap().path());
    let segment = files.filter(|path| path.extension().is_some_and(|end| end == "wal")).min().unwrap();
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    damaged[500] ^= 1;
    fs::write(&segment, damaged).unwrap();
    let error = Store::open(Options::at(dir.path())).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("empty directory"), "{error}");
    fs::rename(&wal, dir.path().join("lost")).unwrap();
    for _ in 0..2 {
        assert!(matches!(Store::open(Options::at(dir.path())), Err(StoreError::Damaged { .. })));
    }
    // Nothing was lost by looking.
    fs::remove_dir_all(&wal).unwrap();
    fs::rename(dir.path().join("lost"), &wal).unwrap();
    fs::write(&segment, whole).unwrap();
    let store = open(dir.path());
    assert_eq!(store.log(1).get_log_state().await.unwrap().last_log_id, Some(log_id(1, 20)));
}

fn newest(dir: &Path, prefix: &str) -> String {
    let names = fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let name = names.filter(|name| name.starts_with(prefix)).max().unwrap();
    fs::read_to_string(dir.join(name)).unwrap()
}
