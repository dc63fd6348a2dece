//! Snapshots: exact content, transfer with resume, damage, switching under readers, giving up.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use raft_store::{Chunk, Options, Sink, SnapshotData, Source, StateMachine, Store, StoreError};
use tempfile::TempDir;

use crate::common::{Do, Kv, Model, apply, cells, command, entry, open, put, small, view_cells};

mod common;

/// Cells of one key each, more than one chunk in all.
fn bulk(
    term: u64,
    index: u64,
    tag: u8,
    count: u32,
) -> Vec<openraft::alias::EntryOf<raft_store::types::TypeConfig>> {
    let steps = (0..count).map(|n| Do::Put(n.to_be_bytes().to_vec(), vec![tag; 1000]));
    let steps: Vec<Do> = steps.collect();
    let commands = steps.chunks(500).zip(index..);
    commands.map(|(steps, index)| entry(term, index, command(steps))).collect()
}

async fn source(machine: &mut StateMachine<Kv>) -> Source {
    match machine.get_current_snapshot().await.unwrap().unwrap().snapshot {
        SnapshotData::Source(source) => source,
        SnapshotData::Staged(_) => panic!("not a source"),
    }
}

async fn chunks(source: &Source) -> Vec<Chunk> {
    let other = Store::open(small(Options::in_memory())).unwrap();
    let mut sink = other.receive_snapshot(source.group(), source.meta().clone());
    let mut chunks = Vec::new();
    while !sink.is_complete() {
        let chunk = source.chunk(sink.position()).await.unwrap();
        sink.push(chunk.clone()).await.unwrap();
        chunks.push(chunk);
    }
    chunks
}

async fn install(machine: &mut StateMachine<Kv>, sink: Sink) -> std::io::Result<()> {
    let meta = sink.meta().clone();
    let staged = sink.finish().await?;
    machine.install_snapshot(&meta, SnapshotData::Staged(staged)).await
}

async fn transfer(from: &Source, to: &Store, group: u64) -> Sink {
    let mut sink = to.receive_snapshot(group, from.meta().clone());
    while !sink.is_complete() {
        sink.push(from.chunk(sink.position()).await.unwrap()).await.unwrap();
    }
    sink
}

async fn transferred(to: &Store) {
    let leader = Store::open(small(Options::in_memory())).unwrap();
    let mut machine = leader.machine(5, Kv::default()).unwrap();
    apply(&mut machine, bulk(1, 1, 1, 4000)).await.unwrap();
    apply(&mut machine, vec![put(2, 100, "", "empty key"), put(2, 101, "\u{10ffff}", "")]).await.unwrap();
    let expected = cells(&leader.reader(5));
    let source = source(&mut machine).await;
    // Later writes are not in it.
    apply(&mut machine, vec![entry(2, 102, command(&[Do::DeleteRange(vec![], None)]))]).await.unwrap();

    let mut follower = to.machine(5, Kv::default()).unwrap();
    apply(&mut follower, vec![put(1, 1, "old", "state")]).await.unwrap();
    let sink = transfer(&source, to, 5).await;
    assert!(sink.position().seq > 3);
    assert_eq!(to.reader(5).get(b"old").unwrap().unwrap(), "state");
    install(&mut follower, sink).await.unwrap();
    assert_eq!(cells(&to.reader(5)), expected);
    assert_eq!(follower.machine().loaded, expected.len());
    assert_eq!(follower.applied_state().await.unwrap().0, source.meta().last_log_id);
    assert_eq!(to.stats().installs_total, 1);
    apply(&mut follower, vec![put(2, 102, "next", "entry")]).await.unwrap();
    assert_eq!(cells(&to.reader(5)).len(), expected.len() + 1);
}

#[tokio::test]
async fn a_snapshot_is_transferred_in_memory() {
    let store = Store::open(small(Options::in_memory())).unwrap();
    transferred(&store).await;
}

#[tokio::test]
async fn a_snapshot_is_transferred_and_stays() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    transferred(&store).await;
    let expected = cells(&store.reader(5));
    assert_eq!(fs::read_dir(dir.path().join("snapshot")).unwrap().count(), 0);
    drop(store);
    let store = open(dir.path());
    assert_eq!(cells(&store.reader(5)), expected);
    assert_eq!(store.groups(), [5]);
    // A new space does not meet the one on disk.
    let mut other = store.machine(6, Kv::default()).unwrap();
    apply(&mut other, vec![put(1, 1, "k", "v")]).await.unwrap();
    assert_eq!(cells(&store.reader(5)), expected);
    assert_eq!(cells(&store.reader(6)).len(), 1);
}

