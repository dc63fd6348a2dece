//! A WAL on a real file system whose power is cut: what was synced comes back, and of the rest a beginning.

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{Remains, Wal, files::SEGMENT_BYTES};
use crate::error::StoreError;

/// By number.
type Batches = BTreeMap<u64, Vec<u8>>;

/// The payload of a batch, which tells its number.
fn payload(batch: u64, length: usize) -> Vec<u8> {
    let seed = batch.to_le_bytes();
    seed.iter().copied().cycle().take(length.max(seed.len())).collect()
}

/// Opens what is there, and gives the batches behind `applied`.
fn recover(dir: &Path, applied: u64) -> Result<(Remains, Batches, u64), StoreError> {
    let remains = Remains::find(&dir.join("wal"))?;
    let mut next = applied;
    let mut found = Batches::new();
    let last = remains.replay(applied, |batch| {
        next += 1;
        found.insert(next, batch.to_vec());
        Ok(())
    })?;
    assert_eq!(last, next);
    Ok((remains, found, last))
}

fn open(dir: &Path, applied: u64) -> (Wal, u64) {
    let (remains, _, last) = recover(dir, applied).unwrap();
    (remains.succeed(last, false).unwrap(), last)
}

/// The file of a segment.
fn file(dir: &Path, number: u64) -> std::path::PathBuf {
    dir.join("wal").join(format!("{number:020}.wal"))
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        length: usize,
        sync: bool,
    },
    /// RocksDB's files have everything up to this part of the batches.
    Release(f64),
    /// The power is cut; of what is not synced the sectors of this pattern are on the disk.
    Crash {
        sectors: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0usize..3000, prop::bool::weighted(0.7)).prop_map(|(length, sync)| Step::Append { length, sync }),
        1 => (0..2 * SEGMENT_BYTES as usize).prop_map(|length| Step::Append { length, sync: true }),
        2 => (0.0..=1.0).prop_map(Step::Release),
        3 => any::<u64>().prop_map(|sectors| Step::Crash { sectors }),
    ]
}

