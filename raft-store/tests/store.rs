//! What is durable when; refusing, failing and closing.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};
use raft_store::types::{Command, TypeConfig};
use raft_store::{GroupLog, Options, StateMachine, Store, StoreError};
use tempfile::TempDir;

use crate::common::{
    Do, Kv, append, append_later, apply, apply_from_log, cells, command, entry, indexes, log_id, open, put,
    small, vote,
};

mod common;

async fn applied(machine: &mut StateMachine<Kv>) -> Option<u64> {
    machine.applied_state().await.unwrap().0.map(|last| last.index)
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let id = store.id();
    store.set_meta("node", b"17").unwrap();
    for group in [3, 1 << 40] {
        let (mut log, mut machine) = (store.log(group), store.machine(group, Kv::default()).unwrap());
        log.save_vote(&vote(5, 2)).await.unwrap();
        append(&mut log, (1..=50).map(|n| put(4, n, &format!("k{n}"), "v")).collect()).await.unwrap();
        log.save_committed(Some(log_id(4, 40))).await.unwrap();
        apply_from_log(&mut machine, &mut log, 1, 40).await.unwrap();
        store.flush().unwrap();
        log.purge(log_id(4, 10)).await.unwrap();
    }
    store.shutdown().unwrap();
    store.shutdown().unwrap();
    assert!(matches!(store.set_meta("node", b"18"), Err(StoreError::Closed)));
    assert!(append(&mut store.log(3), vec![put(4, 51, "late", "v")]).await.is_err());
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.id(), id);
    assert_eq!(store.meta("node").unwrap().unwrap(), b"17");
    assert_eq!(store.meta("other").unwrap(), None);
    assert_eq!(store.groups(), [3, 1 << 40]);
    for group in store.groups() {
        let mut log = store.log(group);
        assert_eq!(log.read_vote().await.unwrap(), Some(vote(5, 2)));
        assert_eq!(log.read_committed().await.unwrap(), Some(log_id(4, 40)));
        assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(4, 10)));
        assert_eq!(indexes(&mut log).await, (11..=50).collect::<Vec<_>>());
        assert_eq!(store.log_size(group).entries, 40);
        let mut machine = store.machine(group, Kv::default()).unwrap();
        assert_eq!(machine.machine().loaded, 40);
        assert_eq!(applied(&mut machine).await, Some(40));
        apply_from_log(&mut machine, &mut log, 41, 50).await.unwrap();
        assert_eq!(cells(&store.reader(group)).len(), 50);
    }
}