#[tokio::test]
async fn any_chunk_can_be_had_again() {
    let leader = Store::open(small(Options::in_memory())).unwrap();
    let mut machine = leader.machine(5, Kv::default()).unwrap();
    apply(&mut machine, bulk(1, 1, 1, 5000)).await.unwrap();
    let source = source(&mut machine).await;
    let expected = chunks(&source).await;
    assert!(expected.len() > 3);

    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut sink = store.receive_snapshot(5, source.meta().clone());
    for chunk in &expected {
        // Whatever arrives, only the next chunk is taken.
        for other in &expected {
            if other.seq != chunk.seq {
                let error = sink.push(other.clone()).await.unwrap_err();
                assert!(matches!(error, StoreError::SnapshotOrder { expected, .. } if expected == chunk.seq));
                assert!(error.is_chunk_error());
            }
        }
        let position = sink.position();
        for damage in 0..4 {
            let mut damaged = chunk.clone();
            match damage {
                0 => damaged.body = flip(&chunk.body),
                1 => damaged.body = chunk.body.slice(..chunk.body.len() - 1),
                2 => damaged.last = !chunk.last,
                _ => damaged.snapshot += 1,
            }
            assert!(sink.push(damaged).await.unwrap_err().is_chunk_error());
        }
        assert_eq!(sink.position(), position);
        // Over the wire and back.
        let wire = [&chunk.header()[..], &chunk.body].concat();
        let decoded = Chunk::decode(wire.into()).unwrap();
        assert_eq!(decoded, *chunk);
        // Asked for again behind the last key, it is the same.
        assert_eq!(source.chunk(position).await.unwrap(), decoded);
        assert!(!sink.is_complete());
        sink.push(decoded).await.unwrap();
    }
    assert!(sink.is_complete());
    assert!(sink.push(expected[0].clone()).await.is_err());
    assert!(Chunk::decode(Bytes::from_static(b"short")).is_err());
    let mut follower = store.machine(5, Kv::default()).unwrap();
    install(&mut follower, sink).await.unwrap();
    assert_eq!(cells(&store.reader(5)), cells(&leader.reader(5)));
}

fn flip(body: &Bytes) -> Bytes {
    let mut body = body.to_vec();
    let middle = body.len() / 2;
    body[middle] ^= 1;
    body.into()
}

