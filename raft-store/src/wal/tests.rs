//! A WAL on a real file system whose power is cut: what was synced comes back, and of the rest a beginning.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    Remains, Wal,
    files::{SEGMENT_BYTES, number_of},
    record::{Record, first_of},
};
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

fn open(dir: &Path, ahead: bool) -> Wal {
    let (remains, _, last) = recover(dir, 0).unwrap();
    remains.succeed(last, ahead).unwrap()
}

/// What is in the files, by number.
fn contents(dir: &Path) -> BTreeMap<u64, Vec<u8>> {
    let paths = fs::read_dir(dir.join("wal")).unwrap().map(|entry| entry.unwrap().path());
    let numbered = paths.filter_map(|path| Some((number_of(&path)?, path)));
    // The thread may be giving one another name.
    numbered.filter_map(|(number, path)| Some((number, fs::read(path).ok()?))).collect()
}

/// The file of a segment.
fn file(dir: &Path, number: u64) -> PathBuf {
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
    /// The power is cut; of what is not synced the sectors of this pattern are on the disk, and the file that was
    /// ready for the next segment may have its former name.
    Crash {
        sectors: u64,
        renamed: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0usize..3000, prop::bool::weighted(0.7)).prop_map(|(length, sync)| Step::Append { length, sync }),
        1 => (0..2 * SEGMENT_BYTES as usize).prop_map(|length| Step::Append { length, sync: true }),
        2 => (0.0..=1.0).prop_map(Step::Release),
        3 => any::<(u64, bool)>().prop_map(|(sectors, renamed)| Step::Crash { sectors, renamed }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_comes_back(ahead: bool, steps in prop::collection::vec(step(), 1..200)) {
        let dir = TempDir::new().unwrap();
        let mut wal = open(dir.path(), ahead);
        let (mut last, mut synced, mut applied) = (0, 0, 0);
        let mut batches = Batches::new();
        let mut writing = Writing::begin(dir.path(), &wal);
        for step in steps {
            match step {
                Step::Append { length, sync } => {
                    last += 1;
                    let batch = payload(last, length);
                    let before = writing.next(dir.path(), &wal, length);
                    if wal.append(last, &batch, sync).unwrap() {
                        synced = last - 1;
                        writing = Writing { number: wal.end().0, before, synced: 0 };
                    }
                    if sync {
                        (synced, writing.synced) = (last, wal.end().1);
                    }
                    batches.insert(last, batch);
                }
                Step::Release(part) => {
                    // Flushes have what was synced.
                    applied = applied.max((synced as f64 * part) as u64);
                    wal.release(applied).unwrap();
                }
                Step::Crash { sectors, renamed } => {
                    drop(wal);
                    writing.cut(dir.path(), sectors);
                    if !renamed {
                        take_back_name(dir.path(), writing.number + 1);
                    }
                    let (remains, found, reached) = recover(dir.path(), applied).unwrap();
                    prop_assert!(reached >= synced && reached <= last, "{reached} of {synced}..={last}");
                    for (number, batch) in &found {
                        prop_assert!(batches.get(number) == Some(batch), "batch {number}");
                    }
                    prop_assert_eq!(found.len() as u64, reached - applied);
                    // Replayed and flushed.
                    (last, synced, applied) = (reached, reached, reached);
                    batches.retain(|number, _| *number <= reached);
                    wal = remains.succeed(last, ahead).unwrap();
                    writing = Writing::begin(dir.path(), &wal);
                }
            }
        }
    }
}

/// The segment that is being written.
struct Writing {
    number: u64,
    /// What its file had in it before.
    before: Vec<u8>,
    synced: u64,
}

impl Writing {
    fn begin(dir: &Path, wal: &Wal) -> Writing {
        let number = wal.end().0;
        Writing { number, before: fs::read(file(dir, number)).unwrap(), synced: 0 }
    }

    /// What the file of the next segment has in it, if such a batch might begin one.
    fn next(&self, dir: &Path, wal: &Wal, length: usize) -> Vec<u8> {
        if wal.end().1 + (length as u64) < SEGMENT_BYTES - 100 {
            return Vec::new();
        }
        // The thread has renamed it already, or it will be the spare that was left last.
        let ready = self.number + 1;
        let spares = contents(dir);
        spares
            .get(&ready)
            .or_else(|| spares.range(..self.number).next_back().map(|(_, bytes)| bytes))
            .cloned()
            .unwrap_or_default()
    }

    /// Takes from it what may be lost: sectors that were not synced are as they were before, or were never written.
    fn cut(&self, dir: &Path, sectors: u64) {
        let path = file(dir, self.number);
        let mut bytes = fs::read(&path).unwrap();
        let synced = self.synced as usize;
        for start in (0..bytes.len()).step_by(512).filter(|start| start + 512 > synced) {
            if sectors >> (start / 512 % 64) & 1 == 0 {
                let (from, end) = (start.max(synced), (start + 512).min(bytes.len()));
                match self.before.get(from..end) {
                    Some(old) => bytes[from..end].copy_from_slice(old),
                    None => bytes[from..end].fill(0),
                }
            }
        }
        fs::write(path, bytes).unwrap();
    }
}

/// Gives a file in which no segment was begun the name that it had as that of another, if it was one.
fn take_back_name(dir: &Path, number: u64) {
    let ready = file(dir, number);
    let Ok(bytes) = fs::read(&ready) else { return };
    let Some(former) = bytes.get(8..16).map(|former| u64::from_le_bytes(former.try_into().unwrap())) else {
        return;
    };
    if former != number && first_of(&bytes, former).is_some() {
        assert!(!file(dir, former).exists());
        fs::rename(ready, file(dir, former)).unwrap();
    }
}

/// A WAL of ten synced batches of 1000 bytes; its file.
fn ten(dir: &Path) -> PathBuf {
    let mut wal = open(dir, false);
    for batch in 1..=10 {
        wal.append(batch, &payload(batch, 1000), true).unwrap();
    }
    file(dir, wal.end().0)
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
        flip(&ten(dir.path()), at);
        let error = recover(dir.path(), 0).err().unwrap();
        assert!(error.to_string().contains("cannot be read"), "byte {at}: {error}");
        // Unless RocksDB's files have all of it.
        assert_eq!(recover(dir.path(), 10).unwrap().2, 10);
    }
}