#[tokio::test]
async fn a_directory_serves_one_store_at_a_time() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let error = Store::open(Options::at(dir.path())).err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }));
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    let reader = store.reader(1);
    drop(store);
    // A reader still has the files open.
    assert!(matches!(Store::open(Options::at(dir.path())), Err(StoreError::Locked { .. })));
    drop(reader);
    open(dir.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_share_syncs() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let before = store.stats();
    let (groups, rounds) = (32, 25);
    let tasks = (0..groups).map(|group| {
        let mut log = store.log(group);
        tokio::spawn(async move {
            for index in 1..=rounds {
                append(&mut log, vec![put(1, index, "k", "v")]).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let stats = store.stats();
    let (appends, syncs) =
        (stats.appends_total - before.appends_total, stats.syncs_total - before.syncs_total);
    assert_eq!(appends, groups * rounds);
    assert!(syncs * 2 < appends, "{syncs} syncs for {appends} appends");
    assert!(stats.batch_ops_max > 1);
    // Entries are acknowledged a moment before RocksDB has them, a record behind them only then.
    store.set_meta("name", b"value").unwrap();
    assert!(store.sync_pending_since().is_none());
}

#[tokio::test]
async fn a_callback_follows_a_sync() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut log = store.log(1);
    for index in 1..=10 {
        let before = store.stats().syncs_total;
        append(&mut log, vec![put(1, index, "k", "v")]).await.unwrap();
        assert_eq!(store.stats().syncs_total, before + 1);
        log.save_vote(&vote(index, 1)).await.unwrap();
        assert_eq!(store.stats().syncs_total, before + 2);
    }
    log.truncate_after(Some(log_id(1, 5))).await.unwrap();
    store.set_meta("name", b"value").unwrap();
    assert_eq!(store.stats().syncs_total, 22);
}

#[tokio::test]
async fn committed_pointers_and_purges_cause_no_sync() {
    let store = Store::open(small(Options::in_memory())).unwrap();
    let (mut log, mut machine) = (store.log(1), store.machine(1, Kv::default()).unwrap());
    append(&mut log, (1..=20).map(|n| put(1, n, "k", "v")).collect()).await.unwrap();
    apply_from_log(&mut machine, &mut log, 1, 20).await.unwrap();
    let before = store.stats();
    log.save_committed(Some(log_id(1, 20))).await.unwrap();
    log.purge(log_id(1, 15)).await.unwrap();
    assert_eq!(indexes(&mut log).await, [16, 17, 18, 19, 20]);
    // Written all the same, a little later.
    while store.stats().batches_total == before.batches_total {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.stats().syncs_total, before.syncs_total);
}

#[tokio::test]
async fn a_log_takes_no_hole() {
    let store = Store::open(small(Options::in_memory())).unwrap();
    let mut log = store.log(1);
    append(&mut log, vec![put(1, 4, "k", "v"), put(1, 5, "k", "v")]).await.unwrap();
    assert!(append(&mut log, vec![put(1, 7, "k", "v")]).await.is_err());
    assert!(append(&mut log, vec![put(1, 5, "k", "v")]).await.is_err());
    assert!(append(&mut log, vec![put(1, 6, "k", "v"), put(1, 8, "k", "v")]).await.is_err());
    append(&mut log, vec![]).await.unwrap();
    append(&mut log, vec![put(1, 6, "k", "v")]).await.unwrap();
    log.truncate_after(Some(log_id(1, 4))).await.unwrap();
    append(&mut log, vec![put(2, 5, "k", "w")]).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(2, 5)));
    assert_eq!(indexes(&mut log).await, [4, 5]);
}

/// The tail holds 64 KiB here; the rest is read from RocksDB, and both must fit together.
#[tokio::test]
async fn old_entries_are_read_from_disk() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut log = store.log(1);
    let value = "v".repeat(3000);
    for start in (1..=200).step_by(20) {
        append(&mut log, (start..start + 20).map(|n| put(1, n, &n.to_string(), &value)).collect())
            .await
            .unwrap();
    }
    assert!(store.stats().log_tail_bytes < 100 << 10);
    assert_eq!(store.log_size(1).entries, 200);
    assert!(store.log_size(1).bytes > 200 * 3000);
    for (from, to) in [(1, 201), (5, 10), (150, 201), (199, 300), (180, 190), (0, 2)] {
        let entries = log.try_get_log_entries(from..to).await.unwrap();
        let expected: Vec<_> =
            (from.max(1)..to.min(201)).map(|n| put(1, n, &n.to_string(), &value)).collect();
        assert_eq!(entries, expected);
    }
    // Bounded reads stop early, but never before the first entry.
    append(&mut log, vec![put(1, 201, "big", &"w".repeat(2 << 20)), put(1, 202, "k", "v")]).await.unwrap();
    assert_eq!(log.limited_get_log_entries(201, 203).await.unwrap().len(), 1);
    log.truncate_after(Some(log_id(1, 7))).await.unwrap();
    append(&mut log, vec![put(2, 8, "k", "new")]).await.unwrap();
    assert_eq!(log.try_get_log_entries(7..).await.unwrap()[1], put(2, 8, "k", "new"));
}

#[tokio::test]
async fn a_dropped_replica_leaves_only_its_vote() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let (mut log, mut machine) = (store.log(1), store.machine(1, Kv::default()).unwrap());
    log.save_vote(&vote(8, 3)).await.unwrap();
    append(&mut log, (1..=30).map(|n| put(7, n, &n.to_string(), "v")).collect()).await.unwrap();
    apply_from_log(&mut machine, &mut log, 1, 20).await.unwrap();
    let reader = store.reader(1);
    let view = reader.view().unwrap();
    store.drop_group(1).unwrap();
    store.drop_group(99).unwrap();

    assert!(store.groups().is_empty());
    // Old handles are refused; what was taken before can be read to its end.
    assert!(append(&mut log, vec![put(7, 31, "k", "v")]).await.is_err());
    assert!(log.save_vote(&vote(1, 1)).await.is_err());
    assert!(log.get_log_state().await.is_err());
    assert!(apply(&mut machine, vec![put(7, 21, "k", "v")]).await.is_err());
    assert!(matches!(reader.get(b"1"), Err(StoreError::Dropped(1))));
    assert_eq!(common::view_cells(&view).len(), 20);
    drop((log, machine, reader, view, store));

    let store = open(dir.path());
    assert!(store.groups().is_empty());
    let mut log = store.log(1);
    assert_eq!(log.read_vote().await.unwrap(), Some(vote(8, 3)));
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, None);
    assert_eq!(log.read_committed().await.unwrap(), None);
    let mut machine = store.machine(1, Kv::default()).unwrap();
    assert_eq!(applied(&mut machine).await, None);
    assert!(cells(&store.reader(1)).is_empty());
    // It comes to life again with the first write.
    log.save_vote(&vote(9, 1)).await.unwrap();
    append(&mut log, vec![put(9, 100, "k", "v")]).await.unwrap();
    assert_eq!(store.groups(), [1]);
    drop((log, machine, store));
    let store = open(dir.path());
    assert_eq!(store.groups(), [1]);
    assert_eq!(indexes(&mut store.log(1)).await, [100]);
}