#[tokio::test]
async fn chunks_of_two_snapshots_do_not_mix() {
    let leader = Store::open(small(Options::in_memory())).unwrap();
    let mut machine = leader.machine(5, Kv::default()).unwrap();
    apply(&mut machine, bulk(1, 1, 1, 3000)).await.unwrap();
    let (a, b) = (source(&mut machine).await, source(&mut machine).await);
    assert_ne!(a.id(), b.id());
    let store = Store::open(small(Options::in_memory())).unwrap();
    let mut sink = store.receive_snapshot(5, a.meta().clone());
    sink.push(a.chunk(sink.position()).await.unwrap()).await.unwrap();
    assert!(sink.push(b.chunk(sink.position()).await.unwrap()).await.unwrap_err().is_chunk_error());
    sink.push(a.chunk(sink.position()).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let leader = Store::open(small(Options::in_memory())).unwrap();
    let mut machine = leader.machine(5, Kv::default()).unwrap();
    apply(&mut machine, bulk(1, 1, 1, 3000)).await.unwrap();
    let old = source(&mut machine).await;
    apply(&mut machine, vec![put(2, 50, "k", "v")]).await.unwrap();
    let new = source(&mut machine).await;

    let store = Store::open(small(Options::in_memory())).unwrap();
    let mut follower = store.machine(5, Kv::default()).unwrap();
    let mut other = store.machine(6, Kv::default()).unwrap();
    // Unfinished.
    let mut sink = store.receive_snapshot(5, old.meta().clone());
    sink.push(old.chunk(sink.position()).await.unwrap()).await.unwrap();
    assert!(install(&mut follower, sink).await.is_err());
    // Under another meta.
    let staged = transfer(&old, &store, 5).await.finish().await.unwrap();
    assert_eq!(staged.meta(), old.meta());
    let error = follower.install_snapshot(new.meta(), SnapshotData::Staged(staged)).await.unwrap_err();
    assert!(error.to_string().contains("another log id"), "{error}");
    // Of another group.
    let staged = transfer(&old, &store, 5).await.finish().await.unwrap();
    assert!(other.install_snapshot(old.meta(), SnapshotData::Staged(staged)).await.is_err());
    // Older than what is there.
    install(&mut follower, transfer(&new, &store, 5).await).await.unwrap();
    assert!(install(&mut follower, transfer(&old, &store, 5).await).await.is_err());
    assert_eq!(store.reader(5).get(b"k").unwrap().unwrap(), "v");
    assert!(cells(&store.reader(6)).is_empty());
    assert_eq!(*store.failed().borrow(), None);
    // The same again is no harm: openraft may do so at start.
    install(&mut follower, transfer(&new, &store, 5).await).await.unwrap();
    assert_eq!(cells(&store.reader(5)), cells(&leader.reader(5)));
}

#[tokio::test]
async fn a_snapshot_without_cells_empties_the_state() {
    let leader = Store::open(small(Options::in_memory())).unwrap();
    let mut machine = leader.machine(5, Kv::default()).unwrap();
    apply(&mut machine, vec![put(1, 1, "k", "v"), entry(1, 2, command(&[Do::Delete(b"k".to_vec())]))])
        .await
        .unwrap();
    let built = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let store = Store::open(small(Options::in_memory())).unwrap();
    let mut follower = store.machine(5, Kv::default()).unwrap();
    apply(&mut follower, vec![put(1, 1, "k", "v")]).await.unwrap();
    follower.install_snapshot(&built.meta, built.snapshot).await.unwrap();
    assert!(cells(&store.reader(5)).is_empty());
    assert_eq!(store.reader(5).applied(), built.meta.last_log_id);
}

#[tokio::test]
async fn a_snapshot_given_up_leaves_nothing() {
    let leader = Store::open(small(Options::in_memory())).unwrap();
    let mut machine = leader.machine(5, Kv::default()).unwrap();
    apply(&mut machine, bulk(1, 1, 1, 3000)).await.unwrap();
    let source = source(&mut machine).await;
    let dir = TempDir::new().unwrap();
    let files = || fs::read_dir(dir.path().join("snapshot")).unwrap().count();
    for store in [open(dir.path()), Store::open(small(Options::in_memory())).unwrap()] {
        let mut sink = store.receive_snapshot(5, source.meta().clone());
        sink.push(source.chunk(sink.position()).await.unwrap()).await.unwrap();
        drop(sink);
        assert_eq!(files(), 0);
        drop(transfer(&source, &store, 5).await.finish().await.unwrap());
        assert_eq!(files(), 0);
        store.flush().unwrap();
        let left_bytes = store.stats().data_file_bytes;
        assert!(left_bytes < 100 << 10, "{left_bytes}");
        assert!(store.groups().is_empty());
    }
    // Files of a process that was killed.
    fs::write(dir.path().join("snapshot/5-1-0.sst"), b"rest").unwrap();
    open(dir.path());
    assert_eq!(files(), 0);
}

/// Old files are deleted only when nobody reads them any more.
#[tokio::test]
async fn an_old_source_survives_an_install() {
    let leader = Store::open(small(Options::in_memory())).unwrap();
    let mut machine = leader.machine(5, Kv::default()).unwrap();
    apply(&mut machine, bulk(2, 20, 9, 4000)).await.unwrap();
    let newer = source(&mut machine).await;

    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut follower = store.machine(5, Kv::default()).unwrap();
    apply(&mut follower, bulk(1, 1, 1, 4000)).await.unwrap();
    // Below level 0, where deleting files would find them.
    let older = source(&mut follower).await;
    install(&mut follower, transfer(&older, &store, 5).await).await.unwrap();
    let older = source(&mut follower).await;
    let expected = view_cells(older.view());
    let with_both = {
        install(&mut follower, transfer(&newer, &store, 5).await).await.unwrap();
        store.flush().unwrap();
        store.stats().data_file_bytes
    };
    assert_eq!(view_cells(older.view()), expected);
    let again = Store::open(small(Options::in_memory())).unwrap();
    let mut third = again.machine(5, Kv::default()).unwrap();
    install(&mut third, transfer(&older, &again, 5).await).await.unwrap();
    assert_eq!(cells(&again.reader(5)), expected);
    drop(older);
    store.flush().unwrap();
    assert!(store.stats().data_file_bytes < with_both);
    assert_eq!(cells(&store.reader(5)), cells(&leader.reader(5)));
}

/// Readers see the state before or after a switch: all cells of one tag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_never_see_half_of_a_switch() {
    let leader = Store::open(small(Options::in_memory())).unwrap();
    let mut machine = leader.machine(5, Kv::default()).unwrap();
    let store = Store::open(small(Options::in_memory())).unwrap();
    let mut follower = store.machine(5, Kv::default()).unwrap();
    apply(&mut follower, bulk(1, 1, 0, 300)).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (reader, done) = (store.reader(5), done.clone());
            std::thread::spawn(move || {
                let mut newest = 0;
                let mut reads = 0u64;
                while !done.load(Ordering::Relaxed) {
                    let one = reader.get(&7u32.to_be_bytes()).unwrap().expect("a false absence")[0];
                    assert!(one >= newest, "read {newest}, then {one}");
                    let cells: Model = view_cells(&reader.view().unwrap());
                    let tag = cells.values().next().unwrap()[0];
                    assert!(cells.len() == 300 && cells.values().all(|value| value[0] == tag));
                    assert!(tag >= one);
                    newest = tag;
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for tag in 1..=30u8 {
        apply(&mut machine, bulk(1, 10 * u64::from(tag), tag, 300)).await.unwrap();
        let source = source(&mut machine).await;
        install(&mut follower, transfer(&source, &store, 5).await).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
}
