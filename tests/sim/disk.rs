//! The disk of a simulated node: a directory whose writes take simulated time, and what a crash leaves
//! of it.
//!
//! The store of a node is *stepped*: what it wants written waits in memory until this disk has had its
//! time, and is then written and synced at once. A crash between loses it. A crash makes a new
//! directory with what survives, and the node's next life opens that one; what the old store still does
//! while it is closed (RocksDB then flushes memtables) goes into a directory that nobody reads again.
//!
//! What survives of the two instances is their files; what was not flushed is lost. Of the WAL, before the log
//! instance, a prefix survives: all of it where only the process was killed, for the kernel has it; without power,
//! at least what was there at the last sync, and by chance some bytes more, which seldom end where a record ends.
//!
//! A disk that lies counts as synced only what was synced some time ago.

use std::{
    cmp::Ordering,
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
};

use raft_store::{Options, Store};
use rand::{RngExt, rngs::StdRng};

/// How a node's life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process is killed.
    Killed,
    /// The machine loses its power.
    Unpowered,
}

/// What a write and its sync take, ms: mostly, and now and then.
const USUAL_MS: std::ops::RangeInclusive<u64> = 0..=2;
const SELDOM_MS: std::ops::RangeInclusive<u64> = 3..=40;

/// How long writes that nobody waits for may wait for one with a sync, ms.
const LAZY_MS: u64 = 100;

/// Attempts to copy a directory in which RocksDB is just deleting files.
const COPY_ATTEMPTS: u32 = 200;

/// A place in the WAL: the number of a file, and bytes in it.
type Place = (u64, u64);

pub(crate) struct Disk {
    base: PathBuf,
    life: u32,
    rng: StdRng,
    /// When the write that is under way ends.
    busy_until: Option<u64>,
    /// Since when something waits that needs no sync.
    lazy_since: Option<u64>,
    /// How much longer each write takes, ms.
    pub(crate) slower_ms: u64,
    /// How long this disk says "synced" before it is.
    lies_ms: u64,
    /// Syncs of this life that were noted.
    syncs: u64,
    /// Where the WAL ended after each sync.
    synced: VecDeque<(u64, Place)>,
}

impl Disk {
    pub(crate) fn new(base: PathBuf, rng: StdRng, lies_ms: u64) -> Self {
        let (busy_until, lazy_since) = (None, None);
        let synced = VecDeque::new();
        Self { base, life: 0, rng, busy_until, lazy_since, slower_ms: 0, lies_ms, syncs: 0, synced }
    }

    fn dir(&self) -> PathBuf {
        self.base.join(format!("life-{}", self.life))
    }

    /// Opens the store as the last life has left it.
    pub(crate) fn open(&mut self, now: u64) -> Result<Store, String> {
        let options = Options {
            dir: Some(self.dir()),
            block_cache_bytes: 4 << 20,
            memtable_bytes: 4 << 20,
            log_memtable_bytes: 4 << 20,
            log_tail_bytes: 4 << 20,
            stepped: true,
            ..Options::default()
        };
        let store = Store::open(options).map_err(|error| format!("open the store: {error}"))?;
        (self.busy_until, self.lazy_since) = (None, None);
        self.synced.clear();
        self.syncs = store.pending().syncs;
        // An open is long past before anybody relies on it, even on a disk that lies.
        self.synced.push_back((now.saturating_sub(self.lies_ms), store.pending().wal_end));
        Ok(store)
    }

    /// Does what is to be done in this ms.
    pub(crate) fn work(&mut self, now: u64, store: &Store) {
        self.note(now, store);
        let waits = store.pending();
        self.lazy_since = (waits.lazy > 0).then(|| self.lazy_since.unwrap_or(now));
        if waits.urgent > 0 {
            let end = self.busy_until.unwrap_or_else(|| now + self.draw());
            if end > now {
                self.busy_until = Some(end);
                return;
            }
        } else if self.lazy_since.is_none_or(|since| now < since + LAZY_MS) {
            return;
        }
        (self.busy_until, self.lazy_since) = (None, None);
        // Mostly what has gathered, sometimes only a part of it: operations of one group need not
        // be durable together.
        let most = if self.rng.random_bool(0.1) { self.rng.random_range(1..=3) } else { usize::MAX };
        store.step(most);
        self.note(now, store);
    }