#[tokio::test]
async fn one_state_machine_per_group() {
    let store = Store::open(small(Options::in_memory())).unwrap();
    let machine = store.machine(1, Kv::default()).unwrap();
    assert!(matches!(store.machine(1, Kv::default()), Err(StoreError::InUse(1))));
    drop(machine);
    store.machine(1, Kv::default()).unwrap();
}

#[tokio::test]
async fn a_failing_machine_stops_its_replica_only() {
    let store = Store::open(small(Options::in_memory())).unwrap();
    let (mut one, mut two) =
        (store.machine(1, Kv::default()).unwrap(), store.machine(2, Kv::default()).unwrap());
    apply(&mut one, vec![put(1, 1, "k", "v")]).await.unwrap();
    let error =
        apply(&mut one, vec![put(1, 2, "k", "w"), entry(1, 3, command(&[Do::Fail]))]).await.unwrap_err();
    assert!(error.to_string().contains("told to fail"), "{error}");
    assert_eq!(store.reader(1).get(b"k").unwrap().unwrap(), "v");
    assert_eq!(store.reader(1).applied(), Some(log_id(1, 1)));
    assert!(apply(&mut one, vec![entry(1, 2, Command("garbage".into()))]).await.is_err());
    assert!(apply(&mut one, vec![put(1, 1, "k", "again")]).await.is_err());
    apply(&mut two, vec![put(1, 1, "k", "v")]).await.unwrap();
    assert_eq!(two.machine().commits, 1);
    assert_eq!(*store.failed().borrow(), None);
}

#[tokio::test]
async fn a_large_apply_call_is_written_in_parts() {
    let store = Store::open(small(Options::in_memory())).unwrap();
    let mut machine = store.machine(1, Kv::default()).unwrap();
    let value = "v".repeat(3 << 20);
    apply(&mut machine, (1..=9).map(|n| put(1, n, &n.to_string(), &value)).collect()).await.unwrap();
    assert_eq!(machine.machine().commits, 3);
    assert_eq!(applied(&mut machine).await, Some(9));
    assert_eq!(cells(&store.reader(1)).len(), 9);
}

/// Either no table can be made of what is in memory, or the WAL cannot go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_is_the_last() {
    for part in ["log", "wal"] {
        no_write_follows_a_failed_one(part).await;
    }
}

/// The names of the next files are taken by directories, so that none can be made.
async fn no_write_follows_a_failed_one(part: &str) {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut failed = store.failed();
    let mut logs: Vec<GroupLog> = (0..4).map(|group| store.log(group)).collect();
    for log in &mut logs {
        append(log, vec![put(1, 1, "k", "v")]).await.unwrap();
    }
    block_new_files(&dir.path().join(part));
    // Fills memtables until one must be flushed, and the WAL goes on in the next file.
    let value = "v".repeat(256 << 10);
    let mut index = 1;
    let error = loop {
        index += 1;
        assert!(index < 500, "nobody noticed");
        let mut waits = Vec::new();
        let mut error = None;
        for log in &mut logs {
            match append_later(log, vec![put(1, index, "k", &value)]).await {
                Ok(wait) => waits.push(wait),
                Err(refused) => error = Some(refused),
            }
        }
        for wait in waits {
            // Every callback is called, with the truth.
            if let Err(failed) = wait.await.unwrap() {
                error = Some(failed);
            }
        }
        if let Some(error) = error {
            break error;
        }
    };
    failed.wait_for(Option::is_some).await.unwrap();
    let reason = failed.borrow().clone().unwrap();
    assert!(error.to_string().contains(&reason), "{error} / {reason}");
    for log in &mut logs {
        assert!(append(log, vec![put(1, index + 1, "k", "v")]).await.is_err());
        assert!(log.save_vote(&vote(9, 9)).await.is_err());
        assert!(log.save_committed(Some(log_id(1, 1))).await.is_err());
    }
    let mut machine = store.machine(0, Kv::default()).unwrap();
    assert!(apply(&mut machine, vec![put(1, 1, "k", "v")]).await.is_err());
    assert!(matches!(store.set_meta("a", b"b"), Err(StoreError::Poisoned(_))));
    assert!(matches!(store.flush(), Err(StoreError::Poisoned(_))));
    assert!(matches!(store.drop_group(1), Err(StoreError::Poisoned(_))));
    assert!(matches!(store.shutdown(), Err(StoreError::Poisoned(_))));
    assert!(store.stats().appends_total > 0);
}

