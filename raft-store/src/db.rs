//! Opening a directory: the lock, the two RocksDB instances, the format version, the store's id.
//!
//! Layout: `LOCK`, `wal/` (the log's WAL), `log/` and `data/` (RocksDB, without WALs of its own), `snapshot/`
//! (files being received; emptied at open). The store's id is written to the lock file last when a store is made,
//! so a crash in between leaves something that is recognised as unfinished and is made anew.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{Cache, DB, Env, ReadOptions, WriteBatch};
use uuid::Uuid;

use crate::error::StoreError;
use crate::keys::{DataKey, LogKey};
use crate::log_files::LogFiles;
use crate::options::{self, Options};
use crate::wal::Remains;

/// The version of everything this crate writes. A directory of a newer version is not opened. In version 1 the
/// log had RocksDB's WAL, from which RocksDB recovers by itself.
pub const FORMAT: u8 = 2;

/// Held locked; its content is the id of a store that was made whole.
const LOCK_FILE: &str = "LOCK";

const FORMAT_RECORD: &str = "store.format";
const ID_RECORD: &str = "store.id";

/// The directory of an instance inside its own memory environment. Only its name is used, but it
/// must exist outside, too: the binding would create it there.
fn memory_dir() -> PathBuf {
    std::env::temp_dir().components().collect()
}

/// The opened directory.
pub(crate) struct Engines {
    pub(crate) id: Uuid,
    pub(crate) log: Arc<DB>,
    pub(crate) data: Arc<DB>,
    /// Those of the data instance, which also count its reads; files that it will ingest are written
    /// with them.
    pub(crate) data_options: Arc<rocksdb::Options>,
    pub(crate) cache: Cache,
    /// Where such files are written.
    pub(crate) snapshot_dir: PathBuf,
    pub(crate) in_memory: bool,
    /// Held as long as anything of the store is open.
    pub(crate) lock: Option<Arc<File>>,
}

impl Engines {
    /// Also what the log's writer writes to.
    pub(crate) fn open(options: &Options) -> Result<(Engines, LogFiles), StoreError> {
        let in_memory = options.dir.is_none();
        let dir = options.dir.clone().unwrap_or_else(memory_dir);
        let lock = if in_memory { None } else { Some(lock(&dir)?) };
        let (log_env, data_env) = if in_memory { (Some(memory()?), Some(memory()?)) } else { (None, None) };
        let part = |name| if in_memory { dir.clone() } else { dir.join(name) };
        let (log_dir, data_dir, snapshot_dir) = (part("log"), part("data"), dir.join("snapshot"));
        let had_log = !in_memory && log_dir.join("CURRENT").exists();
        let had_data = !in_memory && data_dir.join("CURRENT").exists();
        // The name in the lock file is written last when a store is made: a part that is missing
        // without it was never there, and with it has been lost, and acknowledged entries with it.
        let mut lock = lock;
        let mut name = String::new();
        if let Some(lock) = &mut lock {
            lock.read_to_string(&mut name).map_err(StoreError::file("read", &dir.join(LOCK_FILE)))?;
        }
        if let Some(part) = [("log", had_log), ("data", had_data)].iter().find(|(_, had)| !had)
            && !name.is_empty()
        {
            return Err(StoreError::Damaged { dir, what: format!("its part `{}` is missing", part.0) });
        }

        let cache = Cache::new_hyper_clock_cache(options.block_cache_bytes.max(options::CACHE_MIN_BYTES), 0);
        let log_options = options::log(options, log_env.as_ref(), &cache)?;
        let data_options = options::data(options, data_env.as_ref(), &cache)?;
        let log = DB::open(&log_options, &log_dir).map_err(StoreError::engine("open the log"))?;
        let format = check_format(&log, LogKey::Meta(FORMAT_RECORD).encode(), &dir)?;
        let data = DB::open(&data_options, &data_dir).map_err(StoreError::engine("open the data"))?;
        check_format(&data, DataKey::Meta(FORMAT_RECORD).encode(), &dir)?;
        if format.is_none() && !name.is_empty() {
            return Err(StoreError::Damaged { dir, what: "its part `log` is empty".to_owned() });
        }
        let id = identify(&log, &data, &dir)?;
        if !name.is_empty() && name.trim_end() != id.to_string() {
            return Err(StoreError::Damaged { dir, what: "its parts are of another store".to_owned() });
        }
        let log = Arc::new(log);
        let files = if in_memory {
            LogFiles::in_memory(log.clone())
        } else {
            let wal_dir = dir.join("wal");
            if format.is_none() && wal_dir.exists() {
                // The log was never made, or not to its end: nobody was promised anything.
                fs::remove_dir_all(&wal_dir).map_err(StoreError::file("empty", &wal_dir))?;
            }
            let remains = Remains::find(&wal_dir)?;
            if format == Some(FORMAT) && !name.is_empty() && remains.is_empty() {
                return Err(StoreError::Damaged { dir, what: "its part `wal` is missing".to_owned() });
            }
            LogFiles::recover(log.clone(), remains, options)?
        };
        if !in_memory {
            empty_dir(&snapshot_dir)?;
            // The entries `log`, `data` and `wal` of the directory itself.
            File::open(&dir).and_then(|file| file.sync_all()).map_err(StoreError::file("sync", &dir))?;
        }
        if format.is_some_and(|format| format < FORMAT) {
            raise_format(&data, DataKey::Meta(FORMAT_RECORD).encode())?;
            raise_format(&log, LogKey::Meta(FORMAT_RECORD).encode())?;
        }
        if let Some(lock) = &mut lock
            && name.is_empty()
        {
            let written = writeln!(lock, "{id}").and_then(|()| lock.sync_all());
            written.map_err(StoreError::file("write", &dir.join(LOCK_FILE)))?;
        }
        let engines = Engines {
            id,
            log,
            data: Arc::new(data),
            data_options: Arc::new(data_options),
            cache,
            snapshot_dir,
            in_memory,
            lock: lock.map(Arc::new),
        };
        Ok((engines, files))
    }
}

