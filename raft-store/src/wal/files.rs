//! The files that segments are written to. A thread has the next one ready before it is needed: one that a segment
//! has left, or a new one filled with zeros.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::JoinHandle,
};

use parking_lot::Mutex;

use super::segment;
use crate::error::StoreError;

/// Bytes of a new file. A batch that is larger makes it grow.
pub(super) const SEGMENT_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 8 << 20 };

/// Files that no segment is in, kept for those to come.
const SPARES_MAX: usize = 8;

/// A larger file is not kept.
const SPARE_MAX_BYTES: u64 = 4 * SEGMENT_BYTES;

/// A new file, until it is filled.
const NEW: &str = "new";

/// The name of a segment's file.
fn name(number: u64) -> String {
    format!("{number:020}.wal")
}

/// The number in the name of a segment's file.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    let number = path.file_name()?.to_str()?.strip_suffix(".wal")?;
    number
        .parse()
        .ok()
        .filter(|&parsed| name(parsed) == path.file_name().unwrap_or_default().to_string_lossy())
}

pub(super) struct Ready {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Bytes that can be written before another file is begun.
    pub(super) room: u64,
}

pub(super) struct Files {
    maker: Arc<Maker>,
    /// Without one, a file is made when it is asked for.
    ahead: Option<Ahead>,
    next: u64,
}

/// The thread that makes the next file.
struct Ahead {
    ready: Receiver<Result<Ready, StoreError>>,
    thread: JoinHandle<()>,
}

struct Maker {
    dir: PathBuf,
    /// Whether new files are filled.
    fill: bool,
    /// Whether the file system takes writes past the page cache.
    direct: bool,
    spares: Mutex<Vec<PathBuf>>,
}

impl Files {
    /// Segments from number `next` on. `fill`: new files are filled before they are used.
    pub(super) fn new(dir: &Path, next: u64, fill: bool) -> Result<Self, StoreError> {
        let probe = dir.join(NEW);
        let direct = segment::is_direct(&probe).map_err(StoreError::file("write", &probe))?;
        let maker = Arc::new(Maker { dir: dir.to_owned(), fill, direct, spares: Mutex::default() });
        Ok(Self { maker, ahead: None, next })
    }

    /// From now on a thread makes files.
    pub(super) fn go_ahead(&mut self) -> Result<(), StoreError> {
        // Without room in it: the thread makes one file and waits until it is taken.
        let (sender, ready) = sync_channel(0);
        let (maker, next) = (self.maker.clone(), self.next);
        let thread = std::thread::Builder::new().name("wal-files".into()).spawn(move || {
            for number in next.. {
                if sender.send(maker.make(number, maker.fill)).is_err() {
                    return;
                }
            }
        });
        let thread = thread
            .map_err(|error| StoreError::Engine { verb: "start a thread", reason: error.to_string() })?;
        self.ahead = Some(Ahead { ready, thread });
        Ok(())
    }

    /// The file of the first segment, and at once: one that must be made is not filled.
    pub(super) fn first(&mut self) -> Result<Ready, StoreError> {
        let number = self.next;
        self.next += 1;
        self.maker.make(number, false)
    }

    /// The file of the next segment.
    pub(super) fn next(&mut self) -> Result<Ready, StoreError> {
        let number = self.next;
        self.next += 1;
        match self.ahead.as_ref().map(|ahead| ahead.ready.recv()) {
            Some(Ok(Ok(ready))) => Ok(ready),
            // What has failed ahead is tried again: the disk may have room by now.
            _ => self.maker.make(number, self.maker.fill),
        }
    }

    /// A file that may be written over.
    pub(super) fn give_back(&self, path: PathBuf) -> Result<(), StoreError> {
        let length = fs::metadata(&path).map_err(StoreError::file("look at", &path))?.len();
        // One that was not filled, or not to its end, is no better than none.
        let least = if self.maker.fill { SEGMENT_BYTES } else { 0 };
        let mut spares = self.maker.spares.lock();
        if spares.len() < SPARES_MAX && (least..=SPARE_MAX_BYTES).contains(&length) {
            spares.push(path);
            return Ok(());
        }
        drop(spares);
        fs::remove_file(&path).map_err(StoreError::file("remove", &path))
    }
}

impl Drop for Files {
    /// The directory is at rest then.
    fn drop(&mut self) {
        if let Some(Ahead { ready, thread }) = self.ahead.take() {
            drop(ready);
            // Should it have panicked, files were made without it.
            let _ = thread.join();
        }
    }
}

impl Maker {
    fn make(&self, number: u64, fill: bool) -> Result<Ready, StoreError> {
        let path = self.dir.join(name(number));
        let spare = self.spares.lock().pop();
        let from = match spare {
            Some(spare) => spare,
            None => self.new_file(fill)?,
        };
        fs::rename(&from, &path).map_err(StoreError::file("rename", &from))?;
        // It must be found by its name before anything that counts is in it.
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(StoreError::file("sync", &self.dir))?;
        let file = self.open(&path)?;
        let length = file.metadata().map_err(StoreError::file("look at", &path))?.len();
        Ok(Ready { number, path, file, room: length.max(SEGMENT_BYTES) })
    }

    fn new_file(&self, fill: bool) -> Result<PathBuf, StoreError> {
        let path = self.dir.join(NEW);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::file("remove", &path)(error));
            }
            _ => {}
        }
        let file = self.open(&path)?;
        if fill {
            segment::fill(&file, SEGMENT_BYTES).map_err(StoreError::file("write", &path))?;
        }
        Ok(path)
    }

    fn open(&self, path: &Path) -> Result<File, StoreError> {
        segment::open(path, self.direct).map_err(StoreError::file("open", path))
    }
}
