//! Snapshots on their way: [`Source`] out of this store, [`Sink`] into it.
//!
//! A source is one RocksDB snapshot. Its meta is read at the same moment, under the group's commit
//! lock, so content and meta fit exactly; newer content under an older log id would apply commands
//! twice. Nothing is copied until a chunk is asked for, and any chunk can be asked for again.
//!
//! Why files are written by the receiver instead of being shipped: a cell's key on disk begins with
//! its space, a number that means something on one node only. (Were it the group's number, the new
//! state could not be made beside the old one, and a crash in between would leave neither.) So cells
//! travel with their group-local keys, and the sink writes them into SST files under a space of its
//! own. As they come sorted and go where no key is, RocksDB takes the files in whole, at the lowest
//! level, without a compaction.
//!
//! From there (`Data::install`): the files are taken in under the fresh space; one batch makes the
//! group's record point to it; a flush makes that durable; then the old space is deleted. A crash
//! before the flush leaves the old state, and a space that no record names, which is deleted when
//! the store is opened; a crash after it leaves the new state, and the old space to be deleted.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::SstFileWriter;
use uuid::Uuid;

use crate::chunk::{CHUNK_BYTES, Chunk, Position, put_cell};
use crate::data::{DataGroup, Space, blocking};
use crate::error::StoreError;
use crate::fork::{Owner, Run};
use crate::keys::DataKey;
use crate::read::View;
use crate::store::Inner;
use crate::types::SnapshotMeta;

/// Size at which a file that is being received is closed and the next begun, in bytes.
const FILE_BYTES: u64 = 64 << 20;

/// What openraft passes around as a snapshot.
#[derive(Debug)]
pub enum SnapshotData {
    /// Of this node, to be read.
    Source(Source),
    /// Received, to be installed.
    Staged(Staged),
}

/// A snapshot of this node's state, read when asked. Clones are the same snapshot.
#[derive(Clone)]
pub struct Source {
    id: u64,
    group: u64,
    meta: SnapshotMeta,
    view: View,
    owner: Owner,
}

impl Source {
    pub(crate) fn new(group: u64, meta: SnapshotMeta, view: View, owner: Owner) -> Source {
        Source { id: Uuid::new_v4().as_u64_pair().0, group, meta, view, owner }
    }

    /// Names the snapshot. A transfer can be resumed only from the source it began with.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The group.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// What the snapshot covers.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The state that it is of, and what shares its space.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The chunk at `position`: the start, or what a sink says. The last one is marked.
    pub async fn chunk(&self, position: Position) -> Result<Chunk, StoreError> {
        let source = self.clone();
        blocking("read a snapshot", move || source.read(&position)).await
    }

    fn read(&self, position: &Position) -> Result<Chunk, StoreError> {
        // The smallest key behind `after`.
        let mut from = position.after.as_ref().map_or_else(Vec::new, |after| [after.as_ref(), &[0]].concat());
        let mut body = Vec::new();
        'runs: loop {
            let mut run: Option<Run> = None;
            for cell in self.view.scan(&from, None) {
                let (key, value) = cell?;
                if let Some(owned) = &self.owner {
                    let is_over = |run: &Run| run.end.as_ref().is_some_and(|end| *end <= key);
                    if run.as_ref().is_none_or(is_over) {
                        run = Some(owned.run(&key));
                    }
                    match &run {
                        Some(Run { owned: false, end: Some(end) }) => {
                            from.clone_from(end);
                            continue 'runs;
                        }
                        Some(Run { owned: false, end: None }) => break 'runs,
                        _ => {}
                    }
                }
                put_cell(&key, &value, &mut body);
                if body.len() >= CHUNK_BYTES {
                    return Ok(Chunk::new(self.id, position.seq, false, body.into()));
                }
            }
            break;
        }
        Ok(Chunk::new(self.id, position.seq, true, body.into()))
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("group", &self.group).field("meta", &self.meta).finish_non_exhaustive()
    }
}

self_cell::self_cell! {
    /// An open file together with the options that it borrows.
    struct FileWriter {
        owner: Arc<rocksdb::Options>,
        #[covariant]
        dependent: SstFileWriter,
    }
}

/// Files of one snapshot under a space of their own, until they are installed or given up.
struct Files {
    store: Arc<Inner>,
    group: u64,
    /// `None` once it was handed on.
    space: Option<Space>,
    /// Finished files.
    paths: Vec<PathBuf>,
    open: Option<(FileWriter, PathBuf)>,
}

impl Files {
    fn new(store: Arc<Inner>, group: u64) -> Files {
        let space = Some(store.data.new_space());
        Files { store, group, space, paths: Vec::new(), open: None }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let Some(space) = &self.space else { return Err(StoreError::Closed) };
        let key = DataKey::Cell(space.id, key).encode();
        let (mut writer, path) = match self.open.take() {
            Some(open) => open,
            None => {
                let name = format!("{}-{}-{}.sst", self.group, space.id, self.paths.len());
                let path = self.store.engines.snapshot_dir.join(name);
                let options = self.store.engines.data_options.clone();
                let writer = FileWriter::try_new(options, |options| {
                    let writer = SstFileWriter::create(options);
                    writer.open(&path)?;
                    Ok(writer)
                });
                (writer.map_err(StoreError::engine("create a snapshot's file"))?, path)
            }
        };
        let written = writer.with_dependent_mut(|_, file| file.put(key, value));
        let full = writer.borrow_dependent().file_size() >= FILE_BYTES;
        self.open = Some((writer, path));
        written.map_err(StoreError::engine("write a snapshot's file"))?;
        if full { self.close() } else { Ok(()) }
    }