/// The same for the data: what cannot be flushed ends the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_flush_is_the_last() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let (mut log, mut machine) = (store.log(1), store.machine(1, Kv::default()).unwrap());
    append(&mut log, vec![put(1, 1, "k", "v")]).await.unwrap();
    apply_from_log(&mut machine, &mut log, 1, 1).await.unwrap();
    block_new_files(&dir.path().join("data"));
    assert!(matches!(store.flush(), Err(StoreError::Poisoned(_))));
    assert!(store.failed().borrow().is_some());
    assert!(append(&mut log, vec![put(1, 2, "k", "v")]).await.is_err());
    assert!(log.purge(log_id(1, 1)).await.is_err());
}

/// Takes the names of the next files with directories. (Tests may run as root, whom permissions do
/// not stop.)
fn block_new_files(dir: &Path) {
    let numbers = fs::read_dir(dir).unwrap().filter_map(|file| {
        let name = file.unwrap().file_name().into_string().unwrap();
        name.split(['.', '-']).find_map(|part| part.parse::<u64>().ok())
    });
    let next = numbers.max().unwrap() + 1;
    for number in next..next + 200 {
        for name in [format!("{number:06}.log"), format!("{number:06}.sst"), format!("{number:020}.wal")] {
            fs::create_dir(dir.join(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn memory_mode_leaves_nothing_behind() {
    let store = Store::open(small(Options::in_memory())).unwrap();
    let (mut log, mut machine) = (store.log(1), store.machine(1, Kv::default()).unwrap());
    log.save_vote(&vote(1, 1)).await.unwrap();
    append(&mut log, vec![put(1, 1, "k", "v")]).await.unwrap();
    apply_from_log(&mut machine, &mut log, 1, 1).await.unwrap();
    store.flush().unwrap();
    log.purge(log_id(1, 1)).await.unwrap();
    assert_eq!(store.reader(1).get(b"k").unwrap().unwrap(), "v");
    let names: Vec<_> =
        fs::read_dir(std::env::temp_dir()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "CURRENT" || name == "LOCK" || name == "snapshot"), "{names:?}");
    let other = Store::open(small(Options::in_memory())).unwrap();
    assert_ne!(store.id(), other.id());
    assert!(other.groups().is_empty());
}

/// More than the queue may hold comes in later, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_wait_for_room() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let value = "v".repeat(3 << 20);
    let tasks = (0..6u64).map(|group| {
        let (mut log, value) = (store.log(group), value.clone());
        tokio::spawn(async move {
            for index in 1..=3 {
                append(&mut log, vec![put(1, index, "k", &value)]).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    // 4 MiB of room: never two entries of 3 MiB in one batch.
    assert_eq!(store.stats().batch_ops_max, 1);
    assert_eq!(store.stats().appends_total, 18);
}

#[allow(dead_code)]
fn handles_can_be_sent() {
    fn check<T: Send + Sync>() {}
    check::<Store>();
    check::<raft_store::Reader>();
    check::<raft_store::View>();
    check::<GroupLog>();
    check::<StateMachine<Kv>>();
    check::<raft_store::SnapshotData>();
    check::<raft_store::Sink>();
    fn storage<L: RaftLogStorage<TypeConfig>, M: RaftStateMachine<TypeConfig>>() {}
    storage::<GroupLog, StateMachine<Kv>>();
}