fn memory() -> Result<Env, StoreError> {
    Env::mem_env().map_err(StoreError::engine("use memory"))
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    fs::create_dir_all(dir).map_err(StoreError::file("create the directory", dir))?;
    let path = dir.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(StoreError::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(StoreError::file("lock", &path)(error)),
    }
}

fn holds_any(db: &DB, from: &[u8], to: Vec<u8>) -> Result<bool, StoreError> {
    let mut read = ReadOptions::default();
    read.set_iterate_upper_bound(to);
    let mut iter = db.raw_iterator_opt(read);
    iter.seek(from);
    iter.status().map_err(StoreError::engine("read the store"))?;
    Ok(iter.valid())
}

/// The version of an instance; `None` if it is not made yet.
fn check_format(db: &DB, key: Vec<u8>, dir: &Path) -> Result<Option<u8>, StoreError> {
    match db.get(key).map_err(StoreError::engine("read the format"))?.as_deref() {
        None => Ok(None),
        Some(&[found]) if found <= FORMAT => Ok(Some(found)),
        Some(&[found]) => Err(StoreError::NewerFormat { dir: dir.to_owned(), found, known: FORMAT }),
        Some(_) => {
            Err(StoreError::Damaged { dir: dir.to_owned(), what: "its format record is no number".into() })
        }
    }
}

/// From here on an older program refuses the directory: it would not look into the WAL.
fn raise_format(db: &DB, key: Vec<u8>) -> Result<(), StoreError> {
    let mut batch = WriteBatch::default();
    batch.put(key, [FORMAT]);
    write_to_file(db, batch).map_err(StoreError::engine("write the format"))
}

/// Durable on return.
fn write_to_file(db: &DB, batch: WriteBatch) -> Result<(), rocksdb::Error> {
    db.write_without_wal(batch)?;
    db.flush()
}

/// The id of the store; a new one if there was none.
fn identify(log: &DB, data: &DB, dir: &Path) -> Result<Uuid, StoreError> {
    let damaged = |what: &str| StoreError::Damaged { dir: dir.to_owned(), what: what.to_owned() };
    let read = StoreError::engine("read the store's id");
    let in_log = log.get(LogKey::Meta(ID_RECORD).encode()).map_err(read)?;
    let read = StoreError::engine("read the store's id");
    let in_data = data.get(DataKey::Meta(ID_RECORD).encode()).map_err(read)?;
    if let Some(bytes) = in_log {
        if in_data.as_ref() != Some(&bytes) {
            return Err(damaged("`log` and `data` are not of one store"));
        }
        return Uuid::from_slice(&bytes).map_err(|_| damaged("its id is not 16 bytes"));
    }
    if holds_any(log, &LogKey::Vote(0).encode(), LogKey::entries_end())?
        || holds_any(data, &DataKey::Record(0).encode(), DataKey::cells_end())?
    {
        return Err(damaged("it holds groups but no id"));
    }

    let id = Uuid::new_v4();
    let mut batch = WriteBatch::default();
    batch.put(DataKey::Meta(FORMAT_RECORD).encode(), [FORMAT]);
    batch.put(DataKey::Meta(ID_RECORD).encode(), id.as_bytes());
    write_to_file(data, batch).map_err(StoreError::engine("write the store's id"))?;
    let mut batch = WriteBatch::default();
    batch.put(LogKey::Meta(FORMAT_RECORD).encode(), [FORMAT]);
    batch.put(LogKey::Meta(ID_RECORD).encode(), id.as_bytes());
    write_to_file(log, batch).map_err(StoreError::engine("write the store's id"))?;
    Ok(id)
}

fn empty_dir(dir: &Path) -> Result<(), StoreError> {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(StoreError::file("empty", dir))?;
    }
    fs::create_dir(dir).map_err(StoreError::file("create", dir))
}