/// Takes from a segment what may be lost: sectors that were not synced are as they were before, or were never
/// written.
fn cut(path: &Path, before: &[u8], synced: u64, sectors: u64) {
    let mut bytes = fs::read(path).unwrap();
    let synced = synced as usize;
    for start in (0..bytes.len()).step_by(512).filter(|start| start + 512 > synced) {
        if sectors >> (start / 512 % 64) & 1 == 0 {
            let from = start.max(synced);
            let end = (start + 512).min(bytes.len());
            let (old, new) = (before.get(from..end), &mut bytes[from..end]);
            // In the sector in which the synced part ends, the rest is lost or there as a whole, as it is here.
            match old {
                Some(old) => new.copy_from_slice(old),
                None => new.fill(0),
            }
        }
    }
    fs::write(path, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_comes_back(steps in prop::collection::vec(step(), 1..200)) {
        let dir = TempDir::new().unwrap();
        let (mut wal, mut last) = open(dir.path(), 0);
        let (mut synced, mut applied) = (0, 0);
        let mut batches = Batches::new();
        // The current segment, what its file had in it before, and how far it is synced.
        let current = |wal: &Wal| (wal.end().0, fs::read(file(dir.path(), wal.end().0)).unwrap(), 0);
        let mut writing = current(&wal);
        for step in steps {
            match step {
                Step::Append { length, sync } => {
                    last += 1;
                    let batch = payload(last, length);
                    // What the next file has in it can be seen only before it is written.
                    let begun = wal.append(last, &batch, sync).unwrap();
                    if begun {
                        writing = (wal.end().0, Vec::new(), 0);
                        synced = last - 1;
                    }
                    if sync {
                        (synced, writing.2) = (last, wal.end().1);
                    }
                    batches.insert(last, batch);
                }
                Step::Release(part) => {
                    // Flushes have what was synced.
                    applied = applied.max((synced as f64 * part) as u64);
                    wal.release(applied).unwrap();
                }
                Step::Crash { sectors } => {
                    drop(wal);
                    let (number, before, end) = &writing;
                    cut(&file(dir.path(), *number), before, *end, sectors);
                    let (remains, found, reached) = recover(dir.path(), applied).unwrap();
                    prop_assert!(reached >= synced && reached <= last, "{reached} of {synced}..={last}");
                    for (number, batch) in &found {
                        prop_assert!(batches.get(number) == Some(batch), "batch {number}");
                    }
                    prop_assert_eq!(found.len() as u64, reached - applied);
                    // Replayed and flushed.
                    (last, synced, applied) = (reached, reached, reached);
                    batches.retain(|number, _| *number <= reached);
                    wal = remains.succeed(last, false).unwrap();
                    writing = current(&wal);
                }
            }
        }
    }
}

/// A WAL of ten synced batches of 1000 bytes.
fn ten(dir: &Path) {
    let (mut wal, _) = open(dir, 0);
    for batch in 1..=10 {
        wal.append(batch, &payload(batch, 1000), true).unwrap();
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_in_what_was_synced_is_told() {
    for at in [0, 20, 40, 60, 5000] {
        let dir = TempDir::new().unwrap();
        ten(dir.path());
        flip(&file(dir.path(), 1), at);
        let error = recover(dir.path(), 0).err().unwrap();
        assert!(error.to_string().contains("cannot be read"), "byte {at}: {error}");
        // Unless RocksDB's files have all of it.
        assert_eq!(recover(dir.path(), 10).unwrap().2, 10);
    }
}

#[test]
fn the_last_batch_may_be_torn() {
    let dir = TempDir::new().unwrap();
    ten(dir.path());
    flip(&file(dir.path(), 1), 32 + 9 * 1032 + 500);
    let (_, found, last) = recover(dir.path(), 0).unwrap();
    assert_eq!((found.len(), last), (9, 9));
}

#[test]
fn a_missing_segment_is_told() {
    let dir = TempDir::new().unwrap();
    let (mut wal, _) = open(dir.path(), 0);
    let length = SEGMENT_BYTES as usize / 3;
    for batch in 1..=9 {
        wal.append(batch, &payload(batch, length), true).unwrap();
    }
    assert!(wal.end().0 >= 3);
    drop(wal);
    fs::remove_file(file(dir.path(), 2)).unwrap();
    let error = recover(dir.path(), 0).err().unwrap();
    assert!(error.to_string().contains("are missing"), "{error}");
    // What is in RocksDB's files is not.
    recover(dir.path(), 8).unwrap();
}

#[test]
fn files_are_written_over_once_they_are_released() {
    let dir = TempDir::new().unwrap();
    let (remains, _, _) = recover(dir.path(), 0).unwrap();
    let mut wal = remains.succeed(0, true).unwrap();
    for batch in 1..=1000 {
        if wal.append(batch, &payload(batch, 10_000), true).unwrap() {
            wal.release(batch - 1).unwrap();
        }
        assert!(wal.bytes() < 3 * SEGMENT_BYTES);
    }
    assert!(wal.end().0 > 100, "many segments");
    drop(wal);
    let files = fs::read_dir(dir.path().join("wal")).unwrap().count();
    assert!(files <= 5, "{files} files");
    let (_, found, last) = recover(dir.path(), 990).unwrap();
    assert_eq!((found.len(), last), (10, 1000));
}

#[test]
fn a_batch_may_be_larger_than_a_file() {
    let dir = TempDir::new().unwrap();
    let (mut wal, _) = open(dir.path(), 0);
    for (batch, length) in (1..).zip([10, 5 * SEGMENT_BYTES as usize, 10, SEGMENT_BYTES as usize]) {
        wal.append(batch, &payload(batch, length), true).unwrap();
    }
    drop(wal);
    assert_eq!(recover(dir.path(), 0).unwrap().2, 4);
    // And is not kept: the large files are gone when they are not needed.
    drop(open(dir.path(), 4));
    let lengths =
        fs::read_dir(dir.path().join("wal")).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    assert!(lengths.max().unwrap() <= 4 * SEGMENT_BYTES);
}