/// What clients write is in the files as it is, and stays there when they are written over.
#[test]
fn what_looks_like_a_record_is_none() {
    let dir = TempDir::new().unwrap();
    let mut wal = open(dir.path(), false);
    // Behind the page that the next segments write.
    let mut forged = vec![0; 8192 + 32 * 40];
    for (number, place) in (1..).zip(forged[8192..].chunks_mut(32)) {
        Record { batch: u64::MAX, synced: u64::MAX, payload: &[] }.write(number, place);
    }
    wal.append(1, &forged, true).unwrap();
    drop(wal);
    for last in 1..=40 {
        let (remains, _, found) = recover(dir.path(), last - 1).unwrap();
        assert_eq!(found, last);
        let mut wal = remains.succeed(last, false).unwrap();
        wal.append(last + 1, b"short", true).unwrap();
    }
}

#[test]
fn the_last_batch_may_be_torn() {
    let dir = TempDir::new().unwrap();
    flip(&ten(dir.path()), 32 + 9 * 1032 + 500);
    let (_, found, last) = recover(dir.path(), 0).unwrap();
    assert_eq!((found.len(), last), (9, 9));
}

#[test]
fn a_missing_segment_is_told() {
    let dir = TempDir::new().unwrap();
    let mut wal = open(dir.path(), false);
    let length = SEGMENT_BYTES as usize / 3;
    let first = wal.end().0;
    for batch in 1..=9 {
        wal.append(batch, &payload(batch, length), true).unwrap();
    }
    assert!(wal.end().0 >= first + 2);
    drop(wal);
    fs::remove_file(file(dir.path(), first + 1)).unwrap();
    let error = recover(dir.path(), 0).err().unwrap();
    assert!(error.to_string().contains("are missing"), "{error}");
    // What is in RocksDB's files is not.
    recover(dir.path(), 8).unwrap();
}

#[test]
fn files_are_written_over_once_they_are_released() {
    let dir = TempDir::new().unwrap();
    let mut wal = open(dir.path(), true);
    let first = wal.end().0;
    for batch in 1..=1000 {
        if wal.append(batch, &payload(batch, 10_000), true).unwrap() {
            wal.release(batch - 1).unwrap();
        }
        assert!(wal.bytes() < 3 * SEGMENT_BYTES);
    }
    assert!(wal.end().0 > first + 100, "many segments");
    drop(wal);
    let files = fs::read_dir(dir.path().join("wal")).unwrap().count();
    assert!(files <= 5, "{files} files");
    let (_, found, last) = recover(dir.path(), 990).unwrap();
    assert_eq!((found.len(), last), (10, 1000));
}

#[test]
fn a_batch_may_be_larger_than_a_file() {
    let dir = TempDir::new().unwrap();
    let mut wal = open(dir.path(), false);
    for (batch, length) in (1..).zip([10, 5 * SEGMENT_BYTES as usize, 10, SEGMENT_BYTES as usize]) {
        wal.append(batch, &payload(batch, length), true).unwrap();
    }
    drop(wal);
    assert_eq!(recover(dir.path(), 0).unwrap().2, 4);
    // And is not kept: the large files are gone when they are not needed.
    let (remains, _, last) = recover(dir.path(), 4).unwrap();
    drop(remains.succeed(last, false).unwrap());
    let lengths =
        fs::read_dir(dir.path().join("wal")).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    assert!(lengths.max().unwrap() <= 4 * SEGMENT_BYTES);
}