    fn draw(&mut self) -> u64 {
        let range = if self.rng.random_bool(0.03) { SELDOM_MS } else { USUAL_MS };
        self.rng.random_range(range) + self.slower_ms
    }

    /// Notes what is durable, where there was a sync since the last look.
    fn note(&mut self, now: u64, store: &Store) {
        if std::mem::replace(&mut self.syncs, store.pending().syncs) == self.syncs {
            return;
        }
        self.synced.push_back((now, store.pending().wal_end));
        while self.synced.get(1).is_some_and(|(at, _)| at + self.lies_ms <= now) {
            self.synced.pop_front();
        }
    }

    /// Makes the directory of the next life. The node's tasks are gone; its store is still open.
    pub(crate) fn crash(&mut self, now: u64, store: &Store, crash: Crash) -> io::Result<()> {
        self.note(now, store);
        while self.synced.get(1).is_some_and(|(at, _)| at + self.lies_ms <= now) {
            self.synced.pop_front();
        }
        let durable = self.synced.front().map_or((0, 0), |(_, place)| *place);
        let old = self.dir();
        self.life += 1;
        let new = self.dir();
        fs::create_dir_all(&new)?;
        fs::copy(old.join("LOCK"), new.join("LOCK"))?;
        for part in ["log", "data", "wal"] {
            copy(&old.join(part), &new.join(part))?;
        }
        if crash == Crash::Unpowered {
            let end = store.pending().wal_end;
            // A file is begun only when all before it are synced.
            let least = if self.lies_ms == 0 { durable.max((end.0, 0)) } else { durable };
            self.cut(&new.join("wal"), least)?;
        }
        Ok(())
    }

    /// Ends a WAL at some place, but behind `least`.
    fn cut(&mut self, wal: &Path, least: Place) -> io::Result<()> {
        for (name, length) in list(wal)? {
            let Some(number) = name.strip_suffix(".wal").and_then(|number| number.parse::<u64>().ok()) else {
                continue;
            };
            let kept = match number.cmp(&least.0) {
                Ordering::Less => continue,
                Ordering::Equal if self.rng.random_bool(0.5) => least.1.min(length),
                Ordering::Equal => self.rng.random_range(least.1.min(length)..=length),
                Ordering::Greater => 0,
            };
            fs::File::options().write(true).open(wal.join(&name))?.set_len(kept)?;
        }
        Ok(())
    }

    /// Removes the directories of earlier lives, whose stores are closed.
    pub(crate) fn forget_past(&self) {
        for life in 0..self.life {
            // What is left of it goes with all the rest at the end.
            let _ = fs::remove_dir_all(self.base.join(format!("life-{life}")));
        }
    }
}

/// The files of a directory with their lengths.
fn list(dir: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            files.push((name, entry.metadata()?.len()));
        }
    }
    files.sort();
    Ok(files)
}

/// Copies a directory. A compaction may be replacing files meanwhile: then it is done again, so that the copy is of one
/// moment.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut last = io::Error::other("it never stood still");
    for _ in 0..COPY_ATTEMPTS {
        fs::create_dir_all(to)?;
        match copy_once(from, to) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => last = error,
        }
        fs::remove_dir_all(to)?;
        std::thread::yield_now();
    }
    Err(last)
}

/// False where the files were not the same before and after.
fn copy_once(from: &Path, to: &Path) -> io::Result<bool> {
    let before = list(from)?;
    for (name, _) in &before {
        if name.ends_with(".sst") {
            // Never written again.
            fs::hard_link(from.join(name), to.join(name))?;
        } else {
            fs::copy(from.join(name), to.join(name))?;
        }
    }
    Ok(list(from)? == before)
}