    /// Finishes and syncs the open file.
    fn close(&mut self) -> Result<(), StoreError> {
        if let Some((mut writer, path)) = self.open.take() {
            self.paths.push(path);
            let finished = writer.with_dependent_mut(|_, file| file.finish());
            finished.map_err(StoreError::engine("sync a snapshot's file"))?;
        }
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let Some(space) = self.space.take() else { return };
        let closed = self.close();
        if self.store.engines.in_memory {
            // The memory environment gives no way to delete a file, but RocksDB deletes its own.
            if closed.is_ok() && self.store.data.ingest(std::mem::take(&mut self.paths)).is_ok() {
                space.doom(true);
            }
            return;
        }
        for path in &self.paths {
            if let Err(error) = std::fs::remove_file(path) {
                // It is removed when the store is opened the next time.
                tracing::warn!(path = %path.display(), %error, "cannot remove a file of an unfinished snapshot");
            }
        }
    }
}

/// Receives one snapshot. Dropping it gives the snapshot up.
pub struct Sink {
    group: u64,
    meta: SnapshotMeta,
    /// Shared with the thread that writes, which may outlive a cancelled call.
    state: Arc<Mutex<SinkState>>,
}

struct SinkState {
    files: Files,
    /// Set by the first chunk.
    snapshot: Option<u64>,
    position: Position,
    complete: bool,
    /// A file could not be written: the transfer must start anew.
    failed: Option<StoreError>,
}

impl Sink {
    pub(crate) fn new(store: Arc<Inner>, group: u64, meta: SnapshotMeta) -> Sink {
        let files = Files::new(store, group);
        let position = Position::default();
        let state = SinkState { files, snapshot: None, position, complete: false, failed: None };
        Sink { group, meta, state: Arc::new(Mutex::new(state)) }
    }

    /// What the snapshot will cover.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Where the next chunk begins; to be told to the sender after a broken connection.
    pub fn position(&self) -> Position {
        self.state.lock().position.clone()
    }

    /// The last chunk is in.
    pub fn is_complete(&self) -> bool {
        self.state.lock().complete
    }

    /// Takes the next chunk. After an error for which [`StoreError::is_chunk_error`] holds the
    /// transfer may go on from [`Sink::position`]; after any other it is over.
    pub async fn push(&mut self, chunk: Chunk) -> Result<(), StoreError> {
        let state = self.state.clone();
        blocking("write a snapshot", move || state.lock().take(&chunk)).await
    }

    /// Makes the complete snapshot ready to be installed.
    pub async fn finish(self) -> Result<Staged, StoreError> {
        let Sink { group, meta, state } = self;
        blocking("finish a snapshot", move || {
            let mut state = state.lock();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if !state.complete {
                return Err(StoreError::SnapshotRefused { group, reason: "its last chunk is missing" });
            }
            state.files.close()?;
            let empty =
                Files { store: state.files.store.clone(), group, space: None, paths: Vec::new(), open: None };
            Ok(Staged { meta, files: std::mem::replace(&mut state.files, empty) })
        })
        .await
    }
}

impl SinkState {
    fn take(&mut self, chunk: &Chunk) -> Result<(), StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.complete || chunk.seq != self.position.seq {
            return Err(StoreError::SnapshotOrder { expected: self.position.seq, found: chunk.seq });
        }
        if self.snapshot.is_some_and(|snapshot| snapshot != chunk.snapshot) {
            return Err(StoreError::SnapshotChunk { seq: chunk.seq, reason: "it is of another snapshot" });
        }
        // All of it is verified before any of it is written.
        let cells = chunk.cells(self.position.after.as_ref())?;
        for (key, value) in &cells {
            if let Err(error) = self.files.put(key, value) {
                self.failed = Some(error.clone());
                return Err(error);
            }
        }
        self.snapshot = Some(chunk.snapshot);
        self.position.seq += 1;
        if let Some((key, _)) = cells.last() {
            // A copy: a slice would keep the whole chunk in memory.
            self.position.after = Some(Bytes::copy_from_slice(key));
        }
        self.complete = chunk.last;
        Ok(())
    }
}

/// A received snapshot, ready to be installed. Dropping it gives it up.
pub struct Staged {
    meta: SnapshotMeta,
    files: Files,
}

impl Staged {
    /// What the snapshot covers.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Makes it the group's state; durable on return. Blocks.
    pub(crate) fn install(mut self, group: &DataGroup, meta: &SnapshotMeta) -> Result<(), StoreError> {
        let refused = |reason| StoreError::SnapshotRefused { group: group.id, reason };
        if self.files.group != group.id {
            return Err(refused("it is of another group"));
        }
        if self.meta != *meta {
            return Err(refused("its content covers another log id than it is said to"));
        }
        let applied = group.last_applied().map(|last| last.index);
        if applied > meta.last_log_id.as_ref().map(|last| last.index) {
            return Err(refused("it is older than the state that it would replace"));
        }
        let store = self.files.store.clone();
        store.data.health.check()?;
        let paths = std::mem::take(&mut self.files.paths);
        let space = self.files.space.take().ok_or(StoreError::Closed)?;
        // Until the switch: should anything fail on the way, its cells are of no use.
        space.doom(true);
        store.data.install(group, paths, Arc::new(space), meta)
    }
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staged")
            .field("group", &self.files.group)
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}
